"""The command line: one line per command, and the one place where errors become sentences."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ncpl_cli import __version__, signals, values
from ncpl_cli.app import App, checked
from ncpl_cli.errors import InputError, NcplError, Stopped, unknown
from ncpl_cli.streams import ReaderGone, visible, wrapped

COMMANDS = {
    "train": "Train runs of a scenario, measured every epoch.",
    "sweep": "Train many runs with many workers; the same again does what is missing.",
    "probe": "Run the probes that runs still lack, from their checkpoints.",
    "features": "Write the features of anybody's network, for measure.",
    "measure": "Measure features of any framework, a network or a stored run.",
    "verify": "Hold anybody's function for collapse metrics against reference cases.",
    "correlate": "Correlate two metrics: the published statistic, and what a statistician would ask for.",
    "compare": "Compare arms with the plain arm, paired by seed and matched on phase 1.",
    "layers": "Which layer collapses first.",
    "report": "Write one page of everything chosen: curves, collapse, correlations, methods.",
    "reproduce": "Run a paper's experiments and hold its claims against the results.",
    "runs": "List, show, release and delete runs.",
    "serve": "A local page over the store while it trains.",
    "export": "Write every recorded epoch as a row, metrics as columns.",
    "import": "Import a CSV of recorded epochs, in the shape that export writes.",
    "db": "Look after the store.",
    "catalog": "What there is: scenarios, data sets, networks, interventions, metrics.",
    "cite": "What to cite: ncpl and the papers of what was used.",
    "doctor": "What is installed, where things lie, what is missing and the command for it.",
    "demo": "The paper's main experiment on scikit-learn's digits; then what was found.",
}
"""Every command, in the order of the help: the way a study goes. Its module in `commands` loads when it is called."""


LOOKS_UP = frozenset(COMMANDS) - {"runs", "export", "db"}
"""Commands that look parts up by name, and so need those of somebody's own."""


def _places() -> dict[str, list[str]]:
    """Where words stand that are commands of a command: `list` is `ncpl runs list`."""
    inner = {
        "runs": ("list", "show", "release", "delete"),
        "sweep": ("status", "retry", "cancel", "worker"),
        "db": ("info", "upgrade", "check", "merge", "query"),
    }
    found: dict[str, list[str]] = {}
    for group, names in inner.items():
        for name in names:
            found.setdefault(name, []).append(f"ncpl {group} {name}")
    return found


class Commands(TyperGroup):
    """The commands, each made when it is called: listing them all loads and builds none."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command's `app`, or its function of the same name; raises InputError that lists the known ones."""
        if cmd_name not in COMMANDS:
            places = _places()
            if not difflib.get_close_matches(cmd_name, COMMANDS, n=1, cutoff=0.7):
                for near in difflib.get_close_matches(cmd_name, places, n=1, cutoff=0.7):
                    raise InputError(f"unknown command {cmd_name!r}.", f"there is {' and '.join(places[near])}")
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
        lines: dict[str, Any] = {name: TyperCommand(name, short_help=line) for name, line in COMMANDS.items()}
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
    rich_markup_mode=None,  # plain help breaks and cuts no option's name at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)


