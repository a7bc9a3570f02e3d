"""Ten shifts of the input, photometric and geometric, and the data set that holds a domain of each.

The list is frozen: its names and what they do belong to the identity of stored runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset, Split

Images = NDArray[np.float64]

DOMAIN = "domain"
"""The further label that says which domain an image is of."""

INNER = "inner folder"
"""The further label of a folder's images that lie two folders deep: the inner one."""


def _moved(images: Images, axis: int) -> Images:
    """An eighth of the side towards higher indices (at least a pixel); what comes in is 0."""
    step = max(1, images.shape[axis] // 8)
    found = np.roll(images, step, axis)
    found[(slice(None),) * axis + (slice(0, step),)] = 0
    return found


def _blurred(images: Images) -> Images:
    """The mean of the 3 x 3 pixels around each, the border repeated."""
    height, width = images.shape[2:]
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return np.mean([wide[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)  # type: ignore[no-any-return]


def _noisy(images: Images) -> Images:
    """Plus N(0, .2^2), one draw for all time."""
    return images + 0.2 * rng.stream(0, "noise shift").standard_normal(images.shape)


SHIFTS: dict[str, Callable[[Images], Images]] = {
    "invert": lambda x: 1 - x,
    "right": lambda x: _moved(x, 3),
    "bright": lambda x: x + 0.3,
    "turn": lambda x: np.rot90(x, axes=(2, 3)),
    "contrast": lambda x: 0.5 + 0.3 * (x - 0.5),
    "blur": _blurred,
    "dark": lambda x: 0.4 * x,
    "down": lambda x: _moved(x, 2),
    "noise": _noisy,
    "mirror": lambda x: x[:, :, :, ::-1],
}
"""By name: images (N, channels, height, width) in [0, 1] -> as the domain shows them; bytes are cut to [0, 1]."""

NONE = "none"
"""The images as they are."""


def shifted(images: NDArray[Any], scale: float, shift: str) -> NDArray[Any]:
    """Images (N, C, H, W) of a data set as a domain shows them, of the same type."""
    if shift == NONE:
        return images
    found = SHIFTS[shift](images.astype(np.float64) / scale)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(np.rint(found.clip(0, 1) * scale).astype(np.uint8))
    return np.ascontiguousarray((found * scale).astype(images.dtype))


_MADE: weakref.WeakKeyDictionary[Split, dict[tuple[str, ...], Dataset]] = weakref.WeakKeyDictionary()


def with_domains(data: Dataset, shifts: Sequence[str]) -> Dataset:
    """The data set with one domain a shift: every image once in each, in the order of the shifts; made once.

    Of a folder of domains (`INNER`): its images as they are, a domain the outer folder, a class the inner one.
    """
    if DOMAIN in data.train.further:
        return data
    held = _MADE.setdefault(data.train, {})
    if tuple(shifts) not in held:
        of_folder = INNER in data.train.further
        splits = [data.train, data.test, *([] if data.validation is None else [data.validation])]
        made = [_outer(split) if of_folder else _repeated(split, data.scale, shifts) for split in splits]
        classes = 1 + max(int(split.labels.max()) for split in made) if of_folder else data.classes
        held[tuple(shifts)] = replace(
            data, train=made[0], test=made[1], classes=classes, validation=made[2] if len(made) > 2 else None
        )
    return held[tuple(shifts)]


def _repeated(split: Split, scale: float, shifts: Sequence[str]) -> Split:
    images = np.concatenate([shifted(split.images, scale, shift) for shift in shifts])
    domain = np.repeat(np.arange(len(shifts)), len(split))
    return Split(images, np.tile(split.labels, len(shifts)), {DOMAIN: domain})


def _outer(split: Split) -> Split:
    return Split(split.images, split.further[INNER], {DOMAIN: split.labels})
