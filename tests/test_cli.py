"""The command line: it starts at once, explains itself, and loads heavy libraries only where they are used."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ncpl_cli.commands._table import duration, laid_out
from ncpl_cli.errors import InputError
from ncpl_cli.main import COMMANDS
from ncpl_cli.values import Allowed, ranges, read


def test_help_loads_no_numerical_library() -> None:
    code = (
        "import sys\nfrom ncpl_cli.main import call\nassert call(['--help']) == 0\n"
        "heavy = {'torch', 'pandas', 'numba', 'scipy', 'sqlalchemy', 'plotnine', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_line_is_refused_without_torch() -> None:
    code = (
        "import sys\nfrom ncpl_cli.main import call\n"
        "assert call(['train', 'permuted-digits', '--intervention', 'l2_ini']) == 2\n"
        "assert call(['train', 'permuted-digits', '--intervention', 'weight_rescale', '--lr', '-1']) == 2\n"
        "heavy = {'torch', 'numba', 'scipy', 'plotnine', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


MISTAKES = [
    "train permuted-digits --lr -1", "train permuted-digits --metrics nc9", "train permuted-digits --probe lables",
    "train permuted-digit", "trian", "train permuted-digits --seeds 0-", "train permuted-digits --dataset mnst",
    "train permuted-digits --network mpl", "train permuted-digits --engine onlin", "train permuted-digits --device gpu",
    "train permuted-digits --optimizer sdg", "train permuted-digits --epochs 0", "train warm-start --layers al",
    "sweep permuted-digits --grid lr=0.1,x --name s", "sweep none.toml", "reproduce none", "probe abc", "correlate",
    "compare --by lrr", "layers", "export -o a.csv", "report", "db check", "runs show abc",
]  # fmt: skip
HELP = [*COMMANDS, "train permuted-digits", "train warm-start", "sweep permuted-digits", "sweep status", "sweep worker",
        "runs list", "db merge"]  # fmt: skip


@pytest.mark.parametrize("lines", [[f"{name} --help" for name in HELP], [*MISTAKES, "reproduce list", "runs list"]])
def test_help_and_refusals_load_nothing_heavy(lines: list[str], tmp_path: Path) -> None:
    """No line may load what takes a tenth of a second for nothing: which does is named."""
    code = (
        "import sys\nfrom ncpl_cli.main import call\n"
        "heavy = {'torch', 'torchvision', 'numba', 'scipy', 'plotnine', 'matplotlib', 'sklearn', 'pandas'}\n"
        f"for line in {lines!r}:\n    code = call(line.split())\n"
        f"    assert code == (0 if 'help' in line or line == 'reproduce list' else code) and code in (0, 2, 4), line\n"
        "    assert not heavy & set(sys.modules), (line, heavy & set(sys.modules))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0, said.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


def test_runs_and_sweeps_are_listed_without_numpy(tmp_path: Path) -> None:
    """2 000 runs are listed in half a second: what is shown of them needs the store alone."""
    code = (
        "import sys\nfrom ncpl_cli.records import RunInfo\nfrom ncpl_cli.store import Queue, open_store\n"
        "with open_store('s.db') as store:\n"
        "    infos = [RunInfo(f'{n:012x}', '{}', 'permuted-digits', n, {'lr': n}, {'tasks': 1}, 1) for n in range(2)]\n"
        "    store.register_all([(info, ['s']) for info in infos])\n"
        "    Queue(store).add('s', {'max_attempts': 5, 'device': 'cpu'}, [('online', [i.id]) for i in infos])\n"
        "from ncpl_cli.main import call\n"
        "for line in (['runs', 'list'], ['sweep', 'status', 's'], ['sweep', 'status']):\n"
        "    assert call([*line, '--db', 's.db']) == 0\n"
        "heavy = {'torch', 'numba', 'scipy', 'plotnine', 'sklearn', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0, said.stderr


def test_the_list_of_commands_loads_none_of_them() -> None:
    code = (
        "import sys\nfrom ncpl_cli.main import COMMANDS, call\nassert call(['--help']) == 0\n"
        "assert not [m for m in sys.modules if m.startswith('ncpl_cli.commands')]\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize(
    "command",
    [[], *([name] for name in COMMANDS), ["sweep", "permuted-digits"], ["sweep", "study.toml"], ["sweep", "status"],
     ["sweep", "retry"], ["sweep", "cancel"], ["sweep", "worker"], ["db", "merge"], ["train", "permuted-mnist"],
     ["train", "shuffled-labels"], ["train", "warm-start"], ["runs", "list"], ["runs", "show"], ["runs", "delete"],
     ["db", "info"], ["db", "upgrade"], ["db", "check"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_explains_itself(command: list[str]) -> None:
    from typer.testing import CliRunner

    from ncpl_cli.main import app

    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output and ("--install-completion" in result.output) == (not command)


def test_lists() -> None:
    assert ranges("0-4", "--seeds") == (0, 1, 2, 3, 4) == ranges([0, "1-4"], "seeds")
    assert ranges("1,3,7-8,3", "--seeds") == (1, 3, 7, 8)
    times = Allowed(tuple)
    assert read("50,1x3,10", times, "--epochs") == (50, 1, 1, 1, 10) == read([50, "1x3", 10], times, "epochs")
    assert read(2, times, "epochs") == (2,)
    for wrong in ("", "a", "3-1", "1,,2", "-1", "0-", "²", "١", "1_0", "0-99999999999", "1-2-3", True, 1.0, [[1]]):
        with pytest.raises(InputError):
            ranges(wrong, "--seeds")
    for wrong in ("", "0", "1x", "x3", "1x0", "1x²", "-1", "1x99999999999", True, 1.5, [0], [[1]]):
        with pytest.raises(InputError):
            read(wrong, times, "--epochs")


def test_durations() -> None:
    assert [duration(s) for s in (7.6, 200, 7500)] == ["8s", "3m20s", "2h05m"]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 300])
def test_no_word_is_broken_and_no_number_cut_in_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ("id", "status", "samples", "names", "what it says", "nothing")
    rows = [
        ("3da6af9318a3", "finished", 12.3456, "", "some words that are wrapped between words, never within", None),
        ("b6134917ff7a", "interrupted", 1234567.0, "a-label", "short", None),
    ]
    shown = io.StringIO()
    Console(file=shown, width=width, color_system=None).print(laid_out(columns, rows, None, width))
    said = shown.getvalue().split()
    words = ["some", "words", "that", "are", "wrapped", "between", "words,", "never", "within", "short"]
    expected = {"id", "status", "samples", "names", "3da6af9318a3", "b6134917ff7a", "finished", "interrupted", "12.35"}
    expected |= {"1.235e+06", "a-label", *words}
    assert expected <= {*said} and "nothing" not in said
    assert all(len(line) <= width for line in shown.getvalue().splitlines())
    assert shown.getvalue().count("status") == (len(rows) if width < 60 else 1)  # too narrow: a row becomes a block
