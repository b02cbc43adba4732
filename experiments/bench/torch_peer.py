"""The same models and updates in PyTorch eager mode, written from the paper's equations: what ours is compared with.

Only the files `torch_*.py` import PyTorch. Images are `[B, channels, H, W]` here.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from experiments.bench.work import Prepared


class Peer(nn.Module):
    """A model, images `[B, channels, H, W]` -> logits `[B, C]` and embedding `[B, D]`.

    With `half`, the passes are in bfloat16 as autocast chooses; the outputs have the dtype of the images always.
    """

    half = False

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            logits, embedding = self.outputs(x)
        return logits.to(x.dtype), embedding.to(x.dtype)

    def outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


class CNN(Peer):
    """The paper's CNN (A.2.4), of images `[B, 1, 28, 28]`; D is 256."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.embed = nn.Linear(32 * 7 * 7, 256)
        self.hidden = nn.Linear(256, 128)
        self.out = nn.Linear(128, num_classes)

    def outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        embedding = self.embed(x.flatten(1))
        return self.out(self.hidden(embedding)), embedding

    def flax_names(self) -> dict[str, nn.Module]:
        """Layers by the name of their Flax counterpart."""
        return {
            "Conv_0": self.conv1,
            "Conv_1": self.conv2,
            "Linear_0/Dense_0": self.embed,
            "Linear_1/Dense_0": self.out,  # Flax numbers layers as they are constructed: the outer one first
            "Linear_2/Dense_0": self.hidden,
        }


class Block(nn.Module):
    """A basic residual block with BatchNorm."""

    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.short: nn.Module | None = None
        if stride != 1 or channels != features:
            self.short = nn.Sequential(nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + (x if self.short is None else self.short(x)), inplace=True)

    def flax_names(self) -> dict[str, nn.Module]:
        """Layers by the name of their Flax counterpart."""
        names = {"Conv_0": self.conv1, "BatchNorm_0": self.norm1, "Conv_1": self.conv2, "BatchNorm_1": self.norm2}
        if self.short is not None:
            names.update(Conv_2=self.short[0], BatchNorm_2=self.short[1])
        return names


class ResNet18(Peer):
    """ResNet-18 with the 3x3 stem, of images `[B, 3, H, W]`; D is 512."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
        self.blocks = nn.Sequential(*[Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)])
        self.out = nn.Linear(512, num_classes)

    def outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.blocks(F.relu(self.norm(self.stem(x)), inplace=True)).mean((2, 3))
        return self.out(embedding), embedding

    def flax_names(self) -> dict[str, nn.Module]:
        """Layers by the name of their Flax counterpart."""
        names = {"Conv_0": self.stem, "BatchNorm_0": self.norm, "Linear_0/Dense_0": self.out}
        for i, block in enumerate(self.blocks):
            names.update({f"_Block_{i}/{name}": layer for name, layer in block.flax_names().items()})
        return names


def build(architecture: str, num_classes: int, compute: str = "float32") -> nn.Module:
    """A fresh model, in training mode."""
    model: Peer = {"cnn": CNN, "resnet18": ResNet18}[architecture](num_classes)
    model.half = compute == "bfloat16"
    return model


def tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    """Every parameter and running statistic: its Flax name, its layer, the tensor itself."""
    for name, layer in model.flax_names().items():
        norm = isinstance(layer, nn.BatchNorm2d)
        yield f"params/{name}/{'scale' if norm else 'kernel'}", layer, layer.weight.data
        if layer.bias is not None:
            yield f"params/{name}/bias", layer, layer.bias.data
        if norm:
            yield f"batch_stats/{name}/mean", layer, layer.running_mean
            yield f"batch_stats/{name}/var", layer, layer.running_var


def load_flax(model: nn.Module, arrays: Any) -> None:
    """Copies Flax variables into the model.

    Args:
      model: of `build`.
      arrays: a mapping from `params/<layer>/<name>` and `batch_stats/<layer>/<name>` to arrays.
    """
    for name, layer, tensor in tensors(model):
        tensor.copy_(torch.from_numpy(_from_flax(arrays[name], layer)))


def to_flax(model: nn.Module) -> dict[str, np.ndarray]:
    """The model's variables under their Flax names, in Flax's layouts."""
    return {name: _to_flax(tensor.cpu().numpy(), layer) for name, layer, tensor in tensors(model)}


def _from_flax(a: np.ndarray, layer: nn.Module) -> np.ndarray:
    if a.ndim == 4:  # HWIO -> OIHW
        return a.transpose(3, 2, 0, 1).copy()
    if a.ndim == 2 and len(a) == 32 * 7 * 7:  # rows follow H, W, channels there and channels, H, W here
        return a.reshape(7, 7, 32, -1).transpose(3, 2, 0, 1).reshape(-1, len(a)).copy()
    return a.T.copy()


def _to_flax(a: np.ndarray, layer: nn.Module) -> np.ndarray:
    if a.ndim == 4:
        return a.transpose(2, 3, 1, 0).copy()
    if a.ndim == 2 and a.shape[1] == 32 * 7 * 7:
        return a.reshape(-1, 32, 7, 7).transpose(2, 3, 1, 0).reshape(a.shape[1], -1).copy()
    return a.T.copy()


def adam(model: nn.Module, learning_rate: float, l2: float) -> torch.optim.Optimizer:
    """Adam with L2 added to the gradient before the moments, in its fused form."""
    return torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=l2, fused=True)


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    for group in optimizer.param_groups:  # ours gives a zero, and so L2, to what the loss does not reach: NOTES.md
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return loss.detach()


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One update by the mean cross-entropy; returns it."""
    return _descend(optimizer, F.cross_entropy(model(x)[0], y))


