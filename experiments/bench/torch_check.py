"""One training step and one CaMU update of PyTorch's side, for `check.py`."""

from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.bench import torch_peer
from experiments.bench.torch_peer import Batch


def updated(architecture: str, arrays: Any) -> dict[str, Any]:
    """What one training step and one CaMU update of both variants make of a state and a batch, by name."""
    settings = {"kl_retain": 0.5, "kl_forget": 0.5, "ce_forget": 0.01, "ce_retain": 0.9}
    dtype = torch.from_numpy(arrays["forget"]).dtype
    rates = arrays["rates"].tolist()

    def fresh() -> nn.Module:
        model = torch_peer.build(architecture, 10)
        model = model.to(dtype)
        torch_peer.load_flax(model, arrays)
        return model

    def images(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name]).permute(0, 3, 1, 2).contiguous()

    def labels(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name]).long()

    results: dict[str, Any] = {}
    model = fresh().train()
    shapes: dict[nn.Module, int] = {}
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda m, _, y: shapes.update({m: y.numel() // y.shape[1]}))
    loss = torch_peer.train_step(model, torch_peer.adam(model, rates[0], 1e-4), images("forget"), labels("y_forget"))
    results["train/loss"] = loss.numpy()
    results.update({f"train/{name}": a for name, a in torch_peer.to_flax(model).items()})
    for name, layer, _ in torch_peer.tensors(model):
        if name.endswith("/var"):
            results[f"count/{name}"] = np.array(shapes[layer])

    frozen = fresh().eval()
    for variant in ("eager", "tuned"):
        model = fresh().train()
        adams = [torch_peer.adam(model, rate, 1e-4) for rate in rates[1:]]
        batch = Batch(
            images("forget"), images("counterfactual"), labels("y_star"), images("retain"), labels("y_retain")
        )
        if variant == "tuned":
            with torch.no_grad():
                batch = batch._replace(
                    counterfactual_embedding=frozen(batch.counterfactual)[1], retain_embedding=frozen(batch.retain)[1]
                )
        join = variant == "tuned" and architecture == "cnn"
        kl, ce = torch_peer.camu_step(model, frozen, adams[0], adams[1], batch, settings, join=join)
        results.update({f"{variant}/kl": kl.numpy(), f"{variant}/ce": ce.numpy()})
        results.update({f"{variant}/{name}": a for name, a in torch_peer.to_flax(model).items()})
    return results
