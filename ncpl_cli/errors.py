"""Everything that can go wrong in a way a user can mend.

NcplError                 1  the work failed
├── InputError            2  the command line was wrong
├── DataError             1  a data set is missing, truncated or malformed
├── RunFailed             1  a run diverged or failed
├── SweepFailed           3  some runs of a sweep failed or diverged
├── LeaseLost             1  another process has taken this run over
├── StoreError            4  the store is locked, corrupt, foreign, newer, read-only or full
└── Stopped          75/130  stopped by a signal after checkpointing; resumable

An error is one or two sentences (what was wrong, what is allowed) and a hint (the command to run).
`main.run` is the one place that prints them.
"""

from __future__ import annotations

import difflib
import re
import urllib.parse
from collections.abc import Iterable


class NcplError(Exception):
    """Base of all errors that are shown to the user as a sentence, without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(NcplError):
    """The command line, a settings file or an argument was wrong."""

    exit_code = 2


class NothingFound(InputError):
    """These runs have nothing of what was asked for: what became of the others belongs to the sentence."""


class DataError(NcplError):
    """A data set is missing, truncated or malformed."""


class RunFailed(NcplError):
    """A run diverged or failed."""


class SweepFailed(NcplError):
    """Some runs of a sweep failed or diverged; the others are done."""

    exit_code = 3


class LeaseLost(NcplError):
    """A write was refused because another process has taken the run over."""


class StoreError(NcplError):
    """The store cannot be used."""

    exit_code = 4


class Stopped(NcplError):
    """A signal asked to stop; everything up to the last epoch is saved."""

    def __init__(self, message: str, hint: str | None = None, *, exit_code: int = 75) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


def told(error: BaseException) -> str:
    """What another library's error says, in one line."""
    return " ".join(str(error).split())


def unknown(kind: str, name: str, known: Iterable[str], shown: int | None = None) -> InputError:
    """The error for a name that is not in a list: names the nearest match and all (or some) that are known."""
    names = sorted(known)
    word = name.lower()
    near = [n for n in names if len(word) > 1 and n.lower().startswith(word)]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    near = near or [n for n in names if len(word) > 2 and word in n.lower()]
    meant = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:shown]) + (", ..." if len(names) > len(names[:shown]) else "")
    return InputError(f"unknown {kind} {name!r}.{meant}", f"known: {listed or 'none'}")


_AUTHORITY = re.compile(r"(://[^\s\"'/?#:@]*):[^\s\"']*@")
_PARAMETER = re.compile(r"([?&;])([^\s\"'=&;?]+)=([^\s\"'&;#]*)")
_SECRET = ("pass", "pwd", "secret", "token")


def without_passwords(text: str) -> str:
    """A text with the passwords of all URLs in it masked: before an @, or as a parameter, however that is written."""
    if "://" not in text:
        return text

    def masked(found: re.Match[str]) -> str:
        secret = any(word in urllib.parse.unquote(found[2]).lower() for word in _SECRET)
        return f"{found[1]}{found[2]}=***" if secret else found[0]

    return _PARAMETER.sub(masked, _AUTHORITY.sub(r"\1:***@", text))
