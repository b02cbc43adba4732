"""The six baselines: what defines each of them, on real digits and models small enough to check by hand."""

import ast
import dataclasses
import functools
import inspect
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Model, Outputs, Pipeline, Predictor, Problem, TrainSettings, evaluate, loop, train
from camu_jax.camu import CamuSettings
from camu_jax.methods import CAMU_ABLATIONS, METHODS, bad_teacher, boundary, neggrad, scrub, sisa, unroll
from camu_jax.optimizers import sgd_l2
from camu_jax.training import TrainState, train_step

KEY = jax.random.key(7)
PIXELS, WIDTH, CLASSES = 28 * 28, 12, 10
BASELINES = ("neggrad", "boundary", "bad_teacher", "scrub", "sisa", "unroll")
QUICK = {  # compiling takes nearly all the time of these tests: 32 forget and 288 retain examples make whole batches
    "neggrad": dict(epochs=1, learning_rate=0.01, momentum=0.0, alpha=0.95),
    "boundary": dict(epochs=2, batch_size=16),
    "boundary:expand": dict(variant="expand", epochs=2, batch_size=16),
    "bad_teacher": dict(batch_size=32, learning_rate=1e-3, retain_share=1 / 3),
    "bad_teacher:retrained": dict(batch_size=32, learning_rate=1e-3, retain_share=1 / 3, teachers="retrained"),
    "scrub": dict(epochs=2, msteps=1, forget_batch_size=16, learning_rate=1e-3),
    "scrub:rewind": dict(
        epochs=4, msteps=3, forget_batch_size=16, learning_rate=1e-3, rewind=True, validation_share=1 / 9
    ),
    "sisa": dict(epochs=3, shards=2, slices=2),
    "unroll": dict(),
    "unroll:single_gradient": dict(variant="single_gradient"),
}


def _flat(x):
    return x.reshape(x.shape[0], -1)


def _linear_init(key):
    kernel = 0.05 * jax.random.normal(key, (PIXELS, CLASSES))
    return {"params": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}, "batch_stats": {}}


def _linear_apply(variables, x, *, train):
    p = variables["params"]
    return Outputs(_flat(x) @ p["kernel"] + p["bias"].reshape(1, -1), _flat(x)), {}


def _bn_init(key):
    first, last = jax.random.split(key)
    params = {
        "first": jax.random.normal(first, (PIXELS, WIDTH)) / math.sqrt(PIXELS),
        "scale": jnp.ones(WIDTH),
        "shift": jnp.zeros(WIDTH),
        "last": jax.random.normal(last, (WIDTH, CLASSES)) / math.sqrt(WIDTH),
    }
    return {"params": params, "batch_stats": {"mean": jnp.zeros(WIDTH), "var": jnp.ones(WIDTH)}}


def _bn_apply(variables, x, *, train):
    p, stats = variables["params"], variables["batch_stats"]
    h = _flat(x) @ p["first"]
    mean, var = (h.mean(0), h.var(0)) if train else (stats["mean"], stats["var"])
    h = (h - mean.reshape(1, -1)) * jax.lax.rsqrt(var + 1e-5).reshape(1, -1)
    embedding = jax.nn.relu(h * p["scale"].reshape(1, -1) + p["shift"].reshape(1, -1))
    if train:
        stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var}
    return Outputs(embedding @ p["last"], embedding), stats


LINEAR, BN = Model(_linear_init, _linear_apply), Model(_bn_init, _bn_apply)


@pytest.fixture(scope="module", autouse=True)
def compile_fast():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def originals(digits):
    settings = TrainSettings(epochs=10, learning_rate=3e-3)
    return {model: train(jax.random.key(0), model, digits, settings) for model in (LINEAR, BN)}


@pytest.fixture
def problem(digits, originals):
    return make_problem(digits, originals, BN)


@pytest.fixture
def linear(digits, originals):
    return make_problem(digits, originals, LINEAR)


@pytest.fixture
def class_problem(digits, originals):
    forget = np.asarray(digits.y) == 0
    parts = digits[jnp.flatnonzero(forget)], digits[jnp.flatnonzero(~forget)]
    return Problem(model=BN, original=originals[BN], forget=parts[0], retain=parts[1])


def make_problem(digits, originals, model, **changes):
    return Problem(model=model, original=originals[model], forget=digits[:32], retain=digits[32:], **changes)


def unlearn(name, problem, key=KEY, **changes):
    method = METHODS[name.partition(":")[0]]
    return method.unlearn(key, problem, method.settings(**{**QUICK[name], **changes}))


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda p, q: bool((p == q).all()), a, b)))


def close(a, b, atol=1e-6):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=atol), a, b)


def differ(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda p, q: float(jnp.abs(p - q).max()), a, b)))


def student(model, variables, learning_rate=0.1):
    return TrainState.create(model, variables, Pipeline(), sgd_l2(learning_rate))


def whole(examples):
    return loop.Stream(examples, 32)


def accuracy(predictor, examples):
    return evaluate.accuracy(evaluate.outputs(predictor, examples.x).logits, examples.y)


