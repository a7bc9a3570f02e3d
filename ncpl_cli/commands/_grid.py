"""What a sweep consists of, by command line or TOML file: every point of a grid, for every arm, with every seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ncpl_cli import values
from ncpl_cli.commands import _common
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.spec import DatasetSpec, NetworkSpec, OptimizerSpec
from ncpl_cli.values import Allowed

MEASURING = (
    "metrics", "layers", "measure_at", "measure_every", "measure_samples", "task_accuracy", "fresh_baseline",
    "fresh_baseline_over", "engine", "probes", "probe", "probe_every", "probe_epochs",
)  # fmt: skip
"""Settings that are no part of a run's identity: one value for the whole sweep."""

LISTS = ("intervention", "probe")
"""Those that are lists of texts."""

HINTS = {"probe_every": int, "probe_epochs": int, "measure_every": int, "measure_samples": int, "fresh_baseline": bool}
"""Their types, where they are no texts."""

MOST_RUNS = 20_000
"""Runs of one sweep: more is a slip of the hand, and more than a table can show."""

EXAMPLE = "scenario = 'permuted-digits', seeds = '0-4', [settings], [grid], [[zip]], [arms]"


@dataclass
class Study:
    """A sweep as it was described.

    settings  fixed options, as `ncpl train` takes them
    grid      values by option: every combination
    zipped    values by option that go together: the first with the first, the second with the second
    arms      interventions by the arm's name
    """

    scenario: Any
    name: str
    seeds: list[int]
    settings: dict[str, Any]
    grid: dict[str, list[Any]] = field(default_factory=dict)
    zipped: list[dict[str, list[Any]]] = field(default_factory=list)
    arms: dict[str, list[str]] = field(default_factory=dict)

    def points(self) -> list[tuple[str | None, dict[str, Any]]]:
        """Every combination: the arm's name (None without arms) and all options."""
        axes = [[{key: value} for value in values] for key, values in self.grid.items()]
        axes += [[dict(zip(of, row, strict=True)) for row in zip(*of.values(), strict=True)] for of in self.zipped]
        arms: list[tuple[str | None, list[str]]] = [*self.arms.items()] or [(None, [])]
        found = []
        for chosen in itertools.product(*axes):
            for label, interventions in arms:
                given = dict(self.settings)
                for part in chosen:
                    given |= part
                given["intervention"] = [*(given.get("intervention") or []), *interventions]
                found.append((label, given))
        return found


def keys(scenario: Any) -> list[str]:
    """The options that a grid may vary: those that are part of a run's identity."""
    found = [f.name for f in fields(scenario) if f.metadata["identity"]]
    for kind, option in ((NetworkSpec, "network"), (OptimizerSpec, "optimizer"), (DatasetSpec, "dataset")):
        found += [option if f.name == "name" else f.name for f in fields(kind)]
    return [*found, "objective", "precision"]


def from_options(
    scenario: Any, settings: Mapping[str, Any], seeds: Sequence[int] | str | None, grid: Sequence[str],
    arms: Sequence[str], name: str | None,
) -> Study:  # fmt: skip
    """A study from the command line: `--grid KEY=V1,V2`, `--arm NAME=SPEC+SPEC`."""
    axes: dict[str, list[Any]] = {}
    for text in grid:
        key, equals, values = text.partition("=")
        key = key.strip().removeprefix("--").replace("-", "_")
        if key in axes or not equals:
            raise InputError(f"--grid {text!r}: write each option once, as --grid KEY=V1,V2.")
        axes[key] = [value.strip() for value in values.split(",")]
    named: dict[str, list[str]] = {}
    for text in arms:
        label, _, written = text.partition("=")
        if not label or label in named:
            raise InputError(f"--arm {text!r}: write each arm once, as --arm NAME=SPEC+SPEC (--arm plain= has none).")
        named[label] = [part.strip() for part in written.split("+")] if written.strip() else []
    given = {key: value for key, value in settings.items() if value is not None and value is not False and value != []}
    study = Study(
        scenario, name or _name(scenario, given), _seeds("0" if seeds is None else seeds), given, axes, [], named
    )
    return _checked(study)


