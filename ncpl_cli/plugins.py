"""Parts of one's own: a file holds what a registry of ncpl holds, under the registry's name, and is added to it.

    SCENARIOS, INTERVENTIONS, METRICS, OBJECTIVES, PROBES   lists of parts with an `id`
    NETWORKS, DATASETS                                      functions by name

Files are named by `--plugin FILE` and NCPL_PLUGINS, installed packages by their entry points `ncpl.plugins`. What is
trained with a part of one's own has the digest of its file in its identity: another file is another run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ncpl_cli.callables import blamed
from ncpl_cli.errors import InputError, told

GROUP = "ncpl.plugins"
VARIABLE = "NCPL_PLUGINS"

REGISTRIES = {
    "SCENARIOS": "ncpl_cli.scenarios", "DATASETS": "ncpl_cli.data", "NETWORKS": "ncpl_cli.networks",
    "INTERVENTIONS": "ncpl_cli.interventions", "OBJECTIVES": "ncpl_cli.objectives",
    "METRICS": "ncpl_cli.metrics.catalogue", "PROBES": "ncpl_cli.probes",
}  # fmt: skip
"""Every registry that can be added to, and its module."""


@dataclass(frozen=True)
class Origin:
    """Where a part of somebody's own comes from; `digest`: of the file, 16 digits of its SHA-256."""

    file: str
    digest: str


_ORIGINS: dict[tuple[str, str], Origin] = {}
_LOADED: dict[str, str] = {}


def origin(registry: str, name: str) -> Origin | None:
    """Where a part comes from, None where it is ncpl's."""
    return _ORIGINS.get((registry, name))


def part(registry: str, name: str) -> Any:
    """A part of somebody's own by its name, None where there is none."""
    return None if origin(registry, name) is None else entries(registry)[name]


def entries(registry: str) -> dict[str, Any]:
    """All parts of a registry by name, ncpl's and others'."""
    known: Any = getattr(importlib.import_module(REGISTRIES[registry]), registry)
    return dict(known) if isinstance(known, dict) else {one.id: one for one in known}


def names(registry: str) -> list[str]:
    """The parts of somebody's own in a registry."""
    return [name for of, name in _ORIGINS if of == registry]


def forget(registry: str, name: str) -> None:
    """Take a part of somebody's own out again."""
    known: Any = getattr(importlib.import_module(REGISTRIES[registry]), registry)
    if isinstance(known, dict):
        del known[name]
    else:
        known[:] = [one for one in known if one.id != name]
    _LOADED.pop(_ORIGINS.pop((registry, name)).file, None)


def digests(parts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The digests of those among the parts (registry, name) that are somebody's own, by `registry name`."""
    own = {f"{registry.lower()} {name}": origin(registry, name) for registry, name in parts}
    return {key: found.digest for key, found in sorted(own.items()) if found is not None}


def taken(arguments: list[str]) -> list[str]:
    """A command line without `--plugin FILE`, which is added to NCPL_PLUGINS for this process and its workers."""
    rest, files, words = [], [], iter(arguments)
    for word in words:
        if word == "--plugin":
            files.append(next(words, ""))
        elif word.startswith("--plugin="):
            files.append(word.removeprefix("--plugin="))
        else:
            rest.append(word)
    if files:
        if not all(file.strip() for file in files):
            raise InputError("--plugin names no file.", "ncpl --plugin mine.py ...")
        before = os.environ.get(VARIABLE, "").split(os.pathsep)
        absolute = [str(Path(file).expanduser().absolute()) for file in files]
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(filter(None, [*before, *absolute])))
    return rest


def load() -> None:
    """Add what is installed and what NCPL_PLUGINS names. Raises InputError that says what is wrong with a file."""
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        if point.value not in _LOADED:
            with blamed(f"the plugin {point.value}"):
                module = point.load()
            _add(module, Path(str(module.__file__)), point.value)
    for file in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        load_file(Path(file))


def load_file(path: Path) -> list[tuple[str, str]]:
    """Add the parts of a file, and say which (registry, name); one that is added already stays as it is."""
    try:
        digest = _digest(path)
    except OSError as error:
        raise InputError(f"the plugin {path} cannot be read ({error.strerror}).", "--plugin FILE.py") from error
    key = str(path.absolute())
    if _LOADED.get(key) != digest:
        name = f"ncpl_plugin_{path.stem}_{digest}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"the plugin {path} is no Python file.", "--plugin FILE.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        with blamed(f"the plugin {path}"):
            spec.loader.exec_module(module)
        _add(module, path, key)
    return [part for part, found in _ORIGINS.items() if found.file == key]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _add(module: ModuleType, path: Path, key: str) -> None:
    found = Origin(key, _digest(path))
    given = {registry: _given(path, registry, getattr(module, registry, ())) for registry in REGISTRIES}
    if not any(given.values()):
        raise InputError(f"the plugin {path} holds no part.", f"it has one of the lists {', '.join(REGISTRIES)}")
    for registry, entries in given.items():
        for name, part in entries.items():
            _put(registry, name, part, path, key)
            _ORIGINS[registry, name] = found
    _LOADED[key] = found.digest


def _given(path: Path, registry: str, value: Any) -> dict[str, Any]:
    """The parts of a list, or by name, by name."""
    try:
        found = dict(value) if isinstance(value, Mapping) else {one.id: one for one in value}
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"the plugin {path}: {registry} is no list of parts ({told(error)}).",
            f"{registry} = [MyPart], each with an id; NETWORKS and DATASETS = {{'name': function}}",
        ) from error
    if bad := [name for name in found if not isinstance(name, str) or not name or set(name) & set(":,= \t\n@/")]:
        raise InputError(f"the plugin {path}: {registry} has the name {bad[0]!r}.", "letters, digits, - and _")
    return found


def _put(registry: str, name: str, part: Any, path: Path, key: str) -> None:
    """Put a part into its registry, in the place of an older one of the same file."""
    known: Any = getattr(importlib.import_module(REGISTRIES[registry]), registry)
    before = origin(registry, name)
    there = name in known if isinstance(known, dict) else any(one.id == name for one in known)
    if there and (before is None or before.file != key):
        whose = "ncpl has" if before is None else f"{before.file} has"
        raise InputError(f"the plugin {path}: {whose} {name!r} in {registry} already.", "give it another name")
    if isinstance(known, dict):
        known[name] = part
    else:
        known[:] = [*(one for one in known if one.id != name), part]
