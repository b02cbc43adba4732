"""Asks the model of a receipt again, whether it gives the answers that the record holds."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import Camu, Examples, Pipeline, Predictor, Problem, weights
from camu_jax.deletion import Record, Request
from camu_jax.deletion.receipt import Json, Receipt
from camu_jax.deletion.record import ask
from experiments import UsageError, keys, own_model
from experiments.defaults import ModelSettings
from experiments.deletion import folder
from experiments.experiment import build_model

_TOLERANCE = 1e-3  # of logits, beside the largest: sums have another order on another machine
_FEW = 0.002  # of the answers that may turn over by it


def differs(
    receipt: Receipt, record: Record, train: Examples, test: Examples, where: Path, factory: str | None
) -> str | None:
    """What the model in a folder answers otherwise than its record says; None where it gives the same answers.

    Args:
      receipt: of the folder.
      record: of the folder.
      train: the training set, with the deleted rows.
      test: the test set.
      where: the folder.
      factory: of the user's own model.

    Raises:
      UsageError: the data are without the rows, or the model cannot be made.
    """
    asked, work = receipt["asked"], receipt["work"]
    if len(train) != asked["total"]:
        raise UsageError("the data are without the rows, and the model cannot be asked about them")
    earlier = receipt["previous"]["rows"] if receipt["previous"] else []
    bare = np.flatnonzero(np.asarray(train.y) < 0)
    retain = np.setdiff1d(np.arange(len(train)), np.concatenate([asked["rows"], earlier, bare]).astype(np.int64))
    forget = dataclasses.replace(train.pick(np.array(asked["rows"])), y=jnp.asarray(record.forget_y))
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in work["pipeline"].items()}
    pipeline = Pipeline(**fields)
    model = _model(work["model"], factory, train, pipeline)
    like = jax.eval_shape(model.init, keys.trial())
    try:
        members = tuple(weights.load(path, like) for path in folder.models_in(where))
    except weights.WeightsError as error:
        raise UsageError(str(error)) from None
    result = Predictor(members, model, pipeline, work["settings"].get("aggregate", "mean"))
    problem = Problem(model, members[0], forget, train.pick(retain), pipeline)
    key = jax.random.wrap_key_data(jnp.array(work["key"], jnp.uint32))
    request = Request(key=key, problem=problem, test=test, settings=Camu(), count=0)
    stated = record._replace(control=None, margins=None)
    found = stated._replace(after=ask("result", request, result)).arrays()
    return next(
        (words for name, array in stated.arrays().items() if (words := _otherwise(name, array, found[name]))), None
    )


def _otherwise(name: str, stated: np.ndarray, found: np.ndarray) -> str | None:
    if stated.shape != found.shape:
        return f"{name}: the record holds {stated.shape}, found {found.shape}"
    if stated.dtype == bool:
        turned = float(np.mean(stated != found))
        return f"{name}: {turned:.2%} of the answers are others" if turned > _FEW else None
    if not np.isfinite(stated).all():
        return f"{name}: the record holds numbers that are not finite"
    distance = float(np.max(np.abs(stated - found), initial=0.0))
    limit = _TOLERANCE * (1 + float(np.max(np.abs(stated), initial=0.0)))
    return f"{name}: logits differ by up to {distance:.3g}" if distance > limit else None


def _model(settings: dict[str, Json], factory: str | None, train: Examples, pipeline: Pipeline) -> camu_jax.Model:
    """The model that a receipt names."""
    chosen = ModelSettings(**{name: value for name, value in settings.items() if name not in ("factory", "code")})
    if "factory" in settings:
        if factory is None:
            raise UsageError("the model is your own; name it with --factory=FILE.py:NAME")
        if own_model.digest(factory) != settings["code"]:
            raise UsageError(f"factory is {factory}, whose code is not the one that made the result")
        chosen = dataclasses.replace(chosen, factory=factory)
    return build_model(chosen, pipeline, train.x.shape[1:], str(train.x.dtype), train.num_classes)
