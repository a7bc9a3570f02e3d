"""Tasks with a head of their own size, renumbered labels and further label sets, through both engines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from ncpl_cli import settings, trainer
from ncpl_cli.data import Dataset, load
from ncpl_cli.errors import InputError
from ncpl_cli.plan import plan
from ncpl_cli.records import Address
from ncpl_cli.scenarios import PermutedDigits, ShuffledLabels, outputs_of
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import DatasetSpec, RunSpec

KEPT = (3, 5, 8)


@dataclass(frozen=True)
class Three(PermutedDigits):
    """Three of the digits, labelled 0, 1, 2; whether one is a 5 is a further label set."""

    id: ClassVar[str] = "three"

    def outputs(self, data: Dataset) -> int:
        return len(KEPT)

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        number = np.full(10, -1)
        number[list(KEPT)] = range(len(KEPT))
        rows = {name: np.flatnonzero(np.isin(getattr(data, name).labels, KEPT)) for name in ("train", "test")}
        parts = {name: getattr(data, name).take(own) for name, own in rows.items()}
        fine = {name: (part.labels == 5).astype(np.int64) for name, part in parts.items()}
        return Task(
            index=index, epochs=1, order=lambda epoch: np.random.default_rng([seed, epoch]).permutation(rows["train"]),
            train_labels=number[data.train.labels], test_labels=number[data.test.labels], outputs=len(KEPT),
            parts={name: replace(part, labels=number[part.labels]) for name, part in parts.items()},
            label_sets={"fine": fine},
        )  # fmt: skip


def a_spec(data: Dataset, **given: Any) -> RunSpec:
    given = {"tasks": 2, "width": 12, "depth": 2, "lr": 0.05, "precision": "float64", **given}
    return settings.specs(Three, given, data, DatasetSpec("digits"), [1])[0]


@pytest.mark.parametrize("batch", [1, 6])
def test_a_head_is_as_large_as_the_tasks_need_in_every_engine(digits: Dataset, batch: int) -> None:
    found = []
    for engine in ("online", "stacked"):
        metrics = ("default", "readout_ncc", "readout_ncc_within")
        spec = a_spec(digits, batch_size=batch, engine=engine, metrics=metrics, task_accuracy="current")
        assert outputs_of(spec, digits) == trainer.build(spec, digits).classifier.out_features == 3
        (cohort,) = plan([spec], "cpu")
        epochs = list(trainer.train(cohort, digits))
        record = epochs[-1].records[0]
        assert record is not None
        values = record.values
        assert values[Address("test_accuracy")] > 0.8 and 0 < values[Address("nc1")] < 5
        assert values[Address("nc1", "fine_test")] > 0 and Address("readout_ncc", "fine_test") in values
        assert "several" in record.undefined[Address("readout_ncc_within", "fine_test")]
        assert record.counts["train"]["classes"] == 3 and record.counts["fine_test"]["classes"] == 2
        found.append(values)
    for address in (Address("online_loss"), Address("test_loss"), Address("nc1"), Address("nc1", "fine_test")):
        assert found[0][address] == pytest.approx(found[1][address], rel=1e-8), address


def test_a_regulariser_needs_two_samples_of_each_class_of_the_task(digits: Dataset) -> None:
    assert a_spec(digits, batch_size=6, intervention=["nc1"]).optimizer.batch_size == 6
    with pytest.raises(InputError, match="at least 6"):
        a_spec(digits, batch_size=5, intervention=["nc1"])


@pytest.mark.parametrize("relabel", ["classes", "samples"])
def test_validation_samples_are_labelled_as_the_task_labels(relabel: str) -> None:
    data = load(DatasetSpec("digits", validation_fraction=0.2))
    assert data.validation is not None
    task = ShuffledLabels(relabel=relabel).task(3, data, 0)
    labels = task.measured(data)["validation"].labels
    if relabel == "classes":
        renamed = {int(a): int(b) for a, b in zip(data.train.labels, task.train_labels, strict=True)}
        assert labels.tolist() == [renamed[int(label)] for label in data.validation.labels]
    assert sorted(labels) == sorted(data.validation.labels) or relabel == "classes"
    assert (labels != data.validation.labels).any()
    before = load(DatasetSpec("digits"))
    assert np.array_equal(ShuffledLabels(relabel=relabel).task(3, before, 0).test_labels[:5], task.test_labels[:5]) or (
        relabel == "samples"
    )
