"""A cell: one method and one seed. Its settings, its result on disk, and the model that it made."""

import dataclasses
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

import camu_jax
from camu_jax import checkpoint, evaluate, loop, tasks
from camu_jax.methods import Method
from camu_jax.types import Examples
from experiments import clock, config, console, devices, results
from experiments.session import Session, original_settings, plain


@dataclasses.dataclass(frozen=True)
class Cell:
    """A method (one of `config.NAMES`) and a seed, on the data and the original model of a session."""

    session: Session
    method: str
    seed: int

    @property
    def entry(self) -> tuple[Method, Any]:
        """The method and its settings."""
        return config.method(self.session.config, self.method)

    @property
    def keys(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """For the split, the method and the measuring. An ablation has its method's keys: both see the same draws."""
        split_key, method_key, metric_key = jax.random.split(jax.random.key(self.seed), 3)
        base = self.method.partition(":")[0].encode()
        return split_key, jax.random.fold_in(method_key, zlib.crc32(base)), metric_key

    def split(self) -> tuple[Examples, Examples]:
        """Forget and retain set."""
        return tasks.split(self.keys[0], self.session.task, self.session.train)

    def problem(self, original: camu_jax.Variables, progress: loop.Listener | None = None) -> camu_jax.Problem:
        """What the method has to solve."""
        forget, retain = self.split()
        return camu_jax.Problem(
            model=self.session.model,
            original=original,
            forget=forget,
            retain=retain,
            pipeline=self.session.config.pipeline,
            progress=progress,
        )

    def settings(self, extra: results.Extra | None = None) -> dict[str, Any]:
        """Everything that decides the result; a result made from other settings is another result."""
        options, task = self.session.config, self.session.task
        method, settings = self.entry
        result: dict[str, Any] = {
            "dataset": options.dataset,
            "limit": options.limit,
            "task": task.name,
            "rows": zlib.crc32(np.asarray(task.rows, np.int64).tobytes()) if task.rows else None,
            "seed": self.seed,
            "train_metrics": options.train_metrics,
            "model": dataclasses.asdict(options.model),
            "pipeline": plain(options.pipeline),
            self.method: plain(settings),
        }
        if options.validation:
            result["validation"] = options.validation
        if method.uses_original:
            result["original"] = original_settings(self.session)
        return result if extra is None else {**result, extra.name: plain(extra.settings)}

    # --- on disk --------------------------------------------------------------------------------------------------

    def path(self, extra: results.Extra | None = None) -> Path:
        """Where the result belongs; the model lies beside it."""
        options = self.session.config
        return results.path(options.out, options.dataset, self.session.task.name, self.method, self.seed, extra)

    def read(self, extra: results.Extra | None = None) -> results.Result | None:
        """The result, None where there is none; a damaged one is set aside.

        Raises:
          UsageError: it was made from other settings.
        """
        where = self.path(extra)
        try:
            found = results.read(where)
        except results.DamagedResult as error:
            if devices.primary():
                console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and made anew")
            return None
        if found is None:
            return None
        changed = results.difference(found["settings"], self.settings(extra))
        if changed:
            raise config.UsageError(
                f"{where} was made from other settings ({changed}); give another --out, or move it away"
            )
        return found

    def kept(self) -> camu_jax.Predictor | None:
        """The unlearned model of an earlier run, None where it was not kept; a damaged one is set aside."""
        where = self._model_path
        if not where.exists():
            return None
        model, pipeline = self.session.model, self.session.config.pipeline
        member = jax.eval_shape(model.init, jax.random.key(0))
        try:
            description = checkpoint.description(where)
            like = {"members": [member] * int(description.get("members", 0))}
            expected = {**description, "settings": self.settings()}
            members = checkpoint.load(where, like, expected)["members"]
        except checkpoint.CheckpointError as error:
            console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and made anew")
            return None
        return camu_jax.Predictor(tuple(map(dict, members)), model, pipeline, description["aggregate"])

    def _keep(self, predictor: camu_jax.Predictor) -> None:
        where = self._model_path
        if devices.primary():
            shutil.rmtree(where, ignore_errors=True)  # of a run that was killed before its result was written
        description = {
            "settings": self.settings(),
            "members": len(predictor.members),
            "aggregate": predictor.aggregate,
        }
        checkpoint.save(where, {"members": list(predictor.members)}, description)

    @property
    def _model_path(self) -> Path:
        return self.path().with_suffix(".model")

    # --- the work -------------------------------------------------------------------------------------------------

    def run(self, original: camu_jax.Variables) -> camu_jax.Predictor:
        """Unlearns, keeps the model, and measures and writes the result if there is none yet."""
        method, settings = self.entry
        with console.progress_bar(f"{self.method}, seed {self.seed}") as progress:
            problem = self.problem(original, progress)
            with clock.measure() as span:
                predictor = method.unlearn(self.keys[1], problem, settings)
                jax.block_until_ready(predictor)
        return self.finish(predictor, span)

    def finish(self, predictor: camu_jax.Predictor, span: clock.Span, *, side_by_side: int = 1) -> camu_jax.Predictor:
        """Keeps the unlearned model, and measures and writes the result if there is none yet.

        Args:
          predictor: what the method made.
          span: what it took.
          side_by_side: with how many seeds in one program; each has its share of the time.
        """
        method, settings = self.entry
        if self.session.config.keep_models:
            self._keep(predictor)
        if devices.agree(self.read() is None):
            result = {
                "metrics": self.accuracies(predictor),
                "seconds": span.seconds,
                "compile_seconds": span.compile_seconds,
                "forward_equivalents": method.cost(self.problem({}), settings),
                "info": {name: float(value) for name, value in predictor.info.items()},
                "settings": self.settings(),
                "side_by_side": side_by_side,
                **results.provenance(),
            }
            if devices.primary():
                results.write(self.path(), result)
            figures = console.metrics(result["metrics"])
            console.say(f"{self.method}, seed {self.seed}: {figures}  {clock.took(span)}")
        return predictor

    def predictor(self, original: camu_jax.Variables) -> camu_jax.Predictor:
        """The unlearned model: the kept one, or else the method runs (again)."""
        kept = self.kept()
        return kept if kept is not None else self.run(original)

    def accuracies(self, predictor: camu_jax.Predictor) -> dict[str, float]:
        """The paper's accuracies of a predictor on the data of this cell."""
        augmented = self.session.config.train_metrics == "augmented"
        forget, retain = self.split()
        return evaluate.accuracies(
            predictor,
            forget,
            retain,
            self.session.test,
            forget_classes=self.session.task.classes,
            augment_key=self.keys[2] if augmented else None,
        )


def all_cells(session: Session) -> list[Cell]:
    """Every cell of a command, seed by seed."""
    return [Cell(session, method, seed) for seed in session.config.seeds for method in session.config.methods]
