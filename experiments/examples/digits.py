"""A folder of images and a small vision transformer, with its owner's own loop: `python digits.py DIR`.

Knows nothing of camu_jax. Writes DIR/digits/train/CLASS/*.png and DIR/digits/test/CLASS/*.png, the digits that ship
with scikit-learn, DIR/vit.safetensors, the weights of `vit.py:small`, and DIR/requests.csv, the names of thirty files
that shall be deleted.
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

Images = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Labels = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
Params = dict[str, jax.Array]
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = [f"{number}-{word}" for number, word in enumerate(WORDS)]  # in the order of the labels


def train(seed: int, x: Images, y: Labels) -> Params:
    """The owner's own loop, on images as stored; for `--train=digits.py:train`."""
    net = small(10, (8, 8, 1))
    x = (x / 255).astype(np.float32)
    params = net.init(jax.random.key(seed), jnp.asarray(x[:1]))["params"]
    batches, epochs = len(x) // 32, 30
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, epochs * batches), weight_decay=0.01)
    state = optimizer.init(params)

    @jax.jit
    def step(
        params: Params, state: optax.OptState, rows: jax.Array, labels: jax.Array
    ) -> tuple[Params, optax.OptState]:
        def loss(params: Params) -> jax.Array:
            logits = net.apply({"params": params}, rows)[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    random = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(random.permutation(len(x)), batches):
            params, state = step(params, state, x[rows], y[rows])
    return params


def main(where: Path) -> None:
    """Writes images and weights."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(images, digits.target)):
        folder = where / "digits" / ("test" if number % 5 == 4 else "train") / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    names = [f"{NAMES[digits.target[number]]}/{number:04d}.png" for number in range(0, 1500, 50)]
    (where / "requests.csv").write_text("file\n" + "\n".join(names) + "\n")
    test = np.arange(len(images)) % 5 == 4
    x, y = images[..., None], digits.target.astype(np.int32)
    params = train(0, x[~test], y[~test])
    logits = small(10, (8, 8, 1)).apply({"params": params}, (x[test] / 255).astype(np.float32))[0]
    right = np.argmax(logits, -1) == y[test]
    print(f"test accuracy {100 * right.mean():.2f}%")
    save_file(traverse_util.flatten_dict(params, sep="."), where / "vit.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
