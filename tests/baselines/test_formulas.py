"""Losses and updates of the baselines against NumPy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Pipeline
from camu_jax.methods import bad_teacher, boundary, neggrad, scrub, unroll
from tests.baselines.support import (
    CLASSES,
    KEY,
    LINEAR,
    PIXELS,
    close,
    jitted,
    linear_init,
    np_model,
    np_softmax,
    same,
    student,
)


def np_update(variables, learning_rate, *parts):
    """Parameters after one SGD step; each part is images and the gradient at their logits."""
    p = {k: np.asarray(v, np.float64) for k, v in variables["params"].items()}
    kernel, bias = (sum(g) for g in zip(*[(x.T @ d, d.sum(0)) for x, d in parts], strict=True))
    return {"kernel": p["kernel"] - learning_rate * kernel, "bias": p["bias"] - learning_rate * bias}


def np_ce(z, onehot):
    return -(onehot * np.log(np_softmax(z))).sum(1)


def np_kl(target, z, t):
    p, q = np_softmax(target / t), np_softmax(z / t)
    return (p * np.log(p / q)).sum(1), (q - p) / t


@pytest.fixture
def shaken(linear):
    """Variables away from the original's, so that no gradient is near 0."""
    noise = 0.05 * jax.random.normal(jax.random.key(3), (PIXELS, CLASSES))
    params = {**linear.original["params"], "kernel": linear.original["params"]["kernel"] + noise}
    return {**linear.original, "params": params}


def test_neggrad_step_is_the_formula(linear, shaken):
    retain, forget = linear.retain[:16], linear.forget[:12]
    (x_r, z_r, y_r), (x_f, z_f, y_f) = np_model(shaken, retain), np_model(shaken, forget)
    ce_r, ce_f = np_ce(z_r, y_r), np_ce(z_f, y_f)
    ceiling = float(np.median(ce_f))
    below = (ce_f < ceiling)[:, None]
    settings = neggrad.NegGrad(alpha=0.7, forget_ceiling=ceiling / math.log(CLASSES))
    state = neggrad.NegGradState(student(LINEAR, shaken), settings)
    state, metrics = jitted(neggrad.step)(state, retain, forget, key=KEY)
    loss = 0.7 * ce_r.mean() - 0.3 * np.minimum(ce_f, ceiling).mean()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose([metrics["ce_retain"], metrics["ce_forget"]], [ce_r.mean(), ce_f.mean()], rtol=1e-5)
    parts = (x_r, 0.7 * (np_softmax(z_r) - y_r) / 16), (x_f, -0.3 * below * (np_softmax(z_f) - y_f) / 12)
    close(state.student.variables["params"], np_update(shaken, 0.1, *parts))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bad_teacher_step_is_the_formula(linear, shaken, temperature):
    bad = linear_init(jax.random.key(5))
    is_forget, batch = jnp.arange(16) % 3 == 0, linear.retain[:16]
    (x, z, _), (_, z_bad, _), (_, z_good, _) = (np_model(v, batch) for v in (shaken, bad, linear.original))
    target = np.where(np.asarray(is_forget)[:, None], z_bad, z_good)
    kl, gradient = np_kl(target, z, temperature)
    expected = np_update(shaken, 0.1, (x, gradient / (16 * CLASSES)))
    # the teachers may be asked in the step, or have been asked before
    for teachers, known in (((bad, linear.original), None), (None, jnp.asarray(target, jnp.float32))):
        state = bad_teacher.BadTeacherState(student(LINEAR, shaken), teachers, temperature)
        state, metrics = jitted(bad_teacher.step)(state, bad_teacher.Lesson(batch.x, is_forget, known), key=KEY)
        np.testing.assert_allclose(metrics["loss"], kl.mean() / CLASSES, rtol=1e-5)
        close(state.student.variables["params"], expected)


