"""Reading a store changes nothing: not the file, not what lies beside it, not an older schema."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ncpl_cli.errors import InputError, StoreError
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Store, open_store

FROZEN = Path(__file__).parent / "data" / "store_0001.sql"

READERS = {
    "runs list": 0, "runs list --json": 0, "runs show {run}": 0, "export": 0, "export --runs {run}": 0, "db info": 0,
    "db info --json": 0, "db check": 0, "db check --json": 0, "correlate --y online_accuracy": 0,
    "compare --y online_accuracy": 2, "report -o {out}": 0,
    "sweep status": 0,
}  # fmt: skip
"""Every command that reads, and its exit code on a store with one run of ten tasks (nothing to compare)."""


def fill(path: Path, *, killed: bool = False) -> str:
    """A store with a run of ten tasks; `killed`: by a process that never closed it."""
    if killed:
        child = os.fork()
        if child == 0:
            fill(path)
            store = open_store(path)
            with store.writing() as connection:
                connection.exec_driver_sql("INSERT INTO labels SELECT pk, 'late' FROM runs")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        return "f00000000000"
    with open_store(path) as store:
        run = store.register(RunInfo("f00000000000", "{}", "permuted-digits", 0, {"lr": 0.01}, {"tasks": 9}, 9)).id
        attempt = store.claim([run], Owner.current(), {"ncpl": "test"})[run]
        for epoch in range(10):
            values = {Address("online_accuracy"): 0.1 * epoch, Address("nc1"): 1 / (epoch**2 + 3)}
            values[Address("vci", "test")] = 0.5
            store.save([(run, attempt, EpochRecord(epoch, max(0, epoch - 1), 1, epoch, 0.5, 0.25, values))])
        store.finish(run, attempt, "finished")
    return run


def frozen(path: Path) -> str:
    """A store as the first release wrote it."""
    connection = sqlite3.connect(path)
    connection.executescript(FROZEN.read_text())
    for epoch in range(3, 10):
        connection.execute(
            "INSERT INTO epochs (run, epoch, task, task_epoch, samples_seen, seconds, measure_seconds, "
            "online_accuracy, nc1) VALUES (1, ?, ?, 1, 10, 0.5, 0.25, ?, ?)",
            (epoch, epoch - 1, 0.1 * epoch, 1 / (epoch**2 + 3)),
        )
    connection.commit()
    connection.close()
    return "f00000000000"


def contents(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder; of SQLite's shared memory only that it is there."""
    return {
        str(path.relative_to(folder)): b"" if path.name.endswith("-shm") else path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["sound", "frozen", "killed", "without shm"])
