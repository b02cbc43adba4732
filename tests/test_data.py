"""The data sets: `tiny` as it is, TFDS folders written here record by record, and every way one can be broken."""

import dataclasses
import io
import json
import os
import shutil
import socket
import sys
import time
import types
import urllib.request
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from camu_jax import data
from camu_jax.data import DATASETS, DataError

FOLDERS = Path(__file__).parents[2] / "shared/tfds", Path(os.environ.get("TFDS_DATA_DIR") or "/nowhere")
REAL = [(n, f) for n, info in DATASETS.items() for f in FOLDERS if info.tfds_name and (f / info.tfds_name).is_dir()]
NONE = pytest.param("digit", None, marks=pytest.mark.skip(reason="no ../shared/tfds here, and no TFDS_DATA_DIR"))
TRAIN, TEST = 20, 8


def test_tiny(tiny):
    train, test = tiny
    chex.assert_shape([train.x, test.x], [(1437, 28, 28, 1), (360, 28, 28, 1)])
    chex.assert_type([train.x, train.y, test.x, test.y], [jnp.uint8, jnp.int32] * 2)
    for part in tiny:
        part.validate("part")
        assert part.num_classes == 10 and np.bincount(part.y).min() > 0.07 * len(part)
        assert int(part.x.max()) == 255 and int(part.x.min()) == 0
    everything = np.concatenate([part.x.reshape(len(part), -1) for part in tiny])
    assert len(np.unique(everything, axis=0)) > 1790  # 1 797 digits, hardly two of them alike


def test_tiny_is_always_the_same(tiny):
    chex.assert_trees_all_equal(data.load("tiny"), tiny)


def test_tiny_shows_the_digits_of_scikit_learn(tiny):
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert sorted(np.concatenate([part.y for part in tiny])) == sorted(digits.target)
    x, y = (np.asarray(a) for a in (tiny[0].x, tiny[0].y))
    for i in range(50):  # shrunk again, the nearest original is of the same class
        small = np.asarray(Image.fromarray(x[i, :, :, 0]).resize((8, 8), Image.Resampling.BOX), float)
        assert digits.target[np.abs(digits.images * (255 / 16) - small).mean((1, 2)).argmin()] == y[i]


@pytest.mark.parametrize(("limit", "sizes"), [(2, (2, 2)), (300, (300, 300)), (1000, (1000, 360)), (1437, (1437, 360))])
def test_limit_takes_the_first(tiny, limit, sizes):
    found = data.load("tiny", limit=limit)
    chex.assert_trees_all_equal(found, tuple(part[:size] for part, size in zip(tiny, sizes, strict=True)))


@pytest.mark.parametrize("limit", [-1, 0, 1, 1438])
def test_a_limit_out_of_range(limit):
    with pytest.raises(ValueError, match=f"limit is {limit}; allowed: 2 to 1437"):
        data.load("tiny", limit=limit)


@pytest.mark.parametrize("name", ["mnist", "", "Tiny"])
def test_an_unknown_name(name):
    with pytest.raises(ValueError, match=f"dataset is '{name}'; allowed: digit, fashion, c10, c100, tiny"):
        data.load(name)


def _field(number, content):
    """One length-delimited field of a protocol buffer."""
    size = len(content)
    varint = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + varint + content


def record(image, label):
    """A `tf.train.Example` with a PNG image and a label, as TFDS writes it."""
    png = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(png, "PNG")
    features = {b"image": _field(1, _field(1, png.getvalue())), b"label": _field(3, _field(1, bytes([label])))}
    entries = [_field(1, _field(1, name) + _field(2, feature)) for name, feature in features.items()]
    return _field(1, b"".join(entries))


def write_records(path, part):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for image, label in zip(np.asarray(part.x), np.asarray(part.y), strict=True):
        writer.write(record(image, int(label)))
    writer.close()


