"""What PyTorch's child process runs: the benchmarks over `torch_peer`, with its usual good settings."""

import copy
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.bench import torch_check, torch_peer
from experiments.bench.torch_peer import Batch, Images
from experiments.bench.work import Laps, Prepared, Work

Rows = tuple[torch.Tensor, torch.Tensor]  # stored images [N, channels, H, W], labels [N]
_EVALUATION = 500  # images of a forward pass, as in `camu_jax.evaluate`
_LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


class Side:
    """PyTorch's half of a pair.

    Variants of CaMU: `eager` does as the authors do, a frozen forward pass in every step and one model call for each
    set of images. `tuned` computes frozen embeddings once where augmentation allows it, and passes forget and retain
    images in one call where the model has no BatchNorm. Other benchmarks have only `eager`.
    """

    def __init__(self) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_float32_matmul_precision("high")  # on a GPU both libraries may use TF32; no effect on the CPU
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.device = torch.device("cpu")
        self.turns: dict[str, Callable[[int], Any]] = {}

    def machine(self, accelerator: bool) -> dict[str, Any]:
        """Chooses the device, and tells it and the version.

        Raises:
          RuntimeError: ours runs on a GPU and this PyTorch cannot.
        """
        if accelerator:
            if not torch.cuda.is_available():
                raise RuntimeError("JAX runs on an accelerator and this PyTorch build has none (try JAX_PLATFORMS=cpu)")
            self.device = torch.device("cuda")
        name = torch.cuda.get_device_name() if accelerator else "cpu"
        return {"torch": torch.__version__, "device": name, "threads": torch.get_num_threads()}

    def matmul_rate(self, n: int, tries: int) -> float:
        """Floating-point operations a second of the best of several `n` by `n` float32 products."""
        a = torch.rand(n, n, device=self.device)
        return 2 * n**3 / min(self._seconds(lambda: a @ a) for _ in range(tries))

    def prepare(self, work: Work, prepared: Prepared) -> dict[str, Any]:
        """Builds the benchmark's variants, each in the faster memory layout, and runs each once.

        Returns:
          `variants`, `layout`, and `first_seconds` by variant.
        """
        arrays = np.load(prepared.arrays)
        variants = ("eager", "tuned") if work.whole or work.kind == "camu" else ("eager",)
        tried: dict[str, tuple[float, dict[str, Callable[[int], Any]], dict[str, float]]] = {}
        for name, layout in _LAYOUTS.items():
            job = _Job(work, prepared, arrays, self.device, layout)
            turns = {v: job.turn(v) for v in variants}
            trial = job.trial()
            first = {"trial": self._seconds(lambda trial=trial: trial(1))}  # type: ignore[misc]
            rest = [self._seconds(lambda trial=trial: trial(1)) for _ in range(5 if first["trial"] < 1 else 1)]  # type: ignore[misc]
            tried[name] = min(rest), turns, first
        layout_name = min(tried, key=lambda name: tried[name][0])
        _, self.turns, first = tried[layout_name]
        if not work.whole:
            first = {v: self._seconds(lambda v=v: self.turns[v](1)) for v in variants}  # type: ignore[misc]
        return {"variants": variants, "layout": layout_name, "first_seconds": first}

    def go(self, variant: str, n: int) -> dict[str, Any]:
        """Makes `n` steps or passes: their `seconds`, and the `metrics` of a whole run."""
        result: dict[str, Any] = {}
        result["seconds"] = self._seconds(lambda: result.update(metrics=self.turns[variant](n)))
        return result

    def peak_device_memory(self) -> float | None:
        """In MiB; None on the CPU."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else None

    def check(self, architecture: str, path: str, out: str) -> None:
        """One training step and one CaMU update from the state in `path`, written to `out`; see `check.py`."""
        torch.set_float32_matmul_precision("highest")
        np.savez(out, **torch_check.updated(architecture, np.load(path)))

    def _seconds(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


class _Job:
    """One benchmark in one memory layout."""

    def __init__(
        self, work: Work, prepared: Prepared, arrays: Any, device: torch.device, layout: torch.memory_format
    ) -> None:
        self.work, self.prepared, self.device = work, prepared, device
        self.train, self.test = (
            (
                torch.from_numpy(arrays[f"{split}/x"]).to(device).permute(0, 3, 1, 2).contiguous(memory_format=layout),
                torch.from_numpy(arrays[f"{split}/y"]).to(device).long(),
            )
            for split in ("train", "test")
        )
        self.original = torch_peer.build(work.architecture, prepared.num_classes, work.compute)
        torch_peer.load_flax(self.original, arrays)
        self.original = self.original.to(device, memory_format=layout).eval()
        self.images = Images(prepared, device, layout)

    def turn(self, variant: str) -> Callable[[int], Any]:
        """A function that makes n steps (or whole passes)."""
        if self.work.kind == "camu":
            forget = self.train[0][: self._forget()], self.train[1][: self._forget()]
            retain = self.train[0][self._forget() :], self.train[1][self._forget() :]
            camu = self._camu(self.original, forget, retain, self.prepared.settings, variant == "tuned")
            return _stepper(camu[1])
        if self.work.kind == "train":
            whole = self.prepared.steps_per_pass * self.work.batch_size
            rows = self.train[0][:whole], self.train[1][:whole]
            return _stepper(self._training(copy.deepcopy(self.original), rows, self.prepared.settings))
        if self.work.kind == "unlearn":
            return lambda n: [self._unlearn(variant == "tuned") for _ in range(n)][-1]
        if self.work.kind == "attack":
            return lambda n: [self._attack(self.original, *self._split()) for _ in range(n)][-1]
        if self.work.kind == "job":
            return lambda n: [self._whole_job(variant == "tuned") for _ in range(n)][-1]
        return lambda n: [self._outputs(self.original, self.test[0]) for _ in range(n)] and None

    def trial(self) -> Callable[[int], Any]:
        """What is timed to choose the layout: the turn itself, or for a whole run its steps."""
        if not self.work.whole:
            return self.turn("eager")
        settings = self.prepared.settings
        settings = settings["camu"] if self.work.kind == "job" else settings
        return _stepper(self._camu(self.original, *self._split(), settings, False)[1])

    def _forget(self) -> int:
        return self.prepared.steps_per_pass * self.work.batch_size

    def _split(self) -> tuple[Rows, Rows]:
        """A random tenth to forget, the rest to retain."""
        order = torch.randperm(len(self.train[0]), device=self.device)
        parts = order.split([round(len(order) / 10), len(order) - round(len(order) / 10)])
        forget, retain = ((self.train[0][rows], self.train[1][rows]) for rows in parts)
        return forget, retain

    def _training(self, model: nn.Module, examples: Rows, settings: dict[str, Any]) -> Iterator[torch.Tensor]:
        """Endless steps of training, which change the model."""
        model.train()
        optimizer = torch_peer.adam(model, settings["learning_rate"], settings["l2"])
        for rows in self._passes(len(examples[0])):
            yield torch_peer.train_step(model, optimizer, self.images.training(examples[0][rows]), examples[1][rows])

    def _camu(
        self, original: nn.Module, forget: Rows, retain: Rows, settings: dict[str, Any], tuned: bool
    ) -> tuple[nn.Module, Iterator[Any]]:
        """Algorithm 1 and the endless steps of Algorithm 2 over it; the model, a copy of the original, changes."""
        images = self.images
        model = copy.deepcopy(original).train()
        kl, ce = (torch_peer.adam(model, settings[f"{k}_learning_rate"], settings["l2"]) for k in ("kl", "ce"))
        n = len(forget[0])
        rows = torch.randperm(len(retain[0]), device=self.device)[:n]
        kept, y_kept = retain[0][rows], retain[1][rows]
        x, other = images.training(forget[0]), images.training(kept)
        counterfactual = other + torch.rand_like(other)
        wrong = (forget[1] + torch.randint(1, self.prepared.num_classes, (n,), device=self.device)) % (
            self.prepared.num_classes
        )
        y_star = torch.where(y_kept == forget[1], wrong, y_kept)
        to_counterfactual = self._outputs(original, counterfactual)[1] if tuned else None
        to_retain = self._outputs(original, kept)[1] if tuned and images.augment == "none" else None

        def steps() -> Iterator[Any]:
            for i, j in zip(self._passes(n), self._passes(n), strict=True):
                batch = Batch(
                    x[i],
                    counterfactual[i],
                    y_star[i],
                    images.training(kept[j]),
                    y_kept[j],
                    None if to_counterfactual is None else to_counterfactual[i],
                    None if to_retain is None else to_retain[j],
                )
                join = tuned and self.work.architecture == "cnn"
                yield torch_peer.camu_step(model, original, kl, ce, batch, settings, join=join)

        return model, steps()

    def _unlearn(self, tuned: bool) -> dict[str, float]:
        """Split, tuples, every epoch of CaMU, and the accuracies, from data that is already loaded."""
        forget, retain = self._split()
        model, steps = self._camu(self.original, forget, retain, self.prepared.settings, tuned)
        _stepper(steps)(self._steps(forget, self.work.epochs))
        return self._accuracies(model.eval(), forget, retain)

    def _whole_job(self, tuned: bool) -> dict[str, float]:
        """Original model, Retrain, CaMU, the metrics and the audit `paper` of both, as in `our_job.py`."""
        settings, laps = self.prepared.settings, Laps()

        def trained(name: str, examples: Rows) -> nn.Module:
            model = torch_peer.build(self.work.architecture, self.prepared.num_classes, self.work.compute)
            model = model.to(self.device, memory_format=self.images.layout)
            _stepper(self._training(model, examples, settings[name]))(self._steps(examples, settings[name]["epochs"]))
            return model.eval()

        original = trained("original", self.train)
        figures = {"original T_s": self._accuracy(original, *self.test)}
        self._finish(laps, "original")
        forget, retain = self._split()
        for name in ("retrain", "camu"):
            if name == "retrain":
                model = trained(name, retain)
            else:
                model, steps = self._camu(original, forget, retain, settings["camu"], tuned)
                _stepper(steps)(self._steps(forget, settings["camu"]["epochs"]))
                model.eval()
            self._finish(laps, name)
            figures |= {f"{name} {metric}": v for metric, v in self._accuracies(model, forget, retain).items()}
            self._finish(laps, "metrics")
            figures |= {f"{name} {figure}": v for figure, v in self._attack(model, forget, retain).items()}
            self._finish(laps, "audit")
        return figures | {f"{part} s": seconds for part, seconds in laps.seconds.items()}

    def _finish(self, laps: Laps, part: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        laps.done(part)

    def _steps(self, examples: Rows, epochs: int) -> int:
        return int(epochs * -(-len(examples[0]) // self.work.batch_size))

    def _attack(self, model: nn.Module, forget: Rows, retain: Rows) -> dict[str, float]:
        """The audit `paper` of a model, task data10."""
        from experiments.bench import torch_attack  # needs XGBoost, the rest does not

        return torch_attack.attack(lambda x: self._outputs(model, x)[0], forget, retain, self.test)

    def _accuracies(self, model: nn.Module, forget: Rows, retain: Rows) -> dict[str, float]:
        parts = {"R_tr": retain, "F_tr": forget, "T_s": self.test}
        return {name: self._accuracy(model, *part) for name, part in parts.items()}

    def _outputs(self, model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and embeddings of a whole data set, minibatch by minibatch."""
        clean = (lambda batch: batch) if x.is_floating_point() else self.images.clean
        size = self.work.batch_size if self.work.kind == "evaluate" else _EVALUATION
        with torch.no_grad():
            parts = [model(clean(batch)) for batch in x.split(size)]
            logits, embedding = (torch.cat(part) for part in zip(*parts, strict=True))
        return logits, embedding

    def _accuracy(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
        return 100 * (self._outputs(model, x)[0].argmax(-1) == y).float().mean().item()

    def _passes(self, n: int) -> Iterator[torch.Tensor]:
        """Row numbers of minibatches, in a new order each pass, without end."""
        while True:
            yield from torch.randperm(n, device=self.device).split(self.work.batch_size)


def _stepper(steps: Iterator[Any]) -> Callable[[int], None]:
    def turn(n: int) -> None:
        for _ in itertools.islice(steps, n):
            pass

    return turn
