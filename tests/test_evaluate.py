"""Accuracies counted by hand, and outputs that do not depend on the batches."""

import chex
import jax
import jax.numpy as jnp
import pytest

from camu_jax import Examples, Model, Outputs, Pipeline, Predictor, accuracies, accuracy
from camu_jax.evaluate import outputs


def _apply(variables, x, *, train, key=None):
    """Predicts the class that the only pixel names, moved on by `shift`."""
    pixel = x[:, 0, 0, :]
    classes = (pixel[:, 0].astype(jnp.int32) + variables["params"]["shift"]) % 4
    return Outputs(jax.nn.one_hot(classes, 4), pixel), {}


ORACLE = Model(lambda key: {"params": {"shift": jnp.int32(0)}, "batch_stats": {}}, _apply)


def told(predicted, labels):
    """Examples for which `ORACLE` predicts what is told."""
    return Examples(jnp.array(predicted, jnp.float32).reshape(-1, 1, 1, 1), jnp.array(labels), 4)


@pytest.fixture
def predictor(key):
    return Predictor((ORACLE.init(key),), ORACLE)


@pytest.mark.parametrize(
    ("logits", "y", "expected"),
    [
        ([[1.0, 2.0], [3.0, 0.0]], [1, 0], 100.0),
        ([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [0, 0, 1, 0], 50.0),
        ([[2.0, 2.0, 2.0]], [0], 100.0),  # ties go to the lowest class
        ([[2.0, 2.0, 2.0]], [2], 0.0),
    ],
)
def test_accuracy_by_hand(logits, y, expected):
    found = accuracy(jnp.array(logits), jnp.array(y))
    assert isinstance(found, float) and found == expected


FORGET, RETAIN = told([0, 1], [0, 0]), told([1, 2, 3, 3, 1], [1, 2, 3, 0, 1])
TEST = told([0, 1, 1, 2, 0, 3, 2, 1], [0, 0, 1, 2, 2, 3, 3, 1])


def test_accuracies_by_hand(predictor):
    found = accuracies(predictor, FORGET, RETAIN, TEST)
    assert found == pytest.approx({"R_tr": 80.0, "F_tr": 50.0, "T_s": 62.5})


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ((0,), {"R_ts": 100 * 4 / 6, "F_ts": 50.0}),
        ((0, 2), {"R_ts": 75.0, "F_ts": 50.0}),
        ((1, 2, 3), {"R_ts": 50.0, "F_ts": 100 * 4 / 6}),
        ((0, 1, 2, 3), {"F_ts": 62.5}),
    ],
)
def test_a_class_task_splits_the_test_set(predictor, classes, expected):
    found = accuracies(predictor, FORGET, RETAIN, TEST, forget_classes=classes)
    assert {name: found[name] for name in found if name.endswith("_ts")} == pytest.approx(expected)
    assert found["T_s"] == 62.5


def test_no_test_example_of_the_removed_class(predictor):
    found = accuracies(predictor, FORGET, RETAIN, TEST[2:4], forget_classes=(0,))
    assert found["R_ts"] == 100 and "F_ts" not in found


@pytest.mark.parametrize("batch_size", [1, 3, 8, 500])
def test_batches_and_their_ragged_end_change_nothing(predictor, batch_size):
    found = outputs(predictor, TEST.x, batch_size=batch_size)
    chex.assert_shape([found.logits, found.embedding], [(8, 4), (8, 1)])
    chex.assert_trees_all_equal(found, predictor(TEST.x))


def test_augmentation_applies_to_forget_and_retain_set_only(key):
    """Stored images whose only bright pixel a crop may remove; the oracle then answers 0."""

    def apply(variables, x, *, train, key=None):
        classes = (x.max((1, 2, 3)) > 0.5).astype(jnp.int32)
        return Outputs(jax.nn.one_hot(classes, 2), x.mean((1, 2))), {}

    bright = jnp.zeros((64, 8, 8, 1), jnp.uint8).at[:, 0, 0].set(255)
    D = Examples(bright, jnp.ones(64, jnp.int32), 2)
    variables = {"params": {}, "batch_stats": {}}
    predictor = Predictor((variables,), Model(lambda k: variables, apply), Pipeline(augment="crop_flip"))
    assert set(accuracies(predictor, D, D, D).values()) == {100.0}
    augmented = accuracies(predictor, D, D, D, augment_key=key)
    assert augmented["T_s"] == 100 and augmented["R_tr"] == augmented["F_tr"] < 60
    assert augmented == accuracies(predictor, D, D, D, augment_key=key)
    again = outputs(predictor, bright, batch_size=32, augment_key=key).logits
    assert (again[:32] != again[32:]).any(), "two batches were augmented alike"


def test_reports_of_a_method_are_no_part_of_the_prediction_and_need_no_new_program(predictor):
    traced = []

    def apply(variables, x, *, train, key=None):
        traced.append(len(x))
        return _apply(variables, x, train=train)

    model = Model(ORACLE.init, apply)
    plain, told = (Predictor(predictor.members, model, info=info) for info in ({}, {"steps": jnp.float32(3)}))
    chex.assert_trees_all_equal(outputs(plain, TEST.x), outputs(told, TEST.x))
    assert traced == [8]


@pytest.mark.parametrize(("n", "batch_size", "message"), [(0, 5, "number of images is 0"), (3, 0, "batch_size is 0")])
def test_nothing_to_do_is_refused(predictor, n, batch_size, message):
    with pytest.raises(ValueError, match=message):
        outputs(predictor, TEST.x[:n], batch_size=batch_size)
