"""Many writers: they take turns, a lock of others is waited for, and a lease of a lost process can be broken."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ncpl_cli.errors import InputError, LeaseLost
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Store, open_store, schema, sqlite_file, turns
from ncpl_cli.store.turns import Turns

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SQLite's own waiting is all there is")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def tickets(store: Path) -> int:
    with contextlib.suppress(OSError):
        return int.from_bytes(Path(f"{store}-turn").read_bytes()[:8], sys.byteorder)
    return 0


@linux
def test_who_comes_first_writes_first(tmp_path: Path) -> None:
    store, order = tmp_path / "a.db", []
    holder, others = Turns(store), [Turns(store) for _ in range(6)]  # as if each were another process

    def write(number: int) -> None:
        with others[number].taken():
            order.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    with holder.taken():
        for count, thread in enumerate(threads):
            thread.start()
            until(lambda count=count: tickets(store) == count + 2)
        time.sleep(0.01)
        assert order == []
    for thread in threads:
        thread.join(20)
    assert order == list(range(6))
    for one in (holder, *others):
        assert Path(f"{store}-turn").exists()
        one.close()
    assert list(tmp_path.iterdir()) == []


@linux
@pytest.mark.parametrize("end", ["dies", "is stopped"])
def test_the_next_goes_on_when_one_before_it_is_lost(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 60.0 if end == "dies" else 0.1)
    store = tmp_path / "a.db"
    lost, next_, done = Turns(store), Turns(store), threading.Event()
    turn = lost.taken()
    turn.__enter__()

    def write() -> None:
        with next_.taken():
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    until(lambda: tickets(store) == 2)
    if end == "dies":
        assert not done.wait(0.02)
        lost._leave()  # all that the system keeps of a process that was killed
    assert done.wait(20)
    thread.join()
    next_.close()


@linux
def test_a_file_of_something_else_stops_nobody(tmp_path: Path) -> None:
    for content in (b"x", b"\xff" * 8, b"\x7f" * 8, b"text" * 100):
        Path(tmp_path / "a.db-turn").write_bytes(content)
        with open_store(tmp_path / "a.db") as store:
            store.register(info("aa0000000001"))
            assert [row.id for row in store.runs()] == ["aa0000000001"]
    (tmp_path / "b.db-turn").mkdir()
    with open_store(tmp_path / "b.db") as store:
        store.register(info("aa0000000001"))
        assert [row.id for row in store.runs()] == ["aa0000000001"]


def info(run: str) -> RunInfo:
    return RunInfo(run, run, "permuted-digits", 0, {}, {"tasks": 9}, 9)


def test_a_lock_of_another_program_is_waited_for_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "NOTE_AFTER", 0.1)
    with open_store(tmp_path / "a.db") as store:
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.4, other.rollback)
        timer.start()
        since = time.monotonic()
        store.register(info("aa0000000001"))
        assert time.monotonic() - since > 0.35 and store.run("aa0000000001").status == "pending"
        timer.join()
        other.close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(
        f"waiting for the store {tmp_path / 'a.db'}, which another program has"
    )


def test_nothing_is_compiled_while_others_wait(tmp_path: Path) -> None:
    record = EpochRecord(1, 0, 1, 1, 0.1, 0.1, {Address("nc1"): 1.0, Address("vci", "test"): 0.5, Address("vci"): 0.5},
                         {Address("nc2"): "why"}, {0: 0.5})  # fmt: skip
    with open_store(tmp_path / "a.db") as store:  # names that are new are made under the lock, once in a store's life
        store.register_all([(info("aa0000000001"), []), (info("aa0000000002"), [])])
        store.claim(["aa0000000001"], Owner.current(), {})
        store.save([("aa0000000001", 1, record)])
    with open_store(tmp_path / "a.db") as store:
        store.warm()
        compiled = len(store.engine._compiled_cache)  # type: ignore[arg-type]
        store.claim(["aa0000000002"], Owner.current(), {})
        store.save([("aa0000000002", 1, record)])
        store.finish("aa0000000002", 1, "finished")
        assert len(store.engine._compiled_cache) == compiled  # type: ignore[arg-type]
        assert store.values("aa0000000002", 1) == dict(record.values)
        assert [row.id for row in store.runs()] == ["aa0000000001", "aa0000000002"]  # warming left nothing


GONE = Owner("gone", "x", 1, 1.0)


@pytest.mark.parametrize("lease", [0.0, -5.0, 1e9, float("nan"), float("inf")])
def test_impossible_leases_are_refused(store: Store, lease: float) -> None:
    store.register(info("aa0000000001"))
    for write in (
        lambda: store.claim(["aa0000000001"], GONE, {}, lease=lease),
        lambda: store.renew({"aa0000000001": 1}, lease=lease),
    ):
        with pytest.raises(InputError, match="is not possible"):
            write()
    assert store.run("aa0000000001").status == "pending"


def test_a_lease_of_a_lost_host_is_broken_and_its_writes_refused(store: Store) -> None:
    store.register(info("aa0000000001"))
    store.claim(["aa0000000001"], GONE, {}, lease=3600)
    for refused in (lambda: store.break_lease("aa"), lambda: store.delete("aa")):
        with pytest.raises(InputError, match="is being trained by process 1 on gone") as caught:
            refused()
        assert "ncpl runs release aa0000000001 --force" in str(caught.value.hint)
    before = store.break_lease("aa", force=True)
    assert before.held and before.owner == GONE
    row = store.run("aa")
    assert (row.status, row.owner, row.held) == ("interrupted", None, False)
    assert [a["outcome"] for a in store.attempts("aa")] == ["released"]
    record = EpochRecord(1, 0, 1, 1, 0.1, 0.1, {Address("nc1"): 1.0})
    for write in (
        lambda: store.save([("aa0000000001", 1, record)]),
        lambda: store.renew({"aa0000000001": 1}),
        lambda: store.finish("aa0000000001", 1, "finished"),
    ):
        with pytest.raises(LeaseLost, match="taken over"):
            write()
    assert store.claim(["aa0000000001"], Owner.current(), {}) == {"aa0000000001": 2}
    store.finish("aa0000000001", 2, "finished")
    assert store.break_lease("aa", force=True).status == "finished" and store.run("aa").status == "finished"


def test_a_lease_of_a_wrong_clock_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "a.db")
    with open_store(url) as store:
        store.register(info("aa0000000001"))
        store.claim(["aa0000000001"], GONE, {})
        for expires in (time.time() + 3e8, 1e300):
            with store.writing() as connection:
                connection.execute(schema.runs.update().values(lease_expires=expires))
            with pytest.raises(LeaseLost, match="its clock was wrong"):
                store.claim(["aa0000000001"], Owner.current(), {})
    assert call(["db", "check", "--db", url]) == 4
    assert "a lease that no ncpl gives" in capsys.readouterr().err
    assert call(["runs", "release", "aa", "--db", url]) == 2
    assert "hint: where that process is lost: ncpl runs release aa0000000001 --force" in capsys.readouterr().err
    assert call(["runs", "release", "aa", "--force", "--db", url]) == 0
    assert "is free: the lease of process 1 on gone lasted until 9999-" in capsys.readouterr().err
    assert call(["runs", "release", "aa", "--db", url]) == 0
    assert capsys.readouterr().err == "nobody holds run aa0000000001: it is interrupted.\n"
    assert call(["runs", "show", "aa", "--json", "--db", url]) == 0
    assert json.loads(capsys.readouterr().out)["attempts"][0]["outcome"] == "released"