def test_scrub_steps_are_the_formulas(linear, shaken):
    settings = scrub.Scrub(gamma=0.8, alpha=0.3, temperature=4.0)
    batch = linear.retain[:16]
    (x, z, y), (_, z_teacher, _) = np_model(shaken, batch), np_model(linear.original, batch)
    kl, gradient = np_kl(z_teacher, z, 4.0)
    for teacher, known in ((linear.original, None), (None, jnp.asarray(z_teacher, jnp.float32))):
        state = scrub.ScrubState(student(LINEAR, shaken), teacher, jnp.float32(0.5), settings)
        away, metrics = jitted(scrub.max_step)(state, (batch, known), key=KEY)
        np.testing.assert_allclose(metrics["divergence"], 16 * kl.mean(), rtol=1e-4)
        close(away.student.variables["params"], np_update(shaken, 0.05, (x, -16 * gradient / 16)))
        back, metrics = jitted(scrub.min_step)(state, (batch, known), key=KEY)
        np.testing.assert_allclose(metrics["ce"], np_ce(z, y).mean(), rtol=1e-5)
        delta = (0.8 * (np_softmax(z) - y) + 0.3 * 16 * gradient) / 16
        close(back.student.variables["params"], np_update(shaken, 0.05, (x, delta)))


def test_unroll_steps_are_the_formulas(linear, shaken):
    batches = linear.forget[:16], linear.forget[16:]
    state = recorded = unroll.UnrollState.create(student(LINEAR, shaken))
    params, total, at_start = {k: np.asarray(v, np.float64) for k, v in shaken["params"].items()}, 0.0, 0.0
    for batch in batches:
        x, z, y = np_model(shaken, batch)
        at_start += x.T @ (np_softmax(z) - y) / len(batch)
        x, z, y = np_model({"params": params}, batch)
        delta = (np_softmax(z) - y) / len(batch)
        total, params = total + x.T @ delta, np_update({"params": params}, 0.1, (x, delta))
        state, metrics = jitted(unroll.forget_step)(state, batch, key=KEY)
        recorded, _ = jitted(unroll.record_step)(recorded, batch, key=KEY)
        np.testing.assert_allclose(metrics["loss"], np_ce(z, y).mean(), rtol=1e-5)
    close(state.student.variables["params"], params)
    close(state.recorded["kernel"], total)
    close(recorded.recorded["kernel"], at_start)
    assert same(recorded.student.variables, shaken)
    close(state.added_back(0.4)["params"]["kernel"], params["kernel"] + 0.4 * total)


def test_nearest_labels_are_one_fgsm_step_in_pixel_space(linear):
    """Also where the model is so sure that the gradient of its cross-entropy vanishes in float32."""
    pipeline = Pipeline(mean=(0.2,), std=(0.3,))
    forget, epsilon = linear.forget, 0.11
    kernel, bias = (np.asarray(linear.original["params"][k], np.float64) for k in ("kernel", "bias"))

    def logits(pixels):
        return (pixels - 0.2) / 0.3 @ kernel + bias

    pixels, y = np.asarray(forget.x, np.float64).reshape(32, -1) / 255, np.asarray(forget.y)
    gradient = (np_softmax(logits(pixels)) - np.eye(CLASSES)[y]) @ kernel.T
    stored = np.round(255 * np.clip(pixels + epsilon * np.sign(gradient), 0, 1))
    z = logits(stored / 255)
    official, crossed = boundary.nearest_labels(
        LINEAR, linear.original, pipeline, forget, epsilon=epsilon, keep_uncrossed=True
    )
    np.testing.assert_array_equal(official, z.argmax(1))
    np.testing.assert_array_equal(crossed, z.argmax(1) != y)
    assert 0 < crossed.sum()
    labels, again = boundary.nearest_labels(LINEAR, linear.original, pipeline, forget, epsilon=epsilon)
    z[np.arange(32), y] = -np.inf
    np.testing.assert_array_equal(labels, z.argmax(1))
    np.testing.assert_array_equal(again, crossed)
    assert labels.dtype == forget.y.dtype
