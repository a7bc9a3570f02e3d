"""`correlate --predict`: Kendall's tau per run with what came before, left-out seeds, and the price of many looks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ncpl_cli.analysis import Run, Series, Study
from ncpl_cli.analysis.prediction import _left_out, pairs_of, predict
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store

Array = NDArray[np.float64]
TASKS = 15


def run(seed: int, strength: float = 1.0, noise: int = 6) -> Series:
    """Two epochs a task. What `dead_units` is at the end of a task decides the next task's first epoch."""
    draw = np.random.default_rng(seed)
    dead = draw.standard_normal(TASKS)
    online = np.r_[0.0, -strength * dead[:-1]] + 0.5 * draw.standard_normal(TASKS)
    columns = {"dead_units": np.stack([draw.standard_normal(TASKS), dead], axis=1).ravel(),
               "online_accuracy": np.stack([online, draw.standard_normal(TASKS)], axis=1).ravel()}  # fmt: skip
    columns |= {f"noise{i}": draw.standard_normal(2 * TASKS) for i in range(noise)}
    return Series.of(Run(f"r{seed}", seed, "permuted-digits"), np.arange(1.0, 2 * TASKS + 1),
                     np.repeat(np.arange(float(TASKS)), 2), np.tile([1.0, 2.0], TASKS), columns)  # fmt: skip


def test_the_diagnostic_before_a_task_is_ranked_against_the_task() -> None:
    study = Study(tuple(run(s) for s in range(8)))
    (found,) = predict(study, "online_accuracy")
    best = found.predictors[0]
    taus = np.array([
        stats.kendalltau(s.columns["dead_units"][1::2][:-1], s.columns["online_accuracy"][::2][1:]).statistic
        for s in study.series
    ])  # fmt: skip
    assert best.metric == "dead_units" and best.tau == pytest.approx(taus.mean()) and best.tasks == TASKS - 1
    assert best.ci95 == pytest.approx(stats.t.interval(0.95, 7, taus.mean(), stats.sem(taus)))
    assert best.p == 2 / 2**8 and len(found.predictors) == 8
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests([p.p for p in found.predictors], method="fdr_by")[1]
    assert [p.p_by for p in found.predictors] == pytest.approx(adjusted.tolist())
    t = np.arange(1.0, TASKS)
    left = []
    for s in study.series:
        x, y = s.columns["dead_units"][1::2][:-1], s.columns["online_accuracy"][::2][1:]
        x, y = (v - np.polyval(np.polyfit(t, v, 1), t) for v in (x, y))
        left.append(stats.kendalltau(x, y).statistic)
    assert best.detrended == pytest.approx(np.mean(left))
    assert "paid for all 8" in found.notes[0]


def test_a_left_out_seed_is_judged_by_the_choice_of_the_others() -> None:
    study = Study(tuple(run(s) for s in range(6)))
    (found,) = predict(study, "online_accuracy")
    names = [p.metric for p in found.predictors]
    table = np.array([[stats.kendalltau(*pairs_of(s, x, "online_accuracy")[1:]).statistic for x in names]
                      for s in study.series])  # fmt: skip
    values = []
    for i in range(6):
        others = np.delete(table, i, axis=0).mean(0)
        j = int(np.abs(others).argmax())
        values.append(np.sign(others[j]) * table[i, j])
        assert found.chosen[i] == names[j]
    assert found.held_out == pytest.approx(np.mean(values))
    held = [np.sign(np.delete(table[:, 0], i).mean()) * table[i, 0] for i in range(6)]
    assert found.predictors[0].held_out == pytest.approx(np.mean(held))


def test_noise_chosen_as_the_best_does_not_rank_the_seed_left_out() -> None:
    found = [
        predict(Study(tuple(run(100 * r + s, 0.0, 20) for s in range(6))), "online_accuracy")[0] for r in range(12)
    ]
    best = np.mean([abs(f.predictors[0].tau) for f in found])
    held_out = [f.held_out or 0.0 for f in found]
    assert best > 0.15 and abs(np.mean(held_out)) < 0.06  # the best of 22 looks fine; held out it is nothing
    assert sum((f.predictors[0].p_by or 1) < 0.05 for f in found) == 0


