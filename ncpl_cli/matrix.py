"""Numbers of the forgetting matrix: of a row while a run is trained, of stored rows when they are read.

a_tk is the accuracy on task k after an epoch of task t; a row is the mapping {k: a_tk}, in which tasks may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

OF_ROW = ("average_accuracy", "backward_transfer", "forgetting")
OF_MATRIX = (*OF_ROW, "forward_transfer")

Row = Mapping[int, float]


def numbers_of_row(task: int, row: Row, learned: Row, best: Row) -> tuple[dict[str, float], dict[str, str]]:
    """Numbers of a row of task `task`, and why one is undefined.

    average_accuracy   mean over k <= t of a_tk
    backward_transfer  mean over k < t of a_tk - a_kk (Lopez-Paz & Ranzato 2017)
    forgetting         mean over k < t of the largest a_lk, k <= l < t, minus a_tk (Chaudhry et al. 2018)

    learned  {k: a_kk}, best: {k: the largest a_lk}, of the last epochs of the tasks before
    """
    if not all(k in row for k in range(task + 1)):
        return {}, dict.fromkeys(OF_ROW, "not every seen task was evaluated at this epoch")
    found = {"average_accuracy": sum(row[k] for k in range(task + 1)) / (task + 1)}
    if task == 0:
        return found, dict.fromkeys(OF_ROW[1:], "first task")
    if not all(k in learned and k in best for k in range(task)):
        return found, dict.fromkeys(OF_ROW[1:], "not every earlier task was evaluated at its end")
    found["backward_transfer"] = sum(row[k] - learned[k] for k in range(task)) / task
    found["forgetting"] = sum(best[k] - row[k] for k in range(task)) / task
    return found, {}


def numbers_of_rows(places: Sequence[tuple[int, int]], rows: Mapping[int, Row]) -> dict[str, dict[int, float]]:
    """{metric: {epoch: value}} of a run's stored rows, wherever a number is defined.

    places  (epoch, task) of every epoch of the run, in order; epoch 0 is the untrained network
    rows    {epoch: the row}; where no other task was ever tested there is no matrix, and no number

    Within a task a row of the task at hand alone is none of the matrix. forward_transfer: mean over 1 <= k <= t of
    a_{k-1,k}, at the last epoch of the task before, minus the untrained network's, where tasks to come were tested.
    """
    found: dict[str, dict[int, float]] = {}
    trained = [(epoch, task) for epoch, task in places if epoch > 0]
    if not any(k != task for epoch, task in trained for k in rows.get(epoch, ())):
        return found
    last = {task: epoch for epoch, task in trained}
    learned, best, ahead = dict[int, float](), dict[int, float](), list[float]()
    before = rows.get(0, {})
    for epoch, task in trained:
        row, ends = rows.get(epoch, {}), epoch == last[task]
        if ends or len(row) > 1:
            for name, value in numbers_of_row(task, row, learned, best)[0].items():
                found.setdefault(name, {})[epoch] = value
            if task and len(ahead) == task:
                found.setdefault("forward_transfer", {})[epoch] = sum(ahead) / task
        if ends:
            learned |= {task: row[task]} if task in row else {}
            best |= {k: max(a, best.get(k, a)) for k, a in row.items() if k <= task}
            ahead += [row[task + 1] - before[task + 1]] if task + 1 in row and task + 1 in before else []
    return found
