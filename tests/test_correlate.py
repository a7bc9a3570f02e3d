"""`correlate` on studies made by hand: windows, runs as the unit, controls, words, health, JSON, determinism."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ncpl_cli.analysis import GroupCorrelation, Options, Run, Series, Study, all_pairs, correlate, groups, load
from ncpl_cli.analysis.directions import direction
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store

Array = NDArray[np.float64]


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-10)


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def series(
    i: int, epoch: Array, columns: dict[str, Array], *, task: Array | None = None, task_epoch: Array | None = None,
    **about: Any,
) -> Series:  # fmt: skip
    run = Run(f"run{i}", about.pop("seed", i), about.pop("scenario", "warm-start"), **about)
    zero = np.zeros(len(epoch))
    return Series.of(run, epoch, zero if task is None else task, epoch if task_epoch is None else task_epoch, columns)


def noise_study(runs: int = 6, n: int = 200, spacing: int = 1, shared: float = 0.0) -> Study:
    """x and y of each run are noise with a common part, beside a control."""
    epoch = np.arange(1.0, n + 1) * spacing
    made = []
    for i in range(runs):
        x, y, z = draw(3, n, seed=i)
        made.append(series(i, epoch, {"nc1": x, "test_accuracy": y + shared * x, "train_accuracy": z}))
    return Study(tuple(made))


def one(study: Study, **options: Any) -> GroupCorrelation:
    pair = options.pop("pair", ("nc1", "test_accuracy"))
    (result,) = correlate(study, [pair], Options(**{"window": 50} | options))
    return result


def noted(result: GroupCorrelation, words: str) -> bool:
    return any(words in note for note in result.notes)


# windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("spacing", "window"), [(1, 50), (5, 100), (10, 100)])
def test_a_window_labelled_e_covers_e_minus_w_to_e(method: str, spacing: int, window: int) -> None:
    study = noise_study(runs=3, n=60, spacing=spacing)
    windows = one(study, window=window, method=method).windows
    epoch = study.series[0].epoch
    expected = [e for e in epoch if e >= epoch[0] + window - spacing]
    assert windows.end.tolist() == expected and windows.points.tolist() == [window // spacing] * len(expected)
    reference = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[method]
    for i, s in enumerate(study.series):
        for j, e in enumerate(expected):
            rows = (s.epoch > e - window) & (s.epoch <= e)
            r = reference(s.columns["nc1"][rows], s.columns["test_accuracy"][rows]).statistic
            assert windows.r[i, j] == near(r)
    assert windows.mean == near(windows.r.mean(0)) and windows.std == near(windows.r.std(0, ddof=1))


def test_rows_every_five_epochs_give_the_first_window_at_100_with_20_points() -> None:
    windows = one(noise_study(runs=2, n=40, spacing=5), window=100).windows
    assert windows.end[0] == 100 and windows.points[0] == 20 and windows.end.tolist() == list(range(100, 201, 5))


def test_epoch_0_and_rows_without_both_values_are_no_points() -> None:
    epoch = np.arange(0.0, 121.0)
    x, y = draw(2, 121)
    y[epoch % 5 != 0] = np.nan  # a probe every five epochs, the first at epoch 0
    result = one(Study((series(0, epoch, {"nc1": x, "probe_test_accuracy": y}),)), pair=("nc1", "probe_test_accuracy"),
                 window=100)  # fmt: skip
    assert result.overall.points == 24 and result.windows.end.tolist() == [100, 105, 110, 115, 120]
    assert result.windows.points.tolist() == [20] * 5
    rows = np.isfinite(y) & (epoch > 0)
    assert result.overall.per_run["run0"] == near(stats.pearsonr(x[rows], y[rows]).statistic)
    assert not noted(result, "Missing")  # a probe every five epochs lacks nothing


def test_a_window_with_gaps_is_counted_with_the_points_it_has() -> None:
    epoch = np.arange(1.0, 101.0)
    x, y = draw(2, 100)
    x[30:50] = np.nan
    windows = one(Study((series(0, epoch, {"nc1": x, "test_accuracy": y}),)), window=20).windows
    counts = dict(zip(windows.end.tolist(), windows.points.tolist(), strict=True))
    assert counts[30.0] == 20 and counts[51.0] == 1 and counts[60.0] == 10
    undefined = dict(zip(windows.end.tolist(), windows.undefined.tolist(), strict=True))
    assert undefined[51.0] == 1 and undefined[60.0] == 0


def test_each_run_has_its_own_spacing_and_end() -> None:
    dense, sparse = np.arange(1.0, 201.0), np.arange(5.0, 151.0, 5.0)
    study = Study(tuple(
        series(i, epoch, {"nc1": draw(len(epoch), seed=i), "test_accuracy": draw(len(epoch), seed=9 + i)})
        for i, epoch in enumerate((dense, sparse))
    ))  # fmt: skip
    windows = one(study, window=100).windows
    of_sparse = windows.end[np.isfinite(windows.r[1])]
    assert of_sparse[0] == 100 and of_sparse[-1] == 150
    assert windows.end[-1] == 200 and windows.undefined[-1] == 1 and windows.mean[-1] == near(windows.r[0, -1])
    assert noted(one(study, window=100), "Runs differ in their number of points: run0 200, run1 30")


def test_a_constant_window_is_undefined_and_counted_never_0() -> None:
    study = noise_study(runs=2, n=100)
    study.series[0].columns["nc1"][20:60] = 0.5
    result = one(study, window=20)
    inside = result.windows.end.tolist().index(45.0)
    assert np.isnan(result.windows.r[0, inside]) and result.windows.undefined[inside] == 1
    assert result.windows.mean[inside] == near(result.windows.r[1, inside]) and np.isnan(result.windows.std[inside])
    assert noted(result, "windows (over all runs) are undefined")
    entry = result.windows.to_json()[inside]
    assert entry["per_run"]["run0"] is None and entry["std"] is None


def test_no_full_window_is_said() -> None:
    result = one(noise_study(n=30), window=100)
    assert not len(result.windows.end) and result.overall.summary.mean_r is not None
    assert noted(result, "No full window of 100 epochs exists (30 points)")


# over runs -----------------------------------------------------------------------------------------------------


def test_the_statistics_over_runs() -> None:
    study = noise_study(runs=7, shared=0.4)
    overall = one(study).overall
    r = np.array([
        stats.pearsonr(s.columns["nc1"], s.columns["test_accuracy"]).statistic for s in study.series
    ])  # fmt: skip
    z = np.arctanh(r)
    low, high = stats.t.interval(0.95, 6, z.mean(), stats.sem(z))
    assert list(overall.per_run.values()) == near(r.tolist())
    assert overall.summary.mean_r == near(r.mean()) and overall.summary.fisher_mean_r == near(math.tanh(z.mean()))
    assert overall.summary.ci95 == (near(math.tanh(low)), near(math.tanh(high)))
    assert overall.p_sign_flip == 2 / 128 and overall.std == near(r.std(ddof=1))
    means = [np.mean([s.columns[name] for s in study.series], axis=0) for name in ("nc1", "test_accuracy")]
    assert overall.r_of_means == near(stats.pearsonr(*means).statistic)
    spearman = [stats.spearmanr(s.columns["nc1"], s.columns["test_accuracy"]).statistic for s in study.series]
    assert overall.controls["spearman"].summary.mean_r == near(np.mean(spearman))
    differences = [
        stats.pearsonr(np.diff(s.columns["nc1"]), np.diff(s.columns["test_accuracy"])).statistic for s in study.series
    ]
    assert overall.controls["first_difference"].summary.mean_r == near(np.mean(differences))
    assert overall.controls["first_difference"].p == 2 / 128


def test_the_means_run_over_common_rows_only() -> None:
    long, short = noise_study(runs=2, n=100).series
    short = Series.of(replace(short.run), short.epoch[20:80], short.task[20:80], short.task_epoch[20:80],
                      {k: v[20:80] for k, v in short.columns.items()})  # fmt: skip
    x, y = ((long.columns[k][20:80] + short.columns[k]) / 2 for k in ("nc1", "test_accuracy"))
    assert one(Study((long, short))).overall.r_of_means == near(stats.pearsonr(x, y).statistic)


@pytest.mark.parametrize("runs", [1, 2, 5, 6])
def test_no_p_from_fewer_than_six_runs(runs: int) -> None:
    result = one(noise_study(runs=runs, shared=1.0), lags=(-1, 1))
    document = json.dumps(result.to_json())
    p = [result.overall.p_sign_flip, result.overall.p_family, result.overall.seed_swap.p]
    p += [c.p for c in result.overall.controls.values()] + [g.p for g in result.lags]
    if runs < 6:
        assert set(p) == {None} and np.isnan(result.windows.p).all() and '"p": 0' not in document
        assert noted(result, f"(the smallest two-sided sign-flip p is {2 / 2**runs:.4g})")
    else:
        assert None not in p and np.isfinite(result.windows.p).all()
    assert (result.overall.summary.ci95 is None) == (runs == 1)


def test_windows_and_lags_are_one_family() -> None:
    study = noise_study(runs=8, n=80, shared=0.3)
    alone, with_lags = one(study, window=20), one(study, window=20, lags=(-10, 10))
    assert with_lags.resampling.family == alone.resampling.family + 21 == len(alone.windows.end) + 21
    assert (with_lags.windows.p_family >= alone.windows.p_family).all() and with_lags.windows.p.tolist() == (
        alone.windows.p.tolist()
    )
    assert (with_lags.windows.p_family > alone.windows.p_family).any()
    families = [*with_lags.windows.p_family.tolist(), *(g.p_family for g in with_lags.lags)]
    assert with_lags.overall.p_family == min(families)


@pytest.mark.parametrize(("shift", "spacing"), [(3, 1), (-2, 5)])
def test_a_positive_lag_means_that_x_leads_y(shift: int, spacing: int) -> None:
    made = []
    for i in range(3):
        x = draw(150, seed=i)
        y = np.roll(x, shift) + 0.1 * draw(150, seed=50 + i)
        epoch = np.arange(1.0, 151.0) * spacing
        made.append(series(i, epoch, {"nc1": x, "test_accuracy": y}))
    study = Study(tuple(made))
    result = one(study, lags=(-5, 5))
    assert result.overall.best_lag == shift
    (best,) = [g for g in result.lags if g.lag == shift]
    assert best.mean_r is not None and best.mean_r > 0.95
    k, s = abs(shift), study.series
    lead, follow = ("nc1", "test_accuracy") if shift > 0 else ("test_accuracy", "nc1")
    expected = [stats.pearsonr(t.columns[lead][:-k], t.columns[follow][k:]).statistic for t in s]
    assert best.mean_r == near(np.mean(expected))
    (unshifted,) = [g for g in result.lags if g.lag == 0]
    assert unshifted.mean_r == near(result.overall.summary.mean_r)


def test_a_sparse_y_is_shifted_by_its_own_steps() -> None:
    x = draw(200)
    epoch = np.arange(1.0, 201.0)
    y = np.full(200, np.nan)
    y[4::5] = np.r_[np.nan, x[4::5][:-1]]  # what x was five epochs ago
    result = one(Study((series(0, epoch, {"nc1": x, "probe_test_accuracy": y + 0.01 * draw(200, seed=1)}),)),
                 pair=("nc1", "probe_test_accuracy"), lags=(-2, 2))  # fmt: skip
    assert result.overall.best_lag == 1


def test_effective_n_and_leave_one_out_are_there() -> None:
    study = noise_study(runs=4, n=400)
    for s in study.series:
        s.columns["nc1"][:] = s.columns["nc1"].cumsum()
        s.columns["test_accuracy"][:] = s.columns["test_accuracy"].cumsum()
    overall = one(study).overall
    assert overall.effective_n is not None and 1 < overall.effective_n < 60 and overall.points == 400
    r = np.array(list(overall.per_run.values()), dtype=float)
    without = [np.delete(r, i).mean() for i in range(4)]
    assert overall.summary.leave_one_out == (near(min(without)), near(max(without)))
    assert noted(one(study), "which is why p-values come from runs")


# controls ------------------------------------------------------------------------------------------------------


def test_a_shared_trend_is_named() -> None:
    study = noise_study(runs=6, n=200)
    for s in study.series:
        for name in ("nc1", "test_accuracy"):
            s.columns[name][:] += np.linspace(0, 15, 200)
    result = one(study)
    assert result.overall.summary.mean_r is not None and result.overall.summary.mean_r > 0.9
    left = result.overall.controls["detrended"].summary.mean_r
    assert left is not None and abs(left) < 0.1
    assert noted(result, "most of it is the shared trend over epochs")
    assert noted(result, f"r = {result.overall.summary.mean_r:+.2f} between the raw series, {left:+.2f} after removing")
    assert result.overall.partial["epoch"].summary.mean_r == near(left)
    # the seed swap sees the same clock
    assert result.overall.seed_swap.swapped_r is not None and result.overall.seed_swap.swapped_r > 0.9
    assert noted(result, "merely follow the training clock")
    own = one(noise_study(runs=6, shared=1.0))
    assert own.overall.seed_swap.p is not None and own.overall.seed_swap.p < 0.01 and not noted(own, "training clock")


def test_a_control_that_flips_the_sign_is_said() -> None:
    made = []
    for i in range(6):
        z, x, rest = draw(3, 200, seed=i)
        made.append(series(i, np.arange(1.0, 201.0), {
            "nc1": z + 0.3 * x, "test_accuracy": z - 0.3 * x + 0.1 * rest, "train_accuracy": z,
        }))  # fmt: skip
    result = one(Study(tuple(made)))
    raw, left = result.overall.summary.mean_r, result.overall.partial["train_accuracy"].summary.mean_r
    assert raw is not None and left is not None and raw > 0.5 and left < -0.5
    assert noted(result, f"With train_accuracy held fixed the sign flips: partial r = {left:+.2f} against {raw:+.2f}")
    assert result.overall.partial_ranks["train_accuracy"].summary.mean_r == pytest.approx(left, abs=0.1)
    assert result.overall.partial["epoch+train_accuracy"].summary.mean_r == pytest.approx(left, abs=0.05)


def test_what_a_control_hides_is_said() -> None:
    made = []
    for i in range(6):
        z, x, rest = draw(3, 400, seed=i)
        made.append(series(i, np.arange(1.0, 401.0), {
            "nc1": z + x, "test_accuracy": z - x + rest, "train_accuracy": z + 0.1 * rest,
        }))  # fmt: skip
    result = one(Study(tuple(made)))
    raw, left = result.overall.summary.mean_r, result.overall.partial["train_accuracy"].summary.mean_r
    assert raw is not None and left is not None and abs(raw) < 0.1 and left < -0.5
    assert noted(result, "With train_accuracy held fixed a correlation appears that is not seen without: partial r")


def test_runs_of_a_group_that_share_seeds_are_named() -> None:
    study = noise_study(runs=4)
    assert not noted(one(study), "between them")
    same = [replace(s, run=replace(s.run, seed=i // 2)) for i, s in enumerate(study.series)]
    assert noted(one(Study(tuple(same))), "4 runs of this group have 2 seeds between them")


def test_a_flip_without_the_trend_is_said() -> None:
    study = noise_study(runs=6, n=100, shared=-1.0)
    for s in study.series:
        s.columns["nc1"][:] += np.linspace(0, 15, 100)
        s.columns["test_accuracy"][:] += np.linspace(0, 20, 100)
    assert noted(one(study), "without the shared trend the sign flips")


def test_a_control_that_is_constant_within_runs_points_to_across_runs() -> None:
    study = noise_study(runs=3)
    for i, s in enumerate(study.series):
        s.columns["train_accuracy"][:] = i
    with pytest.raises(InputError, match="constant within runs") as caught:
        one(study, controls=("train_accuracy",))
    assert "--across runs" in str(caught.value.hint)
    with pytest.raises(InputError, match="has no value"):
        one(study, controls=("train_loss",))
    with pytest.raises(InputError, match="--control first_task_epochs is constant within runs") as caught:
        correlate(task_study(runs=2, tasks=9), options=Options(controls=("first_task_epochs",)))
    assert "--across runs" in str(caught.value.hint)
    with pytest.raises(InputError, match="one of the correlated metrics"):
        one(study, controls=("nc1",))
    result = one(study)  # not asked for: null, and said
    assert result.to_json()["overall"]["partial"]["train_accuracy"] is None
    assert noted(result, "train_accuracy was not recorded or does not vary")


def test_the_plain_mean_and_the_centre_of_the_interval_are_told_apart() -> None:
    study = Study(tuple(
        series(i, np.arange(1.0, 101.0), {"nc1": (x := draw(100, seed=i)), "test_accuracy": x + c * draw(100, seed=9)})
        for i, c in enumerate((0.1, 5, 5))
    ))  # fmt: skip
    summary = one(study).overall.summary
    assert summary.mean_r is not None and summary.fisher_mean_r is not None
    assert abs(summary.mean_r - summary.fisher_mean_r) > 0.02
    assert noted(one(study), "the interval belongs to the back-transformed mean of Fisher's z")


# tasks ---------------------------------------------------------------------------------------------------------


def task_study(runs: int = 6, tasks: int = 40, first_epochs: int = 1, seed: int = 0) -> Study:
    """One epoch a task after a first task of `first_epochs`, as online permuted MNIST."""
    made = []
    for i in range(runs):
        task = np.r_[np.zeros(first_epochs), np.arange(1.0, tasks)]
        task_epoch = np.r_[np.arange(1.0, first_epochs + 1), np.ones(tasks - 1)]
        n = len(task)
        online, nc1 = 0.9 + 0.01 * draw(n, seed=seed + i), 1 + 0.1 * draw(n, seed=seed + 100 + i)
        made.append(series(
            i, np.arange(1.0, n + 1), {"nc1": nc1, "online_accuracy": online, "plasticity_loss": np.full(n, np.nan),
                                       "plasticity_loss_b24": np.full(n, np.nan)},
            task=task, task_epoch=task_epoch, scenario="permuted-mnist",
            settings={"first_task_epochs": first_epochs, "lr": 0.01},
        ))  # fmt: skip
    return Study(tuple(made))


def test_task_series_have_one_point_a_task() -> None:
    study = task_study(runs=2, tasks=30, first_epochs=20)
    (result,) = correlate(study, options=Options(window=10))
    assert (result.x, result.y, result.across, result.unit) == ("nc1", "plasticity_loss", "tasks", "task")
    assert result.overall.points == 29 and result.windows.end[0] == 10  # task 0 has no plasticity loss
    for s in study.series:
        loss = s.columns["online_accuracy"][0] - s.columns["online_accuracy"][20:]
        expected = stats.pearsonr(s.columns["nc1"][20:], loss).statistic
        assert result.overall.per_run[s.run.id] == near(expected)
    windows = result.windows
    rows = slice(20, 30)  # window labelled task 10: tasks 1 to 10
    s = study.series[0]
    assert windows.r[0, 0] == near(
        stats.pearsonr(s.columns["nc1"][rows], -s.columns["online_accuracy"][rows]).statistic
    )


def test_pooling_the_epochs_of_a_long_first_task_is_warned_of() -> None:
    (result,) = correlate(task_study(runs=2, tasks=20, first_epochs=50), [("nc1", "online_accuracy")],
                          Options(across="epochs", window=20))  # fmt: skip
    assert result.overall.points == 69 and noted(result, "One task has 50 epochs, the others mostly 1")


def test_plasticity_losses_that_were_not_recorded_follow_their_definitions() -> None:
    online = np.array([0.5, 0.7, 0.9, 0.6, 0.8, 0.4, 0.6])
    made = series(0, np.arange(1.0, 8.0), {
        "online_accuracy": online, "plasticity_loss": np.full(7, np.nan), "plasticity_loss_b24": np.full(7, np.nan),
    }, task=np.array([0, 0, 0, 1, 1, 2, 2.0]), task_epoch=np.array([1, 2, 3, 1, 2, 1, 2.0]))  # fmt: skip
    assert made.columns["plasticity_loss"][3:].tolist() == near([-0.1, -0.1, 0.1, 0.1])
    assert np.isnan(made.columns["plasticity_loss"][:3]).all()
    b24 = made.columns["plasticity_loss_b24"]
    assert np.isnan(b24[[0, 1, 2, 3, 5]]).all() and b24[[4, 6]] == near([0.7 - 0.7, 0.7 - 0.5])
    assert made.per_task("online_accuracy").tolist() == [0.5, 0.6, 0.4]  # first epochs


def test_a_head_start_is_said() -> None:
    study = task_study(runs=2)
    for s in study.series:
        s.columns["plasticity_loss"][:] = np.where(s.task > 0, -0.02 + 0.001 * s.columns["nc1"], np.nan)
    (result,) = correlate(study, options=Options(window=10))
    assert noted(result, "Plasticity loss of the first ten tasks is negative") and noted(result, "fresh_gap")


def test_a_half_trained_last_task_is_left_out() -> None:
    study = task_study(runs=1, tasks=20)
    s = study.series[0]
    doubled = Series.of(
        replace(s.run, status="interrupted"), np.arange(1.0, 40.0), np.repeat(s.task, 2)[:39],
        np.tile([1.0, 2.0], 20)[:39], {k: np.repeat(v, 2)[:39] for k, v in s.columns.items()},
    )  # fmt: skip
    (result,) = correlate(Study((doubled,)), [("nc1", "online_accuracy")], Options(window=10))
    assert result.overall.points == 19 and noted(result, "1 half-trained last task left out")
    assert noted(result, "Not finished, used as far as they are: run0")


# across runs ---------------------------------------------------------------------------------------------------


def first_task_study(seeds: int = 1) -> Study:
    """Arms with first tasks of different lengths: longer is more collapse and, in itself, a better later accuracy."""
    made: list[Series] = []
    for arm, length in enumerate([1, 2, 5, 10, 20, 30, 40, 50]):
        for seed in range(seeds):
            z = draw(4, seed=17 * arm + seed)
            nc1 = 0.3 - 0.003 * length + 0.02 * z[0]
            later = 0.92 - 0.0006 * length - 0.3 * (nc1 - 0.3 + 0.003 * length) + 0.0005 * z[1]
            n = length + 3
            made.append(series(
                len(made), np.arange(1.0, n + 1),
                {"nc1": np.r_[np.full(length, nc1), 0.3 + 0.01 * z[:3]],
                 "online_accuracy": np.r_[0.98 - 0.06 * np.exp(-np.arange(length)), later, later, later + 0.01 * z[2]],
                 "plasticity_loss": np.full(n, np.nan), "plasticity_loss_b24": np.full(n, np.nan)},
                task=np.r_[np.zeros(length), 1, 2, 3], task_epoch=np.r_[np.arange(1.0, length + 1), 1, 1, 1],
                seed=arm if seeds == 1 else seed, scenario="permuted-mnist",
                settings={"first_task_epochs": length, "lr": 0.01},
            ))  # fmt: skip
    return Study(tuple(made))


def test_across_runs_is_one_r_a_task_with_the_training_amount_as_a_control() -> None:
    import pingouin

    study = first_task_study()
    (result,) = correlate(study, [("nc1", "online_accuracy")], Options(across="runs"))
    assert result.n_runs == 8 and result.windows.end.tolist() == [1, 2, 3] and result.across == "runs"
    x = np.array([s.columns["nc1"][s.task_ends()[0]] for s in study.series])
    y = np.array([s.columns["online_accuracy"][s.task_ends()[0] + 1 :] for s in study.series])
    amount = np.array([s.task_epoch[s.task_ends()[0]] for s in study.series])
    expected = [stats.pearsonr(x, column).statistic for column in y.T]
    assert result.windows.mean.tolist() == near(expected)
    import pandas as pd

    frame = pd.DataFrame({"x": x, "y": y.mean(1), "a": amount})
    partial = float(pingouin.partial_corr(frame, "x", "y", "a")["r"].iloc[0])
    assert result.overall.partial["first_task_epochs"].summary.mean_r == near(partial)
    whole = stats.pearsonr(x, y.mean(1))
    interval = whole.confidence_interval()
    assert result.overall.r_of_means == near(whole.statistic)
    assert result.overall.summary.ci95 == (near(interval.low), near(interval.high))
    assert whole.statistic > 0.3 and partial < -0.3  # as in B24: the sign flips
    assert noted(result, "With first_task_epochs held fixed the sign flips")
    document = result.to_json()
    assert document["overall"]["p_sign_flip"] is None and 0 < document["p_permutation"] < 0.2
    assert document["training_amount"]["values"] == [1, 2, 5, 10, 20, 30, 40, 50]


def test_both_definitions_of_plasticity_loss_stand_side_by_side() -> None:
    study = first_task_study()
    (result,) = correlate(study, [("nc1", "plasticity_loss")], Options(across="runs"))
    definitions = result.to_json()["definitions"]
    assert set(definitions) == {"plasticity_loss", "plasticity_loss_b24"}
    for name, definition in definitions.items():
        x = [s.columns["nc1"][s.task_ends()[0]] for s in study.series]
        y = [np.nanmean(s.per_task(name)) for s in study.series]
        assert definition["r"] == near(stats.pearsonr(x, y).statistic)
    assert noted(result, "plasticity_loss_b24 averages the first task's accuracy over all its epochs")
    # the first task's own rise turns the sign of B24's definition only
    for s in study.series:
        s.columns["plasticity_loss"][s.task > 0] *= -1
    (turned,) = correlate(study, [("nc1", "plasticity_loss")], Options(across="runs"))
    assert noted(turned, "The sign depends on the definition of plasticity loss: plasticity_loss gives r = ")


def test_a_sign_that_rests_on_one_run_is_said() -> None:
    study = noise_study(runs=4)
    for i, s in enumerate(study.series):
        s.columns["test_accuracy"][:] += (1.5 if i == 0 else -0.15) * s.columns["nc1"]
    result = one(study)
    assert result.overall.summary.leave_one_out is not None and result.overall.summary.leave_one_out[0] < 0
    assert noted(result, "the sign rests on single runs")


def test_seeds_shared_by_arms_are_blocks() -> None:
    (result,) = correlate(first_task_study(seeds=3), [("nc1", "online_accuracy")], Options(across="runs"))
    assert result.n_runs == 24 and result.to_json()["seeds_as_blocks"] == 3
    assert noted(result, "The 24 runs share 3 seeds")


def test_across_runs_needs_four_and_says_so() -> None:
    study = Study(first_task_study().series[:3])
    (result,) = correlate(study, [("nc1", "online_accuracy")], Options(across="runs"))
    assert result.overall.r_of_means is None and noted(result, "a correlation over runs needs at least four")


def test_a_constant_training_amount_is_null_and_said() -> None:
    (result,) = correlate(task_study(runs=6, tasks=5), [("nc1", "online_accuracy")], Options(across="runs"))
    assert result.to_json()["overall"]["partial"]["first_task_epochs"] is None
    assert noted(result, "All runs trained the first task equally long")
    with pytest.raises(InputError, match="explains nothing"):
        correlate(task_study(runs=6, tasks=5), [("nc1", "online_accuracy")],
                  Options(across="runs", controls=("train_accuracy",)))  # fmt: skip


def test_a_setting_can_be_held_fixed_across_runs() -> None:
    study = first_task_study()
    rates = [0.1, 0.3, 0.2, 0.1, 0.3, 0.1, 0.2, 0.3]
    varied = [replace(s, run=replace(s.run, settings={**s.run.settings, "lr": lr}))
              for s, lr in zip(study.series, rates, strict=True)]  # fmt: skip
    pair = [("nc1", "online_accuracy")]
    (result,) = correlate(Study(tuple(varied)), pair, Options(across="runs", pool=True, controls=("lr",)))
    x = np.array([s.columns["nc1"][s.task_ends()[0]] for s in varied])
    y = np.array([s.columns["online_accuracy"][s.task_ends()[0] + 1 :].mean() for s in varied])
    x, y = (v - np.polyval(np.polyfit(rates, v, 1), rates) for v in (x, y))
    assert result.overall.partial["lr"].summary.mean_r == near(stats.pearsonr(x, y).statistic)
    (amount,) = correlate(study, pair, Options(across="runs", controls=("first_task_epochs",)))
    assert list(amount.overall.partial) == ["first_task_epochs", "train_accuracy"]


def test_pairs_across_runs_are_paid_for() -> None:
    pairs = [("nc1", "online_accuracy"), ("nc1", "plasticity_loss")]
    results = correlate(first_task_study(), pairs, Options(across="runs"))
    raw = sorted(r.more["p_permutation"] for r in results)
    assert [r.overall.p_by for r in results] != [None, None]
    assert min(r.overall.p_by or 1 for r in results) == near(min(raw[0] * 2 * 1.5, raw[1] * 1.5, 1.0))


# groups, health, words -----------------------------------------------------------------------------------------


def test_groups_are_runs_that_differ_only_in_seed() -> None:
    base = noise_study(runs=4).series
    rates = [0.1, 0.1, 0.2, 0.2]
    runs = [replace(s, run=replace(s.run, seed=i % 2, settings={"lr": rates[i], "depth": 3}))
            for i, s in enumerate(base)]  # fmt: skip
    two = groups(Study(tuple(runs)))
    assert [dict(g.settings) for g in two] == [{"lr": 0.1}, {"lr": 0.2}] and [len(g.series) for g in two] == [2, 2]
    other = replace(base[0], run=replace(base[0].run, scenario="other", settings={"width": 100}))
    theirs = replace(base[0], run=replace(base[0].run, imported=True, names=("theirs",), settings={"imported": True}))
    assert [g.title for g in groups(Study((*runs, other, theirs)))] == [
        "warm-start; lr=0.1", "warm-start; lr=0.2", "other", "warm-start; theirs"
    ]  # fmt: skip
    imported = [replace(s, run=replace(s.run, imported=True, names=(name,), settings={}))
                for s, name in zip(base, ("a", "a", "b", "b"), strict=True)]  # fmt: skip
    assert [g.name for g in groups(Study(tuple(imported)))] == ["a", "b"]
    (pooled,) = correlate(Study(tuple(runs)), [("nc1", "test_accuracy")], Options(window=50, pool=True))
    assert pooled.n_runs == 4 and pooled.overall.summary.n == 2
    assert noted(pooled, "Pooled over 2 groups, as asked") and noted(pooled, "count as 2 seeds")


def test_failed_and_diverged_runs_are_listed_and_not_used() -> None:
    base = noise_study(runs=4).series
    runs = (base[0], base[1], replace(base[2], run=replace(base[2].run, status="diverged")),
            replace(base[3], columns={"test_accuracy": base[3].columns["test_accuracy"]}))  # fmt: skip
    result = one(Study(runs))
    assert result.n_runs == 2
    assert [(e.run, e.reason) for e in result.overall.excluded] == [
        ("run2", "diverged"), ("run3", "no epoch where nc1 and test_accuracy are both defined"),
    ]  # fmt: skip
    assert noted(result, "What survives may differ from what failed")


def test_missing_and_constant_series_are_reported() -> None:
    study = noise_study(runs=3, n=100)
    study.series[0].columns["nc1"][60:] = np.nan  # the network died
    study.series[1].columns["test_accuracy"][:] = 0.1
    result = one(study, window=20)
    assert noted(result, "Missing (undefined or not recorded), over all runs: nc1 in 40 rows")
    assert noted(result, "r is undefined in 1 of 3 runs (run1: constant test_accuracy)")
    health = result.to_json()["data_health"]
    assert health["missing"] == {"nc1": 40} and health["points"] == {"run0": 60, "run1": 100, "run2": 100}
    assert result.to_json()["overall"]["per_run"]["run1"] is None
    assert result.overall.summary.same_sign[1] == 2


def test_a_group_without_a_point_is_named() -> None:
    base = noise_study(runs=4).series
    other = [replace(s, run=replace(s.run, scenario="other"), columns={"nc1": s.columns["nc1"]}) for s in base[2:]]
    (result,) = correlate(Study((*base[:2], *other)), [("nc1", "test_accuracy")], Options(window=50))
    assert noted(result, "Groups without a point, and so without a result: other (2 runs)")
    with pytest.raises(InputError, match="no chosen run has a row where nc1 and test_accuracy are both defined"):
        correlate(Study(tuple(other)), [("nc1", "test_accuracy")])


@pytest.mark.parametrize(
    ("x", "y", "r", "words"),
    [
        ("nc1", "plasticity_loss", 0.5, "more collapse goes with less plasticity loss"),
        ("nc1", "plasticity_loss", -0.5, "more collapse goes with more plasticity loss"),
        ("nc4", "plasticity_loss", 0.5, "more collapse goes with more plasticity loss"),
        ("nc1", "probe_test_accuracy", 0.5, "more collapse goes with lower probe test accuracy"),
        ("nc1", "test_accuracy", -0.5, "more collapse goes with higher test accuracy"),
        ("nc1@test/layer2", "test_accuracy", -0.5,
         "more collapse (nc1@test/layer2) goes with higher test accuracy"),
        ("nc1", "cdnv", 0.5, "more collapse (nc1) goes with more collapse (cdnv)"),
        ("nc1@test", "nc2", 0.5, "more collapse (nc1@test) goes with more collapse (nc2)"),
    ],
)  # fmt: skip
def test_direction_in_words(x: str, y: str, r: float, words: str) -> None:
    assert direction(x, y, r) == words == direction(x, y, r, {m.id: m.direction for m in METRICS.values()})
    assert "cause" not in words


def test_doubt_stands_beside_the_direction() -> None:
    assert one(noise_study(shared=1.0)).overall.direction == "more collapse goes with lower test accuracy"
    assert "the 95 % interval includes 0" in one(noise_study()).overall.direction


def test_many_pairs_are_paid_for() -> None:
    from statsmodels.stats.multitest import multipletests

    study = noise_study(runs=8, shared=0.5)
    pairs = all_pairs(study)
    assert len(pairs) == 3
    for s in study.series:
        s.columns["nc1@test"] = s.columns["nc1"] + 1.0  # type: ignore[index]
    assert len(all_pairs(study)) == 5 and ("nc1", "nc1@test") not in all_pairs(study)
    results = correlate(study, pairs, Options(window=50))
    expected = multipletests([r.overall.p_sign_flip for r in results], method="fdr_by")[1]
    assert [r.overall.p_by for r in results] == near(expected.tolist())
    assert all(noted(r, "3 pairs were looked at") for r in results)


def test_wrong_options_are_sentences() -> None:
    for wrong in ({"method": "kendall"}, {"across": "seeds"}, {"window": 0}, {"lags": (3, 1)}):
        with pytest.raises(InputError):
            Options(**wrong)  # type: ignore[arg-type]


# the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store_path(tmp_path: Path) -> str:
    """Six warm-start runs with a row every five epochs, and a probe run that must not be found."""
    path = str(tmp_path / "a.db")
    with open_store(path) as store:
        for seed in range(6):
            identity = f"aa{seed:010x}"
            info = RunInfo(identity, "{}", "warm-start", seed, {"lr": 0.1, "interventions": []}, {"warm_up": 200}, 200)
            store.register(info, "mine")
            attempt = store.claim([identity], Owner.current(), {})[identity]
            x, y, z = draw(3, 41, seed=seed)
            for i in range(41):
                values = {Address("nc1"): x[i], Address("nc1", "test"): z[i], Address("train_accuracy"): z[i],
                          Address("probe_test_accuracy"): y[i] - x[i]}  # fmt: skip
                store.save([(identity, attempt, EpochRecord(5 * i, 0, 5 * i, 0, 0.0, 0.0, values))])
            store.finish(identity, attempt, "finished")
        probe = RunInfo("bb0000000000", "{}", "warm-start", 0, {"lr": 0.1, "interventions": []}, {}, 3, {},
                        "aa0000000000", 5)  # fmt: skip
        store.register(probe)
        attempt = store.claim([probe.id], Owner.current(), {})[probe.id]
        store.save([(probe.id, attempt, EpochRecord(1, 0, 1, 0, 0.0, 0.0, {Address("nc1"): 1.0}))])
        store.finish(probe.id, attempt, "finished")
    return path


OVERALL = {
    "mean_r": float, "fisher_mean_r": float, "ci95": list, "p_sign_flip": float, "p_family": float,
    "r_of_means": float, "per_run": dict, "same_sign": str, "spearman": float, "first_difference": float,
    "detrended": float, "partial": dict, "seed_swap_p": float, "best_lag": int, "effective_n": float,
    "leave_one_out": list, "direction": str, "excluded": list,
}  # fmt: skip
GROUP = {
    "scenario": str, "name": str, "settings": dict, "x": str, "y": str, "method": str, "across": str, "unit": str,
    "window": int, "n_runs": int, "windows": list, "overall": dict, "notes": list,
}  # fmt: skip


def test_the_json_has_every_key_of_the_interface(store_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["correlate", "--db", store_path, "--window", "100", "--lags", "-2:2", "--json"]
    assert call(line) == 0
    text = capsys.readouterr().out
    (group,) = json.loads(text)["groups"]
    for key, kind in GROUP.items():
        assert isinstance(group[key], kind), key
    for key, kind in OVERALL.items():
        assert isinstance(group["overall"][key], kind), key
    assert (group["x"], group["y"], group["n_runs"], group["unit"]) == ("nc1", "probe_test_accuracy", 6, "epoch")
    first = group["windows"][0]
    assert (first["end"], first["points"], first["undefined"]) == (100, 20, 0) and len(first["per_run"]) == 6
    assert all(isinstance(first[key], float) for key in ("mean", "std", "p"))
    assert group["overall"]["same_sign"] == "6/6" and group["overall"]["p_sign_flip"] == 2 / 64
    assert set(group["overall"]["partial"]) >= {"train_accuracy", "epoch"}
    assert group["resampling"]["seed"] == 0 and group["resampling"]["sign_flips"] == 64
    assert "bb0000000000" not in text  # a probe is on its parent's rows, never a run of the group
    assert call(line) == 0
    assert capsys.readouterr().out == text  # the same bytes again


def test_tables_notes_and_figures(store_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["correlate", "--db", store_path, "--plot", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert "mean over runs of Pearson's r within a run, one point a recorded epoch" in out and "6 runs" in out
    assert "\nMore collapse goes with higher probe test accuracy: mean r = -0." in out and "window 100 epochs" in out
    windows = [line for line in out.splitlines() if line.split("\t")[0].isdigit()]
    assert len(windows) == 21  # all of them where stdout is a pipe
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert call(["correlate", "--db", store_path, "--pairs", "all", "--window", "50"]) == 0
    out = capsys.readouterr().out
    assert "nc1@test" in out and "Benjamini-Yekutieli" in out


@pytest.mark.parametrize("more", [["--lags", "-2:2"], ["--pairs", "all"], ["--across", "runs"]], ids=lambda m: m[0])
def test_a_terminal_of_80_columns_cuts_nothing(
    store_path: str, more: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call(["correlate", "--db", store_path, *more]) == 0
    out = capsys.readouterr().out
    assert "\t" not in out and "…" not in out and "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    if more == ["--lags", "-2:2"]:
        assert " of 21" in out and "highest" in out  # few windows, those that say most


def test_the_figure_draws_the_numbers_of_the_windows(store_path: str, tmp_path: Path) -> None:
    from ncpl_cli.report.correlation_figure import save_windows, window_frames

    with open_store(store_path) as store:
        (result,) = correlate(load(store, ["nc1", "probe_test_accuracy"]), options=Options(window=50))
    over, single = window_frames([result])
    assert over["mean"].tolist() == result.windows.mean.tolist() and over["end"].tolist() == result.windows.end.tolist()
    assert (over["high"] - over["mean"]).tolist() == near(result.windows.std.tolist())
    assert len(single) == result.windows.r.size and set(single["run"]) == set(result.seeds)
    for kind in ("svg", "png", "pdf"):
        first, second = tmp_path / f"1.{kind}", tmp_path / f"2.{kind}"
        save_windows([result], str(first))
        save_windows([result], str(second))
        assert first.read_bytes() == second.read_bytes() and len(first.read_bytes()) > 1000


def test_addresses_follow_split_and_layer(store_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["correlate", "--db", store_path, "--split", "test", "--y", "train_accuracy", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["x"], group["y"]) == ("nc1@test", "train_accuracy")
    assert group["overall"]["mean_r"] is None and group["notes"]  # the same numbers: |r| = 1 is undefined


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--x", "nc5"], "unknown metric of these runs 'nc5'"),
        (["--across", "seeds"], "unknown --across"),
        (["--method", "kendall"], "unknown --method"),
        (["--lags", "3"], "is not a range"),
        (["--pairs", "some"], "unknown --pairs"),
        (["--pairs", "all", "--y", "nc1"], "leave out --x and --y"),
        (["--plot", "a.doc"], "unknown figure format"),
        (
            [
                "--x",
                "nc1,nc1@test,train_accuracy,probe_test_accuracy,test_accuracy",
                "--y",
                "nc1,nc1@test,train_accuracy,probe_test_accuracy,nc1,nc1@test,train_accuracy",
                "--plot",
                "a.png",
            ],
            "do not fit into one figure",
        ),
        (["--scenario", "none"], "unknown scenario of this store"),
        (["--window", "0"], "impossible"),
        (["--control", "nc1"], "one of the correlated metrics"),
    ],
)
def test_wrong_lines_are_exit_2(
    store_path: str, line: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["correlate", "--db", store_path, *line]) == 2
    streams = capsys.readouterr()
    assert words in streams.err and not streams.out


def test_a_study_is_loaded_without_probe_runs(store_path: str) -> None:
    with open_store(store_path) as store:
        study = load(store, ["nc1", "probe_test_accuracy"])
    assert [s.run.seed for s in study.series] == list(range(6)) and study.series[0].epoch[0] == 5
