"""Every command and Python block of the README and its pages, and every example of a --help, is run as it is written.

What is scaled down is so by the place, not by the words: `small` shortens every training to a few epochs in each
process (tasks, warm-up, probes; none of it changes what a command is) and leaves a third of the digits,
NCPL_DATA_DIR holds a few random images in MNIST's format, and ids of the README's own runs stand for runs that are
there. What needs a GPU, a cluster or a
download is named in NOT_HERE with the reason.
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import struct
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ncpl_cli.data import Dataset
from ncpl_cli.data.sets import load_digits
from ncpl_cli.main import COMMANDS, app
from ncpl_cli.store import open_store
from tests import test_as_written as as_written
from tests.forked import go

HOME = Path(__file__).parents[1]

PAGES = ("install", "training", "sweeps", "measuring", "analysis", "reports", "reproducing", "open_questions", "store",
         "house")  # fmt: skip
"""Pages of docs/ that go with the README; the others have tests of their own."""

TEXT = "\n\n".join(path.read_text(encoding="utf-8") for path in
                   (HOME / "README.md", *(HOME / "docs" / f"{page}.md" for page in PAGES)))  # fmt: skip

NOT_HERE = {
    r"warm-start (--seeds|--probes)": "ResNet-18 on CIFAR-10: a download, and a GPU's work",
    r"report -o report.html --figures": "the figures of `report --name plain --figures figures` are drawn instead",
    r"--dataset cifar10": "CIFAR-10 is a download",
    r"--scale (laptop|full)": "real MNIST, or a GPU, and hours",
    r"reproduce \S+( --scale smoke)?$": "four sweeps, minutes: tests/test_reproduce.py",
    r"postgresql://": "a server: tests/test_queue.py",
    r"--executor (ray|slurm)": "a cluster: tests/test_executors.py",
    r"--gpus": "two GPUs",
    r"features (hf:|torchvision\S+ --dataset)": "published weights are a download: tests/test_features.py",
    r"sweep study.toml|sweep .*--arm|sweep \S+\.toml": "hundreds of runs: its --dry-run is run instead",
    r"--figures paper|--kit": "figures are drawn once: tests/test_papers.py",
    r"module:callable": "names that stand for your own: tests/test_own_data.py",
    r"^ncpl serve": "it serves until it is stopped: tests/test_serve.py",
    r"^ncpl demo$": "a minute or two: `make demo`",
}
"""Commands that are not run as they are, by what they say, and why."""

DRY = r"sweep study.toml$|sweep \S+\.toml --jobs auto$|sweep (permuted|shuffled)\S+ --seeds 0-4 --grid lr=0.01,0.003"


MINE = """
from ncpl_cli.metrics import collapse
from ncpl_cli.metrics.catalogue import Metric


def metrics(features, labels, weight, bias):
    return collapse(features, labels, weight, bias).values


def network(num_classes):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))


def size(features, labels, weight, bias):
    return float((features**2).sum(1).mean())


METRICS = [Metric("size", "mean |h|^2", "lower = smaller", "features", "mine", family="own", compute=size)]
"""


def some_digits(folder: Path) -> Dataset:
    """A third of the digits: as many as a scenario's preset wants."""
    whole = load_digits(folder)
    return replace(whole, train=whole.train.take(np.arange(520)), test=whole.test.take(np.arange(72)))


def small() -> None:
    """Make every training short: horizons and probes, which are no part of what a run is, and a third of the digits."""
    from ncpl_cli.data import DATASETS
    from ncpl_cli.scenarios import SCENARIOS

    DATASETS["digits"] = some_digits

    most = {"tasks": 4, "warm_up_epochs": 2, "probe_every": 2, "probe_max_epochs": 1, "first_task_epochs": 2,
            "epochs": 2, "pretrain_epochs": 2, "refit_epochs": 2}  # fmt: skip
    always = {"tasks", "warm_up_epochs", "probe_max_epochs", "epochs", "pretrain_epochs", "refit_epochs"}
    for scenario in SCENARIOS:
        whole = scenario.of

        def of(given: dict[str, Any], whole: Any = whole, scenario: Any = scenario) -> Any:
            known = {f.name: given.get(f.name, f.default) for f in fields(scenario) if f.name in most}
            short = {name: min(value, most[name]) for name, value in known.items() if isinstance(value, int) and
                     (name in given or name in always)}  # fmt: skip
            return whole({**given, **short})

        scenario.of = staticmethod(of)  # type: ignore[assignment, method-assign]


