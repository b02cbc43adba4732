"""Forget rows of your own Flax NNX model: `python examples/own_model.py [FOLDER]`, a minute on two cores.

A small convolutional network with BatchNorm and Dropout is trained by its owner's own Optax loop; twenty of its images
are then forgotten, and the figure shows how sure the network is of them before and after, log p - log(1 - p) of their
label, beside a network that never saw them.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import camu_jax as cj
from camu_jax import data
from camu_jax.audits import population


class ConvNet(nnx.Module):
    """Any module that returns its penultimate representation beside the logits."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 16, (5, 5), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.hidden = nnx.Linear(16 * 14 * 14, 64, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = nnx.relu(self.norm(self.conv(x)))
        embedding = nnx.relu(self.hidden(h.reshape(len(h), -1)))
        return self.out(self.dropout(embedding)), embedding


def train(module: ConvNet, x: jax.Array, y: jax.Array, epochs: int, rng: np.random.Generator) -> None:
    """The owner's own loop."""
    optimizer = nnx.Optimizer(module, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(module: ConvNet, optimizer: nnx.Optimizer[ConvNet], x: jax.Array, y: jax.Array) -> None:
        def loss(module: ConvNet) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(module(x)[0], y).mean()

        optimizer.update(module, nnx.grad(loss)(module))

    module.train()
    for _ in range(epochs):
        for rows in rng.permutation(len(x))[: len(x) // 32 * 32].reshape(-1, 32):
            step(module, optimizer, x[rows], y[rows])
    module.eval()


def main(folder: Path, epochs: int = 10) -> None:
    """Trains, forgets, measures, draws."""
    images, test = data.load("tiny")
    module = ConvNet(nnx.Rngs(0))
    train(module, images.x.astype(jnp.float32) / 255, images.y, epochs, np.random.default_rng(0))

    model, variables = cj.from_nnx(ConvNet, module)
    problem = cj.Problem.from_rows(model, variables, images, forget=range(20))
    key, retrain_key, audit_key = jax.random.split(jax.random.key(0), 3)
    unlearned = cj.unlearn(key, problem, cj.Camu())
    retrained = cj.unlearn(retrain_key, problem, cj.Retrain(epochs=epochs))
    print(cj.audit(audit_key, unlearned, problem, test, null=retrained))
    nnx.update(module, unlearned.variables["params"], unlearned.variables["batch_stats"])  # back in the owner's module

    original = cj.Predictor((variables,), model)
    named = {"original": original, "unlearned": unlearned, "never saw them": retrained}
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for place, (name, predictor) in enumerate(named.items()):
        margins = population.margins_of(predictor, problem.forget)
        axes.plot(margins, np.full(len(margins), -place), "o", alpha=0.5, label=name)
        axes.plot(np.median(margins), -place, "|", markersize=24, color="black")
    axes.set(yticks=[-place for place in range(len(named))], yticklabels=list(named))
    axes.set(xlabel="margin of each forgotten row, and the median", ylim=(-2.4, 0.4))
    figure.savefig(folder / "own_model.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
