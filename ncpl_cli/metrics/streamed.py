"""What `measure_features` gives of features that do not fit into memory: two passes over blocks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncpl_cli.errors import InputError
from ncpl_cli.metrics import units
from ncpl_cli.metrics.accumulator import CollapseAccumulator
from ncpl_cli.metrics.arrays import checked
from ncpl_cli.metrics.catalogue import METRICS, chosen
from ncpl_cli.metrics.features import NO_CLASSIFIER, refuse_empty
from ncpl_cli.metrics.measured import Measured
from ncpl_cli.metrics.neural_collapse import BY_SAMPLE, CLASSIFIER_METRICS, TEST_METRICS, collapse
from ncpl_cli.metrics.of_collapse import collapse_names, context_metrics

IN_MEMORY = "needs all features at once, and they are more than fit into memory"

Blocks = Callable[[], Iterator[tuple[Any, slice]]]


def measure_stream(
    blocks: Blocks, labels: Any, weight: Any = None, bias: Any = None, test_features: Any = None,
    test_labels: Any = None, *, metrics: Iterable[str] = ("default",), global_mean: str = "sample",
    seen: Callable[[int, int], None] = lambda done, total: None, device: str = "cpu",
) -> Measured:  # fmt: skip
    """The chosen metrics of features that `blocks()` shows, (n, d) and which rows they are, as often as it is called.

    `seen(done, total)` is told how many rows of all passes are behind; `device`: where products are made, a CUDA
    device in place of the processor. null_nc1 is its estimate here.
    """
    wanted, found = chosen(metrics), Measured()
    labels = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    _, y, _, _ = checked(np.zeros((len(labels), 1), np.float32), labels, None, None)
    if (test_features is None) != (test_labels is None):
        raise InputError("test_features and test_labels belong together: one of them is missing.")
    refuse_empty(test_features=test_features)
    names = np.unique(np.concatenate([y, *([] if test_labels is None else [np.asarray(test_labels)])]))
    if weight is None:
        y, classes = np.searchsorted(names, y), max(1, len(names))
        test_labels = None if test_labels is None else np.searchsorted(names, test_labels)
    else:
        classes = len(weight)
    asked = collapse_names(wanted, weight is not None, False)
    of_units = [name for name in units.UNIT_METRICS if name in wanted]
    stream, unit = (
        CollapseAccumulator(classes, asked, device),
        UnitStream(ranks=bool({*units.RANKS, "feature_top"} & {*of_units})),
    )
    twice = bool({*BY_SAMPLE} & {*asked})
    done, total = 0, len(y) * (2 if twice else 1)
    for block, rows in blocks():
        x, own, _, _ = checked(block, y[rows], None, None)
        stream.update(x, own)
        if of_units:
            unit.update(torch.from_numpy(x).to(device))
        seen(done := done + len(x), total)
    again = twice or stream.needs_second_pass
    for block, rows in blocks() if again else ():
        stream.revisit(block, y[rows], weight, bias)
        seen(done := done + len(block), max(total, 2 * len(y)))
    result = stream.compute(weight, bias, global_mean=global_mean)
    splits = {"train": result}
    if test_features is not None:
        splits["test"] = collapse(
            test_features, test_labels, weight, bias, metrics=collapse_names(wanted, weight is not None, True),
            global_mean=global_mean, train_means=stream.means(),
        )  # fmt: skip
    for split, of in splits.items():
        found.put(of.values, of.undefined, split)
        found.contexts[split, "last"] = of.context
        found.put(*context_metrics(of), split)
        if weight is None:
            found.put({}, dict.fromkeys(CLASSIFIER_METRICS, NO_CLASSIFIER), split)
    found.put(*unit.metrics(of_units))
    few = [name for name in wanted if METRICS[name].family == "few_shot"]
    found.put({}, dict.fromkeys(few, IN_MEMORY))
    return found.only(wanted - {*TEST_METRICS} if test_features is None else wanted)


class UnitStream:
    """Units and ranks of blocks (n, width): what they add up to, and the triangle of a QR decomposition of all rows."""

    def __init__(self, *, ranks: bool = True) -> None:
        self._ranks, self._rows, self._norms = ranks, 0, 0.0
        self._finite, self._zeros = True, False
        self._activity: Tensor | None = None
        self._alive: Tensor | None = None
        self._triangle: Tensor | None = None

    def update(self, block: Tensor) -> None:
        """Add rows."""
        wide = block.double()
        self._finite = self._finite and bool(torch.isfinite(wide).all())
        if not self._finite or not len(wide):
            return
        self._zeros = self._zeros or bool((wide == 0).any())
        self._rows += len(wide)
        self._norms += float(torch.linalg.vector_norm(wide, dim=1).sum())
        activity, alive = wide.abs().sum(0), (wide != 0).any(0)
        self._activity = activity if self._activity is None else self._activity + activity
        self._alive = alive if self._alive is None else self._alive | alive
        if self._ranks:
            rows = wide if self._triangle is None else torch.cat([self._triangle, wide])
            self._triangle = torch.linalg.qr(rows, mode="r").R

    def metrics(self, wanted: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
        """As `units.unit_metrics` gives them."""
        if not self._finite:
            return {}, dict.fromkeys(wanted, "features are not finite")
        if self._activity is None or self._alive is None:
            return {}, dict.fromkeys(wanted, "there are no samples")
        values = {
            "dormant_units": float(units.dormant(self._activity / self._rows, units.DORMANT).double().mean()),
            "feature_norm": self._norms / self._rows,
        }
        undefined: dict[str, str] = {}
        if self._zeros:
            values["dead_units"] = float((~self._alive).double().mean())
        else:
            undefined["dead_units"] = "the activation has no exact zeros"
        if self._triangle is not None:
            singular: NDArray[np.float64] = torch.linalg.svdvals(self._triangle).cpu().numpy()
            values |= units.ranks(singular) | {"feature_top": float(singular[0])}
            undefined |= {name: "all features are zero" for name in units.RANKS if name not in values}
        return {n: v for n, v in values.items() if n in wanted}, {n: w for n, w in undefined.items() if n in wanted}
