"""What completion knows of the command line, made from the live commands and registries. Loads no torch."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ARGUMENTS = {
    "runs show": "runs", "runs delete": "runs", "runs release": "runs", "sweep status": "sweeps",
    "sweep retry": "sweeps", "sweep cancel": "sweeps", "reproduce": "studies",
}  # fmt: skip
"""What the argument of a command names; elsewhere it is a file."""


def made() -> dict[str, Any]:
    """The index, from the commands and registries themselves; loads no torch."""
    import typer

    from ncpl_cli.commands.sweep import OF_ONE_COMMAND
    from ncpl_cli.main import COMMANDS, app

    group: Any = typer.main.get_command(app)
    with group.make_context("ncpl", ["catalog"]) as context:
        commands = {}
        for name, line in COMMANDS.items():
            commands[name] = _node(group.get_command(context, name), name, context) | {"help": line}
        train = commands["train"]["commands"]
        taking = {name for of in train.values() for name, about in of["options"].items() if about["takes"]}
        settings = sorted({name[2:].replace("-", "_") for name in taking} - set(OF_ONE_COMMAND))
        everywhere = _options(group)
        listed = {name: {"help": line} for name, line in COMMANDS.items()}
        commands["help"] = {"help": "Show the help of a command.", "commands": listed}
    return {
        "commands": {"commands": commands},
        "everywhere": everywhere,
        "settings": settings,
        "names": _names(train),
    }


def _node(command: Any, path: str, parent: Any) -> dict[str, Any]:
    node: dict[str, Any] = {"help": _first(command.help), "options": _options(command)}
    if hasattr(command, "list_commands"):
        with command.make_context(path, ["--help"], parent=parent, resilient_parsing=True) as context:
            node["commands"] = {
                name: _node(command.get_command(context, name), f"{path} {name}", context)
                for name in command.list_commands(context)
            }
            if path == "sweep":
                node["file"] = _node(command.get_command(context, "x.toml"), "sweep x.toml", context)
    elif kind := ARGUMENTS.get(path):
        node["argument"] = kind
    return node


def _options(command: Any) -> dict[str, Any]:
    found = {}
    for parameter in command.params:
        takes = parameter.param_type_name == "option" and not parameter.is_flag
        reader = _reader(parameter)
        for name in parameter.opts if parameter.param_type_name == "option" and not parameter.hidden else ():
            if name.startswith("--"):
                choices = getattr(getattr(reader, "allowed", None), "choices", None)
                found[name] = {"help": _first(parameter.help), "takes": takes, "choices": choices}
    return found


def _reader(parameter: Any) -> Any:
    """What reads an option (app.Reader): newer Typers keep it with its declaration, older ones in its type."""
    declared = getattr(getattr(parameter, "type_descriptor", None), "parameter_info", None)
    return getattr(declared, "parser", None) or getattr(getattr(parameter, "type", None), "func", None)


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split()).rstrip(".")[:80]


def _names(train: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Names of parts by kind. Networks are read out of their file: to import them is to import torch."""
    from ncpl_cli.data import DATASETS
    from ncpl_cli.executors import EXECUTORS
    from ncpl_cli.interventions import INTERVENTIONS
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.objectives import OBJECTIVES
    from ncpl_cli.probes import PROBES
    from ncpl_cli.studies import SCALES, STUDIES

    def plain(known: Iterable[str], *more: str) -> dict[str, str]:
        return dict.fromkeys([*known, *more], "")

    metrics = {name: metric.direction for name, metric in METRICS.items()}
    return {
        "scenarios": {name: of["help"] for name, of in train.items()},
        "addresses": metrics,
        "metrics": plain(("default", "all")) | metrics,
        "networks": plain(_networks()),
        "datasets": plain(DATASETS, "folder:"),
        "interventions": {name: _first(one.__doc__) for name, one in INTERVENTIONS.items()},
        "objectives": plain(OBJECTIVES),
        "probes": plain(PROBES),
        "executors": plain(EXECUTORS),
        "devices": plain(("auto", "cpu", "cuda", "mps")),
        "scales": plain(SCALES),
        "studies": plain(STUDIES, "list"),
    }


def _networks() -> list[str]:
    """The keys of the registry NETWORKS."""
    source = (Path(__file__).parent / "networks" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "NETWORKS":
            return [str(ast.literal_eval(key)) for key in getattr(node.value, "keys", ())]
    return []
