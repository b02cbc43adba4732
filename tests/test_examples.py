"""The examples run from their folder alone and draw their figures; on `tiny`, with few epochs."""

import inspect
import runpy
from pathlib import Path

import jax
import matplotlib
import pytest

from camu_jax import methods

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
matplotlib.use("agg")


@pytest.mark.parametrize(
    "name, short, compared",
    [
        ("own_model", {}, None),
        ("new_method", {}, None),
        ("compare", {"seeds": 1}, ("CaMU", "NegGrad")),
        pytest.param("compare", {"seeds": 1}, None, marks=pytest.mark.slow),
    ],
)
def test_an_example_draws(name, short, compared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
        if compared:
            for method in set(example["METHODS"]) - set(compared):
                del example["METHODS"][method]
        example["main"](tmp_path, epochs=1, **short)
    assert (tmp_path / f"{name}.svg").stat().st_size > 5_000
    assert capsys.readouterr().out


def test_a_method_takes_thirty_lines():
    source = (EXAMPLES / "new_method.py").read_text()
    method = source.split("# --- the method")[1].split("# --- and what it does")[0]
    lines = [line for line in method.splitlines()[1:] if line.strip() and '"""' not in line]
    assert len(lines) <= 31, "with the entry in the registry"
    assert "METHODS[RandomLabel]" in inspect.cleandoc(method)
