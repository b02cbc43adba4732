"""Algorithm 1 of the paper: the joined data set of forget, retain and counterfactual examples."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate
from camu_jax.rows import in_host_memory, is_picked
from camu_jax.types import Examples, Tuples

LabelRule = Literal["uniform", "retain"]


def make_tuples(
    key: jax.Array,
    F: Examples,
    R: Examples,
    *,
    labels: LabelRule = "retain",
    replace: bool = False,
    mask_scale: float = 1.0,
) -> Tuples:
    """Prepares the data that CaMU learns from (Algorithm 1).

    The defaults are the preset `reference`, the authors' code, as are those of `init_camu`. `labels="uniform"` with
    `replace=True` is the algorithm as the paper writes it (`Camu.paper().tuples`).

    Pure: works under `jax.jit` and `jax.vmap` over keys. Guarantees, for every key: the forget examples are F, in
    F's order; every retain example is a row of R; every mask entry lies in [0, mask_scale); no counterfactual label
    equals the forget label of its row.

    Args:
      key: a `jax.random` key; consumed.
      F: forget examples, `[N, *image]`, floating.
      R: retain examples, `[M, *image]`, same image shape, dtype and number of classes as F.
      labels: how y* is drawn. `uniform` over all labels but y_f (line 4 of the algorithm); `retain` takes the
        retain example's own label and draws only where that equals y_f (what the authors' code does).
      replace: whether a retain example may be drawn again (line 2: each draw is uniform over R). If False, rows
        repeat only after every row of R was used.
      mask_scale: the mask of line 3 is uniform in [0, mask_scale). 1 suits pixels from 0 to 1, also normalised ones;
        inputs of another range need the length of that range.

    Returns:
      The joined data set S, `N` rows.

    Raises:
      TypeError: images are not floating, labels are not integer, or dtypes differ.
      ValueError: F or R is empty, shapes or numbers of classes differ, a label is out of range, a pixel is not
        finite, `labels` is unknown, or `mask_scale` is not positive and finite. Contents are not checked where they
        are being traced.
    """
    F.validate("F")
    R.validate("R")
    rows_key, pair_key = jax.random.split(key)
    rows = draw_rows(rows_key, len(F), len(R), replace=replace)
    if in_host_memory(R.x) and _validate.is_concrete(rows):
        R_star = R.pick(np.asarray(rows))  # of R only these go to the device
        F, R_star = jax.tree.map(jnp.asarray, (F, R_star), is_leaf=is_picked)
    else:
        F, R = jax.tree.map(jnp.asarray, (F, R), is_leaf=is_picked)
        R_star = R[rows]
    return pair_tuples(pair_key, F, R_star, labels=labels, mask_scale=mask_scale)


def draw_rows(key: jax.Array, count: int, total: int, *, replace: bool) -> jax.Array:
    """Draws row numbers uniformly (Algorithm 1, line 2).

    Args:
      key: a `jax.random` key; consumed.
      count: how many rows, static.
      total: how many there are, static.
      replace: as in `make_tuples`.

    Returns:
      `[count]` int32 in `[0, total)`.
    """
    if replace:
        return jax.random.randint(key, (count,), 0, total, jnp.int32)
    passes = -(-count // total)
    orders = [jax.random.permutation(k, total) for k in jax.random.split(key, passes)]
    return jnp.concatenate(orders)[:count].astype(jnp.int32)


def draw_labels(key: jax.Array, y_f: jax.Array, y_r: jax.Array, num_classes: int, *, labels: LabelRule) -> jax.Array:
    """Draws the counterfactual labels y* != y_f (Algorithm 1, line 4).

    Args:
      key: a `jax.random` key; consumed.
      y_f: forget labels, `[N]`.
      y_r: labels of the paired retain examples, `[N]`; used by the rule `retain` only.
      num_classes: C, at least 2.
      labels: as in `make_tuples`.

    Returns:
      `[N]` labels of `y_f`'s dtype.
    """
    y_f, y_r = jnp.asarray(y_f), jnp.asarray(y_r)  # of NumPy's 64 bits JAX may take 32
    own, kept = y_f.astype(jnp.int32), y_r.astype(jnp.int32)  # a narrower type could not hold sums of labels
    other = (own + jax.random.randint(key, own.shape, 1, num_classes, jnp.int32)) % num_classes
    y_star = other if labels == "uniform" else jnp.where(kept == own, other, kept)
    return y_star.astype(y_f.dtype)


def pair_tuples(
    key: jax.Array, F: Examples, R_star: Examples, *, labels: LabelRule = "retain", mask_scale: float = 1.0
) -> Tuples:
    """Lines 3 to 6 of Algorithm 1, for retain examples already drawn.

    Args:
      key: a `jax.random` key; consumed.
      F: forget examples, `[N, *image]`, floating.
      R_star: the retain example of each row, `[N, *image]`.
      labels: as in `make_tuples`.
      mask_scale: as in `make_tuples`.

    Returns:
      The joined data set S, `N` rows.

    Raises:
      TypeError: images are not floating or dtypes differ.
      ValueError: image shapes or numbers of classes differ, `labels` is unknown, or `mask_scale` is not positive and
        finite.
    """
    _validate.one_of(get_args(LabelRule), labels=labels)
    _validate.above(0, mask_scale=mask_scale)
    if not jnp.issubdtype(F.x.dtype, jnp.floating):
        raise TypeError(f"F.x has dtype {F.x.dtype}; allowed: a floating type (normalise stored images first)")
    if F.x.dtype != R_star.x.dtype:
        raise TypeError(f"F.x has dtype {F.x.dtype} and R.x {R_star.x.dtype}; allowed: the same")
    if F.x.shape[1:] != R_star.x.shape[1:]:
        raise ValueError(f"images of F have shape {F.x.shape[1:]} and of R {R_star.x.shape[1:]}; allowed: the same")
    if F.num_classes != R_star.num_classes:
        raise ValueError(f"num_classes of F is {F.num_classes} and of R {R_star.num_classes}; allowed: the same")
    mask_key, label_key = jax.random.split(key)
    mask = mask_scale * jax.random.uniform(mask_key, R_star.x.shape, R_star.x.dtype)
    y_star = draw_labels(label_key, F.y, R_star.y, F.num_classes, labels=labels)
    return Tuples(forget=F, counterfactual=Examples(R_star.x + mask, y_star, F.num_classes), retain=R_star)
