"""Whether `correlate`'s p-values and intervals hold what they promise, and how fast it is.

    python benchmarks/correlate.py [--repetitions 2000] [--jobs 2] [--speed-only]

Size: two independent AR(1) series a run, so that the true r is 0, given to `correlate` as a study; share of p < .05 of
one window, of the whole family of windows and of the whole series, and how often the 95 % interval covers 0. With 6
runs the exact test's size is 2/64 = 3.1 %, with 10 it is 4.9 %. Beside it the naive p of a single run. Truth: a
planted r and what the mean over runs recovers.

With 2 000 repetitions and phi .5, .9, .99: 6 runs reject at 2.8-4.1 %, 10 and 20 runs at 3.8-5.6 %, intervals cover
93.9-95.8 %; the naive p of one run rejects at 10, 50 and 73 %.
Beyond 16 runs flips are drawn: 1 999 here, 99 999 in use; (b + 1)/(m + 1) holds its size with any number.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from ncpl_cli.analysis import Options, Run, Series, Study, all_pairs, correlate, groups, load, statistics
from ncpl_cli.analysis.multiverse import multiverse
from ncpl_cli.analysis.tracks import sliding, track
from ncpl_cli.store import open_store
from ncpl_cli.store.imports import import_csv

Array = NDArray[np.float64]

EPOCHS, WINDOW = 1_000, 100

FLIPS = 1_999


def autoregressive(draw: np.random.Generator, shape: tuple[int, ...], phi: float) -> Array:
    """Stationary AR(1) of unit variance along the last axis."""
    noise = draw.standard_normal(shape)
    noise[..., 1:] *= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=-1))


def size(phi: float, runs: int, repetitions: int) -> dict[str, float]:
    """Shares of rejections and of coverage under a true r of 0, by what `correlate` returns for each repetition."""
    draw = np.random.default_rng([0, runs, round(1000 * phi)])
    hits = dict.fromkeys(("window", "family", "whole", "window_covers", "covers", "naive"), 0)
    for repetition in range(repetitions):
        options = Options(window=WINDOW, flips=FLIPS, family_flips=FLIPS, seed=repetition)
        (result,) = correlate(made_study(draw, runs, EPOCHS, 2, phi), [("m0", "m1")], options)
        single = result.windows.r[0, 0]
        t = abs(single) * np.sqrt((WINDOW - 2) / (1 - single**2))
        hits["window"] += bool(result.windows.p[0] < 0.05)
        hits["family"] += bool((result.overall.p_family or 1) < 0.05)
        hits["whole"] += bool((result.overall.p_sign_flip or 1) < 0.05)
        hits["window_covers"] += _holds_0(statistics.summary(result.windows.r[:, 0]).ci95)
        hits["covers"] += _holds_0(result.overall.summary.ci95)
        hits["naive"] += bool(2 * stats.t.sf(t, WINDOW - 2) < 0.05)
    return {name: count / repetitions for name, count in hits.items()}


def _holds_0(interval: tuple[float, float] | None) -> bool:
    assert interval is not None
    return interval[0] <= 0 <= interval[1]


def truth(phi: float, planted: float, repetitions: int, window: int = WINDOW) -> tuple[float, float]:
    """(mean r, tanh of mean z) over many runs whose true correlation is `planted`."""
    draw = np.random.default_rng([1, round(1000 * phi), round(1000 * planted)])
    r = []
    for _ in range(0, repetitions, 1000):
        x, other = (autoregressive(draw, (1000, window), phi) for _ in range(2))
        r.append(statistics.pearson(x, planted * x + np.sqrt(1 - planted**2) * other))
    found = np.concatenate(r)
    return float(found.mean()), float(np.tanh(np.arctanh(found).mean()))


def made_study(draw: np.random.Generator, runs: int, epochs: int, metrics: int, phi: float) -> Study:
    """Runs of one task with independent autocorrelated metrics m0, m1, ..."""
    epoch = np.arange(1.0, epochs + 1)
    values = autoregressive(draw, (runs, metrics, epochs), phi)
    return Study(tuple(
        Series.of(Run(f"run{i}", i, "warm-start"), epoch, np.zeros(epochs), epoch,
                  {f"m{j}": column for j, column in enumerate(of_run)})
        for i, of_run in enumerate(values)
    ))  # fmt: skip


def speed() -> None:
    """Import of 1e6 rows, sliding windows over the store they are in, and every pair of 20 metrics."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        runs, epochs = 100, 10_000
        x, y = np.random.default_rng(0).standard_normal((2, runs, epochs)).cumsum(-1)
        with file.open("w") as out:
            out.write("run,seed,epoch,nc1,test_accuracy\n")
            for i in range(runs):
                out.writelines(f"run{i},{i},{j + 1},{x[i, j]!s},{y[i, j]!s}\n" for j in range(epochs))
        with open_store(Path(folder) / "a.db") as store:
            before, started = _peak(), time.perf_counter()
            import_csv(store, file, scenario="warm-start", name="made")
            print(f"import, 1 000 000 rows: {time.perf_counter() - started:.1f} s (floor 60 s), "
                  f"memory +{_peak() - before} MiB")  # fmt: skip
            started = time.perf_counter()
            study = load(store, ["nc1", "test_accuracy"])
            read = time.perf_counter() - started
            sliding([track(s, "nc1", "test_accuracy", "epochs", ()) for s in study.series], WINDOW, "pearson")
            done = time.perf_counter() - started
    print(f"sliding windows, 100 runs x 10 000 epochs: {done:.2f} s, of it {read:.2f} reading the store (floor 2 s)")
    started = time.perf_counter()
    correlate(study, [("nc1", "test_accuracy")], Options(flips=1, family_flips=1))
    print(f"with all controls, without resampling: {read + time.perf_counter() - started:.2f} s")

    study = made_study(np.random.default_rng(2), 20, 2000, 20, 0.9)
    pairs = all_pairs(study)
    started = time.perf_counter()
    correlate(study, pairs, Options())
    print(
        f"{len(pairs)} pairs of 20 metrics, 20 runs x 2 000 epochs: {time.perf_counter() - started:.1f} s (floor 20 s)"
    )


