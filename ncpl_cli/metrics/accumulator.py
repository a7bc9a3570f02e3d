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
from ncpl_cli.metrics.on_device import DeviceRead, DeviceSums
from ncpl_cli.metrics.second_read import SecondRead
from ncpl_cli.metrics.sums import Sums

BLOCK = 2048
"""Samples of a block. Batches are gathered to one: a d x d sum for every small one would cost the most."""

MOST_THERE = 1 << 15
"""Samples that are added at once on a device."""

SECOND_PASS = "needs the final class means: a second pass (revisit) gives it"


class CollapseAccumulator:
    """Collapse metrics of a stream of `classes` classes: `update` with every batch, then `compute`.

    Batches may be NumPy arrays or torch tensors on any device; how the stream is cut into them does not matter.
    nc4 and ncc_error need a second pass: `revisit` with every batch again; so does nc1 above 4 096 dimensions, where no
    d x d matrix is kept. Two accumulators `merge` into one, so that a stream may be read by several processes.
    `metrics`: the ones wanted, default all. Without nc1 and vci no d x d matrix is made. `device`: where the products
    are made, a CUDA device in place of the processor; batches may lie anywhere.
    """

    def __init__(self, classes: int, metrics: Iterable[str] | None = None, device: str = "cpu") -> None:
        if classes < 1:
            raise InputError(f"an accumulator needs at least one class, not {classes}.")
        self.classes, self.device = classes, device
        self.metrics = None if metrics is None else frozenset(metrics)
        names_of(self.metrics, classifier=True)
        self._sums: Sums | DeviceSums | None = None
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._buffer: NDArray[Any] = np.empty((0, 0))
        self._labels = np.empty(BLOCK, np.int64)
        self._filled = 0
        self._broken = False
        self._visited = _Visited()

    def update(self, features: Any, labels: Any) -> Self:
        """Add a batch: features (n, d), labels (n,)."""
        if self.device != "cpu":
            return self._update_there(features, labels)
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
            more = other._sums.host()
            mine = (
                Sums.empty(self.classes, more.origin, self._wants_moment) if self._sums is None else self._sums.host()
            )
            if len(more.origin) != len(mine.origin):
                raise InputError(f"features of {len(mine.origin)} and {len(more.origin)} dimensions do not merge.")
            mine.join(more)
            self._sums = mine if self.device == "cpu" else DeviceSums.of(mine, self.device)
        return self

    def revisit(self, features: Any, labels: Any, weight: Any = None, bias: Any = None) -> Self:
        """The second pass, once every batch has been added: count ncc_error and, with the classifier, nc4."""
        self._flush()
        seen, given = self._visited, (weight, bias)
        known = seen.reading is not None and all(a is b for a, b in zip(seen.given, given, strict=True))
        there = self.device != "cpu"
        x, y, w, b = (self._placed if there else self._checked)(features, labels, *((None, None) if known else given))
        if self._broken or self._sums is None or not self._sums.counts.any():
            return self
        if not known:  # once for the whole pass: of many classes it takes more than a batch
            means = self._sums.means("sample")
            directions, _ = moments.between(means, self._sums.precision)
            host = SecondRead(means, directions, None if w is None else (w, b))
            seen.reading, seen.given = DeviceRead(host, self.device) if there else host, given
        assert seen.reading is not None
        before = seen.reading.around.copy()
        nearest, predicted = seen.reading.read(x, y, torch.get_num_threads())
        seen.samples += len(x)
        seen.wrong += int((nearest != (y.cpu().numpy() if there else y)).sum())
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
        sums = self._sums.host()
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
        before = self._pending[0][0].shape[1] if self._pending else self._buffer.shape[1]
        if self._filled and x.shape[1] != before:
            raise InputError(f"features have {x.shape[1]} dimensions here and had {before} before.")
        if (most := int(y.max(initial=-1))) >= self.classes:
            raise InputError(f"labels must be below the number of classes, {self.classes}; there is a {most}.")
        if w is not None and len(w) < self.classes:
            raise InputError(f"weight must have a row for each of {self.classes} classes, not {len(w)}.")
        return x, y, w, b

    def _placed(self, features: Any, labels: Any, weight: Any = None, bias: Any = None) -> Any:
        """`_checked`, with features and labels on the device, where tensors that are there already stay."""
        shown = features
        if isinstance(features, torch.Tensor) and features.ndim == 2 and features.is_floating_point():
            shown = np.broadcast_to(np.zeros(1), tuple(features.shape))  # its shape is looked at, and no number
        x, y, w, b = self._checked(shown, labels, weight, bias)
        placed = features.detach() if shown is not features else torch.tensor(x)
        return placed.to(self.device, copy=True), torch.from_numpy(y).to(self.device), w, b

    def _update_there(self, features: Any, labels: Any) -> Self:
        x, y, _, _ = self._placed(features, labels)
        self._visited = _Visited()
        self._broken = self._broken or not bool(torch.isfinite(x).all())
        if len(x) and not self._broken:
            self._pending.append((x, y))
            self._filled += len(x)
        if self._filled >= BLOCK:
            self._flush()
        return self

    @property
    def _wants_moment(self) -> bool:
        return self.metrics is None or bool({"nc1", "vci"} & self.metrics)

    def _flush(self) -> None:
        if self._pending:
            x, y = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
            if self._sums is None:
                self._sums = DeviceSums.empty(self.classes, x[:BLOCK], self._wants_moment, self.device)
            assert isinstance(self._sums, DeviceSums)
            for start in range(0, len(x), MOST_THERE):
                self._sums.add(x[start : start + MOST_THERE], y[start : start + MOST_THERE])
            self._pending = []
        elif self._filled:
            self._add(self._buffer[: self._filled], self._labels[: self._filled])
        self._filled = 0

    def _add(self, x: NDArray[Any], y: NDArray[np.int64]) -> None:
        if self._sums is None:
            self._sums = Sums.empty(self.classes, moments.origin_of(x), self._wants_moment)
        assert isinstance(self._sums, Sums)
        self._sums.add(x, y)


@dataclass
class _Visited:
    """What the second pass has counted, and what reads it, by the classifier as it was given."""

    samples: int = 0
    wrong: int = 0
    classified: int = 0
    agree: int = 0
    within: Array | None = None
    reading: Any = None
    given: tuple[Any, Any] = (None, None)


def _fitting(buffer: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """A buffer of one block for samples like x."""
    return (
        buffer if buffer.shape[1] == x.shape[1] and buffer.dtype == x.dtype else np.empty((BLOCK, x.shape[1]), x.dtype)
    )
