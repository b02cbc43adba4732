"""What comes back from disk is what was written, or an error."""

import json
import os
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

import camu_jax
from camu_jax import Model, Outputs, Pipeline, Predictor, checkpoint
from camu_jax.checkpoint import CheckpointError

VARIABLES = {
    "params": {"dense": {"kernel": jnp.arange(12.0).reshape(3, 4) / 7, "bias": jnp.array([-0.0, 1e-40, 3.0, jnp.inf])}},
    "batch_stats": {"mean": jnp.ones(3, jnp.bfloat16), "count": jnp.int32(7)},
}
DESCRIPTION = {"dataset": "tiny", "seed": 0, "settings": {"epochs": 2, "l2": 1e-4, "stem": None}}


def model_of(like):
    """A model whose fresh variables are like these."""
    return Model(lambda key: like, lambda variables, x, *, train, key=None: (Outputs(x, None), {}))


def predictor(variables, *more):
    return Predictor(
        (variables, *more), model_of(variables), Pipeline(mean=(0.1,)), "vote", {"touched": jnp.float32(0.5)}
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "saved"
    checkpoint.save(path, predictor(VARIABLES), DESCRIPTION)
    return path


@pytest.fixture
def copy(written, tmp_path):
    """A checkpoint to damage."""
    return shutil.copytree(written, tmp_path / "parent" / "copy")


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def load(path, like=VARIABLES, description=DESCRIPTION):
    return checkpoint.load(path, model_of(like), description).variables


def bits(tree):
    return jax.tree.map(lambda a: (a.dtype, a.tobytes()), jax.device_get(tree))


def test_round_trip_is_bit_equal(written):
    loaded = load(written)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, VARIABLES)
    assert bits(loaded) == bits(VARIABLES)


def test_all_of_a_predictor_comes_back(tmp_path):
    other = jax.tree.map(lambda a: a + 1, VARIABLES)
    saved = predictor(VARIABLES, other)
    camu_jax.save(tmp_path / "c", saved)
    loaded = camu_jax.load(tmp_path / "c", saved.model)
    assert bits(loaded.members) == bits((VARIABLES, other))
    assert (loaded.model, loaded.pipeline, loaded.aggregate) == (saved.model, saved.pipeline, saved.aggregate)
    assert bits(loaded.info) == bits(saved.info)


def test_a_model_without_batch_statistics(tmp_path):
    variables = {"params": {"w": jnp.ones(2)}, "batch_stats": {}}
    checkpoint.save(tmp_path / "c", predictor(variables), {})
    chex.assert_trees_all_equal(load(tmp_path / "c", variables, {}), variables)


def test_the_manifest_names_every_other_file(written):
    manifest = json.loads((written / "manifest.json").read_text())
    assert sorted(manifest["sha256"]) == [name for name in files(written) if name != "manifest.json"]
    assert len(manifest["sha256"]) >= 2 and manifest["description"]["made_from"] == DESCRIPTION


def test_a_flipped_byte_in_any_file_is_noticed(copy):
    names = files(copy)
    assert len(names) >= 3
    for name in names:
        whole = (copy / name).read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            damaged = bytearray(whole)
            damaged[at] ^= 1
            (copy / name).write_bytes(damaged)
            with pytest.raises(CheckpointError, match="^checkpoint [^\n]*$"):
                load(copy)
        (copy / name).write_bytes(whole)
    load(copy)


def test_a_flipped_bit_anywhere_in_the_manifest_is_noticed(copy):
    manifest = copy / "manifest.json"
    whole = manifest.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        manifest.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": {}}', '{"sha256": 3, "description": {}}', "\xff"])