def test_no_reading_command_changes_anything(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    path, empty = folder / "s.db", tmp_path / "empty"
    run = frozen(path) if kind == "frozen" else fill(path, killed=kind in ("killed", "without shm"))
    if kind == "without shm":
        (folder / "s.db-shm").unlink()
    empty.mkdir()
    monkeypatch.chdir(empty)  # where a command would leave something by mistake
    before = contents(folder)
    assert any(name.endswith("-wal") for name in before) == (kind in ("killed", "without shm"))
    for line, code in READERS.items():
        if kind == "frozen" and line.startswith("sweep"):
            code = 4
        found = call([*line.format(run=run, out=tmp_path / "r.html").split(), "--db", str(path)])
        said = capsys.readouterr()
        assert found == code, (line, said.err)
        if kind == "frozen" and code == 4:
            assert "has the older schema 0001" in said.err and "ncpl db upgrade --db" in said.err
        if kind in ("killed", "without shm") and line == "runs list":
            assert "late" in said.out  # what had not come into the file yet
        assert contents(folder) == before, line
    assert not list(empty.iterdir())
    with open_store(path, readonly=True) as store, pytest.raises(StoreError, match="open for reading only"):
        store.delete(run)
    assert contents(folder) == before


def test_stores_on_a_read_only_medium_are_read(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    run = fill(tmp_path / "here" / "s.db")
    frozen(tmp_path / "here" / "old.db")
    lines = [line.format(run=run, out=tmp_path / "r.html") for line in READERS if "compare" not in line]
    program = (
        "import sys; from ncpl_cli.main import call\n"
        f"for db in ('s', 'old'):\n    for line in {lines!r}:\n"
        "        code = call([*line.split(), '--db', f'there/{db}.db'])\n"
        "        assert code == (4 if db == 'old' and 'sweep' in line else 0), (db, line, code)\n"
        "assert call(['runs', 'delete', 'f0', '--yes', '--db', 'there/s.db']) == 4\n"
    )
    script = 'mount --bind here there && mount -o remount,ro,bind there && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", program]
    if shutil.which("unshare") is None or subprocess.run([*command[:5], "sh", "true"], cwd=tmp_path).returncode:
        pytest.skip("no mounting here (needs Linux and root)")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot be written (read-only)" in done.stderr, done.stderr
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["old.db", "s.db"]


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.db").touch()
    for line in READERS:
        for db, words in (("none.db", "there is no store none.db"), ("empty.db", "there is no store in it")):
            assert call([*line.format(run="a", out="r.html").split(), "--db", db]) == 4
            assert words in capsys.readouterr().err
    assert call(["db", "merge", "none.db", "--db", "all.db"]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]


def test_merging_leaves_its_source_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    frozen(folder / "old.db")
    fill(folder / "killed.db", killed=True)
    before = contents(folder)
    for name in ("old", "killed"):
        assert call(["db", "merge", str(folder / f"{name}.db"), "--db", str(tmp_path / f"all-{name}.db")]) == 0
    assert contents(folder) == before
    (tmp_path / "link.db").symlink_to(tmp_path / "all-old.db")
    assert call(["db", "merge", str(tmp_path / "link.db"), "--db", str(tmp_path / "all-old.db")]) == 2
    assert "is the store itself" in capsys.readouterr().err


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "old.db").unlink(missing_ok=True)
        frozen(tmp_path / "old.db")
        assert call(["db", "upgrade", "--db", str(tmp_path / "old.db")]) == 0
    names = {"old.db", "old.db.backup-0001", "old.db.backup-0001.2"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names - {"old.db"}:
        with open_store(tmp_path / name, readonly=True) as store:
            assert store.revision == "0001" and store.check() == [] and len(store.rows("f00000000000")) == 10


def test_a_store_read_without_locks_that_changes_meanwhile_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fill(tmp_path / "s.db")
    with monkeypatch.context() as as_if:
        as_if.setattr(os, "access", lambda *_: False)  # a folder of somebody else, who trains on
        store = open_store(tmp_path / "s.db", readonly=True)
        store.runs()
    with open_store(tmp_path / "s.db") as other:
        other.delete(run)
    with pytest.raises(StoreError, match="was changed while it was read"):
        store.runs()
    store.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE runs SET settings = '{broken'", "the column settings is broken"),
        ("UPDATE runs SET settings = '[1]'", "the column settings is broken"),
        ("UPDATE runs SET horizon = 'null'", "the column horizon is broken"),
        ("UPDATE runs SET recorded = ''", "the column recorded is broken"),
        ("UPDATE runs SET owner = '{\"pid\": 1}'", "the column owner is broken"),
        ("UPDATE runs SET cohort = '\"a\"'", "the column cohort is broken"),
        ("UPDATE runs SET created = 1e300", "the column created is broken"),
        ("UPDATE runs SET id = '../../etc'", "which no run can have"),
        ("UPDATE runs SET parent = '/etc'", "which no run can have"),
        ("UPDATE runs SET parent = 'gone'", "is not in the store"),
        ("UPDATE runs SET status = 'running'", "nobody holds it"),
        ("UPDATE attempts SET provenance = 'x'", "attempt 1 of run f00000000000"),
        ("DELETE FROM epochs WHERE epoch = 3", "has 9 of its epochs 0 to 9"),
        ("UPDATE epochs SET run = 77", "has no runs"),
        ("ALTER TABLE epochs DROP COLUMN nc2", "has no column nc2"),
        ("DROP TABLE members", "there is no table members"),
    ],
)  # fmt: skip
def test_check_finds_what_commands_would_stumble_on(
    tmp_path: Path, change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.db"
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute("DROP VIEW epochs_of_runs")
    connection.execute(change)
    connection.commit()
    connection.close()
    assert call(["db", "check", "--db", str(path)]) == 4
    assert words in capsys.readouterr().err
    for line in READERS.keys() - {"report -o {out}"}:  # which reads nothing that others do not
        code = call([*line.format(run="f00000000000").split(), "--db", str(path)])
        said = capsys.readouterr().err
        assert "unexpectedly" not in said and (code in (0, 2) or "error: " in said), (line, said)


SCRIPTS_READ = {
    "runs": "pk, id, scenario, seed, settings, status, parent, branch_epoch", "attempts": "run, provenance",
    "labels": "run, name", "epochs": "run, epoch, task, online_accuracy, train_loss",
    "task_accuracy": "run, epoch, evaluated_task, accuracy",
}  # fmt: skip


def test_a_query_reads_what_scripts_rely_on_and_changes_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for table, columns in SCRIPTS_READ.items():
        assert store.query(f"SELECT {columns} FROM {table}")[0] == columns.split(", ")
    store.register(RunInfo("f00000000000", "{}", "permuted-digits", 0, {"lr": 0.01}, {}, 9), "it's")
    assert store.query("WITH a AS (SELECT id, seed FROM runs) SELECT * FROM a") == (
        ["id", "seed"],
        [("f00000000000", 0)],
    )
    for sql in ("SELEC 1", "SELECT nothing FROM runs", "", "-- nothing"):
        with pytest.raises(InputError):
            store.query(sql)
    if store.file is None:
        return
    for sql in (
        "SELECT 1; SELECT 2", "DELETE FROM runs", "DROP TABLE labels",
        "PRAGMA user_version = 3", "PRAGMA table_info(runs)", "COMMIT",
        f"ATTACH '{tmp_path / 'x.db'}' AS x", f"VACUUM INTO '{tmp_path / 'y.db'}'", "CREATE TEMP TABLE t (x)",
        "INSERT INTO labels SELECT pk, 'x' FROM runs RETURNING name",
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"only reads|within a transaction|one statement"):
            store.query(sql)
    assert len(store.runs()) == 1 and not {"x.db", "y.db"} & {path.name for path in tmp_path.iterdir()}
    monkeypatch.setenv("NCPL_DB", str(tmp_path / "a.db"))
    assert (
        call(["db", "query", "SELECT run, name, 0.5 AS half, NULL AS none, x'ff' AS blob FROM labels", "--json"]) == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document == {"columns": ["run", "name", "half", "none", "blob"], "rows": [[1, "it's", 0.5, None, "ff"]]}
    assert call(["db", "query", "SELECT id FROM runs"]) == 0 and capsys.readouterr().out == "id\nf00000000000\n"
    assert call(["db", "query", "DELETE FROM runs"]) == 2
