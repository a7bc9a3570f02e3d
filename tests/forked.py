"""Command lines through the real entry point, each in a process of its own, forked where everything is imported.

A fork server imports torch and the rest once and runs nothing itself, so that a fork holds no thread and no lock; a
command line then takes a few hundredths of a second instead of three seconds. The workers that a command starts are
forks as well: of a process that it leaves behind before it does anything (`Nursery`). Tests of how processes are
started use the real thing.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

PRELOAD = [
    "tests.forked", "torch", "pandas", "sqlalchemy", "alembic.command", "numba", "scipy.stats", "ncpl_cli.main",
    "ncpl_cli.runs", "ncpl_cli.sweep", "ncpl_cli.report.report", "ncpl_cli.analysis", "ncpl_cli.store",
    "ncpl_cli.estimate", "ncpl_cli.measurement", "ncpl_cli.store.merge", "ncpl_cli.store.imports",
    "ncpl_cli.commands.train", "ncpl_cli.commands.sweep",
]  # fmt: skip

context = multiprocessing.get_context("forkserver")
"""For functions of a module that a test has run in processes of their own."""

context.set_forkserver_preload(PRELOAD)


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


class Running:
    """A command line that runs; with the names of subprocess.Popen."""

    def __init__(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], before: Callable[[], None] | None,
        closed: tuple[int, ...], into: Mapping[int, str],
    ) -> None:  # fmt: skip
        self.arguments = arguments
        self._said = {1: cwd.parent / f"{cwd.name}.out", 2: cwd.parent / f"{cwd.name}.err"}
        for path in self._said.values():
            path.write_bytes(b"")
        leads = {1: str(self._said[1]), 2: str(self._said[2])} | dict(into)
        wanted = (tuple(arguments), str(cwd), {**os.environ, **env}, before, closed, leads)
        self._process = context.Process(target=_child, args=wanted)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, minus the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self, seconds: float = 60) -> Done:
        """What it came to; a command line that is still running after so many seconds is a fault."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise AssertionError(f"still running after {seconds} s: {self.arguments}")
        code = self._process.exitcode
        assert code is not None
        out, err = (path.read_bytes().decode(errors="replace") for path in self._said.values())
        return Done(code, out, err)


def start(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    closed: tuple[int, ...] = (),
    into: Mapping[int, str] | None = None,
) -> Running:
    """Start `ncpl ARGUMENTS` in a directory.

    before  is called in the process first (a function of a module)
    closed  file descriptors that are closed before it begins; `into`: a path that one leads to
    """
    return Running(arguments, cwd, env or {}, before, closed, into or {})


def go(*arguments: str, seconds: float = 60, **given: Any) -> Done:
    """Run `ncpl ARGUMENTS` (as `start` does) to its end."""
    return start(*arguments, **given).wait(seconds)


class Nursery:
    """Forks workers for a command that has threads, locks and an open store by then; stands for subprocess.Popen.

    It is itself a fork from the time when the command had done nothing, asked through a socket (one line of JSON each
    way), and ends, its workers with it, when the command has ended.
    """

    STARTS = ("sweep", "reproduce", "demo", "probe")
    """Commands that start workers."""

    def __init__(self, cwd: str, before: Callable[[], None] | None) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._socket.close()
            os.setsid()
            self._serve(other, cwd, before)
        other.close()

    def __call__(self, command: Sequence[str], *, env: Mapping[str, str], stderr: IO[bytes], **_: Any) -> _Worker:
        assert list(command[:3]) == [sys.executable, "-m", "ncpl_cli"]
        asked = json.dumps([list(command[3:]), dict(env)]).encode()
        socket.send_fds(self._socket, [asked], [stderr.fileno()])
        pid = int(self._socket.recv(64))
        return _Worker(pid, lambda: self.ended(pid))

    def ended(self, pid: int) -> int | None:
        """The exit code of a worker, None while it lives."""
        self._socket.send(json.dumps(pid).encode())
        found: int | None = json.loads(self._socket.recv(64))
        return found

    @staticmethod
    def _serve(asked: socket.socket, cwd: str, before: Callable[[], None] | None) -> None:
        while True:
            line, files, *_ = socket.recv_fds(asked, 1 << 20, 1)
            if not line:
                os._exit(0)
            wanted = json.loads(line)
            if isinstance(wanted, int):
                pid, status = os.waitpid(wanted, os.WNOHANG)
                asked.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
                continue
            arguments, env = wanted
            pid = os.fork()
            if pid == 0:
                asked.close()
                _child(arguments, cwd, env, before, (), {1: os.devnull, 2: files[0]})
            os.close(files[0])
            asked.send(str(pid).encode())


class _Worker:
    """A worker with the names of subprocess.Popen; `ended` tells its exit code, None while it lives."""

    def __init__(self, pid: int, ended: Callable[[], int | None]) -> None:
        self.pid, self._ended = pid, ended
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._ended()
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def workers_as_forks() -> Any:
    """What stands for the module `subprocess` where sweeps of this process start their workers."""

    def popen(command: Sequence[str], *, env: Mapping[str, str], stderr: IO[bytes], **given: Any) -> Any:
        if list(command[:3]) != [sys.executable, "-m", "ncpl_cli"]:
            return subprocess.Popen(command, env=env, stderr=stderr, **given)
        leads = {1: os.devnull, 2: f"/proc/{os.getpid()}/fd/{stderr.fileno()}"}
        process = context.Process(target=_child, args=(command[3:], str(Path.cwd()), dict(env), None, (), leads))
        process.start()
        assert process.pid is not None
        return _Worker(process.pid, lambda: process.exitcode)

    return _with(popen)


def _with(popen: Callable[..., Any]) -> Any:
    return SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)


def _child(
    arguments: Sequence[str], cwd: str, env: Mapping[str, str], before: Callable[[], None] | None,
    closed: tuple[int, ...], leads: Mapping[int, str | int],
) -> None:  # fmt: skip
    if any(word in Nursery.STARTS for word in arguments) and "worker" not in arguments:
        from ncpl_cli.executors import local

        local.subprocess = _with(Nursery(cwd, before))  # type: ignore[attr-defined]
    arguments = list(arguments)
    if "--parent" in arguments:  # a worker: it ends with whom it was forked from, in a session of its own
        arguments[arguments.index("--parent") + 1] = str(os.getppid())
        os.setsid()
    gc.freeze()  # what was imported before: a collection that walks through it would copy every page of it
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, path in leads.items():
        os.dup2(path if isinstance(path, int) else os.open(path, os.O_WRONLY), number)
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
