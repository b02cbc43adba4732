"""Bad teaching."""

import jax
import jax.numpy as jnp

from camu_jax import Predictor
from camu_jax.methods import bad_teacher
from tests.baselines.support import KEY, LINEAR, accuracy, close, jitted, listen, quick, same, student, unlearn


def test_bad_teacher_has_nothing_to_teach_where_it_is_the_good_one(linear):
    state = bad_teacher.BadTeacherState(student(LINEAR, linear.original), (linear.original,) * 2, 1.0)
    lesson = bad_teacher.Lesson(linear.forget.x, jnp.arange(32) % 2 == 0, None)
    state, metrics = jitted(bad_teacher.step)(state, lesson, key=KEY)
    assert abs(float(metrics["loss"])) < 1e-8
    close(state.student.variables, linear.original, atol=1e-6)


def test_bad_teacher_draws_its_share_of_the_retain_set(linear):
    for share, rows in ((0.0, 32), (1 / 3, 128), (1.0, 320)):
        _, heard = listen(lambda told, share=share: unlearn("bad_teacher", linear, progress=told, retain_share=share))
        assert len(heard) == rows // 32


def test_bad_teacher_retrained_teachers_know_their_own_set(linear):
    settings = quick("bad_teacher:retrained", teacher_learning_rate=3e-3)
    bad, good = (Predictor((v,), LINEAR) for v in bad_teacher.make_teachers(KEY, linear, settings))
    assert accuracy(bad, linear.forget) > 80 > 60 > accuracy(bad, linear.retain)
    assert accuracy(good, linear.retain) > 90
    official = quick("bad_teacher")
    bad, good = bad_teacher.make_teachers(KEY, linear, official)
    assert same(good, linear.original) and same(bad, jax.jit(LINEAR.init)(KEY))
