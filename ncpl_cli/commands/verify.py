"""`ncpl verify`: anybody's function for collapse metrics through reference cases with right values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Json


def verify(
    function: Annotated[str | None, typer.Argument(help="MODULE:FUNCTION of the current directory's code.")] = None,
    export: Annotated[
        str | None, typer.Option("--export", help="Write the cases into this new directory: npz and cases.json.")
    ] = None,
    json_: Json = False,
) -> None:
    """Run f(features, labels, weight, bias) -> {metric id: value} through the reference cases; exit 1 if one is wrong.

    Features are NumPy arrays, labels integers; weight and bias may be None. Only the ids that it returns are judged;
    NaN, None and absent all mean undefined. Where classes are unbalanced, either global mean is right. Parameters
    called jacobian, test_features and test_labels are given too (tangent kernel, read-outs), None where there is none.

    Example: ncpl verify mine:metrics

    Example: ncpl verify --export cases
    """
    from ncpl_cli.callables import load_object
    from ncpl_cli.errors import InputError

    if function is None and export is None:
        raise InputError("verify takes MODULE:FUNCTION, --export DIR or both.", "ncpl verify mine:metrics")
    if export is not None and not export.strip():
        raise InputError("--export is empty: it takes a directory.", "ncpl verify --export cases")
    called = None if function is None else load_object(function)
    from ncpl_cli.verification.judge import COLUMNS, judge
    from ncpl_cli.verification.judge import export as write

    if export is not None:
        written = write(Path(export))
        _common.note(f"{len(written) - 1} cases written to {export}: cases.json has values, tolerances, derivations.")
    if called is None or function is None:
        if json_:
            _common.print_json({"exported": str(export), "cases": len(written) - 1})
        return
    found = judge(function, called)
    document: dict[str, Any] = {"function": function, "cases": found.cases, "right": found.right, "wrong": found.wrong,
                                "metrics": found.judged, "global_mean": found.conventions}  # fmt: skip
    if json_:
        _common.print_json(document)
    else:
        if found.wrong:
            rows = [["undefined" if one.get(c) is None and c in ("expected", "got") and not one.get("error") else
                     one.get(c, "" if c == "error" else None) for c in COLUMNS]
                    for one in _joined(found.wrong, found.cases)]  # fmt: skip
            _common.print_table(COLUMNS, rows)
        for convention, of in (("sample", "all samples"), ("class", "class means")):
            if cases := [case for case, own in found.conventions.items() if own == convention]:
                _common.note(f"the global mean is that of {of} in {', '.join(cases)}.")
        _common.note(
            f"{function}: {found.right} of {found.cases} cases right, {len(found.wrong)} values wrong "
            f"({', '.join(found.judged)})."
        )  # fmt: skip
    if found.wrong:
        raise typer.Exit(1)


def _joined(wrong: list[dict[str, Any]], cases: int) -> list[dict[str, Any]]:
    """What is wrong, cases that failed with the same error in one row, where the first of them is."""
    by_error: dict[str, list[str]] = {}
    for one in wrong:
        if one["metric"] is None:
            by_error.setdefault(one["error"], []).append(one["case"])
    return [
        one if one["metric"] is not None else
        {**one, "case": "every case" if len(by_error[one["error"]]) == cases else ", ".join(by_error[one["error"]])}
        for one in wrong if one["metric"] is not None or by_error[one["error"]][0] == one["case"]
    ]  # fmt: skip
