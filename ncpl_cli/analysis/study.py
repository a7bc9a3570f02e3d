"""What the analysis reads: runs with their recorded series, and the groups that runs fall into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis.differing import LEFT_OUT, differing_names, frozen
from ncpl_cli.analysis.statistics import difference
from ncpl_cli.analysis.words import said
from ncpl_cli.records import Address

if TYPE_CHECKING:
    from ncpl_cli.store import Store

Array = NDArray[np.float64]

FIRST_TASK_SETTINGS = frozenset({"first_task_epochs", "first_task_nc1", "first_task_max_epochs", "warm_up_epochs"})
"""Settings that say how long the first task lasts: what arms of a first-task study differ in."""

NOT_IDENTITY = frozenset({"probe_every", "protocol"})
"""Settings beside the horizon that are no part of a run's identity: what they change is where something is read, not
what is trained. Arms that differ in nothing else are compared where both have been read, and that is said."""

FIRST_EPOCH = frozenset({"online_accuracy", "online_loss"})
"""With one point a task these are read at the task's first epoch: how well the network learns something new."""

WHOLE_TASK = frozenset({"plasticity_loss", "plasticity_loss_b24", "fresh_gap"})
"""With one point a task these are the task's last defined value: they belong to the task, not to an epoch."""


@dataclass(frozen=True)
class Run:
    """Who a series belongs to. `settings`: flat, without the seed and without what says only how far the run goes;
    `plan`: of the analysis, as it was fixed before the run (see preregistered)."""

    id: str
    seed: int
    scenario: str
    names: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    status: str = "finished"
    total_epochs: int | None = None
    imported: bool = False
    plan: str | None = None


@dataclass(frozen=True, eq=False)
class Series:
    """A run's recorded epochs from epoch 1 on, in order; columns by address, NaN where undefined.

    untrained  what was measured before the first epoch, by address: never part of a series
    """

    run: Run
    epoch: Array
    task: Array
    task_epoch: Array
    columns: Mapping[str, Array]
    untrained: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, epoch: Array, task: Array, task_epoch: Array, columns: Mapping[str, Array]) -> Series:
        """Sort by epoch, leave out epoch 0 (untrained), and turn what is not finite into NaN."""
        epoch = np.asarray(epoch, dtype=np.float64)
        before = np.flatnonzero(epoch == 0)[:1]
        at_0 = {address: float(np.asarray(values)[before[0]]) for address, values in columns.items() if len(before)}
        order = np.argsort(epoch, kind="stable")
        order = order[epoch[order] > 0]
        clean = {}
        for address, values in columns.items():
            column = np.asarray(values, dtype=np.float64)[order]
            clean[address] = np.where(np.isfinite(column), column, np.nan)
        tasks, task_epochs = (np.asarray(a, dtype=np.float64)[order] for a in (task, task_epoch))
        untrained = {address: value for address, value in at_0.items() if np.isfinite(value)}
        return with_plasticity_loss(cls(run, epoch[order], tasks, task_epochs, clean, untrained))

    def column(self, address: str) -> Array:
        """A column, all NaN where the run has none of that address."""
        found = self.columns.get(address)
        return np.full(len(self.epoch), np.nan) if found is None else found

    @property
    def tasks(self) -> int:
        """How many tasks were recorded."""
        return len(np.unique(self.task))

    def task_ends(self) -> NDArray[np.intp]:
        """Row of each task's last recorded epoch."""
        return self._task_ends

    @cached_property
    def _task_ends(self) -> NDArray[np.intp]:  # asked for by every reading of every column
        if not len(self.task):
            return np.array([], dtype=np.intp)
        return np.append(np.flatnonzero(self.task[1:] != self.task[:-1]), len(self.task) - 1)

    def unfinished_task(self) -> bool:
        """Whether the last recorded task is still being trained (it has fewer epochs than the one before it)."""
        ends = self.task_ends()
        if self.run.status == "finished" or len(ends) < 3:
            return False
        return bool(self.task_epoch[ends[-1]] < self.task_epoch[ends[-2]])

    def per_task(self, address: str) -> Array:
        """One value a task: at its last recorded epoch, of what was measured at its start at the first one; see
        FIRST_EPOCH and WHOLE_TASK for the exceptions."""
        column, ends = self.column(address), self.task_ends()
        where = Address.parse(address)
        metric = where.metric
        starts = np.r_[0, ends[:-1] + 1] if len(ends) else ends
        if metric in FIRST_EPOCH or where.split == "start":
            return column[starts]
        if metric in WHOLE_TASK:
            found = [part[np.isfinite(part)] for part in (column[a : b + 1] for a, b in zip(starts, ends, strict=True))]
            return np.array([part[-1] if len(part) else np.nan for part in found])
        return column[ends]


def with_plasticity_loss(series: Series) -> Series:
    """Fill plasticity losses that were asked for but not recorded (as in imports) from the online accuracies.

    plasticity_loss: the first task's first epoch minus this task's first. plasticity_loss_b24: means over all epochs
    of either task, at the task's last epoch. Positive = loss; undefined in the first task. (SCIENCE: B24.)
    """
    wanted = [
        name
        for name in ("plasticity_loss", "plasticity_loss_b24")
        if name in series.columns and not np.isfinite(series.columns[name]).any()
    ]
    online = series.columns.get("online_accuracy")
    if not wanted or online is None or not np.isfinite(online).any():
        return series
    ends = series.task_ends()
    starts = np.r_[0, ends[:-1] + 1]
    filled = dict(series.columns)
    for name in wanted:
        column = np.full(len(online), np.nan)
        if series.task[0] == 0:
            parts = [online[a : b + 1] for a, b in zip(starts, ends, strict=True)]
            first = parts[0]
            for a, b, part in zip(starts[1:], ends[1:], parts[1:], strict=True):
                if name == "plasticity_loss":
                    column[a : b + 1] = difference(first[0], part[0])
                else:
                    column[b] = difference(first.mean(), part.mean())
        filled[name] = column
    return replace(series, columns=filled)


