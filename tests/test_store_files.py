"""What lies beside a store: checkpoints are never another store's, and a file that goes away is noticed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ncpl_cli.errors import DataError, StoreError, without_passwords
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Store, open_store
from ncpl_cli.store.checkpoint_folder import folder_of
from ncpl_cli.store.imports import import_csv
from ncpl_cli.store.merge import Merged, merge


def begin(store: Store, run: str = "aa0000000001") -> int:
    store.register(RunInfo(run, run, "permuted-digits", 0, {"lr": 0.01}, {"tasks": 9}, 9))
    attempt = store.claim([run], Owner.current(), {})[run]
    store.save([(run, attempt, epoch(0))])
    return attempt


def epoch(number: int) -> EpochRecord:
    return EpochRecord(number, 0, number, 0, 0.0, 0.0, {Address("nc1"): 1.0})


def folder(path: Path) -> str:
    with open_store(path) as store:
        return store.checkpoints.name


def test_two_stores_of_one_stem_never_share_checkpoints(tmp_path: Path) -> None:
    assert folder(tmp_path / "a.sqlite") == "a.checkpoints"  # the first of a stem, whatever its suffix
    with pytest.raises(StoreError, match=r"would share its checkpoints with a\.sqlite"):
        folder(tmp_path / "a")
    for _ in range(2):
        assert folder(tmp_path / "a.db") == "a.db.checkpoints"
        assert folder(tmp_path / "a.sqlite") == "a.checkpoints"
    assert folder(tmp_path / "a.db.backup-0001") == "a.db.backup-0001.checkpoints"  # its stem is a.db
    (tmp_path / "a.sqlite").unlink()
    assert folder(tmp_path / "a.db") == "a.db.checkpoints"
    for name in ("old.sqlite", "old.db"):  # as before stores bore a mark: one folder for both
        with open_store(tmp_path / name) as store, store.writing() as connection:
            connection.exec_driver_sql("PRAGMA user_version = 0")
        shutil.rmtree(tmp_path / "old.db.checkpoints", ignore_errors=True)
    assert (folder(tmp_path / "old.db"), folder(tmp_path / "old.sqlite")) == (
        "old.checkpoints",
        "old.sqlite.checkpoints",
    )


def test_a_store_and_its_folder_are_copied_to_another_stem(tmp_path: Path) -> None:
    for suffix in (".db", ".sqlite"):
        folder(tmp_path / f"a{suffix}")
    for suffix, name in ((".db", "a.checkpoints"), (".sqlite", "a.sqlite.checkpoints")):
        other = tmp_path / suffix[1:]
        other.mkdir()
        shutil.copy(tmp_path / f"a{suffix}", other / "b.db")
        (other / name.replace("a", "b", 1).replace(".sqlite", ".db")).mkdir()
        assert folder(other / "b.db") == name.replace("a", "b", 1).replace(".sqlite", ".db")
        (other / "c.checkpoints").mkdir()
        shutil.copy(tmp_path / f"a{suffix}", other / "c.anything")
        assert folder(other / "c.anything") == "c.checkpoints"


@pytest.mark.parametrize(("original", "copy"), [("a.db", "a.sqlite"), ("a.sqlite", "a.db")])
def test_a_copy_beside_its_original_has_a_folder_of_its_own(tmp_path: Path, original: str, copy: str) -> None:
    assert folder(tmp_path / original) == "a.checkpoints"
    shutil.copy(tmp_path / original, tmp_path / copy)
    assert folder(tmp_path / copy) == f"{copy}.checkpoints"
    assert folder(tmp_path / original) == "a.checkpoints"
    (tmp_path / "link.db").symlink_to(tmp_path / original)
    assert folder(tmp_path / "link.db") == "a.checkpoints"


def test_other_files_of_the_stem_are_no_stores(tmp_path: Path) -> None:
    for name in ("a.csv", "a.toml", "a.db.backup-0001"):
        (tmp_path / name).write_text("text")
    assert folder(tmp_path / "a.db") == "a.checkpoints"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_goes_away_is_noticed_at_the_next_write(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "a.db"
    with open_store(path) as store:
        attempt = begin(store)
        store.save([("aa0000000001", attempt, epoch(1))])
        path.unlink()
        if replaced:
            with open_store(tmp_path / "b.db") as other:
                begin(other)
            (tmp_path / "b.db").replace(path)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix == ".db"}
        for write in (
            lambda: store.save([("aa0000000001", attempt, epoch(2))], durable=True),
            lambda: store.renew({"aa0000000001": attempt}),
            lambda: store.finish("aa0000000001", attempt, "finished"),
        ):
            with pytest.raises(StoreError, match="was deleted or replaced while it was in use"):
                write()
        store.close()
        with pytest.raises(StoreError, match="was deleted or replaced"):  # also over a new connection
            store.release("aa0000000001", attempt)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix == ".db"} == before


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_a_log_that_goes_away_is_noticed_at_the_next_write(tmp_path: Path, end: str, replaced: bool) -> None:
    path, log = tmp_path / "a.db", tmp_path / f"a.db{end}"
    with open_store(path) as store:
        attempt = begin(store)
        store.save([("aa0000000001", attempt, epoch(1))])
        log.unlink()
        if replaced:
            log.write_bytes(b"")
        with pytest.raises(StoreError, match=f"^{end} of the store .* was deleted or replaced while it was in use"):
            store.save([("aa0000000001", attempt, epoch(2))])
    with open_store(path) as store:  # what was saved is there, and nothing of what was refused
        assert store.last_epoch("aa0000000001") == 1
        store.save([("aa0000000001", attempt, epoch(2))])
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_connections_of_others_that_come_and_go_are_no_lost_log(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        attempt = begin(store)
        for number in (1, 2, 3):
            with open_store(tmp_path / "a.db") as other:
                store.save([("aa0000000001", attempt, epoch(number))])
                other.runs()
        store.close()  # its own last connection: SQLite takes the logs away, and the next makes new ones
        store.save([("aa0000000001", attempt, epoch(4))])
        assert store.last_epoch("aa0000000001") == 4


def test_a_merge_takes_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    with open_store(tmp_path / "theirs.db") as theirs, open_store(tmp_path / "ours.db") as ours:
        theirs.release("aa0000000001", begin(theirs))
        (tmp_path / "secret").write_text("secret")
        here = theirs.checkpoints / "aa0000000001"
        here.mkdir(parents=True)
        for number in (1, 2):
            (here / f"epoch-0000000{number}.safetensors").write_bytes(b"%d" % number)
        (here / "epoch-00000003.safetensors").symlink_to(tmp_path / "secret")
        (here / "notes.txt").write_text("mine")
        found = merge(ours, theirs, lambda path: f"{path.name} is damaged" if "2" in path.name else None)
        assert found == Merged(
            new=1,
            refused=["epoch-00000002.safetensors is damaged", f"{here / 'epoch-00000003.safetensors'} is no file"],
        )
        assert [p.name for p in (ours.checkpoints / "aa0000000001").iterdir()] == ["epoch-00000001.safetensors"]
        shutil.rmtree(ours.checkpoints)  # as if a merge had been killed between rows and files
        assert merge(ours, theirs).unchanged == 1
        assert (ours.checkpoints / "aa0000000001" / "epoch-00000002.safetensors").read_bytes() == b"2"


@pytest.mark.parametrize("run", ["../../outside", "/etc/x", "a/b", "..", ".", "a\x00b", "a\nb", "ä"])
def test_ids_that_are_paths_are_refused_where_they_are_read(store: Store, run: str) -> None:
    attempt = begin(store)
    store.release("aa0000000001", attempt)
    with store.writing() as connection:
        if connection.dialect.name == "postgresql" and "\x00" in run:
            return  # it keeps no such text
        connection.exec_driver_sql(
            f"UPDATE runs SET id = '{run}'" if "\x00" not in run else "UPDATE runs SET id = 'a' || char(0) || 'b'"
        )
    for read in (lambda: store.run(run), store.runs, store.frame):
        with pytest.raises(StoreError, match="which no run can have"):
            read()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of locks")
def test_looking_for_the_folder_loses_no_lock(tmp_path: Path) -> None:
    code = (  # a process that closes a file loses its locks on it; another one then takes the shared memory for its own
        "import sys; from ncpl_cli.store import open_store\n"
        "with open_store(sys.argv[1]) as store, store.writing() as connection:\n"
        "    connection.exec_driver_sql(\"INSERT INTO terms (kind, text) VALUES ('reason', 'theirs')\")\n"
    )
    with open_store(tmp_path / "a.sqlite") as first, open_store(tmp_path / "a.db") as store:
        for one in (first, store):
            attempt = begin(one)
            assert one.checkpoints.name in ("a.checkpoints", "a.db.checkpoints")
            del one.__dict__["checkpoints"]  # it is looked up once
            with one.reading():
                assert folder_of(tmp_path / "a.sqlite") != folder_of(tmp_path / "a.db")
                held = [line for line in Path("/proc/locks").read_text().splitlines() if "POSIX" in line]
                for path in (tmp_path / "a.sqlite", tmp_path / "a.db"):
                    for file in (path, path.with_name(f"{path.name}-shm")):
                        inode = f":{file.stat().st_ino} "
                        assert any(inode in line for line in held), file
            subprocess.run([sys.executable, "-c", code, str(one.file.path)], check=True, timeout=60)  # type: ignore[union-attr]
            one.finish("aa0000000001", attempt, "finished")
            assert one.check() == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:S3cr3tPw@h/x", "postgresql+psycopg://u:S3cr3tPw@h:5/x?sslmode=require", "sqlite://u:S3cr3tPw@/a.db",
        "postgresql://u:p%40S3cr3tPw%2F@h/x", "postgresql://u:a/S3cr3tPw@h/x", "postgresql://u:a@S3cr3tPw@h/x",
        "postgresql://u@h/x?password=S3cr3tPw", "postgresql://u@h/x?connect_timeout=3&Password=S3cr3tPw&x=1",
        "postgresql://u@h/x?%70assword=S3cr3tPw", "postgresql://h/x?sslpassword=S3cr3tPw", "x://h/?token=S3cr3tPw",
    ],
)  # fmt: skip
def test_passwords_are_masked_in_any_spelling(url: str) -> None:
    for text in (url, f"ncpl train --db {url} --tasks 3", json.dumps({"command": f"ncpl --db {url}", "host": "a@b"})):
        found = without_passwords(text)
        assert "S3cr3tPw" not in found and "***" in found
        assert (found.startswith(text[:8]) and found[-5:] == text[-5:]) or text == url
    assert json.loads(found)["host"] == "a@b"
    for plain in ("a.db", "ncpl import x?password=1", "https://host/a?b=c", "me@host:path", "postgresql://h:5432/x"):
        assert without_passwords(plain) == plain


def test_a_password_that_an_older_store_kept_is_neither_shown_nor_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(tmp_path / "a.db") as store:
        store.register(RunInfo("aa0000000001", "a", "permuted-digits", 0, {}, {}, 1))
        store.claim(["aa0000000001"], Owner.current(), {"command": "ncpl --db sqlite://u:S3cr3tPw@/a.db --seed 1"})
        store.release("aa0000000001", 1)
    for line in (["runs", "show", "aa"], ["runs", "show", "aa", "--json"]):
        assert call([*line, "--db", str(tmp_path / "a.db")]) == 0
        assert "S3cr3tPw" not in capsys.readouterr().out
    url = f"sqlite://u:S3cr3tPw@/{tmp_path / 'b.db'}"
    for line in (
        ["db", "merge", str(tmp_path / "a.db"), "--json"],
        ["db", "info"],
        ["db", "check"],
        ["runs", "show", "z"],
    ):
        call([*line, "--db", url])
        said = capsys.readouterr()
        assert "S3cr3tPw" not in said.out + said.err
    assert b"S3cr3tPw" not in (tmp_path / "b.db").read_bytes()


@pytest.mark.parametrize("left", ["nothing", "a row", "another has it open", "it was there"])
def test_an_error_takes_back_only_an_empty_store_of_its_own(tmp_path: Path, left: str) -> None:
    (tmp_path / "n.csv").write_text("run,seed,epoch,nc1\na,0,1,0.5\na,0,one,0.5\n")
    url, other = tmp_path / "a.db", None
    with open_store(tmp_path / "a.other") as neighbour:  # of the same stem, so that a folder is made beside the store
        neighbour.checkpoints.mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    if left == "it was there":
        open_store(url).close()
    with pytest.raises(DataError, match="whole number"), open_store(url) as store:
        if left == "a row":
            begin(store)
        if left == "another has it open":
            other = sqlite3.connect(url)
            other.execute("select count(*) from runs").fetchone()
        import_csv(store, tmp_path / "n.csv", scenario="x", name="y")
    after = {path.name for path in tmp_path.iterdir()}
    if left == "nothing":
        assert after == before
    else:
        with open_store(url, readonly=True) as store:
            assert len(store.runs()) == (left == "a row")
    if other is not None:
        other.close()
