"""Randomness is an argument: every random thing draws from a stream of its own, named by what it is for.

A stream depends on nothing but the run's seed and its name, so adding a metric, a task or another seed
beside a run changes no number in it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """The generator for one purpose, e.g. `stream(seed, "data order", task, epoch)`."""
    text = "\0".join([str(int(seed)), *(str(part) for part in name)])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


HASHED = 4096
"""Rows that are hashed together."""


def content_order(rows: np.ndarray[Any, Any]) -> NDArray[np.int64]:
    """A fixed random order of rows (N, ...) that depends on what they hold and not on where they stand.

    Samples that were saved class by class, backwards or shuffled come in one and the same order, so that the first n of
    it are the same n samples, drawn once for all. Of equal rows the one that stands first comes first.
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    size = flat.shape[1] * flat.itemsize
    words = -(-size // 8)
    draw = stream(0, "content")
    factors = draw.integers(0, 1 << 64, words, np.uint64) | np.uint64(1)
    keys = np.zeros(len(flat), np.uint64)
    for start in range(0, len(flat), HASHED):
        part = flat[start : start + HASHED]
        padded = np.zeros((len(part), 8 * words), np.uint8)
        padded[:, :size] = part.view(np.uint8).reshape(len(part), size)
        found = padded.view(np.uint64)
        found ^= found >> np.uint64(29)  # floating-point numbers differ in their high bits
        keys[start : start + HASHED] = found @ factors
    order = np.argsort(_mixed(keys), kind="stable")
    _, first, count = np.unique(keys[order], return_index=True, return_counts=True)
    if len(first) < len(keys):  # equal rows do not come in one clump: each counts as another
        which = np.empty_like(keys)
        which[order] = np.arange(len(keys)) - np.repeat(np.sort(first), count[np.argsort(first)])
        order = np.argsort(_mixed(keys + _mixed(which)), kind="stable")
    return order.astype(np.int64)


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers of 64 bits of which each bit decides on half of the bits (splitmix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return keys ^ (keys >> np.uint64(31))