def commands(text: str) -> list[str]:
    """Command lines of a text: indented, after `$` or by their name; continued and chained ones apart."""
    found = []
    for line in text.splitlines():
        if re.match(r"^\| .*\? \|", line):  # a table of questions and answers
            found += re.findall(r"`(ncpl [^`]+)`", line)
        elif match := re.match(r"^ {4}(?:\$ )?(ncpl .*)$", line):
            line = re.split(r"\s+#\s", match[1])[0].strip()
            found += [part.strip() for part in re.split(r"&&|;", line)]
    return found


def blocks(text: str) -> list[str]:
    """Indented blocks that begin with an import."""
    found, block = [], list[str]()
    for line in [*text.splitlines(), "end"]:
        if line.startswith("    ") or (block and not line.strip()):
            block.append(line[4:])
        else:
            if block and block[0].startswith(("from ", "import ")):
                python = itertools.takewhile(lambda row: not re.match("(INSTALL|SELECT) ", row), block)  # SQL beside it
                found.append("\n".join(python).strip() + "\n")
            block = []
    return found


def examples() -> Iterator[str]:
    """The examples of every --help."""
    import typer

    group = typer.main.get_command(app)
    with group.make_context("ncpl", ["catalog"]) as context:
        for name in COMMANDS:
            command: Any = group.get_command(context, name)  # type: ignore[attr-defined]
            inner = [command]
            if hasattr(command, "list_commands"):
                with command.make_context(name, ["--help"], parent=context, resilient_parsing=True) as within:
                    inner += [command.get_command(within, one) for one in command.list_commands(within)]
            for one in inner:
                for line in re.findall(r"Example: (.+)", one.help or ""):
                    yield from (part.strip() for part in line.split(";"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the README speaks of."""
    here = tmp_path_factory.mktemp("readme") / "here"
    raw = here / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, count in (("train", 130), ("t10k", 30)):
        images = draw.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, count, 28, 28) + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, count) + labels.tobytes())
    for split, name, i in ((s, c, i) for s in ("train", "test") for c in "ab" for i in range(110)):
        (here / "DIR" / split / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8)).astype(np.uint8)).save(here / "DIR" / split / name / f"{i}.png")
    features, labels = draw.normal(size=(60, 5)), np.repeat(np.arange(3), 20)
    arrays = {"features": features, "labels": labels, "weight": draw.normal(size=(3, 5)), "bias": np.zeros(3)}
    np.savez(here / "features.npz", **arrays, test_features=features, test_labels=labels)
    save_file({"weight": torch.zeros(1)}, here / "model.safetensors")
    rows = "".join(f"{r},{s},{e},{1 / e + s + draw.random()},{draw.random()}\n" for s, r in enumerate("abc")
                   for e in range(1, 121))  # fmt: skip
    for name in ("theirs.csv", "results.csv"):
        (here / name).write_text("run,seed,epoch,nc1,test_accuracy\n" + rows)
    logs = here / "lightning_logs" / "version_0"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text("epoch,step,nc1,test_accuracy\n" + "".join(f"{e},{e},{1 / (e + 1)},0.{e}\n"
                                      for e in range(8)))  # fmt: skip
    (here / "shards").mkdir()
    for part in range(2):
        np.savez(here / "shards" / f"{part}.npz", features=features[part::2], labels=labels[part::2])
    (here / "mine.py").write_text(MINE)
    question = re.search(r"^    (\[\[question\]\]\n(?:    .*\n)*?)    \$", TEXT, re.MULTILINE)
    assert question, "the README shows a plan"
    (here / "plan.toml").write_text(re.sub("^    ", "", question[1], flags=re.MULTILINE))
    found = re.search(r'^    scenario = "(?:.|\n)*?(?=\n\S|\n\n\S)', TEXT, re.MULTILINE)
    assert found, "the README shows a sweep's file"
    (here / "study.toml").write_text(re.sub("^    ", "", found[0], flags=re.MULTILINE))
    grid = "ncpl sweep permuted-digits --grid lr=0.01,0.003 --seeds 0-1 --train-samples 100 --width 8 --name study"
    assert run(f"{grid} --jobs 1", here) is None
    layered = "ncpl train permuted-digits --tasks 2 --layers all --train-samples 100 --width 8 --name layered"
    assert run(layered, here) is None
    probed = "ncpl train warm-start --dataset digits --network mlp --width 8 --warm-up-fraction 0.1 --name probed"
    assert run(probed, here) is None
    assert run("ncpl import theirs.csv --scenario warm-start --name earlier", here) is None
    for name in ("laptop.db", "cluster.db", "old.db"):
        shutil.copy(here / "ncpl.db", here / name)
    return here


def run(line: str, here: Path) -> str | None:
    """Run a command as it stands; what is wrong, or None."""
    arguments = shlex.split(line)[1:]
    if re.search(DRY, line):
        arguments.append("--dry-run")
    elif any(re.search(pattern, line) for pattern in NOT_HERE) or (
        "-o " not in line and line.removeprefix("ncpl ") in as_written.lines()
    ):
        return None  # what only reads is run on a larger store there
    ids = {}
    if (here / "ncpl.db").exists():
        with open_store(here / "ncpl.db") as store:
            ids = {row.id: row for row in store.runs() if row.parent is None}
    runs = list(ids)
    arguments = [runs[0] if re.fullmatch("[0-9a-f]{4}", word) and runs else word for word in arguments]
    if "--epoch" in arguments:
        arguments[arguments.index("--epoch") + 1] = "2"
    env = {"NCPL_DATA_DIR": str(here / "data")}
    if line.startswith("ncpl report") and "--name" not in line:
        env["NCPL_DB"] = "laptop.db"  # the place's own runs: a report of all that has been trained here by now is long
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    done = go(*arguments, cwd=here, env=env, before=small, seconds=120)
    new = [path for path in here.rglob("*") if before.get(path) != path.stat().st_mtime_ns]
    if done.code != 0 or "Traceback" in done.err:
        return f"{line}: exit {done.code}: {done.err[-400:]}"
    return None if done.out.strip() or done.err.strip() or new else f"{line}: no answer"


@pytest.mark.timeout(900)
def test_every_command_of_the_readme_runs_as_written(place: Path) -> None:
    lines = commands(TEXT)
    assert len(lines) > 40 and len(set(lines) & {line for line in lines if line.startswith("ncpl sweep")}) > 3
    wrong = [found for line in dict.fromkeys(lines) if (found := run(line, place))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(900)
def test_every_example_of_a_help_runs_as_written(place: Path) -> None:
    lines = list(dict.fromkeys(examples()))
    assert len(lines) > 15
    wrong = [found for line in lines if (found := run(line, place))]
    assert not wrong, "\n".join(wrong)


def test_every_python_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(200, 5)), np.repeat(np.arange(10), 20)
    weight, bias = draw.normal(size=(10, 5)), np.zeros(10)
    with open_store("ncpl.db") as made:
        for seed in range(2):
            with made.run("mine", seed=seed, name="n") as one:
                for epoch in range(1, 8):
                    values = {"nc1": float(draw.random()), "plasticity_loss": float(draw.random())}
                    one.record(epoch=epoch, task=epoch - 1, metrics=values)
        made.frame().to_parquet("epochs.parquet")
    found = blocks(TEXT)
    assert len(found) >= 6
    with open_store("ncpl.db") as store:
        for block in found:
            names = {"features": features, "labels": labels, "weight": weight, "bias": bias, "accuracy": 0.5,
                     "batches": [(features, labels)], "store": store}  # fmt: skip
            if "range(run.last_epoch + 1, 101)" in block:  # a run that has come far goes on
                with store.run("my-scenario", seed=0, name="mine", config={"lr": 0.1}) as begun:
                    begun.record(epoch=97, task=0, metrics={"online_accuracy": 0.5})
            exec(compile(block, "README.md", "exec"), names)


def test_what_is_not_run_says_why() -> None:
    lines = [*commands(TEXT), *examples()]
    for pattern, why in NOT_HERE.items():
        assert why and any(re.search(pattern, line) for line in lines), f"nothing says {pattern} any more"
