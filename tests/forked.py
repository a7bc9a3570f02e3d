"""Command lines through the real entry point, each in a process of its own, forked where everything is imported.

A fork server imports torch and the rest once and runs nothing itself, so that a fork holds no thread and no lock; a
command line then takes a few hundredths of a second instead of three seconds.
"""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PRELOAD = [
    "tests.forked", "torch", "pandas", "sqlalchemy", "alembic.command", "numba", "scipy.stats", "ncpl_cli.main",
    "ncpl_cli.runs", "ncpl_cli.sweep", "ncpl_cli.report.report", "ncpl_cli.analysis", "ncpl_cli.store",
    "ncpl_cli.estimate", "ncpl_cli.measurement", "ncpl_cli.store.merge", "ncpl_cli.store.imports",
    "ncpl_cli.commands.train", "ncpl_cli.commands.sweep",
]  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that are no notes: `error: ...` and `hint: ...`."""
        lines = self.err.splitlines()
        at = next((i for i, line in enumerate(lines) if line.startswith("error: ")), len(lines))
        return lines[at:]


def go(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    closed: tuple[int, ...] = (),
    into: Mapping[int, str] | None = None,
    seconds: float = 60,
) -> Done:
    """Run `ncpl ARGUMENTS` in a directory.

    before  is called in the process first (a function of a module)
    closed  file descriptors that are closed before it begins; `into`: a path that one leads to
    """
    said = {1: cwd.parent / f"{cwd.name}.out", 2: cwd.parent / f"{cwd.name}.err"}
    for path in said.values():
        path.write_bytes(b"")
    leads = {1: str(said[1]), 2: str(said[2])} | dict(into or {})
    process = _context.Process(target=_child, args=(arguments, str(cwd), dict(env or {}), before, closed, leads))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"still running after {seconds} s: {arguments}")
    code = process.exitcode
    assert code is not None
    out, err = (path.read_bytes().decode(errors="replace") for path in said.values())
    return Done(code, out, err)


def _child(
    arguments: tuple[str, ...], cwd: str, env: dict[str, str], before: Callable[[], None] | None,
    closed: tuple[int, ...], leads: dict[int, str],
) -> None:  # fmt: skip
    gc.freeze()  # what was imported before: a collection that walks through it would copy every page of it
    os.chdir(cwd)
    for name in ("NCPL_DB", "NCPL_DATA_DIR", "NCPL_DEVICE", "NCPL_QUIET", "NCPL_DEBUG"):
        os.environ.pop(name, None)
    os.environ.update({"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120", **env})
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, path in leads.items():
        os.dup2(os.open(path, os.O_WRONLY), number)
    if before is not None:
        before()
    for number in closed:
        os.close(number)
    sys.stdin = None if 0 in closed else open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (
        None
        if number in closed
        else io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", line_buffering=True)
        for number in (1, 2)
    )  # type: ignore[assignment]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.argv = ["ncpl", *arguments]
    from ncpl_cli.__main__ import run

    code = 1
    try:
        run()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    except BaseException as error:
        os.write(2, f"Traceback: {type(error).__name__}: {error}\n".encode())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    gc.collect()  # as Python's end does: connections that an interrupted close has left are closed
    os._exit(code)


def alive(process: int) -> bool:
    """Whether a process lives."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with what is in it: what a command may not have changed."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
