"""A sequence of domains: the inputs shift from task to task, the labels stay (L24's natural shifts, in small)."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ncpl_cli import values
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.shifts import DOMAIN, INNER, NONE, SHIFTS, with_domains
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.scenarios.target_scale import SMALL, preset
from ncpl_cli.scenarios.task import Task, TaskSequence, option, sample_order

ALL = ",".join(SHIFTS)


def _shifts(text: str, said: str) -> str:
    for name in (names := values.names(text, said)):
        if name not in (NONE, *SHIFTS):
            raise unknown(f"{said}: shift", name, [NONE, *SHIFTS])
    if len(set(names)) < len(names):
        raise InputError(f"{said} {values.shown(text)} names a shift twice.", "a longer --tasks begins the list again")
    return ",".join(names)


@dataclass(frozen=True)
class Domains(TaskSequence):
    """The same classes under another light, in another place, or of another folder each task.

    A data set `folder:PATH` whose folders hold class folders of their own is a domain a folder. Presets: 512 images (of
    a folder all), MLP 2x100, Adam 3e-3, batch 64.
    """

    id: ClassVar[str] = "domains"

    tasks: int = option(len(SHIFTS), "number of tasks; the list begins again where it ends", identity=False)
    epochs: int = option(20, "epochs of each task")
    shifts: str = option(ALL, f"domains in order: {NONE} or some of {', '.join(SHIFTS)}", form=_shifts)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Domains:
        """The scenario with the options that were given: as many tasks as shifts, where nothing else is said."""
        named = {"tasks": given["shifts"].count(",") + 1} if "shifts" in given else {}
        return cls(**named | given)

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set."""
        return {"dataset": "digits", **preset(dataset, SMALL | {"lr": 3e-3})}

    def check_data(self, data: Any) -> None:
        """Raise InputError where the domains do not fit the images."""
        if INNER in data.train.further and self.shifts != ALL:
            raise InputError(f"--shifts {self.shifts} is for images of one domain: {data.name} has several of its own.")
        if INNER not in data.train.further and "turn" in self.shifts and data.shape[1] != data.shape[2]:
            raise InputError(
                f"--shifts turn needs square images: those of {data.name} are {data.shape[1]} x {data.shape[2]}.",
                "name the others with --shifts",
            )

    def shown(self, data: Dataset) -> Dataset:
        """The data set with the images of all domains."""
        return with_domains(data, self.shifts.split(","))

    def outputs(self, data: Dataset) -> int:
        """The classes that all domains have in common."""
        return self.shown(data).classes

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """A domain, once through in a random order each epoch."""
        data = self.shown(data)
        parts = _domain(data, index)
        rows = np.flatnonzero(data.train.further[DOMAIN] == index % _count(data))
        order = sample_order(seed, index, len(rows))
        return Task(
            index=index, epochs=self.epochs, order=lambda task_epoch: rows[order(task_epoch)], changes=index > 0,
            train_labels=data.train.labels, test_labels=data.test.labels, outputs=data.classes, parts=parts,
        )  # fmt: skip


def _count(data: Dataset) -> int:
    return 1 + int(data.train.further[DOMAIN].max())


_PARTS: weakref.WeakKeyDictionary[Split, dict[int, dict[str, Split]]] = weakref.WeakKeyDictionary()


def _domain(data: Dataset, index: int) -> dict[str, Split]:
    """The splits of a domain, made once for all runs."""
    held, domain = _PARTS.setdefault(data.train, {}), index % _count(data)
    if domain not in held:
        splits = {"train": data.train, "test": data.test}
        splits |= {} if data.validation is None else {"validation": data.validation}
        held[domain] = {
            name: split.take(np.flatnonzero(split.further[DOMAIN] == domain)) for name, split in splits.items()
        }
    return held[domain]