def listen(run, problem):
    """What `run` returns, and what the progress listener heard."""
    heard = []
    return run(dataclasses.replace(problem, progress=heard.append)), heard


jitted = functools.cache(jax.jit)


# --- every method -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in QUICK if name != "scrub:rewind"])
def test_unlearns_reproducibly_and_leaves_the_original_alone(name, problem):
    before = jax.tree.map(np.array, problem.original)
    first, heard = listen(lambda problem: unlearn(name, problem), problem)
    assert same(first.members, unlearn(name, problem).members)
    if name != "sisa":  # other shards have other sizes, to be compiled again
        assert not same(first.members, unlearn(name, problem, key=jax.random.key(8)).members)
    assert same(before, problem.original) and not any(leaf.is_deleted() for leaf in jax.tree.leaves(problem.original))
    for member in first.members:
        assert jax.tree.structure(member) == jax.tree.structure(problem.original)
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(), member, problem.original)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(member))
    out = evaluate.outputs(first, problem.forget.x)
    assert out.logits.shape == (32, CLASSES) and out.embedding.shape[0] == 32
    assert [p.step for p in heard] == list(range(1, len(heard) + 1))
    assert {p.steps for p in heard} == {len(heard)}
    assert all(math.isfinite(float(value)) for p in heard for value in p.metrics.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifted(Pipeline):
    """Moves each minibatch sideways by 0 to 6 pixels: an augmentation that compiles at once."""

    augment: str = "crop_flip"

    def training(self, key, x):
        return self.clean(x if self.augment == "none" else jnp.roll(x, jax.random.randint(key, (), 0, 7), axis=2))


@pytest.mark.parametrize("name", ["bad_teacher", "scrub"])
def test_teachers_see_the_augmented_images_that_the_student_sees(name, digits, originals):
    """Student and teacher start equal, so that what the good teacher says of the same images is no news."""
    problem = make_problem(digits, originals, LINEAR, pipeline=Shifted())
    if name == "bad_teacher":
        state = bad_teacher.BadTeacherState(student(LINEAR, problem.original), (problem.original,) * 2, 1.0)
        lesson = bad_teacher.Lesson(problem.forget.x, jnp.zeros(32, bool), None)
        step, batch = bad_teacher.step, lesson
    else:
        settings = scrub.ScrubSettings(gamma=0.0, alpha=1.0)
        state = scrub.ScrubState(student(LINEAR, problem.original), problem.original, jnp.ones(()), settings)
        step, batch = scrub.min_step, (problem.forget, None)
    state = dataclasses.replace(state, student=dataclasses.replace(state.student, pipeline=Shifted()))
    _, metrics = jitted(step)(state, batch, key=KEY)
    assert all(abs(float(m)) < 1e-6 for m in metrics.values())
    assert all(math.isfinite(float(jnp.sum(leaf))) for leaf in jax.tree.leaves(unlearn(name, problem).members))


def test_registry_names_the_methods_of_the_paper_in_its_order():
    assert tuple(METHODS) == ("retrain", *BASELINES, "camu")
    assert {name for name, method in METHODS.items() if not method.uses_original} == {"retrain", "sisa"}


@pytest.mark.parametrize("name", BASELINES)
def test_settings_make_a_command_line(name):
    """Every field has a type that a flag can have, and a line of documentation below it."""
    settings = METHODS[name].settings
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        options = [t for t in typing.get_args(hints[field.name]) or (hints[field.name],) if t is not type(None)]
        plain = all(t in (int, float, bool, ...) or isinstance(t, str) for t in options)
        assert plain, f"{name}.{field.name}: {hints[field.name]}"
    body = ast.parse(inspect.getsource(settings)).body[0].body
    for i, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(body[i + 1], ast.Expr), f"{name}.{ast.unparse(node.target)} is not documented"
    assert dataclasses.is_dataclass(settings) and hash(settings()) == hash(settings())


@pytest.mark.parametrize(
    ("settings", "changes", "named"),
    [
        (neggrad.NegGradSettings, dict(alpha=1.5), "alpha is 1.5"),
        (neggrad.NegGradSettings, dict(forget_ceiling=0.0), "forget_ceiling is 0.0"),
        (neggrad.NegGradSettings, dict(forget_batch_size=0), "forget_batch_size is 0"),
        (boundary.BoundarySettings, dict(epsilon=-0.1), "epsilon is -0.1"),
        (boundary.BoundarySettings, dict(variant="grow"), "shrink, expand"),
        (bad_teacher.BadTeacherSettings, dict(retain_share=2.0), "retain_share is 2.0"),
        (bad_teacher.BadTeacherSettings, dict(temperature=0.0), "temperature is 0.0"),
        (bad_teacher.BadTeacherSettings, dict(teachers="good"), "official, retrained"),
        (scrub.ScrubSettings, dict(msteps=-1), "msteps is -1"),
        (scrub.ScrubSettings, dict(optimizer="lion"), "adam, sgd"),
        (scrub.ScrubSettings, dict(validation_share=1.0), "validation_share is 1.0"),
        (sisa.SisaSettings, dict(shards=0), "shards is 0"),
        (sisa.SisaSettings, dict(epochs=0), "epochs is 0"),
        (sisa.SisaSettings, dict(aggregate="median"), "aggregate is 'median'"),
        (unroll.UnrollSettings, dict(learning_rate=math.nan), "learning_rate is nan"),
        (unroll.UnrollSettings, dict(sigma=-1.0), "sigma is -1.0"),
    ],
)
def test_settings_refuse_nonsense_by_name(settings, changes, named):
    with pytest.raises(ValueError, match=named):
        settings(**changes)


def test_costs_are_those_of_the_specification(digits, originals):
    """Section 0 of baselines.md; |F| = 32, |R| = 288. Augmented images cost what the official codes cost."""
    plain = make_problem(digits, originals, LINEAR)
    augmented = dataclasses.replace(plain, pipeline=Pipeline(augment="crop_flip"))

    def cost(name, problem=augmented, **changes):
        return METHODS[name].cost(problem, METHODS[name].settings(**changes))

    assert cost("neggrad", epochs=2, batch_size=32, forget_batch_size=32) == 2 * 3 * (288 + 9 * 32)
    assert cost("neggrad", epochs=1, batch_size=32, forget_batch_size=20) == 3 * (288 + 4 * 32 + 20)
    assert cost("boundary", epochs=10) == 32 * (4 + 3 * 10)
    assert cost("boundary", epochs=10, variant="expand") == 3 * 32 * 10
    assert cost("bad_teacher", epochs=2, retain_share=0.25) == 2 * 5 * (32 + 72)
    assert cost("bad_teacher", plain, epochs=1, retain_share=0.25) == 4 * (32 + 72)
    retrained = dict(epochs=1, retain_share=0.25, teachers="retrained", teacher_epochs=3)
    assert cost("bad_teacher", plain, **retrained) == 4 * (32 + 72) + 3 * 3 * 320
    assert cost("scrub", epochs=5, msteps=2, warmup=1) == 4 * 32 * 2 + 4 * 288 * 6
    assert cost("scrub", plain, epochs=5, msteps=2, warmup=0) == 32 * (1 + 3 * 2) + 288 * (1 + 3 * 5)
    assert cost("scrub", plain, epochs=5, msteps=0, warmup=0, alpha=0.0) == 3 * 288 * 5
    held = round(0.1 * int(np.isin(plain.retain.y, plain.forget.y).sum()))
    rewound = cost("scrub", epochs=2, msteps=1, warmup=0, rewind=True, validation_share=0.1)
    assert rewound == 4 * 32 + 4 * (288 - held) * 2 + 2 * 32 + held
    assert cost("sisa", epochs=20) == 3 * 288 * 20
    assert cost("sisa", epochs=20, slices=4) == pytest.approx(3 * 288 * 20)
    assert cost("unroll", epochs=2) == 3 * 320 * 2
    assert cost("unroll", epochs=2, variant="single_gradient") == 3 * 320 * 2 + 3 * 32


@pytest.mark.parametrize(
    ("name", "augment"), [(name, "none") for name in QUICK] + [("bad_teacher", "crop_flip"), ("scrub", "crop_flip")]
)
def test_methods_do_no_more_work_than_their_cost_says(name, augment, linear, monkeypatch):
    """Counts the images that pass the model forward (1) and backward (2). Steps are traced, not compiled."""
    count = trace_instead_of_running(monkeypatch)

    @jax.custom_vjp
    def gate(logits):
        count.append(len(logits))
        return logits

    def backward(_, gradient):
        count.append(2 * len(gradient))
        return (gradient,)

    gate.defvjp(lambda logits: (gate(logits), None), backward)

    def apply(variables, x, *, train):
        out, stats = _linear_apply(variables, x, train=train)
        return Outputs(gate(out.logits), out.embedding), stats

    problem = dataclasses.replace(linear, model=Model(_linear_init, apply), pipeline=Shifted(augment=augment))
    unlearn(name, problem)
    method = METHODS[name.partition(":")[0]]
    expected = method.cost(problem, method.settings(**QUICK[name]))
    if name == "sisa":  # its slices lose about 8 of 80 examples to the forget set
        assert sum(count) == pytest.approx(expected, rel=0.05)
    else:
        assert sum(count) == expected + (name == "boundary:expand")  # which asks for the shapes of one image


def trace_instead_of_running(monkeypatch):
    """Steps keep their state, and what is jitted is called plainly; a list of counts is multiplied by the steps."""
    count = []

    def run(step, state, *streams, key, epochs, **_):
        plans = [loop._plan(stream, streams[0].batches) for stream in streams]
        sizes = [tuple(n for _, n in batch) for batch in zip(*plans, strict=True)]
        for each in set(sizes):
            batches = [jax.tree.map(lambda a, n=n: a[:n], s.rows) for s, n in zip(streams, each, strict=True)]
            known = len(count)
            after, _ = jax.eval_shape(lambda *args: step(*args, key=key), state, *batches)
            count[known:] = count[known:] * (epochs * sizes.count(each))
            assert jax.tree.structure(after) == jax.tree.structure(state)
        return state

    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(boundary, "_nearest", boundary._nearest.__wrapped__)
    monkeypatch.setattr(evaluate, "_call", evaluate._call.__wrapped__)
    return count


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("neggrad", dict(epochs=5, alpha=0.5, learning_rate=0.2)),
        ("boundary", dict(epochs=10, learning_rate=2e-3)),
        ("boundary:expand", dict(epochs=10, learning_rate=3e-3)),
        ("bad_teacher", dict(epochs=10, learning_rate=1e-2)),
        ("scrub", dict(epochs=4, msteps=2, learning_rate=5e-3)),
    ],
)
def test_forgets_a_class_and_keeps_the_others(name, changes, class_problem):
    before = Predictor((class_problem.original,), BN)
    assert accuracy(before, class_problem.forget) > 95 and accuracy(before, class_problem.retain) > 90
    after = unlearn(name, class_problem, **changes)
    assert accuracy(after, class_problem.forget) < 15
    assert accuracy(after, class_problem.retain) > 75


