"""Neural collapse of features, labels and a classifier: every metric of one definition each.

Notation. Features H (N, d), labels y, K classes present, n_c samples of class c, class means mu_c, global mean mu_G,
M = centred class means (K, d here: rows), classifier W (C, d) and bias b.
Sigma_W = (1/N) sum_i (h_i - mu_y)(h_i - mu_y)^T, Sigma_B = (1/K) sum_c (mu_c - mu_G)(mu_c - mu_G)^T.
Sources: P20 Papyan, Han, Donoho 2020; Z21 Zhu et al. 2021; B24 Bonifazi et al. 2024; G22 Galanti et al. 2022;
H22 Hui et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli import html
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.metrics import moments
from ncpl_cli.metrics.arrays import checked, finite
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.metrics.geometry import apart, lengths, pairs, simplex_distance, spread, square_of
from ncpl_cli.metrics.moments import Array, Means
from ncpl_cli.metrics.second_read import scatter
from ncpl_cli.metrics.vci import vci

MOST_SQUARE = 4096
"""Metrics that need a d x d matrix are undefined above this dimension."""

FEATURE_METRICS = (
    "nc1", "nc1_ratio", "nc1_fraction", "vci", "cdnv", "nc2_means", "equinorm_means", "equiangular_means", "gnc2",
    "ncc_error",
)  # fmt: skip
CLASSIFIER_METRICS = (
    "nc2", "nc3", "nc4", "equinorm_weights", "equiangular_weights", "self_duality", "bias_collapse",
)  # fmt: skip
TEST_METRICS = ("nc1_test_weak", "nc1_test_train_means")
BY_SAMPLE = ("nc4", "ncc_error", *TEST_METRICS)
"""Metrics that the statistics of a split do not give: they look at every sample beside the final class means."""
NO_SCATTER = "no between-class scatter"


@dataclass(frozen=True)
class CollapseResult:
    """Values by metric id (NaN where undefined), why they are undefined, and the context they must be read in.

    context: n, d, classes (K), min_class_count, harmonic_class_count, rank_between (r), null_nc1: the nc1 that labels
    without meaning would give, estimated as (K-1) n / PR with n the harmonic mean of n_c, PR the participation ratio.
    """

    values: dict[str, float]
    undefined: dict[str, str]
    context: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def _repr_html_(self) -> str:
        rows = [
            (name, self.values.get(name), METRICS[name].direction, self.undefined.get(name, ""))
            for name in dict.fromkeys((*self.values, *self.undefined))
        ]
        context = ", ".join(f"{name} {value:.4g}" for name, value in self.context.items())
        return html.shown("Neural collapse", ("metric", "value", "reads", "undefined"), rows, [context])


def collapse(
    features: Any,
    labels: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    metrics: Iterable[str] | None = None,
    classes: int | None = None,
    train_means: Means | None = None,
    means: Means | None = None,
    moment: Array | None = None,
    predicted: NDArray[np.int64] | None = None,
    global_mean: str = "sample",
    threads: int | None = None,
) -> CollapseResult:
    """Every collapse metric of features (N, d) with integer labels (N,), for NumPy arrays or torch tensors.

    `weight` (C, d) and `bias` (C,) of the linear classifier give nc2, nc3, nc4 and their kin. `metrics` names the
    ones wanted: without vci no d x d matrix is made, and no null_nc1. `global_mean`: `sample` (B24, Z21) or `class`
    (the mean of class means, P20). `train_means` (the `means_of` the training split) make this a test split:
    ncc_error then uses them, and the test variants of nc1 are given. `means`, `moment` (`moment_of`) and `predicted`
    (the classifier's classes) are these features' own, where they are known already. The numbers do not depend on
    `threads` (default: torch's). Raises InputError for arrays that do not fit together.
    """
    x, y, w, b = checked(features, labels, weight, bias)
    names = names_of(metrics, classifier=w is not None, test=train_means is not None)
    if train_means is not None:
        classes = len(train_means.counts)
    y, count = _classes(y, classes, None if w is None else len(w))
    if not finite(x):
        present = np.unique(y, return_counts=True)[1]
        context: dict[str, float] = {
            "n": len(x), "d": x.shape[1], "classes": len(present), "min_class_count": int(present.min(initial=len(x))),
        }  # fmt: skip
        why = "features are not finite"
        return CollapseResult(dict.fromkeys(names, np.nan), dict.fromkeys(names, why), context)
    lost: list[str] = []
    if w is not None and not (np.isfinite(w).all() and (b is None or np.isfinite(b).all())):
        w, lost = None, [name for name in names if name in CLASSIFIER_METRICS]
        names = [name for name in names if name not in lost]
    threads = threads or torch.get_num_threads()
    convention(global_mean)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # no squares near 1e300: said in the result
        if means is None:
            means = moments.class_means(x, y, count, threads=threads, global_mean=global_mean)
        found = _evaluate(x, y, means, moment, w, b, names, train_means, predicted, global_mean, threads)
    found.values.update(dict.fromkeys(lost, np.nan))
    found.undefined.update(dict.fromkeys(lost, "the classifier is not finite"))
    return found


def means_of(
    features: Any, labels: Any, classes: int, *, global_mean: str = "sample", threads: int | None = None
) -> Means:
    """Class means of a split, to be handed to `collapse` as `train_means`."""
    x, y, _, _ = checked(features, labels, None, None)
    y, count = _classes(y, classes, None)
    threads = threads or torch.get_num_threads()
    return moments.class_means(x, y, count, threads=threads, global_mean=convention(global_mean))


def moment_of(features: Any, labels: Any, means: Means) -> Array | None:
    """The second moment (d, d) of a split around its `means_of`; None where `collapse` takes another way."""
    x, y, _, _ = checked(features, labels, None, None)
    if len(x) + len(means.present) < x.shape[1] or x.shape[1] > MOST_SQUARE or not finite(x):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return moments.second_moment(x, y, means)


@dataclass(frozen=True)
class Statistics:
    """All that most metrics need of N samples, however it was gathered.

    means      class counts, class means and the global mean
    singular   singular values of the centred class means, (r,)
    within     within-class scatter (a sum over samples) along the directions in which class means differ, (r,)
    distance   sum of squared distances to the own class mean, (C,)
    moment     sum of (h - mu_y)(h - mu_y)^T, (d, d); None where it is not asked for or too large
    centred    the centred class means in the basis of `moment`, (K, m), where that is not the features' own
    """

    means: Means
    singular: Array
    within: Array
    distance: Array
    moment: Array | None
    centred: Array | None = None


def from_statistics(found: Statistics, w: Array | None, b: Array | None, names: Iterable[str]) -> CollapseResult:
    """Every metric of `names` that statistics give: all but those of `BY_SAMPLE`."""
    names = [name for name in names if name not in BY_SAMPLE]
    means, s = found.means, found.singular
    n, d, k = int(means.counts.sum()), len(means.origin), len(means.present)
    centred = means.centred if found.centred is None else found.centred
    counts = means.counts[means.present]
    context: dict[str, float] = {"n": n, "d": d, "classes": k, "min_class_count": int(counts.min(initial=n))}
    if k < 2:
        why = "fewer than two classes"
        return CollapseResult(dict.fromkeys(names, np.nan), dict.fromkeys(names, why), context)
    context |= {"harmonic_class_count": k / float((1 / counts).sum()), "rank_between": len(s)}
    values, undefined = dict.fromkeys(names, np.nan), dict[str, str]()
    if w is not None:
        _classifier(values, undefined, means, w, b, names)
    within_trace, moment = found.distance.sum() / n, None if found.moment is None else found.moment / n
    if len(s) == 0:
        kept = ("nc2", "equinorm_weights", "equiangular_weights", "bias_collapse")
        lost = [name for name in names if name not in kept]
        values |= dict.fromkeys(lost, np.nan)
        undefined |= dict.fromkeys(lost, NO_SCATTER)
    else:
        between_trace = (s**2).sum() / k
        if "nc1" in names:
            values["nc1"] = float((found.within / s**2).sum()) / n
        values["nc1_ratio"] = float(within_trace / between_trace)
        values["nc1_fraction"] = float(within_trace / (within_trace + between_trace))
        _geometry(values, undefined, means, found.distance, names)
        if moment is not None and np.isfinite(moment).all():
            values["vci"] = vci(moment, centred, len(s))
        elif d > MOST_SQUARE:
            undefined["vci"] = f"needs a d x d matrix, and d is above {MOST_SQUARE}"
    if moment is not None:
        total = moment + centred.T @ centred / k
        if (trace := float(np.trace(total))) > 0:
            participation = trace**2 / square_of(total)
            context["null_nc1"] = (k - 1) * context["harmonic_class_count"] / participation
    for name in names:
        if name not in undefined and not math.isfinite(values[name]):
            undefined[name] = "the numbers are too large or too small for float64"
    return CollapseResult(_only(values, names), _only(undefined, names), context)


def _evaluate(
    x: NDArray[Any], y: NDArray[np.int64], means: Means, moment: Array | None, w: Array | None, b: Array | None,
    names: list[str], train_means: Means | None, predicted: NDArray[np.int64] | None, global_mean: str, threads: int,
) -> CollapseResult:  # fmt: skip
    """The metrics, from checked arrays and their class means."""
    directions, s = moments.between(means, x.dtype)
    classifier = (w, b) if w is not None and predicted is None and "nc4" in names else None
    nearest = "nc4" in names or ("ncc_error" in names and train_means is None)
    wanted = directions if nearest or "nc1" in names else directions[:0]
    read = scatter(x, y, means, wanted, classifier=classifier, nearest=nearest, threads=threads)
    centred = None
    if moment is None and "vci" in names and x.shape[1] <= MOST_SQUARE:
        if len(x) + len(means.present) < x.shape[1] and len(s):
            moment, centred = moments.span_moment(x, y, means)
        else:
            moment = moments.second_moment(x, y, means)
    result = from_statistics(Statistics(means, s, read.within, read.distance, moment, centred), w, b, names)
    values, undefined = result.values, result.undefined
    own = "fewer than two classes" if len(means.present) < 2 else None if len(s) else NO_SCATTER
    if "nc4" in names:
        says = read.predicted if predicted is None else predicted
        values["nc4"] = float(np.mean(says == read.nearest)) if own is None else np.nan
        undefined |= {} if own is None else {"nc4": own}
    if train_means is None and "ncc_error" in names:
        values["ncc_error"] = float((read.nearest != y).mean()) if own is None else np.nan
        undefined |= {} if own is None else {"ncc_error": own}
    elif train_means is not None and {"ncc_error", *TEST_METRICS} & {*names}:
        _test_split(values, undefined, x, y, train_means, global_mean, threads)
    return CollapseResult(_only(values, names), _only(undefined, names), result.context)


def _test_split(
    values: dict[str, float], undefined: dict[str, str], x: NDArray[Any], y: NDArray[np.int64], train: Means,
    global_mean: str, threads: int,
) -> None:  # fmt: skip
    """H22: the training means' rule on the test split, and nc1 around them and with their nearest as labels (weak)."""
    names = ("ncc_error", *TEST_METRICS)
    values |= dict.fromkeys(names, np.nan)
    directions, s = moments.between(train, x.dtype)
    if len(s) == 0:
        undefined |= dict.fromkeys(names, f"{NO_SCATTER} in the training split")
        return
    known = train.counts[y] > 0
    read = scatter(x, np.where(known, y, train.present[0]), train, directions, threads=threads)
    values["ncc_error"] = float((read.nearest != y).mean())
    if known.all():
        values["nc1_test_train_means"] = float((read.around / s**2).sum()) / len(x)
    else:
        undefined["nc1_test_train_means"] = "the training split lacks a class of this one"
    label = read.nearest
    means = moments.class_means(x, label, len(train.counts), threads=threads, global_mean=global_mean)
    directions, s = moments.between(means, x.dtype)
    if len(s) == 0:
        undefined["nc1_test_weak"] = NO_SCATTER
        return
    read = scatter(x, label, means, directions, threads=threads)
    values["nc1_test_weak"] = float((read.within / s**2).sum()) / len(x)


def _geometry(
    values: dict[str, float], undefined: dict[str, str], means: Means, distance: Array, names: Collection[str]
) -> None:
    """What depends on the centred class means M alone, and cdnv."""
    m = means.centred
    if "nc2_means" in names:
        values["nc2_means"] = simplex_distance(m, m)
    norms = lengths(m)
    if "equinorm_means" in names:
        values["equinorm_means"] = spread(norms)
    wanted = [what for name, what in _OF_PAIRS.items() if name in names]
    if not wanted:
        return
    found = pairs(m, distance[means.present] / means.counts[means.present], wanted)
    for name, what in _OF_PAIRS.items():
        values[name] = getattr(found, what)
    if norms.min() <= 1e-12 * norms.max():
        undefined |= dict.fromkeys(("equiangular_means", "gnc2"), "a class mean is the global mean")
    elif found.same_way:
        undefined["gnc2"] = "two class means point the same way"
    if found.coincide:
        undefined["cdnv"] = "two class means coincide"


_OF_PAIRS = {"equiangular_means": "equiangular", "gnc2": "uniformity", "cdnv": "variability"}


def _classifier(
    values: dict[str, float], undefined: dict[str, str], means: Means, w: Array, b: Array | None,
    names: Collection[str],
) -> None:  # fmt: skip
    """What needs the classifier's weights: W's rows of present classes (all rows count in nc4 and bias_collapse)."""
    own, m = w[means.present], means.centred
    if b is None:
        undefined["bias_collapse"] = "the classifier has no bias"
    elif "bias_collapse" in names:
        values["bias_collapse"] = float(np.linalg.norm(w @ means.centre + moments.at_origin(means, w, b)))
    norms = lengths(own)
    if norms.max() == 0:
        undefined |= dict.fromkeys(
            ("nc2", "nc3", "equinorm_weights", "equiangular_weights", "self_duality"), "the classifier is zero"
        )
        return
    if "nc2" in names:
        values["nc2"] = simplex_distance(own, own)
    values["equinorm_weights"] = spread(norms)
    if norms.min() == 0:
        undefined["equiangular_weights"] = "a row of the classifier is zero"
    elif "equiangular_weights" in names:
        values["equiangular_weights"] = pairs(own).equiangular
    if "nc3" in names:
        values["nc3"] = simplex_distance(own, m)
        if math.isnan(values["nc3"]):
            undefined["nc3"] = "classifier and class means are orthogonal"
    if "self_duality" in names and square_of(m) > 0:
        values["self_duality"] = apart(own, m)


def _only(found: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    asked = {*names}
    return {name: value for name, value in found.items() if name in asked}


def names_of(metrics: Iterable[str] | None, *, classifier: bool, test: bool = False) -> list[str]:
    """The metrics wanted of those that can be had from what is given."""
    possible = [*FEATURE_METRICS, *(CLASSIFIER_METRICS if classifier else ()), *(TEST_METRICS if test else ())]
    if metrics is None:
        return possible
    wanted = set(metrics)
    known = (*FEATURE_METRICS, *CLASSIFIER_METRICS, *TEST_METRICS)
    if strange := sorted(wanted - {*known}):
        raise unknown("collapse metric", strange[0], known)
    return [name for name in possible if name in wanted]


def convention(global_mean: str) -> str:
    """The global mean asked for: `sample` or `class`."""
    if global_mean not in ("sample", "class"):
        raise unknown("global mean", global_mean, ("sample", "class"))
    return global_mean


def _classes(y: NDArray[np.int64], classes: int | None, rows: int | None) -> tuple[NDArray[np.int64], int]:
    """Labels and the number of classes; labels far above the number of samples are renumbered, absent ones left out."""
    most = int(y.max(initial=-1))
    if classes is not None and most >= classes:
        raise InputError(f"labels must be below the number of classes, {classes}; there is a {most}.")
    count = max(classes or 0, rows or 0)
    if count:
        return y, count
    if most > len(y) + 1000:  # class means of absent classes would fill the memory
        y = np.unique(y, return_inverse=True)[1].astype(np.int64)
        most = int(y.max(initial=-1))
    return y, most + 1
