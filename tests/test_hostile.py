"""The hostile table: what people, scripts and files should never say, each a row, each through the real entry point.

A row asserts the exit code, one sentence on stderr (`error: ...`, perhaps `hint: ...`), nothing on stdout, no
traceback, no "failed unexpectedly", and that nothing is left behind or changed. A new row is a line in one of the
tables.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ncpl_cli.store import open_store
from tests.forked import go, listing

TRAIN = "train permuted-digits --tasks 1"
WARM = "train warm-start --dataset digits --warm-up-epochs 1 --probes later"
SWEEP = "sweep permuted-digits --tasks 1 --jobs 1"

NO_NUMBER = [
    "nan",
    "inf",
    "-inf",
    "1e400",
    "١",
    "²",
    "1_0",
    "",
    " ",
    "0x10",
    "1,5",
    "one",
    "99999999999999999999",
    "-1",
]
"""What no option takes as a number."""

NUMBERS = {  # whole command, option, and what it does not take beside NO_NUMBER
    f"{TRAIN} --seed": "1.5", "train permuted-digits --tasks": "0 1.5 1e3",
    f"{TRAIN} --first-task-epochs": "0 1.5", f"{TRAIN} --first-task-nc1": "0", f"{TRAIN} --permuted-fraction": "0 1.1",
    f"{TRAIN} --train-samples": "0", f"{TRAIN} --validation-fraction": "1 1.5", f"{TRAIN} --width": "0 65537",
    f"{TRAIN} --depth": "0 1001", f"{TRAIN} --lr": "0 1e10", f"{TRAIN} --momentum": "1 2",
    f"{TRAIN} --weight-decay": "",
    f"{TRAIN} --batch-size": "0 1.5 1e9", f"{TRAIN} --measure-every": "0", f"{TRAIN} --measure-samples": "0",
    f"{TRAIN} --jobs": "0 5000", f"{WARM} --warm-up-fraction": "0 1.1", f"{WARM} --probe-every": "0",
    f"{WARM} --probe-max-epochs": "0", f"{WARM} --probe-accuracy": "0 2", f"{SWEEP} --threads": "0",
    f"{SWEEP} --per-gpu": "0 1000", f"{SWEEP} --max-attempts": "0", f"{SWEEP} --lease": "0 1e9",
    "correlate --db s.db --window": "0 1 2.5", "correlate --db s.db --resampling-seed": "0.5",
    "compare --db s.db --resampling-seed": "0.5", "measure f.npz --measure-samples": "0",
    "measure --run 0 --db s.db --epoch": "0.5", "probe --db s.db --jobs": "0", "demo --db n.db --tasks": "0 1",
}  # fmt: skip

LISTS = {  # lists of numbers
    f"{TRAIN} --seeds": [
        "",
        ",",
        "a",
        "3-1",
        "1,,2",
        "-1",
        "0-",
        "²",
        "١",
        "1_0",
        "0-99999999999",
        "nan",
        "1.5",
        "1-2-3",
    ],
    f"{TRAIN} --epochs": ["", "0", "1x", "x3", "1x0", "1x²", "-1", "1x99999999999", "nan", "1,,2", "1.5", "١"],
    f"{WARM} --hold-out-classes": ["", "a", "-1", "0-99999999999", "11", "0-9", "²"],
    f"{SWEEP} --seeds": ["", "4-1", "²", "0-99999999999"],
    "reproduce bonifazi2024 --db n.db --seeds": ["", "4-1", "²", "0-99999999999"],
    "correlate --db s.db --lags": ["", "5", "a:b", "1:", "-٣:3", "20:-20", "0:99999999999", "nan:1"],
    f"{SWEEP} --jobs": ["", "0", "-1", "²", "1.5", "many", "99999"],
    "reproduce bonifazi2024 --db n.db --jobs": ["", "0", "²", "many"],
}

CHOICES = {  # names from a list
    f"{TRAIN} --network": ["", "mpl", "resnet", "MLP", "nope:nope", "os:nope", ":", "os:", ":nope", "json:dumps:x"],
    f"{TRAIN} --activation": ["", "rel", "RELU"],
    f"{TRAIN} --norm": ["", "group"],
    f"{TRAIN} --optimizer": ["", "sdg"],
    f"{TRAIN} --precision": ["", "half", "float16"],
    f"{TRAIN} --engine": ["", "onlin", "stack"],
    f"{TRAIN} --dataset": ["", "minst", "digits2", "DIGITS", "nope:nope", "folder:", ":", "os:"],
    f"{TRAIN} --metrics": ["", "nc9", "nc1,", ",", "nc1,,nc2", "nc1 nc2"],
    f"{TRAIN} --layers": ["", "first"],
    f"{TRAIN} --task-accuracy": ["", "never"],
    f"{TRAIN} --first-task-order": ["", "odd"],
    f"{TRAIN} --name": ["", " "],
    f"{TRAIN} --objective": ["", "hinge", "cross_entropy:", "cross_entropy:smoothing=2", "mse:x=1", "two_hot"],
    f"{TRAIN} --keep-checkpoints": ["", "some", "every", "every:", "every:0", "every:²", "every:-1", "all:1"],
    f"{TRAIN} --lr-schedule": [
        "",
        "linear",
        "step",
        "step:0:1",
        "step:2",
        "step:2:inf",
        "step:2:0",
        "step:²:1",
        "cosine:1",
    ],
    f"{TRAIN} --device": ["", "gpu", "cuda:", "cuda:x", "cuda:²", "cuda:99", "tpu", "cpu:0", "mps:1"],
    f"{TRAIN} --intervention": [
        "",
        "nc9",
        "nc1:",
        "nc1:strenght=1",
        "nc1:strength",
        "nc1:strength=x",
        "nc1:strength=-1",
        "nc1:strength=nan",
        "nc1:strength=١",
        "nc1:strength=1e400",
        "nc1:strength=1,strength=2",
        "nc1:phase=later",
        "redo:steps=1.5",
        "redo:steps=0",
        "l2:",
        "l2:=",
        "l2:strength=0.1,",
        "weight_decay:phase=all",
        ":",
        "nc1",
    ],
    f"{WARM} --probes": ["", "never"],
    f"{SWEEP} --executor": ["", "lokal"],
    f"{SWEEP} --gpus": ["", ",", "0,,1", "0"],
    f"{SWEEP} --grid": [
        "",
        "lr",
        "lr=",
        "lr=nan",
        "lr=0.1,0.1",
        "lr=0.1,fast",
        "widht=1",
        "tasks=1,2",
        "=1",
        "lr=1,,2",
        "intervention=l2",
        "width=١",
        "seeds=1",
        "lr=-1",
        "network=mpl",
        "engine=online",
        "width=1.5",
    ],
    f"{SWEEP} --arm": ["", "=", "=l2", "a=nc9", "a=l2:strength=nan", "a=l2+", "a=l2+l2"],
    f"{SWEEP} --name": [""],
    "reproduce": ["", "bonifazi", "bonifazi2024 --scale tiny", "bonifazi2024 --part x", "bonifazi2024 --scale ''"],
    "runs list --db s.db --status": ["", "finishd", "Finished"],
    "runs list --db s.db --name": ["", "bsae", "%", "_"],
    "runs list --db s.db --scenario": ["", "none"],
    "export --db s.db --name": ["", "bsae"],
    "export --db s.db --scenario": ["", "none"],
    "export --db s.db --runs": ["", "zz", ",", "zz,"],
    "export --db s.db --format": ["", "xlsx", "CSV"],
    "report --db s.db --format": ["", "docx"],
    "report --db s.db --name": ["", "bsae"],
    "report --db s.db --runs": ["", "zz", ","],
    "report --db s.db --scenario": [""],
    "correlate --db s.db --x": ["", "nc9", ",", "nc1,", "@", "nc1@", "nc1@test/", "@test", "nc1@/last"],
    "correlate --db s.db --y": ["", "nc9", "nc1@nowhere"],
    "correlate --db s.db --control": ["", "nc9", ","],
    "correlate --db s.db --method": ["", "kendall"],
    "correlate --db s.db --across": ["", "years"],
    "correlate --db s.db --pairs": ["", "some"],
    "correlate --db s.db --plot": ["", "x", "x.docx"],
    "correlate --db s.db --name": ["", "bsae"],
    "correlate --db s.db --runs": ["", "zz"],
    "compare --db s.db --y": ["", "nc9"],
    "compare --db s.db --name": ["", "bsae"],
    "compare --db s.db --plain": ["", "zz"],
    "measure f.npz --split": ["", "dev"],
    "measure f.npz --layers": ["", "first"],
    "measure f.npz --metrics": ["", "nc9"],
    "measure f.npz --global-mean": ["", "median"],
    "measure --db s.db --run": ["", "zz", "_", "%"],
    "runs show --db s.db": ["''", "zz", "_", "%", "../s"],
    "runs delete --yes --db s.db": ["''", "zz", "_", "%"],
    "probe --db s.db": ["''", "zz"],
    "probe --db s.db --name": ["", "bsae"],
    "sweep status --db s.db": ["''", "zz"],
    "sweep retry --db s.db": ["''", "zz"],
    "sweep cancel --db s.db": ["''", "zz"],
    "sweep worker --db s.db --sweep": ["", "z"],
    "import i.csv --db s.db --scenario x --name": ["", " "],
    "import i.csv --db s.db --name x --scenario": ["", " "],
    "import i.csv --db s.db --scenario x --name y --skip": ["", "nope"],
}

LINES = """
2 |
4 | runs
2 | db
2 | train
2 | sweep
2 | nope
2 | runs lst
2 | db chekc
2 | train permuted-mnits
2 | sweep permuted-mnits
2 | sweep nope.toml
2 | sweep .
2 | --nope
2 | --db
2 | --db '' runs list
2 | --device gpu runs list
2 | runs list --nope
2 | runs list extra
2 | runs show
2 | runs delete
2 | reproduce
2 | measure
2 | measure f.npz --run 1 --db s.db
2 | measure f.npz --epoch 1
2 | measure f.npz --network mlp
2 | measure w.safetensors
2 | import
2 | import i.csv
2 | import i.csv --scenario x
2 | db merge --db n.db
2 | train permuted-digits --seed 0 --seeds 0-3
2 | train permuted-digits --epochs 2,1 --first-task-epochs 3
2 | train permuted-digits --first-task-nc1 0.5 --first-task-epochs 3
2 | train permuted-digits --first-task-max-epochs 3
2 | train permuted-digits --weight-decay 0.1 --intervention weight_decay
2 | train permuted-digits --intervention l2 --intervention l2
2 | train permuted-digits --optimizer adam --momentum 0.9
2 | train permuted-digits --engine online --momentum 0.9
2 | train permuted-digits --engine online --norm layer
2 | train permuted-digits --norm batch
2 | train permuted-digits --image-size 12
2 | train permuted-digits --network resnet18 --depth 3
2 | train permuted-digits --precision tf32 --device cpu
2 | train permuted-digits --batch-size 2000
2 | train permuted-digits --train-samples 5000
2 | train permuted-digits --train-samples 3
2 | train permuted-digits --width 60000 --depth 900
2 | train permuted-digits --normalisation published
2 | sweep permuted-digits --grid lr=0.1 --lr 0.2
2 | sweep permuted-digits --grid lr=0.1 --grid lr=0.2
2 | sweep permuted-digits --arm a= --arm a=l2
2 | sweep permuted-digits --grid lr=0.1,0.2 --grid width=1,2 --seeds 0-9999
2 | sweep permuted-digits --partition x
2 | sweep permuted-digits --address x
2 | sweep permuted-digits --gpus 0 --device cpu
2 | correlate --db s.db --pairs all --x nc2
2 | report --db s.db -o x.docx
2 | report --db s.db -o ''
2 | report --db s.db -o .
2 | export --db s.db -o x.docx
2 | export --db s.db -o ''
2 | export --db s.db -o .
2 | export --db s.db --format parquet
1 | train permuted-digits --dataset folder:nowhere
1 | train permuted-digits --dataset folder:i.csv
1 | train permuted-digits --tasks 1 --dataset sys:exit
1 | train permuted-mnist --tasks 1 --data-dir nowhere
2 | measure nowhere.npz
2 | measure i.csv
1 | measure w.safetensors --network mlp --dataset digits
2 | import nowhere.csv --scenario x --name y --db s.db
2 | import . --scenario x --name y --db s.db
4 | runs list
4 | runs list --db nowhere.db
4 | runs list --db text.db
4 | runs list --db .
4 | runs list --db ://x
4 | runs list --db nope://x/y
4 | runs list --db postgresql://u:p@h:port/x
4 | runs list --db foreign.db
4 | export --db text.db
4 | report --db text.db
4 | correlate --db text.db
4 | compare --db nowhere.db
4 | db info --db nowhere.db
4 | db check --db text.db
4 | db upgrade --db nowhere.db
4 | db merge text.db --db n.db
4 | db merge nowhere.db --db n.db
4 | train permuted-digits --tasks 1 --db text.db
4 | train permuted-digits --tasks 1 --db nowhere/x.db
4 | train permuted-digits --tasks 1 --db :memory:
4 | import i.csv --scenario x --name y --db text.db
4 | sweep status --db nowhere.db
"""
"""Exit code | command line."""

TOML = """
name = 5
name = [1]
name = ""
seeds = true
seeds = "x"
seeds = [-1]
seeds = [1.5]
seeds = []
nope = 1
scenario = 5
settings = 3
grid = [1]
arms = "l2"
zip = 3
[[zip]]
[zip]
[settings]\\nintervention = 5
[settings]\\nintervention = [5]
[settings]\\nintervention = "l2"
[settings]\\nintervention = ["nc9"]
[settings]\\nwidth = true
[settings]\\nwidth = 1.5
[settings]\\nwidth = "many"
[settings]\\nwidth = [1, 2]
[settings]\\nwidth = {a = 1}
[settings]\\nlr = nan
[settings]\\nlr = inf
[settings]\\nlr = -1
[settings]\\nlr = "nan"
[settings]\\ntasks = 99999999999999999999
[settings]\\ntasks = 0
[settings]\\nepochs = [0]
[settings]\\nepochs = [[1]]
[settings]\\nepochs = true
[settings]\\nnope = 1
[settings]\\nseed = 1
[settings]\\nfresh_baseline = 1
[settings]\\nmetrics = 5
[settings]\\ndataset = 5
[settings]\\nnetwork = false
[settings]\\nprobes = "never"
[grid]\\nlr = 1
[grid]\\nlr = []
[grid]\\nlr = [1, 1.0]
[grid]\\nlr = [nan]
[grid]\\nlr = [true]
[grid]\\nlr = ["x"]
[grid]\\nlr = [[0.1]]
[grid]\\nwidth = [1.0]
[grid]\\ntasks = [1, 2]
[grid]\\nintervention = ["l2"]
[arms]\\na = "l2"
[arms]\\na = [5]
[arms]\\na = ["nc9"]
[[zip]]\\nlr = [0.1]\\nwidth = [1, 2]
= 3
a = 2020-01-01
"""
"""What a sweep's file may not hold, after `scenario = "permuted-digits"`; `\\n` ends a line."""


