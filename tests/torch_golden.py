"""Writes tests/torch_golden.npz: what PyTorch computes with weights that anyone can draw again.

`pip install torch==2.13.0; python tests/torch_golden.py`. The tests need the file alone: the weights are NumPy's
`RandomState(0)`, in the order of the names, which never changes.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("torch_golden.npz")


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights by name: small, and running variances positive."""
    rng, found = np.random.RandomState(0), {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("num_batches_tracked"):
            continue
        values = rng.randn(*shape)
        if name.endswith("running_var"):
            values = 0.5 + values**2
        elif len(shape) > 1:
            values *= (2 / np.prod(shape[1:])) ** 0.5
        found[name] = values.astype(np.float32)
    return found


def images(channels: int, side: int) -> np.ndarray:
    """Four images, `[4, channels, side, side]`."""
    return np.random.RandomState(1).rand(4, channels, side, side).astype(np.float32)


def main() -> None:
    """Runs the models of PyTorch, as their users write them."""
    import torch
    from torch import nn

    class Cnn(nn.Module):
        """The paper's CNN, in two Sequentials."""

        def __init__(self, classes: int) -> None:
            super().__init__()
            conv = lambda a, b: (nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))  # noqa: E731
            self.features = nn.Sequential(*conv(1, 16), *conv(16, 32))
            self.embed = nn.Linear(32 * 7 * 7, 256)
            self.classify = nn.Sequential(nn.Linear(256, 128), nn.Linear(128, classes))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            embedding = self.embed(self.features(x).flatten(1))
            return self.classify(embedding), embedding

    class Block(nn.Module):
        """torchvision's BasicBlock, by its names."""

        def __init__(self, channels: int, features: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False), nn.BatchNorm2d(features)
            self.conv2, self.bn2 = nn.Conv2d(features, features, 3, 1, 1, bias=False), nn.BatchNorm2d(features)
            self.downsample = None
            if stride != 1 or channels != features:
                short = nn.Conv2d(channels, features, 1, stride, bias=False)
                self.downsample = nn.Sequential(short, nn.BatchNorm2d(features))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        """torchvision's resnet18, by its names, with a width."""

        def __init__(self, classes: int, width: int, imagenet: bool) -> None:
            super().__init__()
            self.conv1 = (
                nn.Conv2d(3, width, 7, 2, 3, bias=False) if imagenet else nn.Conv2d(3, width, 3, 1, 1, bias=False)
            )
            self.bn1 = nn.BatchNorm2d(width)
            self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
            channels = width
            for stage in range(4):
                features = width * 2**stage
                blocks = [Block(channels, features, 2 if stage else 1), Block(features, features, 1)]
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
                channels = features
            self.fc = nn.Linear(channels, classes)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            embedding = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
            return self.fc(embedding), embedding

    models = {
        "cnn": (Cnn(10), images(1, 28)),
        "resnet18": (ResNet(10, 8, False), images(3, 32)),
        "resnet18_imagenet": (ResNet(7, 8, True), images(3, 64)),
    }
    found = {"torch": np.array(torch.__version__)}
    for name, (module, x) in models.items():
        state = module.state_dict()
        drawn = draw({key: tuple(value.shape) for key, value in state.items()})
        module.load_state_dict({key: torch.from_numpy(drawn.get(key, np.zeros(()))) for key in state})
        module.eval()
        with torch.no_grad():
            logits, embedding = module(torch.from_numpy(x))
        found |= {f"{name}/logits": logits.numpy(), f"{name}/embedding": embedding.numpy()}
        found[f"{name}/names"] = np.array([f"{k} {','.join(map(str, v.shape))}" for k, v in state.items()])
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
