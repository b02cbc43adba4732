"""What a problem refuses, and how an ensemble decides."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Examples, Model, Outputs, Pipeline, Predictor, Problem
from camu_jax.methods import BadTeacher, Boundary, Camu, NegGrad, Scrub, Unroll, unlearn
from tests.helpers import assert_close, np_log_softmax

X, Y = jnp.zeros((3, 4, 4, 1), jnp.uint8), jnp.array([0, 1, 2])
GOOD = Examples(X, Y, 3)
LOGITS_OF_3 = Model(lambda key: {}, lambda variables, x, *, train, key=None: (Outputs(x[:, :3, 0, 0], None), {}))
BAD = {
    "no forget example": (dict(forget=GOOD[:0]), ValueError, "forget is empty"),
    "no retain example": (dict(retain=GOOD[:0]), ValueError, "retain is empty"),
    "label": (dict(retain=Examples(X, Y + 1, 3)), ValueError, "retain.y holds the label 3"),
    "float labels": (dict(forget=Examples(X, Y.astype(jnp.float32), 3)), TypeError, "forget.y has dtype float32"),
    "shapes": (dict(retain=Examples(X[:, :3], Y, 3)), ValueError, "forget images are .* retain images"),
    "dtypes": (dict(retain=Examples(X.astype(jnp.float32), Y, 3)), ValueError, "forget images are .* retain images"),
    "classes": (dict(retain=Examples(X, Y, 4)), ValueError, "forget.num_classes is 3, retain.num_classes 4"),
    "logits": (
        dict(forget=Examples(X, Y, 4), retain=Examples(X, Y, 4)),
        ValueError,
        r"model returns logits of shape \(1, 3\) for one image; allowed: \(1, 4\)",
    ),
    "images": (
        dict(model=Model(lambda key: {}, lambda variables, x, *, train, key=None: x.reshape(3))),
        ValueError,
        "model does not take images of shape",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_problem_is_refused_by_name(case):
    changes, error, message = BAD[case]
    problem = Problem(LOGITS_OF_3, {"params": {}, "batch_stats": {}}, GOOD, GOOD)
    problem.validate()
    with pytest.raises(error, match=message):
        dataclasses.replace(problem, **changes).validate()


def test_variables_in_other_mappings_and_without_statistics():
    """As an older Flax returned them; none at all are allowed where nobody starts from them."""
    params = {"dense": {"kernel": jnp.ones(2)}}
    for given in (flax.core.freeze({"params": params}), {"params": params}):
        original = Problem(LOGITS_OF_3, given, GOOD, GOOD).original
        assert original == {"params": params, "batch_stats": {}} and type(original["params"]["dense"]) is dict
    nothing = Problem(LOGITS_OF_3, {}, GOOD, GOOD)
    nothing.validate()
    for settings in (Camu(), NegGrad(), Boundary(), BadTeacher(), Scrub(), Unroll()):
        with pytest.raises(ValueError, match=r"original is \{\}; allowed: the trained variables"):
            unlearn(jax.random.key(0), nothing, settings)
    with pytest.raises(ValueError, match="variables has no 'params'"):
        Problem(LOGITS_OF_3, {"batch_stats": {}}, GOOD, GOOD)


TEN = Examples(jnp.arange(160, dtype=jnp.uint8).reshape(10, 4, 4, 1), jnp.arange(10) % 3, 3)


@pytest.mark.parametrize("rows", [[7, 2], np.array([2, 7]), jnp.arange(10) % 5 == 2])
def test_rows_to_forget(rows):
    """By number in any order, or by a mask; both parts keep the order of the training set."""
    problem = Problem.from_rows(LOGITS_OF_3, {"params": {}}, TEN, rows)
    assert problem.forget.x[:, 0, 0, 0].tolist() == [32, 112] and problem.original == {"params": {}, "batch_stats": {}}
    assert problem.retain.y.tolist() == [0, 1, 0, 1, 2, 0, 2, 0]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, "rows chooses 0 of 10 examples; allowed: 1 to 9"),
        (range(10), ValueError, "rows chooses 10 of 10"),
        ([3, 3], ValueError, "rows holds 3 twice"),
        ([10], ValueError, "rows holds 10; allowed: 0 to 9"),
        ([-1], ValueError, "rows holds -1"),
        ([0.5], TypeError, "rows has dtype float64; allowed: row numbers, or a boolean mask"),
        ([[1]], ValueError, r"rows has shape \(1, 1\)"),
        ([True] * 9, ValueError, "rows is a mask of shape"),
    ],
)
def test_wrong_rows_are_named(rows, error, message):
    with pytest.raises(error, match=message):
        Problem.from_rows(LOGITS_OF_3, {"params": {}}, TEN, rows)


MODEL = Model(
    lambda key: {},
    lambda variables, x, *, train, key=None: (Outputs(variables["params"]["z"], variables["params"]["e"]), {}),
)


def ensemble(logits, aggregate="mean"):
    """One member for each `[B, C]` in `logits`, whatever the images."""
    members = tuple({"params": {"z": jnp.array(z), "e": jnp.full((len(z), 2), float(i))}} for i, z in enumerate(logits))
    return Predictor(members, MODEL, aggregate=aggregate)


SPLIT = [[[0.0, 5.0, 0.0]], [[0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]]]  # one sure vote for 1, two weak ones for 2


@pytest.mark.parametrize(("aggregate", "winner"), [("mean", 1), ("vote", 2)])
def test_mean_and_vote_may_differ(aggregate, winner):
    out = ensemble(SPLIT, aggregate)(X[:1])
    assert int(out.logits.argmax()) == winner
    assert_close(out.embedding, [[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]])


def test_the_mean_is_of_probabilities():
    out = ensemble(SPLIT)(X[:1])
    expected = jnp.exp(np_log_softmax(SPLIT).astype(jnp.float32)).mean(0)
    assert_close(jnp.exp(out.logits), expected)


@pytest.mark.parametrize(
    ("votes", "winner"), [((2, 0, 1), 0), ((2, 1), 1), ((1, 2, 2, 1), 1), ((0, 2, 2), 2), ((2, 2, 1, 1, 0), 1)]
)
def test_ties_of_votes_go_to_the_lowest_class(votes, winner):
    out = ensemble([jax.nn.one_hot(jnp.array([v]), 3) for v in votes], "vote")(X[:1])
    assert int(out.logits.argmax()) == winner and bool(jnp.isfinite(out.logits).all())


def test_a_member_without_an_answer_has_no_vote():
    """Neither has the ensemble then: NaN predicts nothing."""
    members = [[[0.0, 1.0], [0.0, 1.0]], [[jnp.nan, jnp.nan], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]
    found = ensemble(members, "vote")(X[:2]).logits
    assert np.isnan(found[0]).all() and int(found[1].argmax()) == 1


@pytest.mark.parametrize("aggregate", ["mean", "vote"])
def test_a_single_model_answers_with_its_own_logits(aggregate):
    out = ensemble(SPLIT[:1], aggregate)(X[:1])
    assert_close(out.logits, SPLIT[0], rtol=0, atol=0)


def test_variables_are_those_of_a_single_model():
    assert ensemble(SPLIT[:1]).variables["params"]["z"].shape == (1, 3)
    with pytest.raises(ValueError, match="predictor has 3 members; allowed: 1"):
        _ = ensemble(SPLIT).variables


def test_stored_images_pass_the_pipeline(key):
    model = Model(lambda k: {}, lambda v, x, *, train, key=None: (Outputs(x[:, 0, 0], x[:, 0, 0]), {}))
    x = jnp.full((2, 3, 3, 1), 51, jnp.uint8)
    out = Predictor(({"params": {}},), model, Pipeline(mean=(0.1,), std=(0.5,)))(x)
    assert_close(out.logits, [[0.2], [0.2]])
