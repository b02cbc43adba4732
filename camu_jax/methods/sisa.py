"""SISA: an ensemble over shards and slices of the training set; to forget is to retrain the touched shards only.

Bourtoule et al., "Machine Unlearning", IEEE S&P 2021, section IV; official code:
github.com/cleverhans-lab/machine-unlearning. Each of S shards trains a model of its own, in r steps: step k trains on
slices 1 to k and ends in a checkpoint. Forgetting filters the examples first, and takes each touched shard back to the
checkpoint before its first touched slice. Unlearning is exact: all randomness depends on the key and the position
alone, so that `forget` returns, bit for bit, the ensemble that never saw the examples.
"""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate, loop
from camu_jax.images import Pipeline
from camu_jax.model import Model
from camu_jax.problem import Aggregate, Predictor, Problem
from camu_jax.rows import concatenate
from camu_jax.training import TrainSettings, TrainState, train_step
from camu_jax.types import Examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sisa(TrainSettings):
    """SISA; how each shard's model is trained, and how the ensemble is made."""

    epochs: int = 20
    """Passes over each shard in all (the slices share them so that the work does not depend on their number)."""
    shards: int = 5
    """S, the number of models."""
    slices: int = 1
    """r, the checkpoints of each shard."""
    aggregate: Aggregate = "vote"
    """vote: the majority of the models' predictions; mean: the average of their probabilities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.at_least(1, shards=self.shards, slices=self.slices)
        if self.schedule != "constant" and self.slices > 1:  # later slices would decide how the first are learnt
            raise ValueError(f"schedule is {self.schedule}; allowed with {self.slices} slices: constant")
        _validate.one_of(get_args(Aggregate), aggregate=self.aggregate)

    def epochs_until(self, slices: int) -> int:
        """Epochs that training has done after so many slices: floor(slices * 2 * epochs / (r + 1))."""
        return slices * 2 * self.epochs // (self.slices + 1)


@dataclasses.dataclass(frozen=True)
class SisaState:
    """An ensemble, and all that it takes to forget from it.

    Attributes:
      examples: the training examples still in use, `N`.
      rows: their numbers in the first training set, `[N]`.
      shard: the shard of each, `[N]`.
      slice: the slice of each within its shard, `[N]`.
      checkpoints: of each shard the training state after each finished slice.
      key: from it come the initialisation and the order of every shard.
      model, pipeline, settings: as given.
    """

    examples: Examples
    rows: np.ndarray
    shard: np.ndarray
    slice: np.ndarray
    checkpoints: tuple[tuple[TrainState, ...], ...]
    key: jax.Array
    model: Model
    pipeline: Pipeline
    settings: Sisa

    @property
    def predictor(self) -> Predictor:
        """The ensemble; a shard without examples has no vote."""
        members = [c[-1].variables for s, c in enumerate(self.checkpoints) if (self.shard == s).any()]
        return Predictor(tuple(members), self.model, self.pipeline, self.settings.aggregate)


def assign(
    key: jax.Array, model: Model, examples: Examples, settings: Sisa, *, pipeline: Pipeline = Pipeline()
) -> SisaState:
    """Deals the examples at random to shards and slices of equal size; trains nothing.

    Args:
      key: a `jax.random` key; consumed.
      model: the model.
      examples: the training set, at least one example a slice.
      settings: as documented there.
      pipeline: how stored images become inputs.

    Returns:
      A state without checkpoints.

    Raises:
      TypeError, ValueError: as `Examples.validate`, or there are more slices than examples.
    """
    examples.validate("examples")
    _validate.at_least(settings.shards * settings.slices, **{"number of examples": len(examples)})
    assign_key, train_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(assign_key, len(examples)))
    shard, part = np.empty_like(order), np.empty_like(order)
    for s, window in enumerate(np.array_split(order, settings.shards)):
        shard[window] = s
        for k, rows in enumerate(np.array_split(window, settings.slices)):
            part[rows] = k
    nothing = ((),) * settings.shards
    return SisaState(examples, np.arange(len(examples)), shard, part, nothing, train_key, model, pipeline, settings)


def fit(
    key: jax.Array,
    model: Model,
    examples: Examples,
    settings: Sisa,
    *,
    pipeline: Pipeline = Pipeline(),
    progress: loop.Listener | None = None,
) -> SisaState:
    """Trains the ensemble; arguments as `assign`."""
    return _train(assign(key, model, examples, settings, pipeline=pipeline), progress)[0]


def forget(state: SisaState, rows: np.ndarray, *, progress: loop.Listener | None = None) -> tuple[SisaState, int]:
    """Forgets examples, and retrains what they touched.

    Args:
      state: of `fit`, or of an earlier `forget`; stays as it is.
      rows: numbers of the examples in the first training set, `[N]` integer.
      progress: is called after every step.

    Returns:
      The ensemble that never saw the examples, and how many minibatch steps that took.

    Raises:
      TypeError: `rows` are no numbers.
      ValueError: an example is not (or no longer) in the ensemble's training set, or none would be left.
    """
    rows = np.asarray(rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise TypeError(f"rows has dtype {rows.dtype}; allowed: row numbers in the first training set")
    gone = np.isin(state.rows, rows)
    missing = np.setdiff1d(rows, state.rows)
    if len(missing):
        raise ValueError(f"rows holds {missing[0]}; allowed: examples that the ensemble is trained on")
    if gone.all():
        raise ValueError("rows holds every example; allowed: at least one example must stay")
    clean = [c[: min(state.slice[gone & (state.shard == s)], default=None)] for s, c in enumerate(state.checkpoints)]
    kept = np.flatnonzero(~gone)
    state = dataclasses.replace(
        state,
        examples=state.examples.pick(kept),
        rows=state.rows[kept],
        shard=state.shard[kept],
        slice=state.slice[kept],
        checkpoints=tuple(clean),
    )
    return _train(state, progress)


def _train(state: SisaState, progress: loop.Listener | None) -> tuple[SisaState, int]:
    """Trains every shard from its last checkpoint to its last slice; returns also the number of steps."""
    settings = state.settings
    work = []  # what is missing: the shard, the slice, its epochs, its examples
    for s, finished in enumerate(state.checkpoints):
        for k in range(len(finished), settings.slices):
            subset = np.flatnonzero((state.shard == s) & (state.slice <= k))
            stream = loop.Stream(state.examples, settings.batch_size, subset=jnp.asarray(subset, jnp.int32))
            epochs = settings.epochs_until(k + 1) - settings.epochs_until(k) if len(subset) else 0
            work.append((s, k, epochs, stream))
    done, steps = 0, sum(epochs * stream.batches for _, _, epochs, stream in work)
    checkpoints = [list(finished) for finished in state.checkpoints]
    for s, k, epochs, stream in work:
        init_key, loop_key = jax.random.split(jax.random.fold_in(state.key, s))
        if k == 0:
            variables = jax.jit(state.model.init)(init_key)
            optimizer = settings.optimizer(max(1, epochs * stream.batches))
            shard = TrainState.create(state.model, variables, state.pipeline, optimizer)
        else:
            shard = checkpoints[s][-1]
        if epochs:
            shard = loop.run(
                train_step,
                shard,
                stream,
                key=loop_key,
                epochs=epochs,
                first_epoch=settings.epochs_until(k),
                progress=loop.part(progress, done, steps),
            )
        done += epochs * stream.batches
        checkpoints[s].append(shard)
    return dataclasses.replace(state, checkpoints=tuple(map(tuple, checkpoints))), steps


def unlearn(key: jax.Array, problem: Problem, settings: Sisa, *, progress: loop.Listener | None = None) -> Predictor:
    """The ensemble of all training examples, after it forgot the forget set.

    Forgetting from an ensemble that is dealt out but not yet trained gives the same result as from a trained one (the
    checkpoints that it would keep never saw the forget set), without the work of training on what will be forgotten.
    The result's `info` holds the share of the shards that the forget set touches.
    """
    problem.validate()
    retain, forgotten = problem.retain, problem.forget
    x, y = concatenate([retain.x, forgotten.x]), concatenate([retain.y, forgotten.y])
    state = assign(key, problem.model, Examples(x, y, retain.num_classes), settings, pipeline=problem.pipeline)
    rows = np.arange(len(retain), len(x))
    touched = len(np.unique(state.shard[rows])) / settings.shards
    state, _ = forget(state, rows, progress=progress)
    return dataclasses.replace(state.predictor, info={"touched": jnp.float32(touched)})