# --- losses and updates against NumPy in float64 --------------------------------------------------------------------


def np_softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def np_model(variables, examples):
    """Images, logits and one-hot labels in float64."""
    x = np.asarray(examples.x, np.float64).reshape(len(examples), -1) / 255
    kernel, bias = (np.asarray(variables["params"][k], np.float64) for k in ("kernel", "bias"))
    return x, x @ kernel + bias, np.eye(CLASSES)[np.asarray(examples.y)]


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
    settings = neggrad.NegGradSettings(alpha=0.7, forget_ceiling=ceiling / math.log(CLASSES))
    state = neggrad.NegGradState(student(LINEAR, shaken), settings)
    state, metrics = jitted(neggrad.step)(state, retain, forget, key=KEY)
    loss = 0.7 * ce_r.mean() - 0.3 * np.minimum(ce_f, ceiling).mean()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose([metrics["ce_retain"], metrics["ce_forget"]], [ce_r.mean(), ce_f.mean()], rtol=1e-5)
    parts = (x_r, 0.7 * (np_softmax(z_r) - y_r) / 16), (x_f, -0.3 * below * (np_softmax(z_f) - y_f) / 12)
    close(state.student.variables["params"], np_update(shaken, 0.1, *parts))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bad_teacher_step_is_the_formula(linear, shaken, temperature):
    bad = _linear_init(jax.random.key(5))
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
    settings = scrub.ScrubSettings(gamma=0.8, alpha=0.3, temperature=4.0)
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


