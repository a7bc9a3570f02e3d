"""`ncpl serve`: a local page over the store while it trains."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db


def serve(
    host: Annotated[str, typer.Option(help="Where to listen; another than this machine needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    token: Annotated[str | None, typer.Option(help="What a browser must know; made where it is needed.")] = None,
    db: Db = None,
) -> None:
    """A page on this machine: runs with their progress and curves, what failed, reports. It reads and never writes.

    Example: ncpl serve --port 0
    """
    import importlib.util
    import secrets

    from ncpl_cli.errors import InputError, NcplError
    from ncpl_cli.store import open_store

    if missing := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise InputError(f"ncpl serve needs {' and '.join(missing)}.", "pip install 'ncpl[serve]'")
    if token is not None and len(token) < 16:
        raise InputError("--token is too short to be secret.", "leave it out: one is made")
    from ncpl_cli import serving

    url = _common.store_url(db)
    with open_store(url, readonly=True):
        pass
    if host not in serving.LOOPBACK and token is None:
        token = secrets.token_urlsafe(24)

    def ready(address: str) -> None:
        _common.out(f"{address}   Ctrl-C ends it.")
        sys.stdout.flush()  # through a pipe too it is said now, not when the page is no more

    try:
        serving.run(url, host, port, token, ready)
    except SystemExit:
        raise NcplError(f"nothing can listen at {host}, port {port}.", "--port 0 takes one that is free") from None
