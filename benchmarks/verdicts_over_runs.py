"""Null studies over runs, over settings, of diagnostics before a task and over scenarios, for `verdicts.py`.

Nothing in them depends on anything: every true r and tau is 0, the true interquartile mean is that of the law drawn
from, and an arm is better than another with probability 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from ncpl_cli.analysis import Options, Run, Series, Study, correlate
from ncpl_cli.analysis.aggregate import aggregate
from ncpl_cli.analysis.levels import between_settings
from ncpl_cli.analysis.prediction import predict

Array = NDArray[np.float64]
Found = Iterator[tuple[str, float | None, tuple[float, float] | None]]

FLIPS = 999


def autoregressive(draw: np.random.Generator, shape: tuple[int, ...], phi: float) -> Array:
    """Stationary AR(1) of unit variance along the last axis."""
    noise = draw.standard_normal(shape)
    noise[..., 1:] *= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=-1))


def _tasks(run: Run, columns: dict[str, Array]) -> Series:
    """A run of tasks of one epoch each."""
    at = np.arange(float(len(next(iter(columns.values())))))
    return Series.of(run, at + 1, at, np.ones(len(at)), columns)


def over_runs(draw: np.random.Generator, phi: float, runs: int) -> Found:
    """`correlate --across runs`: every seed once, and the seeds of three arms in which luck is shared."""
    pair = [("nc1", "plasticity_loss_first_epoch")]
    for arms in (1, 3):
        made = []
        luck = draw.standard_normal((runs, 2, 1))
        for k in range(arms):
            values = autoregressive(draw, (runs, 2, 8), phi) + (luck if arms > 1 else 0)
            for s in range(runs):
                run = Run(f"{k}-{s}", s, "permuted-digits", settings={"lr": 0.1 * (k + 1)})
                made.append(_tasks(run, dict(zip(pair[0], values[s], strict=True))))
        options = Options(across="runs", pool=True, flips=FLIPS, family_flips=FLIPS, controls=("lr",) * (arms > 1))
        (found,) = correlate(Study(tuple(made)), pair, options)
        name = "every seed once" if arms == 1 else "three arms share seeds"
        yield f"over runs, {name}", found.more["p_permutation"], found.overall.summary.ci95
        yield f"over runs, {name}, any task", found.overall.p_family, None
        if "levels" in found.more and arms > 1:
            ends = found.more["levels"]["within"]["ci95"]
            yield "within settings, luck shared", None, ends and (ends[0], ends[1])


def settings(draw: np.random.Generator, phi: float, seeds: int) -> Found:
    """The mean over settings: of five settings, alike or with true z that differ by .2 around 0; seeds of their own."""
    for spread in (0.0, 0.2):
        made = []
        for k, z in enumerate(spread * draw.standard_normal(5)):
            x, e = autoregressive(draw, (2, seeds, 100), phi)
            y = np.tanh(z) * x + np.sqrt(1 - np.tanh(z) ** 2) * e
            for s in range(seeds):
                run = Run(f"{k}-{s}", 100 * k + s, "warm-start", settings={"lr": 0.1 * (k + 1)})
                at = np.arange(1.0, 101)
                made.append(Series.of(run, at, 0 * at, at, {"nc1": x[s], "test_accuracy": y[s]}))
        results = correlate(
            Study(tuple(made)), [("nc1", "test_accuracy")], Options(window=100, flips=9, family_flips=9)
        )
        (found,) = between_settings(results)
        yield f"mean over five settings, {'alike' if not spread else 'different'}", None, found.ci95


def levels(draw: np.random.Generator, phi: float, runs: int) -> Found:
    """r within five settings and between them, over runs that are independent."""
    made = []
    for k in range(5):
        values = autoregressive(draw, (runs, 2, 8), phi) + draw.standard_normal((2, 1))
        for s in range(runs):
            run = Run(f"{k}-{s}", 100 * k + s, "permuted-digits", settings={"lr": 0.1 * (k + 1)})
            made.append(_tasks(run, {"nc1": values[s, 0], "online_accuracy": values[s, 1]}))
    options = Options(across="runs", pool=True, flips=9, family_flips=9)
    (found,) = correlate(Study(tuple(made)), [("nc1", "online_accuracy")], options)
    for which in ("within", "between"):
        ends = found.more["levels"][which]["ci95"]
        yield f"two levels, {which} settings", None, ends and (ends[0], ends[1])


def predicted(draw: np.random.Generator, phi: float, runs: int) -> Found:
    """`correlate --predict`: six diagnostics that say nothing; the outcome itself is the seventh, and left out here."""
    names = ("nc1", "cdnv", "dead_units", "weight_norm", "gradient_norm", "train_accuracy", "online_accuracy")
    values = autoregressive(draw, (runs, len(names), 30), phi)
    made = [
        _tasks(Run(f"r{s}", s, "permuted-digits"), dict(zip(names, of, strict=True))) for s, of in enumerate(values)
    ]
    (found,) = predict(Study(tuple(made)), "online_accuracy", flips=FLIPS)
    of = {p.metric: p for p in found.predictors}
    yield "predict, one diagnostic", of["nc1"].p, of["nc1"].ci95
    # of those that say nothing; the outcome one task earlier says something where phi > 0
    adjusted = [p.p_by for name, p in of.items() if name != "online_accuracy" and p.p_by is not None]
    yield "predict, any diagnostic, paid for all", min(adjusted, default=None), None
    # chosen on the other seeds, where none says anything: the outcome as white noise
    values = draw.standard_normal((runs, len(names), 30))
    made = [
        _tasks(Run(f"r{s}", s, "permuted-digits"), dict(zip(names, of, strict=True))) for s, of in enumerate(values)
    ]
    (found,) = predict(Study(tuple(made)), "online_accuracy", flips=FLIPS)
    yield "predict, chosen and held out", found.held_out_p, None


def scenarios(draw: np.random.Generator, phi: float, runs: int) -> Found:
    """Interquartile mean (of a normal law: 0) and probability of improvement (1/2) over four scenarios."""
    x, plain = ({f"s{i}": draw.standard_normal(runs).tolist() for i in range(4)} for _ in range(2))
    found = aggregate(
        "online_accuracy", "mean over tasks", 0.2, x, plain, seed=int(draw.integers(2**31)), bootstraps=999
    )
    assert found is not None and found.improvement_ci95 is not None
    yield "interquartile mean over four scenarios", None, found.iqm_ci95
    low, high = found.improvement_ci95
    yield "probability of improvement", None, (low - 0.5, high - 0.5)
