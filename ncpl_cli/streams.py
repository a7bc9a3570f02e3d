"""Standard streams that no reader can break: progress never stops the work, and results end with their reader.

    stderr  a full disk, a closed pipe, a `tee` that ended: what cannot be written is dropped, the work goes on
    stdout  a reader that has enough (`| head`) ends the command silently; a full device is an error

Both show bytes that a terminal's encoding lacks as escapes. Standard library only.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import Any, TextIO

from ncpl_cli.errors import NcplError, without_passwords

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What a terminal obeys instead of showing it: C0, C1, line separators, changes of direction; and lone surrogates."""


def visible(text: str) -> str:
    """The text with control characters as escapes, on one line: a label cannot move the cursor or break a row.

    Passwords of URLs are masked too.
    """
    if text.isascii() and text.isprintable() and "://" not in text:  # nearly all there is to show
        return text
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], without_passwords(text))


def printable(text: str) -> str:
    """A whole text with control characters other than line ends and tabs as escapes: valid in XML, safe to show."""
    return CONTROL.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def for_spreadsheets(text: str) -> str:
    """The text as a cell of a CSV: an apostrophe before what a spreadsheet would take as a formula; numbers stay."""
    return f"'{text}" if _FORMULA.match(text) and not _number(text) else text


def from_spreadsheets(text: str) -> str:
    """The text that `for_spreadsheets` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) and not _number(text[1:]) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def wrapped(text: str, stream: Any, mark: str = "") -> str:
    """A line as it fits a terminal, broken between words; as it is where nobody looks on."""
    if not stream.isatty():
        return mark + text
    import shutil
    import textwrap

    width = max(40, min(shutil.get_terminal_size().columns, 120))
    return textwrap.fill(text, width, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False,
                         break_long_words=False)  # fmt: skip


class ReaderGone(NcplError):
    """Nobody reads standard output any more: not worth a word."""

    exit_code = 0


class _Stream:
    """A text stream with its writing guarded; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or do what becomes of it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._failed(error)
            return len(text)

    def writelines(self, lines: Any) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or do what becomes of it."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        raise NotImplementedError


class _Progress(_Stream):
    def _failed(self, error: Exception) -> None:
        self._stream = _nowhere(self._stream)


class _Results(_Stream):
    def _failed(self, error: Exception) -> None:
        self._stream = _nowhere(self._stream)
        if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise NcplError(f"standard output cannot be written ({error.strerror}).", "send it elsewhere") from error
        raise ReaderGone("nobody reads standard output.") from error


def _nowhere(stream: TextIO) -> TextIO:
    """A stream into nothing; the old one's buffer goes there too, so that nothing fails when Python ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, stream.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(nothing)
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - lives as long as the process


def guard() -> None:
    """Guard this process's streams; those that were closed lead nowhere, so that no file takes their place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Results(sys.stdout), _Progress(sys.stderr)
