"""A whole job through the library, as `run.py --methods retrain camu --audit paper` does it, from loaded data."""

import dataclasses

import jax

import camu_jax
from camu_jax import Camu, evaluate
from camu_jax.methods.retrain import Retrain
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainSettings
from camu_jax.types import Examples
from experiments.bench.work import Laps
from experiments.tasks import Task


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """How the models of a job are made."""

    original: TrainSettings
    retrain: Retrain
    camu: Camu

    def with_epochs(self, epochs: int) -> "JobSettings":
        """The same with so many epochs of the original model and of CaMU, and twice as many of Retrain."""
        return JobSettings(
            dataclasses.replace(self.original, epochs=epochs),
            dataclasses.replace(self.retrain, epochs=2 * epochs),
            dataclasses.replace(self.camu, epochs=epochs),
        )


def run(problem: Problem, test: Examples, task: Task, settings: JobSettings) -> dict[str, float]:
    """Trains the original model, retrains, unlearns, measures and attacks.

    Args:
      problem: model and pipeline; its forget set is the whole training set.
      test: the test set.
      task: splits the training set.
      settings: of the three models.

    Returns:
      Figures by the name of the model, and seconds by part.
    """
    laps, train = Laps(), problem.forget
    keys = jax.random.split(jax.random.key(0), 6)
    original = camu_jax.train(keys[0], problem.model, train, settings.original, pipeline=problem.pipeline)
    of_original = evaluate.outputs(Predictor((original,), problem.model, problem.pipeline), test.x)
    figures = {"original T_s": evaluate.accuracy(of_original.logits, test.y)}
    laps.done("original")
    forget, retain = task.split(keys[1], train)
    problem = dataclasses.replace(problem, original=original, forget=forget, retain=retain)
    for k, method in enumerate(("retrain", "camu")):
        predictor = camu_jax.unlearn(keys[2 + k], problem, getattr(settings, method))
        jax.block_until_ready(predictor)
        laps.done(method)
        accuracies = evaluate.accuracies(predictor, forget, retain, test)
        figures |= {f"{method} {name}": value for name, value in accuracies.items()}
        laps.done("metrics")
        found = camu_jax.audit(keys[4 + k], predictor, problem, test)
        figures |= {f"{method} {name}": e.value for name, e in found.figures.items() if e.value is not None}
        laps.done("audit")
    return figures | {f"{part} s": seconds for part, seconds in laps.seconds.items()}
