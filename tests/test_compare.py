"""`compare`: pairing by seed, the matched analysis, failed first phases, and which arm is the plain one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ncpl_cli.analysis import Run, Series, Study, compare
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store

Array = NDArray[np.float64]
NC1 = "nc1:strength=0.05,clip=200"
PROBES = np.arange(5.0, 55.0, 5.0)


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-10)


def arm(
    interventions: list[str], seeds: int, y: Callable[[int], Array], learned: Callable[[int], Array], **about: Any
) -> list[Series]:
    """Warm-start runs with a probe every five epochs."""
    settings = {"interventions": interventions, "weight_decay": about.pop("weight_decay", 0.0),
                "lr": about.pop("lr", 0.05)}  # fmt: skip
    status, name = about.pop("status", "finished"), "+".join(interventions) or "plain"
    epoch = PROBES
    return [
        Series.of(
            Run(f"{name} {seed} {settings['lr']}", seed, "warm-start", settings=settings, status=status, **about),
            epoch, np.zeros(len(epoch)), epoch,
            {"probe_test_accuracy": y(seed), "train_accuracy": learned(seed), "nc1": 1 / epoch,
             "test_accuracy": learned(seed) - 0.1},
        )
        for seed in range(seeds)
    ]  # fmt: skip


def noise(seed: int, scale: float = 0.01) -> Array:
    return scale * np.random.default_rng(seed).standard_normal(len(PROBES))


def rising(seed: int) -> Array:
    """Phase-1 train accuracy of the plain arm: .5 to .95 in steps of .05."""
    return 0.5 + 0.05 * np.arange(len(PROBES))


def only(study: list[Series], **options: Any) -> Any:
    (comparison,) = compare(Study(tuple(study)), **options)
    (found,) = comparison.arms
    return found


def noted(found: Any, words: str) -> bool:
    return any(words in note for note in found.notes)


@pytest.mark.parametrize("seeds", [5, 6, 8])
def test_gains_are_paired_by_seed(seeds: int) -> None:
    plain = arm([], seeds, lambda s: 0.6 + 0.05 * s + noise(s), rising)
    ours = arm([NC1], seeds, lambda s: 0.61 + 0.05 * s + noise(50 + s), rising)
    found = only([*plain, *ours])
    d = np.array([
        float((a.columns["probe_test_accuracy"] - b.columns["probe_test_accuracy"]).mean())
        for a, b in zip(ours, plain, strict=True)
    ])  # fmt: skip
    assert found.arm == NC1 and list(found.gain.per_seed.values()) == near(d.tolist())
    assert found.gain.mean == near(d.mean())
    assert found.gain.ci95 == near(stats.t.interval(0.95, seeds - 1, d.mean(), stats.sem(d)))
    quantiles = stats.t.ppf(0.975, seeds - 1) + stats.t.ppf(0.8, seeds - 1)
    assert found.gain.detectable == near(quantiles * stats.sem(d))
    if seeds < 6:
        assert found.gain.p is None and noted(found, "5 paired seeds: no p-value is printed below six")
    else:
        expected = stats.permutation_test(
            (d,), lambda a, axis: np.abs(a.mean(axis)), permutation_type="samples", n_resamples=np.inf,
            alternative="greater", vectorized=True,
        )  # fmt: skip
        assert found.gain.p == near(float(expected.pvalue))


def test_a_gain_that_is_lost_training_vanishes_when_matched() -> None:
    """Later accuracy falls with what phase 1 has learned; the arm has merely learned less."""
    plain = arm([], 6, lambda s: 0.7 - 0.2 * rising(s) + 0.01 * s, rising)
    lagging: Callable[[int], Array] = lambda s: rising(s) - 0.1  # noqa: E731
    ours = arm([NC1], 6, lambda s: 0.7 - 0.2 * lagging(s) + 0.01 * s + noise(s, 1e-4), lagging)
    found = only([*plain, *ours])
    assert found.gain.mean == pytest.approx(0.02, abs=1e-3)
    assert found.failed_seeds == (0, 1, 2, 3, 4, 5) and noted(found, "Phase 1 failed in 6 of 6 seeds")
    assert noted(found, "a gain here may be lost training")
    # probes at .40 and .45 have no plain probe within .02
    assert found.matched.unmatched == near(0.2) and found.matched.pairs == 48
    assert abs(found.matched.gain.mean) < 1e-3 and noted(found, "most of the gain is gone; 20% of the probes")
    assert found.to_json()["phase_1_failed"] is True


def test_the_nearest_plain_probe_of_the_same_seed_is_taken() -> None:
    plain = arm([], 2, lambda s: 10.0 * s + np.arange(10.0), rising)
    ours = arm(
        [NC1], 2, lambda s: np.full(10, 10.0 * s + 100), lambda s: np.r_[0.519, 0.531, 0.5201, np.full(7, np.nan)]
    )
    found = only([*plain, *ours])
    # .519 -> .50 (y 0); .531 -> .55 (y 1); .5201 is .0201 from .50 and .0299 from .55: unmatched
    assert found.matched.pairs == 4 and found.matched.unmatched == near(1 - 4 / 20)
    assert found.matched.gain.per_seed == {0: near(99.5), 1: near(99.5)}


def test_a_real_gain_stands_when_matched() -> None:
    plain = arm([], 6, lambda s: 0.6 + 0.01 * s + noise(s, 1e-3), rising)
    ours = arm([NC1], 6, lambda s: 0.65 + 0.01 * s + noise(9 + s, 1e-3), rising)
    found = only([*plain, *ours])
    assert not found.failed_seeds and found.matched.unmatched == 0 and noted(found, "the gain stands")
    assert noted(found, "Paired by seed, sign-flip p = 0.031")
    assert found.phase_1["train_accuracy"] == (near(0.95), near(0.95))


def test_an_interval_with_0_says_what_could_have_been_seen() -> None:
    plain = arm([], 4, lambda s: 0.6 + noise(s), rising)
    found = only([*plain, *arm([NC1], 4, lambda s: 0.6 + noise(s) + 0.01 * (-1) ** s, rising)])
    assert noted(found, f"these seeds would have shown a gap of {found.gain.detectable:.3g} or more with 80%")


def test_what_is_not_recorded_is_said() -> None:
    unknown: Callable[[int], Array] = lambda s: np.full(10, np.nan)  # noqa: E731
    found = only([*arm([], 2, lambda s: noise(s), rising), *arm([NC1], 2, lambda s: noise(s), unknown)])
    assert noted(found, "whether phase 1 failed is not known") and noted(found, "nothing can be matched")
    assert found.matched.unmatched == 1.0 and found.to_json()["matched"]["mean"] is None


def test_unpaired_seeds_and_lost_runs_are_listed() -> None:
    plain = arm([], 3, lambda s: noise(s), rising)
    ours = [
        *arm([NC1], 4, lambda s: noise(9 + s), rising)[1:],
        *arm([NC1], 1, lambda s: noise(s), rising, status="diverged"),
    ]
    found = only([*plain, *ours])
    assert set(found.gain.per_seed) == {1, 2}
    assert noted(found, "Seeds in one arm only, not used: 0, 3") and noted(found, "(seed 0, diverged)")
    nothing = only([*plain[:1], *arm([NC1], 2, lambda s: noise(s), rising)[1:]])
    assert nothing.gain.mean is None and noted(nothing, "nothing is paired")


def test_each_arm_has_the_plain_arm_of_its_own_settings() -> None:
    study = [
        *arm([], 2, lambda s: 0.5 + noise(s), rising), *arm([NC1], 2, lambda s: 0.6 + noise(s), rising),
        *arm([], 2, lambda s: 0.7 + noise(s), rising, lr=0.1), *arm([NC1], 2, lambda s: 0.9 + noise(s), rising, lr=0.1),
    ]  # fmt: skip
    found = compare(Study(tuple(study)))
    assert [c.settings for c in found] == [{"lr": 0.05}, {"lr": 0.1}]
    assert [c.arms[0].gain.mean for c in found] == [near(0.1), near(0.2)]


def test_weight_decay_is_an_arm_unless_all_have_it() -> None:
    bare = arm([], 2, lambda s: noise(s), rising)
    decayed = arm([], 2, lambda s: 0.1 + noise(s), rising, weight_decay=1e-4)
    both = arm([NC1], 2, lambda s: 0.3 + noise(s), rising, weight_decay=1e-4)
    (found,) = compare(Study((*bare, *decayed, *both)))
    assert [(a.arm, a.gain.mean) for a in found.arms] == [
        ("weight_decay=0.0001", near(0.1)), (f"{NC1} + weight_decay=0.0001", near(0.3)),
    ]  # fmt: skip
    assert only([*decayed, *both]).gain.mean == near(0.2)


def test_several_arms_are_paid_for() -> None:
    study = [*arm([], 6, lambda s: noise(s), rising), *arm([NC1], 6, lambda s: 0.1 + noise(9 + s), rising),
             *arm(["l2:strength=0.1"], 6, lambda s: noise(30 + s), rising)]  # fmt: skip
    (found,) = compare(Study(tuple(study)))
    p = sorted(a.gain.p or 1 for a in found.arms)
    assert p[0] == 2 / 64 and min(a.p_by or 1 for a in found.arms) == near(min(p[0] * 3, p[1] * 1.5))


def test_imported_arms_are_compared_with_the_one_called_plain_or_named() -> None:
    ours = arm([], 2, lambda s: 0.6 + noise(s), rising, names=("nc1",), imported=True)
    base = arm([], 2, lambda s: 0.5 + noise(s), rising, names=("plain",), imported=True)
    assert only([*ours, *base]).arm == "nc1"
    turned = only([*ours, *base], plain="nc1")
    assert turned.arm == "plain" and turned.gain.mean == near(-0.1)
    with pytest.raises(InputError, match="there is nothing to compare") as caught:
        compare(Study(tuple(ours)))
    assert "--plain" in str(caught.value.hint)
    with pytest.raises(InputError, match="no run fits"):
        compare(Study(()))


def test_where_tasks_follow_each_other_first_epochs_are_compared() -> None:
    def run(seed: int, interventions: list[str], gain: float) -> Series:
        task = np.repeat(np.arange(4.0), 2)
        online = 0.8 + 0.01 * np.arange(8) + gain * (task > 0)
        about = Run(f"{gain}{seed}", seed, "permuted-mnist", settings={"interventions": interventions})
        return Series.of(about, np.arange(1.0, 9.0), task, np.tile([1.0, 2.0], 4),
                         {"online_accuracy": online, "train_accuracy": online})  # fmt: skip

    found = only([run(s, i, g) for s in range(2) for i, g in (([], 0.0), (["redo:tau=0.025"], 0.05))])
    assert found.gain.mean == near(0.05) and found.matched is None
    assert found.later == (near(0.8 + 0.04 + 0.05), near(0.8 + 0.04))  # epochs 3, 5, 7
    assert found.phase_1["train_accuracy"] == (near(0.81), near(0.81))
    assert noted(found, "tasks share one first phase")


@pytest.fixture
def store_path(tmp_path: Path) -> str:
    """Six seeds of a plain and an nc1 arm, as warm-start runs are stored, with a probe run of each."""
    path = str(tmp_path / "a.db")
    with open_store(path) as store:
        for seed in range(6):
            for kind, interventions in (("a", []), ("b", [NC1])):
                parent = f"{kind}{seed:011x}"
                settings = {"lr": 0.05, "weight_decay": 0.0, "interventions": interventions, "warm_up_epochs": 20}
                info = RunInfo(parent, "{}", "warm-start", seed, settings, {"warm_up_epochs": 20}, 20)
                probe = RunInfo(f"{kind}f{seed:010x}", "{}", "warm-start", seed, settings, {}, 2, {}, parent, 5)
                for what in (info, probe):
                    store.register(what)
                    attempt = store.claim([what.id], Owner.current(), {})[what.id]
                    draw = np.random.default_rng([seed, kind == "a"])
                    for epoch in range(21 if what is info else 3):
                        learned = min(0.95, 0.1 + 0.05 * (epoch if kind == "a" else max(epoch - 5, 0)))
                        values = {Address("train_accuracy"): learned, Address("nc1"): 9.0 / (1 + epoch),
                                  Address("test_accuracy"): learned}  # fmt: skip
                        if what is info and epoch % 5 == 0:
                            values[Address("probe_test_accuracy")] = 0.7 - 0.1 * learned + 1e-3 * draw.normal()
                            values[Address("probe_epochs_to_fit")] = 10.0
                            values[Address("probe_cap_hit")] = 0.0
                        store.save([(what.id, attempt, EpochRecord(epoch, 0, epoch, 0, 0.0, 0.0, values))])
                    store.finish(what.id, attempt, "finished")
    return path


def test_the_command_over_warm_start_runs(store_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", "--db", store_path, "--json"]) == 0
    text = capsys.readouterr().out
    (found,) = json.loads(text)["comparisons"]
    assert (found["scenario"], found["y"], found["plain"]) == ("warm-start", "probe_test_accuracy", "plain")
    (ours,) = found["arms"]
    assert ours["gain"]["n_seeds"] == 6 and ours["gain"]["p_sign_flip"] == 2 / 64
    assert ours["gain"]["mean"] == pytest.approx(0.02125, abs=2e-3)
    assert ours["phase_1"]["train_accuracy"]["plain"] == near(0.95) and ours["phase_1_failed"]
    assert abs(ours["matched"]["mean"]) < 2e-3 and ours["matched"]["pairs"] == 6 * 3
    assert call(["compare", "--db", store_path, "--json"]) == 0 and capsys.readouterr().out == text
    assert call(["compare", "--db", store_path]) == 0
    out = capsys.readouterr().out
    assert NC1 in out and "Phase 1 failed in 6 of 6 seeds" in out and "most of the gain is gone" in out
    assert call(["compare", "--db", store_path, "--y", "test_accuracy", "--json"]) == 0
    (other,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert other["y"] == "test_accuracy" and other["arms"][0]["gain"]["mean"] == pytest.approx(-0.22, abs=0.02)
    assert call(["compare", "--db", store_path, "--plain", "nobody"]) == 2
    assert "there is nothing to compare" in capsys.readouterr().err


# as a stranger types it -------------------------------------------------------------------------------------------


def test_two_lines_of_training_give_a_gain_with_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["train", "permuted-digits", "--seeds", "0-2", "--tasks", "4", "--train-samples", "200"]
    assert call(line) == 0 and call([*line, "--intervention", "l2_init:strength=0.01"]) == 0
    capsys.readouterr()
    assert call(["compare", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (found["scenario"], found["y"], found["plain"]) == ("permuted-digits", "online_accuracy", "plain")
    with open_store("ncpl.db") as store:
        frame = store.frame()
    later = frame[(frame["task"] > 0) & (frame["split"] == "train") & (frame["layer"] == "last")]
    means = {run: part["online_accuracy"].mean() for run, part in later.groupby("run")}
    with open_store("ncpl.db") as store:
        arms = {(bool(row.settings["interventions"]), row.seed): means[row.id] for row in store.runs()}
    d = np.array([arms[True, s] - arms[False, s] for s in range(3)])
    gain = found["arms"][0]["gain"]
    assert gain["mean"] == near(d.mean())
    assert gain["ci95"] == near(list(stats.t.interval(0.95, 2, d.mean(), stats.sem(d))))
    assert call(["compare"]) == 0 and "nothing is paired" not in capsys.readouterr().out


def test_no_answer_is_an_error_that_says_what_to_run(store_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", "--db", store_path, "--y", "nc2"]) == 2
    assert "nc2 was not recorded in these runs" in (err := capsys.readouterr().err) and "probe_test_accuracy" in err
    assert call(["compare", "--db", store_path, "--plain", "nobody"]) == 2
    assert "no run here carries that label" in capsys.readouterr().err


def nothing(study: list[Series]) -> InputError:
    with pytest.raises(InputError) as caught:
        compare(Study(tuple(study)))
    return caught.value


def test_nothing_to_compare_names_the_setting_that_differs() -> None:
    plain = arm([], 2, lambda s: noise(s), rising)
    one = nothing(plain)
    assert "all runs are of one arm" in str(one) and "--intervention" in str(one.hint)
    rates = nothing([*plain, *arm([], 2, lambda s: noise(s), rising, lr=0.1)])
    assert (
        "The runs differ in lr: 0.05, 0.1." in str(rates) and rates.hint == "compare them by that: ncpl compare --by lr"
    )
    other = nothing([*plain, *arm([NC1], 2, lambda s: noise(s), rising, lr=0.1)])
    assert f"{NC1} has no plain arm of its own settings: the nearest differs in lr: 0.1 against 0.05." in str(other)
    assert max(map(len, (str(one), str(rates), str(other)))) < 200


def test_an_arm_without_a_plain_arm_and_one_without_a_run_are_named() -> None:
    study = [*arm([], 2, lambda s: noise(s), rising), *arm(["redo"], 2, lambda s: 0.1 + noise(s), rising),
             *arm([NC1], 2, lambda s: noise(s), rising, lr=0.1),
             *arm(["l2:strength=9"], 2, lambda s: noise(s), rising, status="diverged")]  # fmt: skip
    (found,) = compare(Study(tuple(study)))
    assert [a.arm for a in found.arms] == ["redo"]
    assert any(f"Not compared: {NC1} has no plain arm" in n and "lr: 0.1 against 0.05" in n for n in found.notes)
    assert any("Not compared: l2:strength=9" in n and "all its runs diverged" in n for n in found.notes)


def test_arms_probed_otherwise_are_compared_where_both_were_and_that_is_said() -> None:
    def probed(interventions: list[str], every: int, shift: float) -> list[Series]:
        epoch = np.arange(every, 41.0, every)
        return [
            Series.of(
                Run(f"{shift}{s}", s, "warm-start", settings={"interventions": interventions, "probe_every": every}),
                epoch, np.zeros(len(epoch)), epoch, {"probe_test_accuracy": 0.01 * epoch + shift},
            )
            for s in range(2)
        ]  # fmt: skip

    found = only([*probed([], 10, 0.0), *probed([NC1], 20, 0.05)])
    assert found.gain.mean == near(0.05) and noted(found, "(probe_every: 20 against 10): compared is what both have")


def test_settings_outside_identity_are_those_that_scenarios_declare() -> None:
    from dataclasses import fields

    from ncpl_cli.analysis.study import NOT_IDENTITY
    from ncpl_cli.scenarios import SCENARIOS

    declared = {
        f.name for s in SCENARIOS for f in fields(s) if not f.metadata["identity"] and f.name != s.horizon_field
    }
    assert declared == NOT_IDENTITY


def test_a_stored_run_asked_for_with_other_probes_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--dataset", "digits", "--network", "mlp", "--train-samples", "100", "--warm-up-epochs", "2",
            "--probe-max-epochs", "1", "--db", str(tmp_path / "a.db"), "--probe-every"]  # fmt: skip
    assert call(["train", "warm-start", *line, "1"]) == 0
    assert "as stored" not in capsys.readouterr().err
    assert call(["train", "warm-start", *line, "2", "--measure-every", "2"]) == 0
    err = capsys.readouterr().err
    assert "probe_every: 1 as stored, 2 as asked for" in err and "measure_every: 1 as stored, 2 as asked for" in err
