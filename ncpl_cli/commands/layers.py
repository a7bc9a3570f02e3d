"""`ncpl layers`: which layer collapses first."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ncpl_cli.commands import _became, _common
from ncpl_cli.commands._common import Db, Json


@_became.told
def layers(
    metric: Annotated[str, typer.Option(help="A collapse metric that falls.")] = "nc1",
    split: Annotated[str, typer.Option(help="The split it was measured on.")] = "train",
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    runs: Annotated[str | None, typer.Option(help="Only these runs: ids or labels with commas.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="Only runs with this label; repeatable.")] = None,
    db: Db = None,
    json_: Json = False,
) -> None:
    """Which layer collapses first: when each has gone half of its way, and which is lowest at the end.

    Layers are recorded by `ncpl train ... --layers all`.

    Example: ncpl train permuted-digits --tasks 2 --seeds 0-2 --layers all; ncpl layers --metric nc1
    """
    from ncpl_cli.analysis import load
    from ncpl_cli.analysis.casualties import in_words
    from ncpl_cli.analysis.layers import layer_orders
    from ncpl_cli.errors import NothingFound
    from ncpl_cli.store import open_store

    ids = [part.strip() for part in runs.split(",")] if runs else None
    with open_store(_common.store_url(db), readonly=True) as store:
        chosen = [row.id for row in store.select(ids, scenario=scenario, names=name or ()) if row.parent is None]
        asked = [str(a) for a in store.recorded(chosen) if a.metric == metric and a.split == split]
        found = layer_orders(load(store, asked, ids=chosen), metric, split) if asked else []
    if not found:
        raise NothingFound(
            f"{metric}@{split} is recorded at {'one layer' if asked else 'no layer'} of these runs.",
            "ncpl train ... --layers all records every layer; ncpl measure --run ID --layers all a stored epoch",
        )
    if json_:
        _common.print_json({"metric": metric, "split": split, "groups": [asdict(one) for one in found]})
        return
    for one in found:
        what = in_words({k: v for k, v in one.settings.items() if len(found) > 1}) or one.name
        _common.say(f"{one.scenario}{'; ' + what if what else ''}: {one.sentence}")
        columns = ("layer", "half by epoch", f"{metric} first", f"{metric} last", "first in", "runs")
        _common.print_table(columns, [(c.layer, c.half, c.first, c.last, c.first_in, c.runs) for c in one.layers])