def write_folder(where, parts, version="3.0.1"):
    """A prepared TFDS folder of MNIST, with other images."""
    folder = where / "mnist" / version
    folder.mkdir(parents=True)
    for name, part in parts.items():
        write_records(folder / f"mnist-{name}.array_record-00000-of-00001", part)
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        dict(filepathTemplate=template, name=n, numBytes="1", shardLengths=[str(len(p))]) for n, p in parts.items()
    ]
    info = dict(fileFormat="array_record", name="mnist", version=version, splits=splits)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    core = "tensorflow_datasets.core.features."
    shape = dict(dimensions=[str(n) for n in parts["train"].x.shape[1:]])
    features = dict(
        image=dict(image=dict(dtype="uint8", shape=shape), pythonClassName=f"{core}image_feature.Image"),
        label=dict(classLabel=dict(numClasses="10"), pythonClassName=f"{core}class_label_feature.ClassLabel"),
    )
    whole = dict(featuresDict=dict(features=features), pythonClassName=f"{core}features_dict.FeaturesDict")
    (folder / "features.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture(scope="module")
def parts(tiny):
    return {"train": tiny[0][:TRAIN], "test": tiny[1][:TEST]}


@pytest.fixture
def digit(monkeypatch):
    """`digit` with 20 training and 8 test images, on a machine without a network."""
    small = dataclasses.replace(DATASETS["digit"], train_size=TRAIN, test_size=TEST)
    monkeypatch.setitem(DATASETS, "digit", small)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)

    def unknown(*args):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return "digit"


@pytest.fixture
def where(tmp_path, parts):
    write_folder(tmp_path / "tfds", parts)
    return tmp_path / "tfds"


def failure(name, **options):
    """The message of a DataError: one line, and soon."""
    started = time.monotonic()
    with pytest.raises(DataError) as raised:
        data.load(name, **options)
    assert time.monotonic() - started < 20
    message = str(raised.value)
    assert "\n" not in message and len(message) < 700
    return message


def test_a_prepared_folder(digit, where, parts):
    found = data.load(digit, data_dir=where)
    chex.assert_trees_all_equal(found, tuple(parts.values()))
    chex.assert_trees_all_equal_shapes_and_dtypes(found, tuple(parts.values()))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_a_limited_folder(digit, where, parts):
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, limit=5), tuple(p[:5] for p in parts.values()))
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, limit=10), (parts["train"][:10], parts["test"]))
    with pytest.raises(ValueError, match="limit is 21; allowed: 2 to 20"):
        data.load(digit, data_dir=where, limit=21)


def test_where_a_folder_is_looked_for(digit, where, parts, monkeypatch, tmp_path):
    """The argument before TFDS_DATA_DIR, which stands before ~/tensorflow_datasets."""
    expected = tuple(parts.values())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(where))
    chex.assert_trees_all_equal(data.load(digit), expected)
    (tmp_path / "empty").mkdir()
    assert "is not in" in failure(digit, data_dir=tmp_path / "empty")
    chex.assert_trees_all_equal(data.load(digit, data_dir="~/tfds"), expected)
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert str(tmp_path / "tensorflow_datasets") in failure(digit)
    where.rename(tmp_path / "tensorflow_datasets")
    chex.assert_trees_all_equal(data.load(digit), expected)


def test_the_newest_version_in_the_right_format(digit, where, parts):
    other = {name: part[jnp.arange(len(part))[::-1]] for name, part in parts.items()}
    write_folder(where, other, "3.1.0")
    (where / "mnist" / "4.0.0").mkdir()  # another format
    (where / "mnist" / "4.0.0" / "dataset_info.json").write_text("{}")
    chex.assert_trees_all_equal(data.load(digit, data_dir=where), tuple(other.values()))


@pytest.mark.parametrize("name", ["digit", "fashion", "c10", "c100"])
def test_a_missing_data_set_without_a_network(digit, tmp_path, name):
    message = failure(name, data_dir=tmp_path)
    assert f"data set {name} ({DATASETS[name].tfds_name}) is not in {tmp_path}" in message
    assert f"{DATASETS[name].host} cannot be reached" in message and "the data set tiny needs none" in message
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(digit, tmp_path):
    assert f"data_dir {tmp_path / 'nowhere'} is not a folder" in failure(digit, data_dir=tmp_path / "nowhere")


