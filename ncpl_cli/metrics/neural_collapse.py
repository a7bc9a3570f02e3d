"""Neural collapse of features, labels and a classifier: every metric of one definition each.

Notation. Features H (N, d), labels y, K classes present, n_c samples of class c, class means mu_c, global mean mu_G,
M = centred class means (K, d here: rows), classifier W (C, d) and bias b.
Sigma_W = (1/N) sum_i (h_i - mu_y)(h_i - mu_y)^T, Sigma_B = (1/K) sum_c (mu_c - mu_G)(mu_c - mu_G)^T.
Sources: P20 Papyan, Han, Donoho 2020; Z21 Zhu et al. 2021; B24 Bonifazi et al. 2024; G22 Galanti et al. 2022;
H22 Hui et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli.errors import InputError, unknown
from ncpl_cli.metrics import moments
from ncpl_cli.metrics.moments import Array, Means

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
    predicted: NDArray[np.int64] | None = None,
    global_mean: str = "sample",
    threads: int | None = None,
) -> CollapseResult:
    """Every collapse metric of features (N, d) with integer labels (N,), for NumPy arrays or torch tensors.

    `weight` (C, d) and `bias` (C,) of the linear classifier give nc2, nc3, nc4 and their kin. `metrics` names the
    ones wanted: without vci no d x d matrix is made, and no null_nc1. `global_mean`: `sample` (B24, Z21) or `class`
    (the mean of class means, P20). `train_means` (the `means_of` the training split) make this a test split:
    ncc_error then uses them, and the test variants of nc1 are given. `means` and `predicted` (the classifier's
    classes) are these features' own, where they are known already. The numbers do not depend on `threads` (default:
    torch's). Raises InputError for arrays that do not fit together.
    """
    x, y, w, b = checked(features, labels, weight, bias)
    names = _names(metrics, w is not None, train_means is not None)
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
        found = _evaluate(x, y, means, w, b, names, train_means, predicted, global_mean, threads)
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
        _classifier(values, undefined, means, w, b)
    within_trace, moment = found.distance.sum() / n, None if found.moment is None else found.moment / n
    if len(s) == 0:
        kept = ("nc2", "equinorm_weights", "equiangular_weights", "bias_collapse")
        lost = [name for name in names if name not in kept]
        values |= dict.fromkeys(lost, np.nan)
        undefined |= dict.fromkeys(lost, NO_SCATTER)
    else:
        between_trace = (s**2).sum() / k
        values["nc1"] = float((found.within / s**2).sum()) / n
        values["nc1_ratio"] = float(within_trace / between_trace)
        values["nc1_fraction"] = float(within_trace / (within_trace + between_trace))
        _geometry(values, undefined, means, found.distance)
        if moment is not None and np.isfinite(moment).all():
            values["vci"] = _vci(moment, centred, len(s))
        elif d > MOST_SQUARE:
            undefined["vci"] = f"needs a d x d matrix, and d is above {MOST_SQUARE}"
    if moment is not None:
        total = moment + centred.T @ centred / k
        if np.trace(total) > 0:
            participation = float(np.trace(total)) ** 2 / float((total**2).sum())
            context["null_nc1"] = (k - 1) * context["harmonic_class_count"] / participation
    for name in names:
        if name not in undefined and not math.isfinite(values[name]):
            undefined[name] = "the numbers are too large or too small for float64"
    return CollapseResult(_only(values, names), _only(undefined, names), context)


def _evaluate(
    x: NDArray[Any], y: NDArray[np.int64], means: Means, w: Array | None, b: Array | None, names: list[str],
    train_means: Means | None, predicted: NDArray[np.int64] | None, global_mean: str, threads: int,
) -> CollapseResult:  # fmt: skip
    """The metrics, from checked arrays and their class means."""
    directions, s = moments.between(means, x.dtype)
    classifier = (w, b) if w is not None and predicted is None and "nc4" in names else None
    read = moments.scatter(x, y, means, directions, classifier=classifier, threads=threads)
    moment = centred = None
    if "vci" in names and x.shape[1] <= MOST_SQUARE:
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
    if train_means is None:
        values["ncc_error"] = float((read.nearest != y).mean()) if own is None else np.nan
        undefined |= {} if own is None else {"ncc_error": own}
    elif {"ncc_error", *TEST_METRICS} & {*names}:
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
    read = moments.scatter(x, np.where(known, y, train.present[0]), train, directions, threads=threads)
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
    read = moments.scatter(x, label, means, directions, threads=threads)
    values["nc1_test_weak"] = float((read.within / s**2).sum()) / len(x)


def _vci(within: Array, centred: Array, rank: int) -> float:
    """1 - tr(pinv(Sigma_T) Sigma_B) / r, in [0, 1]; 0 = collapsed; no invertible linear map changes it (2306.03440).

    Of no more samples than features it is 0 in general, whatever the labels: there is a map that collapses them.
    Nothing is subtracted from 1, which would leave no digits of a deep collapse. In a basis of the directions V of
    the class means and the rest, the inverse's corner is that of a Schur complement: with Q = what is left of the
    scatter along V after regressing on the rest, and S = Sigma_B along V, vci = tr((Q + S)^-1 Q) / r.
    Each feature is first brought to unit variance, which changes nothing but the conditioning.
    """
    k = len(centred)
    scale = np.sqrt(np.diag(within) + (centred**2).sum(0) / k)
    alive = scale > 0
    if alive.sum() < rank:  # squares too small for float64
        return math.nan
    m, sigma = (
        centred[:, alive] / scale[alive],
        within[np.ix_(alive, alive)] / np.outer(scale[alive], scale[alive]),
    )
    _, s, v = np.linalg.svd(m, full_matrices=False)
    s, v = s[:rank], v[:rank]
    mixed = v @ sigma  # r x d
    along = mixed @ v.T  # r x r
    cross = mixed - along @ v  # r x d, in the rest of the space
    rest = sigma - v.T @ mixed - mixed.T @ v + v.T @ along @ v
    q = along - _explained(rest, v, cross, len(sigma) * np.finfo(np.float64).eps * float(np.linalg.norm(sigma)))
    share = np.linalg.solve(q + np.diag(s**2 / k), q)
    return float(np.clip(np.trace(share) / rank, 0.0, 1.0))


def _explained(rest: Array, v: Array, cross: Array, tolerance: float) -> Array:
    """C pinv(D) C^T of D (d, d), zero along the rows of v (r, d), and C (r, d), zero there too.

    By Cholesky where D is far from singular in the rest of the space, else by its eigenvalues above the tolerance.
    """
    typical = float(np.trace(rest)) / len(rest)
    filled = torch.from_numpy(rest + typical * v.T @ v)
    factor, failed = torch.linalg.cholesky_ex(filled)
    pivots = torch.diagonal(factor) ** 2
    if not failed and float(pivots.min()) > 1e-6 * float(pivots.max()):
        half = torch.linalg.solve_triangular(factor, torch.from_numpy(np.ascontiguousarray(cross.T)), upper=False)
        return np.asarray((half.T @ half).numpy())
    found = torch.linalg.eigh(torch.from_numpy((rest + rest.T) / 2))  # torch keeps to its threads, numpy takes all
    eigenvalues, vectors = found[0].numpy(), found[1].numpy()
    kept = eigenvalues > tolerance
    inside = cross @ vectors[:, kept]
    return (inside / eigenvalues[kept]) @ inside.T  # type: ignore[no-any-return]


def _geometry(values: dict[str, float], undefined: dict[str, str], means: Means, distance: Array) -> None:
    """What depends on the centred class means M alone, and cdnv."""
    m, k = means.centred, len(means.present)
    gram = m @ m.T  # K x K
    values["nc2_means"] = simplex_distance(gram)
    norms = np.sqrt(np.diag(gram))
    values["equinorm_means"] = float(norms.std(ddof=1) / norms.mean())
    apart = ~np.eye(k, dtype=bool)
    if norms.min() > 1e-12 * norms.max():
        unit = m / norms[:, None]
        cosine = unit @ unit.T
        values["equiangular_means"] = float(np.abs(cosine[apart] + 1 / (k - 1)).mean())
        gaps = np.sqrt(((unit[:, None] - unit[None]) ** 2).sum(2))[apart]
        if gaps.min() > 1e-12:
            values["gnc2"] = float(np.log(1 / gaps).mean())
        else:
            undefined["gnc2"] = "two class means point the same way"
    else:
        undefined |= dict.fromkeys(("equiangular_means", "gnc2"), "a class mean is the global mean")
    variance = distance[means.present] / means.counts[means.present]
    between = ((m[:, None] - m[None]) ** 2).sum(2)
    if between[apart].min() > 1e-24 * between.max():
        values["cdnv"] = float(((variance[:, None] + variance[None])[apart] / (2 * between[apart])).mean())
    else:
        undefined["cdnv"] = "two class means coincide"


def _classifier(values: dict[str, float], undefined: dict[str, str], means: Means, w: Array, b: Array | None) -> None:
    """What needs the classifier's weights: W's rows of present classes (all rows count in nc4 and bias_collapse)."""
    own, m, k = w[means.present], means.centred, len(means.present)
    if b is None:
        undefined["bias_collapse"] = "the classifier has no bias"
    else:
        values["bias_collapse"] = float(np.linalg.norm(w @ means.centre + moments.at_origin(means, w, b)))
    norms = np.linalg.norm(own, axis=1)
    if norms.max() == 0:
        undefined |= dict.fromkeys(
            ("nc2", "nc3", "equinorm_weights", "equiangular_weights", "self_duality"), "the classifier is zero"
        )
        return
    values["nc2"] = simplex_distance(own @ own.T)
    values["equinorm_weights"] = float(norms.std(ddof=1) / norms.mean())
    if norms.min() > 0:
        unit = own / norms[:, None]
        apart = ~np.eye(k, dtype=bool)
        values["equiangular_weights"] = float(np.abs((unit @ unit.T)[apart] + 1 / (k - 1)).mean())
    else:
        undefined["equiangular_weights"] = "a row of the classifier is zero"
    product = own @ m.T  # K x K
    if np.linalg.norm(product) > 0:
        values["nc3"] = simplex_distance(product)
    else:
        undefined["nc3"] = "classifier and class means are orthogonal"
    if np.linalg.norm(m) > 0:
        values["self_duality"] = float(np.linalg.norm(own / np.linalg.norm(own) - m / np.linalg.norm(m)))


def simplex_distance(matrix: Array) -> float:
    """Frobenius distance of A/‖A‖_F (K, K) from (I - 11^T/K)/sqrt(K-1), a simplex ETF's Gram matrix; 0 = simplex."""
    k = len(matrix)
    ideal = (np.eye(k) - 1 / k) / np.sqrt(k - 1)
    return float(np.linalg.norm(matrix / np.linalg.norm(matrix) - ideal))