# --- NegGrad --------------------------------------------------------------------------------------------------------


def test_neggrad_without_ascent_is_fine_tuning(linear):
    predictor = unlearn("neggrad", linear, alpha=1.0, learning_rate=0.05)
    tuned = loop.run(train_step, student(LINEAR, linear.original, 0.05), whole(linear.retain), key=KEY, epochs=1)
    assert differ(tuned.variables, linear.original) > 1e-3
    close(predictor.variables, tuned.variables, atol=1e-5)


def test_neggrad_stops_where_it_would_explode(linear):
    """The official loss has no lower bound; the guarded one does, and keeps the model."""
    changes = dict(epochs=6, alpha=0.5, learning_rate=0.3)
    guarded, heard = listen(lambda problem: unlearn("neggrad", problem, **changes), linear)
    wild, heard_wild = listen(lambda problem: unlearn("neggrad", problem, forget_ceiling=None, **changes), linear)
    assert min(float(p.metrics["loss"]) for p in heard_wild) < -20
    assert min(float(p.metrics["loss"]) for p in heard) >= -0.5 * math.log(CLASSES) - 1e-6
    assert accuracy(guarded, linear.retain) > 60 > 30 > accuracy(wild, linear.retain)


def test_neggrad_keeps_the_batches_of_batchnorm_apart(problem):
    state = neggrad.NegGradState(student(BN, problem.original), neggrad.NegGradSettings())
    retain, forget = problem.retain[:16], problem.forget[:12]
    state, _ = jitted(neggrad.step)(state, retain, forget, key=KEY)
    stats = problem.original["batch_stats"]
    for batch in (retain, forget):
        h = (np.asarray(batch.x, np.float64) / 255).reshape(len(batch), -1) @ problem.original["params"]["first"]
        stats = {k: 0.9 * stats[k] + 0.1 * v for k, v in (("mean", h.mean(0)), ("var", h.var(0)))}
    close(state.student.variables["batch_stats"], stats, atol=1e-5)


# --- Boundary -------------------------------------------------------------------------------------------------------