def multiverse_speed() -> None:
    """All 96 specifications of one pair over 20 runs x 2 000 epochs."""
    epoch = np.arange(1.0, 2001)
    values = autoregressive(np.random.default_rng(3), (20, 3, 2000), 0.9)
    names = ("nc1", "test_accuracy", "train_accuracy")
    study = Study(tuple(
        Series.of(Run(f"r{i}", i, "warm-start"), epoch, 0 * epoch, epoch, dict(zip(names, of, strict=True)))
        for i, of in enumerate(values)
    ))  # fmt: skip
    (group,) = groups(study)
    started = time.perf_counter()
    found = multiverse(group, "nc1", "test_accuracy", Options())
    assert found is not None
    seconds = time.perf_counter() - started
    print(f"multiverse, {len(found.curve)} specifications, 20 runs x 2 000 epochs: {seconds:.1f} s (floor 20 s)")


def _peak() -> int:
    """Most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    speed()
    multiverse_speed()
    if chosen.speed_only:
        return

    n = chosen.repetitions
    print("\nPlanted r and what is recovered in a window of 100: mean r, tanh of mean z")
    for phi in (0.0, 0.5, 0.9, 0.99):
        for planted in (0.3, 0.6, 0.9):
            mean, fisher = truth(phi, planted, 20_000)
            print(f"phi {phi:<5} planted {planted}: {mean:.4f} ({mean - planted:+.4f}), "
                  f"{fisher:.4f} ({fisher - planted:+.4f})")  # fmt: skip

    print(f"\nTrue r = 0, {n} repetitions, window {WINDOW} of {EPOCHS} epochs; rejections at .05 and coverage of 95 %")
    print("phi   runs  window  family  whole series  coverage: window  whole   naive p of one run")
    cases = [(phi, runs) for phi in (0.5, 0.9, 0.99) for runs in (6, 10, 20)]
    with ProcessPoolExecutor(chosen.jobs) as workers:
        found = workers.map(size, *zip(*cases, strict=True), [n] * len(cases))
        for (phi, runs), s in zip(cases, found, strict=True):
            print(
                f"{phi:<5} {runs:<5} {s['window']:.4f}  {s['family']:.4f}  {s['whole']:.4f}        "
                f"{s['window_covers']:.4f}            {s['covers']:.4f}  {s['naive']:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
