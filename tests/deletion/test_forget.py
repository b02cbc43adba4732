"""forget.py from the outside: what a user types, what is then on the screen and on disk, and what verify says."""

import json
import os
import re
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from camu_jax import digests, from_linen, train, weights
from camu_jax.data import load
from camu_jax.training import TrainSettings
from experiments import forget
from experiments.deletion import again, case, folder
from experiments.deletion import verify as verify_module

FACTORY = """
import flax.linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        embedding = nn.relu(nn.Dense(32)(x.reshape(len(x), -1)))
        return nn.Dense(10)(embedding), embedding

def make():
    return Net()
"""
QUICK = ["--original.epochs=12", "--retrain.epochs=12", "--camu.epochs=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Real digits, every fourth pixel, in an npz with ids; a model; its weights."""
    where = tmp_path_factory.mktemp("mine")
    (train_x, train_y), (test_x, test_y) = ((np.asarray(p.x)[:, ::4, ::4], np.asarray(p.y)) for p in load("tiny"))
    ids = np.array([f"id{i}" for i in range(160)])
    arrays = dict(x_train=train_x[:160], y_train=train_y[:160], x_test=test_x[:120], y_test=test_y[:120], ids=ids)
    np.savez(where / "mine.npz", **arrays)
    (where / "model.py").write_text(FACTORY)
    scope = {}
    exec(FACTORY, scope)
    model = from_linen(scope["make"](), (7, 7, 1))
    from camu_jax import Examples

    examples = Examples(jax.numpy.asarray(arrays["x_train"]), jax.numpy.asarray(arrays["y_train"]), 10)
    variables = train(jax.random.key(0), model, examples, TrainSettings(epochs=10))
    weights.save(where / "net.npz", variables)
    (where / "rows.txt").write_text("3\n17\n42\n")
    (where / "asked.csv").write_text("when,who\ntoday,id3\ntoday,id17\n")
    return where


@pytest.fixture
def run(place, cache, tmp_path):
    """Runs the command on these data with this model."""

    def forget_main(*flags, rows="rows.txt", own=True):
        common = [f"--dataset=npz:{place / 'mine.npz'}", f"--model.factory={place / 'model.py'}:make", *QUICK]
        common += [f"--rows={place / rows}", f"--cache_dir={cache}", f"--checkpoint_dir={tmp_path / 'originals'}"]
        common += [f"--original={place / 'net.npz'}"] * own
        return forget.main([*common, *flags])

    return forget_main


@pytest.fixture(scope="module")
def first(place, cache, tmp_path_factory):
    """A deletion with models that never saw the rows."""
    out = tmp_path_factory.mktemp("out") / "first"
    flags = [f"--dataset=npz:{place / 'mine.npz'}", f"--model.factory={place / 'model.py'}:make", *QUICK]
    flags += [f"--rows={place / 'rows.txt'}", f"--cache_dir={cache}", f"--original={place / 'net.npz'}"]
    flags += [f"--checkpoint_dir={out.parent / 'originals'}", "--models=4"]
    assert forget.main([*flags, f"--out={out}"]) == 0
    return out


def receipt_of(out):
    return folder.read_receipt(out / "receipt.json")


def verify(out, *flags, capsys):
    capsys.readouterr()
    code = forget.main(["verify", str(out / "receipt.json"), *flags])
    return code, capsys.readouterr().out


def test_the_folder_holds_a_model_like_the_original_and_a_receipt(first, place):
    assert {p.name for p in first.iterdir()} == {"model.npz", "record.npz", "receipt.json", "receipt.html"}
    with np.load(first / "model.npz") as made, np.load(place / "net.npz") as original:
        assert {n: (a.shape, a.dtype) for n, a in made.items()} == {n: (a.shape, a.dtype) for n, a in original.items()}
        assert any((made[name] != original[name]).any() for name in made.files)
    receipt = receipt_of(first)
    assert receipt["asked"] == {"rows": [3, 17, 42], "ids": None, "total": 160, "unlabelled": [], "left_out": 0}
    assert receipt["digests"]["original"] == digests.of_path(place / "net.npz")
    names = {"data", "retained", "rows", "original", "result", "record", "settings", "code", "program"}
    assert set(receipt["digests"]) == names
    assert receipt["work"]["seconds"].keys() == {"result", "control", "models"} and receipt["work"]["seed"] == 0
    assert len(receipt["figures"]["verdicts"]["rows"]) == 3
    page = (first / "receipt.html").read_text()
    assert receipt["digest"] in page and "http" not in page and "src=" not in page
    assert "forgotten" not in page.lower()


def test_verify_finds_nothing_and_needs_no_more_than_is_there(first, capsys):
    code, said = verify(first, capsys=capsys)
    assert code == 0 and "nothing differs" in said and "DIFFERS" not in said
    for what in ("receipt", "settings", "rows", "result", "record", "figures", "page", "data", "original"):
        assert any(line.replace(":", " ").split()[:2] == [what, "matches"] for line in said.splitlines()), what
    assert forget.main(["verify", str(first)]) == 0 and capsys.readouterr().out == said


def test_verify_reads_images_as_they_were_resized(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, side in (("a", 8), ("b", 10)):
            file = tmp_path / "mixed" / part / name / "0.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(file)
    work = {"dataset": f"folder:{tmp_path / 'mixed'}", "data_dir": None, "limit": None, "pipeline": {"image_size": 8}}
    options = verify_module.VerifyOptions(receipt="", cache_dir=str(tmp_path / "cache"))
    assert verify_module._load({"work": work}, options)[0].x.shape == (2, 8, 8, 1)


def test_verify_asks_the_model_again(first, place, tmp_path, capsys):
    factory = f"--factory={place / 'model.py'}:make"
    code, said = verify(first, "--ask", factory, capsys=capsys)
    assert code == 0 and "answers     matches" in said
    code, said = verify(first, "--ask", capsys=capsys)
    assert code == 0 and "answers     not checked: the model is your own" in said
    out = tmp_path / "other"
    shutil.copytree(first, out)
    shutil.copy(place / "net.npz", out / "model.npz")  # the original in the place of the result
    code, said = verify(out, "--ask", factory, capsys=capsys)
    assert code == 1 and "answers     DIFFERS: after.logits." in said


def test_a_number_that_is_none_is_no_answer():
    """No distance to it is too large."""
    numbers, none = np.zeros(3), np.array([0.0, np.nan, 0.0])
    assert again._otherwise("test", numbers, numbers) is None
    assert "not finite" in again._otherwise("test", none, numbers)


def test_a_key_that_nobody_can_check_is_not_the_one_that_is_asked_for(first, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    receipt = {**receipt_of(first), "signature": {"public_key": "AAAA", "value": "AAAA"}}
    assert [check.outcome for check in verify_module._signature(receipt, None)] == ["not checked"]
    assert [check.outcome for check in verify_module._signature(receipt, "AAAA")] == ["DIFFERS"]


def _flip(file, at=-40):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def _figure(out):
    receipt = json.loads((out / "receipt.json").read_text())
    receipt["figures"]["accuracy"]["after"]["test"] += 1
    (out / "receipt.json").write_text(json.dumps(receipt))


def _sealed_figure(out):
    """By somebody who knows how receipts are sealed."""
    from camu_jax.deletion.receipt import digest
    from experiments.deletion import page

    receipt = json.loads((out / "receipt.json").read_text())
    receipt["figures"]["accuracy"]["after"]["test"] += 1
    receipt["guarantee"]["kind"] = "exact"
    receipt["digest"] = digest(receipt)
    folder.write_receipt(out, receipt, page.render(receipt))


def _nan(out):
    text = (out / "receipt.json").read_text()
    (out / "receipt.json").write_text(re.sub(r'("value": )[0-9.]+', r"\1NaN", text, count=1))


def _unknown_entry(out):
    receipt = json.loads((out / "receipt.json").read_text())
    (out / "receipt.json").write_text(json.dumps({**receipt, "more": 1}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out: _flip(out / "model.npz", 200), ["result", "the model was changed"]),
        (lambda out: _flip(out / "record.npz", 300), ["record", "DIFFERS"]),
        (lambda out: (out / "record.npz").unlink(), ["record", "cannot be read"]),
        (lambda out: (out / "receipt.html").write_text("all is well"), ["page", "DIFFERS"]),
        (lambda out: (out / "receipt.json").write_text("{}"), ["is not a receipt"]),
        (_figure, ["receipt", "its contents were changed", "figures.accuracy.after.test: the receipt says"]),
        (_sealed_figure, ["figures.accuracy.after.test", "guarantee.kind: the receipt says exact"]),
        (_unknown_entry, ["its contents were changed"]),
        (_nan, ["is not a receipt (NaN is no number"]),
    ],
)
def test_verify_says_what_was_changed(first, tmp_path, capsys, change, words):
    out = tmp_path / "changed"
    shutil.copytree(first, out)
    change(out)
    code, said = verify(out, capsys=capsys)
    assert code == 1 and all(word in said for word in words), said


def test_verify_with_other_data_and_with_data_without_the_rows(first, place, tmp_path, capsys):
    with np.load(place / "mine.npz") as found:
        arrays = dict(found)
    kept = np.setdiff1d(np.arange(160), [3, 17, 42])
    np.savez(tmp_path / "less.npz", **arrays | {n: arrays[n][kept] for n in ("x_train", "y_train", "ids")})
    code, said = verify(first, f"--dataset=npz:{tmp_path / 'less.npz'}", capsys=capsys)
    assert code == 0 and "is without the rows" in said
    arrays["y_train"][5] ^= 1
    np.savez(tmp_path / "other.npz", **arrays)
    code, said = verify(first, f"--dataset=npz:{tmp_path / 'other.npz'}", capsys=capsys)
    assert code == 1 and "data        DIFFERS" in said


def test_verify_does_not_blame_a_receipt_for_another_version_of_the_program(first, tmp_path, capsys, monkeypatch):
    out = tmp_path / "older"
    shutil.copytree(first, out)
    with (out / "receipt.html").open("a") as page:
        page.write("<!-- as an older version has it -->")
    assert verify(out, capsys=capsys)[0] == 1
    monkeypatch.setattr(case, "program", lambda: "0" * 64)
    code, said = verify(out, capsys=capsys)
    assert code == 0 and said.splitlines()[-1] == "nothing differs; not checked: program, page"
    _sealed_figure(out)
    code, said = verify(out, capsys=capsys)
    assert code == 1 and "guarantee.kind: the receipt says exact" in said  # figures are computed again all the same


def test_verify_does_without_an_original_that_is_gone_unless_it_is_named(first, place, tmp_path, capsys):
    (place / "net.npz").rename(tmp_path / "net.npz")
    try:
        code, said = verify(first, capsys=capsys)
        assert code == 0 and "original    not checked" in said
        assert said.splitlines()[-1] == "nothing differs; not checked: original"
        code, said = verify(first, f"--original={place / 'net.npz'}", capsys=capsys)
        assert code == 1 and "original    DIFFERS" in said
    finally:
        (tmp_path / "net.npz").rename(place / "net.npz")


def test_a_second_deletion_goes_on_from_the_first(run, first, tmp_path, place, capsys):
    (tmp_path / "rows.txt").write_text("5\n")
    out = tmp_path / "second"
    flags = [f"--rows={tmp_path / 'rows.txt'}", f"--previous={first}", "--models=0", "--method=neggrad", f"--out={out}"]
    assert run(*flags, own=False) == 0
    one, two = receipt_of(first), receipt_of(out)
    assert two["previous"] == {"digest": one["digest"], "rows": [3, 17, 42]}
    assert two["digests"]["original"] == one["digests"]["result"] and two["digests"]["data"] == one["digests"]["data"]
    code, said = verify(out, capsys=capsys)
    assert code == 0 and "previous    matches" in said
    assert run(f"--previous={first}", f"--out={tmp_path / 'again'}", own=False) == 2
    assert "names row 3, which was deleted before" in capsys.readouterr().err
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    _flip(moved / "model.npz", 200)
    assert run(*flags[:1], f"--previous={moved}", f"--out={tmp_path / 'again'}", own=False) == 2
    assert "the model in" in capsys.readouterr().err


def test_rows_by_id_and_an_exact_method(run, tmp_path, capsys):
    flags = ["--id_column=who", "--method=retrain", "--models=0", f"--out={tmp_path / 'out'}"]
    assert run(*flags, rows="asked.csv") == 0
    receipt = receipt_of(tmp_path / "out")
    assert receipt["asked"]["rows"] == [3, 17] and receipt["asked"]["ids"] == ["id3", "id17"]
    assert receipt["guarantee"]["kind"] == "exact" and "exact: " in capsys.readouterr().out


@pytest.mark.slow
def test_an_ensemble_and_then_another_deletion(run, tmp_path, capsys):
    sisa = ["--method=sisa", "--sisa.epochs=24", "--sisa.shards=2", "--models=0"]
    assert run(*sisa, f"--out={tmp_path / 'one'}") == 0
    assert {p.name for p in (tmp_path / "one").glob("model*")} == {"model-0.npz", "model-1.npz"}
    (tmp_path / "rows.txt").write_text("5\n")
    more = [f"--rows={tmp_path / 'rows.txt'}", f"--previous={tmp_path / 'one'}"]
    assert run(*more, "--models=0", f"--out={tmp_path / 'two'}", own=False) == 2
    assert "allowed after an ensemble: retrain, sisa" in capsys.readouterr().err
    assert run(*sisa, *more, f"--out={tmp_path / 'two'}", own=False) == 0
    assert verify(tmp_path / "two", capsys=capsys)[0] == 0


@pytest.mark.parametrize("own", [True, False])
def test_rows_without_labels(run, place, tmp_path, capsys, own):
    """One that goes is treated as what the model takes it for; one that stays takes no part."""
    with np.load(place / "mine.npz") as found:
        arrays = dict(found)
    arrays["y_train"][[17, 80]] = -1
    np.savez(tmp_path / "some.npz", **arrays)
    flags = [f"--dataset=npz:{tmp_path / 'some.npz'}", "--models=0", f"--out={tmp_path / 'out'}"]
    assert run(*flags, own=own) == 0
    said = capsys.readouterr()
    assert "label: 1 of the rows to delete" in said.err and "label: 1 of the rows that stay" in said.err
    receipt = receipt_of(tmp_path / "out")
    assert receipt["asked"]["unlabelled"] == [17] and receipt["asked"]["left_out"] == 1
    assert "had no label" in (tmp_path / "out" / "receipt.html").read_text()
    assert verify(tmp_path / "out", capsys=capsys)[0] == 0


def test_copies_that_stay_are_a_warning(run, place, tmp_path, capsys):
    with np.load(place / "mine.npz") as found:
        arrays = dict(found)
    arrays["x_train"][90] = arrays["x_train"][17]
    np.savez(tmp_path / "twice.npz", **arrays)
    assert run(f"--dataset=npz:{tmp_path / 'twice.npz'}", "--models=0", f"--out={tmp_path / 'out'}") == 0
    assert "with a copy among the rows that stay: 1 of the deleted rows (row 17: row 90)" in capsys.readouterr().err
    assert "row 17 is row 90" in (tmp_path / "out" / "receipt.html").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rows=none.txt"], "rows: none.txt cannot be read"),
        (["--method=magic"], "method is 'magic'; allowed: retrain"),
        (["--heads", "--models=0"], "heads needs models"),
        (["--sign=none.pem"], "sign: none.pem cannot be read"),
        (["--previous=none"], "previous"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(run, tmp_path, capsys, flags, words):
    own = not flags[0].startswith("--previous")
    assert run(*flags, f"--out={tmp_path / 'out'}", own=own) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_no_rows_are_held_out_as_the_others_would_have_other_numbers(run, tmp_path, capsys):
    assert run("--validation=10", f"--out={tmp_path / 'out'}") == 2
    assert "--validation" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert run(f"--out={tmp_path / 'out'}") == 2
    assert "is there already" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_a_process_that_dies_before_the_end_leaves_nothing_and_the_next_one_goes_on(run, tmp_path, capsys, monkeypatch):
    flags = ["--models=4", "--method=neggrad", f"--out={tmp_path / 'out'}"]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "write_record", full)
        assert run(*flags) == 1
    first = capsys.readouterr()
    assert "No space left" in first.err and "result: " in first.out and "4 of 4" in first.out
    left = tmp_path / f".out.{os.uname().nodename}.999999999.partial"  # of a process that was killed
    left.mkdir()
    assert run(*flags) == 0
    again = capsys.readouterr().out
    assert "result: " not in again and "of 4" not in again and "written: " in again
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == ["out"]
    seconds = receipt_of(tmp_path / "out")["work"]["seconds"]
    assert seconds.keys() == {"result", "control", "models"}


def test_help_and_a_missing_word(capsys):
    assert forget.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "--rows" in said and "--method" in said and "--tasks" not in said and "--train-metrics" not in said
    assert forget.main(["--rows=a.txt"]) == 2
    assert "out is missing; allowed: --out=FOLDER" in capsys.readouterr().err
    assert forget.main(["verify", "nowhere.json"]) == 2
    assert "nowhere.json cannot be read" in capsys.readouterr().err


def test_a_destroyed_model_is_not_delivered(run, tmp_path, capsys):
    flags = ["--method=neggrad", "--neggrad.learning_rate=1000", "--neggrad.epochs=3", "--models=0"]
    assert run(*flags, f"--out={tmp_path / 'out'}") == 1
    assert "has destroyed the model" in capsys.readouterr().err and not (tmp_path / "out").exists()
