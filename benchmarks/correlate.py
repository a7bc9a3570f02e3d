"""Whether `correlate`'s p-values and intervals hold what they promise, and how fast it is.

    python benchmarks/correlate.py [--repetitions 2000] [--speed-only]

Size: two independent AR(1) series a run, so that the true r is 0; share of p < .05 of one window and of the whole
family of windows, and how often the 95 % interval covers 0. With 6 runs the exact test's size is 2/64 = 3.1 %, with
10 it is 4.9 %. Beside it the naive p of a single run. Truth: a planted r and what the mean over runs recovers.
Beyond 16 runs flips are drawn: 1 999 here, 99 999 in use; (b + 1)/(m + 1) holds its size with any number.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from ncpl_cli.analysis import Options, Run, Series, Study, all_pairs, correlate, resampling, statistics

Array = NDArray[np.float64]

EPOCHS, WINDOW = 1_000, 100


def autoregressive(draw: np.random.Generator, shape: tuple[int, ...], phi: float) -> Array:
    """Stationary AR(1) of unit variance along the last axis."""
    noise = draw.standard_normal(shape)
    noise[..., 1:] *= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=-1))


def size(phi: float, runs: int, repetitions: int, seed: int = 0) -> dict[str, float]:
    """Shares of rejections and of coverage under a true r of 0."""
    draw = np.random.default_rng([seed, runs, round(1000 * phi)])
    one = family = covered = whole = whole_covered = 0
    naive = 0.0
    for first in range(0, repetitions, 100):
        count = min(100, repetitions - first)
        x, y = (autoregressive(draw, (count * runs, EPOCHS), phi) for _ in range(2))
        r = statistics.sliding_pearson(x, y, WINDOW).reshape(count, runs, -1)
        all_r = statistics.pearson(x, y).reshape(count, runs)
        single = r[:, 0, 0]
        t = single * np.sqrt((WINDOW - 2) / (1 - single**2))
        naive += float((2 * stats.t.sf(np.abs(t), WINDOW - 2) < 0.05).sum())
        for i in range(count):
            test = resampling.sign_flips(np.arctanh(r[i]), flips=1_999, seed=first + i)
            one += bool(test.p[0] < 0.05)
            family += bool(np.nanmin(test.p_family) < 0.05)
            whole += bool(resampling.sign_flips(np.arctanh(all_r[i][:, None]), flips=1_999, seed=i).p[0] < 0.05)
            covered += _covers(r[i, :, 0])
            whole_covered += _covers(all_r[i])
    return {
        "window": one / repetitions, "family": family / repetitions, "coverage": covered / repetitions,
        "whole": whole / repetitions, "whole_coverage": whole_covered / repetitions, "naive": naive / repetitions,
    }  # fmt: skip


def _covers(r: Array) -> bool:
    interval = statistics.summary(r).ci95
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


def made_study(runs: int, epochs: int, metrics: int) -> Study:
    """A study of one task with many metrics, autocorrelated."""
    draw = np.random.default_rng(2)
    epoch = np.arange(1.0, epochs + 1)
    series = [
        Series.of(
            Run(f"run{i}", i, "warm-start", settings={"lr": 0.1}), epoch, np.zeros(epochs), epoch,
            {f"m{j}": autoregressive(draw, (epochs,), 0.9) for j in range(metrics)},
        )
        for i in range(runs)
    ]  # fmt: skip
    return Study(tuple(series))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--speed-only", action="store_true")
    chosen = parser.parse_args()

    draw = np.random.default_rng(0)
    x, y = (draw.standard_normal((100, 10_000)).cumsum(1) for _ in range(2))
    started = time.perf_counter()
    statistics.sliding_pearson(x, y, WINDOW)
    print(f"sliding windows, 100 runs x 10 000 epochs: {time.perf_counter() - started:.2f} s (floor 2 s with reading)")

    study = made_study(20, 2000, 20)
    pairs = all_pairs(study)
    started = time.perf_counter()
    correlate(study, pairs, Options())
    print(
        f"{len(pairs)} pairs of 20 metrics, 20 runs x 2 000 epochs: {time.perf_counter() - started:.1f} s (floor 20 s)"
    )
    if chosen.speed_only:
        return

    n = chosen.repetitions
    print(f"\nTrue r = 0, {n} repetitions, window {WINDOW} of {EPOCHS} epochs; rejections at .05 and coverage of 95 %")
    print("phi   runs  window  family  whole series  coverage: window  whole   naive p of one run")
    for phi in (0.5, 0.9, 0.99):
        for runs in (6, 10, 20):
            s = size(phi, runs, n)
            print(
                f"{phi:<5} {runs:<5} {s['window']:.4f}  {s['family']:.4f}  {s['whole']:.4f}        "
                f"{s['coverage']:.4f}            {s['whole_coverage']:.4f}  {s['naive']:.3f}",
                flush=True,
            )
    print("\nPlanted r and what is recovered in a window of 100: mean r, tanh of mean z")
    for phi in (0.0, 0.5, 0.9, 0.99):
        for planted in (0.3, 0.6, 0.9):
            mean, fisher = truth(phi, planted, 20_000)
            print(f"phi {phi:<5} planted {planted}: {mean:.4f} ({mean - planted:+.4f}), "
                  f"{fisher:.4f} ({fisher - planted:+.4f})")  # fmt: skip


if __name__ == "__main__":
    main()
