"""Read-outs: how well labels, any labels, are read off features by a rule fitted in closed form, in float64.

    ncc    nearest class mean (Euclid)
    fixed  ridge on centred features at lambda = .01 x the mean square of their entries: stands for a short probe
    tuned  ridge on features standardised one by one, lambda of 1e-9 ... 1e2 chosen on a held-out fifth

Ridge: W = (X'X/N + lambda)^-1 X'Y/N with Y one-hot and X, Y centred; the intercept is free. The read-out decides the
sign of what a study finds (H22, Y23), so that a claim names it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.errors import InputError
from ncpl_cli.metrics.arrays import checked, finite

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

KINDS = ("ncc", "fixed", "tuned")
LAMBDAS = tuple(10.0**power for power in range(-9, 3))
HELD_OUT = 5
"""One sample in so many chooses lambda."""

MOST_DIMENSIONS = 4096
"""Above it a d x d matrix is too large (and no smaller one will do where there are more samples)."""


@dataclass(frozen=True)
class Readout:
    """A fitted rule: scores = (x - origin) @ weight + offset, the class of the largest is predicted.

    classes     the labels it knows, (K,), in the order of the scores
    lambda_     the ridge's, None for class means; `edge`: it lies at an end of the grid it was chosen from
    """

    classes: Labels
    origin: Array
    weight: Array
    offset: Array
    lambda_: float | None = None
    edge: bool = False

    def scores(self, features: Any) -> Array:
        """Scores (n, K) of features (n, d)."""
        x = np.asarray(features)
        found = np.empty((len(x), len(self.classes)))
        for start in range(0, len(x), _BLOCK):
            found[start : start + _BLOCK] = (x[start : start + _BLOCK] - self.origin) @ self.weight + self.offset
        return found

    def accuracy(self, features: Any, labels: Labels, groups: Labels | None = None) -> float:
        """Share of samples whose label is predicted; a label that it does not know is never predicted.

        groups  of each class it knows, (K,): only classes of the own class's group can then be predicted
        """
        return share_right(self.scores(features), self.classes, labels, groups)


_BLOCK = 8192


def share_right(scores: Array, classes: Labels, labels: Labels, groups: Labels | None = None) -> float:
    """Share of rows of scores (n, K) whose largest is that of their label."""
    place = np.searchsorted(classes, labels)
    known = (place < len(classes)) & (classes[np.minimum(place, len(classes) - 1)] == labels)
    place = np.where(known, place, 0)
    if groups is not None:
        scores = np.where(groups[place][:, None] == groups, scores, -np.inf)
    return float((known & (scores.argmax(1) == place)).mean())


class Moments:
    """First and second moments of features (N, d), in float64, around an origin; of parts that can be joined."""

    def __init__(self, x: Any, y: Labels, classes: int, origin: Array, rows: Labels | None = None) -> None:
        rows = np.arange(len(x)) if rows is None else rows
        self.count, self.origin = len(rows), origin
        self.sums, self.square = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        self.by_class, self.counts = np.zeros((classes, x.shape[1])), np.bincount(y[rows], minlength=classes)
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            block = x[part] - origin  # float64
            one_hot = np.zeros((classes, len(block)))
            one_hot[y[part], np.arange(len(block))] = 1
            self.sums += block.sum(0)
            self.square += block.T @ block
            self.by_class += one_hot @ block

    def __add__(self, other: Moments) -> Moments:
        found = object.__new__(Moments)
        found.origin = self.origin
        for name in ("count", "sums", "square", "by_class", "counts"):
            setattr(found, name, getattr(self, name) + getattr(other, name))
        return found

    @property
    def mean(self) -> Array:
        """Of the features around the origin, (d,)."""
        found: Array = self.sums / self.count
        return found

    @property
    def gram(self) -> Array:
        """X'X/N of centred features, (d, d)."""
        found: Array = self.square / self.count - np.outer(self.mean, self.mean)
        return found

    @property
    def cross(self) -> Array:
        """X'Y/N of centred features and one-hot labels, (d, K)."""
        found: Array = (self.by_class.T - np.outer(self.mean, self.counts)) / self.count
        return found


