"""A request to delete rows, and the work that it asks for: one model that unlearns, and models that never saw the rows.

Each part of the work can be made on its own, in any order and in several processes: all that it draws comes from the
request's key and the part's name.
"""

import dataclasses
import functools
from collections.abc import Callable, MutableMapping
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate, evaluate, loop
from camu_jax.audits import attack, population
from camu_jax.audits.membership import Rows
from camu_jax.images import Pipeline
from camu_jax.methods import Retrain, method_of
from camu_jax.model import Model, Variables, as_variables, from_linen
from camu_jax.problem import Predictor, Problem
from camu_jax.splits import join
from camu_jax.training import TrainSettings, train
from camu_jax.types import Examples, Settings

LEAST = 4
"""Models that never saw the rows, at the least, for verdicts on single rows."""
Witnesses = Literal["models", "heads"]
"""What never saw the rows: whole models, or heads on the embedding of the original model, which did see them."""


Trainer = Callable[[jax.Array, Examples], Variables]
"""Trains a fresh model on examples."""


class Keys(NamedTuple):
    """The keys of a request, by what they are for."""

    method: jax.Array
    witnesses: jax.Array
    audit: jax.Array


def keys(key: jax.Array) -> Keys:
    """The keys that a request's key is split into."""
    return Keys(*jax.random.split(key, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What shall be deleted from which model, by which method, and how closely the result is looked at.

    Attributes:
      key: a `jax.random` key; consumed.
      problem: the original model, the rows that must go and those that stay.
      test: examples that no model was trained on.
      settings: of the method, for example `Camu()`.
      count: K, how many models that never saw the rows judge each of them: 0, or `LEAST` or more.
      control: whether one such model is measured beside the result also where there are no others.
      witnesses: `heads` trains K linear heads on the original model's embedding, for models that are too large to be
        trained K times. The embedding has seen the rows, so that heads notice less.
      ensemble: the original model, where it is an ensemble and the problem therefore holds no variables of it.
      training: how models that never saw the rows are trained; best as the original model was.
      trainer: the loop that trained the original, `(key, examples) -> variables`, in the place of `training` and of
        `Retrain`'s own. Heads are trained by `training`.
    """

    key: jax.Array
    problem: Problem
    test: Examples
    settings: Settings
    count: int = 8
    control: bool = False
    witnesses: Witnesses = "models"
    ensemble: Predictor | None = None
    training: TrainSettings = TrainSettings()
    trainer: Trainer | None = None

    def __post_init__(self) -> None:
        _validate.one_of(get_args(Witnesses), witnesses=self.witnesses)
        if self.count:
            _validate.at_least(LEAST, count=self.count)

    @property
    def keys(self) -> Keys:
        """The keys of its parts."""
        return keys(self.key)

    @functools.cached_property
    def classes(self) -> tuple[int, ...]:
        """The classes of which no row is left."""
        return tuple(np.setdiff1d(np.asarray(self.problem.forget.y), np.asarray(self.problem.retain.y)).tolist())

    @functools.cached_property
    def rows(self) -> Rows | None:
        """Whom the paper's attack learns from; None where the test set is too small for it."""
        problem = self.problem
        return attack.chosen(self.keys.audit, len(problem.forget), len(problem.retain), self.test.y)

    def validate(self) -> None:
        """Refuses a request that no method could fulfil, before any work.

        Raises:
          TypeError, ValueError: as `Problem.validate`, or the test set does not fit.
        """
        self.problem.validate()
        method_of(self.settings)
        attack.check(self.problem, self.test)

    @functools.cached_property
    def asked(self) -> Examples:
        """What the witnesses are asked about: the rows, then the test set."""
        return join(self.problem.forget, self.test)

    # --- the work -------------------------------------------------------------------------------------------------

    @property
    def original(self) -> Predictor:
        """The model as it was."""
        return self.ensemble or Predictor((self.problem.original,), self.problem.model, self.problem.pipeline)

    def unlearn(self, progress: loop.Listener | None = None) -> Predictor:
        """The result."""
        if self.trainer is not None and isinstance(self.settings, Retrain):
            return self._train(self.keys.method)
        return method_of(self.settings).unlearn(self.keys.method, self.problem, self.settings, progress=progress)

    def without(self, number: int, progress: loop.Listener | None = None) -> Predictor:
        """A whole model that never saw the rows; number 0 is the control."""
        return self._train(jax.random.fold_in(self.keys.witnesses, number), progress)

    def margins(
        self,
        *,
        cache: MutableMapping[int, np.ndarray] | None = None,
        at_once: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Margins of the K witnesses on the rows and on the test set, `[K, F + T]`; arguments as `population.margins`.

        `[:, :F]` are those of the rows.
        """
        make: Callable[..., Predictor]
        if self.witnesses == "models":
            make, examples = self._train, self.asked
        else:
            make, examples = self._heads()
        keys = self.keys.witnesses

        def arguments(k: int) -> tuple[jax.Array]:
            return (jax.random.fold_in(keys, k),)

        return population.margins(
            make, arguments, self.count, examples, cache=cache, at_once=at_once, progress=progress
        )

    def _train(self, key: jax.Array, progress: loop.Listener | None = None) -> Predictor:
        problem = self.problem
        if self.trainer is not None:
            variables = as_variables(self.trainer(key, problem.retain))
        else:
            variables = train(
                key, problem.model, problem.retain, self.training, pipeline=problem.pipeline, progress=progress
            )
        return Predictor((variables,), problem.model, problem.pipeline)

    def _heads(self) -> tuple[Callable[[jax.Array], Predictor], Examples]:
        """What makes a head, on a draw of its own from the retained rows, and the embeddings that it is asked about.

        On one and the same embedding heads of one and the same training set hardly differ.
        """
        retain, asked = (
            Examples(jnp.asarray(self._embed(part)), jnp.asarray(part.y), part.num_classes)
            for part in (self.problem.retain, self.asked)
        )
        head = _linear(retain.num_classes, retain.x.shape[1])

        def make(key: jax.Array) -> Predictor:
            draw_key, train_key = jax.random.split(key)
            drawn = jax.random.randint(draw_key, (len(retain),), 0, len(retain))
            return Predictor((train(train_key, head, retain.pick(drawn), self.training),), head, Pipeline())

        return make, asked

    def _embed(self, examples: Examples) -> np.ndarray:
        embedding = evaluate.outputs(self.original, examples.x).embedding
        if embedding is None:
            raise ValueError("witnesses is 'heads'; allowed: 'models', as the model does not tell its embedding")
        return np.asarray(embedding)


def _linear(num_classes: int, width: int) -> Model:
    from flax import linen as nn

    return from_linen(nn.Dense(num_classes), (width,))