def test_a_download_that_fails_is_one_line(digit, tmp_path, monkeypatch):
    def builder(name, *, data_dir, file_format):
        assert (name, data_dir, file_format) == ("mnist", str(tmp_path), "array_record")
        raise RuntimeError("checksum of\nthe archive\nis wrong " + 500 * "x")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", types.SimpleNamespace(builder=builder))
    message = failure(digit, data_dir=tmp_path)
    assert "downloading it failed (RuntimeError: checksum of the archive is wrong" in message


def test_a_download_is_read(digit, tmp_path, parts, monkeypatch):
    """TFDS prepares the folder, and the images are read from where it says they are."""
    import tensorflow_datasets as tfds

    def builder(name, *, data_dir, file_format):
        prepare = lambda: write_folder(Path(data_dir), parts)  # noqa: E731
        return types.SimpleNamespace(download_and_prepare=prepare, data_dir=f"{data_dir}/mnist/3.0.1")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    monkeypatch.setattr(tfds, "builder", builder)
    chex.assert_trees_all_equal(data.load(digit, data_dir=tmp_path), tuple(parts.values()))


def records(where, split="train"):
    return next((where / "mnist" / "3.0.1").glob(f"mnist-{split}.array_record*"))


def shorten(share):
    def damage(where, parts):
        path = records(where)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def replace_text(name, text):
    return lambda where, parts: (where / "mnist/3.0.1" / name).write_text(text)


def rewrite(change):
    """Other records for the training set."""

    def damage(where, parts):
        records(where).unlink()
        write_records(
            records(where, "test").with_name(f"mnist-train{records(where, 'test').name[10:]}"), change(parts["train"])
        )

    return damage


DAMAGE = {
    "truncated to half": shorten(0.5),
    "last byte missing": shorten(0.999),
    "empty": shorten(0),
    "test split missing": lambda where, parts: records(where, "test").unlink(),
    "no description": replace_text("dataset_info.json", ""),
    "description of nothing": replace_text("dataset_info.json", "{}"),
    "no features": replace_text("features.json", ""),
    "fewer records": rewrite(lambda part: part[:-1]),
    "labels out of range": rewrite(lambda part: dataclasses.replace(part, y=part.y + 90)),
    "smaller images": rewrite(lambda part: dataclasses.replace(part, x=part.x[:, :14, :14])),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_one_line(digit, where, parts, case):
    DAMAGE[case](where, parts)
    message = failure(digit, data_dir=where)
    assert message.startswith(f"data set digit in {where / 'mnist' / '3.0.1'} is damaged or incomplete")


def test_a_flipped_byte_in_an_image_is_noticed(digit, where):
    """array_record keeps checksums of its chunks."""
    path = records(where)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"IDAT") + 20
    whole[at] ^= 1
    path.write_bytes(whole)
    assert "is damaged" in failure(digit, data_dir=where)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def undecodable(monkeypatch):
    """From now on only the cache can be read."""
    import tensorflow_datasets as tfds

    def forbid():
        def read(*args):
            raise AssertionError("decoded again")

        monkeypatch.setattr(tfds, "builder_from_directory", read)

    return forbid


def test_decoded_images_are_kept(digit, where, parts, cache, undecodable):
    first = data.load(digit, data_dir=where, cache_dir=cache)
    undecodable()
    second = data.load(digit, data_dir=where, cache_dir=cache)
    chex.assert_trees_all_equal(first, second, tuple(parts.values()))
    chex.assert_trees_all_equal_shapes_and_dtypes(first, second)
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache, limit=4)[0], parts["train"][:4])
    assert len(list(cache.iterdir())) == 2


def test_a_limited_load_is_not_kept_for_a_whole_one(digit, where, parts, cache):
    data.load(digit, data_dir=where, cache_dir=cache, limit=4)
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache), tuple(parts.values()))


