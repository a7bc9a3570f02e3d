"""What can be read off the features of a network that was trained on something else: read-outs and few-shot errors."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.errors import InputError
from ncpl_cli.metrics.arrays import finite
from ncpl_cli.metrics.few_shot import directional_cdnv, few_shot_metrics
from ncpl_cli.metrics.forward import View
from ncpl_cli.metrics.neural_collapse import collapse
from ncpl_cli.metrics.readouts import KINDS, readouts

if TYPE_CHECKING:
    from ncpl_cli.metrics.measured import Measured

INPUT = "input"
"""The layer of the pixels themselves, in [0, 1]: measured once, of the untrained network."""

TOO_LARGE = "the layer is too large"
NO_GROUPS = "the task tells these classes apart itself"
NOT_FINER = "a label lies in several of the task's classes"
NO_FRESH = "there are no images left over by training"


def rows_of(seen: View, layer: str, scale: float) -> Any:
    """Features (n, d) of a view's samples; None where only some of them are kept."""
    if layer == INPUT:
        assert seen.split is not None
        return seen.split.images.reshape(len(seen.split), -1) / scale
    return None if layer in seen.streamed else seen.layers[layer].cpu().numpy()


def put_readouts(
    found: Measured, views: Mapping[str, View], label_sets: Mapping[str, Mapping[str, View]], layer: str,
    wanted: Collection[str], scale: float,
) -> None:  # fmt: skip
    """Read-outs of the task's labels at `test` and of each further label set at `NAME_test`.

    Fitted on the training split and, `_fresh`, on the part `fresh`; `_within` the classes that the task tells apart.
    """
    kinds = _kinds(wanted)
    rows = functools.cache(lambda split: rows_of(views[split], layer, scale))
    for name, seen in {"": views, **label_sets}.items():
        if not {"train", "test"} <= seen.keys() or not kinds:
            continue
        split = f"{name}_test" if name else "test"
        if any(rows(of) is None for of in ("train", "test", "fresh") if of in seen):
            found.put({}, dict.fromkeys((own for own in wanted if own.startswith("readout")), TOO_LARGE), split, layer)
            continue
        groups = _groups(seen, views) if name else None
        if groups is None:
            why = NOT_FINER if name else NO_GROUPS
            found.put({}, dict.fromkeys((own for own in wanted if "_within" in own), why), split, layer)
        if "fresh" not in seen:
            found.put({}, dict.fromkeys((own for own in wanted if own.endswith("_fresh")), NO_FRESH), split, layer)
        fresh = (rows("fresh"), seen["fresh"].labels) if "fresh" in seen else None
        orders = (_order(seen["train"]), _order(seen["fresh"]) if fresh else None)
        found.put(
            *readouts(
                (rows("train"), seen["train"].labels), (rows("test"), seen["test"].labels), fresh=fresh, kinds=kinds,
                groups=groups, orders=orders,
            ), split, layer,
        )  # fmt: skip


def _groups(seen: Mapping[str, View], views: Mapping[str, View]) -> tuple[Any, Any] | None:
    """(labels, the task's classes) of all samples at hand; None where the labels do not divide the classes."""
    labels = np.concatenate([seen[of].labels for of in seen])
    classes = np.concatenate([views[of].labels for of in seen])
    pairs = np.unique(np.stack([labels, classes]), axis=1)
    return (labels, classes) if len(np.unique(pairs[0])) == pairs.shape[1] else None


def put_few_shot(found: Measured, views: Mapping[str, View], layer: str, wanted: Collection[str], scale: float) -> None:
    """Few-shot errors of classes never trained on and, beside them, of other images of those that were."""
    for split, seen in views.items():
        few = "unseen" in views and split in ("unseen", "test") and any(name.startswith("few_shot") for name in wanted)
        if not few and "cdnv_directional" not in wanted:
            continue
        rows, labels, order = rows_of(seen, layer, scale), seen.labels, _order(seen)
        if rows is None:
            kept, labels = seen.few(layer)
            rows, order = kept.cpu().numpy(), None
        _put_few_shot(found, rows, labels, order, split, layer, wanted if few else ("cdnv_directional",))


def _put_few_shot(
    found: Measured, rows: Any, labels: Any, order: Any, split: str, layer: str, wanted: Collection[str]
) -> None:
    if any(name.startswith("few_shot") for name in wanted):
        cdnv = collapse(rows, labels, metrics=("cdnv",))
        known = None if "cdnv" in cdnv.undefined else cdnv.values["cdnv"]
        found.put(*few_shot_metrics(rows, labels, known, order), split, layer)
    if "cdnv_directional" in wanted:
        value = directional_cdnv(rows, labels)
        if value is None:
            why = "fewer than two class means, or two that coincide" if finite(rows) else "features are not finite"
            found.put({}, {"cdnv_directional": why}, split, layer)
        else:
            found.put({"cdnv_directional": value}, {}, split, layer)


def put_of_arrays(
    found: Measured, wanted: Collection[str], splits: Mapping[str, tuple[Any, Any]], fine: Mapping[str, Any]
) -> None:
    """The same of arrays (features, labels) by split, and read-outs of finer labels of the same samples."""
    for split, (rows, labels) in splits.items():
        _put_few_shot(found, rows, labels, None, split, "last", wanted)
    kinds = _kinds(wanted)
    if "test" not in splits or not kinds:
        return
    (x, y), (t, u) = splits["train"], splits["test"]
    found.put(*readouts((x, y), (t, u), kinds=kinds), "test")
    if fine:
        if len(fine) < 2 or len(fine["train"]) != len(y) or len(fine["test"]) != len(u):
            raise InputError("fine_labels and test_fine_labels belong together, one a sample of features and of tests.")
        groups = (np.concatenate([fine["train"], fine["test"]]), np.concatenate([y, u]))
        found.put(*readouts((x, fine["train"]), (t, fine["test"]), groups=groups, kinds=kinds), "fine_test")


def _kinds(wanted: Collection[str]) -> list[str]:
    tuned = any(name.startswith("readout_lambda") for name in wanted)
    return [
        kind for kind in KINDS
        if any(name.startswith(f"readout_{kind}") for name in wanted) or (kind == "tuned" and tuned)
    ]  # fmt: skip


def _order(seen: View) -> Any:
    return None if seen.split is None else seen.split.mixed
