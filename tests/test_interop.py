"""Weights of PyTorch's models give what PyTorch computed with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from camu_jax import interop, models
from tests import torch_golden
from tests.helpers import assert_close

GOLDEN = np.load(torch_golden.FILE)
MODELS = {
    "cnn": (models.cnn(10), torch_golden.images(1, 28)),
    "resnet18": (models.resnet18(10, width=8), torch_golden.images(3, 32)),
    "resnet18_imagenet": (models.resnet18(7, (64, 64, 3), width=8, stem="imagenet"), torch_golden.images(3, 64)),
}


def state_of(name):
    """The state dict that the golden outputs were computed with."""
    lines = (line.split(" ") for line in GOLDEN[f"{name}/names"])
    shapes = {key: tuple(int(n) for n in shape.split(",") if n) for key, shape in lines}
    return torch_golden.draw(shapes)


def like(name):
    return jax.eval_shape(MODELS[name][0].init, jax.random.key(0))


def check(name, variables):
    model, images = MODELS[name]
    out = model.eval(variables, jnp.asarray(images.transpose(0, 2, 3, 1)))
    scale = float(np.abs(GOLDEN[f"{name}/logits"]).max())
    assert_close(out.logits, GOLDEN[f"{name}/logits"], rtol=1e-4, atol=1e-5 * scale)
    assert_close(out.embedding, GOLDEN[f"{name}/embedding"], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_weights_gives_what_torch_computed(name, tmp_path):
    save_file(state_of(name), tmp_path / "weights.safetensors")
    variables = interop.from_torch(tmp_path / "weights.safetensors", like(name))
    assert jax.tree.structure(variables) == jax.tree.structure(like(name))
    check(name, variables)


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: f"module.backbone.{name}",
        lambda name: name.replace("downsample", "shortcut").replace("fc", "linear"),
        lambda name: name.replace("layer", "body.").replace("conv1", "0" if name.startswith("conv1") else "conv1"),
        lambda name: f"num.{name}".replace("num.conv1", "stem.0").replace("num.bn1", "stem.1"),
    ],
)
def test_names_do_not_matter(renamed):
    state = {renamed(name): array for name, array in state_of("resnet18").items()}
    check("resnet18", interop.from_torch(state, like("resnet18")))


def test_numbers_are_ordered_as_numbers():
    state = state_of("cnn")
    for old, new in {"features.0": "features.9", "features.3": "features.10"}.items():
        state |= {name.replace(old, new): state.pop(name) for name in list(state) if name.startswith(f"{old}.")}
    check("cnn", interop.from_torch(state, like("cnn")))


def test_other_layers_are_named(tmp_path):
    state = state_of("resnet18")
    del state["fc.weight"]
    state["extra.weight"] = np.zeros((3, 5), np.float32)
    with pytest.raises(ValueError, match=r"missing: Linear_0/Dense_0 \(10, 64\); not in it: extra \(3, 5\)$"):
        interop.from_torch(state, like("resnet18"))
    with pytest.raises(ValueError, match="Conv_1"):
        interop.from_torch(state_of("cnn"), jax.eval_shape(models.cnn(10, width=2).init, jax.random.key(0)))
    without = {name: array for name, array in state_of("resnet18").items() if not name.startswith("layer1.0.bn2")}
    with pytest.raises(ValueError, match=r"state: _Block_0/BatchNorm_1/\w+ is missing; allowed: \(8,\)$"):
        interop.from_torch(without, like("resnet18"))
    with pytest.raises(FileNotFoundError, match="are not there; allowed"):
        interop.from_torch(tmp_path / "no.safetensors", like("cnn"))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        interop.from_torch(tmp_path / "bad.safetensors", like("cnn"))
