"""`ncpl catalog`: what there is: scenarios, data sets, networks, engines, interventions, metrics."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Json


def catalog(
    metrics: Annotated[bool, typer.Option("--metrics", help="Metrics only.")] = False,
    json_: Json = False,
) -> None:
    """What there is: scenarios, data sets, networks, engines, interventions, metrics with formula and source.

    Example: ncpl catalog --metrics
    """
    found = contents()
    if metrics:
        found = {"metrics": found["metrics"]}
    if json_:
        _common.print_json(found)
        return
    for kind, entries in found.items():
        columns = list(entries[0]) if entries else ["id"]
        _common.print_table(columns, [[entry[c] for c in columns] for entry in entries], title=kind)


def contents() -> dict[str, list[dict[str, Any]]]:
    """Every registry as plain values."""
    from dataclasses import fields

    from ncpl_cli.data import DATASETS
    from ncpl_cli.engines import ENGINES
    from ncpl_cli.interventions import INTERVENTIONS
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.networks import NETWORKS
    from ncpl_cli.scenarios import SCENARIOS

    def _shown(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    def first_line(thing: Any) -> str:
        return (thing.__doc__ or "").strip().splitlines()[0]

    return {
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
        "metrics": [
            {
                "id": m.id, "formula": m.formula, "direction": m.direction, "needs": m.needs, "cost": m.cost,
                "source": m.source,
            }
            for m in METRICS.values()
        ],
    }  # fmt: skip
