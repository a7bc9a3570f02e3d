"""Probes: isolated copies that learn something new beside a fresh network; the run they branch off never notices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli import networks, probes, runs, settings
from ncpl_cli.data import Dataset, load
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.records import Address
from ncpl_cli.runs import checkpoints
from ncpl_cli.scenarios import SCENARIOS, objectives_of, scenario_named
from ncpl_cli.spec import RunSpec
from ncpl_cli.store import Store, open_store
from ncpl_cli.sweep import Arm, Options, enlist
from ncpl_cli.worker import work
from tests.test_sweep import Silent

SMALL: dict[str, Any] = {
    "dataset": "digits", "train_samples": 96, "width": 8, "depth": 1, "metrics": ("nc1", "test_accuracy"), "lr": 0.05,
    "precision": "float64",
}  # fmt: skip
OF: dict[str, dict[str, Any]] = {
    "warm-start": {"warm_up_epochs": 4, "probe_every": 2, "probe_max_epochs": 2},
    "source-classes": {"epochs": 2, "source_classes": 4, "momentum": 0.0, "per_class": 8},
    "coarse-labels": {"epochs": 2, "momentum": 0.0},
    "target-scale": {"pretrain_epochs": 1, "refit_epochs": 1},
    "value-iteration": {"tasks": 2, "target_every": 3},
    "domains": {"tasks": 2, "epochs": 1},
    "class-incremental": {"tasks": 2, "epochs": 1},
    "task-incremental": {"tasks": 2, "epochs": 1},
}
"""Options of scenarios that are not counted in tasks."""

KINDS = ["labels:epochs=2", "offset:offset=3", "full-data", "next-task"]


def specs_of(scenario: str, seeds: list[int], **more: Any) -> tuple[list[RunSpec], Dataset]:
    given = SMALL | OF.get(scenario, {"tasks": 2, "epochs": (1,)}) | more
    kind = scenario_named(scenario)
    dataset = settings.dataset_spec(kind, given)
    data = load(dataset)
    return settings.specs(kind, given, data, dataset, seeds), data


def trained(store: Store, specs: list[RunSpec], data: Dataset) -> dict[str, str]:
    return runs.run(specs, store, data, device="cpu", observer=Silent(), jobs=1, keep="all")


def everything(store: Store, run: str) -> list[Any]:
    """All that is stored of a run itself: every value of every epoch, and the state in its checkpoints."""
    rows = [
        {str(a): v for a, v in store.values(run, epoch).items() if not a.metric.startswith(("probe", "warm_start"))}
        for epoch in range(store.last_epoch(run) + 1)
    ]
    kept = [checkpoints.read(store.checkpoints, run, epoch) for epoch in checkpoints.epochs(store.checkpoints, run)]
    return [rows, [(at, {name: t.tolist() for name, t in tensors.items()}) for at, tensors in kept]]


@pytest.mark.parametrize("batch", [1, 32])  # the online engine and the stacked one
@pytest.mark.parametrize("scenario", [scenario.id for scenario in SCENARIOS if scenario.id != "permuted-mnist"])
def test_the_run_a_probe_branches_off_keeps_its_bits(tmp_path: Path, scenario: str, batch: int) -> None:
    """In every scenario, by either engine, with every kind that the scenario takes; all probes end."""
    of = scenario_named(scenario)
    kinds = KINDS if of.horizon_field == "tasks" else KINDS[: 2 if hasattr(of, "outputs") else 3]
    if "cross_entropy" not in objectives_of(of):
        kinds = [KINDS[1]]  # numbers only
    plain, data = specs_of(scenario, [0, 1], batch_size=batch)
    probed, _ = specs_of(scenario, [0, 1], batch_size=batch, probe=kinds)
    assert [spec.id for spec in plain] == [spec.id for spec in probed]
    with open_store(tmp_path / "a.db") as alone, open_store(tmp_path / "b.db") as beside:
        runs.run(plain, alone, data, device="cpu", observer=Silent(), jobs=1, keep="all", probes=False)
        statuses = trained(beside, probed, data)
        assert set(statuses.values()) == {"finished"}
        for spec in plain:
            assert everything(alone, spec.id) == everything(beside, spec.id)
            end = beside.values(spec.id, beside.last_epoch(spec.id))
            places = {a.split for a in end if a.metric == "probe_gap"} | {"train"}
            others = {kind.id for kind in probes.of(probed[0])[1:]}
            assert places == {"train", *others}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[RunSpec], Dataset]:
    """Two seeds of two tasks with all kinds of probes after each task."""
    specs, data = specs_of("permuted-digits", [0, 1], batch_size=32, epochs=(2,), probe=KINDS, probe_epochs=3)
    store = open_store(tmp_path_factory.mktemp("probes") / "a.db")
    trained(store, specs, data)
    return store, specs, data


@pytest.mark.parametrize("kind", ["labels", "offset", "full-data", "next-task"])
def test_a_probe_is_plain_training_of_a_copy(study: tuple[Store, list[RunSpec], Dataset], kind: str) -> None:
    """Against a loop of a few lines in float64, from the checkpoint after task 0, for each number it stores."""
    store, specs, data = study
    parent = specs[1]
    place = "" if kind == "labels" else f"@{kind}"
    x = torch.from_numpy(data.train.images).flatten(1).double() / data.scale
    reached = {}
    for epoch in (0, 2):
        own = [run for run in probes.runs_of(parent) if run.scenario.id == f"{kind}-probe"]
        probe = next(run for run in own if run.scenario.branch_epoch == epoch)
        task = probe.scenario.task(0, data, parent.seed)
        network = networks.build("mlp", data.shape, 10, parent.seed, precision="float64", width=8, depth=1)
        if epoch:
            _, saved = checkpoints.read(store.checkpoints, parent.id, epoch)
            network.load_state_dict({k.removeprefix("network."): saved[k] for k in saved if k.startswith("network.")})
        pixels = x if task.pixel_order is None else x[:, torch.from_numpy(task.pixel_order)]
        asked = torch.from_numpy(np.asarray(task.asked))
        online: list[tuple[float, float]] = []

        def loss_of(out: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            if kind == "offset":
                return ((out - wanted) ** 2).mean()
            return torch.nn.functional.cross_entropy(out, wanted)

        budget = 2 if kind == "labels" else 3
        assert task.epochs == budget
        for task_epoch in range(1, budget + 1):
            seen, lost = 0.0, 0.0
            order = task.order(task_epoch)
            for start in range(0, len(order), 32):
                index = torch.from_numpy(order[start : start + 32])
                network.zero_grad()
                out = network(pixels[index])
                loss = loss_of(out, asked[index])
                loss.backward()
                seen += float((out.argmax(1) == asked[index]).sum()) if kind != "offset" else 0.0
                lost += loss.item() * len(index)
                with torch.no_grad():
                    for p in network.parameters():
                        p -= 0.05 * p.grad  # type: ignore[operator]
            online.append((seen / len(order), lost / len(order)))
        with torch.no_grad():
            out = network(pixels)
            train_loss = float(loss_of(out, asked))
            train_accuracy = float((out.argmax(1) == asked).double().mean()) if kind != "offset" else 0.0
        reached[epoch] = train_accuracy, train_loss
        values, reasons = store.values(parent.id, epoch), store.reasons(parent.id, epoch)
        expected = {"probe_online_loss": np.mean([b for _, b in online]), "probe_train_loss": train_loss}
        if kind == "offset":
            assert reasons[Address.parse(f"probe_online_accuracy{place}")]
        else:
            expected |= {"probe_online_accuracy": np.mean([a for a, _ in online])}
            expected |= {"probe_train_accuracy": train_accuracy}
        for name, value in expected.items():
            assert values[Address.parse(name + place)] == pytest.approx(value, rel=1e-9), name
    assert reasons.get(Address.parse(f"probe_gap{place}")) is None
    mine, fresh = reached[2], reached[0]
    gap = mine[1] - fresh[1] if kind == "offset" else fresh[0] - mine[0]
    assert values[Address.parse(f"probe_gap{place}")] == pytest.approx(gap, abs=1e-9)
    assert store.reasons(parent.id, 0)[Address.parse(f"probe_gap{place}")] == "it is the fresh network"


def test_what_a_probe_learns_is_new_and_the_same_for_the_fresh_network(digits: Dataset) -> None:
    parent = settings.specs(
        scenario_named("shuffled-labels"), {"tasks": 3, "probe": KINDS}, digits,
        settings.dataset_spec(scenario_named("shuffled-labels"), {}), [4],
    )[0]  # fmt: skip
    by_kind: dict[str, list[Any]] = {}
    for run in probes.runs_of(parent):
        by_kind.setdefault(run.scenario.id, []).append((run.scenario, run.scenario.task(0, digits, parent.seed)))
    for name, found in by_kind.items():
        first = found[0][1]
        for scenario, task in found:
            assert task.changes == (scenario.branch_epoch > 0) and task.phase == "probe"
            if name != "next-task-probe":
                assert np.array_equal(task.order(2), first.order(2)) and np.array_equal(task.asked, first.asked)
            else:  # of the task that comes next, in the order it would be shown in
                theirs = parent.scenario.task(scenario.of_task, digits, parent.seed)
                assert np.array_equal(task.asked, theirs.asked) and np.array_equal(task.order(1), theirs.order(1))
    labels = by_kind["labels-probe"][0][1].train_labels
    counts = np.bincount(labels, minlength=10)
    assert counts.min() > 100 and (labels == digits.train.labels).mean() < 0.15  # uniform, and nobody's own
    targets = by_kind["offset-probe"][0][1].asked
    assert abs(targets.mean() - 3) < 0.05 and abs(targets.std() - 1) < 0.05
    pairs = [(s.branch_epoch > 0, s.of_task) for s, _ in by_kind["next-task-probe"]]
    assert sorted(pairs) == [(False, 1), (False, 2), (False, 3), (True, 1), (True, 2), (True, 3)]


def test_in_a_sweep_they_wait_for_their_run_and_come_to_the_same(
    study: tuple[Store, list[RunSpec], Dataset], tmp_path: Path
) -> None:
    """Probes are units of the queue; a worker that takes them reaches what `ncpl train` does."""
    store, specs, _ = study
    with open_store(tmp_path / "s.db") as other:
        enlist([Arm(tuple(specs))], other, "s", Options(threads=1))
        assert {row.status for row in other.runs()} == {"pending"}
        work("s", other, observer=Silent())
        for spec in specs:
            for epoch in (0, 2, 4):
                mine, theirs = (
                    {a: v for a, v in of.values(spec.id, epoch).items() if a.metric.startswith("probe")}
                    for of in (other, store)
                )
                assert mine.keys() == theirs.keys() and len(mine) > 10
                assert all(mine[a] == pytest.approx(theirs[a], abs=1e-9) for a in mine)


def test_probes_of_a_stored_run_are_made_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--tasks", "1", "--epochs", "2", "--train-samples", "96", "--width", "8", "--metrics", "nc1"]
    db = str(tmp_path / "a.db")
    assert call(["train", "permuted-digits", *short, "--keep-checkpoints", "all", "--db", db]) == 0
    assert call(["probe", "--probe", "labels:epochs=1", "--probe-every", "1", "--db", db]) == 0
    assert "finished\t3" in capsys.readouterr().out
    with open_store(db) as store:
        (parent,) = [row for row in store.runs() if row.parent is None]
        assert all(Address("probe_gap") in store.values(parent.id, epoch) for epoch in (1, 2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["permuted-digits", "--probe", "other"], "full-data, labels, next-task, offset"),
        (["permuted-digits", "--probe", "labels:epochs=0.5"], "epochs"),
        (["permuted-digits", "--probe", "labels", "--probe", "labels:epochs=3"], "more than once"),
        (["permuted-digits", "--probe-every", "2"], "needs --probe"),
        (["permuted-digits", "--probe", "labels", "--first-task-nc1", "0.3"], "--first-task-nc1"),
        (["warm-start", "--dataset", "digits", "--probe", "next-task"], "has no next task"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["train", *arguments, "--db", str(tmp_path / "a.db")]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sweep_file_may_name_probes(tmp_path: Path) -> None:
    from ncpl_cli.commands import _grid

    path = tmp_path / "s.toml"
    path.write_text(
        "scenario = 'permuted-digits'\n[settings]\ntasks = 2\nprobe = ['labels:epochs=2', 'offset:offset=1,lr=0.1']\n"
        "probe_every = 1\n[grid]\nlr = [0.1, 0.2]\n"
    )
    arms, _ = _grid.arms_of(_grid.from_file(path, None), None)
    assert [len(probes.runs_of(arm.specs[0])) for arm in arms] == [6, 6]
    assert {run.optimizer.lr for run in probes.runs_of(arms[1].specs[0])} == {0.1, 0.2}


def test_the_optimiser_of_a_probe_is_named_or_the_runs_own() -> None:
    spec = settings.asked(scenario_named("permuted-digits"), {"optimizer": "adam", "lr": 0.003, "eps": 1e-3})
    parent = replace(spec, dataset_digest="d")
    own, adamw, sgd = (
        probes.parse(text).runs(parent, 1)[0].optimizer
        for text in ("labels", "labels:optimizer=adamw,lr=0.5", "labels:optimizer=sgd")
    )
    assert own == parent.optimizer
    assert (adamw.name, adamw.lr, adamw.eps) == ("adamw", 0.5, 1e-3)
    assert (sgd.name, sgd.lr) == ("sgd", 0.01)
    with pytest.raises(InputError, match="optimizer"):
        probes.parse("labels:optimizer=lion")


@pytest.mark.parametrize("kind", ["labels:epochs=3,lr=0.1", "offset:offset=2,epochs=3,lr=0.1", "full-data:epochs=3"])
def test_a_live_module_is_probed_and_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    """In a loop of one's own: parameters, buffers, gradients, mode and random streams are left alone."""
    torch.manual_seed(0)

    def model() -> torch.nn.Sequential:
        return torch.nn.Sequential(
            torch.nn.Linear(6, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(8, 3),
        )

    module, images, labels = model().train(), torch.randn(50, 6), torch.randint(0, 3, (50,))
    module(images).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    stream = torch.random.get_rng_state()
    with open_store(tmp_path / "a.db") as store, store.run("mine", seed=1) as run:
        found = run.probe(kind, module, images, labels, fresh=lambda: module, batch_size=16)
        assert torch.equal(stream, torch.random.get_rng_state()) and module.training
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert all(
            torch.equal(p.grad, g) for p, g in zip(module.parameters(), gradients, strict=True) if p.grad is not None
        )
        assert found["probe_gap"] == 0  # a fresh one that is the same learns the same
        other = run.probe(kind, module, images, labels, fresh=model, batch_size=16)
        assert {name for name in other if other[name] != found[name]} == {"probe_gap"}
        with pytest.raises(InputError, match="no data"):
            run.probe(kind, module, images, labels[:3], fresh=model)
        run.record(epoch=1, metrics=found)
        assert store.values(run.id, 1)[Address("probe_train_loss")] == found["probe_train_loss"]
