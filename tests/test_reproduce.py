"""`reproduce`: the study's declaration, every measure on series made by hand, verdicts, and one part for real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ncpl_cli.analysis import Run, Series, claims
from ncpl_cli.analysis.claims import AGREES, DIFFERS, MEASURES, UNDECIDED, Finding, judge, lacking, verdict
from ncpl_cli.commands.reproduce import arms_of
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.studies import STUDIES, Claim, Part, PublishedStudy, arm_label, label, study_named
from tests.test_train import ncpl

ALL = [(study, part) for study in map(study_named, STUDIES) for part in study.parts]
IDS = [f"{study.id}-{part.id}" for study, part in ALL]


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-10)


def claim(**given: Any) -> Claim:
    about = {"id": "c", "says": "s", "measure": "task_value", "options": {"arm": "plain"}, "published": 1.0,
             "source": "p", "accept": (0.9, 1.1), "reason": "r"}  # fmt: skip
    return Claim(**{**about, **given})


def tasks(seed: int, online: Sequence[Sequence[float]], nc1: Sequence[float], **settings: Any) -> Series:
    """A run of tasks: online accuracies by task and epoch, nc1 at each task's end."""
    task = np.concatenate([np.full(len(epochs), i) for i, epochs in enumerate(online)])
    within = np.concatenate([np.arange(1, len(epochs) + 1) for epochs in online])
    flat = np.concatenate([np.asarray(epochs, dtype=float) for epochs in online])
    last = np.flatnonzero(np.r_[np.diff(task) != 0, True])
    collapse = np.full(len(flat), 0.5)
    collapse[last] = nc1
    nothing = np.full(len(flat), np.nan)
    columns = {"online_accuracy": flat, "nc1": collapse, "plasticity_loss": nothing, "plasticity_loss_b24": nothing}
    run = Run(f"{seed}{settings}", seed, "permuted-mnist", settings={"dataset": "mnist", "network": "mlp", **settings})
    return Series.of(run, np.arange(1, len(flat) + 1), task, within, columns)


def warm(seed: int, probe: np.ndarray, learned: float, treated: bool = False) -> Series:
    """A warm start with a probe every fifth epoch."""
    epoch = np.arange(5.0, 5 * len(probe) + 1, 5)
    settings = {"interventions": ["nc1"] if treated else [], "dataset": "cifar10", "network": "resnet18"}
    columns = {"probe_test_accuracy": probe, "nc1": probe[::-1] ** 2, "train_accuracy": np.full(len(probe), learned)}
    run = Run(f"{seed}{treated}", seed, "warm-start", settings=settings)
    return Series.of(run, epoch, 0 * epoch, epoch, columns)


# the declaration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("study", "part"), ALL, ids=IDS)
def test_a_part_is_complete(study: PublishedStudy, part: Part) -> None:
    assert set(part.plans) == {"smoke", "laptop", "full"}
    assert part.claims and len({c.id for c in part.claims}) == len(part.claims)
    for one in part.claims:
        assert one.measure in MEASURES
        assert one.source and one.reason and any(bound is not None for bound in one.accept)
        arms = [one.options[key] for key in ("arm", "plain") if key in one.options]
        assert set(arms) <= set(part.plans["full"].arms)


@pytest.mark.parametrize(("study", "part"), ALL, ids=IDS)
def test_the_smoke_scale_needs_no_download_and_its_settings_are_options(study: PublishedStudy, part: Part) -> None:
    plan = part.plans["smoke"]
    arms = arms_of(study.id, part, "smoke", None, None)
    assert all(spec.dataset.name == "digits" for arm in arms for spec in arm.specs)
    assert [arm.label for arm in arms] == [arm_label(study.id, part, "smoke", name) for name in plan.arms]


def test_an_unknown_name_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="bonifazi2023"):
        study_named("bonifazi2023")
    assert call(["reproduce", "bonifazi2024", "--part", "permute"]) == 2
    assert "'permuted'" in capsys.readouterr().err
    assert call(["reproduce", "bonifazi2024", "--scale", "huge"]) == 2
    assert "known: full, laptop, smoke" in capsys.readouterr().err


