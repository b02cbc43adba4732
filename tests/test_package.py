"""The command, and what the files of the package say of it. Wheels and sdist: `make dist`."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import camu_jax
from experiments import command

REPO = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
CAMU = Path(sys.executable).with_name("camu-jax")


def run(*words, **options):
    return subprocess.run([CAMU, *words], capture_output=True, text=True, **options)


def test_the_command_lists_its_commands():
    done = run()
    assert done.returncode == 0 and all(f"  {name} " in done.stdout for name in command.COMMANDS)
    assert run("--version").stdout.strip() == camu_jax.__version__


def test_a_wrong_command_is_named():
    done = run("fly")
    assert done.returncode == 2 and re.fullmatch("error: command is 'fly'; allowed: run, .*report\n", done.stderr)


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "__file__", str(tmp_path / "command.py"))
    assert command.main(["forget"]) == 2
    assert "forget is not part of this installation" in capsys.readouterr().err
    (tmp_path / "run.py").write_text("import no_such_module")
    assert command.main(["run"]) == 2
    said = capsys.readouterr().err
    assert "needs the module no_such_module" in said and "pip install 'camu_jax[experiments]'" in said


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_helps(name):
    done = run(name, "--help")
    assert done.returncode == 0 and f"usage: camu-jax {name}" in done.stdout


def test_audit_audits(tmp_path, cache):
    """Its own flag comes first, and the user's after it count."""
    short = ["--dataset=tiny", "--limit=150", "--seeds=0", "--original.epochs=1", "--retrain.epochs=1"]
    words = ["audit", *short, "--methods=retrain", f"--cache_dir={cache}", "--audits.relearn_epochs=2"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "audit paper:" in done.stdout
    refused = run(*words, "--audit=nonsense", cwd=tmp_path)
    assert refused.returncode == 2 and "nonsense" in refused.stderr


def test_the_files_agree():
    citation, changes = (REPO / "CITATION.cff").read_text(), (REPO / "CHANGELOG.md").read_text()
    assert f"\nversion: {camu_jax.__version__}\n" in citation
    assert re.search(r"^## (\S+),", changes, re.M)[1] == camu_jax.__version__
    assert PROJECT["project"]["license"] == "Apache-2.0" and "Apache License" in (REPO / "LICENSE").read_text()
    assert (REPO / "camu_jax" / "py.typed").is_file()


def test_wheels_are_built_for_the_oldest_jax():
    """What is compiled against an older jaxlib runs with newer ones, and not the other way round."""
    oldest = next(
        re.search(r">=([\d.]+)", need)[1] for need in PROJECT["project"]["dependencies"] if need[:4] == "jax>"
    )
    assert any(need.startswith(f"jaxlib=={oldest};") for need in PROJECT["build-system"]["requires"])


def test_every_extra_is_tried_where_developers_work():
    extras = set(PROJECT["project"]["optional-dependencies"])
    (named,) = re.findall(r"camu_jax\[(.+)\]", PROJECT["project"]["optional-dependencies"]["dev"][0])
    assert extras - set(named.split(",")) <= {"data", "dev", "cuda12", "slurm"}
