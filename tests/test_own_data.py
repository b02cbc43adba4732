"""Own data is read as it is, whichever way it is stored, and whatever is wrong with it is one line that names it."""

import os
import shutil
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camu_jax import own_data
from camu_jax.data import DataError
from tests.test_data import parts, write_folder  # noqa: F401  # a fixture

NAMES = tuple(f"digit {k}" for k in range(10))


@pytest.fixture(scope="module")
def digits(tiny):
    """Real digits as arrays: 60 to train on, 30 to test."""
    train, test = tiny[0][:60], tiny[1][:30]
    named = {"x_train": train.x, "y_train": train.y, "x_test": test.x, "y_test": test.y}
    return {name: np.asarray(array) for name, array in named.items()}


def write_images(where, arrays, classes=NAMES, suffix=".png"):
    """A folder of image files, a class a folder."""
    for part in ("train", "test"):
        for number, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            file = where / part / classes[label] / f"{number:03}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file)
    return where


def same(own, arrays, order=slice(None)):
    """Whether own data holds these arrays, the training set in another order."""
    np.testing.assert_array_equal(own.train.x, arrays["x_train"][order])
    np.testing.assert_array_equal(own.train.y, arrays["y_train"][order])


def failure(read, *args, **options):
    with pytest.raises(DataError) as raised:
        read(*args, **options)
    message = str(raised.value)
    assert "\n" not in message and "allowed: " in message and len(message) < 600
    return message


# --- npz ----------------------------------------------------------------------------------------------------------


def test_arrays_as_they_are(tmp_path, digits):
    np.savez(tmp_path / "mine.npz", **digits)
    own = own_data.npz(tmp_path / "mine.npz")
    same(own, digits)
    np.testing.assert_array_equal(own.test.x, digits["x_test"])
    assert own.classes == tuple(map(str, range(10))) and own.train.num_classes == 10 and own.ids is None
    assert own.train.x.dtype == np.uint8 and own.train.y.dtype == np.int32


def test_other_shapes_and_types_that_mean_the_same(tmp_path, digits):
    """Grey images without an axis for their channel, labels as a column, as text, as 64 bits."""
    np.savez(tmp_path / "a.npz", **digits)
    plain = {**digits, "x_train": digits["x_train"][..., 0], "x_test": digits["x_test"][..., 0]}
    np.savez(tmp_path / "b.npz", **{**plain, "y_train": digits["y_train"][:, None].astype(np.int64)})
    a, b = own_data.npz(tmp_path / "a.npz"), own_data.npz(tmp_path / "b.npz")
    assert a.digest == b.digest
    named = {name: np.array(NAMES)[digits[name]] for name in ("y_train", "y_test")}
    np.savez(tmp_path / "c.npz", **{**digits, **named})
    np.savez(tmp_path / "d.npz", **{**digits, "classes": np.array(NAMES)})
    c, d = own_data.npz(tmp_path / "c.npz"), own_data.npz(tmp_path / "d.npz")
    assert c.classes == NAMES and c.digest == d.digest != a.digest
    same(c, digits)


def test_a_table(tmp_path):
    from sklearn.datasets import load_wine

    wine = load_wine()
    np.savez(
        tmp_path / "w.npz",
        x_train=wine.data[::2],
        y_train=wine.target[::2],
        x_test=wine.data[1::2],
        y_test=wine.target[1::2],
    )
    own = own_data.npz(tmp_path / "w.npz")
    assert own.train.x.dtype == np.float32 and own.train.x.shape == (89, 13) and len(own.classes) == 3


def test_names_of_rows(tmp_path, digits):
    np.savez(tmp_path / "mine.npz", **digits, ids=np.arange(1000, 1060))
    assert list(own_data.npz(tmp_path / "mine.npz").ids[:2]) == ["1000", "1001"]
    np.savez(tmp_path / "mine.npz", **digits, ids=np.arange(3))
    assert "ids has shape (3,)" in failure(own_data.npz, tmp_path / "mine.npz")


def without(*names):
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


def replaced(name, change):
    return lambda arrays: {**arrays, name: change(arrays[name])}


def set_to(value):
    def change(array):
        array = array.copy()
        array[5] = value
        return array

    return change


