"""Progress over rows: a line after two seconds, then at a humane rate, with what is left."""

from __future__ import annotations

import time

from ncpl_cli.commands import _common


class Rows:
    """Told how many rows are behind and how many there are."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _common.PROGRESS_SECONDS and done < total:
            self._last = now
            from ncpl_cli.commands._table import duration

            left = duration((now - self._began) * (total - done) / done)
            _common.note(f"{done:,} of {total:,} {self._what}, ETA {left}")
