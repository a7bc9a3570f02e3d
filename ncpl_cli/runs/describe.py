"""What the store keeps of a run before it starts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ncpl_cli.metrics.catalogue import at_start, chosen, every_epoch
from ncpl_cli.records import RunInfo
from ncpl_cli.spec import RunSpec, flat


@functools.lru_cache(maxsize=1024)
def longest(scenario: Any) -> int:
    """How many epochs a run of these options has at most."""
    return sum(scenario.task_epochs(index) for index in range(scenario.tasks))


def describe(spec: RunSpec) -> RunInfo:
    """A run with all its settings."""
    scenario = spec.scenario
    total = longest(scenario) if scenario.fixed_length else None
    return RunInfo(
        id=spec.id,
        identity=spec.identity,
        scenario=scenario.id,
        seed=spec.seed,
        settings=flat(spec),
        horizon={scenario.horizon_field: getattr(scenario, scenario.horizon_field)},
        total_epochs=total,
        recorded=_recorded(spec),
        parent=getattr(scenario, "parent", None),
        branch_epoch=getattr(scenario, "branch_epoch", None),
    )


def _recorded(spec: RunSpec) -> dict[str, object]:
    """What is measured, and how; the plan and the probes of those runs that were made with some."""
    found = {**asdict(spec.measure), "engine": spec.engine}
    for name, default in (("plan", None), ("at", ()), ("fresh_over", "first")):
        if found[name] == default:
            del found[name]
    scenario = spec.scenario  # what `flat` leaves out, for those who compare runs by it
    newer = {f.name: f.default for f in fields(scenario) if f.metadata.get("newer")}
    if left_out := {name: value for name, value in newer.items() if getattr(scenario, name) == value}:
        found["defaults"] = left_out
    if spec.probes:
        found |= {"probes": [one.label for one in spec.probes], "probe_every": spec.probe_every}
    return found


def lacking(recorded: Mapping[str, Any], spec: RunSpec) -> str:
    """In words, what a finished run was not measured for and now shall be; empty when nothing."""
    before, now = recorded["metrics"], spec.measure.metrics
    missing = sorted(chosen(now) - chosen(before) | every_epoch(now) - every_epoch(before))
    missing += [f"{name}@start" for name in sorted(at_start(now) - at_start(before))]
    more = sorted(set(spec.measure.at) - set(recorded["at"])) if recorded.get("at") else []
    missing += [f"epoch {epoch}" for epoch in more]
    layers = ["all layers"] if spec.measure.layers == "all" and recorded["layers"] == "last" else []
    return ", ".join([*missing[:5], *(["..."] if len(missing) > 5 else []), *layers])
