"""What the models of a deletion answered, row by row: everything that the figures of a receipt are computed from.

It holds no input, only answers, and goes into a file as plain arrays: whoever has the file can compute each figure
again.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import jax.numpy as jnp
import numpy as np

from camu_jax import evaluate
from camu_jax.audits import attack
from camu_jax.audits.attack import Said
from camu_jax.deletion.request import Request
from camu_jax.problem import Predictor
from camu_jax.types import Examples

PARTS = ("retain", "forget", "test")
"""The sets of examples that accuracy is told of."""


class Answers(NamedTuple):
    """What one model answered.

    Attributes:
      said: its logits; of an ensemble those of the mean probabilities.
      right: of each part whether it predicts the label of each example, `[N]` bool.
    """

    said: Said
    right: dict[str, np.ndarray]


class Record(NamedTuple):
    """What all models answered on F rows and T test examples.

    Attributes:
      forget_y, test_y: the labels, `[F]` and `[T]`.
      classes: those of which no row is left.
      before: the original model.
      after: the result.
      control: a model that never saw the rows; None where none was made.
      margins: of K witnesses that never saw the rows, on the rows and on the test set, `[K, F + T]`; None without.
    """

    forget_y: np.ndarray
    test_y: np.ndarray
    classes: tuple[int, ...]
    before: Answers
    after: Answers
    control: Answers | None
    margins: np.ndarray | None

    @classmethod
    def take(cls, request: Request, after: Predictor, control: Predictor | None, margins: np.ndarray | None) -> Self:
        """Asks the models.

        Args:
          request: the request.
          after: the result.
          control: of `request.without(0)`, or None.
          margins: of `request.margins()`, or None.

        Raises:
          ValueError: a model's outputs are not finite.
        """
        problem, test = request.problem, request.test
        return cls(
            np.asarray(problem.forget.y),
            np.asarray(test.y),
            request.classes,
            ask("original", request, request.original),
            ask("result", request, after),
            None if control is None else ask("control", request, control),
            margins,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays."""
        found = {
            "forget_y": self.forget_y,
            "test_y": self.test_y,
            "classes": np.array(self.classes, np.int64),
        }
        if self.margins is not None:
            found["margins"] = self.margins
        for name in ("before", "after", "control"):
            answers = getattr(self, name)
            if answers is None:
                continue
            said = {k: v for k, v in answers.said._asdict().items() if v is not None}
            found |= {f"{name}.logits.{k}": v for k, v in said.items()}
            found |= {f"{name}.right.{k}": v for k, v in answers.right.items()}
        return found

    @classmethod
    def of_arrays(cls, found: Mapping[str, np.ndarray]) -> Self:
        """The opposite of `arrays`.

        Raises:
          KeyError: an array is missing.
        """

        def answers(name: str) -> Answers:
            member = found.get(f"{name}.logits.member")
            said = Said(found[f"{name}.logits.forget"], found[f"{name}.logits.test"], member)
            return Answers(said, {part: found[f"{name}.right.{part}"] for part in PARTS})

        control = answers("control") if "control.logits.forget" in found else None
        return cls(
            found["forget_y"],
            found["test_y"],
            tuple(found["classes"].tolist()),
            answers("before"),
            answers("after"),
            control,
            found.get("margins"),
        )


def ask(name: str, request: Request, predictor: Predictor) -> Answers:
    """Asks one model; `name` opens the messages of the errors that `attack.ask` raises."""
    problem = request.problem
    said = attack.ask(name, predictor, problem, request.test, request.rows)
    parts = dict(zip(PARTS, (problem.retain, problem.forget, request.test), strict=True))
    return Answers(said, {part: _right(predictor, examples) for part, examples in parts.items()})


def _right(predictor: Predictor, examples: Examples) -> np.ndarray:
    predicted = jnp.argmax(evaluate.outputs(predictor, examples.x).logits, axis=-1)
    return np.asarray(predicted == jnp.asarray(examples.y, predicted.dtype))
