"""A small Linen network on a table, and its owner's own loop: `python cancer.py DIR`.

Knows nothing of camu_jax. Writes DIR/cancer.npz, the breast cancer table that ships with scikit-learn with an id for
each patient, DIR/net.npz, the weights, and DIR/requests.csv, the patients who want their rows deleted: four are like
others, and of five the nearest neighbours have the other diagnosis, so that a network has to learn them by heart.
"""

import sys
from pathlib import Path
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from sklearn.datasets import load_breast_cancer
from sklearn.neighbors import NearestNeighbors

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Params = dict[str, dict[str, dict[str, jax.Array]]]


class Net(nn.Module):
    """Three layers; returns the logits and the embedding before them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Rows of a table, `[B, 30]`."""
        embedding = nn.relu(nn.Dense(64)(nn.relu(nn.Dense(64)(x))))
        return nn.Dense(2)(embedding), embedding


def make() -> Net:
    """For `--model.factory=cancer.py:make`."""
    return Net()


def train(seed: int, x: Numbers, y: Numbers) -> Params:
    """The owner's own loop; for `--train=cancer.py:train`."""
    net, optimizer = Net(), optax.adam(1e-3)
    params = cast(Params, net.init(jax.random.key(seed), jnp.asarray(x[:1])))
    state = optimizer.init(params)

    @jax.jit
    def step(
        params: Params, state: optax.OptState, rows: jax.Array, labels: jax.Array
    ) -> tuple[Params, optax.OptState]:
        def loss(params: Params) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(net.apply(params, rows)[0], labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    random = np.random.default_rng(seed)
    for _ in range(100):
        for rows in np.array_split(random.permutation(len(x)), len(x) // 32):
            params, state = step(params, state, x[rows], y[rows])
    return params


def main(where: Path) -> None:
    """Writes table, weights and request."""
    table = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(table.target))
    x = ((table.data - table.data.mean(0)) / table.data.std(0)).astype(np.float32)[order]
    y = table.target.astype(np.int32)[order]
    ids = np.array([f"patient-{i:03d}" for i in order])
    where.mkdir(parents=True, exist_ok=True)
    np.savez(
        where / "cancer.npz", x_train=x[:400], y_train=y[:400], ids=ids[:400], x_test=x[400:], y_test=y[400:],
        classes=table.target_names,
    )  # fmt: skip

    params = train(0, x[:400], y[:400])
    np.savez(where / "net.npz", allow_pickle=False, **traverse_util.flatten_dict(params, sep="."))
    right = np.argmax(Net().apply(params, x[400:])[0], -1) == y[400:]
    print(f"test accuracy {100 * right.mean():.2f}%")
    near = NearestNeighbors(n_neighbors=6).fit(x[:400]).kneighbors(x[:400], return_distance=False)[:, 1:]
    odd = np.flatnonzero(np.mean(y[near] != y[:400, None], axis=1) > 0.5)[:5]
    asked = sorted({1, 38, 75, 112, *odd.tolist()})
    (where / "requests.csv").write_text("patient\n" + "".join(f"{ids[row]}\n" for row in asked))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