WRONG = {
    "no test set": (without("x_test", "y_test"), "lacks x_test, y_test"),
    "other names": (lambda arrays: {"a": arrays["x_train"]}, "(it holds a)"),
    "lengths": (replaced("y_train", lambda y: y[:-1]), "60 examples and train.y 59 labels"),
    "no label": (replaced("y_train", set_to(-1)), "label of train row 5 is -1"),
    "float labels": (replaced("y_test", lambda y: y.astype(float)), "labels of test are float64"),
    "one class": (lambda a: {**a, "y_train": 0 * a["y_train"], "y_test": 0 * a["y_test"]}, "num_classes is 1"),
    "sizes": (replaced("x_test", lambda x: x[:, :14]), "test examples uint8(14, 28, 1)"),
    "no examples": (lambda a: {**a, "x_train": a["x_train"][:0], "y_train": a["y_train"][:0]}, "train is empty"),
    "NaN": (lambda a: {**a, "x_train": set_to(np.nan)(a["x_train"] / 1.0), "x_test": a["x_test"] / 1.0}, "example 5"),
    "few names": (lambda a: {**a, "classes": np.array(NAMES[:4])}, "0 to 3"),
    "objects": (replaced("y_train", lambda y: y.astype(object)), "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays(tmp_path, digits, case):
    change, words = WRONG[case]
    np.savez(tmp_path / "mine.npz", **change(digits))
    message = failure(own_data.npz, tmp_path / "mine.npz")
    assert str(tmp_path / "mine.npz") in message and words in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY"])
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    assert "mine.npz cannot be read" in failure(own_data.npz, tmp_path / "mine.npz")
    assert "nowhere.npz is no file" in failure(own_data.npz, "nowhere.npz")


# --- a folder -----------------------------------------------------------------------------------------------------


def test_a_folder_of_images(tmp_path, digits):
    told = []
    own = own_data.folder(write_images(tmp_path / "d", digits), progress=lambda *done: told.append(done))
    order = np.argsort(digits["y_train"], kind="stable")  # classes by name, files by number
    same(own, digits, order)
    assert own.classes == NAMES and told[:60] == [(i + 1, 60) for i in range(60)] and told[-1] == (30, 30)
    assert list(own.ids) == [f"{NAMES[digits['y_train'][i]]}/{i:03}.png" for i in order]


def test_grey_and_coloured_images(tmp_path, digits):
    """One coloured image makes all of them coloured, also those of the other part."""
    where = write_images(tmp_path / "d", digits)
    file = next((where / "test").rglob("*.png"))
    Image.open(file).convert("RGBA").save(file)
    own = own_data.folder(where)
    assert own.train.x.shape[1:] == own.test.x.shape[1:] == (28, 28, 3)
    np.testing.assert_array_equal(own.train.x[..., 0], own.train.x[..., 2])


def test_an_image_of_16_bits_is_refused(tmp_path, digits):
    """Pillow would make its pixels 0 and 255."""
    where = write_images(tmp_path / "d", digits)
    deep = np.arange(784, dtype=np.uint16).reshape(28, 28) * 80
    Image.fromarray(deep).save(where / "train" / NAMES[0] / "deep.png")
    said = failure(own_data.folder, where)
    assert "deep.png is no image" in said and "more than 8 bits" in said


def test_labels_are_never_those_of_a_cache(tmp_path, digits):
    """A class that is added gives the ones after it other numbers, in the test part as well."""
    where, cache = write_images(tmp_path / "d", digits), tmp_path / "cache"
    own_data.folder(where, cache_dir=cache)
    shutil.copytree(where / "train" / NAMES[0], where / "train" / "a new one")
    found = own_data.folder(where, cache_dir=cache)
    np.testing.assert_array_equal(found.test.y, own_data.folder(where).test.y)
    assert found.classes[0] == "a new one" and min(found.test.y) == 1


def test_jpegs_and_hidden_files(tmp_path, digits):
    where = write_images(tmp_path / "d", digits, suffix=".JPG")
    (where / "train" / ".DS_Store").write_text("")
    (where / "train" / NAMES[0] / ".hidden").write_text("")
    own = own_data.folder(where)
    assert np.abs(own.test.x.astype(int) - own_data.folder(write_images(tmp_path / "p", digits)).test.x).mean() < 5


def odd_size(where):
    file = sorted((where / "train").rglob("*.png"))[7]
    Image.open(file).resize((30, 20)).save(file)
    return str(file), "is 30x20"


def no_image(where):
    file = sorted((where / "test").rglob("*.png"))[-1]
    file.write_bytes(file.read_bytes()[:60])
    return str(file), "is no image that can be read"


def stray_file(where):
    (where / "train" / NAMES[3] / "labels.csv").write_text("")
    return str(where / "train" / NAMES[3] / "labels.csv"), "wrong place"


def loose_image(where):
    file = next((where / "train").rglob("*.png"))
    file.rename(where / "train" / "a.png")
    return str(where / "train" / "a.png"), "wrong place"


def empty_class(where):
    (where / "train" / "nothing").mkdir()
    return str(where / "train" / "nothing"), "is empty"


def new_class(where):
    (where / "test" / NAMES[2]).rename(where / "test" / "other")
    return str(where / "test" / "other"), "without training images"


def no_test(where):
    (where / "test").rename(where / "validate")
    return str(where / "test"), "is missing"


@pytest.mark.parametrize(
    "spoil", [odd_size, no_image, stray_file, loose_image, empty_class, new_class, no_test], ids=lambda f: f.__name__
)
def test_a_wrong_folder(tmp_path, digits, spoil):
    where = write_images(tmp_path / "d", digits)
    file, words = spoil(where)
    message = failure(own_data.folder, where)
    assert file in message and words in message
    assert "nowhere is no folder" in failure(own_data.folder, tmp_path / "nowhere")


def test_images_of_different_sizes(tmp_path, digits):
    where = write_images(tmp_path / "d", digits)
    odd_size(where)
    assert own_data.folder(where, side=16, cache_dir=tmp_path / "c").train.x.shape == (60, 16, 16, 1)
    assert "30x20" in failure(own_data.folder, where, cache_dir=tmp_path / "c")


def forbid(monkeypatch):
    def read(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr("camu_jax.own_data.pictures.decode", read)


def test_decoded_images_are_kept(tmp_path, digits, monkeypatch):
    where, cache = write_images(tmp_path / "d", digits), tmp_path / "cache"
    first = own_data.folder(where, cache_dir=cache)
    with monkeypatch.context() as patched:
        forbid(patched)
        second = own_data.folder(where, cache_dir=cache)
        assert second.digest == first.digest and isinstance(second.train.x, np.memmap)
    file = next((where / "train").rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    os.utime(file, (1, 1))
    assert own_data.folder(where, cache_dir=cache).digest != first.digest


# --- Hugging Face -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hugging_face():
    return pytest.importorskip("datasets")


def save_hf(datasets, where, arrays, names=("train", "test"), label=None):
    """As its users write one."""
    features = datasets.Features({"image": datasets.Image(), "label": label or datasets.ClassLabel(names=list(NAMES))})

    def part(which):
        images = [Image.fromarray(image[..., 0]) for image in arrays[f"x_{which}"]]
        columns = {"image": images, "label": arrays[f"y_{which}"].tolist()}
        return datasets.Dataset.from_dict(columns, features=features)

    whole = {name: part(which) for name, which in zip(names, ("train", "test"), strict=True)}
    datasets.DatasetDict(whole).save_to_disk(str(where))
    return where


@pytest.mark.filterwarnings("ignore")
def test_a_hugging_face_folder(hugging_face, tmp_path, digits, monkeypatch):
    where = save_hf(hugging_face, tmp_path / "mine", digits)
    own = own_data.hf(where, cache_dir=tmp_path / "cache")
    same(own, digits)
    assert own.classes == NAMES
    forbid(monkeypatch)
    assert own_data.hf(where, cache_dir=tmp_path / "cache").digest == own.digest


@pytest.mark.filterwarnings("ignore")
def test_other_hugging_face_folders(hugging_face, tmp_path, digits):
    where = save_hf(hugging_face, tmp_path / "v", digits, ("train", "validation"), hugging_face.Value("int64"))
    same(own_data.hf(where), digits)
    where = save_hf(hugging_face, tmp_path / "u", digits, ("train", "unlabelled"))
    assert "has the splits train, unlabelled" in failure(own_data.hf, where)
    (tmp_path / "empty").mkdir()
    assert "cannot be read" in failure(own_data.hf, tmp_path / "empty")
    hugging_face.DatasetDict({"train": hugging_face.load_from_disk(str(where))["train"]}).save_to_disk(
        str(tmp_path / "t")
    )
    assert "has the splits train" in failure(own_data.hf, tmp_path / "t")


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "datasets is not installed; allowed: pip install" in failure(own_data.hf, tmp_path)


# --- TFDS ---------------------------------------------------------------------------------------------------------


def test_any_set_of_tfds(tmp_path, parts, monkeypatch):  # noqa: F811
    folder = write_folder(tmp_path, parts)
    (folder / "label.labels.txt").write_text("\n".join(NAMES))
    own = own_data.tfds("mnist", tmp_path, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(own.train.x, np.asarray(parts["train"].x))
    np.testing.assert_array_equal(own.test.y, np.asarray(parts["test"].y))
    assert own.classes == NAMES
    assert own_data.tfds("mnist", tmp_path, cache_dir=tmp_path / "cache").digest == own.digest


def test_an_unknown_name_has_close_matches(tmp_path):
    message = failure_of_tfds("fashion_mnits", tmp_path)
    assert "fashion_mnits is unknown to TFDS; close to it: fashion_mnist" in message and len(message) < 200
    assert "TFDS's catalog" in failure_of_tfds("qqqqqqqqqq", tmp_path)


def failure_of_tfds(name, where):
    with pytest.raises(DataError) as raised:
        own_data.tfds(name, where)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_tfds_without_a_network(tmp_path, monkeypatch):
    def unknown(*args):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    assert "is not in" in failure_of_tfds("svhn_cropped", tmp_path)


def test_a_damaged_set_of_tfds(tmp_path, parts):  # noqa: F811
    folder = write_folder(tmp_path, parts)
    next(folder.glob("mnist-test*")).unlink()
    assert f"in {folder} cannot be used" in failure_of_tfds("mnist", tmp_path)
    assert Path(folder).is_dir()
