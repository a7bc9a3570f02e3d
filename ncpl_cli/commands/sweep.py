"""`ncpl sweep`: many runs, many workers, nothing lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Db

app = typer.Typer(help="Train many runs with many workers; the same again does what is missing.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train many runs with many workers; the same again does what is missing."""


@app.command("worker")
def worker(
    sweep: Annotated[str, typer.Option(help="The sweep to work at.")],
    parent: Annotated[int | None, typer.Option(hidden=True, help="End with this process.")] = None,
    db: Db = None,
    data_dir: DataDir = None,
) -> None:
    """Work at a sweep until nothing is left: on any machine that reaches the store, as often as you like.

    Example: ncpl sweep worker --sweep study --db postgresql://host/ncpl
    """
    if parent is not None:
        _end_with(parent)
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.store import open_store
    from ncpl_cli.worker import work

    with open_store(_common.store_url(db), create=False) as store, Progress() as progress:
        ended = work(sweep, store, observer=progress, data_dir=_common.data_path(data_dir))
    _common.note(f"nothing is left for this worker; it trained {ended} units.")


def _end_with(parent: int) -> None:
    """Be sent SIGTERM when the parent ends, however it ends."""
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGTERM)
    else:
        threading.Thread(target=_until_orphaned, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before we could ask
        raise typer.Exit(os.EX_TEMPFAIL)


def _until_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