def test_boundary_never_reinforces_unless_asked(problem):
    """With a step too short to cross, the official labels are y: training on them teaches the forget set again."""
    labels, crossed = boundary.nearest_labels(BN, problem.original, Pipeline(), problem.forget, epsilon=0.0)
    assert not (labels == problem.forget.y).any()
    official, _ = boundary.nearest_labels(
        BN, problem.original, Pipeline(), problem.forget, epsilon=0.0, keep_uncrossed=True
    )
    assert (official == problem.forget.y).mean() > 0.9
    assert float(unlearn("boundary", problem, epsilon=0.0).info["crossed"]) == float(crossed.mean()) < 0.1
    assert float(unlearn("boundary", problem, epsilon=0.3).info["crossed"]) > 0.5


@pytest.mark.parametrize("name", ["boundary", "boundary:expand"])
def test_boundary_reads_nothing_but_clean_forget_images(name, problem):
    retain = dataclasses.replace(problem.retain, x=jnp.zeros_like(problem.retain.x), y=jnp.zeros_like(problem.retain.y))
    blank = dataclasses.replace(problem, retain=retain, pipeline=Pipeline(augment="crop_flip"))
    assert same(unlearn(name, problem).variables, unlearn(name, blank).variables)


def test_boundary_shrink_is_training_on_the_labels(problem):
    labels, _ = boundary.nearest_labels(BN, problem.original, Pipeline(), problem.forget)
    settings = METHODS["boundary"].settings(**QUICK["boundary"])
    state = TrainState.create(
        BN, problem.original, Pipeline(), sgd_l2(settings.learning_rate, settings.momentum, settings.l2)
    )
    stream = loop.Stream(dataclasses.replace(problem.forget, y=labels), 16)
    expected = loop.run(train_step, state, stream, key=jax.random.split(KEY)[1], epochs=2)
    assert same(unlearn("boundary", problem).variables, expected.variables)


def test_boundary_labels_do_not_depend_on_the_minibatches(linear, digits):
    many = digits[jnp.tile(jnp.arange(320), 2)]
    labels, crossed = boundary.nearest_labels(LINEAR, linear.original, Pipeline(), many)
    assert labels.shape == crossed.shape == (640,)
    np.testing.assert_array_equal(labels[:320], labels[320:])


def test_boundary_takes_floating_images_as_they_are(linear):
    images = linear.forget.x.astype(jnp.float32) / 255
    as_float, _ = boundary.nearest_labels(
        LINEAR, linear.original, Pipeline(), dataclasses.replace(linear.forget, x=images), epsilon=0.0
    )
    stored, _ = boundary.nearest_labels(LINEAR, linear.original, Pipeline(), linear.forget, epsilon=0.0)
    np.testing.assert_array_equal(as_float, stored)


def test_boundary_expand_adds_a_class_and_drops_it(problem):
    x = problem.pipeline.clean(problem.forget.x)
    shape = x.shape[1:]
    variables = boundary.expand(KEY, BN, problem.original, shape)
    before, after = BN.eval(problem.original, x), boundary.expanded(BN, shape).eval(variables, x)
    assert after.logits.shape == (32, CLASSES + 1)
    np.testing.assert_array_equal(after.logits[:, :CLASSES], before.logits)
    shadow = variables["params"]["shadow"]["kernel"]
    close(after.logits[:, CLASSES:], before.embedding @ shadow, atol=1e-5)
    scale = math.sqrt(2 / (WIDTH + CLASSES + 1))  # Xavier
    wide = boundary.expanded(LINEAR, shape).init(KEY)["params"]["shadow"]["kernel"]
    assert float(jnp.std(wide)) == pytest.approx(math.sqrt(2 / (PIXELS + CLASSES + 1)), rel=0.1)
    assert 0.4 < float(jnp.std(shadow)) / scale < 1.6
    assert evaluate.outputs(unlearn("boundary:expand", problem), problem.forget.x).logits.shape == (32, CLASSES)
    assert same(unlearn("boundary:expand", problem, learning_rate=0.0).variables["params"], problem.original["params"])


# --- bad teaching ---------------------------------------------------------------------------------------------------


def test_bad_teacher_has_nothing_to_teach_where_it_is_the_good_one(linear):
    state = bad_teacher.BadTeacherState(student(LINEAR, linear.original), (linear.original,) * 2, 1.0)
    lesson = bad_teacher.Lesson(linear.forget.x, jnp.arange(32) % 2 == 0, None)
    state, metrics = jitted(bad_teacher.step)(state, lesson, key=KEY)
    assert abs(float(metrics["loss"])) < 1e-8
    close(state.student.variables, linear.original, atol=1e-6)


def test_bad_teacher_draws_its_share_of_the_retain_set(linear):
    for share, rows in ((0.0, 32), (1 / 3, 128), (1.0, 320)):
        _, heard = listen(lambda problem, share=share: unlearn("bad_teacher", problem, retain_share=share), linear)
        assert len(heard) == rows // 32


