"""oneDNN's convolutions on the CPU are XLA's, whatever transformation they are put through."""

import contextlib
import functools
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from camu_jax import models
from camu_jax.models import convolution, convolve
from tests.helpers import assert_close

built = pytest.mark.skipif(models.missing() is not None, reason=str(models.missing()))
LAYOUT = ("NHWC", "HWIO", "NHWC")
SHAPES = (6, 7, 5, 3), (3, 3, 3, 4)


def xla(images, kernel, strides, padding, **options):
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=LAYOUT, **options)


def plain(conv):
    """A convolution of stride 1 that keeps the size."""
    return functools.partial(conv, strides=(1, 1), padding="SAME")


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def assert_same(found, want, tolerance=3e-6):
    """Equal but for the order of sums: in units of the largest value of each array."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = (np.asarray(array, np.float32) for array in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


def up_to_second_order(conv):
    """The convolution, its gradients, and how these change along the arguments."""

    def every(images, kernel):
        gradient = jax.grad(lambda *args: (conv(*args) ** 2).mean(), argnums=(0, 1))
        return conv(images, kernel), jax.jvp(gradient, (images, kernel), (images, kernel))

    return every


def compare(transform, *args, tolerance=3e-6):
    """What becomes of ours is what becomes of XLA's, and its program on this CPU holds no convolution of XLA."""
    found, want = (jax.jit(transform(plain(conv))) for conv in (convolve, xla))
    assert "stablehlo.convolution" not in found.lower(*args).as_text()
    assert_same(found(*args), want(*args), tolerance)


@built
@hypothesis.given(
    sizes=st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 80)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(*[st.tuples(*[st.integers(0, 4)] * 2)] * 2)),
)
def test_it_is_xlas_convolution(sizes, kernel, strides, padding):
    args = arrays(sizes, (*kernel[:2], sizes[3], kernel[2]))
    of = up_to_second_order if sizes[0] else lambda conv: conv  # a mean of nothing has no gradient
    found, want = (jax.jit(of(functools.partial(c, strides=strides, padding=padding))) for c in (convolve, xla))
    assert_same(found(*args), want(*args))


@built
@pytest.mark.parametrize(
    ("images", "kernel"),
    [((70, 6, 6, 64), (3, 3, 64, 150)), ((33, 8, 8, 16), (5, 5, 16, 32)), ((5, 4, 4, 8), (1, 1, 8, 4))],
)
def test_in_parts(images, kernel):
    """Several parts of images and channels, the last ones smaller."""
    compare(up_to_second_order, *arrays(images, kernel))


@built
@pytest.mark.parametrize("axes", [(None, None), (0, None), (0, 0)])
def test_bfloat16(axes):
    """Computed in float32 and rounded: XLA's results but for the last bit, which is 1/256."""
    shapes = [shape if axis is None else (2, *shape) for axis, shape in zip(axes, SHAPES, strict=True)]
    args = [a.astype(jnp.bfloat16) for a in arrays(*shapes)]
    of = up_to_second_order if axes == (None, None) else lambda conv: jax.vmap(up_to_second_order(conv), axes)
    compare(of, *args, tolerance=2**-7)
    lowered = jax.jit(plain(convolve)).trace(*[a.astype(jnp.bfloat16) for a in arrays(*SHAPES)])
    assert "xbf16>) -> tensor<6x7x5x4xbf16>" in lowered.lower(lowering_platforms=("cuda",)).as_text()


@built
def test_where_there_is_nothing_to_add():
    images, kernel = arrays((0, 5, 5, 2), (3, 3, 2, 4))
    output, back = jax.vjp(plain(convolve), images, kernel)
    assert output.shape == (0, 5, 5, 4) and [a.shape for a in back(output)] == [images.shape, kernel.shape]
    assert (back(output)[1] == 0).all()
    images, kernel = arrays((2, 5, 5, 0), (3, 3, 0, 4))
    assert (plain(convolve)(images, kernel) == jnp.zeros((2, 5, 5, 4))).all()


