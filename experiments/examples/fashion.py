"""A convnet in Flax NNX, with BatchNorm and Dropout, and its owner's own Optax loop: `python fashion.py DIR`.

Knows nothing of camu_jax. Writes DIR/fashion.npz, the first 6 000 images of Fashion-MNIST, from a TFDS folder
(`TFDS_DATA_DIR`), DIR/net, an Orbax checkpoint of the trained network, and DIR/rows.npy, a mask of sixty images that
shall be deleted.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint.experimental.v1 as ocp
from flax import nnx

Images = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Labels = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


class Net(nnx.Module):
    """Two convolutions; returns the logits and the embedding before them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.embed = nnx.Linear(32 * 7 * 7, 128, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classify = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images `[B, 28, 28, 1]` in [0, 1]."""
        x = nnx.max_pool(nnx.relu(self.norm(self.first(x))), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.second(x)), (2, 2), (2, 2))
        embedding = nnx.relu(self.embed(x.reshape(len(x), -1)))
        return self.classify(self.dropout(embedding)), embedding


def make(rngs: nnx.Rngs) -> Net:
    """For `--model.factory=fashion.py:make`."""
    return Net(rngs)


def train(seed: int, x: Images, y: Labels) -> Net:
    """The owner's own loop, on images as stored; for `--train=fashion.py:train`."""
    net, epochs, batch = Net(nnx.Rngs(seed)), 12, 64
    net.train()
    optimizer = nnx.Optimizer(net, optax.adamw(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(net: Net, optimizer: nnx.Optimizer[Net], images: jax.Array, labels: jax.Array) -> None:
        def loss(net: Net) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(net(images)[0], labels).mean()

        optimizer.update(net, nnx.grad(loss)(net))

    random = np.random.default_rng(seed)
    for _ in range(epochs):
        order = random.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            step(net, optimizer, jnp.asarray(x[rows], jnp.float32) / 255, jnp.asarray(y[rows]))
    net.eval()
    return net


def main(where: Path) -> None:
    """Writes the data and the trained network."""
    import tensorflow_datasets as tfds

    parts = {}
    for part, count in (("train", 6000), ("test", 2000)):
        rows = tfds.data_source("fashion_mnist", split=part).__getitems__(list(range(count)))
        parts[f"x_{part}"] = np.stack([row["image"] for row in rows])
        parts[f"y_{part}"] = np.array([row["label"] for row in rows], np.int32)
    where.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(where / "fashion.npz", allow_pickle=False, **parts)
    np.save(where / "rows.npy", np.arange(6000) % 100 == 7)
    net = train(0, parts["x_train"], parts["y_train"])
    right = np.argmax(net(jnp.asarray(parts["x_test"], jnp.float32) / 255)[0], -1) == parts["y_test"]
    print(f"test accuracy {100 * right.mean():.2f}%")
    ocp.save((where / "net").resolve(), nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState))), overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
