"""What stands in the columns of an export: a frictionless `datapackage.json` beside it, for people and other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncpl_cli import __version__
from ncpl_cli.output import opened, special

if TYPE_CHECKING:
    import pandas as pd

NAME = "datapackage.json"

OF_A_ROW = {
    "run": "id of the run", "scenario": "what was trained on", "name": "labels of the run", "seed": "seed of the run",
    "status": "finished, diverged, failed, ...", "task": "index of the task, from 0",
    "epoch": "epoch over the whole run, from 1; 0 is the untrained network", "task_epoch": "epoch within the task",
    "samples_seen": "training samples seen since the run began", "split": "which data the metrics were measured on",
    "layer": "where in the network; the last hidden layer is `last`", "parent": "the run that a probe branched off",
    "branch_epoch": "after which epoch of it",
}  # fmt: skip
UNITS = {"seconds": "s", "measure_seconds": "s", "samples_seen": "samples", "epoch": "epochs", "task_epoch": "epochs"}


def describe(frame: pd.DataFrame, target: str, kind: str) -> str | None:
    """Write or extend the description beside an export; its path, None where there is none or another's is there."""
    if special(target):
        return None
    place = Path(target).with_name(NAME)
    package: dict[str, Any] = {"name": "ncpl-export", "profile": "tabular-data-package", "resources": []}
    if place.exists():
        try:
            package = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(package, dict) or package.get("name") != "ncpl-export":
            return None
    path = Path(target).name
    others = [one for one in package.get("resources", []) if one.get("path") != path]
    package["resources"] = [*others, _resource(frame, path, kind)]
    package["created_by"] = f"ncpl {__version__}"
    with opened(place) as file:
        file.write((json.dumps(package, ensure_ascii=False, indent=1) + "\n").encode())
    return str(place)


def _resource(frame: pd.DataFrame, path: str, kind: str) -> dict[str, Any]:
    import re

    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.references import said

    fields = []
    for column in map(str, frame.columns):
        field: dict[str, Any] = {"name": column, "type": _type(frame[column])}
        if column in OF_A_ROW:
            field["description"] = OF_A_ROW[column]
        elif metric := METRICS.get(column):
            field |= {"description": metric.formula, "direction": metric.direction, "source": said(metric.source)}
        elif column not in UNITS:
            field["description"] = "a setting of the run, or a column that was recorded under this name"
        if column in UNITS:
            field["unit"] = UNITS[column]
        elif column in METRICS:
            field["unit"] = "1"  # shares, ratios and norms of features have no unit
        fields.append(field)
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(path).stem.lower()) or "export"
    schema = {"fields": fields, "missingValues": [""]}
    mediatype = "text/csv" if kind == "csv" else "application/vnd.apache.parquet"
    return {"name": name, "path": path, "format": kind, "mediatype": mediatype, "encoding": "utf-8", "schema": schema}


def _type(column: pd.Series[Any]) -> str:
    import pandas.api.types as of

    if of.is_bool_dtype(column):
        return "boolean"
    if of.is_integer_dtype(column):
        return "integer"
    return "number" if of.is_numeric_dtype(column) else "string"