@built
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (3, 2), (None, 4), (4, None)])
def test_vmap(axes):
    """A batch of either or both, at any axis; of the gradients as well."""
    shapes = [
        shape if axis is None else (*shape[:axis], 2, *shape[axis:]) for shape, axis in zip(SHAPES, axes, strict=True)
    ]
    compare(lambda conv: jax.vmap(up_to_second_order(conv), axes), *arrays(*shapes))


@built
def test_vmap_of_vmap():
    images, kernel = arrays((2, 3, *SHAPES[0]), (3, *SHAPES[1]))
    compare(lambda conv: jax.vmap(jax.vmap(up_to_second_order(conv)), (0, None)), images, kernel)
    compare(lambda conv: jax.vmap(jax.vmap(up_to_second_order(conv), (None, 0)), (0, None)), images[:, 0], kernel)
    per_example = lambda conv: jax.vmap(jax.grad(lambda k, x: (conv(x[None], k) ** 2).sum()), (None, 0))  # noqa: E731
    compare(per_example, kernel[0], images[0, 0])


def descent(conv):
    """Three steps of gradient descent in a scan, each with its forward pass made again."""

    def run(images, kernel):
        loss = jax.checkpoint(lambda kernel: (conv(images, kernel) ** 2).mean())
        return jax.lax.scan(lambda k, _: (k - 0.1 * jax.grad(loss)(k), loss(k)), kernel, length=3)

    return run


def hessian(conv):
    return lambda images, kernel: jax.hessian(lambda k: jnp.tanh(conv(images, k)).mean())(kernel[:, :, :, :1])


@built
@pytest.mark.parametrize("transform", [descent, hessian])
def test_in_loops_and_hessians(transform):
    compare(transform, *arrays((2, 5, 5, 2), (3, 3, 2, 3)))


@built
def test_without_jit():
    images, kernel = arrays(*SHAPES)
    want = xla(images, kernel, (1, 1), "SAME")
    assert_same(plain(convolve)(images, kernel), want)
    with jax.disable_jit():
        assert_same(plain(convolve)(images, kernel), want)