def everywhere(
    db: Annotated[str | None, typer.Option(help="Store: a path or an SQLAlchemy URL.", envvar="NCPL_DB")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where data sets lie.", envvar="NCPL_DATA_DIR")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="NCPL_DEVICE")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="File of parts of your own; repeatable.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    install_completion: Annotated[
        bool, typer.Option("--install-completion", help="Have this shell (or: bash, zsh, fish) complete ncpl.")
    ] = False,
    show_completion: Annotated[bool, typer.Option("--show-completion", help="Print what that would install.")] = False,
) -> None:
    """Options that every command takes, before or after its name."""
    for name, value in (("NCPL_DB", db), ("NCPL_DATA_DIR", data_dir), ("NCPL_DEVICE", device)):
        if value is not None:
            os.environ[name] = value


app.callback()(checked(everywhere))


def run() -> int:
    """Run the command line of this process; its exit code. Never a traceback, unless --debug."""
    # threads that spin while they wait make two processes on one machine tens of times slower; set before torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = sys.argv[1:]
    if "--version" in arguments[:1]:
        return finish(lambda: print(f"ncpl {__version__}"))
    if arguments[:1] == ["help"]:
        arguments = [*(word for word in arguments[1:] if not word.startswith("-")), "--help"]
    # flags that hold anywhere on the line, taken off before the commands parse what is theirs
    debug = "--debug" in arguments or bool(os.environ.get("NCPL_DEBUG"))
    if "--quiet" in arguments or "-q" in arguments:
        os.environ["NCPL_QUIET"] = "1"
    return call([argument for argument in arguments if argument not in ("--debug", "--quiet", "-q")], debug=debug)


def call(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command line and return its exit code."""
    return finish(lambda: _work(arguments), debug=debug)


def _work(arguments: list[str]) -> Any:
    """What Typer's own `main` does, but for its way with pipes and signals: it prints, and forgets which it was."""
    command = typer.main.get_command(app)
    with command.make_context("ncpl", _with_plugins(arguments)) as context:
        return command.invoke(context)


def finish(work: Callable[[], Any], *, debug: bool = False) -> int:
    """Do a command's work, flush what it printed, and turn what went wrong into a sentence and an exit code."""
    try:
        result = work()
        sys.stdout.flush()
        return int(result or 0)
    except typer.Exit as leaving:
        return leaving.exit_code
    except (ReaderGone, BrokenPipeError):
        return 0
    except BaseException as error:
        signals.done()  # one that arrives while this is said would cut the sentence off
        # whatever a signal's exception has become on its way up, it was the signal
        if (number := signals.received()) is not None and not isinstance(error, Stopped):
            error = signals.stopped(number)
        if debug:
            raise
        return _say(*_sentence(error))


NOT_FOR_READING = ("torch", "torchvision", "numba", "llvmlite", "sklearn", "safetensors", "threadpoolctl")
"""Modules that only training and measuring load: an installation that reads stores does without them."""


def _sentence(error: BaseException) -> tuple[str, str | None, int]:
    """What to say of an error: the sentence, what to do, the exit code."""
    if isinstance(error, NcplError):
        return str(error), error.hint, error.exit_code
    if isinstance(error, typer.Abort):
        return "not confirmed: nothing was done.", "--yes answers for you", 1
    if isinstance(error, KeyboardInterrupt):
        return "stopped before it was done.", "the same command goes on where it stopped", 130
    if (message := getattr(error, "format_message", None)) and hasattr(error, "exit_code"):  # Typer's usage errors
        return _misused(message(), getattr(error, "ctx", None))
    if isinstance(error, OSError) and error.filename is not None and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{values.shown(str(error.filename))} can be no file ({error.strerror}).", "name another one", 2
    if isinstance(error, MemoryError):
        return f"there is not enough memory for this ({error or 'asked in vain'}).", "ask for less of it at a time", 1
    from ncpl_cli.callables import said, where

    if isinstance(error, ModuleNotFoundError) and error.name in NOT_FOR_READING and not where(error):
        return (
            f"this needs {error.name}, which is not installed here: an installation without it only reads stores.",
            "pip install ncpl brings all of it; ncpl doctor lists what is missing",
            1,
        )
    if isinstance(error, SystemExit):
        return f"code that ncpl was told to use has ended the program ({error.code}).", None, 2
    if isinstance(error, Exception) and where(error):
        return f"code that ncpl was told to use failed: {said(error)}.", "--debug shows the traceback", 1
    return (
        f"ncpl failed unexpectedly: {type(error).__name__}: {error}.",
        "run the command again with --debug to see where, and report it",
        1,
    )


def _with_plugins(arguments: list[str]) -> list[str]:
    """The command line without `--plugin FILE`; what is named so, or installed, is added to the registries."""
    if any(word in LOOKS_UP for word in arguments) or any(word.startswith("--plugin") for word in arguments):
        from ncpl_cli import plugins

        arguments = plugins.taken(arguments)
        plugins.load()
    return arguments


def _misused(message: str, context: Any) -> tuple[str, str | None, int]:
    """What Typer found wrong; where a command is missing, after the help that shows them."""
    path = context.command_path if context else "ncpl"
    if isinstance(getattr(context, "command", None), TyperGroup) and message.startswith("Missing command"):
        with contextlib.redirect_stdout(sys.stderr):
            print(context.get_help())
        return f"{path} needs a command; the list above shows them.", None, 2
    return " ".join(message.split()).rstrip(".") + ".", f"{path} --help shows what is allowed", 2


def _say(message: str, hint: str | None, code: int) -> int:
    for word, text in (("error", message), ("hint", hint)):
        if text:
            print(wrapped(f"{word}: {visible(text)}", sys.stderr), file=sys.stderr)
    return code
