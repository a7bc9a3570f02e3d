"""`compare --by`: values of any setting, paired by seed; outcomes, equivalence, the worst arm, several scenarios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ncpl_cli.analysis import Run, Series, Study
from ncpl_cli.analysis.aggregate import aggregate, interquartile_mean, probability_of_improvement
from ncpl_cli.analysis.by_setting import compare_by, equivalence, over_scenarios
from ncpl_cli.analysis.gain import over_seeds
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store

Array = NDArray[np.float64]
TASKS = 24


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-10)


def online(lr: float, seed: int, fall: float = 0.0) -> Array:
    """First-epoch accuracies of the tasks: higher with lr, falling where asked."""
    noise = np.random.default_rng([seed, round(1000 * lr)]).standard_normal(TASKS)
    return 0.5 + lr + 0.01 * seed - fall * np.arange(TASKS) + 0.002 * noise


def run(lr: float, seed: int, values: Array, scenario: str = "permuted-digits", **about: Any) -> Series:
    """Two epochs a task, the first with the online accuracy, the second with another."""
    n = len(values)
    settings = {"lr": lr, "width": about.pop("width", 100), "interventions": []}
    who = Run(f"{scenario}{lr}{seed}{settings['width']}", seed, scenario, settings=settings, **about)
    column = np.stack([values, np.full(n, 0.99)], axis=1).ravel()
    return Series.of(who, np.arange(1.0, 2 * n + 1), np.repeat(np.arange(float(n)), 2), np.tile([1.0, 2.0], n),
                     {"online_accuracy": column, "train_accuracy": column})  # fmt: skip


def study(rates: tuple[float, ...] = (0.1, 0.2, 0.05), seeds: int = 6, **about: Any) -> Study:
    return Study(tuple(run(lr, s, online(lr, s, 0.004 * lr), **about) for lr in rates for s in range(seeds)))


def test_each_value_against_the_smallest_with_three_outcomes_sorted_by_gain() -> None:
    found = compare_by(study(), "lr")
    assert [c.outcome for c in found] == ["mean over tasks", "last 10 tasks", "slope over tasks"]
    assert {(c.by, c.value, c.plain, c.y) for c in found} == {("lr", 0.05, "lr=0.05", "online_accuracy")}
    whole, last, slope = found
    assert [a.value for a in whole.arms] == [0.2, 0.1] and whole.arms[0].arm == "lr=0.2"
    for of, read in ((whole, np.mean), (last, lambda v: np.mean(v[-10:])),
                     (slope, lambda v: np.polyfit(np.arange(TASKS), v, 1)[0])):  # fmt: skip
        for arm in of.arms:
            lr = float(str(arm.value))
            ours, theirs = (np.array([read(online(x, s, 0.004 * x)) for s in range(6)]) for x in (lr, 0.05))
            d = ours - theirs
            assert arm.gain.mean == near(d.mean()) and arm.later == (near(ours.mean()), near(theirs.mean()))
            assert arm.gain.ci95 == near(stats.t.interval(0.95, 5, d.mean(), stats.sem(d)))
            assert of.mean == near(theirs.mean()) and of.margin == near(theirs.std(ddof=1))
    turned = compare_by(study(), "lr", plain="0.10")
    assert turned[0].value == 0.1 and [a.value for a in turned[0].arms] == [0.2, 0.05]


def test_equivalence_is_two_one_sided_t_tests() -> None:
    from statsmodels.stats.weightstats import ttost_paired

    d = np.random.default_rng(0).normal(0.0, 0.004, 8)
    d += 0.001 - d.mean()
    gain = equivalence(over_seeds(dict(enumerate(d.tolist()))), 0.006)
    p, _, _ = ttost_paired(d, np.zeros(8), -0.006, 0.006)
    assert gain.p_equivalence == near(float(p)) and gain.to_json()["equivalent"] is bool(p < 0.05)
    assert gain.verdict == "equivalent" and equivalence(gain, 1e-4).verdict == "undecided"
    assert over_seeds({0: 0.1, 1: 0.11, 2: 0.09}).verdict == "higher"
    assert equivalence(over_seeds({0: 0.0, 1: 0.0}), 0.1).p_equivalence == 0


def test_the_worst_arm_stays() -> None:
    lost = [run(9.0, s, online(9.0, s)[:2], status="diverged") for s in range(6)]
    half = [run(0.3, s, online(0.3, s), status="diverged" if s > 2 else "finished") for s in range(6)]
    found = compare_by(Study((*study().series, *lost, *half)), "lr")
    values = [a.value for a in found[0].arms]
    assert values == [0.3, 0.2, 0.1, 9.0]
    (gone,), (lucky,) = ([a for a in found[0].arms if a.value == v] for v in (9.0, 0.3))
    assert gone.gain.mean is None and gone.to_json()["gain"]["n_seeds"] == 0 and "6 of 6 runs diverged" in gone.notes[0]
    assert (gone.lost, lucky.lost) == ("diverged", "")
    assert "3 of 6 runs diverged: what is left may be the luckier ones" in lucky.notes[0]
    dead = [run(0.001, s, online(9.0, s)[:2], status="diverged") for s in range(6)]
    found = compare_by(Study((*study().series, *dead)), "lr")
    assert found[0].value == 0.05 and "lr=0.001 has no run that finished" in found[0].notes[0]
    with pytest.raises(InputError, match="nothing to compare with"):
        compare_by(Study((*study().series, *dead)), "lr", plain="0.001")


def test_other_settings_are_kept_apart_and_runs_of_unequal_length_share_their_tasks() -> None:
    wide = [run(lr, s, online(lr, s), width=200) for lr in (0.1, 0.2) for s in range(3)]
    found = compare_by(Study((*study().series, *wide)), "lr", ["online_accuracy"])
    assert [(c.settings["width"], c.value) for c in found if c.outcome == "mean over tasks"] == [
        (100, 0.05),
        (200, 0.1),
    ]
    short = run(0.2, 0, online(0.2, 0, 0.0008)[:12])
    made = Study((short, *[s for s in study().series if (s.run.settings["lr"], s.run.seed) != (0.2, 0)]))
    (whole, last, _) = compare_by(made, "lr")
    assert "Compared over the first 12 of up to 24 tasks" in whole.notes[0] and last.outcome == "last 6 tasks"
    gain = whole.arms[0].gain.per_seed[1]
    assert gain == near(online(0.2, 1, 0.0008)[:12].mean() - online(0.05, 1, 0.0002)[:12].mean())


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(InputError, match=r"unknown setting of these runs 'lrr'.*'lr'"):
        compare_by(study(), "lrr")
    with pytest.raises(InputError, match=r"nothing to compare by width: all runs have one value \(100\)") as caught:
        compare_by(study(), "width")
    assert caught.value.hint == "settings that differ: lr"
    with pytest.raises(InputError, match="unknown value of lr '7'"):
        compare_by(study(), "lr", plain="7")
    mixed = Study((*study((0.1,)).series, *study((0.2,), width=200).series))
    with pytest.raises(InputError, match="all runs that are alike otherwise have one value"):
        compare_by(mixed, "lr")


def test_probes_and_single_values() -> None:
    def warm(lr: float, seed: int) -> Series:
        epoch = np.arange(5.0, 45.0, 5.0)
        probe = np.where(epoch % 10 == 0, lr + seed + epoch, np.nan)
        who = Run(f"{lr}{seed}", seed, "warm-start", settings={"lr": lr})
        return Series.of(who, epoch, np.zeros(8), epoch, {"probe_test_accuracy": probe, "nc1": lr * epoch})

    made = Study(tuple(warm(lr, s) for lr in (1.0, 3.0) for s in range(2)))
    found = compare_by(made, "lr")
    assert [(c.outcome, c.arms[0].gain.mean, c.mean) for c in found] == [
        ("mean over probes", 2.0, 26.5), ("last probe", 2.0, 41.5),
    ]  # fmt: skip
    (one,) = compare_by(made, "lr", ["nc1"])
    assert (one.outcome, one.arms[0].gain.mean) == ("last value", 80.0)


# over scenarios ----------------------------------------------------------------------------------------------------


def test_interquartile_mean_and_probability_of_improvement() -> None:
    draw = np.random.default_rng(0)
    for n in (4, 7, 10, 15):
        values = draw.standard_normal(n)
        assert float(interquartile_mean(values)) == near(stats.trim_mean(values, 0.25))
    x, y = ([draw.integers(0, 4, n).astype(float) for n in sizes] for sizes in ((5, 6, 7), (4, 5, 6)))
    u = [stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x, y, strict=True)]
    assert probability_of_improvement(x, y) == near(np.mean(u))


def test_three_scenarios_are_put_together() -> None:
    scenarios = ("permuted-digits", "shuffled-labels", "permuted-mnist")
    made = Study(tuple(s for name in scenarios for s in study(seeds=4, scenario=name).series))
    found = compare_by(made, "lr")
    together = over_scenarios(made, found)
    of = {(a.value, a.outcome): a for a in together}
    best, plain = of[0.2, "mean over tasks"], of[0.05, "mean over tasks"]
    values = np.concatenate([[online(0.2, s, 0.0008).mean() for s in range(4)]] * 3)
    assert best.iqm == near(stats.trim_mean(values, 0.25)) and (best.scenarios, best.runs) == (3, 12)
    assert best.improvement == 1 and plain.improvement is None and best.iqm_ci95[0] < best.iqm < best.iqm_ci95[1]
    assert over_scenarios(made, found)[0] == together[0]  # the same bytes again
    other = tuple(run(0.1, s, online(0.1, s)[:2], width=8) for s in range(2))  # of the first, but in no comparison
    apart = Study((*made.series, *other))
    assert over_scenarios(apart, compare_by(apart, "lr")) == together
    two = Study(tuple(s for s in made.series if s.run.scenario != "permuted-mnist"))
    assert over_scenarios(two, compare_by(two, "lr")) == ()


def test_the_stratified_bootstrap_covers() -> None:
    """Means of a symmetric law: the interquartile mean's interval holds the truth in about 95 of 100 studies."""
    hits = 0
    for repetition in range(100):
        draw = np.random.default_rng(repetition)
        x = {f"s{i}": draw.normal(i, 1, 10).tolist() for i in range(3)}
        found = aggregate("y", "o", 1, x, None, bootstraps=400)
        assert found is not None
        hits += found.iqm_ci95[0] <= 1.0 <= found.iqm_ci95[1]
    assert 86 <= hits <= 100


