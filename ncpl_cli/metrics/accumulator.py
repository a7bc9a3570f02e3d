"""Collapse of a stream that does not fit into memory: one pass, and a second for what needs the final class means.

Kept are the class means and the d x d scatter around them, whatever the number of samples. Every block of samples is
centred by the class means so far before it is squared, and the scatter is then moved to the new means (Chan, Golub &
LeVeque 1983): products of samples as they are would lose a deep collapse. Products are made in float64, whatever the
features' precision: vci divides by the smallest eigenvalues, which float32 would make up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from ncpl_cli.errors import InputError
from ncpl_cli.metrics import moments
from ncpl_cli.metrics.arrays import checked, finite
from ncpl_cli.metrics.moments import Array, Means
from ncpl_cli.metrics.neural_collapse import (
    MOST_SQUARE,
    NO_SCATTER,
    CollapseResult,
    Statistics,
    convention,
    from_statistics,
    names_of,
)
from ncpl_cli.metrics.second_read import SecondRead

BLOCK = 2048
"""Samples of a block. Batches are gathered to one: a d x d sum for every small one would cost the most."""

SECOND_PASS = "needs the final class means: a second pass (revisit) gives it"


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _centre(x, labels, places, origin, offsets, z, sums, distance):  # type: ignore[no-untyped-def]
    """Fill z (n, d) with centred rows, and add them to sums (K, d), by their classes' places in the block, and their
    squares to distance (C,), in float64."""
    for i in range(x.shape[0]):
        row, total, square = z[i], sums[places[i]], 0.0
        moments.centre_row(x[i], origin, offsets[labels[i]], row)
        for j in range(x.shape[1]):
            total[j] += row[j]
            square += row[j] * row[j]
        distance[labels[i]] += square


class CollapseAccumulator:
    """Collapse metrics of a stream of `classes` classes: `update` with every batch, then `compute`.

    Batches may be NumPy arrays or torch tensors on any device; how the stream is cut into them does not matter.
    nc4 and ncc_error need a second pass: `revisit` with every batch again; so does nc1 above 4 096 dimensions, where no
    d x d matrix is kept. Two accumulators `merge` into one, so that a stream may be read by several processes.
    `metrics`: the ones wanted, default all. Without nc1 and vci no d x d matrix is made.
    """

    def __init__(self, classes: int, metrics: Iterable[str] | None = None) -> None:
        if classes < 1:
            raise InputError(f"an accumulator needs at least one class, not {classes}.")
        self.classes = classes
        self.metrics = None if metrics is None else frozenset(metrics)
        names_of(self.metrics, classifier=True)
        self._sums: _Sums | None = None
        self._buffer: NDArray[Any] = np.empty((0, 0))
        self._labels = np.empty(BLOCK, np.int64)
        self._filled = 0
        self._broken = False
        self._visited = _Visited()

    def update(self, features: Any, labels: Any) -> Self:
        """Add a batch: features (n, d), labels (n,)."""
        x, y, _, _ = self._checked(features, labels)
        self._visited = _Visited()
        self._broken |= not finite(x)
        if self._filled and self._buffer.dtype != x.dtype:
            self._flush()
        start = 0
        while start < len(x) and not self._broken:
            if self._filled == 0 and len(x) - start >= BLOCK:
                self._add(x[start : start + BLOCK], y[start : start + BLOCK])
                start += BLOCK
                continue
            if self._filled == 0:
                self._buffer = _fitting(self._buffer, x)
            size = min(BLOCK - self._filled, len(x) - start)
            place = slice(self._filled, self._filled + size)
            self._buffer[place], self._labels[place] = x[start : start + size], y[start : start + size]
            self._filled += size
            start += size
            if self._filled == BLOCK:
                self._flush()
        return self

    def merge(self, other: CollapseAccumulator) -> Self:
        """Add what another accumulator of the same classes has seen; the other stays as it is."""
        if other.classes != self.classes:
            raise InputError(f"accumulators of {self.classes} and {other.classes} classes do not merge.")
        self._flush()
        other._flush()
        self._visited = _Visited()
        self._broken |= other._broken
        if other._sums is not None:
            if self._sums is None:
                self._sums = _Sums.empty(self.classes, other._sums.origin, self._wants_moment)
            if len(other._sums.origin) != len(self._sums.origin):
                mine, theirs = len(self._sums.origin), len(other._sums.origin)
                raise InputError(f"features of {mine} and {theirs} dimensions do not merge.")
            self._sums.join(other._sums)
        return self

    def revisit(self, features: Any, labels: Any, weight: Any = None, bias: Any = None) -> Self:
        """The second pass, once every batch has been added: count ncc_error and, with the classifier, nc4."""
        self._flush()
        seen, given = self._visited, (weight, bias)
        known = seen.reading is not None and all(a is b for a, b in zip(seen.given, given, strict=True))
        x, y, w, b = self._checked(features, labels, *((None, None) if known else given))
        if self._broken or self._sums is None or not self._sums.counts.any():
            return self
        if not known:  # once for the whole pass: of many classes it takes more than a batch
            means = self._sums.means("sample")
            directions, _ = moments.between(means, self._sums.precision)
            seen.reading, seen.given = SecondRead(means, directions, None if w is None else (w, b)), given
        assert seen.reading is not None
        before = seen.reading.around.copy()
        nearest, predicted = seen.reading.read(x, y, torch.get_num_threads())
        seen.samples += len(x)
        seen.wrong += int((nearest != y).sum())
        seen.within = seen.reading.around - before + (0.0 if seen.within is None else seen.within)
        if predicted is not None:
            seen.classified += len(x)
            seen.agree += int((nearest == predicted).sum())
        return self

    def means(self) -> Means:
        """Class means of what has been seen, for `collapse(..., train_means=...)` of a test split."""
        self._flush()
        if self._sums is None:
            raise InputError("an accumulator that has seen nothing has no means.")
        return self._sums.means("sample")

    def compute(self, weight: Any = None, bias: Any = None, *, global_mean: str = "sample") -> CollapseResult:
        """Every metric wanted of what has been seen, as `collapse` gives them; the accumulator can go on."""
        self._flush()
        convention(global_mean)
        names = names_of(self.metrics, classifier=weight is not None)
        if self._broken or self._sums is None:
            why = "features are not finite" if self._broken else "fewer than two classes"
            return CollapseResult(dict.fromkeys(names, np.nan), dict.fromkeys(names, why))
        sums = self._sums
        _, _, w, b = self._checked(np.empty((0, len(sums.origin))), np.empty(0, np.int64), weight, bias)
        means = sums.means(global_mean)
        directions, s = moments.between(means, sums.precision)
        moment = None if sums.moment is None else moments.symmetric(sums.moment)
        within = np.full(len(s), np.nan)
        if moment is not None and "nc1" in names:
            within = np.einsum("rd,rd->r", directions @ moment, directions)
        seen = self._visited
        whole = seen.samples == int(sums.counts.sum()) and global_mean == "sample"  # the directions that revisit took
        if moment is None and whole and seen.within is not None:
            within = seen.within
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = from_statistics(Statistics(means, s, np.maximum(within, 0.0), sums.distance, moment), w, b, names)
        if moment is None and len(s) and not whole and "nc1" in names:
            found.undefined["nc1"] = f"one pass needs a d x d matrix, and d is above {MOST_SQUARE}: revisit, by sample"
        self._add_second_pass(found, names, int(sums.counts.sum()))
        return found

    @property
    def needs_second_pass(self) -> bool:
        """Whether something wanted is not known after one pass: nc1 where no d x d matrix is kept."""
        self._flush()
        asked = self.metrics is None or "nc1" in self.metrics
        return asked and self._sums is not None and self._sums.moment is None

    def _add_second_pass(self, found: CollapseResult, names: list[str], total: int) -> None:
        seen, why = self._visited, None
        if not found.context.get("rank_between"):
            why = "fewer than two classes" if found.context["classes"] < 2 else NO_SCATTER
        for name, samples, count in (("ncc_error", seen.samples, seen.wrong), ("nc4", seen.classified, seen.agree)):
            if name not in names:
                continue
            found.values[name] = np.nan
            if why is not None:
                found.undefined[name] = why
            elif samples != total:
                part = f"; it has seen {samples} of {total} samples" if samples else ""
                found.undefined[name] = SECOND_PASS + part
            else:
                found.values[name] = count / total

    def _checked(self, features: Any, labels: Any, weight: Any = None, bias: Any = None) -> Any:
        x, y, w, b = checked(features, labels, weight, bias)
        if self._sums is not None and x.shape[1] != len(self._sums.origin):
            raise InputError(f"features have {x.shape[1]} dimensions here and had {len(self._sums.origin)} before.")
        if self._filled and x.shape[1] != self._buffer.shape[1]:
            raise InputError(f"features have {x.shape[1]} dimensions here and had {self._buffer.shape[1]} before.")
        if (most := int(y.max(initial=-1))) >= self.classes:
            raise InputError(f"labels must be below the number of classes, {self.classes}; there is a {most}.")
        if w is not None and len(w) < self.classes:
            raise InputError(f"weight must have a row for each of {self.classes} classes, not {len(w)}.")
        return x, y, w, b

    @property
    def _wants_moment(self) -> bool:
        return self.metrics is None or bool({"nc1", "vci"} & self.metrics)

    def _flush(self) -> None:
        if self._filled:
            self._add(self._buffer[: self._filled], self._labels[: self._filled])
            self._filled = 0

    def _add(self, x: NDArray[Any], y: NDArray[np.int64]) -> None:
        if self._sums is None:
            self._sums = _Sums.empty(self.classes, moments.origin_of(x), self._wants_moment)
        self._sums.add(x, y)


@dataclass
class _Visited:
    """What the second pass has counted, and what reads it, by the classifier as it was given."""

    samples: int = 0
    wrong: int = 0
    classified: int = 0
    agree: int = 0
    within: Array | None = None
    reading: SecondRead | None = None
    given: tuple[Any, Any] = (None, None)


@dataclass
class _Sums:
    """Counts (C,), class means from an origin (C, d), and the scatter around them: by class (C,), and (d, d) in all."""

    counts: NDArray[np.int64]
    origin: Array
    offsets: Array
    distance: Array
    moment: torch.Tensor | None
    magnitude: float
    precision: Any

    @classmethod
    def empty(cls, classes: int, origin: Array, square: bool) -> _Sums:
        d = len(origin)
        moment = torch.zeros(d, d, dtype=torch.float64) if square and d <= MOST_SQUARE else None
        return cls(
            np.zeros(classes, np.int64), origin, np.zeros((classes, d)), np.zeros(classes), moment, 0.0, np.float64
        )

    def means(self, global_mean: str) -> Means:
        """As `moments.class_means` gives them."""
        present = self.counts > 0
        weights = (
            self.counts / max(1, self.counts.sum()) if global_mean == "sample" else present / max(1, present.sum())
        )
        return Means(self.counts, self.origin, self.offsets, weights @ self.offsets, self.magnitude)

    def add(self, x: NDArray[Any], y: NDArray[np.int64]) -> None:
        """Add a block of samples; nothing is done for the classes that have none in it."""
        d = len(self.origin)
        own, places, count = np.unique(y, return_inverse=True, return_counts=True)
        if len(new := own[self.counts[own] == 0]):  # classes seen for the first time: their means in this block
            rows = np.isin(y, new)
            first = moments.class_means(x[rows], np.searchsorted(new, y[rows]), len(new))
            self.offsets[new] = (first.origin - self.origin) + first.offsets
        z, sums = np.empty(x.shape), np.zeros((len(own), d))
        _centre(x, y, places, self.origin, self.offsets, z, sums, self.distance)
        # around the new means: the old ones were off by `move`
        total = self.counts[own] + count
        move = sums / total[:, None]  # K x d
        self.distance[own] = np.maximum(self.distance[own] - total * (move**2).sum(1), 0.0)
        if self.moment is not None:
            moments.add_square(self.moment, torch.from_numpy(z))
            self.moment.addmm_(torch.from_numpy((move * total[:, None]).T), torch.from_numpy(move), alpha=-1)
        self.offsets[own] += move
        self.counts[own] = total
        self.magnitude = max(self.magnitude, moments.magnitude_of(x, self.origin, self.offsets[own]))
        self.precision = max(self.precision, x.dtype, key=lambda t: np.finfo(t).eps)

    def join(self, other: _Sums) -> None:
        """Add what another has seen."""
        total = np.maximum(self.counts + other.counts, 1)
        gap = (other.origin - self.origin) + (other.offsets - self.offsets)  # C x d
        gap[other.counts == 0] = 0.0
        weight = self.counts * other.counts / total
        self.distance = self.distance + other.distance + weight * (gap**2).sum(1)
        if self.moment is not None and other.moment is not None:
            self.moment += other.moment
            self.moment.addmm_(torch.from_numpy((gap * weight[:, None]).T), torch.from_numpy(gap))
        self.offsets = self.offsets + gap * (other.counts / total)[:, None]
        self.counts = self.counts + other.counts
        self.magnitude = max(self.magnitude, other.magnitude)
        self.precision = max(self.precision, other.precision, key=lambda t: np.finfo(t).eps)


def _fitting(buffer: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """A buffer of one block for samples like x."""
    return (
        buffer if buffer.shape[1] == x.shape[1] and buffer.dtype == x.dtype else np.empty((BLOCK, x.shape[1]), x.dtype)
    )
