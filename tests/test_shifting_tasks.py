"""Tasks whose labels, numbers, values or images shift: right targets and streams by brute force, and refusals."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ncpl_cli import analysis, rng, runs, settings
from ncpl_cli.data import Dataset, load
from ncpl_cli.data.shifts import DOMAIN, SHIFTS, shifted
from ncpl_cli.errors import InputError
from ncpl_cli.metrics.forgetting import task_accuracy
from ncpl_cli.objectives import CrossEntropy
from ncpl_cli.plan import plan
from ncpl_cli.records import Address
from ncpl_cli.scenarios import scenario_named, shown_by, task_of
from ncpl_cli.scenarios.shuffled_labels import ShuffledLabels
from ncpl_cli.settings import asked
from ncpl_cli.spec import DatasetSpec, RunSpec
from ncpl_cli.store import open_store
from ncpl_cli.trainer import Start, build, train
from tests.test_sweep import Silent

SMALL: dict[str, Any] = {
    "dataset": "digits", "train_samples": 64, "width": 8, "depth": 1, "batch_size": 16, "precision": "float64",
    "metrics": ("train_loss", "unexplained_variance"),
}  # fmt: skip


def spec_of(scenario: str, seed: int = 1, **more: Any) -> tuple[RunSpec, Dataset]:
    given = SMALL | more
    kind = scenario_named(scenario)
    dataset = settings.dataset_spec(kind, given)
    data = load(dataset)
    return settings.specs(kind, given, data, dataset, [seed])[0], data


def ended(spec: RunSpec, data: Dataset, start: Start | None = None) -> dict[str, Any]:
    """Every parameter after the last epoch."""
    (cohort,) = plan([spec], "cpu")
    for epoch in train(cohort, data, start):
        last = epoch
    return {name: value.numpy().copy() for name, value in last.state()[0].items()}


# labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["permute", "uniform"])
def test_a_share_of_the_labels_changes_and_the_chain_is_the_same_from_wherever_it_is_asked(
    digits: Dataset, draw: str
) -> None:
    scenario = ShuffledLabels.of({"share": 0.1, "draw": draw})
    tasks = [scenario.task(i, digits, 3) for i in range(6)]
    count = round(0.1 * len(digits.train))
    labels = tasks[0].train_labels
    for i, task in enumerate(tasks[1:], 1):
        stream = rng.stream(3, "relabelled share", "train", i)
        chosen = stream.choice(len(labels), count, replace=False)
        expected = labels.copy()
        expected[chosen] = stream.integers(0, 10, count) if draw == "uniform" else labels[stream.permutation(chosen)]
        assert np.array_equal(task.train_labels, expected)
        assert 0 < (task.train_labels != labels).sum() <= count and task.changes
        labels = task.train_labels
        assert draw == "uniform" or Counter(labels.tolist()) == Counter(digits.train.labels.tolist())
    for index in (5, 2, 4, 0):  # out of order, and of another seed in between
        scenario.task(3, digits, 4)
        assert np.array_equal(scenario.task(index, digits, 3).train_labels, tasks[index].train_labels)
        assert np.array_equal(scenario.task(index, digits, 3).test_labels, tasks[index].test_labels)


def test_the_first_labelling_is_one_for_all_shares_and_share_0_keeps_it(digits: Dataset) -> None:
    first = [ShuffledLabels.of({"share": s}).task(0, digits, 5).train_labels for s in (0.0, 0.01, 0.5, 1.0)]
    assert all(np.array_equal(first[0], other) for other in first)
    still = ShuffledLabels.of({"share": 0.0}).task(7, digits, 5)
    assert np.array_equal(still.train_labels, first[0]) and not still.changes
    uniform = ShuffledLabels.of({"draw": "uniform"}).task(2, digits, 5).train_labels
    assert np.array_equal(uniform, rng.stream(5, "uniform labels", "train", 2).integers(0, 10, len(digits.train)))


def test_a_clock_of_change_gives_every_unit_the_same_change_and_one_protocol_one_identity() -> None:
    def made(**given: Any) -> ShuffledLabels:
        return ShuffledLabels.of({"tasks": 8, "epochs": (100,), "clock": "change", **given})

    assert made(share=0.01) == ShuffledLabels.of({"tasks": 800, "epochs": (1,), "share": 0.01})
    assert made(share=0.1) == ShuffledLabels.of({"tasks": 80, "epochs": (10,), "share": 0.1})
    assert made(share=0.0) == ShuffledLabels.of({"tasks": 8, "epochs": (100,), "share": 0.0})
    assert made() == ShuffledLabels.of({"tasks": 8, "epochs": (100,)})
    assert made(transition="soft:0.25") == ShuffledLabels.of({"tasks": 32, "epochs": (25,), "transition": "soft:0.25"})
    uneven = made(tasks=2, epochs=(20, 10), share=0.5)
    assert [uneven.task_epochs(i) for i in range(uneven.tasks)] == [10, 10, 5, 5]


def test_soft_labels_move_by_a_step_from_one_labelling_to_the_next(digits: Dataset) -> None:
    scenario = ShuffledLabels.of({"transition": "soft:0.25"})
    anchors = [ShuffledLabels.of({}).task(i, digits, 2).train_labels for i in range(3)]
    for index in range(9):
        task, (begun, moved) = scenario.task(index, digits, 2), divmod(index, 4)
        one_hot = np.eye(10)
        expected = (1 - moved / 4) * one_hot[anchors[begun]] + moved / 4 * one_hot[anchors[min(begun + 1, 2)]]
        order = task.order(1)
        shown = task.asked_of(order)
        assert np.allclose(shown if shown.ndim == 2 else one_hot[shown], expected[order])
        assert np.array_equal(task.train_labels, anchors[begun + (moved >= 2)])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_soft_label_of_one_class_is_its_label(smoothing: float) -> None:
    one, draw = CrossEntropy(smoothing), torch.Generator().manual_seed(0)
    out, labels = torch.randn(3, 5, 4, dtype=torch.float64, generator=draw), torch.randint(5, (3, 4), generator=draw)
    soft = torch.nn.functional.one_hot(labels, 5).transpose(1, 2).double()
    assert torch.allclose(one.losses(out, soft, 1), one.losses(out, labels, 1))
    assert torch.allclose(one.residual(out, soft, 1), one.residual(out, labels, 1))
    assert torch.equal(one.right(out, soft, 1), one.right(out, labels, 1))  # type: ignore[arg-type]
    mixed = torch.rand(3, 5, 4, dtype=torch.float64, generator=draw)
    mixed /= mixed.sum(1, keepdim=True)
    leaf = out.clone().requires_grad_()
    (slope,) = torch.autograd.grad(one.losses(leaf, mixed, 1).sum(), leaf)
    residual, kept = torch.empty_like(out), torch.empty_like(out)
    one.step(out, mixed, residual, kept)
    assert torch.allclose(one.residual(out, mixed, 1), slope) and torch.allclose(residual, slope)


def descend(steps: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    steps.zero_grad()
    loss.backward()
    steps.step()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])  # the step by hand and the one by autograd
def test_soft_labels_are_trained_on_as_a_plain_loop_does(optimizer: str) -> None:
    spec, data = spec_of("shuffled-labels", optimizer=optimizer, lr=0.01, tasks=2, epochs=2, transition="soft:0.5")
    network = build(spec, data)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    steps: Any = kind(network.parameters(), lr=0.01)
    images = torch.from_numpy(data.train.images / data.scale)
    for index in range(2):
        task = task_of(spec, index, data)
        for epoch in (1, 2):
            for rows in np.split(task.order(epoch), 4):
                shown = task.asked_of(rows)
                shares = torch.from_numpy(shown if shown.ndim == 2 else np.eye(10)[shown])
                loss = torch.nn.functional.cross_entropy(network(images[rows]), shares)
                descend(steps, loss)
    found = ended(spec, data)
    for name, value in network.state_dict().items():
        assert np.allclose(found[f"network.{name}"], value.numpy(), rtol=1e-9, atol=1e-12), name


# numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refit", ["zero", "same", "recentred"])
def test_target_scale_is_what_a_plain_loop_of_two_phases_does(refit: str) -> None:
    given = {"offset": 7.0, "scale": 2.0, "refit": refit, "pretrain_epochs": 3, "refit_epochs": 2, "depth": 2}
    spec, data = spec_of("target-scale", lr=0.01, **given)
    network = build(spec, data)
    images = torch.from_numpy(data.train.images / data.scale)
    for phase, epochs in enumerate((3, 2)):
        mean, deviation = (7.0, 2.0) if phase == 0 or refit == "same" else (0.0, 1.0)
        numbers = mean + deviation * rng.stream(1, "targets", phase, "train").standard_normal((64, 1))
        if phase and refit == "recentred":
            with torch.no_grad():
                network.classifier.bias -= network(images).mean(0)
        steps = torch.optim.Adam(network.parameters(), lr=0.01)  # a new one
        for epoch in range(1, epochs + 1):
            for rows in np.split(task_of(spec, phase, data).order(epoch), 4):
                loss = (network(images[rows]) - torch.from_numpy(numbers[rows])).square().mean()
                descend(steps, loss)
    found = ended(spec, data)
    for name, value in network.state_dict().items():
        assert np.allclose(found[f"network.{name}"], value.numpy(), rtol=1e-8, atol=1e-10), name
    (cohort,) = plan([spec], "cpu")
    *_, last = train(cohort, data)
    record = last.records[0]
    assert record is not None
    error = float((network(images) - torch.from_numpy(numbers)).square().mean().detach())
    assert record.values[Address("unexplained_variance")] == pytest.approx(error / numbers.var(), rel=1e-8)
    assert record.values[Address("train_loss")] == pytest.approx(error, rel=1e-8)


def test_sines_spread_as_normal_numbers_do_and_belong_to_the_image(digits: Dataset) -> None:
    scenario = scenario_named("target-scale").of({"spread": "sine", "offset": 3.0})
    first, second = (scenario.task(i, digits, 0).targets["train"][:, 0] for i in (0, 1))
    assert first.mean() == pytest.approx(3, abs=0.1) and first.var() == pytest.approx(1, abs=0.1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1 and second.mean() == pytest.approx(0, abs=0.1)
    twice = replace(digits, test=digits.train)
    task = scenario.task(0, twice, 0)
    assert np.array_equal(task.targets["train"], task.targets["test"])


def test_value_iteration_is_what_a_plain_loop_with_a_copy_does() -> None:
    spec, data = spec_of("value-iteration", gamma=0.9, tasks=3, target_every=6, lr=0.01)
    network = build(spec, data)
    images, labels = torch.from_numpy(data.train.images / data.scale), data.train.labels
    steps = torch.optim.Adam(network.parameters(), lr=0.01)
    for index in range(3):
        with torch.no_grad():
            best = network(images).max(1).values
        draw = rng.stream(1, "transitions", index)
        action, following = draw.integers(0, 10, 96), draw.integers(0, 64, 96)
        shown = task_of(spec, index, data).order(1)
        assert len(shown) == 96 and len(set(shown[:64])) == 64  # every image once before any comes again
        for at in range(0, 96, 16):
            rows, a, s = shown[at : at + 16], action[at : at + 16], following[at : at + 16]
            target = torch.from_numpy((labels[rows] == a).astype(float)) + 0.9 * best[s]
            loss = (network(images[rows])[torch.arange(16), a] - target).square().mean()
            descend(steps, loss)
    found = ended(spec, data)
    for name, value in network.state_dict().items():
        assert np.allclose(found[f"network.{name}"], value.numpy(), rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize(
    ("scenario", "given"),
    [
        ("target-scale", {"pretrain_epochs": 2, "refit_epochs": 3, "offset": 4.0, "refit": "recentred"}),
        ("value-iteration", {"tasks": 5, "target_every": 3}),
        ("domains", {"tasks": 3, "epochs": 2}),
    ],
)
def test_a_run_goes_on_to_the_same_bits_wherever_it_stopped(scenario: str, given: dict[str, Any]) -> None:
    spec, data = spec_of(scenario, **given)
    (cohort,) = plan([spec], "cpu")
    whole = ended(spec, data)
    history: list[tuple[int, int, float]] = []
    for epoch in train(cohort, data):
        record = epoch.records[0]
        assert record is not None
        if epoch.position.epoch:
            history.append((record.task, record.task_epoch, record.get("online_accuracy") or np.nan))
        if epoch.position.epoch in (2, 3, 4):
            again = ended(spec, data, Start(epoch.position, epoch.state(), [list(history)]))
            assert again.keys() == whole.keys() and all(np.array_equal(again[name], whole[name]) for name in whole)


def test_a_longer_refit_goes_on_where_the_shorter_one_ended(tmp_path: Path) -> None:
    found = []
    for lengths in ((4,), (2, 4)):
        with open_store(f"{tmp_path}/{len(lengths)}.db") as store:
            for epochs in lengths:
                spec, data = spec_of("target-scale", pretrain_epochs=2, refit_epochs=epochs)
                runs.run([spec], store, data, device="cpu", observer=Silent(), jobs=1)
            found.append([row["train_loss"] for row in store.rows(spec.id)])
            assert store.last_epoch(spec.id) == 6
    assert found[0] == found[1]


def test_an_offset_probe_counts_from_the_networks_own_mean_and_goes_on_within(tmp_path: Path) -> None:
    spec, data = spec_of(
        "value-iteration", tasks=2, target_every=40, lr=0.02, probe=["offset:around=prediction,epochs=3"]
    )
    with open_store(str(tmp_path / "a.db")) as store:
        runs.run([spec], store, data, device="cpu", observer=Silent(), jobs=1)
        row = next(one for one in store.runs(parent=spec.id) if one.branch_epoch == 2)
        values = store.values(spec.id, 2)
        assert row.settings["around"] == "prediction"
        assert values[Address("probe_unexplained_variance")] == pytest.approx(
            values[Address("probe_train_loss")], rel=0.2
        )
        fresh = store.values(spec.id, 0)
        gap = values[Address("probe_train_loss")] - fresh[Address("probe_train_loss")]
        assert values[Address("probe_gap")] == pytest.approx(gap)
        probe = settings.from_row(row, data)
    network = build(probe, data)
    with torch.no_grad():
        network.classifier.bias += 50
    (cohort,) = plan([probe], "cpu")
    weights = [dict(network.state_dict())]
    epochs = list(train(cohort, data, None, weights))
    task = task_of(probe, 0, data)
    assert task.of_outputs is not None
    mean = float(network(torch.from_numpy(data.train.images / data.scale)).mean().detach())
    assert task.of_outputs(task, np.full((64, 10), mean)).targets["train"].mean() == pytest.approx(mean, abs=0.2)
    record = epochs[-1].records[0]
    assert record is not None and record.values[Address("train_loss")] < 5  # it never had to unlearn its 50
    again = iter(train(cohort, data, None, weights))
    next(again)
    stopped = next(again)
    start = Start(stopped.position, stopped.state(), [[(0, 1, np.nan)]])
    last = list(train(cohort, data, start))[-1]
    assert all(torch.equal(value, last.state()[0][name]) for name, value in epochs[-1].state()[0].items())


# images ------------------------------------------------------------------------------------------------------------


def test_the_ten_shifts_by_hand() -> None:
    images = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    by_hand = {
        "invert": [[10, 9, 8], [7, 6, 5], [4, 3, 2]],
        "right": [[0, 0, 1], [0, 3, 4], [0, 6, 7]],
        "down": [[0, 0, 0], [0, 1, 2], [3, 4, 5]],
        "bright": [[3, 4, 5], [6, 7, 8], [9, 10, 10]],
        "dark": [[0, 0, 1], [1, 2, 2], [2, 3, 3]],
        "turn": [[2, 5, 8], [1, 4, 7], [0, 3, 6]],
        "mirror": [[2, 1, 0], [5, 4, 3], [8, 7, 6]],
        "contrast": [[4, 4, 4], [4, 5, 5], [5, 6, 6]],
        "blur": [[1, 2, 3], [3, 4, 5], [5, 6, 7]],
        "none": images[0, 0].tolist(),
    }
    for name, expected in by_hand.items():
        found = shifted(images, 10.0, name)
        assert found.dtype == np.uint8 and found[0, 0].tolist() == expected, name
    assert {*by_hand, "noise"} == {*SHIFTS, "none"} and len(SHIFTS) == 10
    many = np.full((200, 1, 8, 8), 0.5, np.float32)
    noisy = shifted(many, 1.0, "noise")
    assert noisy.std() == pytest.approx(0.2, rel=0.05) and noisy.mean() == pytest.approx(0.5, abs=0.01)


def test_a_domain_is_shown_measured_and_tested_on_its_own_images() -> None:
    spec, data = spec_of("domains", shifts="none,mirror,invert", tasks=4, epochs=1)
    assert spec.scenario.tasks == 4 and task_of(spec, 3, data).parts == task_of(spec, 0, data).parts
    whole, task = shown_by(spec.scenario, data), task_of(spec, 1, data)
    rows = task.order(1)
    assert np.array_equal(np.sort(rows), np.flatnonzero(whole.train.further[DOMAIN] == 1))
    assert np.array_equal(whole.train.images[rows], data.train.images[rows - 64, :, :, ::-1])
    assert np.array_equal(task.train_labels[rows], data.train.labels[rows - 64])
    assert np.array_equal(task.measured(whole)["test"].split.images, data.test.images[:, :, :, ::-1])
    network = build(spec, data)
    found = task_accuracy(network, whole, [task_of(spec, i, data) for i in range(3)], 10**6, "cpu")
    for i, name in enumerate(("none", "mirror", "invert")):
        images = torch.from_numpy(shifted(data.test.images, data.scale, name) / data.scale)
        assert found[i] == pytest.approx(float((network(images).argmax(1).numpy() == data.test.labels).mean()))
    assert ended(spec, data)["network.classifier.weight"].shape == (10, 8)


def test_a_folder_of_folders_is_a_domain_a_folder(tmp_path: Path) -> None:
    for d, domain in enumerate(("city", "sea")):
        for c, name in enumerate(("cat", "dog", "elk")):
            (tmp_path / domain / name).mkdir(parents=True)
            for i in range(5):
                Image.fromarray(np.full((4, 4), 100 * d + 30 * c + i, np.uint8)).save(
                    tmp_path / domain / name / f"{i}.png"
                )
    scenario = scenario_named("domains")
    given = {"dataset": f"folder:{tmp_path}", "width": 4, "tasks": 2, "epochs": 1, "batch_size": 4}
    dataset = settings.dataset_spec(scenario, given)
    data = load(dataset)
    assert data.classes == 2
    spec = settings.specs(scenario, given, data, dataset, [0])[0]
    whole = shown_by(spec.scenario, data)
    assert whole.classes == 3 and len(whole.train) == 24
    for d in (0, 1):
        shown = task_of(spec, d, data)
        pixels, labels = whole.train.images[shown.order(1), 0, 0, 0], shown.train_labels[shown.order(1)]
        assert {*pixels // 100} == {d} and np.array_equal(labels, pixels % 100 // 30)
    assert ended(spec, data)["network.classifier.weight"].shape == (3, 4)
    with pytest.raises(InputError, match="several of its own"):
        settings.specs(scenario, given | {"shifts": "none,turn"}, data, dataset, [0])


# refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "given", "words"),
    [
        ("shuffled-labels", {"share": 0.3, "clock": "change", "epochs": 10}, "does not divide 1"),
        ("shuffled-labels", {"share": 0.1, "clock": "change", "epochs": 15}, "no multiple"),
        ("shuffled-labels", {"share": 0.1, "transition": "soft:0.1"}, "give one"),
        ("shuffled-labels", {"transition": "soft:0.3"}, "does not divide 1"),
        ("shuffled-labels", {"transition": "soft:0"}, "above 0"),
        ("shuffled-labels", {"transition": "smooth"}, "unknown"),
        ("shuffled-labels", {"share": 0.5, "relabel": "classes"}, "relabels samples"),
        ("shuffled-labels", {"draw": "uniform", "relabel": "classes"}, "relabels samples"),
        ("shuffled-labels", {"transition": "soft:0.5", "objective": "mse"}, "shares of classes"),
        ("shuffled-labels", {"share": 1e-6, "clock": "change", "epochs": 10**6, "tasks": 20}, "allowed are"),
        ("target-scale", {"refit": "recentred", "objective": "two_hot"}, "moves the output bias"),
        ("target-scale", {"objective": "cross_entropy"}, "cannot be asked"),
        ("target-scale", {"probe": ["labels"]}, "learns classes"),
        ("target-scale", {"probe": ["next-task"]}, "no next task"),
        ("value-iteration", {"probe": ["next-task"]}, "own values"),
        ("value-iteration", {"gamma": 1.0}, "impossible"),
        ("value-iteration", {"intervention": ["nc1"]}, "asks for numbers"),
        ("domains", {"shifts": "none,upside"}, "unknown"),
        ("domains", {"shifts": "none,none"}, "twice"),
    ],
    ids=str,
)
def test_bad_combinations_are_refused_in_a_sentence(scenario: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        asked(scenario_named(scenario), given)


def test_engines_that_cannot_carry_it_say_so(digits: Dataset) -> None:
    for scenario, given in (("value-iteration", {"optimizer": "sgd"}), ("shuffled-labels", {"transition": "soft:0.5"})):
        spec, _ = spec_of(scenario, **given)
        assert plan([spec], "cpu")[0].engine == "stacked"
        with pytest.raises(InputError, match=f"does not carry what {scenario} asks"):
            plan([replace(spec, engine="online")], "cpu")
    small = settings.dataset_spec(scenario_named("shuffled-labels"), {"dataset": "digits"})
    assert small == DatasetSpec("digits")
    with pytest.raises(InputError, match="none of them"):
        settings.specs(scenario_named("shuffled-labels"), {"share": 1e-4}, digits, small, [0])


def test_runs_of_other_numbers_advance_together_to_the_numbers_they_have_alone() -> None:
    for scenario, key, values, more in (
        ("target-scale", "offset", (0.0, 5.0), {"refit": "recentred", "pretrain_epochs": 2, "refit_epochs": 1}),
        ("value-iteration", "gamma", (0.0, 0.9), {"tasks": 2, "target_every": 5}),
    ):
        specs = [spec_of(scenario, **{key: value}, **more) for value in values]
        data = specs[0][1]
        (cohort,) = plan([spec for spec, _ in specs], "cpu")
        *_, last = train(cohort, data)
        for (spec, _), together in zip(specs, last.state(), strict=True):
            alone = ended(spec, data)
            for name, value in together.items():
                assert np.allclose(value.numpy(), alone[name], rtol=1e-9, atol=1e-11), (scenario, name)


def test_a_new_option_at_its_default_is_left_out_and_said_beside_runs_that_have_another(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "a.db")) as store:
        for share in (1.0, 0.5):
            spec, data = spec_of("shuffled-labels", share=share, tasks=2, epochs=1, metrics=("train_loss",))
            runs.run([spec], store, data, device="cpu", observer=Silent(), jobs=1)
            assert ("share" in store.run(spec.id).settings) == (share != 1)
            assert ("share" in spec.identity) == (share != 1)
            assert settings.from_row(store.run(spec.id), data).id == spec.id
        assert sorted(str(s.run.settings["share"]) for s in analysis.load(store, ["train_loss"]).series) == [
            "0.5",
            "1.0",
        ]
