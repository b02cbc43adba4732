"""Margins of populations of models on disk, a file a model."""

import dataclasses
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np

from camu_jax import checkpoint
from experiments import console, store

Margins = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
"""Margins of one model, `[examples]`, or of many, `[models, examples]`."""


@dataclasses.dataclass
class MarginFiles(MutableMapping[int, Margins]):
    """Margins `[examples]` by the number of the model, a file each; a damaged one is set aside."""

    folder: Path
    examples: int

    def __getitem__(self, number: int) -> Margins:
        file = self._file(number)
        try:
            found = np.load(file, allow_pickle=False)
            if found.shape != (self.examples,):
                raise ValueError(f"shape {found.shape}, {(self.examples,)} belongs")
        except FileNotFoundError:
            raise KeyError(number) from None
        except (OSError, ValueError, EOFError) as error:
            aside = checkpoint.set_aside(file).name
            console.warn(f"{file} is damaged ({error}); it is set aside as {aside} and made anew")
            raise KeyError(number) from None
        return np.asarray(found)

    def __setitem__(self, number: int, margins: Margins) -> None:
        with store.atomic(self._file(number)) as partial:
            np.save(partial, margins)

    def __delitem__(self, number: int) -> None:
        self._file(number).unlink()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(file.stem) for file in self.folder.glob("[0-9]*.npy")))

    def __len__(self) -> int:
        return len(list(self.folder.glob("[0-9]*.npy")))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.npy"
