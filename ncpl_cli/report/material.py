"""Everything a report is drawn from: chosen from the store, read once; results computed once, when first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.analysis import (
    Comparison,
    Group,
    GroupCorrelation,
    Options,
    Series,
    Study,
    compare,
    correlate,
    groups,
    load,
    words,
)
from ncpl_cli.analysis.claims import Judged, arms_of, judge
from ncpl_cli.analysis.correlation import default_y
from ncpl_cli.analysis.multiverse import multiverse
from ncpl_cli.analysis.preregistered import Plan, Question
from ncpl_cli.analysis.study import FIRST_TASK_SETTINGS
from ncpl_cli.analysis.warm_start import WarmStartGap, warm_start_gap
from ncpl_cli.errors import InputError
from ncpl_cli.report.labels import labels, said
from ncpl_cli.report.theme import MOST_LINES
from ncpl_cli.studies import STUDIES, study_named

if TYPE_CHECKING:
    from ncpl_cli.store import RunRow, Store

WINDOW = 100
"""B24's sliding window."""

MULTIVERSE = ("nc1", "nc1_fraction", "cdnv", "nc1@test")
"""What stands for collapse in a report's multiverse; `ncpl correlate --multiverse` takes every recorded metric."""

MOST_VERDICTS = 4
"""Results of a scenario that are judged over all specifications: those that are said in words."""

MOST_ROWS = 2500
"""Rows of numbers behind one figure, divided among scenarios: a page of 200 runs must stay below 4 MB."""


