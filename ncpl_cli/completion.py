"""What can stand next on a command line, for bash, zsh and fish, in Typer's protocol: one candidate a line.

A shell asks at every press of a key, so an answer loads neither Typer nor SQLAlchemy, let alone torch: commands,
options and names of parts come from an index that is made from the live commands once for each state of the package
and kept in the user's cache; runs, labels, sweeps and what was recorded come from the store by plain SQL, for reading
only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

VARIABLE = "_NCPL_COMPLETE"
"""Set by the shells' scripts that `ncpl --show-completion` prints."""

MOST = 300
"""Runs that are offered, the newest: more is no help."""

BREAKS = "@:="
"""Where bash begins a new word by itself; only what comes after the last one is replaced."""

Candidates = Mapping[str, str]
"""What can stand there, each with a word of help."""


def answer() -> int:
    """Print what the shell of this environment asked for; its exit code."""
    shell = os.environ[VARIABLE].removeprefix("complete_")
    if shell == "bash":
        words, incomplete, typed = _of_bash()
    else:
        line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
        words = _split(line)[1:]
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        typed = ""
    found = {word: text for word, text in candidates(words, incomplete).items() if word.startswith(incomplete)}
    if shell == "fish" and os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        return 0 if found else 1
    sys.stdout.write(_shown(shell, {word.removeprefix(typed): text for word, text in found.items()}))
    return 0


def _of_bash() -> tuple[list[str], str, str]:
    """The words before, the word that is typed, and what of it bash takes for words of their own."""
    parts = _split(os.environ.get("COMP_WORDS", ""))
    at = int(os.environ.get("COMP_CWORD") or 0)
    parts = parts[: at + 1] + [""] * (at + 1 - len(parts))
    words: list[str] = []
    for part in parts:
        glued = words and (part[:1] in BREAKS or words[-1][-1:] in BREAKS) and part and len(words) > 1
        words[-1:] = [words[-1] + part] if glued else [*words[-1:], part]
    incomplete = words.pop() if words else ""
    typed = ""
    if incomplete != parts[-1]:  # bash has split it
        typed = incomplete[: len(incomplete) - len("" if parts[-1] in BREAKS else parts[-1])]
    return words[1:], incomplete, typed


def _split(line: str) -> list[str]:
    """A line as a shell takes it apart; an open quote is closed."""
    import shlex

    for closing in ("", "'", '"'):
        with contextlib.suppress(ValueError):
            return shlex.split(line + closing)
    return line.split()


def _shown(shell: str, found: Candidates) -> str:
    if shell == "zsh":
        if not found:
            return "_files\n"

        def quoted(text: str) -> str:
            return re.sub(r"([$`\"\\])", r"\\\1", text).replace("'", "''").replace(":", r"\\:")

        lines = [f'"{quoted(word)}"' + (f':"{quoted(text)}"' if text else "") for word, text in found.items()]
        return "_arguments '*: :((" + "\n".join(lines) + "))'\n"
    if shell == "fish":
        return "".join(word + (f"\t{text}" if text else "") + "\n" for word, text in found.items())
    return "".join(f"{word}\n" for word in found)


# setting it up --------------------------------------------------------------------------------------------------------


def set_up(option: str, named: list[str]) -> None:
    """Install or print the script that has a shell ask for what can stand next; its first answer is made now."""
    import typer.completion

    from ncpl_cli.errors import unknown

    of_typer: Any = typer.completion  # its scripts, which its own options print
    shells = ("bash", "zsh", "fish")
    shell = named[0] if named else _this_shell()
    if shell not in shells:
        raise unknown("shell", shell, shells)
    index()
    if option == "--show-completion":
        print(of_typer.get_completion_script(prog_name="ncpl", complete_var=VARIABLE, shell=shell))
        return
    shell, path = of_typer.install(shell, prog_name="ncpl", complete_var=VARIABLE)
    print(f"{shell} completes ncpl from its next start on ({path}).")


def _this_shell() -> str:
    """The name of the shell that called this process."""
    import shellingham

    try:
        return str(shellingham.detect_shell()[0])
    except shellingham.ShellDetectionFailure:
        return os.path.basename(os.environ.get("SHELL", ""))  # noqa: PTH119


# what can stand there -------------------------------------------------------------------------------------------------


def candidates(words: list[str], incomplete: str) -> Candidates:
    """What can stand after these words, whatever of it has been typed."""
    tree = index()
    node, path, waits = tree["commands"], [], None
    options: dict[str, Any] = dict(tree["everywhere"])
    db = None
    for word in words:
        if waits is not None:
            db = word if waits == "--db" else db
            waits = None
        elif word.startswith("-"):
            name, equals, value = word.partition("=")
            db = value if name == "--db" and equals else db
            waits = name if not equals and options.get(name, {}).get("takes") else None
        elif word in node.get("commands", {}):
            node = node["commands"][word]
            path.append(word)
            options |= node.get("options", {})
        elif word.endswith(".toml") and path == ["sweep"]:
            node = node["file"]
            options |= node["options"]
    name, equals, typed = incomplete.partition("=")
    if waits is None and incomplete.startswith("-"):
        if equals and name in options:
            return {f"{name}={word}": text for word, text in _values(tree, node, options, name, typed, db).items()}
        return {option: about["help"] for option, about in options.items()}
    if waits is not None:
        return _values(tree, node, options, waits, incomplete, db)
    if commands := node.get("commands"):
        return {command: about["help"] for command, about in commands.items()}
    return _listed(tree, node.get("argument", ""), incomplete, db)