def test_other_files_are_decoded_anew(digit, where, parts, cache):
    data.load(digit, data_dir=where, cache_dir=cache)
    rewrite(lambda part: part[jnp.arange(TRAIN)[::-1]])(where, parts)
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache)[0].y, parts["train"].y[::-1])


def test_a_cache_does_without_the_folder_and_tfds(digit, where, parts, cache, tmp_path, monkeypatch):
    data.load(digit, data_dir=where, cache_dir=cache)
    where.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    chex.assert_trees_all_equal(data.load(digit, cache_dir=cache), tuple(parts.values()))
    chex.assert_trees_all_equal(data.load(digit, cache_dir=cache, limit=9), (parts["train"][:9], parts["test"]))
    flip_pixel(*(next(cache.glob(f"*-{split}-*")) for split in ("train", "test")))
    assert "is not in" in failure(digit, cache_dir=cache)


@pytest.mark.parametrize("name", ["x.npy", "y.npy"])
@pytest.mark.parametrize("share", [0, 0.01, 0.9])
def test_a_damaged_cache_is_made_anew(digit, where, parts, cache, undecodable, name, share):
    expected = tuple(parts.values())
    data.load(digit, data_dir=where, cache_dir=cache)
    for path in cache.rglob(name):
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache), expected)
    undecodable()
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache), expected)


def flip_pixel(train, test):
    """The last pixel of the training images."""
    whole = bytearray((train / "x.npy").read_bytes())
    whole[-1] ^= 1
    (train / "x.npy").write_bytes(whole)


def zero_page(train, test):
    """What a file system leaves after a crash."""
    whole = (test / "x.npy").read_bytes()
    (test / "x.npy").write_bytes(whole[:256] + bytes(200) + whole[456:])


def other_shape(train, test):
    np.save(train / "x.npy", np.load(train / "x.npy").transpose(0, 2, 1, 3)[:, ::-1])


def fewer_rows(train, test):
    for name in ("x.npy", "y.npy"):
        np.save(train / name, np.load(train / name)[:-1])


def other_labels(train, test):
    for folder in (train, test):
        np.save(folder / "y.npy", np.load(folder / "y.npy")[::-1])


def other_split(train, test):
    shutil.rmtree(train)
    shutil.copytree(test, train)


def no_digest(train, test):
    (train / "sha256").unlink()


@pytest.mark.parametrize(
    "change", [flip_pixel, zero_page, other_shape, fewer_rows, other_labels, other_split, no_digest]
)
def test_a_changed_cache_is_made_anew(digit, where, parts, cache, undecodable, change):
    data.load(digit, data_dir=where, cache_dir=cache)
    change(*(next(cache.glob(f"*-{split}-*")) for split in ("train", "test")))
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache), tuple(parts.values()))
    undecodable()
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache), tuple(parts.values()))


def test_a_full_disk_leaves_nothing_behind(digit, where, parts, cache, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    chex.assert_trees_all_equal(data.load(digit, data_dir=where, cache_dir=cache), tuple(parts.values()))
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_no_error(digit, where, parts):
    found = data.load(digit, data_dir=where, cache_dir="/dev/null/cache")
    chex.assert_trees_all_equal(found, tuple(parts.values()))


@pytest.mark.parametrize(("name", "folder"), REAL or [NONE])
def test_real_data(name, folder):
    info = DATASETS[name]
    train, test = data.load(name, data_dir=folder, limit=500)
    for part in (train, test):
        chex.assert_shape(part.x, (500, *info.image_shape))
        chex.assert_type([part.x, part.y], [jnp.uint8, jnp.int32])
        assert part.num_classes == info.num_classes and len(np.unique(part.y)) > 0.9 * info.num_classes
        assert 20 < float(part.x.astype(jnp.float32).mean()) < 180
    images = np.concatenate([part.x.reshape(500, -1) for part in (train, test)])
    assert len(np.unique(images, axis=0)) > 990
