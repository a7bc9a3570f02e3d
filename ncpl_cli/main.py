"""The command line: one line per command, and the one place where errors become sentences."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ncpl_cli import __version__
from ncpl_cli.errors import NcplError, unknown

COMMANDS = {
    "train": "Train runs of a scenario, measured every epoch.",
    "sweep": "Train many runs with many workers; the same again does what is missing.",
    "probe": "Run the probes that warm starts still lack, from their checkpoints.",
    "measure": "Measure features of any framework, a network or a stored run.",
    "correlate": "Correlate two metrics: the published statistic, and what a statistician would ask for.",
    "compare": "Compare arms with the plain arm, paired by seed and matched on phase 1.",
    "report": "Write one page of everything chosen: curves, collapse, correlations, methods.",
    "reproduce": "Run a paper's experiments and hold its claims against the results.",
    "runs": "List, show and delete runs.",
    "export": "Write every recorded epoch as a row, metrics as columns.",
    "import": "Import a CSV of recorded epochs, in the shape that export writes.",
    "db": "Look after the store.",
    "catalog": "What there is: scenarios, data sets, networks, interventions, metrics.",
    "demo": "The paper's main experiment on scikit-learn's digits; then what was found.",
}
"""Every command, in the order of the help: the way a study goes. Its module in `commands` loads when it is called."""


class Commands(TyperGroup):
    """The commands, each made when it is called: listing them all loads and builds none."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command's `app`, or its function of the same name; raises InputError that lists the known ones."""
        from ncpl_cli.commands._app import App

        if cmd_name not in COMMANDS:
            raise unknown("command", cmd_name, COMMANDS)
        attribute = "import_" if cmd_name == "import" else cmd_name
        module = importlib.import_module(f"ncpl_cli.commands.{attribute}")
        around = App(callback=lambda: None)
        if hasattr(module, "app"):
            around.add_typer(module.app, name=cmd_name)
        else:
            around.command(name=cmd_name)(getattr(module, attribute))
        return typer.main.get_group(around).commands[cmd_name]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help, with a line for each command."""
        lines: dict[str, Any] = {name: TyperCommand(name, help=line) for name, line in COMMANDS.items()}
        listing = TyperGroup(
            name=self.name, help=self.help, params=self.params, commands=lines, rich_markup_mode=self.rich_markup_mode
        )
        listing.format_help(ctx, formatter)


app = typer.Typer(
    cls=Commands,
    name="ncpl",
    help="Study how neural collapse and plasticity loss belong together.",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def everywhere(
    db: Annotated[str | None, typer.Option(help="Store: a path or an SQLAlchemy URL.", envvar="NCPL_DB")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where data sets lie.", envvar="NCPL_DATA_DIR")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="NCPL_DEVICE")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Options that every command takes, before or after its name."""
    for name, value in (("NCPL_DB", db), ("NCPL_DATA_DIR", data_dir), ("NCPL_DEVICE", device)):
        if value is not None:
            os.environ[name] = value


def run() -> None:
    """Entry point: run a command and leave with its exit code; never with a traceback, unless --debug."""
    # threads that spin while they wait make two processes on one machine tens of times slower; set before torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = sys.argv[1:]
    if "--version" in arguments[:1]:
        print(f"ncpl {__version__}")
        return
    # flags that hold anywhere on the line, taken off before the commands parse what is theirs
    debug = "--debug" in arguments or bool(os.environ.get("NCPL_DEBUG"))
    if "--quiet" in arguments or "-q" in arguments:
        os.environ["NCPL_QUIET"] = "1"
    arguments = [argument for argument in arguments if argument not in ("--debug", "--quiet", "-q")]
    sys.exit(call(arguments, debug=debug))


def call(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command line and return its exit code."""
    try:
        result = app(arguments, standalone_mode=False, prog_name="ncpl")
        sys.stdout.flush()
        return int(result or 0)
    except typer.Exit as leaving:
        return leaving.exit_code
    except NcplError as error:
        if debug:
            raise
        return _say(str(error), error.hint, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted.", "the same command goes on where it stopped", 130)
    except BrokenPipeError:  # the reader has enough (| head): nothing to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if (message := getattr(error, "format_message", None)) and hasattr(error, "exit_code"):  # Typer's usage errors
            return _misused(message(), getattr(error, "ctx", None))
        from ncpl_cli.callables import said, where

        if where(error):
            return _say(f"code that ncpl was told to use failed: {said(error)}.", "--debug shows the traceback", 1)
        return _say(
            f"ncpl failed unexpectedly: {type(error).__name__}: {error}.",
            "run the command again with --debug to see where, and report it",
            1,
        )


def _misused(message: str, context: Any) -> int:
    """Say what Typer found wrong; where a command is missing, after the help that shows them."""
    path = context.command_path if context else "ncpl"
    if isinstance(getattr(context, "command", None), TyperGroup) and message.startswith("Missing command"):
        with contextlib.redirect_stdout(sys.stderr):
            print(context.get_help())
        return _say(f"{path} needs a command; the list above shows them.", None, 2)
    return _say(" ".join(message.split()).rstrip(".") + ".", f"{path} --help shows what is allowed", 2)


def _say(message: str, hint: str | None, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code
