"""`ncpl demo` (what `make demo` runs): the paper's main experiment on the bundled digits, in a minute or two."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db

FIRST_TASK_EPOCHS = (1, 50)
SEEDS = range(5)


def demo(
    tasks: Annotated[int, typer.Option(help="Permuted tasks a run.")] = 140,
    db: Db = None,
) -> None:
    """Two first-task lengths, five seeds, 140 permuted tasks on scikit-learn's digits; then what was found.

    Example: ncpl demo
    """
    from ncpl_cli import data as data_room
    from ncpl_cli import device, experiment, settings
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
            experiment.run(everything, store, data, device=device.resolve("cpu"), observer=progress, name="demo")
        found = {n: [task_series(store, spec.id) for spec in specs] for n, specs in arms.items()}
    _show(found, tasks, url)


def task_series(store: Any, run: str) -> dict[str, list[float | None]]:
    """One point a task: first-epoch online accuracy, and nc1 and plasticity loss at the task's last epoch."""
    rows: dict[int, list[Any]] = {}
    for row in store.rows(run):
        if row["epoch"] > 0:
            rows.setdefault(row["task"], []).append(row)
    order = sorted(rows)
    return {
        "online_accuracy": [rows[t][0]["online_accuracy"] for t in order],
        "nc1": [rows[t][-1]["nc1"] for t in order],
        "plasticity_loss": [rows[t][-1]["plasticity_loss"] for t in order],
    }


def _show(found: dict[int, list[dict[str, list[float | None]]]], tasks: int, url: str) -> None:
    import numpy as np

    first = slice(1, min(11, tasks))
    last = slice(max(1, tasks - 10), tasks)

    def mean(runs: list[dict[str, list[float | None]]], key: str, part: slice | int) -> float:
        return float(np.nanmean([np.array(run[key], dtype=float)[part] for run in runs]))

    rows: list[tuple[float, ...]] = []
    for n, runs in found.items():
        r = [correlation(run["online_accuracy"][1:], run["nc1"][1:]) for run in runs]
        trendless = [
            correlation(np.diff(_floats(run["online_accuracy"][1:])), np.diff(_floats(run["nc1"][1:]))) for run in runs
        ]
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
        print(line)
    print(f"The store is {url}: look further with ncpl runs list --db {url}, ncpl export --db {url} -o epochs.csv")


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


def longer_first_task(found: dict[int, list[dict[str, list[float | None]]]], first: slice) -> list[str]:
    """B24's finding 2, paired by seed: does a longer first task leave more collapse and more plasticity loss?"""
    import numpy as np

    short, long = found.values()
    words = []
    for key, part, more, less in (
        ("nc1", slice(0, 1), "less collapse after it", "more collapse after it"),
        ("plasticity_loss", first, "more plasticity loss in tasks 1-10", "less plasticity loss in tasks 1-10"),
    ):
        gaps = [
            float(np.mean(_floats(b[key])[part]) - np.mean(_floats(a[key])[part]))
            for a, b in zip(short, long, strict=True)
        ]
        centre, half = float(np.mean(gaps)), 2.776 * float(np.std(gaps, ddof=1)) / len(gaps) ** 0.5  # t, 4 degrees
        verdict = (more if centre > 0 else less) if abs(centre) > half else "no difference that five seeds could show"
        words.append(f"{verdict} (difference in {key} {centre:+.4f}, 95 % interval ±{half:.4f})")
    agrees = words[0].startswith("more collapse") and words[1].startswith("more plasticity")
    return [f"A longer first task: {words[0]}; {words[1]}: {'as' if agrees else 'unlike'} B24's finding 2."]


def correlation(x: Any, y: Any) -> float:
    """Pearson's r over the points where both are defined; NaN where it is undefined."""
    import numpy as np

    a, b = _floats(x), _floats(y)
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 4 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])


def _floats(values: Any) -> Any:
    import numpy as np

    return np.array(values, dtype=float)