def _values(
    tree: Any, node: Any, options: Mapping[str, Any], option: str, incomplete: str, db: str | None
) -> Candidates:
    """What an option can be given; of a list what can follow its last comma."""
    about = options.get(option, {})
    if about.get("choices"):
        return dict.fromkeys(about["choices"], "")
    if option == "--grid":
        written = {name[2:].replace("-", "_"): known["help"] for name, known in node["options"].items()}
        return {f"{name}=": written[name] for name in tree["settings"] if name in written}
    if option in ("--by", "--plain"):
        return dict.fromkeys(tree["settings"] if option == "--by" else (), "")
    return _listed(tree, KINDS.get(option, ""), incomplete, db)


KINDS = {
    "--run": "runs", "--runs": "runs,", "--name": "labels", "--sweep": "sweeps", "--scenario": "scenarios",
    "--x": "addresses,", "--y": "addresses,", "--control": "addresses,", "--metrics": "metrics,",
    "--network": "networks", "--dataset": "datasets", "--intervention": "interventions", "--objective": "objectives",
    "--probe": "probes", "--executor": "executors", "--scale": "scales", "--device": "devices",
}  # fmt: skip
"""What the value of an option names; with a comma: a list of them."""


def _listed(tree: Any, kind: str, incomplete: str, db: str | None) -> Candidates:
    before = incomplete.rpartition(",")[0] + "," if kind.endswith(",") and "," in incomplete else ""
    kind = kind.rstrip(",")
    found: dict[str, str] = dict(tree["names"].get(kind, {}))
    if kind in STORED:
        with contextlib.suppress(Exception):  # no store, a foreign one, a locked one: then nothing of it is offered
            found |= STORED[kind](_Store(db), incomplete.removeprefix(before))
    return {before + word: text for word, text in found.items()}


# out of the store -----------------------------------------------------------------------------------------------------


class _Store:
    """An SQLite store, asked in SQL; raises where there is none."""

    def __init__(self, db: str | None) -> None:
        import sqlite3

        url = db or os.environ.get("NCPL_DB") or "ncpl.db"
        path = Path(url.removeprefix("sqlite:///"))
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.05)

    def __call__(self, query: str, *values: object) -> Iterable[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()


def _runs(store: _Store, typed: str) -> Candidates:
    query = (
        "SELECT id, scenario, seed, status FROM runs WHERE parent IS NULL AND substr(id, 1, length(?)) = ? "
        f"ORDER BY pk DESC LIMIT {MOST}"
    )
    return {run: f"{scenario} seed {seed} {status}" for run, scenario, seed, status in store(query, typed, typed)}


def _labels(store: _Store, typed: str) -> Candidates:
    found = store("SELECT name, count(*) FROM labels GROUP BY name ORDER BY max(run) DESC")
    return {name: f"{count} runs" for name, count in found if not re.search(r"[\s\x00-\x1f]", name)}


def _addresses(store: _Store, typed: str) -> Candidates:
    """Metrics that were recorded; after an @ splits, after a / layers."""
    terms: dict[str, list[str]] = {"metric": [], "split": ["train"], "layer": ["last"]}
    for kind, text in store("SELECT kind, text FROM terms ORDER BY text"):
        if kind in terms and text not in terms[kind]:
            terms[kind].append(text)
    metric, at, rest = typed.partition("@")
    if not at:
        columns = [column[1] for column in store("PRAGMA table_info(epochs)")]
        wide = columns[columns.index("online_accuracy") :]  # before it stand positions and times
        return dict.fromkeys(sorted({*wide, *terms["metric"]}), "")
    split, slash, _ = rest.partition("/")
    if not slash:
        return {f"{metric}@{one}": "" for one in terms["split"]}
    return {f"{metric}@{split}/{one}": "" for one in terms["layer"]}


STORED: Mapping[str, Callable[[_Store, str], Candidates]] = {
    "runs": lambda store, typed: {**_runs(store, typed), **_labels(store, typed)},
    "labels": _labels,
    "sweeps": lambda store, typed: {name: "" for (name,) in store("SELECT name FROM sweeps ORDER BY pk DESC")},
    "scenarios": lambda store, typed: {name: "" for (name,) in store("SELECT DISTINCT scenario FROM runs")},
    "addresses": _addresses,
}
"""What of a store can be named."""

# the index ------------------------------------------------------------------------------------------------------------


def index() -> Any:
    """Commands, options and names of parts: from the cache, else made and kept there."""
    place = _cache() / "completion.json"
    state = _state()
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return kept
    from ncpl_cli import completion_index

    made = {"state": state, **completion_index.made()}
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".completion-{os.getpid()}.tmp")
        new.write_text(json.dumps(made), encoding="utf-8")
        new.replace(place)
    return made


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("ncpl"))


def _state() -> str:
    """What the index depends on: Python and every file of the package."""

    def newest(folder: str) -> Iterator[int]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir() and entry.name != "__pycache__":
                    yield from newest(entry.path)
                elif entry.name.endswith((".py", ".toml")):
                    yield entry.stat().st_mtime_ns

    here = Path(__file__).parent
    times = list(newest(str(here)))
    return f"{sysconfig.get_python_version()} {here} {len(times)} {max(times)}"
