"""The README's example of a new method, done to the letter in a copy of the project."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def test_a_method_is_a_file_and_a_registry_entry(tmp_path, cache):
    file, entry = re.findall(
        r"```python\n(.*?)```", (REPO / "README.md").read_text().split("**A new method**")[1], re.S
    )
    for folder in ("camu_jax", "experiments"):
        shutil.copytree(REPO / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "published"))
    methods = tmp_path / "camu_jax" / "methods"
    (methods / "random_label.py").write_text(file)
    registry = (methods / "__init__.py").read_text()
    changed = registry.replace(" import bad_teacher,", " import random_label, bad_teacher,").replace(
        '    "camu": Method(', f'{entry}    "camu": Method('
    )
    assert changed.count("random_label") == 4
    (methods / "__init__.py").write_text(changed)

    flags = ["--dataset=tiny", "--limit=150", "--seeds=0", "--original.epochs=1", "--methods=random_label"]
    command = [sys.executable, "experiments/run.py", *flags, "--random_label.epochs=2", f"--cache_dir={cache}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results/tiny/data10/random_label/seed0.json").read_text())
    assert result["settings"]["random_label"]["epochs"] == 2 and set(result["metrics"]) == {"R_tr", "F_tr", "T_s"}
