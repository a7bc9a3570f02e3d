"""`ncpl catalog`: what there is: scenarios, data sets, networks, engines, interventions, metrics."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Json


def catalog(
    metrics: Annotated[bool, typer.Option("--metrics", help="Metrics only.")] = False,
    check: Annotated[
        str | None, typer.Option(help="Ask of the parts in this file what all parts keep, and say what fails.")
    ] = None,
    data_dir: DataDir = None,
    json_: Json = False,
) -> None:
    """What there is: scenarios, data sets, networks, engines, interventions, metrics with formula and source.

    Parts of your own (--plugin FILE, NCPL_PLUGINS, entry points `ncpl.plugins`) are listed with the file they are from.

    Example: ncpl catalog --metrics

    Example: ncpl catalog --check mine.py
    """
    if check is not None:
        return _check(check, data_dir, json_)
    found = contents()
    if metrics:
        found = {"metrics": found["metrics"]}
    if json_:
        _common.print_json(found)
        return
    for kind, entries in found.items():
        columns = list(entries[0]) if entries else ["id"]
        _common.print_table(columns, [[entry[c] for c in columns] for entry in entries], title=kind)


def _check(file: str, data_dir: str | None, as_json: bool) -> None:
    """Ask every check of the parts in a file; RunFailed where one is not kept."""
    from dataclasses import asdict
    from pathlib import Path

    from ncpl_cli import plugins
    from ncpl_cli.analysis.words import count
    from ncpl_cli.contracts import checked
    from ncpl_cli.errors import RunFailed

    parts = plugins.load_file(Path(file))
    found = [
        one for registry, name in parts
        for one in checked(registry, name, plugins.part(registry, name), _common.data_path(data_dir))
    ]  # fmt: skip
    if as_json:
        _common.print_json({"file": file, "checks": [asdict(one) for one in found]})
    else:
        rows = [(one.registry.lower(), one.part, one.check, one.wrong or "kept") for one in found]
        _common.print_table(("kind", "part", "check", "outcome"), rows)
    if bad := [one for one in found if one.wrong]:
        raise RunFailed(
            f"{len(bad)} of {len(found)} checks of {file} are not kept, the first is {bad[0].part}, {bad[0].check}: "
            f"{bad[0].wrong}.",
            "docs/plugins.md has a complete example of each kind",
        )
    _common.note(f"{count(len(found), 'check')} of {count(len(parts), 'part')}: kept.")


def contents() -> dict[str, list[dict[str, Any]]]:
    """Every registry as plain values."""
    from dataclasses import fields

    from ncpl_cli import plugins
    from ncpl_cli.data import DATASETS
    from ncpl_cli.engines import ENGINES
    from ncpl_cli.interventions import INTERVENTIONS
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.networks import NETWORKS
    from ncpl_cli.objectives import OBJECTIVES
    from ncpl_cli.probes import PROBES
    from ncpl_cli.scenarios import SCENARIOS

    def _shown(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    def first_line(thing: Any) -> str:
        return (thing.__doc__ or "").strip().partition("\n")[0]

    found: dict[str, list[dict[str, Any]]] = {
        "scenarios": [
            {
                "id": s.id,
                "what": first_line(s),
                "options": " ".join("--" + f.name.replace("_", "-") for f in fields(s)),
            }
            for s in SCENARIOS
        ],
        "datasets": [{"id": name, "what": first_line(load)} for name, load in DATASETS.items()]
        + [
            {"id": "folder:PATH", "what": "One sub-folder of images per class."},
            {"id": "module:callable", "what": "Arrays that a function of your own returns."},
        ],
        "networks": [{"id": name, "what": first_line(network)} for name, network in NETWORKS.items()]
        + [{"id": "module:callable", "what": "Your own, or another's: torchvision.models:vgg11."}],
        "engines": [{"id": name, "what": first_line(engine)} for name, engine in ENGINES.items()],
        "interventions": [
            {
                "id": i.id, "what": " ".join((i.__doc__ or "").split()),
                "parameters": ",".join(f"{f.name}={_shown(f.default)}" for f in fields(i)),
                "engines": " ".join(i.engines), "source": i.source,
            }
            for i in INTERVENTIONS.values()
        ]
        + [
            {
                "id": "weight_decay", "what": "The optimiser's weight decay: the same as --weight-decay.",
                "parameters": "strength=0.0001", "engines": "online stacked", "source": "common",
            }
        ],
        "objectives": [
            {
                "id": o.id, "what": " ".join((o.__doc__ or "").split()),
                "parameters": ",".join(f"{f.name}={_shown(f.default)}" for f in fields(o)),
            }
            for o in OBJECTIVES.values()
        ],
        "probes": [
            {
                "id": p.id, "what": " ".join((p.__doc__ or "").split()),
                "parameters": ",".join(f"{f.name}={_shown(f.default)}" for f in fields(p)),
            }
            for p in PROBES.values()
        ],
        "metrics": [
            {
                "id": m.id, "formula": m.formula, "direction": m.direction, "needs": m.needs, "cost": m.cost,
                "source": m.source,
            }
            for m in METRICS.values()
        ],
    }  # fmt: skip
    for registry in plugins.REGISTRIES:
        for entry in found.get(registry.lower(), ()):
            own = plugins.origin(registry, entry["id"])
            entry["origin"] = own.file if own else "ncpl"
    return found