def rows() -> Iterator[tuple[int, str]]:
    for i, (line, own) in enumerate(NUMBERS.items()):  # a third of them each, in turn
        yield from ((2, f"{line}={shlex.quote(value)}") for value in [*NO_NUMBER[i % 3 :: 3], *own.split()])
    for line, values in (LISTS | CHOICES).items():
        for value in values:
            if not line.split()[-1].startswith("--") or line.endswith(".db"):
                yield 2, f"{line} {value}"
            else:
                yield 2, f"{line}={shlex.quote(value)}"
    for text in LINES.strip("\n").splitlines():
        code, _, line = text.partition("|")
        yield int(code), line.strip()


ROWS = list(dict.fromkeys(rows()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small store and files, that no row may change."""
    folder = tmp_path_factory.mktemp("hostile") / "here"
    folder.mkdir()
    (folder / "i.csv").write_text("run,seed,epoch,nc1,test_accuracy\n" + "".join(f"r{r},{r},{e},{e * r + 1},{e / 9}\n"
                                  for r in range(2) for e in range(1, 6)))  # fmt: skip
    done = go("import", "i.csv", "--scenario", "warm-start", "--name", "base", "--db", "s.db", cwd=folder)
    assert done.code == 0, done.err
    features = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.savez(folder / "f.npz", features=features, labels=np.repeat(np.arange(3), 20))
    (folder / "w.safetensors").write_bytes(b"no weights")
    (folder / "text.db").write_text("this is no database\n" * 50)
    with sqlite3.connect(folder / "foreign.db") as foreign:
        foreign.execute("create table runs (x)")
    foreign.close()
    with open_store(folder / "s.db") as store:
        assert len(store.runs()) == 2
    return folder


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) + len(TOML.strip().splitlines()) >= 400


@pytest.mark.parametrize(("code", "line"), ROWS, ids=lambda value: str(value)[-60:])
def test_no_row_does_more_than_say_what_is_wrong(code: int, line: str, place: Path) -> None:
    refused(shlex.split(line), code, place)


@pytest.mark.parametrize("text", TOML.strip().splitlines())
def test_no_file_does_more_than_say_what_is_wrong(text: str, place: Path) -> None:
    path = place.parent / "f.toml"
    head = "" if text.startswith(("scenario", "= 3")) else 'scenario = "permuted-digits"\n'
    path.write_text(head + text.replace("\\n", "\n"))
    refused(["sweep", str(path), "--jobs", "1", "--db", "n.db"], 2, place)


@pytest.mark.parametrize(
    "line", ["runs list --db text.db", "runs list --status x --db s.db", "compare --y nc9 --db s.db"]
)
def test_json_is_a_document_or_nothing(line: str, place: Path) -> None:
    done = go(*line.split(), "--json", cwd=place)
    assert done.code in (2, 4) and (done.out == "" or json.loads(done.out))


def refused(arguments: list[str], code: int, place: Path) -> None:
    before = listing(place)
    done = go(*arguments, cwd=place)
    assert "Traceback" not in done.err and "unexpectedly" not in done.err, done.err
    assert done.code == code, (done.code, done.out[-300:], done.err)
    assert done.out == ""
    assert (
        1 <= len(done.errors) <= 2 and done.errors[0].startswith("error: ") and done.errors[0].endswith((".", "?"))
    ), done.err
    assert all(line.startswith("hint: ") for line in done.errors[1:]), done.err
    assert listing(place) == before
