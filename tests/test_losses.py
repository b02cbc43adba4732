"""Both losses against float64 NumPy, their gradients against finite differences, and their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from camu_jax.losses import cross_entropy, distillation_kl, embedding_kl, reduce
from tests.helpers import assert_close, np_cross_entropy, np_kl

DIRECTIONS = pytest.mark.parametrize("direction", ["target_model", "model_target"])
E, T = (3 * np.random.default_rng(s).normal(size=(5, 7)).astype(np.float32) for s in (0, 1))
Y = np.array([0, 3, 6, 1, 1], np.int32)
rows = hnp.arrays(np.float32, (2, 5, 7), elements=st.floats(-30, 30, width=32))


@given(rows)
def test_values_equal_numpy(pair):
    model, target = pair
    assert_close(embedding_kl(jnp.asarray(model), jnp.asarray(target)), np_kl(target, model), atol=1e-5)
    reverse = embedding_kl(jnp.asarray(model), jnp.asarray(target), direction="model_target")
    assert_close(reverse, np_kl(model, target), atol=1e-5)
    assert_close(cross_entropy(jnp.asarray(model), jnp.asarray(Y)), np_cross_entropy(model, Y))


@given(rows, st.floats(-30, 30, width=32))
def test_kl_is_not_negative_and_blind_to_a_shift(pair, shift):
    model, target = (jnp.asarray(part) for part in pair)
    for direction in ("target_model", "model_target"):
        values = embedding_kl(model, target, direction=direction)
        assert float(values.min()) >= -1e-5
        assert_close(embedding_kl(model + shift, target, direction=direction), values, rtol=1e-4, atol=1e-4)
        assert_close(embedding_kl(model, model + shift, direction=direction), np.zeros(5), atol=1e-5)


@DIRECTIONS
def test_gradients_equal_finite_differences(direction):
    with jax.enable_x64(True):
        e, t = jnp.asarray(E, jnp.float64), jnp.asarray(T, jnp.float64)
        check_grads(lambda e, t: embedding_kl(e, t, direction=direction), (e, t), order=1, modes=["rev"])
        check_grads(lambda e: cross_entropy(e, jnp.asarray(Y)), (e,), order=1, modes=["rev"])


@DIRECTIONS
def test_the_gradient_is_0_at_equality(direction):
    gradient = jax.grad(lambda e: embedding_kl(e, jnp.asarray(E) + 2, direction=direction).sum())(jnp.asarray(E))
    assert_close(gradient, np.zeros_like(E))


@DIRECTIONS
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_embeddings_stay_finite(direction, size):
    e = jnp.array([[size, -size, 0.0]])
    value, gradient = jax.value_and_grad(lambda e: embedding_kl(e, -e, direction=direction).sum())(e)
    assert_close(value, 2 * size)
    assert bool(jnp.isfinite(gradient).all())
    value, gradient = jax.value_and_grad(lambda e: cross_entropy(e, jnp.array([1])).sum())(e)
    assert_close((value, gradient), (2 * size, [[1.0, -1.0, 0.0]]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    e, t = jnp.asarray(E, dtype), jnp.asarray(T, dtype)
    for found, expected in (
        (embedding_kl(e, t), np_kl(t.astype(jnp.float32), e.astype(jnp.float32))),
        (cross_entropy(e, jnp.asarray(Y)), np_cross_entropy(e.astype(jnp.float32), Y)),
    ):
        assert found.dtype == jnp.float32
        assert_close(found, expected)


def test_any_leading_axes():
    e, t = (jnp.asarray(part).reshape(5, 1, 7) for part in (E, T))
    assert_close(embedding_kl(e, t), np_kl(T, E)[:, None])
    assert_close(cross_entropy(e, jnp.asarray(Y)[:, None]), np_cross_entropy(E, Y)[:, None])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_puts_the_teacher_first(temperature):
    found = distillation_kl(jnp.asarray(E), jnp.asarray(T), temperature=temperature)
    assert_close(found, np_kl(T / temperature, E / temperature))


@pytest.mark.parametrize(("how", "expected"), [("sum", 9.0), ("mean", 3.0)])
def test_reduce(how, expected):
    assert float(reduce(jnp.array([1.0, 2.0, 6.0]), how)) == expected
