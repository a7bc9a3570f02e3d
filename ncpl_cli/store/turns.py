"""Writers take turns. SQLite lets waiting writers sleep and whoever comes by just then begin: some wait for seconds.

A file <store>-turn beside the store holds the number of the last ticket given out. Who has a ticket locks the byte of
that number, and waits until the byte before is free: until the one before has written (it then rings), or has died.
The file is there only while somebody writes, and only about fairness: SQLite's own lock stays what keeps writers apart,
so whoever cannot get a turn soon (a writer before it was stopped by Ctrl-Z, a program that is not ncpl holds the store)
goes on without one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ncpl_cli.signals import held

PATIENCE = 2.0
"""Seconds after which a writer goes on without its turn."""

_COUNTER, _PRESENT, _TICKETS = 0, 1, 4096
_LOOK = 0.05  # seconds after which one looks for oneself: the one before may have been killed


class Turns:
    """The turns at one store, of this process; its threads go one after the other."""

    def __init__(self, store: Path) -> None:
        self._path = store.with_name(f"{store.name}-turn")
        self._file: int | None = None
        self._looked = 0.0
        self._thread = threading.Lock()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """A turn, for one transaction."""
        with self._thread:
            ticket = None
            if _CAN_LOCK:
                try:
                    ticket = self._wait(self._opened())
                except (OSError, struct.error):  # a folder where no file can be made, or a file of something else
                    self._leave()
            try:
                yield
            finally:
                if ticket is not None and self._file is not None:
                    self._done(self._file, ticket)

    def close(self) -> None:
        """Leave; the last one takes the file away."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if _lock(self._file, _PRESENT, _ALONE):
                    self._path.unlink(missing_ok=True)
        self._leave()

    def _leave(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _wait(self, file: int) -> int | None:
        until = time.monotonic() + PATIENCE
        while not _lock(file, _COUNTER, _ALONE):
            if time.monotonic() > until:
                return None
            time.sleep(0.0001)
        ticket = int(struct.unpack("q", os.pread(file, 8, 0).rjust(8, b"\0"))[0]) + 1
        _lock(file, _TICKETS + ticket, _ALONE)  # before the next one looks for it
        os.pwrite(file, struct.pack("q", ticket), 0)
        _lock(file, _COUNTER, _FREE)
        if not _is_locked(file, _TICKETS + ticket - 1):
            return ticket
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
            bell.bind(self._bell(file, ticket))
            while _is_locked(file, _TICKETS + ticket - 1) and (left := until - time.monotonic()) > 0:
                if select.select([bell], [], [], min(left, _LOOK))[0]:
                    bell.recv(1)
        return ticket

    def _done(self, file: int, ticket: int) -> None:
        """Let the next one begin, and wake it: it waits for this byte, and would see by itself only a while later."""
        _lock(file, _TICKETS + ticket, _FREE)
        if int(struct.unpack("q", os.pread(file, 8, 0))[0]) > ticket:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
                bell.sendto(b"!", socket.MSG_DONTWAIT, self._bell(file, ticket + 1))

    def _bell(self, file: int, ticket: int) -> str:
        """The address at which a ticket's holder is woken: a name in memory, not a file."""
        found = os.fstat(file)
        return f"\0ncpl-turn-{found.st_dev}-{found.st_ino}-{ticket}"

    def _opened(self) -> int:
        now = time.monotonic()
        if self._file is not None and now - self._looked > 1:  # the file was taken away by one who thought to be alone
            self._looked = now
            with contextlib.suppress(OSError):
                if os.fstat(self._file).st_ino == self._path.stat().st_ino:
                    return self._file
            self._leave()
        if self._file is None:
            with held():  # a file that nobody knows of would stay
                self._file, self._looked = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), now
                _lock(self._file, _PRESENT, _SHARED)
        return self._file


if sys.platform == "linux":
    import fcntl

    _CAN_LOCK = True
    _ALONE, _SHARED, _FREE = fcntl.F_WRLCK, fcntl.F_RDLCK, fcntl.F_UNLCK

    def _lock(file: int, byte: int, kind: int) -> bool:
        """Lock one byte without waiting. Such locks belong to the open file, not to the process: closing another file
        does not lose them, as it would SQLite's."""
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
        except BlockingIOError:
            return False
        return True

    def _is_locked(file: int, byte: int) -> bool:
        """Whether another one has locked a byte."""
        asked = struct.pack("hhqqi4x", _ALONE, os.SEEK_SET, byte, 1, 0)
        found: bytes = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
        return bool(struct.unpack_from("h", found)[0] != _FREE)

else:
    _CAN_LOCK, _ALONE, _SHARED, _FREE = False, 0, 1, 2  # SQLite's own waiting is all there is

    def _lock(file: int, byte: int, kind: int) -> bool:
        raise NotImplementedError

    def _is_locked(file: int, byte: int) -> bool:
        raise NotImplementedError
