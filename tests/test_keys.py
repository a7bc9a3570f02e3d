"""What people call runs: ids, labels, beginnings; what they choose; and what deleting takes away."""

from __future__ import annotations

from pathlib import Path

import pytest

from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Store, open_store


def add(store: Store, run: str, *names: str, parent: str | None = None, epochs: int = 2, hold: bool = False) -> None:
    scenario = "warm-start" if parent is None else "warm-start-probe"
    info = RunInfo(run, run, scenario, 0, {"lr": 0.01}, {"tasks": 1}, 1, parent=parent)
    store.register_all([(info, names)])
    attempt = store.claim([run], Owner.current(), {})[run]
    for epoch in range(epochs):
        store.save([(run, attempt, EpochRecord(epoch, 0, 1, 0, 0.0, 0.0, {Address("nc1"): 1.0}))])
    if not hold:
        store.finish(run, attempt, "finished")


def test_id_before_label_before_beginning(store: Store) -> None:
    add(store, "3da6af9318a3")
    add(store, "77aa00000000", "3d", "3da6af9318a3", "both")
    add(store, "77bb00000000", "both", "77")
    add(store, "3d_100000000", "100%")
    assert store.run("3da6af9318a3").id == "3da6af9318a3"  # an id that is another one's label
    assert store.run("3d").id == "77aa00000000"  # a label that begins two ids
    assert store.run("77").id == "77bb00000000"
    assert store.run("3da").id == "3da6af9318a3"
    assert store.run("100%").id == "3d_100000000"
    for wild in ("%", "_da6af9318a3", "3d%", "77__", "3DA6", "", " 3da"):  # neither wildcards nor another case
        with pytest.raises(InputError, match="unknown run"):
            store.run(wild)
    with pytest.raises(InputError, match="'both' is a label of 2 runs"):
        store.run("both")
    with pytest.raises(InputError, match="'7' begins the ids of 2 runs"):
        store.run("7")
    assert [row.id for row in store.runs(["77b", "3d", "77bb00000000"])] == ["77aa00000000", "77bb00000000"]


def test_deleting_takes_the_probes_along_all_or_none(store: Store) -> None:
    add(store, "aa0000000001", "mine", epochs=3)
    add(store, "bb0000000001", parent="aa0000000001")
    add(store, "bb0000000002", parent="aa0000000001", hold=True)
    add(store, "cc0000000001")
    found = store.belongings(["mine", "aa"])
    assert (found.runs, found.probes, found.epochs) == (("aa0000000001",), ("bb0000000001", "bb0000000002"), 7)
    with pytest.raises(InputError, match="bb0000000002 is being trained"):
        store.delete("cc", "mine")
    assert len(store.runs()) == 4
    store.release("bb0000000002", 1)
    assert store.delete("mine") == ("aa0000000001", "bb0000000001", "bb0000000002")
    assert [row.id for row in store.runs()] == ["cc0000000001"]


def test_delete_says_what_goes_and_keeps_to_the_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "epoch-00000001.safetensors").touch()
    with open_store("s.db") as store:
        add(store, "aa0000000001", epochs=3)
        add(store, "bb0000000001", parent="aa0000000001")
        add(store, "cc0000000001")
        for run in ("aa0000000001", "bb0000000001"):
            (store.checkpoints / run).mkdir(parents=True)
            (store.checkpoints / run / "epoch-00000001.safetensors").touch()
        (store.checkpoints / "cc0000000001").symlink_to(tmp_path / "elsewhere")
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE runs SET settings = '{', id = 'broken' WHERE id = 'cc0000000001'")
        (store.checkpoints / "cc0000000001").rename(store.checkpoints / "broken")
    assert call(["runs", "delete", "aa", "aa0", "--yes", "--db", "s.db"]) == 0
    assert capsys.readouterr().err == "deleted 1 run (aa0000000001), 1 probe, 5 epochs and 2 checkpoints.\n"
    assert call(["runs", "delete", "broken", "--yes", "--db", "s.db"]) == 0  # what cannot be read can be got rid of
    assert call(["runs", "delete", "aa", "--yes", "--db", "s.db"]) == 2
    assert list((tmp_path / "s.checkpoints").iterdir()) == []
    assert (tmp_path / "elsewhere" / "epoch-00000001.safetensors").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("runs list --name bsae", "unknown label 'bsae'. Did you mean 'base'?"),
        ("runs list --scenario warmstart", "unknown scenario of this store 'warmstart'. Did you mean 'warm-start'?"),
        ("export --name bsae", "unknown label"),
        ("export --scenario none", "unknown scenario"),
        ("export --runs aa,zz", "unknown run 'zz'"),
        ("export --runs aa --name other", "no run fits this selection"),
        ("correlate --name bsae", "unknown label"),
        ("correlate --name base --name bsae", "unknown label"),
        ("correlate --scenario none", "unknown scenario"),
        ("compare --name bsae", "unknown label"),
        ("report --name bsae -o r.html", "unknown label"),
        ("report --scenario none -o r.html", "unknown scenario"),
        ("report --runs zz -o r.html", "unknown run"),
    ],
)  # fmt: skip
def test_a_filter_that_matches_nothing_is_said(
    tmp_path: Path, line: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store("s.db") as store:
        add(store, "aa0000000001", "base")
        add(store, "bb0000000001", "other")
    assert call([*line.split(), "--db", "s.db"]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.out == "" and [path.name for path in tmp_path.iterdir()] == ["s.db"]