@dataclass(frozen=True, eq=False)
class Study:
    """The runs that were chosen, in order."""

    series: tuple[Series, ...]

    def addresses(self) -> list[str]:
        """Every address that at least one run has a value of."""
        found = {a: None for s in self.series for a, column in s.columns.items() if np.isfinite(column).any()}
        return list(found)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in seed. `settings`: what tells this group from the others of the selection.

    series     the runs that are analysed
    left_out   failed and diverged ones
    pooled     how many groups were merged into this one
    """

    scenario: str
    name: str | None
    settings: Mapping[str, object]
    series: tuple[Series, ...]
    left_out: tuple[Series, ...] = ()
    pooled: int = 1

    @property
    def run(self) -> Run:
        """One of its runs, for what they have in common."""
        return (self.series or self.left_out)[0].run

    @property
    def title(self) -> str:
        """Scenario, name and distinguishing settings in one line."""
        return titled(self.scenario, self.name, self.settings)


def titled(scenario: str, name: str | None, settings: Mapping[str, object]) -> str:
    """A group in one line: `warm-start; theirs; lr=0.1, interventions=none`."""
    listed = ", ".join(f"{key}={said(value)}" for key, value in settings.items())
    return "; ".join(part for part in (scenario, name or "", listed) if part)


def groups(study: Study, *, pool: bool = False, ignore: Iterable[str] = ()) -> list[Group]:
    """Runs that differ only in seed (and in the settings named in `ignore`); imported runs by their name.

    `pool` merges all groups of a scenario.
    """
    left_out = frozenset(ignore)
    found: dict[tuple[object, ...], list[Series]] = {}
    keys_of: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for series in study.series:
        run = series.run
        if run.imported:
            key: tuple[object, ...] = (run.scenario, "imported", run.names)
        else:
            kept = sorted((k, frozen(v)) for k, v in run.settings.items() if k not in left_out)
            key = (run.scenario, "trained", *kept)
        merged = (run.scenario,) if pool else key
        found.setdefault(merged, []).append(series)
        keys_of.setdefault(merged, set()).add(key)
    firsts = [members[0].run for members in found.values() if not members[0].run.imported]
    distinguishing = {  # within a scenario: another one has other settings altogether, and imported runs have none
        scenario: differing_names([run.settings for run in firsts if run.scenario == scenario], left_out)
        for scenario in {run.scenario for run in firsts}
    }
    made = []
    for key, members in found.items():
        told_by: set[str] = set() if pool else distinguishing.get(members[0].run.scenario, set())
        kept_series = tuple(s for s in members if s.run.status not in LEFT_OUT)
        made.append(
            Group(
                scenario=members[0].run.scenario,
                name=_common_name([s.run for s in members]),
                settings={k: v for k, v in members[0].run.settings.items() if k in told_by},
                series=kept_series,
                left_out=tuple(s for s in members if s.run.status in LEFT_OUT),
                pooled=len(keys_of[key]),
            )
        )
    return made


def _common_name(runs: Sequence[Run]) -> str | None:
    shared = set(runs[0].names).intersection(*(run.names for run in runs[1:]))
    return ",".join(sorted(shared)) or None


def load(
    store: Store,
    addresses: Iterable[str] | None,
    *,
    ids: Sequence[str] | None = None,
    scenario: str | None = None,
    names: Sequence[str] = (),
) -> Study:
    """The study in a store: chosen runs, chosen addresses (None: all that are recorded).

    Probes (runs with a parent) are read on their parent's rows. The online accuracy is read along where plasticity
    losses are wanted: those not recorded follow from it.
    """
    rows = [row for row in store.select(ids, scenario=scenario, names=names) if row.parent is None]
    if addresses is None:
        addresses = map(str, store.recorded([row.id for row in rows]))
    wanted = list(dict.fromkeys(addresses))
    if {"plasticity_loss", "plasticity_loss_b24"} & set(wanted):
        wanted = list(dict.fromkeys([*wanted, "online_accuracy"]))
    columns = store.series([Address.parse(a) for a in wanted], [row.id for row in rows])
    series = []
    said_here = {(row.scenario, name) for row in rows for name in row.settings}
    for row in rows:
        found = columns[row.id]
        imported = bool(row.settings.get("imported") or row.recorded.get("imported"))
        # a setting newer than the first stores is left out at its default: it is said where other runs say another
        left_out = {k: v for k, v in row.recorded.get("defaults", {}).items() if (row.scenario, k) in said_here}
        settings = {k: v for k, v in {**left_out, **row.settings}.items() if k not in row.horizon and k != "seed"}
        run = Run(
            id=row.id, seed=row.seed, scenario=row.scenario, names=row.names, settings=settings, status=row.status,
            total_epochs=row.total_epochs, imported=imported, plan=row.recorded.get("plan"),
        )  # fmt: skip
        values = {a: found[str(Address.parse(a))] for a in wanted}
        series.append(Series.of(run, found["epoch"], found["task"], found["task_epoch"], values))
    return Study(tuple(series))
