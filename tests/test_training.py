"""One training step by hand, and whole runs on real digits."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from camu_jax import Examples, Pipeline, Predictor, TrainSettings, accuracy, evaluate, loop, train
from camu_jax.optimizers import adam_l2, one_cycle, sgd_l2
from camu_jax.training import TrainState, train_step
from tests.helpers import (
    NORMED,
    PLAIN,
    assert_close,
    differ,
    examples,
    fresh,
    np_cross_entropy,
    np_log_softmax,
    np_plain,
)

D = examples(0, 12)
QUICK = TrainSettings(epochs=2, batch_size=5, learning_rate=0.01)


@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_a_step_descends_the_mean_cross_entropy(key, decay):
    """The gradient of softmax regression on the embedding, in float64."""
    variables = fresh(PLAIN)
    logits, embedding = np_plain(variables, D.x)
    residual = (np.exp(np_log_softmax(logits)) - np.eye(3)[np.asarray(D.y)]) / 12
    before = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"]["classify"])
    state = TrainState.create(PLAIN, variables, Pipeline(), sgd_l2(0.5))
    if decay == 1:
        state, metrics = jax.jit(train_step)(state, D, key=key)
        assert_close(metrics, {"loss": np_cross_entropy(logits, D.y).mean()})
    else:
        gradient = jax.tree.map(jnp.zeros_like, variables["params"])
        gradient["classify"] = {"bias": residual.sum(0), "kernel": embedding.T @ residual}
        gradient = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), gradient)
        state = state.descend(gradient, {}, decay=decay)
    expected = {
        "bias": before["bias"] - decay * 0.5 * residual.sum(0),
        "kernel": before["kernel"] - decay * 0.5 * embedding.T @ residual,
    }
    assert_close(state.variables["params"]["classify"], expected)


def test_batch_statistics_follow(key):
    state = TrainState.create(NORMED, fresh(NORMED), Pipeline(), sgd_l2(0.1))
    found, _ = jax.jit(train_step)(state, D, key=key)
    expected = jax.jit(lambda variables, x: NORMED.train(variables, [x])[1])(fresh(NORMED), D.x)
    assert_close(found.variables["batch_stats"], expected)


def test_the_key_alone_decides(model, key):
    first, same, other = (train(k, model, D, QUICK) for k in (key, key, jax.random.key(1)))
    chex.assert_trees_all_equal(first, same)
    assert differ(first["params"], other["params"])


def test_settings_and_augmentation_matter(key):
    stored = Examples((D.x * 255).astype(jnp.uint8), D.y, 3)
    plain = train(key, PLAIN, stored, QUICK)
    for settings, pipeline in (
        (TrainSettings(epochs=2, batch_size=5, learning_rate=0.01, l2=0.5), Pipeline()),
        (QUICK, Pipeline(augment="crop_flip")),
        (QUICK, Pipeline(mean=(0.5,))),
    ):
        assert differ(train(key, PLAIN, stored, settings, pipeline=pipeline), plain)


def test_an_optax_optimizer_takes_the_place_of_adam(key):
    """The settings' learning rate and L2 are then not read."""
    same = train(key, PLAIN, D, QUICK, optimizer=adam_l2(QUICK.learning_rate, QUICK.l2))
    chex.assert_trees_all_equal(same, train(key, PLAIN, D, QUICK))
    given, other = (
        train(key, PLAIN, D, settings, optimizer=optax.sgd(0.1))
        for settings in (QUICK, replace(QUICK, learning_rate=0.5, l2=0.5))
    )
    chex.assert_trees_all_equal(given, other)
    assert differ(given["params"], same["params"])


def test_a_schedule_takes_the_place_of_the_learning_rate(key):
    """An epoch is 3 steps: with a rate of 0 from then on the second one changes nothing."""
    schedule = lambda count: jnp.where(count < 3, 0.01, 0.0)  # noqa: E731
    assert_close(train(key, PLAIN, D, QUICK, optimizer=schedule), train(key, PLAIN, D, replace(QUICK, epochs=1)))
    assert_close(train(key, PLAIN, D, QUICK, optimizer=lambda count: 0.01), train(key, PLAIN, D, QUICK))


@pytest.mark.parametrize("steps", [1, 3, 10, 100])
def test_one_cycle_rises_and_falls(steps):
    """Of a constant gradient Adam's update is the learning rate."""
    optimizer = TrainSettings(schedule="one_cycle", learning_rate=0.5, l2=0.0).optimizer(steps)
    params = jnp.zeros(())
    state, rates = optimizer.init(params), []
    for _ in range(steps):
        update, state = optimizer.update(jnp.ones(()), state, params)
        rates.append(-float(update))
    top = rates.index(max(rates))
    assert top == int(0.3 * steps) and rates[top] == pytest.approx(0.5, rel=1e-3)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) >= 0 and (steps < 100 or (rates[0] < 0.03 and rates[-1] < 0.001))


def test_one_cycle_is_of_the_whole_training(key):
    """And compiles a step once, whenever it is asked for again."""
    cycle = replace(QUICK, schedule="one_cycle")
    schedule = one_cycle(QUICK.learning_rate, 6)
    found = train(key, PLAIN, D, cycle)
    chex.assert_trees_all_equal(found, train(key, PLAIN, D, QUICK, optimizer=schedule))
    assert differ(found["params"], train(key, PLAIN, D, QUICK)["params"])
    compiled = loop._single._cache_size()
    train(key, PLAIN, D, cycle)
    assert loop._single._cache_size() == compiled


def test_progress_is_called_after_every_step(key):
    heard = []
    train(key, PLAIN, D, QUICK, progress=heard.append)
    assert [(p.step, p.steps) for p in heard] == [(i, 6) for i in range(1, 7)]
    assert all(set(p.metrics) == {"loss"} for p in heard)


def test_the_cnn_learns_real_digits(cnn, trained, digits, tiny):
    predictor = Predictor((trained,), cnn)
    assert accuracy(evaluate.outputs(predictor, digits.x).logits, digits.y) > 95
    assert accuracy(evaluate.outputs(predictor, tiny[1].x).logits, tiny[1].y) > 85


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("learning_rate", -1.0), ("l2", -0.1), ("learning_rate", float("nan"))],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; allowed: a finite number >= "):
        TrainSettings(**{name: value})


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="schedule is 'triangle'; allowed: constant, one_cycle"):
        TrainSettings(schedule="triangle")


def test_bad_examples_are_named(key):
    with pytest.raises(ValueError, match="examples is empty"):
        train(key, PLAIN, D[:0], QUICK)
