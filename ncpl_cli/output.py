"""Where a command writes a file: the one place that opens what `-o`, `--plot` and `--figures` name.

A file is replaced whole or not at all, and keeps its mode; a link stays a link, and what it points to is written;
pipes and devices are written into; `-` is standard output. What cannot be written, to the last byte, is an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from ncpl_cli.errors import InputError, StoreError, unknown

STDOUT = "-"

_DESCRIPTOR = re.compile(r"/dev/(?:fd/(\d+)|(stdout)|(stderr))|/proc/(?:self|thread-self|\d+)/fd/(\d+)")


def format_of(
    path: str | None, asked: str | None, formats: Iterable[str], default: str, option: str = "-o", what: str = "format"
) -> str:
    """The format that is asked for, else that of the file's ending, else `default`.

    Raises InputError for one that is not known, and for a path that can be no file: before any work is done.
    """
    known = list(formats)
    if path is not None:
        check(path, option)
    if asked is not None:
        if asked not in known:
            raise unknown(what, asked, known)
        return asked
    ending = Path(path).suffix.lower().lstrip(".") if path and path != STDOUT else ""
    if ending and ending not in known:
        if special(path or ""):
            return default
        raise unknown(what, ending, known)
    return ending or default


def check(path: str, option: str = "-o") -> None:
    """Raise InputError where a path is empty or a directory."""
    if not path.strip():
        raise InputError(f"{option} is empty.", f"name a file, or {option} - for standard output")
    if path != STDOUT and (path.endswith("/") or Path(path).is_dir()):
        raise InputError(f"{option} {path} is a directory.", f"name a file in it: {option} {Path(path) / 'FILE'}")


def special(path: str) -> bool:
    """Whether a path is standard output, a pipe or a device: what is written into and never replaced."""
    if path == STDOUT or _descriptor(Path(path)) is not None:
        return True
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The file to write into; when the block ends well, all of it is there. Raises StoreError where it is not."""
    try:
        with _opened(str(path)) as file:
            yield file
    except BrokenPipeError:
        if str(path) == STDOUT:  # the reader has enough
            raise
        raise StoreError(f"{path} cannot be written: nobody reads from it any more.") from None
    except OSError as error:
        name = "standard output" if str(path) == STDOUT else path
        raise StoreError(f"{name} cannot be written ({error.strerror or error}).", "name another file") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    descriptor = 1 if path == STDOUT else _descriptor(Path(path))
    if descriptor is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # a captured or redirected sys.stdout has no descriptor of its own, and goes before the process's
        if descriptor == 1 and (captured := getattr(sys.stdout, "buffer", None)) and not _has_descriptor(sys.stdout):
            yield captured
            return
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    old = target.stat() if target.exists() else None
    if old is not None and (not stat.S_ISREG(old.st_mode) or old.st_nlink > 1):
        with target.open("wb") as file:
            yield file
        return
    temporary = target.with_name(f".ncpl-{os.getpid()}.tmp")
    try:
        file = temporary.open("wb")
    except PermissionError:
        if old is None:
            raise
        with target.open("wb") as file:  # the file may be written, its folder not
            yield file
        return
    try:
        with file:
            yield file
        if old is not None:
            with contextlib.suppress(OSError):
                os.chown(temporary, old.st_uid, old.st_gid)
            temporary.chmod(stat.S_IMODE(old.st_mode))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _has_descriptor(stream: IO[str]) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):
        return False


def _descriptor(path: Path) -> int | None:
    """The open file of this process that a path is a name of: /dev/stdout, /dev/fd/3, a link to one of them."""
    for _ in range(40):
        name = os.path.abspath(path)  # noqa: PTH100 - links must stay
        if found := _DESCRIPTOR.fullmatch(name):
            number, out, _, other = found.groups()
            return int(number or other) if number or other else 1 if out else 2
        if not os.path.islink(name):  # noqa: PTH114
            return None
        path = Path(name).parent / os.readlink(name)  # noqa: PTH115
    return None
