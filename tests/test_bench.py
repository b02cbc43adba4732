import numpy as np
import pytest

from experiments.bench import main_job
from experiments.bench.check import unbiased
from experiments.bench.speed import paired_ratio
from experiments.bench.work import select


def test_ratio_is_the_median_of_the_rounds():
    assert paired_ratio([1.0, 2.0, 4.0], [2.0, 2.0, 40.0]) == 2.0


def test_running_variance_of_pytorch_follows_from_ours():
    batches = np.random.default_rng(0).normal(size=(4, 8, 3))
    ours = theirs = before = np.array([0.5, 1.0, 1.5])
    for batch in batches:
        ours = 0.9 * ours + 0.1 * batch.var(0)
        theirs = 0.9 * theirs + 0.1 * batch.var(0, ddof=1)
    np.testing.assert_allclose(unbiased(ours, before, 8, 4), theirs)


def test_select():
    works = select(["camu_resnet", "evaluate"], data_dir="d", cifar="c100", epochs=3)
    assert [(w.dataset, w.batch_size) for w in works] == [("c100", 32), ("c100", 128), ("digit", 500)]
    assert select(["camu_resnet"], data_dir=None, cifar="c100", epochs=3)[0].dataset == "tiny"
    with pytest.raises(ValueError, match="allowed: camu_cnn"):
        select(["other"], data_dir=None, cifar="c10", epochs=3)


@pytest.mark.slow
def test_main_job_is_run_py_with_its_options(tmp_path):
    """What the script prints comes from a real run: the smallest one."""
    options = main_job.Options(epochs=1, limit=100, cache_dir=str(tmp_path))
    assert "--camu.epochs=1" in main_job.command(options, "tiny", "folder")
    result = main_job.measure(options, "tiny")
    assert result["settings"]["limit"] == 100
    assert 50 < result["peak_memory_mib"]["host"] < 10_000
    assert result["wall_seconds"] > result["seconds"]
    assert main_job.table({"tiny": result}).row_count == 1
    with pytest.raises(ValueError, match="epochs is 0; allowed: 1 or more"):
        main_job.Options(epochs=0)
