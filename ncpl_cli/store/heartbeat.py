"""Leases are renewed while epochs are long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from ncpl_cli.errors import NcplError
from ncpl_cli.store.writing import Writing

HEARTBEAT_SECONDS = 10.0


@contextlib.contextmanager
def heartbeat(store: Writing, claimed: Mapping[str, int]) -> Iterator[None]:
    """Renew the leases of runs while epochs are long; `claimed` may change meanwhile."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(min(HEARTBEAT_SECONDS, store.lease / 3)):
            with contextlib.suppress(NcplError):  # a lost lease shows at the next save, in the main thread
                store.renew(dict(claimed))

    thread = threading.Thread(target=beat, name="ncpl-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