def test_an_unreadable_manifest(copy, text):
    (copy / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(CheckpointError, match="its manifest cannot be read"):
        load(copy)


def test_a_missing_file_is_noticed(copy):
    for name in files(copy):
        (copy / name).rename(copy.parent / "away")
        with pytest.raises(CheckpointError, match="manifest" if name == "manifest.json" else f"{name} is missing"):
            load(copy)
        (copy.parent / "away").rename(copy / name)


def test_an_extra_file_is_noticed(copy):
    (copy / "variables" / "extra").write_text("x")
    with pytest.raises(CheckpointError, match="file variables/extra is not in the manifest"):
        load(copy)


def test_a_truncated_file_is_noticed(copy):
    largest = max((p for p in (copy / "variables").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="was changed since it was written"):
        load(copy)


@pytest.mark.parametrize("description", [{}, {**DESCRIPTION, "seed": 1}, {**DESCRIPTION, "more": 1}])
def test_other_settings_are_noticed(written, description):
    with pytest.raises(CheckpointError, match="was made from other settings"):
        load(written, description=description)


PARAMS, STATS = VARIABLES["params"], VARIABLES["batch_stats"]
OTHER = {
    "a leaf more": {"params": {**PARAMS, "more": jnp.ones(2)}, "batch_stats": STATS},
    "a leaf less": {"params": {"dense": {"kernel": jnp.ones((3, 4))}}, "batch_stats": STATS},
    "a collection less": {"params": PARAMS},
    "another name": {"params": {"other": PARAMS["dense"]}, "batch_stats": STATS},
    "another shape": {"params": {"dense": {**PARAMS["dense"], "kernel": jnp.ones((4, 4))}}, "batch_stats": STATS},
    "another dtype": {"params": PARAMS, "batch_stats": {**STATS, "mean": jnp.ones(3, jnp.float16)}},
    "a smaller shape": {"params": {"dense": {**PARAMS["dense"], "kernel": jnp.ones((2, 4))}}, "batch_stats": STATS},
}


@pytest.mark.parametrize("case", OTHER)
def test_another_structure_is_noticed(written, case):
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load(written, OTHER[case])


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")


def test_what_an_interrupted_save_leaves_is_no_checkpoint(tmp_path, monkeypatch):
    """The process dies after Orbax wrote the arrays, before the manifest."""

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path / "c", predictor(VARIABLES), DESCRIPTION)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".c.")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "c")
    checkpoint.save(tmp_path / "c", predictor(VARIABLES), DESCRIPTION)
    assert bits(load(tmp_path / "c")) == bits(VARIABLES)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_what_others_have_not_finished_is_left_alone(tmp_path):
    """Also another checkpoint whose name begins alike; what was left a day ago goes."""
    left = [tmp_path / f".{name}.elsewhere.7.partial" for name in ("net", "net.v2", "net.old")]
    for folder in left:
        folder.mkdir()
    os.utime(left[2], (0, 0))
    checkpoint.save(tmp_path / "net", predictor(VARIABLES), DESCRIPTION)
    assert set(tmp_path.iterdir()) == {tmp_path / "net", *left[:2]}


def test_what_it_was_made_from_may_hold_tuples(tmp_path):
    description = {"decay_epochs": (3, 5)}
    checkpoint.save(tmp_path / "c", predictor(VARIABLES), description)
    assert bits(load(tmp_path / "c", description=description)) == bits(VARIABLES)


def test_a_checkpoint_that_is_there_is_kept(copy):
    with pytest.raises(FileExistsError, match="exists already; allowed"):
        checkpoint.save(copy, predictor({"params": jnp.zeros(1)}), {"other": True})
    assert bits(load(copy)) == bits(VARIABLES)
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_set_aside_keeps_every_damaged_copy(copy):
    before = {name: (copy / name).read_bytes() for name in files(copy)}
    aside = checkpoint.set_aside(copy)
    assert aside.name == "copy.corrupt1" and not copy.exists()
    assert {name: (aside / name).read_bytes() for name in files(aside)} == before
    copy.write_text("a file this time")
    assert checkpoint.set_aside(copy).name == "copy.corrupt2" and aside.is_dir()
