"""The store: two doors, writing and reading, and its upkeep, over one connection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, overload

from ncpl_cli.errors import InputError, StoreError
from ncpl_cli.store.connection import connect, shown, translated
from ncpl_cli.store.frames import Frames
from ncpl_cli.store.migrate import ensure_head, ensure_readable
from ncpl_cli.store.recorder import Recorder
from ncpl_cli.store.run_row import RunRow
from ncpl_cli.store.schema import HEAD
from ncpl_cli.store.sqlite_file import StoreFile, sqlite_path
from ncpl_cli.store.upkeep import Upkeep
from ncpl_cli.store.writing import Writing


class Store(Writing, Frames, Upkeep):
    """An open store. Its methods may be called from several threads; each is one transaction."""

    @overload
    def run(self, key: str) -> RunRow: ...

    @overload
    def run(
        self, key: str, *, seed: int, name: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Recorder: ...

    def run(
        self, key: str, *, seed: int | None = None, name: str | None = None, config: Mapping[str, Any] | None = None
    ) -> RunRow | Recorder:
        """A stored run by id, by the beginning of its id, or by a label that only it has.

        With a seed, `key` is a scenario and this a run of the caller's own loop, to be recorded in a `with` block.
        """
        if seed is not None:
            return Recorder(self, key, seed, name, config)
        if name is not None or config is not None:
            raise InputError("a run of your own needs a seed.", "with store.run(scenario, seed=0, ...) as run:")
        return super().run(key)


def open_store(url: str | os.PathLike[str], *, create: bool = True, readonly: bool = False) -> Store:
    """Open a store by path or SQLAlchemy URL, making or upgrading it where that is needed and allowed.

    create    make it where there is none
    readonly  change nothing: no file is made, no older schema upgraded; works on read-only media
    Raises StoreError when it is foreign, newer, corrupt, locked, read-only or on a network file system.
    """
    text = os.fspath(url)
    path = sqlite_path(text)
    if path is not None and (readonly or not create) and not path.exists():
        raise StoreError(f"there is no store {shown(text)}.", "name one with --db, or fill it first: ncpl train --help")
    file = StoreFile(path, readonly=readonly) if path is not None else None
    engine = connect(text, file, readonly=readonly)
    try:
        with translated(text):
            if readonly:
                revision = ensure_readable(engine, text)
            else:
                ensure_head(engine, text, file)
                revision = HEAD
    except BaseException:  # a signal too: no log, no lock and no empty store stays behind
        engine.dispose()
        if file is not None:
            file.close()
            file.take_back()
        raise
    return Store(text, engine, file, revision)
