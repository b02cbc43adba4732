"""Functions compare by what they are made of: equal ones compile once, others do not."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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
# Not all of them take a step in the tests' strict arithmetic; that they compare equal is enough.
MORE_OPTIMIZERS = {
    "joined": lambda rate: optax.adam(
        optax.join_schedules([optax.constant_schedule(rate), optax.exponential_decay(rate, 10, 0.9)], [5])
    ),
    "piecewise": lambda rate: optax.sgd(optax.piecewise_constant_schedule(rate, {10: 0.1})),
    "warmup": lambda rate: optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, rate, 5, 50), mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    ),
    "injected_schedule": lambda rate: optax.inject_hyperparams(optax.adamw)(
        learning_rate=optax.cosine_decay_schedule(rate, 10), weight_decay=1e-3
    ),
    "accumulated": lambda rate: optax.MultiSteps(optax.adam(rate), 2).gradient_transformation(),
    "array": lambda rate: optax.adam(jnp.asarray(rate)),
    "noisy": lambda rate: optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(rate)),
    "frozen": lambda rate: optax.partition(
        {"a": optax.adam(rate), "z": optax.set_to_zero()}, lambda p: {"w": "a", "v": "z"}
    ),
    "checked": lambda rate: optax.apply_if_finite(optax.lamb(rate), 3),
    "lbfgs": optax.lbfgs,
    "muon": optax.contrib.muon,
    "schedule_free": optax.contrib.schedule_free_adamw,
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


@pytest.mark.parametrize("name", MORE_OPTIMIZERS)
def test_fresh_optimizers_are_equal(name):
    make = MORE_OPTIMIZERS[name]
    first, second, other = (by_value_transformation(make(rate)) for rate in (1e-3, 1e-3, 2e-3))
    assert type(first) is type(make(1e-3))
    assert first == second and hash(first) == hash(second) and first != other


def test_nested_transformations_are_not_gone_through_again_and_again():
    """Each layer holds the inner one twice, in `init` and in `update`: 2^40 visits, were each counted anew."""

    def nested():
        optimizer = optax.adam(1e-3)
        for _ in range(40):
            optimizer = optax.masked(optimizer, lambda p: jax.tree.map(lambda _: True, p))
        return by_value_transformation(optimizer)

    assert nested() == nested()


def closure(*things):
    return lambda: things


@pytest.mark.parametrize(
    "fresh",
    [
        lambda: (1, 1.0, True, "a", None, float("nan")),
        lambda: (1, [2], {"a": {3}}, slice(1, 2), range(3)),
        lambda: (jnp.arange(3), np.arange(3), np.float32(2), jax.random.key(3), np.dtype("int8")),
        lambda: (closure(1), functools.partial(max, 2), closure(closure(jnp.ones(2)))),
        lambda: nn.Dense(3, kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal")),
        lambda: by_value(closure([1])),
    ],
)
def test_equal_contents_are_equal(fresh):
    first, second = by_value(closure(fresh())), by_value(closure(fresh()))
    assert first == second and hash(first) == hash(second) and by_value(first) is first
    assert first != by_value(closure(fresh(), 1)) and first != closure(fresh())


def test_name_and_signature_stay():
    def double(x, *, train):
        return 2 * x

    same = by_value(double)
    assert same.__name__ == "double" and list(inspect.signature(same).parameters) == ["x", "train"]
    assert jax.jit(same, static_argnames="train")(3, train=True) == 6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        (0, None),
        (0.0, -0.0),
        ([1], (1,)),
        ({1: 2}, {True: 2}),
        (jnp.arange(3), jnp.arange(3.0)),
        (jnp.arange(3), jnp.zeros(3)),
        (jnp.arange(3), np.arange(3)),
        (jnp.zeros(3, jnp.float8_e4m3fn), jnp.zeros(3, jnp.float8_e5m2)),
        (jnp.asarray(1.0, jnp.float32), jax.jit(lambda x: x)(1.0)),  # the second gives way to other dtypes
        (jnp.zeros(2**15), jnp.zeros(2**15)),  # too large to be looked at
        (np.array([object()]), np.array([object()])),
        (nn.Dense(3, kernel_init=nn.initializers.zeros), nn.Dense(3, kernel_init=nn.initializers.ones)),
    ],
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


def test_globals_that_a_function_names_count():
    """A cell of a notebook that is run again has other globals and the same code."""
    names = {}
    source = "SCALE = {}\nUNUSED = {}\ndef call(x):\n    return [SCALE * x for _ in range(1)]\nfunction = call"

    def make(scale, unused=0):
        exec(compile(source.format(scale, unused), "cell", "exec"), names)
        return by_value(names["function"])

    assert make("1.0") == make("1.0", unused=3) != make("5.0") != make("[5.0]")
    first, again = make("5.0"), make("5.0")
    jitted = jax.jit(lambda f, x: f(x)[0], static_argnums=0)
    assert jitted(first, 2.0) == jitted(again, 2.0) == 10 and jitted(make("7.0"), 2.0) == 14


def test_while_something_is_traced():
    """What is traced counts by identity; a key is a number there too."""
    key, again = jax.random.key(0), jax.random.key(0)

    def equal(x):
        assert by_value(closure(x)) == by_value(closure(x)) != by_value(closure(x + 0))
        assert by_value(closure(key)) == by_value(closure(again))
        return x

    assert jax.jit(equal)(1.0) == 1
