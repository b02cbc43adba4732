"""Duplicates of forgotten rows that stay in the training set, and keep the memory of them alive.

A copy has the same digest. A near-duplicate, the next frame of a film or the same image cut otherwise, lies closer to
the forgotten row in a model's embedding than rows of one data set do: closer than all but a share `level` of the
retained rows lie to their own nearest neighbours. So of forgotten rows without any duplicate a share of `level` is
expected to be listed, whatever the data are.

A worked example: 200 retained rows, each 1 to 2 from the next one, and a forgotten row 0.4 from one of them. With a
level of 1% the threshold is the second smallest of the 200 distances: just above 1; the row is listed.
"""

from typing import NamedTuple

import numpy as np

from camu_jax import _validate, digests, evaluate
from camu_jax.problem import Predictor
from camu_jax.types import Examples

LEVEL = 0.01
"""Which share of the forgotten rows without a duplicate is listed as having one."""
_SAMPLE = 4096  # retained rows whose nearest neighbours say what is close


class Duplicates(NamedTuple):
    """Pairs of a forgotten and a retained row, by their places in the two sets.

    Attributes:
      exact: pairs of equal inputs, whatever their labels, `[K, 2]`.
      near: pairs of inputs that are not equal and closer than the threshold, `[L, 2]`.
      distance: of each near pair, `[L]`.
      threshold: of the distance; None where the retain set is too small for the level.
      level: as given.
    """

    exact: np.ndarray
    near: np.ndarray
    distance: np.ndarray
    threshold: float | None
    level: float


def find(predictor: Predictor, forget: Examples, retain: Examples, *, level: float = LEVEL) -> Duplicates:
    """Finds copies and near-duplicates of forgotten rows in the retain set.

    Args:
      predictor: the model whose embedding measures distances, best the original one; its logits where it tells none.
      forget: F.
      retain: R.
      level: the share of false alarms, in (0, 1).

    Returns:
      `Duplicates`.

    Raises:
      ValueError: `level` is outside.
    """
    of_retain = digests.of_each_row(retain.x)
    copies = exact(digests.of_each_row(forget.x), of_retain)
    distinct = np.sort(np.unique(of_retain, return_index=True)[1])  # copies of one another are no measure
    pairs, distance, threshold = near(_embed(predictor, forget), _embed(predictor, retain)[distinct], level=level)
    pairs = np.stack([pairs[:, 0], distinct[pairs[:, 1]]], 1)
    known = set(map(tuple, copies.tolist()))
    new = np.array([pair not in known for pair in map(tuple, pairs.tolist())], bool)
    return Duplicates(copies, pairs[new], distance[new], threshold, level)


def exact(forget: list[str], retain: list[str]) -> np.ndarray:
    """Pairs of equal digests, `[K, 2]`, in the order of the forgotten rows."""
    places: dict[str, list[int]] = {}
    wanted = set(forget)
    for place, digest in enumerate(retain):
        if digest in wanted:
            places.setdefault(digest, []).append(place)
    pairs = [(i, j) for i, digest in enumerate(forget) for j in places.get(digest, [])]
    return np.array(pairs, np.int64).reshape(-1, 2)


def near(
    forget: np.ndarray, retain: np.ndarray, *, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Pairs of rows whose embeddings are closer than those of different rows are.

    Args:
      forget: embeddings, `[F, D]`.
      retain: embeddings, `[R, D]`.
      level: as in `find`.

    Returns:
      Pairs `[K, 2]`, their Euclidean distances `[K]`, and the threshold, which the nearest of a share of at most
      `level` of the retained rows is below; None, and no pairs, where there are fewer than 1 / `level` of them.

    Raises:
      ValueError: `level` is outside.
    """
    from sklearn.neighbors import NearestNeighbors

    if not 0 < level < 1:
        raise ValueError(f"level is {level}; allowed: between 0 and 1")
    _validate.at_least(1, **{"rows of retain": len(retain)})
    sample = np.unique(np.linspace(0, len(retain) - 1, _SAMPLE).astype(np.int64))
    allowed = int(level * (len(sample) + 1))  # the rank up to which a further row of the same kind comes by chance
    if not allowed or len(retain) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0), None
    index = NearestNeighbors(algorithm="brute").fit(retain)
    nearest = index.kneighbors(retain[sample], n_neighbors=2)[0][:, 1]  # the first is the row itself
    threshold = float(np.sort(nearest)[allowed - 1])
    distances, places = index.radius_neighbors(forget, radius=threshold)
    pairs = [(i, j) for i, of_row in enumerate(places) for j in of_row]
    distance = np.concatenate(distances) if len(pairs) else np.zeros(0)
    closer = distance < threshold  # at the threshold itself the level would be passed
    return np.array(pairs, np.int64).reshape(-1, 2)[closer], distance[closer], threshold


def _embed(predictor: Predictor, examples: Examples) -> np.ndarray:
    outputs = evaluate.outputs(predictor, examples.x)
    return np.asarray(outputs.logits if outputs.embedding is None else outputs.embedding, np.float32)
