"""Everything that features and labels alone tell, from any framework: collapse, units and ranks, few-shot errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ncpl_cli.errors import InputError
from ncpl_cli.metrics import units
from ncpl_cli.metrics.arrays import checked, finite
from ncpl_cli.metrics.catalogue import chosen
from ncpl_cli.metrics.measured import Measured
from ncpl_cli.metrics.neural_collapse import CLASSIFIER_METRICS, TEST_METRICS, collapse, means_of
from ncpl_cli.metrics.of_collapse import collapse_names, context_metrics
from ncpl_cli.metrics.of_ones_own import own_metrics
from ncpl_cli.metrics.transfer import put_of_arrays
from ncpl_cli.rng import content_order, stream

NO_CLASSIFIER = "the classifier's weight is not given"


def measure_features(
    features: Any,
    labels: Any,
    weight: Any = None,
    bias: Any = None,
    test_features: Any = None,
    test_labels: Any = None,
    *,
    fine_labels: Any = None,
    test_fine_labels: Any = None,
    unseen_features: Any = None,
    unseen_labels: Any = None,
    metrics: Iterable[str] = ("default",),
    global_mean: str = "sample",
) -> Measured:
    """The chosen metrics of features (N, d) with labels (N,) and, if given, the classifier and a test split.

    Those that need more than is given (parameters, earlier epochs, ...) are left out; few-shot errors are of the
    classes at hand and, at split `unseen`, of classes that were not trained on. Read-outs of the labels stand at
    `test`, those of finer labels of the same samples at `fine_test`. Raises InputError for arrays that do not fit
    together.
    """
    wanted = chosen(metrics)
    found = Measured()
    x, y, w, b = checked(features, labels, weight, bias)
    if (test_features is None) != (test_labels is None):
        raise InputError("test_features and test_labels belong together: one of them is missing.")
    refuse_empty(test_features=test_features, unseen_features=unseen_features)
    splits = {"train": (x, y)}
    if test_features is not None:
        t, u, _, _ = checked(test_features, test_labels, weight, bias)
        if t.shape[1] != x.shape[1]:
            raise InputError(f"test_features have {t.shape[1]} dimensions, and features have {x.shape[1]}.")
        splits["test"] = (t, u)
    present = np.unique(np.concatenate([own for _, own in splits.values()]))
    if w is None:  # labels need not be small then
        splits = {split: (h, np.searchsorted(present, own)) for split, (h, own) in splits.items()}
        y = splits["train"][1]
    classes = max(1, len(present) if w is None else len(w))
    means = means_of(x, y, classes, global_mean=global_mean) if len(splits) > 1 and finite(x) else None
    names = collapse_names(wanted, w is not None, len(splits) > 1)
    for split, (h, own) in splits.items():
        result = collapse(
            h, own, w, b, metrics=names, classes=classes if means is not None else None, global_mean=global_mean,
            train_means=means if split == "test" else None, means=means if split == "train" else None,
        )  # fmt: skip
        found.put(result.values, result.undefined, split)
        if result.context.get("rank_between") and {"nc1", "null_nc1"} & wanted:
            # the estimate of every epoch gives way to the thing itself
            result.context["null_nc1"] = permuted_nc1(h, own, global_mean)
        if split == "test" and means is None:
            lost = ("ncc_error", *TEST_METRICS)
            found.put({}, dict.fromkeys(lost, "the training features are not finite"), split)
        if w is None:
            found.put({}, dict.fromkeys(CLASSIFIER_METRICS, NO_CLASSIFIER), split)
        found.contexts[split, "last"] = result.context
        found.put(*context_metrics(result), split)
        found.put(*own_metrics(wanted, h, own, w, b), split)
    fine = {"train": fine_labels, "test": test_fine_labels}
    put_of_arrays(found, wanted, splits, {split: own for split, own in fine.items() if own is not None})
    if (unseen_features is None) != (unseen_labels is None):
        raise InputError("unseen_features and unseen_labels belong together: one of them is missing.")
    if unseen_features is not None:
        h, own, _, _ = checked(unseen_features, unseen_labels, None, None)
        put_of_arrays(found, wanted, {"unseen": (h, own)}, {})
    of_units = [name for name in units.UNIT_METRICS if name in wanted]
    if len(x) and of_units:
        whole = torch.from_numpy(x)
        found.put(*units.unit_metrics(whole, "dead_units" in wanted and units.has_zeros(whole), of_units))
    else:
        found.put({}, dict.fromkeys(of_units, "there are no samples"))
    return found.only(wanted)


def refuse_empty(**arrays: Any) -> None:
    """Raise InputError for an array that is given and has no rows."""
    for name, array in arrays.items():
        if array is not None and len(array) == 0:
            labels = name.replace("features", "labels")
            raise InputError(f"{name} has no rows.", f"leave {name} and {labels} out where there are none")


def permuted_nc1(features: Any, labels: Any, global_mean: str = "sample") -> float:
    """nc1 with the labels permuted once (fixed seed): what labels without meaning give."""
    order, shuffled = content_order(features), np.empty_like(labels)
    shuffled[order] = stream(0, "labels without meaning").permutation(labels[order])
    return collapse(features, shuffled, metrics=("nc1",), global_mean=global_mean)["nc1"]
