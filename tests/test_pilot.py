"""Seeds for a gap: power against the noncentral t and simulation, spreads from stored runs, the dry run's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ncpl_cli.analysis import Run, Series, Study
from ncpl_cli.analysis.gain import power, seeds_needed
from ncpl_cli.analysis.pilot import needed, spread
from ncpl_cli.main import call

SETTINGS = {"dataset": "digits", "network": "mlp"}


@pytest.mark.parametrize(("spread_", "gap", "seeds"), [(1.0, 1.0, 10), (0.01, 0.005, 6), (0.02, 0.1, 2), (1, 40, 3)])
def test_power_is_that_of_the_paired_t_test(spread_: float, gap: float, seeds: int) -> None:
    edge = stats.t.ppf(0.975, seeds - 1)
    law = stats.nct(seeds - 1, gap * np.sqrt(seeds) / spread_)
    below = law.cdf(-edge)
    expected = law.sf(edge) + (below if np.isfinite(below) else 0)
    assert power(spread_, gap, seeds) == pytest.approx(float(expected), abs=1e-9)
    assert power(spread_, gap, 1) == 0 and power(0.0, gap, 5) == 1


def test_seeds_needed_is_the_fewest_and_keeps_its_promise() -> None:
    from statsmodels.stats.power import TTestPower

    draw = np.random.default_rng(0)
    for ratio in (2.0, 1.0, 0.5, 0.2):
        n = seeds_needed(1.0, ratio)
        assert n is not None and power(1.0, ratio, n) >= 0.8 > power(1.0, ratio, n - 1)
        assert n == int(np.ceil(TTestPower().solve_power(ratio, power=0.8, alpha=0.05)))
        d = ratio + draw.standard_normal((4000, n))
        low = d.mean(1) - stats.t.ppf(0.975, n - 1) * d.std(1, ddof=1) / np.sqrt(n)
        assert 0.78 <= (low > 0).mean() <= (0.92 if n < 6 else 0.83)
    assert seeds_needed(1.0, 1e-4) is None


def arms(seeds: int, luck: float, own: float, treatments: tuple[list[str], ...]) -> Study:
    made = []
    for t, treatment in enumerate(treatments):
        for s in range(seeds):
            value = 0.8 + luck * np.random.default_rng(s).normal() + own * np.random.default_rng([s, t]).normal()
            run = Run(f"{t}{s}", s, "permuted-digits", settings={**SETTINGS, "interventions": treatment})
            at = np.arange(5.0)
            made.append(Series.of(run, at + 1, at, np.ones(5), {"online_accuracy": np.full(5, value)}))
    return Study(tuple(made))


def test_the_spread_is_that_of_paired_differences_where_arms_are_stored() -> None:
    study = arms(8, 0.05, 0.01, ([], ["redo"]))
    found = spread(study, SETTINGS)
    values = np.array([s.columns["online_accuracy"][1] for s in study.series]).reshape(2, 8)
    d = values[1] - values[0]
    assert found is not None and found.paired and found.freedom == 7
    assert found.value == pytest.approx(d.std(ddof=1))  # the seed's luck of .05 is not in it
    what = needed(study, SETTINGS, 0.02, 3)
    assert what is not None and what.seeds == seeds_needed(d.std(ddof=1), 0.02)
    low, high = what.between
    assert low is not None and high is not None and what.seeds is not None and low <= what.seeds <= high
    for tail, end in ((0.9, low), (0.1, high)):
        assert end == seeds_needed(d.std(ddof=1) * np.sqrt(7 / stats.chi2.ppf(tail, 7)), 0.02)
    assert f"takes {what.seeds} seeds an arm" in what.sentence() and "3 seeds would show it with" in what.sentence()


def test_single_runs_bound_the_spread_and_nothing_says_nothing() -> None:
    study = arms(5, 0.03, 0.0, ([],))
    found = spread(study, SETTINGS)
    values = [s.columns["online_accuracy"][0] for s in study.series]
    assert found is not None and not found.paired and found.value == pytest.approx(np.sqrt(2) * np.std(values, ddof=1))
    assert "at most" in found.source
    assert spread(study, {"dataset": "mnist", "network": "mlp"}) is None
    assert spread(arms(2, 0.03, 0.0, ([],)), SETTINGS) is None  # two seeds know no spread
    assert needed(Study(()), SETTINGS, 0.1, 3) is None


def test_the_dry_run_says_seeds_and_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = str(tmp_path / "a.db")
    line = ["permuted-digits", "--tasks", "3", "--train-samples", "60", "--batch-size", "10", "--db", db]

    def document(*words: str) -> dict[str, Any]:
        capsys.readouterr()
        assert call([*words, "--dry-run", "--gap", "0.05", "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out)["power"])

    nothing = document("train", *line, "--seeds", "0-2")
    assert nothing["seeds"] is None and "train a pilot of four seeds" in nothing["sentence"]
    assert not (tmp_path / "a.db").exists()
    assert call(["train", *line, "--seeds", "0-3"]) == 0
    found = document("train", *line, "--seeds", "0-2")
    assert found["seeds"] >= 2 and found["hours"] > 0 and found["seeds_asked"] == 3 and not found["paired"]
    swept = document("sweep", *line, "--seeds", "0-1", "--grid", "lr=0.01,0.02,0.04")
    assert swept["seeds"] == found["seeds"] and swept["arms"] == 3 and swept["seeds_asked"] == 2
    assert call(["train", *line, "--gap", "0.05"]) == 2
    assert "add --dry-run" in capsys.readouterr().err
