"""Parts of somebody's own: listed, checked, used and part of a run's identity; and what all parts keep."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ncpl_cli import contracts, plugins
from ncpl_cli.main import call
from ncpl_cli.records import Address
from ncpl_cli.spec import flat
from ncpl_cli.store import open_store
from tests.test_spec import spec

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text()
FILES = dict(re.findall(r"```python\n# file: (\S+)\n(.*?)```", PAGE, re.DOTALL))

USES = {
    "radius.py": ["permuted-digits", "--metrics", "radius,nc1", "--layers", "all", "--batch-size", "32"],
    "small_logits.py": ["permuted-digits", "--intervention", "small_logits:strength=0.1", "--batch-size", "32"],
    "hinge.py": ["permuted-digits", "--objective", "hinge:margin=2", "--batch-size", "32"],
    "small_conv.py": ["permuted-digits", "--network", "small-conv", "--batch-size", "32"],
    "bars.py": ["permuted-digits", "--dataset", "bars", "--batch-size", "32"],
    "halves.py": ["halves", "--batch-size", "32"],
    "cycled.py": ["permuted-digits", "--probe", "cycled:epochs=1", "--batch-size", "32"],
}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Registries, and what is loaded, as they were."""
    before = os.environ.get(plugins.VARIABLE)
    yield
    for registry in plugins.REGISTRIES:
        for name in plugins.names(registry):
            plugins.forget(registry, name)
    os.environ.pop(plugins.VARIABLE, None)
    if before is not None:
        os.environ[plugins.VARIABLE] = before


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Writes an example of the page, with replacements, into a file."""

    def write(name: str, *changes: tuple[str, str]) -> str:
        text = FILES[name]
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_the_page_has_an_example_of_each_kind() -> None:
    assert set(FILES) == set(USES)
    assert max(len([line for line in text.splitlines() if line.strip()]) for text in FILES.values()) <= 25


@pytest.mark.parametrize("name", USES)
def test_an_example_is_checked_listed_and_used(
    written: Callable[..., str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(name)
    assert call(["catalog", "--check", file, "--json"]) == 0, capsys.readouterr()
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks and all(one["wrong"] is None for one in checks)
    assert call(["--plugin", file, "catalog", "--json"]) == 0
    listed = [entry for entries in json.loads(capsys.readouterr().out).values() for entry in entries]
    (mine,) = [entry for entry in listed if entry.get("origin") == file]
    assert mine["id"] == checks[0]["part"] and "ncpl" in {entry.get("origin") for entry in listed}
    db = str(tmp_path / "a.db")
    assert call(["train", *USES[name], "--tasks", "2", "--db", db, "--plugin", file, "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["status"] == "finished"
    with open_store(db) as store:
        settings = store.run(run["id"]).settings
        digest = plugins._digest(Path(file))
        in_identity = name not in ("radius.py", "bars.py", "cycled.py")
        key = "intervention_plugins" if name == "small_logits.py" else "plugins"
        assert ([text.split(" ")[2] for text in settings.get(key, ())] == [digest]) == in_identity
        if name == "radius.py":
            found = {str(a): v for a, v in store.values(run["id"], 2).items() if a.metric == "radius"}
            assert {"radius", "radius@test", "radius/layer1"} & found.keys() and all(v > 0 for v in found.values())
        if name == "cycled.py":
            found = store.runs(parent=run["id"])
            assert {row.branch_epoch for row in found} == {0, 1, 2}
            assert all(row.settings["plugins"] == [f"probes cycled {digest}"] for row in found)
            assert Address("probe_gap") in store.values(run["id"], 2)
        if name == "small_logits.py":
            assert settings["interventions"] == ["small_logits:strength=0.1"]


def test_a_change_of_the_file_is_another_run(
    written: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = str(tmp_path / "a.db")
    line = ["train", "permuted-digits", "--tasks", "1", "--batch-size", "32", "--db", db]
    line += ["--intervention", "small_logits"]
    for changes in ((), (), (("square()", "abs()"),)):
        assert call([*line, "--plugin", written("small_logits.py", *changes)]) == 0
    with open_store(db) as store:
        assert len(store.runs()) == 2
        assert len({tuple(row.settings["intervention_plugins"]) for row in store.runs()}) == 2
        first = store.runs()[0].id
    measure = ["measure", "--run", first, "--db", db]
    assert call(measure) == 2
    assert "which is another now" in capsys.readouterr().err
    assert call([*measure, "--plugin", written("small_logits.py")]) == 0
    plugins.forget("INTERVENTIONS", "small_logits")
    os.environ.pop(plugins.VARIABLE)
    assert call(measure) == 2
    assert "small_logits, a part of somebody's own, which is not here" in capsys.readouterr().err
    assert call(["correlate", "--across", "epochs", "--y", "test_accuracy", "--db", db, "--json"]) in (0, 2)
    assert "unexpectedly" not in capsys.readouterr().err


def test_an_arm_of_ones_own_intervention_is_compared_with_its_plain_arm(
    written: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of a treatment is part of the treatment, also in stores that name it among the other plugins."""
    db, file = tmp_path / "a.db", written("small_logits.py")
    sweep = ["sweep", "permuted-digits", "--tasks", "1", "--batch-size", "32", "--seeds", "0-1", "--db", str(db)]
    assert call([*sweep, "--plugin", file, "--arm", "plain=", "--arm", "small=small_logits"]) == 0
    older = tmp_path / "older.db"
    with open_store(db) as store:
        assert not any("plugins" in row.settings for row in store.runs())
        (treated, _) = (row.id for row in store.runs() if row.settings["interventions"])
    shutil.copy(db, older)
    shutil.copytree(tmp_path / "a.checkpoints", tmp_path / "older.checkpoints")
    with sqlite3.connect(older) as connection:
        connection.execute("UPDATE runs SET settings = replace(settings, 'intervention_plugins', 'plugins')")
    with open_store(older) as store:
        assert sum("plugins" in row.settings for row in store.runs()) == 2
    capsys.readouterr()
    for one in (db, older):
        assert call(["compare", "--y", "test_accuracy", "--db", str(one), "--json"]) == 0
        assert "small_logits" in capsys.readouterr().out
    written("small_logits.py", ("square()", "abs()"))
    for one in (db, older):
        assert call(["measure", "--run", treated, "--db", str(one)]) == 2
        assert "which is another now" in capsys.readouterr().err


