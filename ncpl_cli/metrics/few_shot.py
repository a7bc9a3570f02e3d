"""Few-shot transfer: how well a few samples of classes that were never trained on tell them apart (G22)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ncpl_cli import rng
from ncpl_cli.errors import InputError
from ncpl_cli.metrics.arrays import checked

SHOTS = (1, 5, 10)
EPISODES = 100
QUERIES = 100
"""Samples of a class that an episode is judged by, at most; each class counts the same."""


def few_shot_error(
    features: Any, labels: Any, shots: Sequence[int] = SHOTS, *, episodes: int = EPISODES, ways: int | None = None,
    seed: int = 0,
) -> tuple[dict[int, float], dict[int, str]]:  # fmt: skip
    """Error of the nearest-class-mean rule with means from k samples a class, by k, and why one is undefined.

    error_k = mean over episodes of the mean over classes of P(nearest of the k-sample means is another class's)

    features (N, d) and labels (N,) of classes not trained on; 0 = a few samples say it all (G22, 2112.15121). An
    episode draws k samples of each of `ways` classes (default: of all) for the means and up to 100 others to be
    judged. Its draws depend on the seed, k and the episode's number alone.
    """
    x, y, _, _ = checked(features, labels, None, None)
    if min(shots, default=0) < 1 or episodes < 1 or (ways is not None and ways < 2):
        raise InputError("few-shot errors need at least one shot, one episode and two ways.")
    values: dict[int, float] = {}
    undefined: dict[int, str] = {}
    if not np.isfinite(x).all():
        return values, dict.fromkeys(shots, "features are not finite")
    order = rng.content_order(x)  # the same episodes, whatever order the samples are in
    members = [order[y[order] == c] for c in np.unique(y)]
    for k in shots:
        usable = [rows for rows in members if len(rows) > k]
        if len(usable) < (ways or 2):
            undefined[k] = f"fewer than {ways or 'two'} classes have more than {k} samples"
            continue
        errors = [_episode(x, usable, k, ways, rng.stream(seed, "few shot", k, e)) for e in range(episodes)]
        values[k] = float(np.mean(errors))
    return values, undefined


def _episode(x: np.ndarray[Any, Any], members: Sequence[Any], k: int, ways: int | None, draw: Any) -> float:
    """One episode's error."""
    if ways is not None:
        members = [members[i] for i in draw.choice(len(members), ways, replace=False)]
    drawn = [draw.permutation(rows)[: k + QUERIES] for rows in members]
    origin = x[drawn[0][0]].astype(np.float64)  # distances without the digits that a common offset costs
    means = np.stack([(x[rows[:k]] - origin).mean(0) for rows in drawn])  # classes x d
    wrong = []
    for own, rows in enumerate(drawn):
        queries = x[rows[k:]] - origin
        distances = (means**2).sum(1) - 2 * queries @ means.T  # queries x classes
        wrong.append(float((distances.argmin(1) != own).mean()))
    return float(np.mean(wrong))


def few_shot_metrics(features: Any, labels: Any) -> tuple[dict[str, float], dict[str, str]]:
    """`few_shot_error_k` for each k and their mean, `few_shot_error`, and why one is undefined."""
    errors, reasons = few_shot_error(features, labels)
    values = {f"few_shot_error_{k}": error for k, error in errors.items()}
    undefined = {f"few_shot_error_{k}": why for k, why in reasons.items()}
    if reasons:
        return values, undefined | {"few_shot_error": next(iter(reasons.values()))}
    return values | {"few_shot_error": sum(errors.values()) / len(errors)}, undefined
