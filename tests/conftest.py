"""Strictness for every test, and what several of them share."""

import os
from importlib import metadata

import hypothesis
import jax
import pytest

from camu_jax import TrainSettings, data, models, train
from experiments import machine
from tests.helpers import NORMED, PLAIN

# Compiling takes most of the time of the tests: without these flags nearly twice as long, with the same results. XLA
# stops the process at a flag that it does not know, as jaxlib 0.11 does.
NEW = tuple(map(int, metadata.version("jaxlib").split(".")[:2])) >= (0, 11)
if not NEW:
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # scikit-learn's threads would wait for the other test process
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the runs that tests start
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, max_examples=15)
hypothesis.settings.load_profile("tests")


_LONGEST = ("test_run.py", "test_audits.py", "test_parallel.py")  # first, so that no process ends up with one alone


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="module", autouse=NEW)
def forgotten_programs():
    """Newer jaxlibs map each program into memory in several pieces, and a process may have 65,530 of them."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def no_advice():
    """What commands print must not depend on whether oneDNN's convolutions are built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "advice", lambda: None)
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(params=[PLAIN, NORMED], ids=["plain", "batchnorm"])
def model(request):
    """Two small layers, without and with BatchNorm."""
    return request.param


@pytest.fixture(scope="session")
def tiny():
    """Real handwritten digits: training and test set."""
    return data.load("tiny")


@pytest.fixture(scope="session")
def digits(tiny):
    return tiny[0][:320]


@pytest.fixture(scope="session")
def cnn():
    return models.cnn(10)


@pytest.fixture(scope="session")
def trained(cnn, digits):
    """The paper's CNN, trained on 320 digits."""
    return train(jax.random.key(0), cnn, digits, TrainSettings(epochs=10))


@pytest.fixture(scope="session")
def cache(tmp_path_factory, worker_id):
    """A folder of compiled programs that the runs of one session share, in all its processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "cache"
    folder.mkdir(exist_ok=True)
    return folder
