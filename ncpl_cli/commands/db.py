"""`ncpl db`: info, upgrade, check, query, merge."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from ncpl_cli.app import App
from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db, Json
from ncpl_cli.errors import StoreError

app = App(help="Look after the store.")


@app.command("info")
def info(db: Db = None, json_: Json = False) -> None:
    """Where the store lies, how large it is, and what is in it.

    Example: ncpl db info
    """
    from ncpl_cli.store import open_store

    with open_store(_common.store_url(db), readonly=True) as store:
        found = store.info()
    if json_:
        _common.print_json(found)
        return
    rows = [(k, v) for k, v in found.items() if not isinstance(v, dict)]
    rows += [(f"runs {status}", count) for status, count in found["runs"].items()]
    rows += [(f"rows of {table}", count) for table, count in found["rows"].items()]
    _common.print_table(("store", "value"), rows)


@app.command("upgrade")
def upgrade(db: Db = None) -> None:
    """Bring a store to this ncpl's schema, after a backup beside it; done by itself when a command writes.

    Example: ncpl db upgrade --db old.db
    """
    from ncpl_cli.store import open_store, shown
    from ncpl_cli.store.schema import HEAD

    url = _common.store_url(db)
    with open_store(url, create=False):
        _common.note(f"the store {shown(url)} has schema {HEAD}.")


@app.command("check")
def check(db: Db = None, json_: Json = False) -> None:
    """Check the store's integrity; exit code 4 when something is wrong.

    Example: ncpl db check
    """
    from ncpl_cli.store import open_store, shown

    url = _common.store_url(db)
    with open_store(url, readonly=True) as store:
        problems = store.check()
    if json_:
        _common.print_json({"ok": not problems, "problems": problems})
    elif not problems:
        _common.out(f"the store {shown(url)} is sound.")
    if problems:
        faults = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise StoreError(f"the store {shown(url)} has {len(problems)} faults: {faults}.", "restore a backup")


@app.command("query")
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT.")],
    db: Db = None,
    json_: Json = False,
) -> None:
    """Ask the store in SQL; it is opened for reading only.

    Example: ncpl db query "SELECT id, count(*) FROM runs JOIN epochs ON epochs.run = runs.pk GROUP BY id"
    """
    from ncpl_cli.store import open_store

    with open_store(_common.store_url(db), readonly=True) as store:
        columns, rows = store.query(sql)
    rows = [tuple(cell.hex() if isinstance(cell, bytes) else cell for cell in row) for row in rows]
    if json_:
        _common.print_json({"columns": columns, "rows": rows})
    else:
        _common.print_table(columns, rows)


@app.command("merge")
def merge(
    others: Annotated[list[str], typer.Argument(help="Stores to take runs from: paths or URLs.")],
    db: Db = None,
    json_: Json = False,
) -> None:
    """Take over runs that were trained elsewhere, with their checkpoints; the same again changes nothing.

    Example: ncpl db merge laptop.db cluster.db --db all.db
    """
    from dataclasses import asdict

    from ncpl_cli.sealed import refusal
    from ncpl_cli.store import open_store, shown
    from ncpl_cli.store.merge import merge as merge_stores

    found = {}
    with contextlib.ExitStack() as stack:  # all sources first: where one cannot be read, no store is made
        sources = [stack.enter_context(open_store(other, readonly=True)) for other in others]
        store = stack.enter_context(open_store(_common.store_url(db)))
        for source in sources:
            found[shown(source.url)] = asdict(merge_stores(store, source, refusal))
    if json_:
        _common.print_json({"merged": found})
        return
    columns = ("new", "extended", "unchanged", "held")
    _common.print_table(("store", *columns), [(name, *(of[c] for c in columns)) for name, of in found.items()])
    for why in (why for of in found.values() for why in of["refused"]):
        _common.note(f"a checkpoint was left out: {why}.")
    if any(of["held"] for of in found.values()):
        _common.note("runs that are being trained were left out: merge again when they are done.")
