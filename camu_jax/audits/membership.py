"""Attacks on one model, with one attacker for all examples."""

from typing import NamedTuple

import jax
import numpy as np

from camu_jax import _validate
from camu_jax.audits import estimates
from camu_jax.audits.estimates import Estimate

LEAST = 5
"""Test examples that the paper's attack needs, to learn from some and to be scored on others."""


class Rows(NamedTuple):
    """Whom the paper's attack learns from and is scored on; row numbers.

    Attributes:
      member: of the retain set.
      nonmember: of the test set.
      unseen: the rest of the test set that is scored beside the forget set.
    """

    member: np.ndarray
    nonmember: np.ndarray
    unseen: np.ndarray


def learned(test: int) -> int:
    """Of how many test examples, the first ones, the paper's attack learns what non-members look like.

    Raises:
      ValueError: there are too few to be scored on others.
    """
    _validate.at_least(LEAST, test=test)
    return min(4000, 2 * test // 5)


def paper_rows(key: jax.Array, forget: int, retain: int, test: int) -> Rows:
    """Chooses the rows as the authors' code does: 4 000 members, the first 4 000 test images, the test images after.

    Where the test set has fewer than 10 000 images the two counts shrink with it. The members are a random part of the
    retain set. Theirs are of the examples R* that CaMU drew from it, which Retrain and the baselines have no part in;
    R* is large enough there, as classes of C100 are repeated ten times.

    Args:
      key: a `jax.random` key; consumed.
      forget: size of the forget set.
      retain: size of the retain set.
      test: size of the test set.

    Returns:
      `Rows`; as many unseen examples as forget examples (rounded up to minibatches of 32), if there are so many.

    Raises:
      ValueError: a set is too small.
    """
    _validate.at_least(1, forget=forget, retain=retain)
    first = learned(test)
    members = np.asarray(jax.random.permutation(key, retain)[:first])
    unseen = np.arange(first, min(test, first + 32 * -(-forget // 32)))
    return Rows(members, np.arange(first), unseen)


def paper(
    key: jax.Array,
    *,
    member: np.ndarray,
    nonmember: np.ndarray,
    forget: np.ndarray,
    unseen: np.ndarray,
    matched: np.ndarray | None = None,
) -> dict[str, Estimate]:
    """The attack of Tables 4, 6, 7 and 12: boosted trees on sorted softmax outputs, retain against test examples.

    Follows the authors' code (100 trees of depth 6, learning rate 0.3, L2 1). There images of F and R* are augmented
    and those of the test set are not, so that even Retrain is told apart; give outputs of clean images here.

    Args:
      key: a `jax.random` key; consumed.
      member: logits that the attacker learns as members, `[M, C]`.
      nonmember: logits that it learns as non-members, `[N, C]`.
      forget: logits of the forget set, `[F, C]`.
      unseen: logits of test examples that the attacker did not learn from, `[U, C]`.
      matched: those that the balanced figures compare with; None is `unseen`. For class removal take test examples of
        the removed classes, or the attack tells classes apart.

    Returns:
      `M`, the paper's attack success rate: the accuracy on forget (member) and unseen (non-member) examples as they
      are, whose chance level depends on their numbers; and on equally many of both (matched ones) `balanced_accuracy`,
      `auc` and `tpr_at_1_fpr`; and `forget_as_member`, the share of the forget set that is taken for members.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    trees = HistGradientBoostingClassifier(
        max_iter=100,
        max_depth=6,
        max_leaf_nodes=None,
        learning_rate=0.3,
        l2_regularization=1.0,
        min_samples_leaf=1,
        early_stopping=False,
        random_state=0,
    )
    matched = unseen if matched is None else matched
    features = [_sorted_probabilities(logits) for logits in (member, nonmember, forget, unseen, matched)]
    with threadpool_limits(1):  # threads that wait for one another take minutes where other work has the cores
        trees.fit(np.concatenate(features[:2]), np.repeat([1, 0], [len(member), len(nonmember)]))
        in_forget, in_unseen, in_matched = (trees.predict_proba(x)[:, 1] for x in features[2:])
    hits = int((in_forget > 0.5).sum() + (in_unseen <= 0.5).sum())
    some_forget, some_unseen = _equally_many(key, in_forget, in_matched)
    return {
        "M": estimates.proportion(hits, len(in_forget) + len(in_unseen)),
        "balanced_accuracy": estimates.balanced_accuracy(some_forget, some_unseen, threshold=0.5),
        "auc": estimates.auc(some_forget, some_unseen),
        "tpr_at_1_fpr": estimates.tpr_at_fpr(some_forget, some_unseen),
        "forget_as_member": estimates.proportion(int((in_forget > 0.5).sum()), len(in_forget)),
    }


def _sorted_probabilities(logits: np.ndarray) -> np.ndarray:
    return np.sort(np.asarray(jax.nn.softmax(jax.numpy.asarray(logits, "float32"), axis=-1)), axis=-1)


def _equally_many(key: jax.Array, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many of the longer one, drawn at random, as there are of the shorter one."""
    count = min(len(a), len(b))
    first, second = jax.random.split(key)
    return a[np.asarray(jax.random.permutation(first, len(a))[:count])], b[
        np.asarray(jax.random.permutation(second, len(b))[:count])
    ]


def loss_attack(key: jax.Array, forget: np.ndarray, unseen: np.ndarray, *, folds: int = 10) -> Estimate:
    """The attack of the NeurIPS 2023 unlearning challenge's starting kit: a logistic regression on losses.

    Args:
      key: a `jax.random` key; consumed.
      forget: losses of the forget set, `[F]`.
      unseen: losses of test examples, `[U]` (for class removal, of the same classes).
      folds: of the cross-validation.

    Returns:
      The accuracy on equally many of both, in cross-validation; chance is 1/2. The interval takes each example as one
      trial.

    Raises:
      ValueError: fewer examples than folds on a side.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    forget, unseen = _equally_many(key, np.asarray(forget), np.asarray(unseen))
    _validate.at_least(folds, **{"number of examples": len(forget)})
    x, y = np.concatenate([forget, unseen])[:, None], np.repeat([1, 0], len(forget))
    cut = StratifiedKFold(folds, shuffle=True, random_state=0)
    predicted = cross_val_predict(LogisticRegression(), x, y, cv=cut)
    return estimates.proportion(int((predicted == y).sum()), len(y))
