"""Whether every printed p-value and interval holds what it promises, through the public functions.

    python benchmarks/verdicts.py [--repetitions 2000] [--multiverse 500] [--jobs 2] [--kinds compare,predict]

Null: runs of independent AR(1) series x, y and a control, so that every true r is 0. For each cell (autocorrelation .5,
.9, .99; 6, 10, 20 runs) and everything that `correlate` (within and over runs, over settings, --multiverse, --predict),
`compare` and `compare --by` print:
the share of p < .05, and how often the 95 % interval covers 0. An exact p of 6 runs can attain 2/64 = 3.1 %, of 10 runs
50/1024 = 4.9 %. Reported are the cells outside: size above 6.5 %, coverage outside 93 to 97 %.
Planted: what the mean over runs recovers of a planted r, what `gain` recovers of a planted gap, and the power promised
by the smallest detectable gap and by `seeds_needed`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

from benchmarks import verdicts_over_runs as wider
from benchmarks.verdicts_over_runs import FLIPS, Found, autoregressive
from ncpl_cli.analysis import GroupCorrelation, Options, Run, Series, Study, compare, correlate, groups
from ncpl_cli.analysis.by_setting import compare_by, equivalence
from ncpl_cli.analysis.gain import Gain, over_seeds, seeds_needed
from ncpl_cli.analysis.multiverse import multiverse
from ncpl_cli.analysis.statistics import Summary

Array = NDArray[np.float64]
HIGHEST, LOW, HIGH = 0.065, 0.93, 0.97
PHIS, RUNS = (0.5, 0.9, 0.99), (6, 10, 20)


def null_study(draw: np.random.Generator, runs: int, n: int, phi: float) -> Study:
    """Runs whose nc1, test accuracy and train accuracy have nothing to do with each other."""
    epoch, zero = np.arange(1.0, n + 1), np.zeros(n)
    values = autoregressive(draw, (runs, 3, n), phi)
    names = ("nc1", "test_accuracy", "train_accuracy")
    return Study(tuple(
        Series.of(Run(f"r{i}", i, "warm-start"), epoch, zero, epoch, dict(zip(names, of, strict=True)))
        for i, of in enumerate(values)
    ))  # fmt: skip


def printed(result: GroupCorrelation) -> Found:
    """Everything that `correlate` prints a p or an interval for."""
    overall = result.overall
    yield "whole series", overall.p_sign_flip, overall.summary.ci95
    yield "family of windows and lags", overall.p_family, None
    yield "seed swap", overall.seed_swap.p, None
    yield "first window", _number(result.windows.p[0]), None
    yield "first window, paid for all", _number(result.windows.p_family[0]), None
    yield "lag 1", next(g.p for g in result.lags if g.lag == 1), None
    for name, control in overall.controls.items():
        yield name, control.p, control.summary.ci95
    for name, control in (*overall.partial.items(), *((f"{k}, ranks", c) for k, c in overall.partial_ranks.items())):
        yield f"given {name}", control.p, control.summary.ci95


def arms(draw: np.random.Generator, seeds: int, phi: float, gap: float = 0.0, tasks: int = 30) -> Study:
    """A plain arm, one with an intervention and one of another learning rate; the same seeds, so the same luck."""
    shared = draw.standard_normal((seeds, 1))
    made = []
    for lr, treatment in ((0.1, []), (0.1, ["l2"]), (0.2, [])):
        values = shared + autoregressive(draw, (seeds, tasks), phi) + gap * (lr == 0.2 or bool(treatment))
        for s in range(seeds):
            run = Run(f"{lr}{treatment}{s}", s, "permuted-digits", settings={"lr": lr, "interventions": treatment})
            at = np.arange(float(tasks))
            made.append(Series.of(run, at + 1, at, np.ones(tasks), {"online_accuracy": values[s]}))
    return Study(tuple(made))


def compared(draw: np.random.Generator, phi: float, seeds: int) -> Found:
    """Everything that `compare` and `compare --by` print of arms that do not differ."""
    study = arms(draw, seeds, phi)
    treated = Study(tuple(s for s in study.series if s.run.settings["lr"] == 0.1))
    yield from _gain("compare", compare(treated, flips=FLIPS)[0].arms[0].gain)
    rates = Study(tuple(s for s in study.series if not s.run.settings["interventions"]))
    for of in compare_by(rates, "lr", flips=FLIPS):
        yield from _gain(f"compare --by, {of.outcome}", of.arms[0].gain)
        yield f"compare --by, {of.outcome}, adjusted", of.arms[0].p_by, None
    edge = dict(enumerate((0.5 + draw.standard_normal(seeds)).tolist()))
    yield "equivalence, truth at the margin", equivalence(over_seeds(edge, FLIPS), 0.5).p_equivalence, None


def _gain(name: str, gain: Gain) -> Found:
    yield name, gain.p, gain.ci95


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def cell(kind: str, phi: float, runs: int, repetitions: int) -> dict[str, tuple[float | None, float | None, int]]:
    """{statistic: (share of p < .05, share of intervals that cover 0, repetitions)} of one cell."""
    draw = np.random.default_rng([runs, round(1000 * phi), len(kind)])
    rejected: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    tested: Counter[str] = Counter()
    spanned: Counter[str] = Counter()
    for repetition in range(repetitions):
        for name, p, interval in _one(kind, draw, phi, runs, repetition):
            if p is not None:
                tested[name] += 1
                rejected[name] += p < 0.05
            if interval is not None:
                spanned[name] += 1
                covered[name] += interval[0] <= 0 <= interval[1]
    return {
        name: (rejected[name] / tested[name] if tested[name] else None,
               covered[name] / spanned[name] if spanned[name] else None, max(tested[name], spanned[name]))
        for name in {**tested, **spanned}
    }  # fmt: skip


def _one(kind: str, draw: np.random.Generator, phi: float, runs: int, repetition: int) -> Found:
    if kind == "correlate":
        options = Options(window=50, flips=FLIPS, family_flips=FLIPS, seed=repetition, lags=(-3, 3))
        pair = [("nc1", "test_accuracy")]
        yield from printed(correlate(null_study(draw, runs, 200, phi), pair, options)[0])
    elif kind == "multiverse":
        (group,) = groups(null_study(draw, runs, 40, phi))
        options = Options(window=20, family_flips=FLIPS, seed=repetition)
        found = multiverse(group, "nc1", "test_accuracy", options)
        assert found is not None
        yield "multiverse, median", found.p_median, None
        yield "multiverse, share with one sign", found.p_share, None
    else:
        yield from KINDS[kind](draw, phi, runs)


KINDS: dict[str, Callable[[np.random.Generator, float, int], Found]] = {
    "compare": compared,
    "over runs": wider.over_runs,
    "settings": wider.settings,
    "levels": wider.levels,
    "predict": wider.predicted,
    "scenarios": wider.scenarios,
}
"""What prints a p or an interval, beside `correlate` and its multiverse."""


def planted(repetitions: int) -> None:
    """Recovery of planted effects, and power as promised."""
    print("\nPlanted r of .5 within runs, 20 runs of 200 points: mean of r over studies")
    draw = np.random.default_rng(1)
    for phi in PHIS:
        found = []
        for _ in range(max(20, repetitions // 20)):
            x, e = (autoregressive(draw, (20, 200), phi) for _ in range(2))
            y = 0.5 * x + np.sqrt(0.75) * e
            at = np.arange(1.0, 201)
            runs = tuple(
                Series.of(Run(f"r{i}", i, "warm-start"), at, 0 * at, at, {"nc1": x[i], "test_accuracy": y[i]})
                for i in range(20)
            )
            (result,) = correlate(Study(runs), [("nc1", "test_accuracy")], Options(flips=9, family_flips=9))
            summary: Summary = result.overall.summary
            found.append(summary.mean_r or 0.0)
        print(f"phi {phi:<5} {np.mean(found):.3f}")
    print(
        "\nPower: share of studies that show the gap promised with 80 %, and with as many seeds as `seeds_needed` says"
    )
    for seeds in (4, 6, 10, 20):
        hits = 0
        # the promise is made for the true spread: (t(.975) + t(.80)) sigma / sqrt(n)
        gap = over_seeds(dict(enumerate(_spread_1(seeds)))).detectable or 0.0
        for _ in range(repetitions):
            interval = over_seeds(dict(enumerate((gap + draw.standard_normal(seeds)).tolist())), FLIPS).ci95
            hits += interval is not None and interval[0] > 0
        needed = seeds_needed(1.0, gap) or 2
        again = sum(
            (over_seeds(dict(enumerate((gap + draw.standard_normal(needed)).tolist())), FLIPS).ci95 or (0, 0))[0] > 0
            for _ in range(repetitions)
        )  # fmt: skip
        print(f"{seeds:>3} seeds: gap {gap:.3f} shown by {hits / repetitions:.3f}; {needed} seeds needed show it "
              f"in {again / repetitions:.3f}")  # fmt: skip


def _spread_1(n: int) -> list[float]:
    """n numbers with standard deviation 1."""
    values = np.arange(float(n))
    return ((values - values.mean()) / values.std(ddof=1)).tolist()


def outside(found: Mapping[str, tuple[float | None, float | None, int]]) -> list[str]:
    """What lies outside the floors by more than chance would (two standard errors)."""
    lines = []
    for name, (size, cover, n) in found.items():
        if size is not None and size > HIGHEST + 2 * np.sqrt(0.05 * 0.95 / n) * (n < 1000):
            lines.append(f"{name}: size {size:.3f}")
        slack = 2 * np.sqrt(0.05 * 0.95 / n) * (n < 1000)
        if cover is not None and not LOW - slack <= cover <= HIGH + slack:
            lines.append(f"{name}: coverage {cover:.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--multiverse", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    every = (*KINDS, "correlate", "multiverse")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=every, help=", ".join(every))
    chosen = parser.parse_args()
    cells = [(kind, phi, runs, chosen.multiverse if kind == "multiverse" else chosen.repetitions)
             for kind in chosen.kinds for phi in PHIS for runs in RUNS]  # fmt: skip
    total = bad = 0
    worst: dict[str, list[float]] = {}
    with ProcessPoolExecutor(chosen.jobs) as workers:
        for (kind, phi, runs, n), found in zip(cells, workers.map(cell, *zip(*cells, strict=True)), strict=True):
            lines = outside(found)
            counted = sum((size is not None) + (cover is not None) for size, cover, _ in found.values())
            total, bad = total + counted, bad + len(lines)
            for name, (size, cover, _) in found.items():
                worst.setdefault(f"{kind}: {name}", []).extend(v for v in (size, cover) if v is not None)
            print(f"{kind}, phi {phi}, {runs} runs, {n} repetitions: {counted} sizes and coverages, {len(lines)} "
                  f"outside {'; '.join(lines)}", flush=True)  # fmt: skip
    print(f"\n{total} cells, {bad} outside (size above {HIGHEST}, coverage outside {LOW} to {HIGH})")
    for name, values in worst.items():
        sizes, covers = ([v for v in values if (v < 0.5) is small] for small in (True, False))
        said = [f"{what} {min(of):.3f} to {max(of):.3f}" for what, of in (("size", sizes), ("coverage", covers)) if of]
        print(f"{name}: {', '.join(said)}")
    if chosen.kinds == every:
        planted(chosen.repetitions)


if __name__ == "__main__":
    main()
