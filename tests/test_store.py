"""The store: one transaction an epoch, leases and fencing, errors in sentences, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ncpl_cli.errors import InputError, LeaseLost, StoreError
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Store, open_store, schema
from ncpl_cli.store.connection import translate
from ncpl_cli.store.merge import Merged, merge
from ncpl_cli.store.sqlite_file import NETWORK_FILE_SYSTEMS
from tests import forked


def info(name: str = "a", seed: int = 0, tasks: int = 3) -> RunInfo:
    return RunInfo(f"{name}{seed:011x}", "{}", "permuted-digits", seed, {"lr": 0.01}, {"tasks": tasks}, tasks)


def record(epoch: int, **values: float) -> EpochRecord:
    found = {Address("online_accuracy"): 0.1 + 1e-17 * epoch, Address("nc1"): 1 / 3, Address("nc1", "test"): 2 / 3}
    found |= {Address("vci", "test", "layer1"): 0.7, **{Address(name): value for name, value in values.items()}}
    return EpochRecord(epoch, epoch // 2, epoch % 2 + 1, 10 * epoch, 0.5, 0.25, found,
                       {Address("plasticity_loss"): "first task"}, {0: 0.9, 1: 0.8})  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Store]:
    """A store in an SQLite file, for what only such have."""
    with open_store(tmp_path / "a.db") as store:
        yield store


def filled(store: Store, count: int = 4) -> tuple[str, int]:
    run = store.register(info()).id
    attempt = store.claim([run], Owner.current(), {"ncpl": "test"})[run]
    for epoch in range(count):
        store.save([(run, attempt, record(epoch))])
    return run, attempt


def test_what_is_saved_is_read_back_to_the_bit(store: Store) -> None:
    run, _ = filled(store)
    row = store.run(run)
    assert row.status == "running" and row.held and row.seconds == 4 * 0.75 and row.epochs == 3
    assert store.history(run, 2) == [(0, 2, 0.1 + 1e-17), (1, 1, 0.1 + 2e-17)]
    assert store.values(run, 2) == dict(record(2).values)
    assert store.reasons(run, 2) == dict(record(2).undefined)
    assert store.task_accuracies(run)[:2] == [(0, 0, 0.9), (0, 1, 0.8)]
    columns = store.series([Address("nc1"), Address("nc1", "test"), Address("vci"), Address("none")], [run])[run]
    assert columns["epoch"].tolist() == [0, 1, 2, 3] and columns["nc1@test"].tolist() == [2 / 3] * 4
    assert np.isnan(columns["vci"]).all() and np.isnan(columns["none"]).all()


def test_a_frame_has_a_row_per_epoch_split_and_layer(store: Store) -> None:
    run, _ = filled(store, 2)
    frame = store.frame()
    assert len(frame) == 2 * 3
    first = frame.iloc[0]
    assert (first["run"], first["split"], first["layer"], first["nc1"]) == (run, "train", "last", 1 / 3)
    test = frame[(frame["split"] == "test") & (frame["layer"] == "last")]
    assert test["nc1"].tolist() == [2 / 3] * 2 and test["online_accuracy"].isna().all()


def test_a_frame_has_the_settings_that_vary(store: Store) -> None:
    for number, other in enumerate(({"lr": 0.1, "x": [1]}, {"lr": 0.2}, {"lr": 0.1})):
        settings = {"depth": 3, **other}
        run = store.register(replace(info("a", number), settings=settings)).id
        attempt = store.claim([run], Owner.current(), {})[run]
        store.save([(run, attempt, record(epoch)) for epoch in range(2)])
    plain, frame = store.frame(), store.frame(settings=True)
    assert set(frame.columns) - set(plain.columns) == {"lr", "x"}
    assert frame.groupby("seed")["lr"].unique().map(list).to_dict() == {0: [0.1], 1: [0.2], 2: [0.1]}
    assert frame[frame["seed"] == 0]["x"].unique().tolist() == ["[1]"] and frame[frame["seed"] > 0]["x"].isna().all()
    assert frame.drop(columns=["lr", "x"]).equals(plain)
    assert store.frame(["a00000000000"], settings=True).columns.tolist() == plain.columns.tolist()


def test_the_views_are_wide_for_other_tools(file: Store) -> None:
    filled(file, 2)
    with sqlite3.connect(file.url) as connection:
        rows = connection.execute(
            'select split, layer, nc1, "vci" from wide where epoch = 1 order by split, layer'
        ).fetchall()
        assert rows == [("test", "last", 2 / 3, None), ("test", "layer1", None, 0.7)]
        assert connection.execute("select nc1 from epochs_of_runs where epoch = 0").fetchone() == (1 / 3,)


def test_an_attempt_that_was_taken_over_is_refused(store: Store) -> None:
    run, first = filled(store, 2)
    with pytest.raises(LeaseLost, match="being trained by process"):
        store.claim([run], Owner.current(), {})
    store.renew({run: first}, lease=1e-9)  # the lease has run out
    second = store.claim([run], Owner.current(), {})[run]
    assert second == first + 1
    for write in (
        lambda: store.save([(run, first, record(2))]),
        lambda: store.truncate(run, first, 0),
        lambda: store.finish(run, first, "finished"),
        lambda: store.renew({run: first}),
        lambda: store.release(run, first),
    ):
        with pytest.raises(LeaseLost, match="taken over"):
            write()
    assert store.last_epoch(run) == 1
    store.save([(run, second, record(2))])


def test_a_batch_is_all_or_nothing(store: Store) -> None:
    runs = [store.register(info("b", seed)).id for seed in (0, 1)]
    attempts = store.claim(runs, Owner.current(), {})
    with pytest.raises(LeaseLost):
        store.save([(runs[0], attempts[runs[0]], record(0)), (runs[1], 99, record(0))])
    assert [store.last_epoch(run) for run in runs] == [-1, -1]
    extra = store.register(info("c")).id
    with pytest.raises(LeaseLost):
        store.claim([extra, runs[0]], Owner.current(), {})
    assert store.run(extra).status == "pending"


def test_a_dead_owner_holds_nothing(store: Store) -> None:
    run = store.register(info()).id
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    import psutil

    owner = replace(Owner.current(), pid=child.pid, started=psutil.Process(child.pid).create_time())
    store.claim([run], owner, {}, lease=3600)
    with pytest.raises(LeaseLost):
        store.claim([run], Owner.current(), {})
    child.kill()
    child.wait()
    assert store.claim([run], Owner.current(), {})[run] == 2
    assert replace(owner, boot="another").dead and not replace(owner, host="elsewhere").dead


def test_a_longer_horizon_opens_a_finished_run_again(store: Store) -> None:
    run, attempt = filled(store)
    store.finish(run, attempt, "finished")
    assert store.register(info(tasks=2)).status == "finished"
    row = store.register(info(tasks=5), "again")
    assert (row.status, row.horizon, row.total_epochs, row.names) == ("interrupted", {"tasks": 5}, 5, ("again",))


def test_rows_behind_a_checkpoint_are_taken_back_whole(store: Store) -> None:
    run, attempt = filled(store)
    store.truncate(run, attempt, 1)
    assert store.last_epoch(run) == 1 and len(store.task_accuracies(run)) == 4
    with store.reading() as connection:
        assert connection.exec_driver_sql("select max(epoch) from measurements").scalar() == 1
    store.save([(run, attempt, record(2))])
    assert store.check() == []


def test_runs_are_found_by_prefix_label_and_filter(store: Store) -> None:
    run = store.register(info("abc"), "mine").id
    store.register(info("abd", 1))
    assert store.run("abc").id == run and store.run("mine").id == run
    with pytest.raises(InputError, match="begins the ids of 2 runs"):
        store.run("ab")
    with pytest.raises(InputError, match="unknown run"):
        store.run("zzz")
    assert [r.id for r in store.runs(name="mine")] == [run] and len(store.runs(scenario="permuted-digits")) == 2


def test_a_deleted_run_leaves_nothing_and_a_held_one_stays(store: Store) -> None:
    run, attempt = filled(store)
    with pytest.raises(InputError, match="is being trained"):
        store.delete(run)
    store.finish(run, attempt, "finished")
    store.delete(run)
    with store.reading() as connection:
        for table in ("runs", "epochs", "measurements", "undefined", "task_accuracy", "attempts"):
            assert connection.exec_driver_sql(f"select count(*) from {table}").scalar() == 0


def test_models_and_migrations_agree(file: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from ncpl_cli.store.migrate import folder

    assert ScriptDirectory(str(folder())).get_heads() == [schema.HEAD]
    with file.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA application_id").scalar() == schema.APPLICATION_ID


def test_a_frozen_store_of_the_first_revision_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((Path(__file__).parent / "data" / "store_0001.sql").read_text())
    connection.close()
    with open_store(path) as store:
        assert store.check() == []
        (row,) = store.runs()
        assert row.id == "f00000000000" and store.values(row.id, 1)[Address("nc1", "test")] == 2 / 3


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("PRAGMA user_version = 1; CREATE TABLE other (x)", "not an ncpl store"),
        (
            f"CREATE TABLE {schema.VERSION_TABLE} (version_num); INSERT INTO {schema.VERSION_TABLE} VALUES ('9999')",
            "newer",
        ),
    ],
)
def test_foreign_and_newer_stores_are_refused(tmp_path: Path, prepare: str, words: str) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(prepare)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=words):
        open_store(path)
    assert path.read_bytes() == before


def test_text_absent_and_cut_off_stores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(StoreError, match="not an SQLite database"):
        open_store(tmp_path / "text.db")
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "none.db", create=False)
    with pytest.raises(StoreError, match="does not exist"):
        open_store(tmp_path / "no" / "place.db")
    with open_store(tmp_path / "cut.db") as store:
        filled(store, 40)
        with store.engine.connect() as connection:
            connection.exec_driver_sql("select 1")
    whole = (tmp_path / "cut.db").read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError), open_store(tmp_path / "cut.db") as store:
        problems = store.check()
        raise StoreError(f"{problems}") if problems else AssertionError("a half store cannot be sound")


def test_a_full_disk_leaves_nothing_half_written(file: Store) -> None:
    run, attempt = filled(file, 2)
    with file.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"disk .* is full"):
        for epoch in range(2, 5000):
            file.save([(run, attempt, record(epoch, **{f"m{i}": 0.5 for i in range(60)}))])
    with file.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    assert file.check() == []
    last = file.last_epoch(run)
    assert len(file.values(run, last)) > 60 or last == 1


def test_errors_of_the_database_are_sentences() -> None:
    for text, words in {
        "database is locked": "locked", "attempt to write a readonly database": "read-only",
        "database disk image is malformed": "corrupt", "file is not a database": "not an SQLite",
    }.items():  # fmt: skip
        error = translate("x.db", sqlite3.OperationalError(text))
        assert words in str(error) and error.hint and error.exit_code == 4


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"nfs4", "cifs", "lustre"} <= NETWORK_FILE_SYSTEMS
    line = f"36 35 98:0 / {tmp_path} rw,noatime master:1 - nfs4 server:/x rw"
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a: line if "mountinfo" in str(self) else real(self, *a))
    with pytest.raises(StoreError, match="network file system"):
        open_store(tmp_path / "a.db")


def _write_many(path: str, number: int, count: int) -> None:
    with open_store(path) as store:
        run = store.register(info(f"{number:x}", number)).id
        attempt = store.claim([run], Owner.current(), {})[run]
        for epoch in range(count):
            store.save([(run, attempt, record(epoch, **{f"metric{number}": 0.5}))], durable=epoch % 10 == 0)
        store.finish(run, attempt, "finished")


@pytest.mark.parametrize(
    ("database", "count"), [("sqlite", 16), pytest.param("postgresql", 4, marks=pytest.mark.cluster)]
)
def test_many_processes_fill_one_new_store_together(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, count: int
) -> None:
    url = str(tmp_path / "shared.db") if database == "sqlite" else request.getfixturevalue("postgres")()
    processes = [forked.context.Process(target=_write_many, args=(url, number, 25)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count
    with open_store(url) as store:
        assert store.info()["runs"] == {"finished": count} and store.info()["rows"]["epochs"] == count * 25
        assert store.check() == []


def test_a_killed_writer_leaves_a_sound_store(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.test_store import _write_many\n_write_many(sys.argv[1], 0, 10**6)\n"
    )  # fmt: skip
    path = tmp_path / "k.db"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.3)
        if path.exists():
            with open_store(path) as store:
                if any(run.epochs > 20 for run in store.runs()):
                    break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with open_store(path) as store:
        assert store.check() == []
        (run,) = store.runs()
        assert run.epochs > 20 and not run.held
        assert store.values(run.id, run.epochs)[Address("metric0")] == 0.5


def test_commands_over_the_store(tmp_path: Path) -> None:
    with open_store(tmp_path / "ncpl.db") as store:
        run, attempt = filled(store)
        store.finish(run, attempt, "finished")

    def ncpl(*arguments: str, code: int = 0) -> str:
        done = forked.go(*arguments, cwd=tmp_path)
        assert done.code == code, done.err
        return done.out if code == 0 else done.err

    listed = ncpl("runs", "list").splitlines()
    assert listed[0].split("\t")[:4] == ["id", "scenario", "seed", "status"] and listed[1].split("\t")[3] == "finished"
    shown = json.loads(ncpl("runs", "show", run[:5], "--json"))
    assert shown["last_epoch"]["values"]["nc1@test"] == 2 / 3 and shown["attempts"][0]["ncpl"] == "test"
    assert shown["last_epoch"]["undefined"]["plasticity_loss"] == "first task"
    assert json.loads(ncpl("db", "info", "--json"))["runs"] == {"finished": 1}
    assert "sound" in ncpl("db", "check")
    ncpl("export", "-o", "epochs.csv")
    ncpl("export", "-o", "epochs.parquet")
    from_csv, from_parquet = pd.read_csv(tmp_path / "epochs.csv"), pd.read_parquet(tmp_path / "epochs.parquet")
    assert from_csv["nc1"].tolist() == pytest.approx(from_parquet["nc1"].tolist(), rel=0, abs=0, nan_ok=True)
    assert from_csv["nc1"][0] == 1 / 3
    assert "unknown format" in ncpl("export", "--format", "xls", code=2)
    assert "there is no store" in ncpl("runs", "list", "--db", "other.db", code=4)
    (tmp_path / "ncpl.checkpoints" / run).mkdir(parents=True)
    ncpl("runs", "delete", run, "--yes")
    assert not (tmp_path / "ncpl.checkpoints" / run).exists()
    assert ncpl("runs", "list").splitlines()[1:] == []


def test_runs_from_elsewhere_are_merged_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where checkpoints lie when the store is no file
    with open_store(tmp_path / "other.db") as other:
        run, attempt = filled(other, 4)
        other.register(info(), "theirs")
        other.finish(run, attempt, "finished")
        (other.checkpoints / run).mkdir(parents=True)
        (other.checkpoints / run / "epoch-00000003.safetensors").write_bytes(b"state")
        begun, second = other.register(info("b", 1)).id, 0
        second = other.claim([begun], Owner.current(), {})[begun]
        other.save([(begun, second, record(0, rare=0.5))])
        assert merge(store, other) == Merged(new=1, held=1)
        other.release(begun, second)
        assert merge(store, other) == Merged(new=1, unchanged=1)
        for key in (run, begun):
            for epoch in range(other.last_epoch(key) + 1):
                assert store.values(key, epoch) == other.values(key, epoch)
                assert store.reasons(key, epoch) == other.reasons(key, epoch)
            assert store.task_accuracies(key) == other.task_accuracies(key)
        assert store.run(run).names == ("theirs",) and store.run(run).status == "finished"
        assert (store.checkpoints / run / "epoch-00000003.safetensors").read_bytes() == b"state"
        second = other.claim([begun], Owner.current(), {})[begun]
        other.save([(begun, second, record(1))])
        other.finish(begun, second, "finished")
        assert merge(store, other) == Merged(extended=1, unchanged=1)
        assert merge(store, other) == Merged(unchanged=2)
        assert store.last_epoch(begun) == 1 and store.run(begun).status == "finished"
        assert [a["outcome"] for a in store.attempts(begun)] == ["interrupted", "interrupted", "finished"]
        assert store.check() == []
        mine = store.register(info("c", 2)).id
        other.register(info("c", 2))
        for of, accuracy in ((store, 0.1), (other, 0.2)):
            held = of.claim([mine], Owner.current(), {})[mine]
            of.save([(mine, held, replace(record(0), values={Address("online_accuracy"): accuracy}))])
            of.release(mine, held)
        with pytest.raises(InputError, match="has other results here: epoch 0 differs"):
            merge(store, other)
