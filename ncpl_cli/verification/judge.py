"""Anybody's function through the reference cases: what is wrong, and by how much."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ncpl_cli import html
from ncpl_cli.callables import said
from ncpl_cli.errors import InputError
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.verification.cases import CASES, FURTHER, Case
from ncpl_cli.verification.definitions import Values

Said = dict[str, float | None]

COLUMNS = ("case", "metric", "expected", "got", "factor", "relative", "error")
"""What is said of a wrong value: factor = got / expected, relative = (got - expected) / |expected|."""


@dataclass
class Verdict:
    """How many cases are wholly right, each wrong value, and by which global mean unbalanced cases were right."""

    cases: int = 0
    right: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    conventions: dict[str, str] = field(default_factory=dict)
    judged: list[str] = field(default_factory=list)

    def _repr_html_(self) -> str:
        rows = [[one.get(name, "" if name == "error" else None) for name in COLUMNS] for one in self.wrong]
        means = [f"{case}: the global mean is by {which}." for case, which in self.conventions.items()]
        said = f"{self.right} of {self.cases} cases right, {len(self.wrong)} values wrong ({', '.join(self.judged)})"
        return html.shown(said, COLUMNS, rows, means)


def judge(name: str, function: Callable[..., Any], cases: list[Case] | None = None) -> Verdict:
    """Hold a function f(features, labels, weight, bias) -> mapping against every case.

    A function that has parameters jacobian (N, C, P), test_features or test_labels is given them by name, None where
    a case has none. Only ids that it returns in some case are judged; NaN, None and absent all mean undefined. An
    exception is a wrong result of its case. Raises InputError where it returns no mapping, or nothing that is known.
    """
    cases = [make() for make in CASES] if cases is None else cases
    answers: list[Said | str] = [_ask(name, function, case) for case in cases]
    returned = {metric for answer in answers if not isinstance(answer, str) for metric in answer}
    known = {metric for case in cases for metric in case.values}
    if not returned & known and not all(isinstance(answer, str) for answer in answers):
        raise InputError(
            f"{name} returned no metric id that is known ({', '.join(sorted(returned)[:5]) or 'nothing at all'}).",
            f"ids are: {', '.join(sorted(known))}",
        )
    found = Verdict(len(cases), judged=[metric for metric in METRICS if metric in returned & known])
    for case, answer in zip(cases, answers, strict=True):
        if isinstance(answer, str):
            found.wrong.append({"case": case.name, "metric": None, "expected": None, "got": None, "factor": None,
                                "relative": None, "error": answer})  # fmt: skip
            continue
        by_sample, by_class = (
            [_wrong(case, metric, values, answer) for metric in found.judged if metric in values]
            for values in (case.values, case.by_class)
        )
        wrong = [one for one in by_sample if one]
        if case.by_class:
            other = [one for one in by_class if one]
            if _distinguishes(case, found.judged):
                found.conventions[case.name] = "class" if len(other) < len(wrong) else "sample"
            wrong = min(wrong, other, key=len)
        found.wrong += wrong
        found.right += not wrong
    return found


def _distinguishes(case: Case, judged: list[str]) -> bool:
    """Whether what is judged depends on the global mean at all."""
    return any(case.values.get(metric) != case.by_class.get(metric) for metric in judged)


def _ask(name: str, function: Callable[..., Any], case: Case) -> Said | str:
    """What the function says of copies of a case's arrays, or its error; what it prints goes to stderr."""
    given = [None if a is None else a.copy() for a in (case.features, case.labels, case.weight, case.bias)]
    further = {key: case.further[key].copy() if key in case.further else None for key in _takes(function)}
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            result = function(*given, **further)
    except (Exception, SystemExit) as error:
        return said(error)
    values = getattr(result, "values", None)
    if not isinstance(result, Mapping) and isinstance(values, Mapping):  # a result object with its values by id
        result = values
    if not isinstance(result, Mapping):
        raise InputError(
            f"{name} returned a {type(result).__name__}, and no mapping of metric ids to values.",
            'def f(features, labels, weight, bias): return {"nc1": ..., "nc2": ...}',
        )
    found: Said = {}
    for metric, value in result.items():
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            return f"{metric} is no number: {said(error)}"
        found[str(metric)] = None if math.isnan(number) else number
    return found


def _takes(function: Callable[..., Any]) -> list[str]:
    """Which arrays beside the four it has parameters for, by their names."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return []
    first = [*parameters][:4]
    return [key for key in FURTHER if key in parameters and key not in first]


def _wrong(case: Case, metric: str, values: Values, answer: Said) -> dict[str, Any] | None:
    """What is wrong with one value, None where nothing is."""
    expected, got = values[metric], answer.get(metric)
    relative, absolute = case.tolerance(metric)
    if expected is None or got is None:
        if expected is got:
            return None
    elif math.isclose(got, expected, rel_tol=relative, abs_tol=absolute):
        return None
    off = factor = None
    if expected and got is not None and math.isfinite(got):
        off, factor = (got - expected) / abs(expected), got / expected
    shown = None if got is None or not math.isfinite(got) else got
    found = {"case": case.name, "metric": metric, "expected": expected, "got": shown, "factor": factor,
             "relative": off}  # fmt: skip
    if got is not None and shown is None:
        found["error"] = f"{metric} is infinite"
    return found


def export(directory: Path) -> list[Path]:
    """Write every case as an .npz of its arrays, and `cases.json` with values, tolerances and derivations."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is there already and not an empty directory.", "--export a new directory")
    directory.mkdir(parents=True, exist_ok=True)
    written, listed = [], []
    for make in CASES:
        case = make()
        arrays = {"features": case.features, "labels": case.labels, "weight": case.weight, "bias": case.bias,
                  **case.further}  # fmt: skip
        path = directory / f"{case.name}.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]
        written.append(path)
        listed.append({"case": case.name, "file": path.name, "derivation": case.derivation,
                       "values": {metric: _described(case, metric) for metric in case.values}})  # fmt: skip
    path = directory / "cases.json"
    path.write_text(json.dumps({"cases": listed}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [*written, path]


def _described(case: Case, metric: str) -> dict[str, Any]:
    relative, absolute = case.tolerance(metric)
    how = case.closed.get(metric) or (METRICS[metric].formula if metric in METRICS else metric)
    found = {"value": case.values[metric], "relative_tolerance": relative, "absolute_tolerance": absolute,
             "derivation": how}  # fmt: skip
    if case.by_class and case.by_class.get(metric) != case.values[metric]:
        found["value_with_mean_of_class_means"] = case.by_class.get(metric)
    return found