# the command -------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "a.db")
    with open_store(path) as store:
        for lr in (0.1, 0.2, 10.0):
            for seed in range(3):
                key = f"{round(lr * 10):04x}{seed:08x}"
                settings = {"lr": lr, "interventions": [], "tasks": 4}
                store.register(RunInfo(key, key, "permuted-digits", seed, settings, {"tasks": 4}, 4))
                attempt = store.claim([key], Owner.current(), {})[key]
                if lr < 10:
                    for t, value in enumerate(online(lr, seed)[:4]):
                        record = EpochRecord(t + 1, t, 1, 0, 0.0, 0.0, {Address("online_accuracy"): float(value)})
                        store.save([(key, attempt, record)])
                store.finish(key, attempt, "diverged" if lr == 10 else "finished", "infinite" if lr == 10 else None)
    assert call(["compare", "--by", "lr", "--db", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    first = document["comparisons"][0]
    assert set(first) >= {"scenario", "y", "plain", "by", "arms"} and first["by"] == "lr"
    assert [(a["arm"], a["value"], a["gain"]["n_seeds"]) for a in first["arms"]] == [
        ("lr=0.2", 0.2, 3),
        ("lr=10.0", 10.0, 0),
    ]
    assert isinstance(first["arms"][0]["gain"]["mean"], float) and len(first["arms"][0]["gain"]["ci95"]) == 2
    assert call(["compare", "--by", "lr", "--y", "online_accuracy", "--db", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("\t")[:7] == ["value", "outcome", "mean", "gain", "low", "high", "seeds"]
    cells = [line.split("\t") for line in lines[2:] if "\t" in line]
    assert [c[0] for c in cells[:3]] == ["0.2", "0.1", "10.0"] and cells[2][3] == ""
    assert float(cells[0][3]) == first["arms"][0]["gain"]["mean"]  # full precision in a pipe
    assert any("3 of 3 runs diverged" in line for line in lines)
    assert call(["compare", "--by", "lr", "--y", "nc1", "--db", path]) == 2
    assert "nc1 was not recorded" in capsys.readouterr().err
    assert call(["compare", "--margin", "0.1", "--db", path]) == 2


def test_numbers_are_rounded_by_their_standard_error() -> None:
    from ncpl_cli.analysis.words import rounded

    cases = [(0.123456, 0.01, "0.123"), (0.123456, 0.0004, "0.12346"), (12.3456, 3.0, "12.3"), (0.5, None, "0.5"),
             (None, 0.1, "–"), (1234.5, 200.0, "1234")]  # fmt: skip
    assert [rounded(value, error) for value, error, _ in cases] == [text for *_, text in cases]