class Batch(NamedTuple):
    """A minibatch of tuples; images `[B, channels, H, W]`, labels `[B]`, embeddings of the frozen model `[B, D]`."""

    forget: torch.Tensor
    counterfactual: torch.Tensor
    y_star: torch.Tensor
    retain: torch.Tensor
    y_retain: torch.Tensor
    counterfactual_embedding: torch.Tensor | None = None
    retain_embedding: torch.Tensor | None = None


def camu_step(
    model: nn.Module,
    frozen: nn.Module,
    kl_optimizer: torch.optim.Optimizer,
    ce_optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: dict[str, Any],
    *,
    join: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One iteration of Algorithm 2: the KL update (3.13), then the cross-entropy update (3.14).

    Args:
      model: the model being unlearned, in training mode.
      frozen: the original model, in evaluation mode; asked where the batch brings no embedding.
      kl_optimizer: over `model`.
      ce_optimizer: over `model`.
      batch: the tuples.
      settings: weights by the names of `camu_jax.CamuSettings`, preset `reference`.
      join: whether the two sets of images go through the model in one call (for a model without BatchNorm).

    Returns:
      The two losses before their updates.
    """
    with torch.no_grad():
        to_counterfactual, to_retain = batch.counterfactual_embedding, batch.retain_embedding
        if to_retain is None:
            to_retain = frozen(batch.retain)[1]
        if to_counterfactual is None:
            to_counterfactual = frozen(batch.counterfactual)[1]
        to_retain, to_counterfactual = F.log_softmax(to_retain, -1), F.log_softmax(to_counterfactual, -1)
    retain, forget = (e for _, e in _both(model, batch.retain, batch.forget, join=join))
    kl = settings["kl_retain"] * _kl(retain, to_retain) + settings["kl_forget"] * _kl(forget, to_counterfactual)
    kl = _descend(kl_optimizer, kl)

    forget, retain = (z for z, _ in _both(model, batch.forget, batch.retain, join=join))
    ce = settings["ce_forget"] * F.cross_entropy(forget, batch.y_star)
    ce = ce + settings["ce_retain"] * F.cross_entropy(retain, batch.y_retain)
    return kl, _descend(ce_optimizer, ce)


def _kl(embedding: torch.Tensor, log_target: torch.Tensor) -> torch.Tensor:
    """KL(target || model), summed over the batch, each embedding read as a distribution by a softmax."""
    return F.kl_div(F.log_softmax(embedding, -1), log_target, reduction="sum", log_target=True)


def _both(model: nn.Module, a: torch.Tensor, b: torch.Tensor, *, join: bool) -> Any:
    """Logits and embedding of two sets of images, in this order."""
    if not join:
        return model(a), model(b)
    logits, embedding = model(torch.cat([a, b]))
    return zip(logits.split([len(a), len(b)]), embedding.split([len(a), len(b)]), strict=True)


class Images:
    """The pipeline of `camu_jax.images`: uint8 `[N, channels, H, W]` -> model inputs."""

    def __init__(self, prepared: Prepared, device: torch.device, layout: torch.memory_format) -> None:
        self.mean, self.std = (
            torch.tensor(v, device=device).reshape(1, -1, 1, 1) for v in (prepared.mean, prepared.std)
        )
        self.layout, self.augment = layout, prepared.augment

    def clean(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises stored images."""
        x = x.float().div_(255)
        if self.mean.any() or (self.std != 1).any():
            x = x.sub_(self.mean).div_(self.std)
        return x.contiguous(memory_format=self.layout)

    def training(self, x: torch.Tensor) -> torch.Tensor:
        """As `clean`, after a random crop of the images padded by 4 pixels, and a random flip."""
        if self.augment == "none":
            return self.clean(x)
        b, _, h, w = x.shape
        padded = F.pad(x, (4, 4, 4, 4))
        rows, columns = (torch.randint(9, (b, 1), device=x.device) + torch.arange(n, device=x.device) for n in (h, w))
        columns = torch.where(torch.rand(b, 1, device=x.device) < 0.5, columns.flip(1), columns)
        picked = padded[torch.arange(b, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return self.clean(picked.permute(0, 3, 1, 2))