class Ridge:
    """Ridge for every lambda from one eigendecomposition of X'X/N, with features divided by `scale`."""

    def __init__(self, moments: Moments, scale: Array) -> None:
        self._moments, self._scale = moments, scale
        values, self._vectors = np.linalg.eigh(moments.gram / np.outer(scale, scale))
        self._values = np.maximum(values, 0)
        self._rotated = self._vectors.T @ (moments.cross / scale[:, None])  # d x K

    def at(self, lambda_: float, classes: Labels, edge: bool = False) -> Readout:
        """The read-out for a lambda."""
        weight = self._vectors @ (self._rotated / (self._values + lambda_)[:, None]) / self._scale[:, None]
        return self._readout(weight, lambda_, classes, edge)

    def _readout(self, weight: Array, lambda_: float, classes: Labels, edge: bool) -> Readout:
        m = self._moments
        return Readout(classes, m.origin + m.mean, weight, m.counts / m.count, lambda_, edge)

    def right(self, x: Any, y: Labels, lambdas: Sequence[float]) -> list[float]:
        """Share of samples predicted right for each lambda, all of them in one product."""
        each = [self.at(lambda_, np.arange(len(self._moments.counts))) for lambda_ in lambdas]
        scores = (x - each[0].origin) @ np.concatenate([one.weight for one in each], 1)  # n x (lambdas K)
        by_lambda = scores.reshape(len(x), len(each), -1) + each[0].offset
        return [float(share) for share in (by_lambda.argmax(2) == y[:, None]).mean(0)]


def fit_ncc(x: Any, y: Labels, classes: Labels, moments: Moments | None = None) -> Readout:
    """Nearest class mean: the score of a class is mu'x - |mu|^2/2, around the mean of the features."""
    origin: Array = _origin(x) if moments is None else moments.origin
    by_class = np.zeros((len(classes), x.shape[1])) if moments is None else moments.by_class
    for start in range(0, len(x) if moments is None else 0, _BLOCK):
        one_hot = np.eye(len(classes))[:, y[start : start + _BLOCK]]
        by_class += one_hot @ (x[start : start + _BLOCK] - origin)
    counts = np.bincount(y, minlength=len(classes))
    centre = by_class.sum(0) / counts.sum()
    means = by_class / counts[:, None] - centre
    return Readout(classes, origin + centre, means.T, -(means**2).sum(1) / 2)


def fit_fixed(x: Any, y: Labels, classes: Labels, moments: Moments | None = None) -> Readout:
    """Ridge at lambda = .01 x the mean over all entries of the centred features' squares.

    Of fewer samples than dimensions by the n x n matrix of their inner products: W = X' (XX'/N + lambda)^-1 Y/N.
    """
    n, d = x.shape
    if n > d:
        moments = moments or Moments(x, y, len(classes), _origin(x))
        gram = moments.gram
        lambda_ = 0.01 * float(np.trace(gram)) / d
        weight = np.linalg.solve(gram + lambda_ * np.eye(d), moments.cross) if lambda_ > 0 else moments.cross * 0
        return Readout(classes, moments.origin + moments.mean, weight, moments.counts / n, lambda_)
    origin: Array = np.asarray(x, np.float64).mean(0)
    centred = np.asarray(x, np.float64) - origin
    one_hot = np.eye(len(classes))[y]
    lambda_ = 0.01 * float((centred**2).mean())
    if lambda_ > 0:
        inner = np.linalg.solve(centred @ centred.T / n + lambda_ * np.eye(n), (one_hot - one_hot.mean(0)) / n)
    else:
        inner = np.zeros_like(one_hot)
    return Readout(classes, origin, centred.T @ inner, one_hot.mean(0), lambda_)


def fit_tuned(
    x: Any, y: Labels, classes: Labels, lambdas: tuple[float, ...] = LAMBDAS, order: Labels | None = None
) -> tuple[Readout, Moments]:
    """Ridge on standardised features, lambda chosen by accuracy on a held-out fifth (of equals the largest), then
    fitted on all; also the moments of all.

    order  of the samples, from which the fifth is drawn; default by content, whatever the order they are in
    """
    order = rng.content_order(x) if order is None else order
    held = rng.stream(0, "held-out fifth").permutation(len(x)) < len(x) // HELD_OUT
    held_rows, kept_rows = np.sort(order[held]), np.sort(order[~held])
    origin = _origin(x)
    kept, rest = (Moments(x, y, len(classes), origin, rows) for rows in (kept_rows, held_rows))
    of_kept = Ridge(kept, _deviations(kept))
    right = of_kept.right(x[held_rows], y[held_rows], lambdas)
    best = max(range(len(lambdas)), key=lambda i: (right[i], lambdas[i]))
    whole = kept + rest
    return Ridge(whole, _deviations(whole)).at(lambdas[best], classes, best in (0, len(lambdas) - 1)), whole