def test_the_clock_is_named() -> None:
    def drifting(seed: int) -> Series:
        draw = np.random.default_rng(seed)
        t = np.linspace(0, 10, TASKS)
        at = np.arange(float(TASKS))
        columns = {"online_accuracy": -t + draw.standard_normal(TASKS),
                   "weight_norm": t + 0.3 * draw.standard_normal(TASKS)}  # fmt: skip
        return Series.of(Run(f"r{seed}", seed, "p"), at + 1, at, np.ones(TASKS), columns)

    (found,) = predict(Study(tuple(drifting(s) for s in range(6))), "online_accuracy")
    best = found.predictors[0]
    assert abs(best.tau) > 0.7 and abs(best.detrended or 1) < 0.3
    assert any("Most of it is the clock" in note for note in found.notes)


def test_in_warm_starts_probes_are_ranked_by_the_row_they_branch_off() -> None:
    def warm(seed: int) -> Series:
        draw = np.random.default_rng(seed)
        epoch, nc1 = np.arange(1.0, 41.0), draw.standard_normal(40)
        probe = np.where(epoch % 5 == 0, nc1, np.nan)
        return Series.of(Run(f"r{seed}", seed, "warm-start"), epoch, np.zeros(40), epoch,
                         {"nc1": nc1, "probe_test_accuracy": probe, "probe_epochs_to_fit": probe})  # fmt: skip

    (found,) = predict(Study(tuple(warm(s) for s in range(3))), "probe_test_accuracy")
    assert [(p.metric, p.tau, p.p, p.tasks) for p in found.predictors] == [("nc1", pytest.approx(1.0), None, 8)]


def test_what_cannot_be_ranked_is_said() -> None:
    with pytest.raises(InputError, match="unknown metric of these runs"):
        predict(Study((run(0),)), "nc2")
    short = run(0)
    cut = Series.of(short.run, short.epoch[:6], short.task[:6], short.task_epoch[:6],
                    {k: v[:6] for k, v in short.columns.items()})  # fmt: skip
    with pytest.raises(InputError, match="no run has online_accuracy at 5 tasks"):
        predict(Study((cut,)), "online_accuracy")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "a.db")
    with open_store(path) as store:
        for seed in range(3):
            key = f"{seed:012x}"
            store.register(RunInfo(key, key, "permuted-digits", seed, {"lr": 0.1}, {"tasks": 9}, 9))
            attempt = store.claim([key], Owner.current(), {})[key]
            draw = np.random.default_rng(seed)
            for t in range(9):
                values = {Address(m): float(draw.normal()) for m in ("online_accuracy", "nc1", "dead_units")}
                store.save([(key, attempt, EpochRecord(t + 1, t, 1, 0, 0.0, 0.0, values))])
            store.finish(key, attempt, "finished")
    assert call(["correlate", "--predict", "online_accuracy", "--db", path, "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert group["predict"] == "online_accuracy" and len(group["metrics"]) == 3 and group["held_out"]["tau"] is not None
    assert all({"metric", "tau", "ci95", "p_sign_flip", "held_out"} <= set(m) for m in group["metrics"])
    assert call(["correlate", "--predict", "online_accuracy", "--db", path]) == 0
    out = capsys.readouterr().out
    assert "what ranks online_accuracy beforehand" in out and "no p-value is printed below six" in out
    assert call(["correlate", "--predict", "online_accuracy", "--y", "nc1", "--db", path]) == 2


def test_the_p_of_what_is_left_out_counts_every_sign_flip_of_whole_runs() -> None:
    """Against a loop that chooses and judges anew for each of the 64 flips of six runs."""
    table = np.random.default_rng(3).normal(0.1, 0.15, (6, 4))

    def judged(of: Any) -> float:
        total = 0.0
        for i in range(6):
            others = np.delete(of, i, axis=0).mean(0)
            j = int(np.abs(others).argmax())
            total += float(np.sign(others[j]) * of[i, j]) / 6
        return total

    observed = judged(table)
    flips = [judged(table * np.array(s)[:, None]) for s in itertools.product((1, -1), repeat=6)]
    mean, p, _ = _left_out(table, 99, 0)
    assert mean == pytest.approx(observed) and p == pytest.approx(np.mean(np.array(flips) >= observed - 1e-12))
    assert _left_out(table[:5], 99, 0)[1] is None and _left_out(table[:, :0], 99, 0) == (None, None, ())
