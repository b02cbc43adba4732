"""Several devices give what one gives, and share the work; several processes share one run."""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Camu, Pipeline, Problem, TrainSettings, evaluate, loop, parallel, train, unlearn
from camu_jax.optimizers import sgd_l2
from camu_jax.problem import Predictor
from camu_jax.training import TrainState, train_step
from experiments import machine
from experiments.machine import Hosts
from experiments.run import main
from tests.helpers import NORMED, PLAIN, assert_close, examples, fresh

REPO = Path(__file__).resolve().parent.parent
SETTINGS = TrainSettings(epochs=2, batch_size=16)


def eight():
    return jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)))


def test_a_minibatch_is_split_over_the_devices():
    with eight():
        x = jax.jit(parallel.split)(jnp.arange(32.0).reshape(16, 2))
        assert {shard.data.shape for shard in x.addressable_shards} == {(2, 2)}
        assert jax.jit(parallel.replicate)(x).is_fully_replicated


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((16, 2))
    assert parallel.split(x) is x and parallel.replicate(x) is x


def trained(model):
    return train(jax.random.key(0), model, examples(0, 36), SETTINGS)


def descended(model):
    """By plain SGD: Adam divides by the size of a gradient, and so makes the rounding of one near 0 visible."""
    state = TrainState.create(model, fresh(model), Pipeline(), sgd_l2(0.1))
    return loop.run(train_step, state, loop.Stream(examples(0, 36), 16), key=jax.random.key(0), epochs=2).variables


@pytest.mark.parametrize("model", [PLAIN, NORMED], ids=["plain", "batchnorm"])
def test_training_on_eight_devices_is_training_on_one(model):
    """36 examples: two batches of 16, and one of 4 that does not divide. BatchNorm sees the whole minibatch."""
    one = descended(model)
    with eight():
        many = descended(model)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(many))
    assert_close(many, one)


def test_unlearning_on_eight_devices_is_unlearning_on_one():
    quick = Camu(epochs=1, batch_size=16)

    def unlearned():
        problem = Problem(model=PLAIN, original=trained(PLAIN), forget=examples(1, 32), retain=examples(2, 48))
        return unlearn(jax.random.key(1), problem, quick).members

    one = unlearned()
    with eight():
        many = unlearned()
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(many))
    assert_close(many, one, rtol=1e-3, atol=1e-4)


def test_evaluating_on_eight_devices():
    x = examples(3, 50).x
    one = evaluate.outputs(Predictor((trained(PLAIN),), PLAIN), x, batch_size=24)
    with eight():
        many = evaluate.outputs(Predictor((trained(PLAIN),), PLAIN), x, batch_size=24)
    assert_close(many, one, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("count", [0, 9])
def test_devices_that_are_not_there(count, tmp_path, capsys):
    assert main(["--dataset=tiny", f"--devices={count}", f"--out={tmp_path}", f"--cache_dir={tmp_path}"]) == 2
    assert f"devices is {count}; allowed: 1 to 8" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [dict(processes=2), dict(coordinator="a:1"), dict(process=1), dict(processes=0)])
def test_hosts_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="allowed"):
        Hosts(**wrong)


def test_audits_need_one_process(capsys):
    flags = ["--hosts.coordinator=127.0.0.1:1", "--hosts.processes=2", "--audit", "paper"]
    assert main(["--dataset=tiny", *flags]) == 2
    assert "audit needs one process" in capsys.readouterr().err


def test_one_process_agrees_with_itself():
    assert machine.agree(True) and not machine.agree(False) and machine.primary()


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}


