"""What a shell is offered at every place of a command line, and what a terminal of 80 columns shows."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ncpl_cli import completion
from ncpl_cli.commands import _progress
from ncpl_cli.commands._progress import Progress
from ncpl_cli.commands._table import _column, laid_out, sparkline
from ncpl_cli.main import COMMANDS, call
from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.store import open_store

RUN = "0a1b2c3d4e5f"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def store(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with runs, labels and metrics of several splits and layers, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    with open_store("ncpl.db") as made:
        for seed in range(2):
            with made.run("mine", seed=seed, name="study", config={"lr": 0.1}) as run:
                run.record(epoch=1, task=0, metrics={"nc1@test/layer2": 1.0, "online_accuracy": 0.5})
        return made.runs()[0].id


def offered(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **bash: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    monkeypatch.setenv(completion.VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", bash.get("words", line))
    monkeypatch.setenv("COMP_CWORD", bash.get("at", str(len(words) - 1)))
    capsys.readouterr()
    assert completion.answer() == 0
    return capsys.readouterr().out.splitlines()


def test_bash_is_offered_what_can_stand_there(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def at(line: str, **bash: str) -> list[str]:
        return offered(line, monkeypatch, capsys, **bash)

    assert set(at("ncpl ")) == {*COMMANDS, "help"} and at("ncpl tra") == ["train"]
    assert at("ncpl train warm-start --optimizer ada") == ["adam", "adamw"]
    assert "--first-task-epochs" in at("ncpl train permuted-digits --fir")
    assert "--first-task-epochs" not in at("ncpl train warm-start --fir")
    assert at(f"ncpl runs show {store[:5]}") == [store]
    assert at("ncpl correlate --name st") == ["study"] and at("ncpl correlate --name=st") == ["--name=study"]
    assert at(f"ncpl report --runs study,{store[:5]}") == [f"study,{store}"]
    assert {"nc1", "online_accuracy"} <= set(at("ncpl correlate --x "))
    assert at("ncpl correlate --x nc1@te") == ["nc1@test"] and at("ncpl correlate --x nc1@test/la") == [
        "nc1@test/last", "nc1@test/layer2",
    ]  # fmt: skip
    assert at("", words="ncpl\ncorrelate\n--x\nnc1\n@\nte", at="5") == ["test"], (
        "bash splits at @ and replaces the rest"
    )
    assert at("ncpl sweep permuted-digits --grid first_task_e") == ["first_task_epochs="]
    assert at("ncpl runs show --db nowhere.db 0") == [] and at("ncpl measure f") == []
    assert "resnet18" in at("ncpl train warm-start --network r") and "mnist" in at("ncpl train warm-start --dataset m")


def test_zsh_and_fish_are_told_what_it_is(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", f"ncpl runs show {store[:4]}")
    monkeypatch.setenv(completion.VARIABLE, "complete_zsh")
    assert completion.answer() == 0
    assert capsys.readouterr().out.strip() == f"""_arguments '*: :(("{store}":"mine seed 0 finished"))'"""
    monkeypatch.setenv(completion.VARIABLE, "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert completion.answer() == 0 and capsys.readouterr().out == f"{store}\tmine seed 0 finished\n"
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "is-args")
    assert completion.answer() == 0
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "ncpl runs show zzz")
    assert completion.answer() == 1


def test_the_index_is_made_once_and_lists_the_registries(store: str, cache: Path) -> None:
    from ncpl_cli.engines import ENGINES
    from ncpl_cli.networks import NETWORKS

    completion.index()
    place = cache / "ncpl" / "completion.json"
    made = json.loads(place.read_text())
    assert set(made["names"]["networks"]) == set(NETWORKS)
    assert set(made["commands"]["commands"]["train"]["commands"]["warm-start"]["options"]["--engine"]["choices"]) == {
        "auto", *ENGINES,
    }  # fmt: skip
    place.write_text(json.dumps(made | {"names": {"mark": {}}}))
    assert completion.index()["names"] == {"mark": {}}
    place.write_text(json.dumps(made | {"state": "of yesterday", "names": {}}))
    assert completion.index()["names"] == made["names"]


def test_an_answer_loads_nothing_heavy(store: str, cache: Path) -> None:
    code = (
        "import sys; sys.argv = ['ncpl']\ntry:\n    from ncpl_cli.__main__ import run; run()\n"
        "except SystemExit:\n    print(sorted({'torch', 'numpy', 'sqlalchemy', 'typer', 'rich'} & set(sys.modules)))"
    )
    asked = {**os.environ, completion.VARIABLE: "complete_bash", "COMP_WORDS": "ncpl runs show ", "COMP_CWORD": "3"}
    for _ in range(2):  # the first may make the index
        done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and store in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_bash_takes_the_script(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    completion.set_up("--show-completion", ["bash"])
    script = capsys.readouterr().out
    program = tmp_path / "ncpl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ncpl_cli "$@"\n')
    program.chmod(0o755)
    asked = f'{script}\nCOMP_WORDS=(ncpl runs sh); COMP_CWORD=2; _ncpl_completion ncpl; echo "${{COMPREPLY[@]}}"'
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout.split() == ["show"], done.stderr


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str], store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncpl_cli import main

    for line, said in ((["help"], "Commands:"), (["help", "train"], "warm-start"), (["runs"], store)):
        monkeypatch.setattr(sys, "argv", ["ncpl", *line])
        assert main.run() == 0 and said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "near"),
    [("runs lst", "'list'"), ("train mnist", "'permuted-mnist'"), ("status", "ncpl sweep status"), ("trian", "'train'"),
     ("runs list --sced x", "--scenario"), ("runs lis", "'list'")],
)  # fmt: skip
def test_a_near_match_is_of_that_place(line: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(line.split()) == 2 and near in capsys.readouterr().err


def test_help_cuts_no_name_at_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for line in ("train permuted-mnist", "sweep warm-start", "sweep", ""):
        assert call([*line.split(), "--help"]) == 0
        out = capsys.readouterr().out
        assert "…" not in out and "..." not in out.partition("Commands:")[2] and max(map(len, out.splitlines())) <= 80
    assert call(["train", "permuted-mnist", "--help"]) == 0 and "--first-task-max-epochs" in capsys.readouterr().out


def shown(columns: list[str], rows: list[list[object]], least: tuple[str, ...] = ()) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=80, color_system=None).print(laid_out(columns, rows, None, 80, least))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_a_narrow_terminal_goes_without_the_least() -> None:
    columns = ["run", "status", "seconds", "online_accuracy", "warm_start_gap", "names"]
    rows: list[list[object]] = [[RUN, "finished", 77.2, 0.5, -0.0027, "x" * 30], [RUN, "diverged", 0.4, None, 0.01, ""]]
    whole = shown(columns, rows)
    assert "warm" in whole[0] and "start" in whole[1] and "gap" in whole[2]
    assert "1m17s" in "".join(whole)
    rows[0][-1] = "x" * 60
    narrow = shown(columns, rows, least=("online_accuracy", "names"))
    assert "xxx" not in "".join(narrow) and "names" not in narrow[0] + narrow[1] and "-0.0027" in narrow[-2]
    assert shown(columns, rows)[0].split() == ["run", RUN], "nothing to go without: a block a row"


def test_a_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([None, 1.0, float("nan"), 1.0]) == "▁▁" and sparkline([1.0]) == "" == sparkline([])
    assert sparkline(range(80)) == "▁▂▃▄▅▆▇█" and len(sparkline(range(5))) == 5


def test_live_progress_keeps_its_widths() -> None:
    def record(epoch: int, accuracy: float) -> EpochRecord:
        values = {Address("online_accuracy"): accuracy, Address("nc1"): 1 / epoch}
        return EpochRecord(epoch, 0, epoch, 1000 * epoch, 0.1, 0.0, values)

    progress = Progress()
    progress.follow(6)
    progress.expect(3)
    for run in (RUN, RUN[::-1]):
        progress.begin(run, 1234, 0, 140, True)

    def frame() -> list[str]:
        written = io.StringIO()
        Console(file=written, width=80, color_system=None).print(progress._table())
        return [line.rstrip() for line in written.getvalue().splitlines()]

    before = frame()
    for epoch in range(1, 101):
        progress.epoch(RUN, record(epoch, epoch / 100))
    after = frame()
    assert (
        before[0] == after[0] and "0/3 runs, 100/280 epochs" in after[-1].replace("\n", " ") and "then 6" in after[-1]
    )
    assert any(RUN in line and "▁▂▃▄▅▆▇█" in line and "100/140" in line for line in after)
    assert max(map(len, after)) <= 80


def test_a_time_to_go_is_said_once_epochs_have_followed_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch of a fresh process loads and compiles; those stored with it are heard of in the same instant."""
    clock = [0.0]
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    progress = Progress()
    progress.expect(1)
    progress.begin(RUN, 0, 100, 160, True)  # goes on after epoch 100

    def heard(at: float, *epochs: int) -> str:
        clock[0] = at
        for epoch in epochs:
            progress.epoch(RUN, EpochRecord(epoch, 0, epoch, 10 * epoch, 0.1, 0.0, {}))
        return progress._line(RUN)

    assert heard(60.0, 101).startswith("0 of 1 run done, 101 epochs, ETA ?; seed 0: ")
    assert "ETA ?" in heard(60.01, 102, 103)
    assert "103 epochs, ETA ?" in heard(61.0)
    assert "110 epochs, ETA 50s" in heard(67.01, *range(104, 111))  # seven in seven seconds, fifty to go
    progress.expect(2)
    progress.begin(RUN, 0, 0, 10, True)
    assert "0 of 2 runs done, 1 epoch, ETA ?" in heard(100.0, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["run", "seconds", "online_accuracy", "plasticity_loss", "nc1", "what", "p"]),
             min_size=1, unique=True),
    st.integers(40, 100), st.data(),
)  # fmt: skip
def test_no_number_or_name_is_cut_whatever_the_width(columns: list[str], width: int, data: st.DataObject) -> None:
    """A cut number is a wrong number: -0.0292 was shown as -0.02 where the head of its column was long."""
    kinds = {"run": st.text("0123456789abcdef", min_size=12, max_size=12), "p": st.one_of(st.none(), st.floats(0, 1)),
             "what": st.sampled_from(["a few words", "one"])}  # fmt: skip
    numbers = st.floats(-100, 100)
    rows = [[data.draw(kinds.get(c, numbers)) for c in columns] for _ in range(data.draw(st.integers(1, 4)))]
    written = io.StringIO()
    Console(file=written, width=width, color_system=None).print(laid_out(columns, rows, None, width))
    shown = written.getvalue()
    for c, name in enumerate(columns):
        if all(row[c] is None for row in rows):
            continue  # an empty column is not shown
        for text in (t for cell in _column(name, [row[c] for row in rows]) for t in cell.split()):
            assert text in shown
