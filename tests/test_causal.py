"""`compare --dose` and `compare --through`: right by brute force, in planted studies, and in what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from ncpl_cli.analysis import Run, Series, Study, compare
from ncpl_cli.analysis.doses import DOSE, dose_of, dosed, line
from ncpl_cli.analysis.through import points, pseudo_values, share_of, slope_within, through
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import causal  # type: ignore[import-not-found]


def test_fieller_is_the_set_of_ratios_that_a_paired_t_test_does_not_refuse() -> None:
    draw = np.random.default_rng(3)
    total = 1.0 + 0.4 * draw.standard_normal(7)
    indirect = 0.5 * total + 0.3 * draw.standard_normal(7)
    share, interval, why = share_of(indirect, total)
    assert share == pytest.approx(indirect.mean() / total.mean()) and interval is not None and not why

    def refused(ratio: float) -> float:
        return float(stats.ttest_1samp(indirect - ratio * total, 0).pvalue) - 0.05

    by_hand = optimize.brentq(refused, share - 5, share), optimize.brentq(refused, share, share + 5)
    assert interval == pytest.approx(by_hand, rel=1e-6)
    none = share_of(indirect, total - total.mean() + 0.01)
    assert none[:2] == (None, None) and "holds 0" in none[2]


def test_the_slope_within_a_seed_is_that_of_a_regression_with_a_line_in_the_place() -> None:
    draw = np.random.default_rng(0)
    place, m = np.arange(12.0), draw.standard_normal(12)
    t = 0.7 * m - 0.3 * place + 5 + 0.1 * draw.standard_normal(12)
    design = np.stack([m, place, np.ones(12)], axis=1)
    assert slope_within(place, t, m) == pytest.approx(np.linalg.lstsq(design, t, rcond=None)[0][0], rel=1e-9)
    # both build up over the places and have nothing else to do with each other: no slope is made of that
    assert abs(slope_within(place, 2 * place, place + 1e-3 * draw.standard_normal(12))) < 1e-6
    assert np.isnan(slope_within(place[:5], t[:5], m[:5])) and np.isnan(slope_within(place, t, place))
    n, t, m = 6, t[:6], m[:6]
    whole = np.polyfit(m, t, 1)[0] * m.mean()
    left = [np.polyfit(np.delete(m, i), np.delete(t, i), 1)[0] * np.delete(m, i).mean() for i in range(n)]
    assert pseudo_values(t, m) == pytest.approx(n * whole - (n - 1) * np.array(left))


def test_the_mediator_is_taken_before_the_outcome() -> None:
    at = np.arange(4.0)
    run = Run("a", 0, "permuted-digits")
    tasks = Series.of(run, at + 1, at, np.ones(4), {"nc1": at * 10, "online_accuracy": at})
    place, y, before = points(tasks, "online_accuracy", "nc1")
    assert (place.tolist(), y.tolist(), before.tolist()) == ([1, 2, 3], [1, 2, 3], [0, 10, 20])
    probes = Series.of(run, at + 1, 0 * at, at + 1, {"nc1": at * 10, "probe_test_accuracy": [np.nan, 1, np.nan, 3]})  # type: ignore[dict-item]
    assert [of.tolist() for of in points(probes, "probe_test_accuracy", "nc1")] == [[2, 4], [1, 3], [10, 30]]


def test_what_was_planted_is_found_and_adds_up() -> None:
    draw = np.random.default_rng(1)
    study = causal.mediated(draw, 40, 30, 0.5, 1.0)
    arm = compare(study, "online_accuracy", mediator="nc1", flips=9)[0].arms[0]
    of = arm.through
    assert of is not None and of.indirect is not None and of.direct is not None and of.share_ci95 is not None
    assert of.total.mean == pytest.approx(arm.gain.mean)
    for s, total in of.total.per_seed.items():
        assert of.indirect.per_seed[s] + of.direct.per_seed[s] == pytest.approx(total)
    truth = causal.CHANGE / (causal.CHANGE + causal.DIRECT)
    assert of.share_ci95[0] < truth < of.share_ci95[1] and of.share_ci95[1] - of.share_ci95[0] < 0.4
    assert of.slope == "within seeds, over 30 places" and "Associated, not caused" in of.assumptions[0]
    few = through(study.series[40:43], study.series[:3], "online_accuracy", "nc1")  # three seeds
    assert few.indirect is not None
    one = causal.mediated(draw, 3, 1, 0.0, 1.0)
    found = through(one.series[3:], one.series[:3], "test_accuracy", "nc1")
    assert found.indirect is None and "3 paired seeds of 1 place" in found.undefined


@pytest.mark.parametrize(("places", "left"), [(1, 6), (10, 7)])
def test_a_line_over_seeds_costs_a_degree_of_freedom(places: int, left: int) -> None:
    study = causal.mediated(np.random.default_rng(2), 8, places, 0.5, 1.0)
    of = through(study.series[8:], study.series[:8], "test_accuracy" if places == 1 else "online_accuracy", "nc1")
    assert of.indirect is not None and of.direct is not None and of.share is not None
    for gain, freedom in ((of.indirect, left), (of.direct, left), (of.total, 7), (of.change, 7)):
        values = np.array(list(gain.per_seed.values()))
        error = values.std(ddof=1) / np.sqrt(8)
        assert gain.ci95 == pytest.approx(stats.t.interval(0.95, freedom, values.mean(), error))
        wanted = (stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)) * error
        assert gain.detectable == pytest.approx(wanted)
    # the share's interval leaves out 0 exactly where the indirect effect's does
    draw = np.random.default_rng(0)
    indirect = draw.standard_normal(5)
    indirect += 0.999 * stats.t.ppf(0.975, 3) * indirect.std(ddof=1) / np.sqrt(5) - indirect.mean()
    share = share_of(indirect, 9 + 0.1 * draw.standard_normal(5), 2)[1]
    assert share is not None and share[0] < 0 < share[1]


@pytest.mark.parametrize(("places", "b"), [(1, 0.0), (1, 1.0), (10, 0.0), (10, 1.0)])
def test_effects_of_nothing_are_not_found_and_intervals_hold_the_truth(places: int, b: float) -> None:
    """A small version of benchmarks/causal.py: 200 studies, so that 95 % is within 4.6 points (three errors)."""
    found = causal.cell(8, places, 0.5, b, 200)
    assert set(found) >= {"total", "indirect", "direct"}
    for what, (rejected, held, n) in found.items():
        assert n < 150 or held >= 0.904, (what, held)
        if b == 0 and what in ("indirect", "dose, slope", "dose, bend"):
            assert rejected <= 0.096, (what, rejected)


def test_a_dose_effect_is_a_line_through_each_seed() -> None:
    values = {s: {d: 0.2 * d + 0.1 * s + 3 * d * d for d in (-0.1, 0.0, 0.05, 0.1)} for s in range(3)}
    values[9] = {0.0: 1.0, 0.1: 2.0}  # two doses are no line
    of = dose_of("nc1", values)
    x = np.array([-0.1, 0.0, 0.05, 0.1])
    assert of.slope.mean == pytest.approx(np.polyfit(x, 0.2 * x + 3 * x * x, 1)[0]) and len(of.slope.per_seed) == 3
    assert of.bend.mean == pytest.approx(3) and of.doses == (-0.1, 0.0, 0.05, 0.1)
    assert of.ranks.mean == pytest.approx(stats.spearmanr(x, 0.2 * x + 3 * x * x).statistic)
    assert line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0])) == (pytest.approx(0), pytest.approx(0))


def _run(arm: list[str], seed: int, accuracy: float) -> Series:
    at = np.arange(3.0)
    about = Run(f"{arm}{seed}", seed, "permuted-digits", settings={"lr": 0.1, "interventions": arm})
    return Series.of(about, at + 1, at, np.ones(3), {"online_accuracy": np.full(3, accuracy)})


def test_strengths_are_doses_with_the_sign_of_their_direction() -> None:
    arms = [[], ["nc1"], ["nc1:strength=0.02"], ["nc1:strength=0.02,direction=promote"], ["nc1:strength=0.1,clip=5"],
            ["l2:strength=0.1"], ["nc1:strength=0.3", "redo"]]  # fmt: skip
    study = Study(tuple(_run(arm, s, 0.5) for arm in arms for s in range(2)))
    ((what, part),) = dosed(study)  # another clip, or ReDo beside it, is another intervention; l2 has two doses
    assert what == "nc1" and {s.run.settings[DOSE] for s in part.series} == {0.0, 0.05, 0.02, -0.02}
    assert all(s.run.settings["interventions"] == [] for s in part.series)
    with pytest.raises(InputError, match=r"no intervention comes in three strengths.*here: l2, nc1"):
        dosed(Study(tuple(s for s in study.series if s.run.settings["interventions"] in ([], *arms[4:6]))))


def _store(path: str, rates: tuple[float, float, float]) -> str:
    """Three strengths (one of them none), three seeds, nine tasks each."""
    draw = np.random.default_rng(0)
    with open_store(path) as store:
        for i, arm in enumerate(([], ["nc1:strength=0.02"], ["nc1:strength=0.05"])):
            for seed in range(3):
                key = f"{i:04x}{seed:08x}"
                settings = {"lr": rates[i], "interventions": arm, "tasks": 9}
                store.register(RunInfo(key, key, "permuted-digits", seed, settings, {"tasks": 9}, 9))
                attempt = store.claim([key], Owner.current(), {})[key]
                for t in range(9):
                    values = {"online_accuracy": 0.5 + i * 0.1 + 0.01 * draw.standard_normal(), "nc1": draw.random()}
                    place = {Address(k): float(v) for k, v in values.items()}
                    store.save([(key, attempt, EpochRecord(t + 1, t, 1, 0, 0.0, 0.0, place))])
                store.finish(key, attempt, "finished", None)
    return path


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    otherwise = _store(str(tmp_path / "a.db"), (0.1, 0.2, 0.3))  # then no arm has a plain arm of its own
    assert call(["compare", "--dose", "--db", otherwise]) == 2
    assert "no intervention comes in three strengths" in capsys.readouterr().err
    path = _store(str(tmp_path / "b.db"), (0.1, 0.1, 0.1))
    assert call(["compare", "--through", "nc7", "--db", path]) == 2
    assert "it was not recorded" in capsys.readouterr().err
    assert call(["compare", "--dose", "--by", "lr", "--db", otherwise]) == 2  # the treatments differ as well
    capsys.readouterr()
    assert call(["compare", "--dose", "--through", "nc1", "--db", path, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert first["by"] == "dose" and first["dose"]["of"] == "nc1" and first["dose"]["doses"] == [0.0, 0.02, 0.05]
    assert first["dose"]["slope"]["ci95"][0] > 0 and [a["value"] for a in first["arms"]] == [0.05, 0.02]
    split = first["arms"][0]["through"]
    assert set(split) >= {"total", "change", "indirect", "direct", "share", "share_ci95", "assumptions"}
    assert call(["compare", "--dose", "--through", "nc1", "--db", path]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "per unit of nc1, over 3 seeds, told from 0" in text and "associated, not caused" in text
    assert call(["compare", "--through", "nc1", "--db", path]) == 0
    assert "goes with it" in capsys.readouterr().out
