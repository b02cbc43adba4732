"""What the documentation tells of deleting rows from one's own model, done by the owners' scripts that it names."""

import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import forget
from experiments.deletion import folder

EXAMPLES = Path(__file__).resolve().parents[2] / "experiments" / "examples"


@pytest.fixture
def owner(monkeypatch, tmp_path):
    """Runs an owner's script, as `python SCRIPT DIR` does."""

    def run(name):
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
        monkeypatch.syspath_prepend(EXAMPLES)
        with jax.numpy_dtype_promotion("standard"):  # as is usual in its owner's code
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return tmp_path

    with jax.numpy_dtype_promotion("standard"):  # her code is her own
        yield run


def test_a_table_and_two_requests(owner, cache, capsys):
    where = owner("cancer.py")
    common = [f"--dataset=npz:{where / 'cancer.npz'}", f"--model.factory={EXAMPLES / 'cancer.py'}:make"]
    common += ["--id_column=patient", f"--cache_dir={cache}", f"--checkpoint_dir={where / 'originals'}"]
    common += [f"--train={EXAMPLES / 'cancer.py'}:train", "--models=4"]
    first = [f"--original={where / 'net.npz'}", f"--rows={where / 'requests.csv'}", f"--out={where / 'one'}"]
    assert forget.main([*common, *first, "--method=camu"]) == 0
    said = capsys.readouterr().out
    assert "npz:cancer.npz: delete 9 of 400 training rows" in said and "patient-" in said
    assert f"beside that: 4 times {EXAMPLES / 'cancer.py'}:train" in said and "(model.npz, record.npz" in said
    verdicts = re.findall(r"patient-\d+: (visible|gone|was never memorised);", said)
    assert len(verdicts) == 9 and verdicts == sorted(verdicts, key=("visible", "gone", "was never memorised").index)
    assert folder.read_receipt(where / "one" / "receipt.json")["asked"]["ids"] is not None
    with np.load(where / "net.npz") as original, np.load(where / "one" / "model.npz") as result:
        assert sorted(original.files) == sorted(result.files) and "params.Dense_0.kernel" in original.files
    with np.load(where / "cancer.npz") as data:
        one_more = data["ids"][300]
    (where / "more.csv").write_text(f"patient\n{one_more}\n")
    second = [f"--previous={where / 'one'}", f"--rows={where / 'more.csv'}", f"--out={where / 'two'}"]
    assert forget.main([*common, *second, "--method=retrain"]) == 0
    assert forget.main(["verify", str(where / "two" / "receipt.json")]) == 0
    assert "previous    matches" in capsys.readouterr().out
    again = [f"--previous={where / 'two'}", f"--rows={where / 'more.csv'}", f"--out={where / 'three'}"]
    assert forget.main([*common, *again]) == 2
    assert f"names row 300 ({one_more}), which was deleted before" in capsys.readouterr().err


def test_the_nnx_owner_reads_what_was_written_in_the_form_of_her_own(tmp_path):
    """The tree that her checkpoint has, BatchNorm's statistics among it."""
    import orbax.checkpoint.experimental.v1 as ocp

    from camu_jax import from_nnx, weights

    scope = runpy.run_path(str(EXAMPLES / "fashion.py"))
    net, other = scope["Net"](nnx.Rngs(0)), scope["Net"](nnx.Rngs(1))
    state = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
    ocp.save((tmp_path / "net").resolve(), state)
    model, variables = from_nnx(scope["make"], other)
    weights.save(tmp_path / "model", variables, like=tmp_path / "net")
    nnx.update(net, ocp.load((tmp_path / "model").resolve(), state))
    x = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
    net.eval()
    np.testing.assert_allclose(net(x)[0], model.eval(variables, x).logits, rtol=1e-5, atol=1e-5)