@built
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    """Each device convolves its own images; the kernel's gradient is added up between them."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = functools.partial(jax.shard_map, mesh=mesh, check_vma=check_vma)

    def of(conv):
        def each(images, kernel):
            return jax.lax.pmean((conv(images, kernel) ** 2).mean(), "data")

        return jax.value_and_grad(split(each, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P()), (0, 1))

    compare(of, *arrays(*SHAPES))
    lowered = [
        jax.jit(of(plain(conv))).trace(*arrays(*SHAPES)).lower(lowering_platforms=("cuda",)).as_text()
        for conv in (convolve, xla)
    ]
    assert len({text.count("stablehlo.all_reduce") for text in lowered}) == 1


@built
@pytest.mark.parametrize("kind", ["sharded", "mesh", "explicit"])
def test_batches_split_over_devices(kind):
    """XLA knows how to split its own convolution, and has it."""
    axis = jax.sharding.AxisType.Explicit if kind == "explicit" else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis,))
    images, kernel = arrays(*SHAPES)
    part = (lambda conv: conv) if kind == "explicit" else up_to_second_order  # JAX asks for more in its gradient
    want = jax.jit(part(plain(xla)))(images, kernel)
    with contextlib.nullcontext() if kind == "sharded" else jax.set_mesh(mesh):
        images = jax.device_put(images, jax.NamedSharding(mesh, jax.P("data")))
        found = jax.jit(part(plain(convolve)))(images, kernel)
    assert_same(jax.device_get(found), want)
    assert not jax.tree.leaves(found)[0].sharding.is_fully_replicated


@built
@pytest.mark.parametrize(
    "call",
    [
        lambda x, k: plain(convolve)(x.astype(jnp.float16), k.astype(jnp.float16)),
        lambda x, k: convolve(x, k, (1, 1), "SAME", rhs_dilation=(2, 1)),
        lambda x, k: convolve(x, k, (1, 1), ((1, 1), (1, 1)), lhs_dilation=(1, 2)),
        lambda x, k: convolve(x, k[:, :, :1, :3], (1, 1), "SAME", feature_group_count=3),
        lambda x, k: convolve(x, k, (1, 1), ((-1, 0), (0, 0))),
        lambda x, k: convolve(x.transpose(0, 3, 1, 2), k, (1, 1), "SAME", ("NCHW", "HWIO", "NCHW")),
    ],
    ids=["float16", "dilation", "dilated images", "groups", "negative padding", "layout"],
)
def test_what_is_xlas(call):
    assert "conv_general_dilated" in str(jax.make_jaxpr(call)(*arrays(*SHAPES)))


def test_errors_are_xlas():
    images, kernel = arrays((2, 5, 5, 2), (3, 3, 3, 4))
    for conv in (convolve, xla):
        with pytest.raises((TypeError, ValueError), match="feature dimension"):
            plain(conv)(images, kernel)


@built
@pytest.mark.parametrize(
    ("shapes", "wanted", "reason"),
    [
        (((2, 5, 5, 2), (3, 3, 3, 4), (2, 5, 5, 4)), 2, "the sizes do not fit"),
        (((2, 5, 5, 2), (3, 3, 2, 4), (3, 5, 5, 4)), 2, "the sizes do not fit"),
        (((2, 5, 5), (3, 3, 2, 4), (2, 5, 5, 4)), 2, "the axes do not fit"),
        (((2, 2, 5, 5, 2), (3, 3, 3, 2, 4), (2, 2, 5, 5, 4)), 2, "the axes do not fit"),
        (((2, 5, 5, 2), (3, 3, 2, 4), (2, 9, 5, 4)), 2, "oneDNN: "),
        (((2, 5, 5, 2), (3, 3, 2, 4), (2, 9, 5, 4)), 1, "oneDNN: "),
    ],
)
def test_what_does_not_fit_is_an_error_of_xla(shapes, wanted, reason):
    given = [shape for i, shape in enumerate(shapes) if i != wanted]
    call = jax.ffi.ffi_call(convolution._TARGET, jax.ShapeDtypeStruct(shapes[wanted], jnp.float32))
    attributes = {"strides": np.ones(2, np.int64), "padding": np.ones(4, np.int64)}
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        call(*arrays(*given), wanted=np.int64(wanted), **attributes).block_until_ready()
    assert reason in str(error.value)
    assert all("f32[" + ",".join(map(str, shape)) + "]" in str(error.value) for shape in shapes)


PROGRAM = f"""
import hashlib, jax, jax.numpy as jnp
from tests.test_onednn import arrays, convolve, plain
gradient = jax.jit(jax.grad(lambda x, k: (plain(convolve)(x, k) ** 2).sum(), (0, 1)))
for shapes in ({SHAPES}, ((70, 6, 6, 64), (3, 3, 64, 150)), ((33, 8, 8, 16), (5, 5, 16, 32))):
    print([hashlib.sha256(memoryview(jax.device_get(a)).cast("B")).hexdigest() for a in gradient(*arrays(*shapes))])
