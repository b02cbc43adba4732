"""Add a method in thirty lines: `python examples/new_method.py [FOLDER]`, a minute on two cores.

Random labels: the model goes on training, with a wrong label for each forgotten example. As one file of
`camu_jax/methods/` and one entry of its registry the method has flags, results, audits and tables of its own as well.
"""

# --- the method ---------------------------------------------------------------------------------------------------
import dataclasses

import jax
import jax.numpy as jnp

import camu_jax as cj
from camu_jax import data, loop
from camu_jax.methods import METHODS, Method
from camu_jax.optimizers import adam_l2
from camu_jax.training import TrainState, train_step
from camu_jax.tuples import draw_labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomLabel(cj.TrainSettings):
    """Random labels: how the model is trained on."""


def unlearn(key, problem, settings, *, progress=None):
    """Trains on the retain set and on the relabelled forget set."""
    problem.validate()
    label_key, loop_key = jax.random.split(key)
    forget, retain = problem.forget, problem.retain
    wrong = draw_labels(label_key, forget.y, forget.y, forget.num_classes, labels="uniform")
    x, y = jnp.concatenate([forget.x, retain.x]), jnp.concatenate([wrong, retain.y])
    stream = loop.Stream(cj.Examples(x, y, forget.num_classes), settings.batch_size)
    optimizer = adam_l2(settings.learning_rate, settings.l2)
    state = TrainState.create(problem.model, problem.original, problem.pipeline, optimizer)
    state = loop.run(train_step, state, stream, key=loop_key, epochs=settings.epochs, progress=progress)
    return cj.Predictor((state.variables,), problem.model, problem.pipeline)


METHODS[RandomLabel] = Method("random_label", unlearn)


# --- and what it does ---------------------------------------------------------------------------------------------
def main(folder, epochs=10):
    """Forgets a class of digits with the new method, beside NegGrad, and draws."""
    import matplotlib.pyplot as plt

    train, test = data.load("tiny")
    model = cj.models.cnn(10)
    variables = cj.train(jax.random.key(0), model, train, cj.TrainSettings(epochs=epochs))
    problem = cj.Problem.from_rows(model, variables, train, forget=train.y == 0)
    predictors = {"original": cj.Predictor((variables,), model)}
    for name, settings in {"NegGrad": cj.NegGrad(), "random labels": RandomLabel(epochs=1)}.items():
        predictors[name] = cj.unlearn(jax.random.key(1), problem, settings)
    found = {}
    for name, predictor in predictors.items():
        found[name] = cj.accuracies(predictor, problem.forget, problem.retain, test, forget_classes=(0,))
        print(name, {metric: round(value, 2) for metric, value in found[name].items()})
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for shift, (metric, label) in zip((-0.2, 0.2), {"R_ts": "other classes", "F_ts": "class 0"}.items(), strict=True):
        axes.bar(jnp.arange(3) + shift, [each[metric] for each in found.values()], width=0.4, label=label)
    axes.set_xticks(range(3), list(found))
    axes.set(ylabel="test accuracy (%)", ylim=(0, 120), yticks=range(0, 101, 20))
    axes.legend(ncols=2)
    figure.savefig(f"{folder}/new_method.svg", metadata={"Date": None})


if __name__ == "__main__":
    import sys

    main(sys.argv[1] if len(sys.argv) > 1 else ".")
