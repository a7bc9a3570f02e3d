"""Images that a network is shown: a data set of ncpl's, or a folder whose files are read as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.data import Dataset
from ncpl_cli.data.folder import list_folder
from ncpl_cli.data.images import rgb
from ncpl_cli.errors import InputError
from ncpl_cli.extraction.models import Model
from ncpl_cli.extraction.shown import Batch, Labels, Shown
from ncpl_cli.rng import stream

SPLITS = ("train", "test")


def of_dataset(model: Model, data: Dataset, samples: int | None) -> tuple[dict[str, Shown], int]:
    """Both splits of a data set in memory, `samples` drawn of each; and the number of classes."""
    found = {}
    for name, whole in zip(SPLITS, (data.train, data.test), strict=True):
        split = whole if samples is None else whole.drawn(samples)
        if split.labels.ndim != 1:
            raise InputError(f"{data.name} has several labels an image, and features here have one.")
        found[name] = _shown(model, split.labels, split.images, data.scale)
    return found, data.classes


def of_folder(model: Model, root: Path, samples: int | None) -> tuple[dict[str, Shown], int]:
    """Both splits of a folder, each file read when its batch is: as many as there are, of whatever size."""
    listing = list_folder(root)
    test = np.zeros(len(listing.files), bool)
    test[listing.test] = True
    found = {}
    for name, rows in zip(SPLITS, (np.flatnonzero(~test), np.flatnonzero(test)), strict=True):
        if samples is not None and samples < len(rows):
            rows = np.sort(stream(0, "images of a folder", name).permutation(rows)[:samples])
        files = [listing.files[row] for row in rows]
        found[name] = _shown(model, listing.labels[rows], _Files(files), 255.0)
    return found, listing.classes


class _Files(Sequence[NDArray[Any]]):
    """Image files, read when they are looked at."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: Any) -> Any:
        return [rgb(file) for file in self._files[place]] if isinstance(place, slice) else rgb(self._files[place])


def _shown(model: Model, labels: Labels, images: Sequence[NDArray[Any]] | NDArray[Any], scale: float) -> Shown:
    assert model.see is not None
    see = model.see

    def batches(size: int) -> Iterator[Batch]:
        for start in range(0, len(labels), size):
            given = images[start : start + size]
            yield Batch(see(list(given), scale), len(given))

    return Shown(labels, batches)
