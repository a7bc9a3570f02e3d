"""A store made by hand for tests of what reads it: two scenarios, three arms, a run that diverged, an unkind label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Store, open_store

UNKIND = '<script>alert("1")</script> $x^2$ & |'
"""A label that would break HTML, Markdown, mathematical text and tables, were it not escaped."""

SHARED = {
    "dataset": "digits", "dataset_digest": "d1", "network": "mlp", "width": 100, "depth": 3, "activation": "relu",
    "norm": "none", "optimizer": "sgd", "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1,
    "lr_schedule": "constant", "precision": "float32",
}  # fmt: skip
PERMUTED = {
    "first_task_max_epochs": 50, "first_task_nc1": None, "first_task_order": "new", "epochs": [1],
    "permuted_fraction": 1.0, "interventions": [],
}  # fmt: skip
PROVENANCE = {
    "ncpl": "0", "commit": "c", "python": "3", "libraries": {"torch": "2"}, "device": "cpu", "device_name": "a",
    "engine": "online", "platform": "p", "threads": 1,
}  # fmt: skip


def add_run(
    store: Store, key: str, seed: int, scenario: str, settings: dict[str, Any], horizon: dict[str, int],
    records: Sequence[EpochRecord], *, names: Sequence[str] = (), status: str = "finished",
) -> None:  # fmt: skip
    """A run with its epochs."""
    info = RunInfo(
        id=key, identity=key, scenario=scenario, seed=seed, settings={**SHARED, **settings, **horizon},
        horizon=horizon, total_epochs=len(records), recorded={"metrics": ["default"], "layers": "last", "every": 1},
    )  # fmt: skip
    store.register(info)
    for name in names:
        store.register(info, name)
    attempt = store.claim([key], Owner.current(), PROVENANCE)[key]
    store.save([(key, attempt, record) for record in records])
    store.finish(key, attempt, status, "the loss became infinite" if status == "diverged" else None)


def permuted(seed: int, first: int, tasks: int) -> list[EpochRecord]:
    """Epochs of a run of permuted tasks: accuracy falls, nc1 rises, noise between seeds."""
    draw = np.random.default_rng([seed, first])
    records: list[EpochRecord] = []
    start: list[float] = []
    for task in range(tasks):
        for task_epoch in range(1, (first if task == 0 else 1) + 1):
            noise = float(draw.normal(0, 0.01))
            accuracy = 0.8 + 0.03 * (task_epoch - 1) - 0.01 * task + noise
            start += [accuracy] if task == 0 else []
            nc1 = 0.3 + 0.02 * task - 0.02 * task_epoch - noise
            values = {
                "online_accuracy": accuracy, "train_accuracy": accuracy + 0.05, "test_accuracy": accuracy + 0.02,
                "nc1": nc1, "nc1@test": nc1 + 0.1, "nc4": 0.9 - noise, "dead_units": 0.1 + 0.01 * task,
            }  # fmt: skip
            undefined = {}
            if task:
                values["plasticity_loss"] = start[0] - accuracy
                values["plasticity_loss_b24"] = float(np.mean(start)) - accuracy
            else:
                undefined[Address("plasticity_loss")] = "first task"
            seen = {t: accuracy * 0.9 ** (task - t) for t in range(task + 1)}
            place = {Address.parse(name): value for name, value in values.items()}
            records.append(
                EpochRecord(len(records) + 1, task, task_epoch, 100 * len(records), 0.5, 0.1, place, undefined, seen)
            )
    return records


def warm_start(seed: int, cost: float, epochs: int = 40) -> list[EpochRecord]:
    """Epochs of a warm-up with a probe every fifth; `cost`: what the arm loses in phase 1 and wins in the probe."""
    draw = np.random.default_rng([7, seed])
    records = []
    for epoch in range(1, epochs + 1):
        learned = 1 - 0.5 / epoch - cost + float(draw.normal(0, 0.002))
        values = {"train_accuracy": learned, "test_accuracy": learned - 0.05, "nc1": 1 / epoch + cost,
                  "train_loss": 1 / epoch}  # fmt: skip
        if epoch % 5 == 0:
            values["probe_test_accuracy"] = 0.9 - 0.001 * epoch + cost / 10 + float(draw.normal(0, 0.002))
        place = {Address(name): value for name, value in values.items()}
        records.append(EpochRecord(epoch, 0, epoch, 100 * epoch, 0.5, 0.1, place, {}, {}))
    return records


def make_store(path: Path, tasks: int = 8) -> str:
    """Permuted tasks with first tasks of 1 and 4 epochs, three seeds each, and one that diverged; a warm start with an
    intervention beside it."""
    url = str(path)
    with open_store(url) as store:
        for first in (1, 4):
            for seed in range(3):
                add_run(
                    store, f"a{first}{seed:010x}", seed, "permuted-digits",
                    PERMUTED | {"first_task_epochs": first},
                    {"tasks": tasks}, permuted(seed, first, tasks), names=[UNKIND],
                )  # fmt: skip
        add_run(
            store, "b00000000000", 3, "permuted-digits", PERMUTED | {"first_task_epochs": 1},
            {"tasks": tasks}, permuted(3, 1, 2), status="diverged",
        )  # fmt: skip
        for arm, cost in ((), 0.0), (("nc1",), 0.1):
            for seed in range(3):
                add_run(
                    store, f"c{len(arm)}{seed:010x}", seed, "warm-start",
                    {"interventions": list(arm), "warm_up_fraction": 0.5, "probe_max_epochs": 100,
                     "probe_accuracy": 0.99, "probe_every": 5, "hold_out_classes": [], "batch_size": 32},
                    {"warm_up_epochs": 40}, warm_start(seed, cost), names=["arms"],
                )  # fmt: skip
    return url
