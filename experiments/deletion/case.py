"""A request with all that it needs: the data, the original model, which rows go and which stay."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import Examples, Predictor, Problem, data, digests, evaluate, weights
from camu_jax.deletion import Request
from camu_jax.deletion.delete import deleted_until
from camu_jax.deletion.receipt import Asked, Receipt
from experiments import UsageError, keys, own_trainer, sources
from experiments.deletion import folder, rows
from experiments.deletion.options import ForgetConfig
from experiments.experiment import Experiment, open_experiment

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
      options: all settings.
      experiment: the data and the model.
      named: the rows that must go.
      retain: the numbers of those that stay and have a label, ascending.
      unlabelled: of the rows that must go, those without a label.
      left_out: how many rows stay and have no label.
      previous: the receipt of the deletion before.
      earlier: rows of these data that were deleted before.
    """

    options: ForgetConfig
    experiment: Experiment
    named: rows.Named
    retain: Numbers
    unlabelled: list[int]
    left_out: int
    previous: Receipt | None
    earlier: list[int]

    @property
    def stored(self) -> list[Path]:
        """Where the original lies; an ensemble in several files."""
        if self.options.previous is not None:
            return folder.models_in(Path(self.options.previous))
        return [self.trained_on.original_path]

    @property
    def trained_on(self) -> Experiment:
        """The experiment of the original: with the rows that have labels."""
        bare = self.experiment.source.unlabelled
        if bare is None:
            return self.experiment
        train = self.experiment.train
        return dataclasses.replace(self.experiment, train=train.pick(np.setdiff1d(np.arange(len(train)), bare)))

    def asked(self) -> Asked:
        """What was asked for, for the receipt."""
        return {
            "rows": self.named.numbers,
            "ids": self.named.ids,
            "total": len(self.experiment.train),
            "unlabelled": self.unlabelled,
            "left_out": self.left_out,
        }

    def original(self) -> Predictor:
        """The original model; it is trained where the user brings none.

        Raises:
          UsageError: the model of the deletion before does not fit.
        """
        model, pipeline = self.experiment.model, self.options.pipeline
        if self.previous is None:
            return Predictor((self.trained_on.original(),), model, pipeline)
        like = jax.eval_shape(model.init, keys.trial())
        try:
            members = tuple(weights.load(path, like) for path in self.stored)
        except weights.WeightsError as error:
            raise UsageError(f"previous: {error}") from None
        aggregate = self.previous["work"]["settings"].get("aggregate", "mean")
        return Predictor(members, model, pipeline, aggregate)

    def request(self, original: Predictor | None) -> Request:
        """The request to the library.

        Args:
          original: the original model; None is one that knows nothing, to see whether everything goes together.

        Raises:
          UsageError: it does not, or the method cannot start from an ensemble.
        """
        options, experiment = self.options, self.experiment
        method, settings = options.method(options.chosen)
        forget = experiment.train.pick(jnp.asarray(self.named.numbers))
        if original is None:
            original = Predictor((jax.jit(experiment.model.init)(keys.trial()),), experiment.model, options.pipeline)
        if self.unlabelled:
            places = np.searchsorted(self.named.numbers, self.unlabelled)
            answers = jnp.argmax(evaluate.outputs(original, forget.x[places]).logits, axis=-1)
            forget = dataclasses.replace(forget, y=jnp.asarray(forget.y).at[places].set(answers.astype(forget.y.dtype)))
        several = len(original.members) > 1
        if several and method.uses_original:
            raise UsageError(f"method is {method.name}; allowed after an ensemble: retrain, sisa")
        problem = Problem(
            experiment.model,
            {} if several else original.variables,
            forget,
            experiment.train.pick(jnp.asarray(self.retain)),
            options.pipeline,
        )
        request = Request(
            key=keys.deletion(options.seed),
            problem=problem,
            test=experiment.test,
            settings=settings,
            count=options.models,
            control=options.control,
            witnesses="heads" if options.heads else "models",
            ensemble=original if several else None,
            training=options.original,
            trainer=None if options.train is None else own_trainer.make(options.train, experiment.model),
        )
        try:
            request.validate()
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from None
        return request

    def code(self) -> str:
        """The digest of the code: this library, these commands, and the user's model."""
        own = None if self.options.train is None else own_trainer.digest(self.options.train)
        return digests.of_json([program(), self.experiment.model_settings, own])


