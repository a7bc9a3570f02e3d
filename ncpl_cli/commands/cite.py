"""`ncpl cite`: what to cite for the runs of a store: this program, and the papers of what was used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db, Json
from ncpl_cli.values import Allowed


def cite(
    format_: Annotated[
        str, typer.Option("--format", help="text or bibtex.", parser=Allowed(choices=("text", "bibtex")))
    ] = "text",
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs with this label.")] = None,
    db: Db = None,
    json_: Json = False,
) -> None:
    """What to cite: ncpl, and the papers of the metrics, interventions and studies of these runs.

    Example: ncpl cite --format bibtex
    """
    from ncpl_cli import __version__, references

    used = _used(db, scenario, name)
    found = references.cited(used)
    why = {one.code: sorted(what for text, whats in used.items() if one in references.cited([text]) for what in whats)
           for one in found}  # fmt: skip
    if json_:
        _common.print_json({
            "ncpl": {**references.OURS, "version": __version__},
            "references": [{"key": r.key, "text": r.line, "bibtex": r.bibtex, "for": why[r.code]} for r in found],
        })  # fmt: skip
        return
    if format_ == "bibtex":
        for entry in (references.own_bibtex(__version__), *(one.bibtex for one in found)):
            for line in [*entry.splitlines(), ""]:
                _common.out(line)
        return
    _common.say(f"The ncpl authors ({references.OURS['year']}). {references.OURS['title']}. Version {__version__}.")
    for one in found:
        listed = why[one.code]
        some = ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
        _common.say(f"{one.line} For: {some}.", "- ")


def _used(db: str | None, scenario: str | None, name: str | None) -> dict[str, list[str]]:
    """{source, as it is written: what of these runs comes from it}; nothing where there is no store."""
    from ncpl_cli.errors import StoreError
    from ncpl_cli.interventions import INTERVENTIONS
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.store import open_store
    from ncpl_cli.studies import STUDIES, study_named

    found: dict[str, list[str]] = {"P20": ["neural collapse"]}
    try:
        with open_store(_common.store_url(db), readonly=True) as store:
            rows = store.select(scenario=scenario, names=[name] if name is not None else ())
            metrics = sorted({address.metric for address in store.recorded([row.id for row in rows])})
    except StoreError:
        if db is not None or scenario is not None or name is not None:
            raise
        return found
    treatments: set[str] = {str(text).partition(":")[0] for row in rows for text in _listed(row.settings)}
    sources = [(METRICS[metric].source, metric) for metric in metrics if metric in METRICS]
    sources += [(INTERVENTIONS[one].source, one) for one in sorted(treatments) if one in INTERVENTIONS]
    labels = {label for row in rows for label in row.names}
    for study in map(study_named, STUDIES):
        if any(label.startswith(study.id) for label in labels):
            sources.append((study.source, f"the study {study.id}"))
    for source, what in sources:
        found.setdefault(source, []).append(what)
    return found


def _listed(settings: Any) -> list[object]:
    given = settings.get("interventions") or []
    return list(given) if isinstance(given, list | tuple) else [given]
