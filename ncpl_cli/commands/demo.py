"""`ncpl demo` (what `make demo` runs): the paper's main experiment on the bundled digits, in a minute or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db

if TYPE_CHECKING:
    from ncpl_cli.analysis import Series

FIRST_TASK_EPOCHS = (1, 50)
SEEDS = range(5)


def demo(
    tasks: Annotated[int, typer.Option(min=2, max=100_000, help="Permuted tasks a run.")] = 140,
    db: Db = None,
) -> None:
    """Two first-task lengths, five seeds, 140 permuted tasks on scikit-learn's digits; then what was found.

    Example: ncpl demo
    """
    from ncpl_cli import data as data_room
    from ncpl_cli import device, runs, settings
    from ncpl_cli.analysis import load
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.scenarios import scenario_named
    from ncpl_cli.store import open_store

    scenario = scenario_named("permuted-digits")
    url = db or "demo.db"
    dataset = settings.dataset_spec(scenario, {})
    data = data_room.load(dataset)
    arms = {
        n: settings.specs(scenario, {"tasks": tasks, "first_task_epochs": n}, data, dataset, list(SEEDS))
        for n in FIRST_TASK_EPOCHS
    }
    with open_store(url) as store:
        with Progress() as progress:
            everything = [spec for specs in arms.values() for spec in specs]
            runs.run(everything, store, data, device=device.resolve("cpu"), observer=progress, name="demo")
        read = ("online_accuracy", "nc1", "plasticity_loss")
        found = {n: load(store, read, ids=[spec.id for spec in specs]).series for n, specs in arms.items()}
    _show(found, tasks, url)


def _show(found: Mapping[int, Sequence[Series]], tasks: int, url: str) -> None:
    """One point a task: first-epoch online accuracy, nc1 at the task's last epoch, its plasticity loss."""
    import numpy as np

    from ncpl_cli.analysis.statistics import differences, pearson

    first = slice(1, min(11, tasks))
    last = slice(max(1, tasks - 10), tasks)

    def mean(runs: Sequence[Series], key: str, part: slice | int) -> float:
        return float(np.nanmean([run.per_task(key)[part] for run in runs]))

    rows: list[tuple[float, ...]] = []
    for n, runs in found.items():
        x, y = (np.array([run.per_task(key)[1:] for run in runs]) for key in ("online_accuracy", "nc1"))
        r, trendless = pearson(x, y), pearson(differences(x), differences(y))
        places: list[tuple[str, slice | int]] = [
            ("online_accuracy", 0),
            ("online_accuracy", first),
            ("online_accuracy", last),
            ("nc1", 0),
        ]
        places += [("nc1", last), ("plasticity_loss", first), ("plasticity_loss", last)]
        facts = (mean(runs, key, part) for key, part in places)
        rows.append((n, *facts, float(np.mean(r)), float(np.mean(trendless))))
    _common.print_table(
        ("first-task epochs", "accuracy task 0", "tasks 1-10", "last 10", "nc1 task 0", "nc1 last 10",
         "plasticity loss 1-10", "last 10", "r(accuracy, nc1)", "r of differences"),
        rows, title="Permuted digits, five seeds: means over seeds",
    )  # fmt: skip
    for line in [*findings(rows), *longer_first_task(found, first)]:
        _common.out(line)
    _common.out(f"The store is {url}: look further with ncpl report --db {url}, ncpl export --db {url} -o epochs.csv")


def findings(rows: list[tuple[float, ...]]) -> list[str]:
    """What the table says, in words, and where that contradicts the paper (B24)."""
    lines = []
    for n, a0, _, a_last, nc0, nc_last, pl_first, _, r, trendless in rows:
        fell, rose = a_last < a0, nc_last > nc0
        agrees = "as B24 reports" if fell and rose else "unlike B24, where accuracy falls while nc1 rises"
        lines.append(
            f"First task {n:.0f} epochs: from task 0 to the last ten, online accuracy {'falls' if fell else 'rises'} "
            f"({a0:.3f} to {a_last:.3f}) and nc1 {'rises (less collapse)' if rose else 'falls (more collapse)'} "
            f"({nc0:.3f} to {nc_last:.3f}): {agrees}."
        )
        lines.append(
            f"  Task by task r(accuracy, nc1) = {r:.2f} per seed; between first differences it is {trendless:.2f}: "
            + (
                "most of it is the shared trend over tasks."
                if abs(trendless) < abs(r) / 2
                else "it is not the trend alone."
            )
        )
        if pl_first < 0:
            lines.append(
                f"  Plasticity loss of tasks 1-10 is negative ({pl_first:.3f}): task 0 starts from initialisation, "
                "later tasks do not; small data show this head start, MNIST hides it."
            )
    return lines


def longer_first_task(found: Mapping[int, Sequence[Series]], first: slice) -> list[str]:
    """B24's finding 2, paired by seed: does a longer first task leave more collapse and more plasticity loss?"""
    import numpy as np

    from ncpl_cli.analysis.statistics import t_interval

    short, long = found.values()
    words = []
    for key, part, more, less in (
        ("nc1", slice(0, 1), "less collapse after it", "more collapse after it"),
        ("plasticity_loss", first, "more plasticity loss in tasks 1-10", "less plasticity loss in tasks 1-10"),
    ):
        gaps = [b.per_task(key)[part].mean() - a.per_task(key)[part].mean() for a, b in zip(short, long, strict=True)]
        low, high = t_interval(np.array(gaps)) or (-np.inf, np.inf)
        verdict = "no difference that five seeds could show" if low <= 0 <= high else more if low > 0 else less
        words.append(f"{verdict} (difference in {key} {np.mean(gaps):+.4f}, 95 % interval {low:+.4f} to {high:+.4f})")
    agrees = words[0].startswith("more collapse") and words[1].startswith("more plasticity")
    return [f"A longer first task: {words[0]}; {words[1]}: {'as' if agrees else 'unlike'} B24's finding 2."]
