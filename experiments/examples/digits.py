"""A folder of images and a small vision transformer, with its owner's own loop: `python digits.py DIR`.

Knows nothing of camu_jax. Writes DIR/digits/train/CLASS/*.png and DIR/digits/test/CLASS/*.png, the digits that ship
with scikit-learn, and DIR/vit.safetensors, the weights of `vit.py:small`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from PIL import Image
from safetensors.flax import save_file
from sklearn.datasets import load_digits
from vit import small  # type: ignore[import-not-found]  # the file beside this one

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = [f"{number}-{word}" for number, word in enumerate(WORDS)]  # in the order of the labels


def main(where: Path) -> None:
    """Writes images and weights."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(images, digits.target)):
        folder = where / "digits" / ("test" if number % 5 == 4 else "train") / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    test = np.arange(len(images)) % 5 == 4
    x, y = (images[..., None] / 255).astype(np.float32), digits.target.astype(np.int32)

    net = small(10, (8, 8, 1))
    params = net.init(jax.random.key(0), jnp.asarray(x[:1]))["params"]
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, 30 * 45), weight_decay=0.01)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, images, labels):  # type: ignore[no-untyped-def]
        def loss(params):  # type: ignore[no-untyped-def]
            logits = net.apply({"params": params}, images)[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    random, rows = np.random.default_rng(0), np.flatnonzero(~test)
    for _ in range(30):
        for batch in np.array_split(random.permutation(rows), 45):
            params, state = step(params, state, x[batch], y[batch])
    right = np.argmax(net.apply({"params": params}, x[test])[0], -1) == y[test]
    print(f"test accuracy {100 * right.mean():.2f}%")
    save_file(traverse_util.flatten_dict(params, sep="."), where / "vit.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
