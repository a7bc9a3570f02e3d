"""Plasticity loss: pure functions of a run's earlier epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ncpl_cli.objectives import REGRESSION


def task_online(
    history: Sequence[tuple[int, int, float]], *, is_last_epoch: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """task_online_accuracy: the mean of online accuracy over all epochs of a task, at its last; why it is undefined.

    On random labels the first epoch is chance for every network; the whole task is not (K23).
    """
    now = [accuracy for task, _, accuracy in history if task == history[-1][0]]
    if not is_last_epoch or math.isnan(sum(now)):
        return {}, {"task_online_accuracy": "not the task's last epoch" if not is_last_epoch else REGRESSION}
    return {"task_online_accuracy": sum(now) / len(now)}, {}


def fresh_gap(
    fresh: Sequence[float], history: Sequence[tuple[int, int, float]], *, over: str, is_last_epoch: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """fresh_gap: online accuracy of a fresh network on the task at hand minus ours, of its `first` epoch or of the
    whole `task`, then at its last epoch; why it is undefined. `fresh`: the fresh network's, epoch by epoch."""
    now = [accuracy for task, _, accuracy in history if task == history[-1][0]]
    if over == "first":
        return {"fresh_gap": fresh[0] - now[0]}, {}
    if not is_last_epoch:
        return {}, {"fresh_gap": "not the task's last epoch"}
    return {"fresh_gap": sum(fresh) / len(fresh) - sum(now) / len(now)}, {}


def plasticity(
    history: Sequence[tuple[int, int, float]], *, is_last_epoch: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """Both plasticity losses after the last epoch of `history`, and why one is undefined.

    history           (task, task_epoch, online_accuracy) of every epoch so far, NaN where the task asks for numbers
    plasticity_loss   online accuracy of the first task's first epoch minus that of this task's first epoch
    plasticity_loss_b24  the means over all epochs of either task instead; at a task's last epoch (B24). It grows with
                      the length of the first task by itself: some 70 % of the published effect is that averaging.
    Positive = loss. Undefined in the first task, and of numbers.
    """
    task = history[-1][0]
    if any(math.isnan(accuracy) for _, _, accuracy in history):
        return {}, dict.fromkeys(("plasticity_loss", "plasticity_loss_b24"), REGRESSION)
    if task == 0:
        return {}, dict.fromkeys(("plasticity_loss", "plasticity_loss_b24"), "first task")
    first = [accuracy for t, _, accuracy in history if t == 0]
    now = [accuracy for t, _, accuracy in history if t == task]
    values = {"plasticity_loss": first[0] - now[0]}
    if not is_last_epoch:
        return values, {"plasticity_loss_b24": "not the task's last epoch"}
    return values | {"plasticity_loss_b24": sum(first) / len(first) - sum(now) / len(now)}, {}
