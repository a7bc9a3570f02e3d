"""What the wing that makes numbers hands to the wing that reads them: plain frozen values, no libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Address(NamedTuple):
    """Where a value belongs: `metric[@split[/layer]]`.

    Metrics without split or layer (`online_accuracy`, `plasticity_loss`) stand at train/last.
    """

    metric: str
    split: str = "train"
    layer: str = "last"

    @classmethod
    def parse(cls, text: str, split: str = "train", layer: str = "last") -> Address:
        """Read `nc1`, `nc1@test` or `nc1@test/layer2`; `split` and `layer` fill what is not written."""
        metric, _, place = text.strip().partition("@")
        written_split, _, written_layer = place.partition("/")
        return cls(metric, written_split or split, written_layer or layer)

    def __str__(self) -> str:
        if self.layer != "last":
            return f"{self.metric}@{self.split}/{self.layer}"
        return self.metric if self.split == "train" else f"{self.metric}@{self.split}"


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Everything known about one epoch of one run.

    epoch         1, 2, ... over the whole run (0 = untrained)
    task          0, 1, ...
    task_epoch    1, 2, ... within the task
    samples_seen  training samples seen since the run began
    seconds       training time of this epoch; `measure_seconds` likewise for measuring it
    values        finite values by address
    undefined     why a value is missing, by address; no address is in both
    task_accuracy test accuracy on each task evaluated after this epoch (the forgetting matrix's row)
    costs         seconds that measuring each family of metrics took; kept as a sum over the run
    counts        what collapse was measured on, by split: n, classes, smallest and harmonic-mean class count; kept
                  once for the run
    """

    epoch: int
    task: int
    task_epoch: int
    samples_seen: int
    seconds: float
    measure_seconds: float
    values: Mapping[Address, float]
    undefined: Mapping[Address, str] = field(default_factory=dict)
    task_accuracy: Mapping[int, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def get(self, metric: str, split: str = "train", layer: str = "last") -> float | None:
        """The value at an address, or None where it is undefined or not measured."""
        return self.values.get(Address(metric, split, layer))


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What the store must know of a run before it starts.

    id        first 12 hexadecimal digits of the digest of `identity`
    identity  canonical JSON of all that decides the run's numbers (INTERFACE: identity of a run)
    settings  every setting in full, flat keys, for people and for grouping
    horizon   how far the run shall go, e.g. {"tasks": 140}; recorded, not part of the identity
    recorded  further facts that are not identity: measured metrics, presets, dataset digest
    """

    id: str
    identity: str
    scenario: str
    seed: int
    settings: Mapping[str, object]
    horizon: Mapping[str, object]
    total_epochs: int | None
    recorded: Mapping[str, object] = field(default_factory=dict)
    parent: str | None = None
    branch_epoch: int | None = None