"""


@built
def test_the_same_bits_on_any_number_of_cores():
    folder = Path(__file__).parents[1]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**os.environ, "NPROC": n}, cwd=folder, check=True, capture_output=True
        ).stdout
        for n in ("1", "2", "16")
    }
    assert len(outputs) == 1 and len(outputs.pop().split()) == 6


THREADS = """
import os, jax
from tests.test_onednn import arrays, convolve, plain
args = arrays((32, 14, 14, 16), (5, 5, 16, 32))
gradient = jax.jit(jax.grad(lambda x, k: (plain(convolve)(x, k) ** 2).sum(), (0, 1))).lower(*args).compile()
before = len(os.listdir("/proc/self/task"))
jax.block_until_ready(gradient(*args))
assert len(os.listdir("/proc/self/task")) == before
"""


@built
def test_openmp_starts_no_threads():
    """Idle ones would spin on the cores that XLA works on."""
    folder = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", THREADS], env={**os.environ, "OMP_NUM_THREADS": "4"}, cwd=folder, check=True)


@built
def test_several_programs_at_once():
    """More threads than cores, each with convolutions of its own."""
    every = jax.jit(up_to_second_order(plain(convolve)))
    jobs = [arrays((8 + i, 6, 6, 8), (3, 3, 8, 70), seed=i) for i in range(6)]
    want = [every(*job) for job in jobs]
    wrong = []

    def work(i):
        for _ in range(20):
            pairs = zip(jax.tree.leaves(every(*jobs[i])), jax.tree.leaves(want[i]), strict=True)
            wrong.extend(not (a == b).all() for a, b in pairs)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrong) == 6 * 20 * 5 and not any(wrong)


def child(queue):
    queue.put(np.asarray(plain(convolve)(*arrays(*SHAPES))))


FORKED = """
import multiprocessing, numpy as np
from tests import test_onednn
context = multiprocessing.get_context("fork")  # before JAX has threads
queue = context.Queue()
process = context.Process(target=test_onednn.child, args=(queue,))
process.start()
theirs = queue.get(timeout=60)
process.join(60)
assert (theirs == test_onednn.plain(test_onednn.convolve)(*test_onednn.arrays(*test_onednn.SHAPES))).all()
"""


@built
def test_in_child_processes():
    folder = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", FORKED], cwd=folder, check=True, timeout=120)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert_same(queue.get(timeout=60), xla(*arrays(*SHAPES), (1, 1), "SAME"))
    process.join(60)


def resident():
    """Memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@built
def test_ten_thousand_calls_leave_nothing_behind():
    gradient = jax.jit(jax.grad(lambda x, k: (plain(convolve)(x, k) ** 2).sum(), (0, 1)))
    args = arrays((2, 4, 4, 16), (3, 3, 16, 16))
    for count in (1_000, 3_334):  # three calls each
        before = resident()
        for _ in range(count):
            out = gradient(*args)
        jax.block_until_ready(out)
    assert resident() - before < 8


def test_without_the_extension(monkeypatch):
    """XLA's convolution and nothing else, and one line that says so."""
    monkeypatch.setitem(sys.modules, "camu_jax.models._onednn", None)
    models.missing.cache_clear()
    try:
        reason = models.missing()
        assert reason is not None and "make setup" in reason and "\n" not in reason
        found, want = (str(jax.make_jaxpr(plain(conv))(*arrays(*SHAPES))) for conv in (convolve, xla))
        assert found == want
        model = models.resnet18(3, (8, 8, 3), width=2)
        variables = jax.eval_shape(model.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
        assert "stablehlo.convolution" in jax.jit(model.eval).lower(variables, x).as_text()
    finally:
        monkeypatch.undo()
        models.missing.cache_clear()


@built
def test_models_in_a_program_for_this_cpu():
    """The paper's models train in a scan without a convolution of XLA, with XLA's results."""
    images = {"cnn": (28, 28, 1), "resnet18": (8, 8, 3)}
    for name, model in (("cnn", models.cnn(3)), ("resnet18", models.resnet18(3, (8, 8, 3), width=2))):
        variables = jax.jit(model.init)(jax.random.key(0))
        (x,) = arrays((3, 4, *images[name]))

        def loss(params, x, model=model, variables=variables):
            (out,), _ = model.train({**variables, "params": params}, [x])
            return (out.logits**2).mean()

        def run(params, x, loss=loss):
            return jax.lax.scan(lambda p, x: (p, jax.grad(loss)(p, x)), params, x)[1]

        assert "stablehlo.convolution" not in jax.jit(run).lower(variables["params"], x).as_text()
        assert_close(
            jax.tree.map(lambda a: a[0], jax.jit(run)(variables["params"], x)),
            jax.jit(jax.grad(loss))(variables["params"], x[0]),
        )