def test_runs_without_parts_of_ones_own_keep_their_identity(written: Callable[..., str], digits: object) -> None:
    plain = spec(digits)  # type: ignore[arg-type]
    plugins.load_file(Path(written("small_logits.py")))
    plugins.load_file(Path(written("radius.py")))
    again = spec(digits, metrics=("radius",))  # type: ignore[arg-type]
    assert again.id == plain.id and "plugins" not in again.identity and "plugins" not in flat(again)
    assert spec(digits, intervention=["small_logits"], batch_size=20).plugins  # type: ignore[arg-type]


BROKEN = {
    "order of rows": ("radius.py", [("/ between[", "* labels[0] / between[")]),
    "is a number": ("radius.py", [("return within", "return float('nan') * within")]),
    "trains, alone as with others": ("small_logits.py", [(".mean((1, 2))", ".mean()")]),
    "options": ("halves.py", [('"epochs of each task"', '""')]),
    "its slope": ("hinge.py", [("clamp_min(0)", "detach().clamp_min(0)")]),
    "identity": ("halves.py", [(", identity=False", "")]),
    "tasks": ("halves.py", [("half * (index % 2)", "half * (1 + index % 2)")]),
    "its classifier is found": ("small_conv.py", [("nn.Linear(64, classes)", "nn.Linear(64, classes), nn.Tanh()")]),
    "a fresh network beside it": ("cycled.py", [("labels + 1)", "labels + 1 + self.branch_epoch)")]),
    "its run": ("cycled.py", [('id = "cycled-probe"', 'id = "cycled"')]),
    "its content": ("bars.py", [("default_rng(0)", "default_rng()")]),
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_broken_part_is_told_what_it_does_not_keep(
    written: Callable[..., str], check: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, changes = BROKEN[check]
    assert call(["catalog", "--check", written(name, *changes), "--json"]) == 1
    failed = {one["check"] for one in json.loads(capsys.readouterr().out)["checks"] if one["wrong"]}
    assert check in failed


FAULTS = {
    "no part": ("x = 1\n", 2, "holds no part"),
    "a taken name": ("class P:\n    id = 'nc1'\nMETRICS = [P]\n", 2, "ncpl has 'nc1' in METRICS already"),
    "no list": ("METRICS = 3\n", 2, "METRICS is no list of parts"),
    "no id": ("METRICS = [3]\n", 2, "METRICS is no list of parts"),
    "a strange name": ("NETWORKS = {'a:b': len}\n", 2, "has the name 'a:b'"),
    "an error": ("import os\nraise ValueError('set it up first')\n", 1, "line 2"),
    "no Python": ("this is no Python\n", 1, "SyntaxError"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_file_that_is_no_plugin_is_a_sentence(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, code, said = FAULTS[kind]
    (tmp_path / "bad.py").write_text(text)
    assert call(["--plugin", str(tmp_path / "bad.py"), "catalog"]) == code
    err = capsys.readouterr().err
    assert said in err and "bad.py" in err and "unexpectedly" not in err
    monkeypatch.delenv(plugins.VARIABLE)
    assert call(["--plugin", str(tmp_path / "none.py"), "catalog"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert call(["catalog", "--plugin"]) == 2


def test_installed_packages_bring_their_parts(written: Callable[..., str], tmp_path: Path) -> None:
    """An entry point as an installer writes it, in a process of its own, with a second part through NCPL_PLUGINS."""
    written("radius.py")
    file = written("halves.py")
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ncpl.plugins]\nmine = radius\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, plugins.VARIABLE: file}
    command = [sys.executable, "-m", "ncpl_cli", "catalog", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [m["origin"] for m in found["metrics"] if m["id"] == "radius"] == ["radius"]
    assert [s["origin"] for s in found["scenarios"] if s["id"] == "halves"] == [file]


OURS = [
    (registry, name)
    for registry in ("SCENARIOS", "INTERVENTIONS", "NETWORKS", "OBJECTIVES", "PROBES")
    for name in plugins.entries(registry)
] + [("DATASETS", "digits")]
"""What can be asked of our own here: data sets of the net are not here, our metrics are computed together."""


@pytest.mark.parametrize(("registry", "name"), OURS, ids=[f"{r.lower()}-{n}" for r, n in OURS])
def test_our_own_parts_keep_what_all_parts_keep(registry: str, name: str) -> None:
    found = contracts.checked(registry, name, plugins.entries(registry)[name])
    assert found and not [(one.check, one.wrong) for one in found if one.wrong]