def test_bad_teacher_retrained_teachers_know_their_own_set(linear):
    settings = METHODS["bad_teacher"].settings(**QUICK["bad_teacher:retrained"], teacher_learning_rate=3e-3)
    bad, good = (Predictor((v,), LINEAR) for v in bad_teacher.make_teachers(KEY, linear, settings))
    assert accuracy(bad, linear.forget) > 80 > 60 > accuracy(bad, linear.retain)
    assert accuracy(good, linear.retain) > 90
    official = METHODS["bad_teacher"].settings(**QUICK["bad_teacher"])
    bad, good = bad_teacher.make_teachers(KEY, linear, official)
    assert same(good, linear.original) and same(bad, jax.jit(LINEAR.init)(KEY))


# --- SCRUB ----------------------------------------------------------------------------------------------------------


def test_scrub_starts_at_a_stationary_point(linear):
    state = scrub.ScrubState(student(LINEAR, linear.original), linear.original, jnp.ones(()), scrub.ScrubSettings())
    state, metrics = jitted(scrub.max_step)(state, (linear.forget, None), key=KEY)
    assert abs(float(metrics["divergence"])) < 1e-6
    close(state.student.variables, linear.original, atol=1e-6)


def test_scrub_warms_up_so_that_the_first_max_pass_moves(linear):
    """In the official order the first max pass of plain SGD does nothing at all."""
    first = {}
    for warmup in (0, 1):
        settings = dict(epochs=1, warmup=warmup, optimizer="sgd", l2=0.0, learning_rate=1e-2)
        _, heard = listen(lambda problem, s=settings: unlearn("scrub", problem, **s), linear)
        divergences = [float(p.metrics["divergence"]) for p in heard if "ce" not in p.metrics]
        assert len(divergences) == 2  # one max pass of two batches
        first[warmup] = max(divergences)
    assert first[0] < 1e-6 < 1e-3 < first[1]


def test_scrub_alternates_and_ends_with_min_passes(problem):
    _, heard = listen(lambda problem: unlearn("scrub", problem), problem)
    kinds = ["min" if "ce" in p.metrics else "max" for p in heard]
    assert kinds == ["min"] * 9 + ["max"] * 2 + ["min"] * 9 * 2  # warmup, the only max pass, and two epochs


def test_scrub_decays_the_learning_rate_after_the_named_epochs(linear, monkeypatch):
    heard = []
    monkeypatch.setattr(loop, "run", lambda step, state, *_, **__: heard.append((step, float(state.decay))) or state)
    unlearn("scrub", linear, epochs=4, msteps=2, decay_epochs=(1, 3))
    decay = {step: [d for s, d in heard if s is step] for step in (scrub.max_step, scrub.min_step)}
    assert decay[scrub.max_step] == pytest.approx([1, 0.1])
    assert decay[scrub.min_step] == pytest.approx([1, 1, 0.1, 0.1, 0.01])  # warmup, then four epochs


def test_scrub_without_a_teacher_is_fine_tuning(linear):
    settings = dict(msteps=0, alpha=0.0, gamma=1.0, warmup=0, epochs=1, optimizer="sgd", l2=0.0)
    predictor = unlearn("scrub", linear, learning_rate=0.05, **settings)
    state = TrainState.create(LINEAR, linear.original, Pipeline(), sgd_l2(0.05, 0.9))
    tuned = loop.run(train_step, state, whole(linear.retain), key=jax.random.split(KEY)[1], epochs=1)
    close(predictor.variables, tuned.variables)


def test_scrub_rewinds_to_the_epoch_that_looks_unseen(problem):
    settings = scrub.ScrubSettings(**QUICK["scrub:rewind"])
    rows_key, loop_key = jax.random.split(KEY)
    retain, unseen = scrub.hold_out(rows_key, problem, settings)
    possible = int(np.isin(problem.retain.y, problem.forget.y).sum())
    assert len(unseen) == round(possible / 9) and len(retain) + len(unseen) == 288
    assert np.isin(unseen.y, problem.forget.y).all()
    held = {bytes(np.asarray(x)) for x in unseen.x}
    assert held.isdisjoint(bytes(np.asarray(x)) for x in retain.x)
    assert held <= {bytes(np.asarray(x)) for x in problem.retain.x}

    def error(variables, examples):
        return 100 - accuracy(Predictor((variables,), BN), examples)

    candidates = list(scrub.students(loop_key, dataclasses.replace(problem, retain=retain), settings))
    target = error(candidates[-1], unseen)
    best = int(np.argmin([abs(error(variables, problem.forget) - target) for variables in candidates]))
    predictor = unlearn("scrub:rewind", problem)
    assert len(candidates) == 4 and float(predictor.info["epoch"]) == best + 1
    assert same(predictor.variables, candidates[best]) and same(
        predictor.members, unlearn("scrub:rewind", problem).members
    )


def test_scrub_has_nothing_to_rewind_to_after_class_removal(class_problem):
    retain, unseen = scrub.hold_out(KEY, class_problem, scrub.ScrubSettings(rewind=True))
    assert unseen is None and retain is class_problem.retain
    retain, unseen = scrub.hold_out(KEY, class_problem, scrub.ScrubSettings(rewind=False))
    assert unseen is None and retain is class_problem.retain


# --- SISA -----------------------------------------------------------------------------------------------------------


