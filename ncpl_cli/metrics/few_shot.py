"""Few-shot transfer: how well a few samples of classes that were never trained on tell them apart (G22)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.errors import InputError
from ncpl_cli.metrics.arrays import checked, finite
from ncpl_cli.metrics.readouts import Readout, fit_fixed, fit_ncc, share_right

SHOTS = (1, 5, 10)
WAYS = 5
EPISODES = 100
QUERIES = 100
"""Samples of a class that an episode is judged by, at most; each class counts the same."""

RULES = {"": fit_ncc, "ridge_": fit_fixed}
"""Read-outs fitted on k rows a class, by what stands in the metric's name."""


@dataclass(frozen=True)
class FewShot:
    """Over episodes: the mean error of each rule and its standard error."""

    errors: Mapping[str, float]
    standard_errors: Mapping[str, float]
    ways: int


def few_shot(
    features: Any, labels: Any, k: int, *, episodes: int = EPISODES, ways: int | None = None, seed: int = 0,
    rules: Sequence[str] = tuple(RULES), order: NDArray[np.int64] | None = None,
) -> FewShot | str:  # fmt: skip
    """Errors of rules fitted on k samples a class, or why they are undefined; 0 = a few samples say it all.

    error = mean over episodes of the mean over classes of P(another class is predicted)

    features (N, d) and labels (N,) of classes not trained on (G22, 2112.15121). An episode draws `ways` classes (of
    all where there are no more; default min(5, classes)), k samples of each to fit on and up to 100 others to be
    judged. Its draws depend on the seed, k and its number alone: they are places in `order`, the samples' order
    (default by their content, whatever the order they are in).
    """
    x, y, _, _ = checked(features, labels, None, None)
    if k < 1 or episodes < 1 or (ways is not None and ways < 2):
        raise InputError("few-shot errors need at least one shot, one episode and two ways.")
    if not finite(x):
        return "features are not finite"
    order = rng.content_order(x) if order is None else order
    members = [order[y[order] == c] for c in np.unique(y)]
    usable = [rows for rows in members if len(rows) > k]
    wanted = min(WAYS, len(members)) if ways is None else ways
    if len(usable) < max(wanted, 2):
        return f"fewer than {max(wanted, 2)} classes have more than {k} samples"
    found: dict[str, list[float]] = {rule: [] for rule in rules}
    for episode in range(episodes):
        draw = rng.stream(seed, "few shot", k, episode)
        of = usable if len(usable) == wanted else [usable[i] for i in draw.choice(len(usable), wanted, replace=False)]
        drawn = [draw.permutation(rows)[: k + QUERIES] for rows in of]
        for rule, error in _episode(x, drawn, k, rules).items():
            found[rule].append(error)
    return FewShot(
        {rule: float(np.mean(errors)) for rule, errors in found.items()},
        {rule: float(np.std(errors, ddof=1) / np.sqrt(episodes)) if episodes > 1 else np.nan
         for rule, errors in found.items()},
        wanted,
    )  # fmt: skip


def _episode(x: NDArray[Any], drawn: Sequence[Any], k: int, rules: Sequence[str]) -> dict[str, float]:
    """One episode's error by rule."""
    classes = np.arange(len(drawn))
    support, own = x[np.concatenate([rows[:k] for rows in drawn])], np.repeat(classes, k)
    queries = x[np.concatenate([rows[k:] for rows in drawn])]
    asked = np.repeat(classes, [len(rows) - k for rows in drawn])
    found = {}
    for rule in rules:
        fitted: Readout = RULES[rule](support, own, classes)
        scores = fitted.scores(queries)
        found[rule] = float(np.mean([1 - share_right(scores[asked == c], classes, asked[asked == c]) for c in classes]))
    return found


def few_shot_error(
    features: Any, labels: Any, shots: Sequence[int] = SHOTS, *, episodes: int = EPISODES, ways: int | None = None,
    seed: int = 0,
) -> tuple[dict[int, float], dict[int, str]]:  # fmt: skip
    """Error of the nearest-class-mean rule by k, as `few_shot`, and why one is undefined."""
    if not shots:
        raise InputError("few-shot errors need at least one shot, one episode and two ways.")
    values: dict[int, float] = {}
    undefined: dict[int, str] = {}
    for k in shots:
        found = few_shot(features, labels, k, episodes=episodes, ways=ways, seed=seed, rules=("",))
        if isinstance(found, str):
            undefined[k] = found
        else:
            values[k] = found.errors[""]
    return values, undefined


def few_shot_metrics(
    features: Any, labels: Any, cdnv: float | None = None, order: NDArray[np.int64] | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """Every few-shot metric by id, and why one is undefined.

    `few_shot_error_k`, `few_shot_ridge_error_k` and their standard errors `_se` for each k, the nearest mean's mean
    over k `few_shot_error`, `few_shot_ways`, and where the samples' cdnv is given `few_shot_bound_k` =
    16 (ways - 1) (1 + 2/k) cdnv, which holds by Chebyshev and says nothing from 1 on.
    """
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for k in SHOTS:
        found = few_shot(features, labels, k, order=order)
        names = [f"few_shot_{rule}error_{k}" for rule in RULES]
        if isinstance(found, str):
            undefined |= dict.fromkeys([*names, *(f"{name}_se" for name in names), f"few_shot_bound_{k}"], found)
            continue
        for rule in RULES:
            values[f"few_shot_{rule}error_{k}"] = found.errors[rule]
            values[f"few_shot_{rule}error_{k}_se"] = found.standard_errors[rule]
        values["few_shot_ways"] = float(found.ways)
        if cdnv is None:
            undefined[f"few_shot_bound_{k}"] = "cdnv is undefined"
        else:
            values[f"few_shot_bound_{k}"] = few_shot_bound(k, found.ways, cdnv)
    reasons = [undefined[f"few_shot_error_{k}"] for k in SHOTS if f"few_shot_error_{k}" in undefined]
    if reasons:
        undefined["few_shot_error"] = reasons[0]
    else:
        values["few_shot_error"] = sum(values[f"few_shot_error_{k}"] for k in SHOTS) / len(SHOTS)
    if len(reasons) == len(SHOTS):
        undefined["few_shot_ways"] = reasons[0]
    return values, undefined


def few_shot_bound(k: int, ways: int, cdnv: float) -> float:
    """16 (ways - 1) (1 + 2/k) cdnv bounds the nearest mean's error from k samples; vacuous from 1 on (G22)."""
    return 16 * (ways - 1) * (1 + 2 / k) * cdnv


def directional_cdnv(features: Any, labels: Any) -> float | None:
    """Mean over ordered pairs of u' Sigma_i u / d^2, u the unit vector and d the distance between the means.

    cdnv of the one direction that tells two classes apart: low = what scatter there is does not lie that way. None
    where two means coincide or there is one class.
    """
    x, y, _, _ = checked(features, labels, None, None)
    present = np.unique(y)
    if len(present) < 2 or not finite(x):
        return None
    origin = np.mean(x, axis=0, dtype=np.float64)
    means = np.stack([np.mean(x[y == c] - origin, axis=0) for c in present])  # K x d
    total = 0.0
    for own, c in enumerate(present):
        apart = np.delete(means[own] - means, own, axis=0)  # K-1 x d
        squares = (apart**2).sum(1)
        if squares.min() <= 1e-24 * (means**2).sum(1).max() or squares.min() == 0:
            return None
        along = (x[y == c] - origin - means[own]) @ apart.T  # n x K-1
        total += float(((along**2).mean(0) / squares**2).sum())
    return total / (len(present) * (len(present) - 1))
