"""Neural collapse of features, labels and a classifier: every metric of one definition each.

Notation. Features H (N, d), labels y, K classes present, n_c samples of class c, class means mu_c, global mean mu_G,
M = centred class means (K, d here: rows), classifier W (C, d) and bias b.
Sigma_W = (1/N) sum_i (h_i - mu_y)(h_i - mu_y)^T, Sigma_B = (1/K) sum_c (mu_c - mu_G)(mu_c - mu_G)^T.
Sources: P20 Papyan, Han, Donoho 2020; Z21 Zhu et al. 2021; B24 Bonifazi et al. 2024; G22 Galanti et al. 2022;
H22 Hui et al. 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli.errors import InputError
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
    classes: int | None = None,
    train_means: Means | None = None,
    means: Means | None = None,
    predicted: NDArray[np.int64] | None = None,
    global_mean: str = "sample",
    threads: int = 1,
) -> CollapseResult:
    """Every collapse metric of features (N, d) with integer labels (N,), for NumPy arrays or torch tensors.

    `weight` (C, d) and `bias` (C,) of the linear classifier give nc2, nc3, nc4 and their kin. `train_means` (the
    `means` of the training split, see `means_of`) make this a test split: ncc_error then uses them, and the test
    variants of nc1 are given. `means` and `predicted` (the classifier's classes) are these features' own, where
    they are known already. Raises InputError for arrays that do not fit together.
    """
    x, y, w, b = _arrays(features, labels, weight, bias)
    count = classes or max(int(y.max(initial=-1)) + 1, len(w) if w is not None else 0)
    names = [*FEATURE_METRICS, *(CLASSIFIER_METRICS if w is not None else ()), *(TEST_METRICS if train_means else ())]
    if not math.isfinite(float(torch.from_numpy(x).sum())) and not np.isfinite(x).all():
        return CollapseResult(dict.fromkeys(names, np.nan), dict.fromkeys(names, "features are not finite"))
    if means is None:
        means = moments.class_means(x, y, count, threads=threads, global_mean=global_mean)
    return evaluate(
        x,
        y,
        means,
        w,
        b,
        names,
        train_means=train_means,
        predicted=predicted,
        global_mean=global_mean,
        threads=threads,
    )


def means_of(features: Any, labels: Any, classes: int, *, global_mean: str = "sample", threads: int = 1) -> Means:
    """Class means of a split, to be handed to `collapse` as `train_means`."""
    x, y, _, _ = _arrays(features, labels, None, None)
    return moments.class_means(x, y, classes, threads=threads, global_mean=global_mean)


def evaluate(
    x: NDArray[Any], y: NDArray[np.int64], means: Means, w: Array | None, b: Array | None, names: list[str], *,
    train_means: Means | None, global_mean: str, threads: int,
    predicted: NDArray[np.int64] | None = None,
) -> CollapseResult:  # fmt: skip
    """The metrics, from checked arrays and their class means."""
    n, d = x.shape
    k = len(means.present)
    context: dict[str, float] = {"n": n, "d": d, "classes": k}
    if k < 2:
        return CollapseResult(dict.fromkeys(names, np.nan), dict.fromkeys(names, "fewer than two classes"), context)
    counts = means.counts[means.present]
    directions, s = moments.between(means, x.dtype)
    read = moments.scatter(x, y, means, directions, threads=threads)
    context |= {
        "min_class_count": int(counts.min()), "harmonic_class_count": k / float((1 / counts).sum()),
        "rank_between": len(s),
    }  # fmt: skip
    values = dict.fromkeys(names, np.nan)
    undefined: dict[str, str] = {}

    within_trace = float(read.distance.sum()) / n
    square = "vci" in names and d <= MOST_SQUARE
    moment = moments.second_moment(x, y, means, threads=threads) / n if square else None
    total = None if moment is None else moment + means.centred.T @ means.centred / k
    if w is not None:
        _classifier(values, undefined, x, means, w, b, read.nearest, predicted)
    rule = read.nearest if train_means is None else moments.nearest_mean(x, train_means, threads=threads)
    values["ncc_error"] = float((rule != y).mean())
    if len(s) == 0:
        kept = ("nc2", "equinorm_weights", "equiangular_weights", "bias_collapse", *TEST_METRICS)
        lost = [name for name in names if name not in kept]
        values |= dict.fromkeys(lost, np.nan)
        undefined |= dict.fromkeys(lost, "no between-class scatter")
    else:
        between_trace = float((s**2).sum()) / k
        values["nc1"] = float((read.within / s**2).sum()) / n
        values["nc1_ratio"] = within_trace / between_trace
        values["nc1_fraction"] = within_trace / (within_trace + between_trace)
        _geometry(values, undefined, means, read)
        if total is None and "vci" in names:
            undefined["vci"] = f"needs a d x d matrix, and d is above {MOST_SQUARE}"
        elif total is not None:
            values["vci"] = _vci(total, means, len(s), x.dtype)
    if total is not None and np.trace(total) > 0:
        participation = float(np.trace(total)) ** 2 / float((total**2).sum())
        context["null_nc1"] = (k - 1) * context["harmonic_class_count"] / participation
    if train_means is not None:
        _test_variants(values, undefined, x, y, train_means, global_mean, threads)
    asked = set(names)
    return CollapseResult(
        {name: value for name, value in values.items() if name in asked},
        {name: why for name, why in undefined.items() if name in asked},
        context,
    )


def _vci(total: Array, means: Means, rank: int, precision: Any) -> float:
    """1 - tr(pinv(Sigma_T) Sigma_B) / rank(Sigma_B), in [0, 1]; 0 = collapsed, no linear map changes it, 2306.03440."""
    found = torch.linalg.eigh(torch.from_numpy(total))  # torch keeps to its threads; numpy's BLAS takes every core
    eigenvalues, vectors = found[0].numpy(), found[1].numpy()
    tolerance = len(total) * float(np.finfo(np.dtype(precision)).eps) * eigenvalues[-1]
    kept = eigenvalues > tolerance
    inside = means.centred @ vectors[:, kept]  # K x kept
    trace = float((inside**2 / eigenvalues[kept]).sum()) / len(means.centred)
    return float(np.clip(1 - trace / rank, 0.0, 1.0))


def _geometry(values: dict[str, float], undefined: dict[str, str], means: Means, read: moments.Scatter) -> None:
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
    variance = read.distance[means.present] / means.counts[means.present]
    between = ((m[:, None] - m[None]) ** 2).sum(2)
    if between[apart].min() > 1e-24 * between.max():
        values["cdnv"] = float(((variance[:, None] + variance[None])[apart] / (2 * between[apart])).mean())
    else:
        undefined["cdnv"] = "two class means coincide"


def _classifier(
    values: dict[str, float], undefined: dict[str, str], x: NDArray[Any], means: Means, w: Array, b: Array | None,
    nearest: NDArray[np.int64], predicted: NDArray[np.int64] | None,
) -> None:  # fmt: skip
    """What needs the classifier. W's rows of present classes count, except in nc4, whose predictions use all."""
    own, m, k = w[means.present], means.centred, len(means.present)
    if predicted is None:
        logits = torch.from_numpy(x) @ torch.from_numpy(w.astype(x.dtype)).T  # N x C; torch keeps to its one thread
        if b is not None:
            logits += torch.from_numpy(b.astype(x.dtype))
        predicted = logits.argmax(1).numpy()
    values["nc4"] = float((predicted == nearest).mean())
    if b is None:
        undefined["bias_collapse"] = "the classifier has no bias"
    else:
        values["bias_collapse"] = float(np.linalg.norm(w @ means.centre + b))
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


def _test_variants(
    values: dict[str, float], undefined: dict[str, str], x: NDArray[Any], y: NDArray[np.int64], train: Means,
    global_mean: str, threads: int,
) -> None:  # fmt: skip
    """H22: nc1 of the test split with nearest-train-mean labels (weak), and around the training means."""
    directions, s = moments.between(train, x.dtype)
    if len(s) == 0 or (train.counts[np.unique(y)] == 0).any():
        undefined |= dict.fromkeys(TEST_METRICS, "no between-class scatter in the training split")
        return
    around = moments.around(x, y, train, directions)
    values["nc1_test_train_means"] = float((around / s**2).sum()) / len(x)
    label = moments.nearest_mean(x, train, threads=threads)
    means = moments.class_means(x, label, len(train.counts), threads=threads, global_mean=global_mean)
    own_directions, own_s = moments.between(means, x.dtype)
    if len(own_s) == 0:
        undefined["nc1_test_weak"] = "no between-class scatter"
        return
    read = moments.scatter(x, label, means, own_directions, threads=threads)
    values["nc1_test_weak"] = float((read.within / own_s**2).sum()) / len(x)


def _arrays(
    features: Any, labels: Any, weight: Any, bias: Any
) -> tuple[NDArray[Any], NDArray[np.int64], Array | None, Array | None]:
    x, y = _array(features, "features"), _array(labels, "labels")
    if x.ndim != 2:
        raise InputError(f"features must be a matrix (N, d), not {x.shape}.")
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"labels must be {len(x)} integers, not {y.dtype} {y.shape}.")
    if y.min(initial=0) < 0:
        raise InputError("labels must count from 0; there is a negative one.")
    w = None if weight is None else _array(weight, "weight").astype(np.float64)
    b = None if bias is None else _array(bias, "bias").astype(np.float64)
    if w is not None and (w.ndim != 2 or w.shape[1] != x.shape[1] or len(w) <= y.max(initial=0)):
        raise InputError(
            f"weight must be (classes, {x.shape[1]}) with a row for each label to {y.max(initial=0)}, not {w.shape}."
        )
    if b is not None and (w is None or b.shape != (len(w),)):
        raise InputError(f"bias must have one value for each row of weight, not {b.shape}.")
    return np.ascontiguousarray(x), y.astype(np.int64), w, b


def _array(value: Any, name: str) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a torch tensor, wherever it is
        value = value.detach()
        value = (value.float() if value.dtype.itemsize == 2 and value.dtype.is_floating_point else value).cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be an array of numbers, not of {array.dtype}.")
    return array