SISA = sisa.SisaSettings(**QUICK["sisa"])  # 2 shards of 2 slices, 2 epochs a slice
FIT = 2 * 2 * (3 + 5)  # steps: slices of 80 examples and then of 160


@pytest.fixture(scope="module")
def ensemble(digits):
    """Trained on the retain set, then the forget set, of `problem`."""
    return sisa.fit(KEY, BN, digits[jnp.roll(jnp.arange(320), -32)], SISA)


def test_sisa_of_one_shard_is_retraining(problem):
    predictor = unlearn("sisa", problem, shards=1, slices=1)
    _, train_key = jax.random.split(KEY)
    retrained = train(jax.random.fold_in(train_key, 0), BN, problem.retain, TrainSettings(epochs=3))
    assert same(predictor.variables, retrained)


def test_sisa_deals_every_example_once(digits):
    state = sisa.assign(KEY, LINEAR, digits, sisa.SisaSettings(shards=3, slices=3))
    assert sorted(np.bincount(state.shard)) == [106, 107, 107]
    for s in range(3):
        assert set(np.bincount(state.slice[state.shard == s])) <= {35, 36}
        assert len(np.unique(np.asarray(digits.y)[state.shard == s])) == CLASSES  # at random, not by class


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_sisa_slices_share_the_epochs(slices):
    settings = sisa.SisaSettings(epochs=15, slices=slices)
    until = [settings.epochs_until(k) for k in range(slices + 1)]
    assert until == [math.floor(k * 30 / (slices + 1)) for k in range(slices + 1)]
    assert sum((until[k] - until[k - 1]) * k / slices for k in range(1, slices + 1)) == pytest.approx(15)


def test_sisa_forgets_exactly(problem, ensemble):
    """What is left is, bit for bit, the ensemble that never saw the forget set."""
    after, _ = sisa.forget(ensemble, np.arange(288, 320))
    assert len(after.examples) == 288 and after.rows.max() == 287
    never = unlearn("sisa", problem)
    assert same(after.predictor.members, never.members)
    assert not same(ensemble.predictor.members, never.members)
    blank = dataclasses.replace(problem.forget, x=jnp.zeros_like(problem.forget.x))
    assert same(unlearn("sisa", dataclasses.replace(problem, forget=blank)).members, never.members)
    assert float(never.info["touched"]) == 1.0


def test_sisa_retrains_a_touched_shard_from_its_last_clean_slice(ensemble):
    rows = np.flatnonzero((ensemble.shard == 1) & (ensemble.slice == 1))[:16]
    heard = []
    after, steps = sisa.forget(ensemble, rows, progress=heard.append)
    assert steps == 2 * 5 == len(heard) < FIT / 3  # the 144 examples that are left are 5 batches
    assert [(p.step, p.steps) for p in heard] == [(k, 10) for k in range(1, 11)]
    assert after.checkpoints[0] == ensemble.checkpoints[0]  # the very same objects
    assert after.checkpoints[1][0] is ensemble.checkpoints[1][0]
    assert not same(after.checkpoints[1][1].variables, ensemble.checkpoints[1][1].variables)
    assert not np.isin(rows, after.rows).any()
    assert sisa.forget(ensemble, np.array([], int))[1] == 0


def test_sisa_saves_where_few_shards_and_late_slices_are_touched(ensemble, monkeypatch):
    """Steps are counted, not made."""
    monkeypatch.setattr(loop, "run", lambda step, state, *_, **__: state)

    def steps(chosen):
        return sisa.forget(ensemble, np.flatnonzero(chosen & (np.arange(320) % 10 == 0)))[1]

    one_shard = ensemble.shard == 0
    assert steps(one_shard & (ensemble.slice == 1)) == 2 * 5
    assert steps(one_shard) == FIT / 2
    assert steps(ensemble.slice == 1) == 2 * 2 * 5
    assert steps(ensemble.slice == 0) == FIT  # random removal touches every shard's first slice: nothing is saved


def test_sisa_goes_on_without_a_shard_whose_examples_are_all_gone(ensemble):
    after, steps = sisa.forget(ensemble, np.flatnonzero(ensemble.shard == 0))
    assert steps == 0 and len(after.predictor.members) == 1
    assert same(after.predictor.members, ensemble.predictor.members[1:])


def test_sisa_refuses_to_forget_what_it_does_not_hold(digits):
    state = sisa.assign(KEY, LINEAR, digits, SISA)
    with pytest.raises(ValueError, match="rows holds 320"):
        sisa.forget(state, np.array([4, 320]))
    with pytest.raises(ValueError, match="at least one example must stay"):
        sisa.forget(state, np.arange(320))
    with pytest.raises(ValueError, match="number of examples is 3; allowed: a finite number >= 4"):
        sisa.assign(KEY, LINEAR, digits[:3], SISA)