@pytest.mark.parametrize(
    ("place", "devices", "seen", "expected"),
    [
        ("0", 8, None, list(range(8))),  # one task a machine, which has eight GPUs
        ("0", 1, None, [0]),  # a task for each GPU
        ("3", 1, None, [3]),
        ("1", 2, None, [2, 3]),
        ("1", 2, "4,5,6,7", [2, 3]),  # of those that the job was given
        ("3", 1, "6", [0]),  # SLURM has dealt them out
    ],
)
def test_tasks_of_slurm_are_the_processes(monkeypatch, place, devices, seen, expected):
    for name, value in {
        **SLURM,
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": place,
        "CUDA_VISIBLE_DEVICES": seen or "",
    }.items():
        monkeypatch.setenv(name, value)
    told = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **flags: told.append((*args, flags)))
    before = jax.config.jax_enable_preemption_service
    machine.connect(Hosts(), devices)
    machine.connect(Hosts(coordinator="a:1", processes=4, process=2), devices)
    jax.config.update("jax_enable_preemption_service", before)
    assert told == [(None, None, None, {"local_device_ids": expected}), ("a:1", 4, 2, {"local_device_ids": expected})]


@pytest.mark.parametrize("tasks", [None, "1", "", "x"])
def test_a_task_on_its_own_waits_for_nobody(monkeypatch, tasks):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    if tasks is not None:
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("it waits"))
    machine.connect(Hosts(), 1)


def test_hosts_that_are_not_there(monkeypatch, capsys):
    def initialize(*_, **__):
        raise RuntimeError("deadline\nexceeded")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert main(["--dataset=tiny"]) == 2
    message = capsys.readouterr().err
    assert "do not find each other at the first machine" in message and message.count("\n") == 1
    jax.config.update("jax_enable_preemption_service", True)


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_platform_that_is_not_here(tmp_path, platform):
    if platform == jax.default_backend() or importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("a machine with CUDA has this platform")
    folders = [f"--out={tmp_path / 'o'}", f"--checkpoint_dir={tmp_path / 'c'}", f"--cache_dir={tmp_path / 'cache'}"]
    command = [sys.executable, str(REPO / "experiments" / "run.py"), "--dataset=tiny", *folders]
    done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": platform}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: JAX finds no device to work on")
    assert done.stderr.count("\n") == 1


def test_several_workers_share_a_gpu(monkeypatch):
    names = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    machine.share_memory()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")
    machine.share_memory()  # the user's own
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ


def test_programs_of_several_devices_wait_for_each_other():
    with eight():
        assert parallel.in_turn(jax.jit(parallel.split)(jnp.arange(16))).is_ready()
    assert parallel.in_turn({"a": jnp.ones(2)})["a"].shape == (2,)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_do_one_run(tmp_path, cache):
    quick = [
        "--limit=71",
        "--seeds=0",
        "--original.epochs=1",
        "--retrain.epochs=1",
        "--methods=retrain",
        "--devices=2",
    ]
    hosts = [f"--hosts.coordinator=127.0.0.1:{free_port()}", "--hosts.processes=2"]

    def start(process):
        folders = [f"--out={tmp_path / 'out'}", f"--checkpoint_dir={tmp_path / 'originals'}", f"--cache_dir={cache}"]
        command = [sys.executable, str(REPO / "experiments" / "run.py"), "--dataset=tiny", *quick, *folders, *hosts]
        env = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
        command.append(f"--hosts.process={process}")
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    workers = [start(0), start(1)]
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert "retrain, seed 0: R_tr" in said[0][0] and not re.sub(r".*(Gloo|peer ranks).*\n", "", said[1][0])
    shared = json.loads((tmp_path / "out/tiny/data10/retrain/seed0.json").read_text())
    assert shared["devices"] == 4

    alone = ["--dataset=tiny", *quick[:-1], f"--out={tmp_path / 'alone'}", f"--cache_dir={cache}"]
    assert main([*alone, f"--checkpoint_dir={tmp_path / 'originals'}"]) == 0
    metrics = json.loads((tmp_path / "alone/tiny/data10/retrain/seed0.json").read_text())["metrics"]
    np.testing.assert_allclose(
        [shared["metrics"][m] for m in sorted(metrics)], [metrics[m] for m in sorted(metrics)], atol=2
    )
