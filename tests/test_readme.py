"""The README's first lines, and the page of a method of one's own done to the letter in a copy of the project."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def blocks(language):
    every = re.findall(r"^```(\w*)\n(.*?)^```$", (REPO / "README.md").read_text(), re.S | re.M)
    return [text for name, text in every if name == language]


def test_the_first_lines_run(tmp_path):
    """What the README opens with, behind what it says stands before; its printed output has the same lines."""
    lines, before = blocks("python")[:2]
    assert 8 <= sum(line[:1].isalpha() for line in lines.splitlines()) <= 12 and "MyNet" in before
    done = subprocess.run([sys.executable, "-c", before + lines], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = blocks("")[0].splitlines()
    found = done.stdout.splitlines()
    assert [line.split(" ")[0] for line in found] == [line.split(" ")[0] for line in shown]
    assert "3 examples: the intervals are wide" in found[-1] and (tmp_path / "unlearned").is_dir()


def test_a_method_is_a_file_and_a_registry_entry(tmp_path, cache):
    file, entry = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "new-method.md").read_text(), re.S)
    for folder in ("camu_jax", "experiments"):
        shutil.copytree(REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "published"))
    methods = tmp_path / "camu_jax" / "methods"
    (methods / "random_label.py").write_text(file)
    registry = (methods / "__init__.py").read_text()
    changed = registry.replace(" import bad_teacher,", " import random_label, bad_teacher,").replace(
        '    Camu: Method("camu"', f'{entry}    Camu: Method("camu"'
    )
    assert changed.count("random_label") == 4
    (methods / "__init__.py").write_text(changed)

    flags = ["--dataset=tiny", "--limit=150", "--seeds=0", "--original.epochs=1", "--methods=random_label"]
    command = [sys.executable, "experiments/run.py", *flags, "--random_label.epochs=2", f"--cache_dir={cache}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results/tiny/data10/random_label/seed0.json").read_text())
    assert result["settings"]["random_label"]["epochs"] == 2 and set(result["metrics"]) == {"R_tr", "F_tr", "T_s"}