def test_sisa_votes_or_averages(problem):
    votes = unlearn("sisa", problem)
    means = dataclasses.replace(votes, aggregate="mean")
    assert len(votes.members) == 2 and votes.aggregate == "vote"
    assert unlearn("sisa", problem, aggregate="mean").aggregate == "mean"
    single = [evaluate.outputs(Predictor((m,), BN), problem.forget.x).logits for m in votes.members]
    counts = sum(np.eye(CLASSES)[np.asarray(z).argmax(1)] for z in single)
    np.testing.assert_array_equal(evaluate.outputs(votes, problem.forget.x).logits.argmax(1), counts.argmax(1))
    average = np.mean([np_softmax(np.asarray(z, np.float64)) for z in single], axis=0)
    np.testing.assert_allclose(np.exp(evaluate.outputs(means, problem.forget.x).logits), average, rtol=1e-4)


# --- Unroll ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [8, 32])
def test_unroll_returns_to_the_original_without_a_retain_set(problem, batch_size):
    state = unroll.UnrollState.create(student(BN, problem.original, 0.05))
    state = loop.run(unroll.forget_step, state, loop.Stream(problem.forget, batch_size), key=KEY, epochs=3)
    assert differ(state.student.variables["params"], problem.original["params"]) > 1e-3
    close(state.added_back(0.05)["params"], problem.original["params"], atol=1e-5)


def test_unroll_without_adding_back_is_incremental_training(linear):
    predictor = unlearn("unroll", linear, sigma=0.0)
    state = student(LINEAR, linear.original, 0.01)
    for number, part in enumerate((linear.forget, linear.retain)):  # the forget set comes first
        state = loop.run(train_step, state, whole(part), key=KEY, epochs=1, first_epoch=number)
    close(predictor.variables, state.variables)


def test_unroll_variants_take_the_same_gradient_of_a_single_batch(linear):
    """The first recorded gradient is that at the original's parameters; later epochs differ."""
    once = [unlearn(name, linear).variables for name in ("unroll", "unroll:single_gradient")]
    close(*once)
    twice = [unlearn(name, linear, epochs=2, sigma=1.0).variables for name in ("unroll", "unroll:single_gradient")]
    assert differ(*twice) > 1e-4


def test_unroll_single_gradient_counts_every_epoch(linear):
    plain, undone = (
        unlearn("unroll:single_gradient", linear, sigma=sigma, epochs=3).variables["params"] for sigma in (0.0, 0.5)
    )
    x, z, y = np_model(linear.original, linear.forget)
    gradient = x.T @ (np_softmax(z) - y) / 32
    np.testing.assert_allclose(undone["kernel"] - plain["kernel"], 3 * 0.5 * gradient, atol=1e-6)


# --- the ablations of CaMU, and what the baselines needed of the library ---------------------------------------------


def test_ablations_remove_their_terms(linear, monkeypatch):
    heard = {}

    def run(step, state, *streams, key, **_):
        batches = [jax.tree.map(lambda a: a[:32], stream.rows) for stream in streams]
        heard[name] = set(jax.eval_shape(lambda *args: step(*args, key=key), state, *batches)[1])
        return state

    monkeypatch.setattr(loop, "run", run)
    costs = {}
    for name, changes in {"full": {}, **CAMU_ABLATIONS}.items():
        settings = dataclasses.replace(CamuSettings(epochs=1), **changes)
        METHODS["camu"].unlearn(KEY, linear, settings)
        costs[name] = METHODS["camu"].cost(linear, settings) / 32
    assert costs == {"full": 14, "finetune": 3, "no_counterfactual": 7, "no_retain_embedding": 10}
    assert heard.pop("finetune") == {"ce"} and all(losses == {"kl", "ce"} for losses in heard.values())


def test_loop_goes_on_where_it_stopped(linear):
    state = student(LINEAR, linear.original, 0.01)
    at_once = loop.run(train_step, state, whole(linear.retain), key=KEY, epochs=3)
    half = loop.run(train_step, state, whole(linear.retain), key=KEY, epochs=1)
    resumed = loop.run(train_step, half, whole(linear.retain), key=KEY, epochs=2, first_epoch=1)
    assert same(resumed.variables, at_once.variables)


@pytest.mark.parametrize("shuffle", [True, False])
def test_loop_runs_over_a_subset(linear, shuffle):
    rows = jnp.asarray([5, 2, 100, 7, 42, 8, 9])
    state = student(LINEAR, linear.original, 0.01)
    subset = loop.Stream(linear.retain, 3, shuffle, rows)
    assert len(subset) == 7 and subset.batches == 3
    expected = loop.run(train_step, state, loop.Stream(linear.retain[rows], 3, shuffle), key=KEY, epochs=2)
    assert same(loop.run(train_step, state, subset, key=KEY, epochs=2).variables, expected.variables)


def test_info_is_no_part_of_the_prediction(linear):
    plain = Predictor((linear.original,), LINEAR)
    told = dataclasses.replace(plain, info={"crossed": jnp.float32(0.5)})
    programs = evaluate._call._cache_size()
    outputs = [evaluate.outputs(p, linear.forget.x).logits for p in (plain, told)]
    np.testing.assert_array_equal(*outputs)
    assert evaluate._call._cache_size() <= programs + 1
