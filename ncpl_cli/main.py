"""The command line: one line per command, and the one place where errors become sentences."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ncpl_cli import __version__
from ncpl_cli.commands import (
    catalog,
    compare,
    correlate,
    demo,
    export,
    import_,
    measure,
    probe,
    report,
    reproduce,
    runs,
    sweep,
    train,
)
from ncpl_cli.commands import db as db_commands
from ncpl_cli.errors import NcplError

COMMANDS: dict[str, Any] = {
    "train": train.app,
    "sweep": sweep.app,
    "probe": probe.probe,
    "measure": measure.measure,
    "correlate": correlate.correlate,
    "compare": compare.compare,
    "report": report.report,
    "reproduce": reproduce.reproduce,
    "runs": runs.app,
    "export": export.export,
    "import": import_.import_,
    "db": db_commands.app,
    "catalog": catalog.catalog,
    "demo": demo.demo,
}
"""Every command, in the order of the help: the way a study goes."""


class _InOrder(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)


app = typer.Typer(
    cls=_InOrder,
    name="ncpl",
    help="Study how neural collapse and plasticity loss belong together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


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
        result = app(arguments, standalone_mode=False)
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
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "ncpl"
            return _say(message().rstrip(".") + ".", f"{path} --help shows what is allowed", 2)
        return _say(
            f"ncpl failed unexpectedly: {type(error).__name__}: {error}.",
            "run the command again with --debug to see where, and report it",
            1,
        )


def _say(message: str, hint: str | None, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code