def program() -> str:
    """The digest of this library and these commands: what computes the figures, and words and page of a receipt."""
    sources = [Path(camu_jax.__file__).parent, Path(__file__).resolve().parents[1]]
    files = [
        (file.relative_to(source.parent).as_posix(), file)
        for source in sources
        for file in source.rglob("*")
        if file.suffix in (".py", ".jinja")
    ]
    return digests.of_json([[name, digests.of_path(file)] for name, file in sorted(files)])


def open_case(options: ForgetConfig) -> Case:
    """Loads the data and reads the request.

    Raises:
      UsageError, camu_jax.data.DataError: bad input, found before any work starts.
    """
    out = Path(options.out)
    if out.exists() or out.is_symlink():
        raise UsageError(f"out is {out}, and that is there already; allowed: a folder that is not there yet")
    if options.limit is not None and options.dataset not in data.DATASETS:
        raise UsageError(
            f"limit is {options.limit}; allowed: none with data of your own, as rows would have other numbers"
        )
    if options.previous is not None and options.weights is not None:
        raise UsageError("original and previous are both given; allowed: one of them, as previous has its own model")
    previous = None if options.previous is None else folder.read_previous(options.previous)
    experiment = open_experiment(dataclasses.replace(options, out=options.cache_dir), unlabelled=True)  # out is new
    source = experiment.source
    train = _with_unlabelled(experiment.train, source)
    experiment = dataclasses.replace(experiment, train=train)
    earlier = [] if previous is None else _earlier(previous, experiment)
    ids = None
    if options.ids is not None:
        ids = rows.read_ids(options.ids, len(train), options.id_column)
    elif source.ids is not None and len(source.ids) == len(train):
        ids = source.ids.tolist()
    named = rows.read(options.rows, len(train), id_column=options.id_column, ids=ids)
    if again := sorted(set(named.numbers) & set(earlier)):
        id_ = "" if named.ids is None else f" ({named.ids[named.numbers.index(again[0])]})"
        raise UsageError(
            f"rows: {options.rows} names row {again[0]}{id_}, which was deleted before; allowed: rows that are left"
        )
    bare = np.zeros(0, np.int64) if source.unlabelled is None else source.unlabelled
    stays = np.setdiff1d(np.arange(len(train)), [*named.numbers, *earlier])
    retain = np.setdiff1d(stays, bare)
    if not len(retain):
        raise UsageError(f"rows: {options.rows} leaves no row to retain; allowed: at least one labelled row must stay")
    case = Case(
        options=options,
        experiment=experiment,
        named=named,
        retain=retain,
        unlabelled=np.intersect1d(named.numbers, bare).tolist(),
        left_out=len(stays) - len(retain),
        previous=previous,
        earlier=earlier,
    )
    if options.heads and jax.eval_shape(experiment.model.eval, *_of_one(case)).embedding is None:
        raise UsageError("heads needs a model that returns (logits, embedding); this one returns logits alone")
    return case


def _of_one(case: Case) -> tuple[object, object]:
    model, x = case.experiment.model, case.experiment.train.x[:1]
    clean = jax.eval_shape(case.options.pipeline.clean, x)
    return jax.eval_shape(model.init, keys.trial()), clean


def _earlier(previous: Receipt, experiment: Experiment) -> list[int]:
    """Rows of the data that are deleted already; none where the data are without them.

    Raises:
      UsageError: the data are others.
    """
    found = digests.of_examples(experiment.train, experiment.test)
    if found == previous["digests"]["data"]:
        return deleted_until(previous)
    if found == previous["digests"].get("retained"):
        return []
    raise UsageError("previous: its receipt is of other data; allowed: the same data, with the deleted rows or without")


def _with_unlabelled(train: Examples, source: sources.Source) -> Examples:
    """The training set with -1 for what has no label, as in the file."""
    if source.unlabelled is None:
        return train
    return dataclasses.replace(train, y=jnp.asarray(train.y).at[source.unlabelled].set(-1))


def load(
    dataset: str, data_dir: str | None, cache_dir: str, limit: int | None, side: int | None
) -> tuple[Examples, Examples]:
    """Training and test set alone, without a model; `side` is the pipeline's `image_size`.

    Raises:
      UsageError, camu_jax.data.DataError: they cannot be read.
    """
    source = sources.find(dataset, data_dir, cache_dir=Path(cache_dir, "data"), side=side, unlabelled=True)
    train, test = source.load(limit, on_device=False)
    return _with_unlabelled(train, source), test