@dataclass(frozen=True, eq=False)
class Part:
    """The chosen runs of one scenario.

    groups     runs that differ only in seed, those with recorded epochs
    labels     what tells each group from the others, one for each
    lost       groups of which no run is left: all failed or diverged
    classes    of the training split, None where runs differ or nothing was counted: guessing is right once in so many
    most_rows  rows of numbers that one figure may have
    tag        ends the ids of its figures where there are several scenarios: `-warm-start`
    """

    scenario: str
    study: Study
    groups: tuple[Group, ...]
    labels: tuple[str, ...]
    directions: Mapping[str, str] = field(default_factory=dict)
    most_rows: int = MOST_ROWS
    lost: tuple[Group, ...] = ()
    classes: int | None = None
    tag: str = ""

    @property
    def several(self) -> bool:
        """Whether tasks follow each other in these runs."""
        return any(s.tasks > 1 for g in self.groups for s in g.series)

    def figure_id(self, what: str, label: str = "") -> str:
        """The id of a figure, and its file's name: `nc1-by-task-warm-start`; `label`: of the group that it shows."""
        slugs = [words.slug(one) for one in self.labels]
        if not label or len(slugs) < 2:
            return f"{what}{self.tag}"
        at = self.labels.index(label)
        again = slugs[:at].count(slugs[at])
        return f"{what}-{slugs[at]}{f'-{again + 1}' if again else ''}{self.tag}"

    @property
    def unit(self) -> str:
        """What the horizontal axis counts: one point a task where tasks follow each other, else a point an epoch."""
        return "task" if self.several else "epoch"

    @property
    def shown(self) -> list[tuple[str, Group]]:
        """The groups that figures show: the first few, as more cannot be told apart."""
        return list(zip(self.labels, self.groups, strict=True))[:MOST_LINES]

    @staticmethod
    def label_of(group: Group) -> str:
        """What tells a group from the others."""
        return ", ".join(said(k, v) for k, v in group.settings.items() if v is not None) or group.name or "all runs"

    def has(self, address: str) -> bool:
        """Whether any run has a value there."""
        return address in self._addresses

    @cached_property
    def _addresses(self) -> frozenset[str]:
        return frozenset(self.study.addresses())

    @cached_property
    def correlations(self) -> tuple[tuple[str, GroupCorrelation], ...]:
        """The default pair in every group, with its label; windows of 100, or of half the series where it is short."""
        found: list[tuple[str, GroupCorrelation]] = []
        for label, group in zip(self.labels, self.groups, strict=True):
            y, _ = default_y(group)
            spans = [len(s.task_ends()) if self.several else float(np.ptp(s.epoch)) + 1 for s in group.series]
            options = Options(window=window_for(max(spans, default=0)), directions=self.directions)
            asked = {(q.x, q.y): planned_options(q, options) for q in planned_questions(group) if q.across != "runs"}
            results: list[GroupCorrelation] = []
            for pair in dict.fromkeys([("nc1", y), *asked]):
                chosen = asked.get(pair, options)
                results += _or_none(lambda g=group, o=chosen, p=pair: correlate(Study(g.series), [p], o)) or ()
            # by itself the group has nothing that tells it from others: give it back what does
            shown = {k: v for k, v in group.settings.items() if v is not None}
            name = group.name if group.series[0].run.imported else None
            for r in results:
                metrics = [a for a in MULTIVERSE if self.has(a)] if r.x == "nc1" else [r.x]
                whole = None
                if len(found) < MOST_VERDICTS:
                    whole = multiverse(group, r.x, r.y, replace(options, across=r.across), metrics=metrics)
                found.append((label, replace(r, name=name, settings=shown, multiverse=whole)))
        return tuple(found)

    @cached_property
    def over_runs(self) -> tuple[GroupCorrelation, ...]:
        """nc1 after the first task against what came later, where runs differ in the length of the first task."""
        chosen: list[Series] = []
        for group in groups(self.study, ignore=FIRST_TASK_SETTINGS):
            lengths = {tuple(str(s.run.settings.get(k)) for k in sorted(FIRST_TASK_SETTINGS)) for s in group.series}
            if len(lengths) > 1 and any(s.tasks > 1 for s in group.series):
                chosen += group.series
        if not chosen:
            return ()
        options = Options(across="runs", directions=self.directions)
        pairs = [("nc1", "plasticity_loss"), ("nc1", "online_accuracy")]
        return _or_none(lambda: correlate(Study(tuple(chosen)), pairs, options)) or ()

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every arm against its plain arm; empty where there is no such pair."""
        return _or_none(lambda: compare(self.study)) or ()


def planned_questions(group: Group) -> tuple[Question, ...]:
    """What was to be asked of these runs, as their first plan says."""
    text = next((s.run.plan for s in group.series if s.run.plan), None)
    return Plan.of(text).questions if text else ()


def planned_options(question: Question, options: Options) -> Options:
    """The options as a question plans them."""
    return replace(options, window=question.window, method=question.method, across=question.across,
                   controls=question.controls)  # fmt: skip


def window_for(span: float) -> int:
    """The window for a series of this length: the published 100, or half the series where 100 do not fit."""
    return WINDOW if span > WINDOW else max(4, int(span) // 2)


@dataclass(frozen=True)
class Claims:
    """The claims of one part of a published study, held against the chosen runs; `arms`: these, by arm."""

    study: str
    source: str
    part: str
    scale: str
    judged: tuple[Judged, ...]
    arms: Mapping[str, Sequence[Series]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Material:
    """What was chosen from the store.

    rows        chosen runs, probes apart
    probes      number of finished probes that branch off them
    provenance  last attempt's provenance by run, None where a run was imported or never started
    retention   see Store.retention
    undefined   see Store.undefined_counts
    formulas    (formula, direction, source) by metric id
    gaps        what warm starting cost, by scenario and label of the group
    selection   the options that chose the runs, as written
    claims      (study, part, scale, judged claims) of every published study that runs are labelled with
    faults      which of these runs carry numbers that a fault of an earlier ncpl spoiled, in sentences
    """

    rows: tuple[RunRow, ...]
    probes: int
    parts: tuple[Part, ...]
    provenance: Mapping[str, Mapping[str, Any] | None]
    attempts: Mapping[str, int]
    retention: Mapping[str, Mapping[int, tuple[float, int]]]
    undefined: Sequence[tuple[str, str, int, int]]
    formulas: Mapping[str, tuple[str, str, str]]
    gaps: Mapping[tuple[str, str], WarmStartGap]
    selection: str = ""
    claims: tuple[Claims, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def plans(self) -> dict[Plan, int]:
        """Plans of the analysis that these runs were begun under, with the number of runs; in order."""
        found: dict[Plan, int] = {}
        for part in self.parts:
            for series in part.study.series:
                if series.run.plan:
                    plan = Plan.of(series.run.plan)
                    found[plan] = found.get(plan, 0) + 1
        return found

    def trained_here(self, group: Group) -> bool:
        """Whether ncpl trained these runs, so that a command can do it again; else imported or recorded elsewhere."""
        run = group.series[0].run
        if run.imported:
            return False
        return any(row.id == run.id and row.recorded.get("by") != "recorder" for row in self.rows)

    def named(self, address: str) -> str:
        """A metric with its direction, as axes and panels are titled."""
        metric = address.partition("@")[0]
        direction = self.formulas.get(metric, ("", "", ""))[1]
        return f"{address} ({direction})" if "=" in direction else address


def gather(
    store: Store, formulas: Mapping[str, tuple[str, str, str]], *, ids: Sequence[str] | None = None,
    scenario: str | None = None, names: Sequence[str] = (), selection: str = "",
) -> Material:  # fmt: skip
    """Read what was chosen. Raises InputError when that is no run."""
    rows = [row for row in store.select(ids, scenario=scenario, names=names) if row.parent is None]
    if not rows and (ids or scenario or names):
        raise InputError("no run fits this selection.", "ncpl runs list shows all runs and their names")
    chosen = [row.id for row in rows]
    addresses = [str(address) for address in store.recorded(chosen)] if rows else []
    study = load(store, dict.fromkeys([*addresses, "plasticity_loss", "plasticity_loss_b24"]), ids=chosen)
    directions = {metric: facts[1] for metric, facts in formulas.items()}
    tried = {run: store.attempts(run) for run in chosen}
    finished = store.runs(status="finished")
    counted = {row.id: row.recorded.get("counts", {}).get("train", {}).get("classes") for row in rows}
    parts = _parts(study, directions, counted)
    gaps = {
        (part.scenario, label): warm_start_gap(store, [s.run.id for s in group.series])
        for part in parts
        if part.has("probe_test_accuracy")
        for label, group in zip(part.labels, part.groups, strict=True)
    }
    return Material(
        rows=tuple(rows),
        probes=sum(row.parent in set(chosen) for row in finished),
        parts=tuple(parts),
        provenance={run: attempts[-1]["provenance"] if attempts else None for run, attempts in tried.items()},
        attempts={run: len(attempts) for run, attempts in tried.items()},
        retention=store.retention(chosen),
        undefined=store.undefined_counts(chosen),
        formulas=formulas,
        gaps=gaps,
        selection=selection,
        claims=tuple(_claims(study)),
        faults=tuple(store.spoiled(chosen)),
    )


def _claims(study: Study) -> list[Claims]:
    """Published claims that the chosen runs were made for, as their labels say."""
    labels = {name for s in study.series for name in s.run.names}
    datasets = {str(s.run.settings.get("dataset")) for s in study.series}
    found = []
    for published in map(study_named, STUDIES):
        for part in published.parts:
            for scale in part.plans:
                for one in part.among(published.id, scale, labels, datasets):
                    arms = arms_of(study, published.id, one, scale)
                    judged = tuple(judge(one.claims, arms))
                    found.append(Claims(published.id, published.source, one.id, scale, judged, arms))
    return found


def _parts(study: Study, directions: Mapping[str, str], counted: Mapping[str, Any]) -> list[Part]:
    found: list[Part] = []
    scenarios = list(dict.fromkeys(s.run.scenario for s in study.series))
    for scenario in scenarios:
        mine = Study(tuple(s for s in study.series if s.run.scenario == scenario))
        recorded, lost = [], []
        for group in groups(mine):
            kept = tuple(s for s in group.series if len(s.epoch))
            if kept:
                recorded.append(replace(group, series=kept))
            elif not group.series:
                lost.append(group)
        recorded.sort(key=_order)
        most = MOST_ROWS // len(scenarios)
        classes = {counted.get(s.run.id) for g in recorded for s in g.series}
        only = int(next(iter(classes)) or 0) if len(classes) == 1 else 0
        slug = words.slug(scenario)
        again = sum(words.slug(other) == slug for other in scenarios[: len(found)])
        tag = f"-{slug}{again + 1 if again else ''}" if len(scenarios) > 1 else ""
        found.append(
            Part(scenario, mine, tuple(recorded), labels(recorded), directions, most, tuple(lost), only or None, tag)
        )
    return found


def _order(group: Group) -> tuple[object, ...]:
    """Plain arms first, then by the length of the first task: the order in which people read arms."""
    settings = group.series[0].run.settings
    length = settings.get("first_task_epochs")
    stopped = settings.get("first_task_nc1") is not None
    return (bool(settings.get("interventions")), stopped, float(length) if isinstance(length, int | float) else 0.0)


def _or_none(compute: Any) -> Any:
    """What an analysis finds, None where it says that there is nothing to find."""
    try:
        return compute()
    except InputError:
        return None
