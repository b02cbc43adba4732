"""Functions compare by what they are made of: equal ones compile once, others do not."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from camu_jax._value import by_value, by_value_transformation

OPTIMIZERS = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "chain": lambda rate: optax.chain(optax.clip(1.0), optax.adam(rate)),
    "schedule": lambda rate: optax.adam(optax.cosine_decay_schedule(rate, 100)),
    "injected": lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    "by_part": lambda rate: optax.multi_transform({"a": optax.adam(rate), "b": optax.sgd(rate)}, {"w": "a", "v": "b"}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fresh_optimizer_compiles_nothing_again(name):
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(optimizer, params):
        traced.append(1)
        with jax.numpy_dtype_promotion("standard"):  # Optax needs it
            return optimizer.update(params, optimizer.init(params), params)[0]

    params = {"w": jnp.ones(3), "v": jnp.ones(2)}
    for rate, programs in ((1e-3, 1), (1e-3, 1), (2e-3, 2), (1e-3, 2)):
        step(by_value_transformation(OPTIMIZERS[name](rate)), params)
        assert len(traced) == programs


def closure(*things):
    return lambda: things


@pytest.mark.parametrize(
    "thing", [1, 1.0, True, "a", None, (1, [2]), {"a": 1}, jnp.arange(3), closure(1), functools.partial(max, 2)]
)
def test_equal_contents_are_equal(thing):
    first, second = by_value(closure(thing)), by_value(closure(thing))
    assert first == second and hash(first) == hash(second) and by_value(first) is first
    assert first != by_value(closure(thing, thing)) and first != closure(thing)


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, 1.0), (1, True), (0, None), ([1], (1,)), (jnp.arange(3), jnp.arange(3.0)), (jnp.arange(3), jnp.zeros(3))],
)
def test_other_contents_are_not(a, b):
    assert by_value(closure(a)) != by_value(closure(b))


def test_what_has_no_value_counts_by_identity():
    class Thing:
        __hash__ = None

    thing = Thing()
    assert by_value(closure(thing)) == by_value(closure(thing)) != by_value(closure(Thing()))


def test_other_code_defaults_and_recursion():
    def make(factor):
        def again(n=factor):
            return 1 if n <= 1 else again(n - 1) + factor

        return again

    assert by_value(make(2)) == by_value(make(2)) != by_value(make(3))
    assert by_value(lambda x: x + 1) != by_value(lambda x: x + 2)
    assert by_value(make(3))(4) == make(3)(4)