def _only(found: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    asked = {*names}
    return {name: value for name, value in found.items() if name in asked}


def _names(metrics: Iterable[str] | None, classifier: bool, test: bool) -> list[str]:
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


def finite(x: NDArray[Any]) -> bool:
    """Whether every feature is a finite number."""
    # one fast sum tells; where it overflows, every number is looked at
    return math.isfinite(float(torch.from_numpy(x).sum())) or bool(np.isfinite(x).all())


def checked(
    features: Any, labels: Any, weight: Any, bias: Any
) -> tuple[NDArray[Any], NDArray[np.int64], Array | None, Array | None]:
    """Features as float32 or float64 (N, d), labels as int64 (N,), the classifier as float64; else InputError."""
    x, y = _array(features, "features"), _array(labels, "labels")
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"features must be a matrix (N, d), not {x.shape}.")
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"labels must be {len(x)} integers, not {y.dtype} {y.shape}.")
    if y.min(initial=0) < 0:
        raise InputError("labels must count from 0; there is a negative one.")
    w = None if weight is None else _array(weight, "weight").astype(np.float64)
    b = None if bias is None else _array(bias, "bias").astype(np.float64)
    if w is not None and (w.ndim != 2 or w.shape[1] != x.shape[1] or len(w) <= y.max(initial=-1)):
        raise InputError(
            f"weight must be (classes, {x.shape[1]}) with a row for each label to {y.max(initial=-1)}, not {w.shape}."
        )
    if b is not None and (w is None or b.shape != (len(w),)):
        raise InputError(f"bias must have one value for each row of weight, not {b.shape}.")
    return np.ascontiguousarray(x), y.astype(np.int64), w, b


def _array(value: Any, name: str) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a torch tensor, wherever it is; NumPy knows no bfloat16 and no float8
        value = value.detach()
        value = (value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value).cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be an array of numbers, not of {array.dtype}.")
    return array
