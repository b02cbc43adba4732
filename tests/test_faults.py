"""A slice of experiments/bench/faults.py: odd flags, a machine that fails, signals and kills."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "experiments" / "bench" / "faults.py"


@pytest.mark.slow
def test_a_slice_of_the_faults():
    slice_ = ["--flags=25", "--faults=2", "--signals=1", "--kills=1", "--fresh=1", "--seed=1"]
    done = subprocess.run([sys.executable, str(SCRIPT), *slice_], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL" in done.stdout and "odd flag" in done.stdout
