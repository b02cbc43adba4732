"""What an unlearning method is given and what it returns."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from camu_jax.images import Pipeline
from camu_jax.model import Model, Variables, as_variables
from camu_jax.splits import Rows, split
from camu_jax.types import Examples, Outputs

Aggregate = Literal["mean", "vote"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """An unlearning problem: a trained model, and what it shall forget and retain.

    Attributes:
      model: the model.
      original: variables of the pre-unlearning model g_o; no method changes them. Methods that do not start from it
        (Retrain, SISA) take `{}` as well.
      forget: the forget set F, stored images or other inputs.
      retain: the retain set R.
      pipeline: how stored images become inputs.
    """

    model: Model
    original: Variables
    forget: Examples
    retain: Examples
    pipeline: Pipeline = Pipeline()

    def __post_init__(self) -> None:
        if self.original:
            object.__setattr__(self, "original", as_variables(self.original))

    @classmethod
    def from_rows(
        cls, model: Model, variables: Variables, train: Examples, forget: Rows, *, pipeline: Pipeline = Pipeline()
    ) -> "Problem":
        """The problem of forgetting some rows of the training set. With two `Examples` at hand call the class itself.

        Args:
          model: the model.
          variables: what it learned from `train`: `{"params", "batch_stats"}`, or `{"params"}` alone.
          train: the training set, stored images or other inputs. F and R share it: memory-mapped uint8 images are not
            read, and of floats no copy is made, but they are read to see that they are finite.
          forget: numbers of the rows to forget, each once, or a boolean mask over all rows.
          pipeline: how stored images become inputs; the default takes uint8 pixels to [0, 1] and floats as they are.

        Returns:
          The problem; F and R are in the order of `train`.

        Raises:
          TypeError, ValueError: as `Problem.validate`, or as `camu_jax.splits.split`.
        """
        train.validate("train")
        problem = cls(model, variables, *split(train, forget), pipeline)
        problem.validate()
        return problem

    def validate(self, *, with_original: bool = False) -> None:
        """Refuses a problem that no method could solve.

        Args:
          with_original: whether the method starts from the original model.

        Raises:
          TypeError, ValueError: as `Examples.validate`, image shapes or numbers of classes differ, the pipeline does
            not fit the images, or the model does not take them or has another number of logits; or there is no
            original model to start from.
        """
        if with_original and not self.original:
            raise ValueError("original is {}; allowed: the trained variables, as this method starts from them")
        self.forget.validate("forget")
        self.retain.validate("retain")
        if self.forget.x.shape[1:] != self.retain.x.shape[1:] or self.forget.x.dtype != self.retain.x.dtype:
            raise ValueError(
                f"forget images are {self.forget.x.dtype}{self.forget.x.shape[1:]}, retain images "
                f"{self.retain.x.dtype}{self.retain.x.shape[1:]}; allowed: the same"
            )
        if self.forget.num_classes != self.retain.num_classes:
            raise ValueError(
                f"forget.num_classes is {self.forget.num_classes}, retain.num_classes {self.retain.num_classes}; "
                "allowed: the same"
            )
        logits = self._logits_of_one_image()
        if logits.shape != (1, self.forget.num_classes):
            raise ValueError(
                f"model returns logits of shape {logits.shape} for one image; allowed: "
                f"{(1, self.forget.num_classes)}, as num_classes says"
            )

    def _logits_of_one_image(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the logits; nothing is computed."""

        def logits(variables: Variables, x: jax.Array) -> jax.Array:
            return Predictor((variables,), self.model, self.pipeline)(x).logits

        variables = self.original or jax.eval_shape(self.model.init, jax.random.key(0))
        dtype = jax.dtypes.canonicalize_dtype(self.forget.x.dtype)  # of float64, what JAX computes in
        image = jax.ShapeDtypeStruct((1, *self.forget.x.shape[1:]), dtype)
        jax.eval_shape(self.pipeline.clean, image)  # what is wrong there is not the model's fault
        try:
            return jax.eval_shape(logits, variables, image)
        except Exception as error:  # the model is the caller's, and so are its exceptions
            raise ValueError(
                f"model does not take images of shape {image.shape[1:]} and dtype {image.dtype} with these variables "
                f"({type(error).__name__}: {error})"
            ) from error


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Predictor:
    """What a method returns: one model, or an ensemble of them.

    Attributes:
      members: the variables of each model.
      model: static.
      pipeline: static.
      aggregate: static; how an ensemble's outputs are joined: `mean` of the softmax outputs, or majority `vote`.
      info: what the method reports about its work, scalars by name; no part of the prediction.
    """

    members: tuple[Variables, ...]
    model: Model = dataclasses.field(metadata={"static": True})
    pipeline: Pipeline = dataclasses.field(default=Pipeline(), metadata={"static": True})
    aggregate: Aggregate = dataclasses.field(default="mean", metadata={"static": True})
    info: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    @property
    def variables(self) -> Variables:
        """The variables of a single model.

        Raises:
          ValueError: the predictor is an ensemble.
        """
        if len(self.members) != 1:
            raise ValueError(f"predictor has {len(self.members)} members; allowed: 1 (take one of `members`)")
        return self.members[0]

    def __call__(self, x: jax.Array) -> Outputs:
        """Outputs for stored images `[B, h, w, c]`, or other inputs, in evaluation mode.

        An ensemble's logits are the logarithm of the joined probabilities (of the vote shares), so that ties of votes
        go to the lowest class; its embedding is the members' side by side, None where they tell none.
        """
        x = self.pipeline.clean(x)
        outputs = [self.model.eval(variables, x) for variables in self.members]
        if len(outputs) == 1:
            return outputs[0]
        logits = jnp.stack([out.logits for out in outputs])
        if self.aggregate == "vote":
            votes = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
            votes = jnp.where(jnp.isnan(logits).any(axis=-1, keepdims=True), jnp.nan, votes)  # not one for class 0
            joined = jnp.log(jnp.mean(votes, axis=0) + 1e-6)
        else:
            joined = jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1), axis=0) - jnp.log(float(len(outputs)))
        embeddings = [out.embedding for out in outputs if out.embedding is not None]
        return Outputs(joined, jnp.concatenate(embeddings, axis=-1) if embeddings else None)