def from_file(path: Path, name: str | None) -> Study:
    """A study from a TOML file; raises InputError naming what is wrong in it."""
    from ncpl_cli.scenarios import scenario_named

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.", f"it would hold: {EXAMPLE}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}.", f"a sweep file holds: {EXAMPLE}") from None
    for key in document:
        if key not in ("scenario", "name", "seeds", "settings", "grid", "zip", "arms"):
            raise unknown(f"entry of {path}", key, ("scenario", "name", "seeds", "settings", "grid", "zip", "arms"))
    if not isinstance(document.get("scenario"), str):
        raise InputError(f"{path} names no scenario.", "write scenario = 'permuted-digits'")
    scenario = scenario_named(document["scenario"])
    zipped = document.get("zip", [])
    zipped = zipped if isinstance(zipped, list) else [zipped]
    tables = [document.get("settings", {}), document.get("grid", {}), document.get("arms", {}), *zipped]
    if not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: settings, grid, zip and arms are tables.", f"a sweep file holds: {EXAMPLE}")
    settings, grid, arms = tables[:3]
    for key, listed in [*grid.items(), *(item for of in zipped for item in of.items()), *arms.items()]:
        if not isinstance(listed, list):
            raise InputError(f"{path}: {key} is a list of values.", f"write {key} = [...]")
    settings = {key: ",".join(map(str, v)) if isinstance(v, list) and key not in LISTS else v
                for key, v in settings.items()}  # fmt: skip
    for of in zipped:
        if len({len(listed) for listed in of.values()}) > 1:
            raise InputError(f"{path}: the lists of a zip go together, {', '.join(of)} differ in length.")
        if not of:
            raise InputError(f"{path}: a zip is empty.", "write [[zip]] with a list for each of its options")
    own = values.read(document["name"], Allowed(), f"{path}: name") if "name" in document else path.stem
    study = Study(
        scenario, name if name is not None else own, _seeds(document.get("seeds", "0")), settings, grid, zipped,
        {label: _specs(texts, f"arm {label}") for label, texts in arms.items()},
    )  # fmt: skip
    return _checked(study)


def _checked(study: Study) -> Study:
    """The study with its values read as what their options take; raises InputError for whatever no run could have."""
    from ncpl_cli import settings

    may = keys(study.scenario)
    horizon = [f.name for f in fields(study.scenario)]
    for key in study.settings:
        if key not in (known := [*may, *horizon, *MEASURING, "intervention"]):
            raise unknown("setting", key, known)
    tables = [study.grid, *study.zipped]
    seen = [key for table in tables for key in table]
    for key in seen:
        if key in ("intervention", "interventions"):
            raise InputError("a grid does not vary interventions: arms do.", "--arm plain= --arm nc1=nc1:strength=0.05")
        if key not in may and key in horizon:
            raise InputError(
                f"{key} says how far a run goes, not which run it is: give it once for all.",
                f"--{key.replace('_', '-')} VALUE",
            )
        if key not in may:
            raise unknown("grid key", key, may)
        if seen.count(key) > 1 or key in study.settings:
            raise InputError(f"{key} is given twice: as a grid and as a setting, or in two grids.")

    def read(key: str, value: Any) -> Any:
        if key in LISTS:
            return _specs(value, key)
        return values.read(value, settings.allowed(study.scenario, key, HINTS.get(key)), key)

    for table in tables:
        for key, listed in table.items():
            table[key] = [read(key, value) for value in listed]
            if not listed or (len(set(table[key])) < len(listed) and table is study.grid):
                raise InputError(f"the grid of {key} is empty or names a value twice.")
    study.settings = {key: read(key, value) for key, value in study.settings.items()}
    points = math.prod(len(listed) for listed in study.grid.values()) * max(1, len(study.arms))
    points *= math.prod(len(next(iter(of.values()))) for of in study.zipped)
    if (runs := points * len(study.seeds)) > MOST_RUNS:
        raise InputError(
            f"{points} points with {len(study.seeds)} seeds are {runs} runs: a sweep has up to {MOST_RUNS}."
        )
    for _, given in study.points():
        settings.asked(study.scenario, given)
    return study


def _specs(written: Any, said: str) -> list[str]:
    """A list of interventions or probes, as a file writes it."""
    if not isinstance(written, list) or not all(isinstance(one, str) and one.strip() for one in written):
        raise InputError(f"{said} {values.shown(written)} is not a list of such texts.", "write ['nc1:strength=0.05']")
    return list(written)


def _seeds(written: Any) -> list[int]:
    return list(values.ranges(written, "--seeds"))


def _name(scenario: Any, given: Mapping[str, Any]) -> str:
    """The same fixed settings, the same sweep: grids and seeds extend it."""
    text = json.dumps(given, sort_keys=True, default=list)
    return f"{scenario.id}-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if given else str(scenario.id)


def arms_of(study: Study, data_dir: Path | None) -> tuple[list[Any], dict[Any, Any]]:
    """The arms (sweep.Arm), one a point, and the data sets they use, by DatasetSpec."""
    from ncpl_cli import settings
    from ncpl_cli.sweep import Arm

    loaded: dict[Any, Any] = {}
    arms = []
    for label, given in study.points():
        spec = settings.asked(study.scenario, given)
        if spec.dataset not in loaded:
            settings.find(spec)
            loaded[spec.dataset] = _common.load_data(spec.dataset, data_dir)
        arms.append(Arm(tuple(settings.on(spec, loaded[spec.dataset], study.seeds)), label))
    return arms, loaded
