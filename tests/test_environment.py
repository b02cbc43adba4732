"""A script starts itself again with huge pages, once, and only if it is the script that was started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
_SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from experiments import environment
print("start", flush=True)
environment.prepare(__name__)
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""


def said(*command, **tunables):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, *command], env=environment | tunables, check=True, capture_output=True)
    return done.stdout.decode().splitlines()


def test_a_script_starts_again_with_its_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    assert said(script, "--a=b c", "") == ["start", "start", "glibc.malloc.hugetlb=1 ['--a=b c', '']"]
    for set_already in ("", "glibc.malloc.check=0"):
        assert said(script, GLIBC_TUNABLES=set_already) == ["start", f"{set_already} []"]


def test_a_script_that_another_program_runs_does_not(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    program = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__'); print('goes on')"
    assert said("-c", program) == ["start", "None []", "goes on"]
