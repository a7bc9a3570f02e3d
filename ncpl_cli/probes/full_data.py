"""All training images with their own labels: of a warm start until it fits, else for a fixed budget (A20, B24)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.probes.probe import Probe, ProbeRun, Reached, Results
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import RunSpec


@dataclass(frozen=True)
class FullDataRun(ProbeRun):
    """A copy that learns the data set as it is."""

    id: ClassVar[str] = "full-data-probe"

    def outputs(self, data: Dataset) -> int:
        """The data set's classes, whatever its parent's are."""
        return data.classes

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """All images, their own labels, pixels as they are."""
        return Task(
            index=index, epochs=self.epochs, order=self.order(seed, len(data.train)), train_labels=data.train.labels,
            test_labels=data.test.labels, phase="probe", changes=self.branch_epoch > 0,
        )  # fmt: skip


@dataclass(frozen=True)
class FullData(Probe):
    """Learn the data set itself. A warm start comes with it, and says itself when such a probe ends."""

    id: ClassVar[str] = "full-data"
    run: ClassVar[type[ProbeRun]] = FullDataRun

    def runs(self, parent: RunSpec, epoch: int) -> list[RunSpec]:
        """Of a scenario that has such a probe of its own, that one."""
        if not hasattr(parent.scenario, "probe"):
            return super().runs(parent, epoch)
        measure = replace(parent.measure, every=1 << 40)  # once it fits
        scenario = parent.scenario.probe(parent.id, epoch)
        return [replace(parent, scenario=scenario, measure=measure, probes=(), probe_every=None)]


def warm_start_results(reached: Sequence[Reached]) -> Results:
    """What probes of a warm start put on its rows: probe_*, and warm_start_gap against the cold start."""
    values: dict[int, dict[str, float]] = {}
    undefined: dict[int, dict[str, str]] = {}
    ended: dict[int, tuple[float | None, float]] = {}
    for one in reached:
        if one.diverged:
            undefined[one.branch_epoch] = dict.fromkeys(WARM_START_METRICS, "the probe diverged")
            continue
        capped = float(not (one.last["online_accuracy"] or 0) > one.settings["accuracy"])
        ended[one.branch_epoch] = one.last["test_accuracy"], capped
        values[one.branch_epoch] = {"probe_epochs_to_fit": float(one.last["epoch"]), "probe_cap_hit": capped}
        if one.last["test_accuracy"] is not None:
            values[one.branch_epoch]["probe_test_accuracy"] = one.last["test_accuracy"]
    cold = ended.get(0)
    for epoch, (accuracy, capped) in ended.items():
        why = None
        if epoch == 0:
            why = "it is the cold start"
        elif cold is None:
            why = "the cold start is not known"
        elif capped or cold[1]:
            why = "cap"
        if why is None and cold is not None and None not in (cold[0], accuracy):
            values[epoch]["warm_start_gap"] = float(cold[0] or 0) - float(accuracy or 0)
        else:
            undefined.setdefault(epoch, {})["warm_start_gap"] = why or "test accuracy was not measured"
    return values, undefined


WARM_START_METRICS = ("probe_test_accuracy", "probe_epochs_to_fit", "probe_cap_hit", "warm_start_gap")