def _deviations(moments: Moments) -> Array:
    """Standard deviation of each feature, 1 where it is constant."""
    variance = np.diagonal(moments.gram)
    size = np.diagonal(moments.square) / moments.count
    return np.sqrt(np.where(variance > 1e-12 * np.maximum(size, variance.max(initial=0)), variance, 1))


def _origin(x: Any) -> Array:
    """About the mean, so that squares keep their digits."""
    found: Array = np.asarray(x[:: max(1, len(x) // 1000)], np.float64).mean(0)
    return found


def readouts(
    train: tuple[Any, Any], test: tuple[Any, Any], *, groups: tuple[Any, Any] | None = None,
    fresh: tuple[Any, Any] | None = None, kinds: Collection[str] = KINDS,
    orders: tuple[Labels | None, Labels | None] = (None, None),
) -> tuple[dict[str, float], dict[str, str]]:  # fmt: skip
    """Accuracy of each read-out on the test samples by metric id, and why one is undefined; high = more can be read.

    train, test  (features (n, d), labels (n,)); fitted on the first, judged on the second
    groups       (labels, groups) of some samples: which group a label belongs to; `_within` predicts within it
    fresh        samples that the network has not been trained on: `_fresh` is fitted on them instead
    orders       of the training and the fresh samples, as `fit_tuned` takes them
    `readout_lambda` is the tuned ridge's, `readout_lambda_edge` 1 where it lies at an end of its grid.
    """
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    x, y, _, _ = checked(*test, None, None)
    for suffix, fitted, order in (("", train, orders[0]), ("_fresh", fresh, orders[1])):
        if fitted is None:
            continue
        names = [f"readout_{kind}{suffix}" for kind in kinds]
        names += [f"readout_lambda{suffix}", f"readout_lambda_edge{suffix}"] if "tuned" in kinds else []
        names += [f"readout_{kind}_within{suffix}" for kind in kinds] if groups else []
        own, labels, _, _ = checked(*fitted, None, None)
        if own.shape[1] != x.shape[1]:
            raise InputError(f"read-outs are fitted on {own.shape[1]} dimensions and judged on {x.shape[1]}.")
        classes = np.unique(labels)
        if why := _why_not(own, x, classes):
            undefined |= dict.fromkeys(names, why)
            continue
        place = np.searchsorted(classes, labels)
        of_class = None if groups is None else _group_of(classes, *groups)
        found: dict[str, Readout] = {}
        moments: Moments | None = None
        if "tuned" in kinds and own.shape[1] <= MOST_DIMENSIONS and len(own) >= 2 * HELD_OUT:
            found["tuned"], moments = fit_tuned(own, place, classes, order=order)
            values[f"readout_lambda{suffix}"] = float(found["tuned"].lambda_ or 0.0)
            values[f"readout_lambda_edge{suffix}"] = float(found["tuned"].edge)
        if "fixed" in kinds and (own.shape[1] <= MOST_DIMENSIONS or len(own) <= MOST_DIMENSIONS):
            found["fixed"] = fit_fixed(own, place, classes, moments)
        if "ncc" in kinds:
            found["ncc"] = fit_ncc(own, place, classes, moments)
        for kind, rule in found.items():
            scores = rule.scores(x)
            values[f"readout_{kind}{suffix}"] = share_right(scores, classes, y)
            if of_class is not None:
                values[f"readout_{kind}_within{suffix}"] = share_right(scores, classes, y, of_class)
        small = f"fewer than {2 * HELD_OUT} samples" if len(own) < 2 * HELD_OUT else "the layer is too large"
        undefined |= {name: small for name in names if name not in values}
    return values, undefined


def _why_not(own: Any, x: Any, classes: Labels) -> str | None:
    if len(classes) < 2 or not len(x):
        return "fewer than two classes to fit" if len(x) else "there are no test samples"
    return None if finite(own) and finite(x) else "features are not finite"


def _group_of(classes: Labels, labels: Any, groups: Any) -> Labels:
    """The group of each class, (K,): every label lies in one group."""
    labels, groups = np.asarray(labels), np.asarray(groups)
    found = np.empty(len(classes), np.int64)
    for place, label in enumerate(classes):
        own = np.unique(groups[labels == label])
        if len(own) != 1:
            raise InputError(f"label {label} lies in {len(own)} groups: within a group it must lie in one.")
        found[place] = own[0]
    return found