def test_list_names_every_part_and_scale(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["reproduce", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["studies"]
    assert {(row["part"], row["scale"]) for row in listed} == {
        (part.id, scale) for _, part in ALL for scale in part.plans
    }
    assert all(row["runs"] > 0 and row["claims"] > 0 for row in listed)


# verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "ci95", "expected"),
    [
        (1.0, (0.5, 1.5), AGREES),
        (1.0, None, AGREES),
        (1.2, None, DIFFERS),
        (1.2, (1.15, 1.25), DIFFERS),
        (0.8, (0.7, 0.85), DIFFERS),
        (1.2, (1.05, 1.35), UNDECIDED),
    ],
)
def test_a_verdict(value: float, ci95: tuple[float, float] | None, expected: str) -> None:
    assert verdict(claim(), Finding(value, ci95, 5))[0] == expected


@pytest.mark.parametrize(
    ("ci95", "expected"),
    [((0.01, 0.2), AGREES), ((-0.01, 0.2), UNDECIDED), ((-0.2, -0.01), DIFFERS), (None, UNDECIDED)],
)
def test_a_direction_must_be_certain(ci95: tuple[float, float] | None, expected: str) -> None:
    assert verdict(claim(accept=(0.0, None), certain=True), Finding(0.1, ci95, 5))[0] == expected


def test_nothing_is_decided_below_what_a_claim_needs() -> None:
    needs = {"dataset": "mnist", "tasks": 3, "runs": 2, "network": "mlp"}
    enough = [tasks(seed, [[0.5]] * 3, [0.2] * 3) for seed in range(2)]
    assert lacking(claim(needs=needs), {"plain": enough}) == ""
    assert lacking(claim(needs=needs), {"plain": enough[:1]}) == "it needs 2 runs an arm (here: 1)"
    few = [tasks(seed, [[0.5]] * 2, [0.2] * 2, dataset="digits") for seed in range(2)]
    said = lacking(claim(needs=needs), {"plain": few})
    assert said == "it needs dataset mnist (here: digits), 3 tasks (here: 2)"
    assert lacking(claim(), {}) == "the arm plain is not part of this scale"
    (judged,) = judge([claim(needs=needs, options={"arm": "plain", "metric": "nc1", "task": 0})], {"plain": few})
    assert (judged.verdict, judged.why, judged.finding and judged.finding.value) == (UNDECIDED, said, near(0.2))


# measures ----------------------------------------------------------------------------------------------------------


def test_r_of_means_against_numpy_with_a_jackknife_over_runs() -> None:
    draw = np.random.default_rng(0)
    drift = np.linspace(0, 1, 30)
    x, y = 0.2 + 0.05 * drift + draw.normal(0, 0.02, (5, 30)), 0.9 - 0.05 * drift + draw.normal(0, 0.02, (5, 30))
    runs = [tasks(seed, y[seed][:, None].tolist(), x[seed].tolist()) for seed in range(5)]
    found = MEASURES["r_of_means"]({"plain": runs}, {"arm": "plain", "x": "nc1", "y": "online_accuracy"})
    assert found is not None

    def r(kept: list[int]) -> float:
        return float(np.corrcoef(x[kept].mean(0), y[kept].mean(0))[0, 1])

    whole, left = r(list(range(5))), [r([i for i in range(5) if i != out]) for out in range(5)]
    pseudo = 5 * np.arctanh(whole) - 4 * np.arctanh(left)
    interval = np.tanh(stats.t.interval(0.95, 4, np.arctanh(whole), stats.sem(pseudo)))
    assert found.value == near(whole)
    assert found.ci95 == pytest.approx(tuple(interval))
    single = [float(np.corrcoef(x[i], y[i])[0, 1]) for i in range(5)]
    assert found.beside["mean r of single runs"] == near(np.mean(single))
    assert abs(found.value) > abs(found.beside["mean r of single runs"])  # averaging raises r by itself


def test_task_values_are_means_over_runs() -> None:
    runs = [tasks(seed, [[0.5, 0.7], [0.6 + seed / 10]], [0.3, 0.2]) for seed in range(3)]
    found = MEASURES["task_value"]({"plain": runs}, {"arm": "plain", "metric": "online_accuracy", "task": 1})
    assert found is not None and found.value == near(0.7)
    assert MEASURES["task_value"]({"plain": runs}, {"arm": "plain", "metric": "nc1", "task": 2}) is None


def test_the_effect_of_a_longer_first_task_by_both_definitions() -> None:
    short = [tasks(seed, [[0.9], [0.88], [0.88]], [0.3] * 3) for seed in range(3)]
    long = [tasks(seed, [[0.9, 0.96], [0.87], [0.87]], [0.3] * 3, first_task_epochs=2) for seed in range(3)]
    arms = {"1 epoch": short, "2 epochs": long}
    published = MEASURES["first_task_effect"](arms, {"epochs": 2, "metric": "plasticity_loss_b24"})
    ours = MEASURES["first_task_effect"](arms, {"epochs": 2, "metric": "plasticity_loss"})
    share = MEASURES["averaging_share"](arms, {"epochs": 2})
    assert published is not None and ours is not None and share is not None
    assert published.value == near((0.93 - 0.87) - (0.9 - 0.88))
    assert ours.value == near((0.9 - 0.87) - (0.9 - 0.88))
    assert share.value == near(1 - 0.01 / 0.04)


def test_thresholds_correlate_over_runs_and_given_the_first_accuracy() -> None:
    draw = np.random.default_rng(1)
    runs, table = [], []
    for seed in range(5):
        for epochs in (1, 3, 6):
            nc1, after = 0.25 - 0.01 * epochs + draw.normal(0, 0.003), 0.92 - 0.003 * epochs + draw.normal(0, 0.002)
            first = (0.9 + 0.01 * np.arange(epochs) + draw.normal(0, 0.002, epochs)).tolist()
            runs.append(tasks(seed, [first, [after]], [nc1, 0.3], first_task_nc1=0.2))
            table.append((epochs, nc1, np.mean(first), after))
    x = np.array(table)
    arms = {"a": runs, "not a threshold": [tasks(9, [[0.1], [0.1]], [9, 9])]}
    amount = MEASURES["threshold_r"](arms, {"x": "first_task_epochs"})
    held = MEASURES["threshold_r"](arms, {"x": "nc1", "given": "accuracy on task 0"})
    assert amount is not None and held is not None
    assert (amount.value, amount.runs) == (near(np.corrcoef(x[:, 0], x[:, 3])[0, 1]), 15)
    left = [np.polyval(np.polyfit(x[:, 2], x[:, i], 1), x[:, 2]) - x[:, i] for i in (1, 3)]
    assert held.value == near(np.corrcoef(left[0], left[1])[0, 1])
    assert held.ci95 is not None and held.ci95[0] < held.value < held.ci95[1]


def test_probes_windows_and_gains() -> None:
    draw = np.random.default_rng(2)
    plain = [warm(seed, 0.6 - 0.0005 * np.arange(40) + draw.normal(0, 0.001, 40), 0.95) for seed in range(4)]
    treated = [warm(seed, 0.62 + draw.normal(0, 0.001, 40), 0.1, treated=True) for seed in range(4)]
    arms = {"plain": plain, "regularised": treated}
    both = {"arm": "regularised", "plain": "plain"}
    values = [s.column("probe_test_accuracy") for s in plain]
    change = MEASURES["probe_change"](arms, {"arm": "plain"})
    assert change is not None and change.value == near(np.mean([v[-1] - v[0] for v in values]))
    first = MEASURES["window_r"](arms, {"arm": "plain", "window": 100, "which": "first"})
    expected = np.mean([np.corrcoef(v[:20], v[::-1][:20] ** 2)[0, 1] for v in values])
    assert first is not None and first.value == near(expected)
    gain = MEASURES["gain"](arms, both)
    others = [s.column("probe_test_accuracy") for s in treated]
    assert gain is not None
    assert gain.value == near(np.mean([np.mean(a - b) for a, b in zip(others, values, strict=True)]))
    assert MEASURES["matched_gain"](arms, both) is None  # no plain network had learned so little
    share = MEASURES["failed_share"](arms, both)
    assert share is not None and share.value == 1


def test_a_measure_of_nothing_is_nothing() -> None:
    for study, part in ALL:
        for one in part.claims:
            assert claims.MEASURES[one.measure]({}, one.options) is None, (study.id, one.id)


# for real ----------------------------------------------------------------------------------------------------------


def test_a_part_runs_judges_and_is_not_run_again(tmp_path: Path) -> None:
    given = ["reproduce", "bonifazi2024", "--part", "permuted", "--seeds", "0", "--jobs", "1",
             "--db", str(tmp_path / "a.db"), "--json"]  # fmt: skip
    (first,) = json.loads(ncpl(*given, cwd=tmp_path).stdout)["parts"]
    assert first["sweep"]["finished"] == 1
    by_id = {one["claim"]: one for one in first["claims"]}
    assert by_id["r-over-tasks"]["verdict"] == UNDECIDED and -1 < by_id["r-over-tasks"]["value"] < 1
    assert 0.5 < by_id["accuracy-task-0"]["value"] < 1
    (again,) = json.loads(ncpl(*given, cwd=tmp_path).stdout)["parts"]
    assert (again["sweep"]["skipped"], again["sweep"]["finished"]) == (1, 0)
    assert again["claims"] == first["claims"]
    target = tmp_path / "r.json"
    name = label("bonifazi2024", study_named("bonifazi2024").part("permuted"), "smoke")
    assert call(["report", "--db", str(tmp_path / "a.db"), "--name", name, "-o", str(target)]) == 0
    overview = json.loads(target.read_text())["sections"][0]["blocks"]
    table = next(block for block in overview if block.get("id") == "overview-claims")
    ours = {row[0]: row[3] for row in table["rows"]}
    assert ours[by_id["r-over-tasks"]["says"]] == by_id["r-over-tasks"]["value"]


def test_a_part_without_its_data_is_not_decided_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "reproduce",
        "bonifazi2024",
        "--part",
        "permuted",
        "--seeds",
        "0",
        "--db",
        str(tmp_path / "a.db"),
        "--json",
    ]
    assert call([*given, "--data", f"permuted=folder:{tmp_path / 'nothing'}"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["parts"]
    assert part["data"].startswith("folder:") and part["sweep"] is None
    for one in part["claims"]:
        assert one["verdict"] == UNDECIDED and one["value"] is one["ci95"] is None
        assert "its data are not here" in one["why"] and "in place of the study's own data set" in one["caveat"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("permuted", "PART=DATASET"), ("permute=digits", "permuted"), ("permuted=digit", "digits"),
     ("warm-start=digits", "not among those that are run")],
)  # fmt: skip
def test_data_for_a_part_is_checked(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["reproduce", "bonifazi2024", "--part", "permuted", "--db", str(tmp_path / "a.db")]
    assert call([*given, "--data", text]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "a.db").exists()


def test_runs_on_other_data_are_told_apart_by_their_labels() -> None:
    part = study_named("bonifazi2024").part("permuted")
    other = part.on("folder:a/b")
    assert label("s", other, "full") == "s-permuted-full-on-folder:a/b" != label("s", part, "full")
    assert all(plan.settings["dataset"] == "folder:a/b" for plan in other.plans.values())
    labels = {"s-permuted-full-on-folder:a/b", "s-permuted-full-on-folder:a/b/plain", "s-permuted-smoke"}
    assert part.among("s", "full", labels, ["mnist", "folder:a/b"]) == [other]
    assert part.among("s", "smoke", labels, ["mnist", "folder:a/b"]) == [part]
