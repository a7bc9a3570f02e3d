"""Import: anyone's logs, validated row by row, all or nothing, the same twice; an export comes back equal."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import struct
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ncpl_cli.errors import DataError, InputError
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store
from ncpl_cli.store.imports import Imported, import_csv
from ncpl_cli.streams import for_spreadsheets, from_spreadsheets


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "a.db")


def bring(db: str, text: str, *, name: str = "theirs", file: str = "r.csv", **options: object) -> Imported:
    path = Path(db).with_name(file)
    path.write_text(text)
    with open_store(db) as store:
        return import_csv(store, path, scenario="warm-start", name=name, **options)  # type: ignore[arg-type]


def dump(db: str) -> list[str]:
    with sqlite3.connect(db) as connection:
        return [line for line in connection.iterdump() if line.startswith("INSERT")]


SMALL = "run,seed,epoch,nc1,test_accuracy,their_loss\na,0,5,0.5,0.25,1.5\na,0,10,0.4,,1e-3\nb,1,5,0.1,0.2,0.3\n"


def test_rows_become_epochs_of_runs(db: str) -> None:
    done = bring(db, SMALL)
    assert (done.rows, done.epochs, done.new, dict(done.runs)) == (3, 3, 2, {"a": "a", "b": "b"})
    with open_store(db) as store:
        assert store.check() == []
        a, b = store.runs()
        assert (a.scenario, a.seed, a.status, a.names, a.epochs) == ("warm-start", 0, "finished", ("theirs",), 10)
        assert a.settings == {"imported": True} and a.total_epochs == 10 and b.seed == 1
        assert store.values("a", 5) == {
            Address("nc1"): 0.5, Address("test_accuracy"): 0.25, Address("their_loss"): 1.5,
        }  # fmt: skip
        assert store.values("a", 10) == {Address("nc1"): 0.4, Address("their_loss"): 1e-3}
        assert [(row["task"], row["task_epoch"]) for row in store.rows("a")] == [(0, 5), (0, 10)]
        assert store.attempts("a")[0]["provenance"]["file"] == "r.csv"


def test_the_same_file_twice_changes_nothing(db: str) -> None:
    bring(db, SMALL)
    before = dump(db)
    again = bring(db, SMALL, file="copy.csv")
    assert (again.unchanged, again.new, again.epochs) == (2, 0, 0) and dump(db) == before
    # fewer columns, another order, other spellings of the same numbers: the same values
    bring(db, "seed,run,nc1,epoch\n1,b,1e-1,5\n0,a,0.40,10.0\n0,a,.5,5\n")
    assert dump(db) == before


@pytest.mark.parametrize(
    ("old", "new", "column"),
    [("0.5,0.25", "0.5,0.26", "test_accuracy"), ("0.4,,", "0.4,0.1,", "test_accuracy"),
     ("0.25,1.5", "0.25,1.6", "their_loss"), ("0.25,1.5", "0.25,", "their_loss"), ("b,1,", "b,2,", "seed")],
)  # fmt: skip
def test_other_values_are_an_error_unless_replaced(db: str, old: str, new: str, column: str) -> None:
    bring(db, SMALL)
    before = dump(db)
    changed = SMALL.replace(old, new)
    assert changed != SMALL
    with pytest.raises(
        DataError, match=f"column '{column}': run '.' of 'theirs' is stored with other values"
    ) as caught:
        bring(db, changed)
    assert "--replace" in str(caught.value.hint) and dump(db) == before
    done = bring(db, changed, replace=True)
    assert done.replaced == 2 and done.epochs == 3
    assert bring(db, changed).unchanged == 2
    assert bring(db, changed, name="others").new == 2  # under another name it is another run


def test_replacing_leaves_nothing_of_the_old_run(db: str) -> None:
    bring(db, SMALL)
    bring(db, "run,seed,epoch,nc1\na,0,7,0.9\n", replace=True)
    with open_store(db) as store:
        assert [row["epoch"] for row in store.rows("a")] == [7] and store.values("a", 7) == {Address("nc1"): 0.9}
        assert store.last_epoch("b") == 5 and store.run("a").attempt == 2 and store.check() == []


def test_a_log_that_has_grown_is_continued(db: str) -> None:
    bring(db, SMALL)
    done = bring(db, SMALL + "a,0,15,0.3,0.4,0.5\n")
    assert (done.extended, done.unchanged, done.epochs) == (1, 1, 1)
    with open_store(db) as store:
        assert store.run("a").total_epochs == 15 and store.rows("a")[-1]["task_epoch"] == 15


MALFORMED = {
    "run,seed,epoch,nc1\na,0,1,0.5\na,0,2,x\n": r"line 3, column 'nc1': 'x' is not a number",
    "run,seed,epoch,nc1\na,0,1.5,0.5\n": r"line 2, column 'epoch': '1.5' is not a whole number",
    "run,seed,epoch,nc1\na,zero,1,0.5\n": r"line 2, column 'seed': 'zero' is not a whole number",
    "run,seed,epoch,nc1\na,0,-1,0.5\n": r"line 2, column 'epoch': -1 is not between",
    "run,seed,epoch,nc1\na,0,,0.5\n": r"line 2, column 'epoch': '' is not a whole number",
    "run,seed,epoch,nc1\n,0,1,0.5\n": r"line 2, column 'run': a run without a label",
    "run,seed,epoch,nc1\na,0,1\n": r"line 2: it has 3 fields where the first line names 4 columns",
    "run,seed,epoch,nc1\na,0,1,0.5\na,1,2,0.5\n": r"line 3, column 'seed': run 'a' has seed 0 in line 2 and seed 1",
    "run,seed,epoch,nc1\na,0,1,0.5\na,0,1,0.6\n": r"line 3, column 'epoch': run 'a' has epoch 1 already",
    "run,seed,task,epoch,nc1\na,0,1,5,0.5\na,0,0,6,0.6\n": r"line 3, column 'task': task 0 in epoch 6, after task 1",
    "run,seed,task,epoch,nc1\na,0,0,9,0.5\na,0,1,3,0.6\n": r"task 1 in epoch 3, before the last task ends",
    "run,seed,epoch,seconds\na,0,1,soon\n": r"line 2, column 'seconds': 'soon' is not a number of seconds",
    "run,seed,epoch,split,task,nc1\na,0,1,train,0,1\na,0,1,test,1,2\n": r"line 3: run 'a', epoch 1: task or times",
    "run,seed,nc1\na,0,0.5\n": r"line 1: the columns epoch are missing",
    "run,seed,epoch,nc1,nc1\na,0,1,1,1\n": r"line 1, column 'nc1': this column is there twice",
    "run,seed,epoch,nc1,nc1@train\na,0,1,1,1\n": r"column 'nc1@train': this is the same metric as column 'nc1'",
    "run,seed,epoch,split,nc1@test\na,0,1,test,1\n": r"column 'nc1@test': a column may name its split",
    "run,seed,epoch,@test\na,0,1,1\n": r"column '@test': this is no metric",
    ",run,seed,epoch\n0,a,0,1\n": r"line 1: column 1 has no name",
    "run;seed;epoch;nc1\na;0;1;1\n": r"not separated by commas",
    'run,seed,epoch,nc1\n"a,0,1,1\n': r"not CSV",
    "": r"is empty",
}


@pytest.mark.parametrize("text", MALFORMED, ids=lambda t: MALFORMED[t][:40])
def test_a_malformed_row_names_its_place_and_nothing_is_stored(db: str, text: str) -> None:
    bring(db, "run,seed,epoch,nc1\nold,0,1,0.5\n")
    before = dump(db)
    with pytest.raises(DataError, match=MALFORMED[text]) as caught:
        bring(db, text)
    assert str(caught.value).startswith(str(Path(db).with_name("r.csv"))) and caught.value.exit_code == 1
    assert dump(db) == before


def test_an_error_in_a_late_batch_takes_everything_back(db: str) -> None:
    rows = [f"a,0,{epoch},0.5,{epoch}" for epoch in range(1, 10_000)]
    with open_store(db) as store:
        path = Path(db).with_name("r.csv")
        path.write_text("run,seed,epoch,nc1,new_metric\n" + "\n".join([*rows, "a,0,10001,0.5,?"]) + "\n")
        with pytest.raises(DataError, match="line 10001, column 'new_metric'"):
            import_csv(store, path, scenario="warm-start", name="theirs")
        assert store.runs() == [] and store.info()["rows"]["epochs"] == 0
        # the open store has not remembered names that were taken back
        path.write_text("run,seed,epoch,nc1,new_metric\n" + "\n".join(rows) + "\n")
        assert import_csv(store, path, scenario="warm-start", name="theirs").epochs == 9_999
        assert store.check() == [] and store.values("a", 9_999)[Address("new_metric")] == 9_999


def test_what_has_no_value_is_undefined(db: str) -> None:
    words = ("", "nan", "NaN", "NA", "null", "None", "inf", "-Infinity")
    done = bring(db, "run,seed,epoch,nc1,other\n" + "".join(f"a,0,{i + 1},{w},{w}\n" for i, w in enumerate(words)))
    assert done.not_finite == 8  # nan twice and infinities twice, in two columns
    with open_store(db) as store:
        columns = store.series([Address("nc1"), Address("other")], ["a"])["a"]
        assert np.isnan(columns["nc1"]).all() and np.isnan(columns["other"]).all() and len(columns["epoch"]) == 8


def test_splits_layers_and_addresses(db: str) -> None:
    bring(db, "run,seed,epoch,split,layer,nc1,vci\na,0,1,train,last,0.1,\na,0,1,test,layer1,0.2,0.3\n")
    bring(db, "run,seed,epoch,nc1,nc1@test,nc1@test/layer1\nb,0,1,0.1,0.2,0.3\n")
    with open_store(db) as store:
        layered = Address("nc1", "test", "layer1")
        assert store.values("a", 1) == {Address("nc1"): 0.1, layered: 0.2, Address("vci", "test", "layer1"): 0.3}
        assert store.values("b", 1) == {Address("nc1"): 0.1, Address("nc1", "test"): 0.2, layered: 0.3}
    with pytest.raises(DataError, match="run 'a' has epoch 1 already"):  # an empty place is the train split, last layer
        bring(db, "run,seed,epoch,split,layer,nc1\na,0,1,,,1\na,0,1,train,last,2\n", name="n")


def test_rows_in_any_order_and_over_batches(db: str) -> None:
    tasks = [(task, epoch) for task in range(3) for epoch in range(task * 3000 + 1, task * 3000 + 3001)]
    rows = [f"a,0,{t},{e},{s},{e / 7!r},{e / 3!r}" for t, e in tasks for s in ("train", "test")]
    order = np.random.default_rng(0).permutation(len(rows))
    head = "run,seed,task,epoch,split,nc1,vci\n"
    bring(db, head + "\n".join(rows) + "\n")
    done = bring(db, head + "\n".join(rows[i] for i in order) + "\n", name="shuffled")
    assert done.epochs == 9000 and dict(done.runs) == {"a": "shuffled-a"}
    assert bring(db, head + "\n".join(rows[::-1]) + "\n").unchanged == 1
    with open_store(db) as store:
        assert store.check() == []
        wanted = [Address("nc1"), Address("nc1", "test"), Address("vci"), Address("vci", "test")]
        one, other = store.series(wanted, ["a", "shuffled-a"]).values()
        for name, column in one.items():
            assert column.tolist() == other[name].tolist(), name
        assert one["task_epoch"][[0, 2999, 3000, -1]].tolist() == [1, 3000, 1, 3000]
        assert one["vci@test"][-1] == 9000 / 3
    duplicate = rows[int(order[0])]
    with pytest.raises(DataError, match="already"):
        bring(db, head + "\n".join([*(rows[i] for i in order), duplicate]) + "\n", name="third")


def test_an_export_comes_back_equal(db: str, tmp_path: Path) -> None:
    with open_store(db) as store:
        for seed in range(2):
            info = RunInfo(f"abc{seed:09x}", "{}", "permuted-digits", seed, {"lr": 0.1}, {"tasks": 3}, 3)
            store.register(info)
            attempt = store.claim([info.id], Owner.current(), {})[info.id]
            for epoch in range(4):
                values = {Address("online_accuracy"): 0.1 + epoch / 3, Address("nc1"): 1 / (3 + epoch),
                          Address("nc1", "test"): 2 / 3, Address("vci", "test", "layer1"): 1e-300,
                          Address("plasticity_loss"): -0.1}  # fmt: skip
                store.save(
                    [(info.id, attempt, EpochRecord(epoch, epoch // 2, epoch % 2, 7 * epoch, 0.1 + seed, 9.0, values))]
                )
            store.finish(info.id, attempt, "finished")
    first, second, other = str(tmp_path / "1.csv"), str(tmp_path / "2.csv"), str(tmp_path / "b.db")
    assert call(["export", "--db", db, "-o", first]) == 0
    line = ["import", first, "--scenario", "permuted-digits", "--name", "back"]
    assert call([*line, "--db", other]) == 0 and call(["export", "--db", other, "-o", second]) == 0
    one, two = (pd.read_csv(path, dtype=str) for path in (first, second))
    pd.testing.assert_frame_equal(one.drop(columns="name"), two.drop(columns="name"))
    assert set(two["name"]) == {"back"} and len(one) == 2 * 4 * 3
    # into the store it came from: the trained runs stay as they are, the imported ones stand beside them
    assert call([*line, "--db", db]) == 0
    with open_store(db) as store:
        assert [r.id for r in store.runs()] == [
            "abc000000000",
            "abc000000001",
            "back-abc000000000",
            "back-abc000000001",
        ]
        assert not store.run("abc000000000").settings.get("imported")


def test_probes_come_back_as_probes(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A probe's rows are no further run of the group, neither where they were stored nor after a round trip."""
    with open_store(db) as store:
        for seed in range(2):
            for run, parent in ((f"aa{seed:010x}", None), (f"bb{seed:010x}", f"aa{seed:010x}")):
                info = RunInfo(run, "{}", "warm-start", seed, {"lr": 0.1}, {}, 9, {}, parent, 4 if parent else None)
                store.register(info)
                attempt = store.claim([run], Owner.current(), {})[run]
                x = np.random.default_rng([seed, parent is None]).standard_normal((2, 10))
                for epoch in range(1, 10):
                    values = {Address("nc1"): x[0, epoch], Address("test_accuracy"): x[1, epoch]}
                    store.save([(run, attempt, EpochRecord(epoch, 0, epoch, 0, 0.0, 0.0, values))])
                store.finish(run, attempt, "finished")
    path, other = tmp_path / "1.csv", str(tmp_path / "b.db")
    assert call(["export", "--db", db, "-o", str(path)]) == 0
    line = ["import", str(path), "--scenario", "warm-start", "--name", "back", "--db", other]
    assert call(line) == 0 and call(line) == 0
    with open_store(other) as store:
        assert [(r.id[:2], (r.parent or "")[:2], r.branch_epoch) for r in store.runs()] == [
            ("aa", "", None), ("bb", "aa", 4), ("aa", "", None), ("bb", "aa", 4)
        ]  # fmt: skip
    capsys.readouterr()
    found = []
    for one in (db, other):
        assert call(["correlate", "--db", one, "--y", "test_accuracy", "--json"]) == 0
        found += json.loads(capsys.readouterr().out)["groups"]
    assert [g["n_runs"] for g in found] == [2, 2] and found[0]["overall"] == found[1]["overall"]
    frame = pd.read_csv(path)
    frame.iloc[::-1].to_csv(path, index=False)
    assert call([*line[:-1], str(tmp_path / "c.db")]) == 1
    assert "is a probe of 'aa0000000001', which is not in the file before it" in capsys.readouterr().err
    frame.assign(branch_epoch=frame["branch_epoch"] + (frame["epoch"] > 5)).to_csv(path, index=False)
    assert call(line) == 1 and "has another parent in line" in capsys.readouterr().err
    assert call([*line, "--skip", "parent"]) == 1 and "is stored with other values" in capsys.readouterr().err


def test_labels_that_are_taken_or_strange_get_an_id(db: str) -> None:
    bring(db, "run,seed,epoch,nc1\nrun 1/é,0,1,0.5\n")
    (run,) = bring(db, "run,seed,epoch,nc1\nrun 1/é,0,1,0.5\n").runs.values()
    assert len(run) == 12 and int(run, 16) >= 0
    with open_store(db) as store:
        assert store.run(run).recorded == {"run": "run 1/é"}


def test_files_that_are_no_csv(db: str, tmp_path: Path) -> None:
    with open_store(db) as store:
        for path, words in ((tmp_path / "none.csv", "cannot be read"), (tmp_path / "a.parquet", "is not CSV")):
            with pytest.raises(InputError, match=words):
                import_csv(store, path, scenario="s", name="n")
        (tmp_path / "latin.csv").write_bytes(b"run,seed,epoch\n\xe9,0,1\n")
        with pytest.raises(DataError, match="not UTF-8"):
            import_csv(store, tmp_path / "latin.csv", scenario="s", name="n")
        (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbfrun,seed,epoch,nc1\r\na,0,1,0.5\r\n")
        assert import_csv(store, tmp_path / "bom.csv", scenario="s", name="n").epochs == 1


def test_the_command_says_what_it_did(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.csv"
    path.write_text(SMALL.replace("their_loss", "their_loss,note").replace("\n", ",x\n").replace("note,x", "note"))
    line = ["import", str(path), "--db", db, "--scenario", "permuted-mnist", "--name", "theirs"]
    assert call(line) == 1
    assert "line 2, column 'note': 'x' is not a number" in capsys.readouterr().err
    assert call([*line, "--skip", "note"]) == 0
    streams = capsys.readouterr()
    assert "3 rows of 2 runs (2 new); 3 epochs stored as 'theirs'." in streams.out
    assert "their_loss" in streams.err and "columns left out: note" in streams.err
    assert call([*line, "--skip", "note", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["unchanged"], done["epochs_stored"], done["rows"]) == (2, 0, 3) and done["runs"] == {
        "a": "a",
        "b": "b",
    }
    assert any("their_loss" in note for note in done["notes"])
    assert call([*line, "--skip", "nothing"]) == 2 and "has no such column" in capsys.readouterr().err
    assert call(["import", str(path), "--db", db, "--scenario", "s"]) == 2


def test_imported_runs_are_correlated_by_name(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    lines = ["run,seed,epoch,nc1,test_accuracy"]
    for run in range(4):
        x = draw.standard_normal((2, 40))
        lines += [f"r{run},{run},{5 * i + 5},{float(x[0, i])!r},{float(x[1, i])!r}" for i in range(40)]
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(lines) + "\n")
    for name in ("theirs", "others"):
        assert call(["import", str(path), "--db", db, "--scenario", "warm-start", "--name", name]) == 0
    capsys.readouterr()
    assert call(["correlate", "--db", db, "--window", "100", "--name", "theirs", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["name"], group["n_runs"], group["y"]) == ("theirs", 4, "test_accuracy")
    assert any("No probe_test_accuracy" in note for note in group["notes"])
    assert (group["windows"][0]["end"], group["windows"][0]["points"], group["windows"][0]["p"]) == (100, 20, None)
    frame = pd.read_csv(path)
    r = [g[g.epoch <= 100]["nc1"].corr(g[g.epoch <= 100]["test_accuracy"]) for _, g in frame.groupby("run")]
    assert group["windows"][0]["mean"] == pytest.approx(np.mean(r), abs=1e-12)
    assert group["windows"][0]["std"] == pytest.approx(np.std(r, ddof=1), abs=1e-12)
    assert call(["correlate", "--db", db, "--json"]) == 0
    assert [g["name"] for g in json.loads(capsys.readouterr().out)["groups"]] == ["theirs", "others"]


# logs of others -------------------------------------------------------------------------------------------------------


def series(db: str, name: str = "theirs") -> dict[str, dict[str, list[float | None]]]:
    """Every run's columns by its id: epochs, and values with None where there is none."""
    with open_store(db) as store:
        runs = [row.id for row in store.runs() if name in row.names]
        addresses = sorted(store.recorded(runs), key=str)
        found, keys = store.series(addresses, runs), ("epoch", *map(str, addresses))
        return {
            run: {key: [None if v != v else v for v in map(float, found[run][key])] for key in keys} for run in runs
        }  # fmt: skip


def test_epochs_from_0_are_kept_and_counted(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same values with epochs from 0 and from 1 have the same series, and r over all rows is numpy's."""
    draw = np.random.default_rng(4)
    x, y = draw.normal(size=(2, 3, 12))
    for name, first in (("from0", 0), ("from1", 1)):
        rows = [f"r{s},{s},{e + first},{x[s, e]!r},{y[s, e]!r}" for s in range(3) for e in range(12)]
        path = tmp_path / f"{name}.csv"
        path.write_text(
            "run,seed,epoch,nc1,test_accuracy\n" + "\n".join(rows).replace("np.float64(", "").replace(")", "")
        )
        line = ["import", str(path), "--scenario", "warm-start", "--name", name, "--db", db]
        assert call(line) == 0
        said = capsys.readouterr().err
        assert ("epochs count from 0" in said and "--epochs-from 1" in said) == (first == 0)
        assert call(line) == 0 and "36 rows of 3 runs (3 unchanged); 0 epochs" in capsys.readouterr().out
    zero, one = (list(series(db, name).values()) for name in ("from0", "from1"))
    assert zero == one and zero[0]["epoch"] == list(range(1, 13))
    assert call(["correlate", "--name", "from0", "--db", db, "--window", "12", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    expected = np.mean([np.corrcoef(x[s], y[s])[0, 1] for s in range(3)])
    assert group["overall"]["mean_r"] == pytest.approx(expected, abs=1e-12) and group["windows"][0]["points"] == 12


def test_a_log_from_0_that_has_grown_goes_on_where_it_was(db: str) -> None:
    bring(db, "run,seed,epoch,nc1\na,0,0,0.5\na,0,1,0.4\n")
    done = bring(db, "run,seed,epoch,nc1\na,0,1,0.4\na,0,2,0.3\n")  # its beginning was cut off
    assert (done.extended, done.epochs) == (1, 1)
    assert series(db)["a"] == {"epoch": [1, 2, 3], "nc1": [0.5, 0.4, 0.3]}
    with open_store(db) as store:
        assert [row["task_epoch"] for row in store.rows("a")] == [1, 2, 3] and store.check() == []


UNTRAINED = {
    "task_epoch": "run,seed,epoch,task_epoch,nc1\na,0,0,0,9\na,0,1,1,5\n",
    "no online accuracy": "run,seed,epoch,online_accuracy,nc1\na,0,0,,9\na,0,1,0.5,5\n",
    "no samples": "run,seed,epoch,samples_seen,nc1\na,0,0,0,9\na,0,1,50,5\n",
}


@pytest.mark.parametrize("kind", UNTRAINED)
def test_epoch_0_of_an_untrained_network_stays_what_it_is(db: str, kind: str) -> None:
    done = bring(db, UNTRAINED[kind])
    assert series(db)["a"]["epoch"] == [0, 1] and any("untrained" in note for note in done.notes)
    assert bring(db, UNTRAINED[kind]).unchanged == 1


def test_what_is_said_of_epoch_0_goes_before_what_is_guessed(db: str) -> None:
    text = "run,seed,epoch,nc1\na,0,0,9\na,0,1,5\n"
    bring(db, text)
    with pytest.raises(DataError, match="is stored with other values"):
        bring(db, "run,seed,epoch,nc1\na,0,0,9\na,0,1,6\n")
    assert bring(db, text, epochs_from=1, replace=True).replaced == 1 and series(db)["a"]["epoch"] == [0, 1]
    assert bring(db, text, epochs_from=1).unchanged == 1
    assert bring(db, text, name="b", epochs_from=0).new == 1


@pytest.mark.parametrize(
    "rows",
    [
        ["a,0,1,9,,0.5,2.0", "a,0,1,9,0.6,,", "a,0,2,19,,0.525,1.0", "a,0,2,19,0.625,,"],
        ["a,0,1,9,,0.5,", "a,0,2,19,0.625,,", "a,0,1,9,0.6,,2.0", "a,0,2,19,,0.525,1.0"],
        ["a,0,1,9,0.6,0.5,2.0", "a,0,2,19,0.625,0.525,1.0"],
    ],
)
def test_rows_that_complete_each_other_are_one_epoch(db: str, rows: list[str]) -> None:
    text = "run,seed,epoch,step,train_accuracy,val_accuracy,nc1\n" + "\n".join(rows) + "\n"
    done = bring(db, text)
    assert done.epochs == 2 and bring(db, text).unchanged == 1
    assert series(db)["a"] == {
        "epoch": [1, 2], "nc1": [2.0, 1.0], "step": [9, 19], "train_accuracy": [0.6, 0.625],
        "val_accuracy": [0.5, 0.525],
    }  # fmt: skip


def test_parts_of_an_epoch_that_lie_thousands_of_lines_apart_are_one(db: str) -> None:
    """First all rows of training, then all of validation: longer than a batch, and the same again changes nothing."""
    epochs = range(1, 6001)
    rows = [f"a,0,{e},{e / 7!r}," for e in epochs] + [f"a,0,{e},,{e / 3!r}" for e in epochs]
    text = "run,seed,epoch,train_accuracy,val_accuracy\n" + "\n".join(rows) + "\n"
    assert bring(db, text).epochs == 6000 and bring(db, text).unchanged == 1
    found = series(db)["a"]
    assert found["train_accuracy"] == [e / 7 for e in epochs] and found["val_accuracy"] == [e / 3 for e in epochs]


@pytest.mark.parametrize("rows", ["a,0,1,0.5,\na,0,1,0.6,0.1\n", "a,0,1,0.5,\na,0,1,0.5,\n"])
def test_an_epoch_with_two_values_or_nothing_new_is_there_twice(db: str, rows: str) -> None:
    with pytest.raises(DataError, match=r"line 3, column 'epoch': run 'a' has epoch 1 already"):
        bring(db, "run,seed,epoch,nc1,val_accuracy\n" + rows)


def test_rows_of_steps_leave_the_last_value_of_each_epoch(db: str) -> None:
    text = (
        "run,seed,epoch,step,train_loss_step,val_loss\na,0,1,0,2.5,\na,0,1,50,2.0,\na,0,1,99,,0.9\n"
        "a,0,,120,1.9,\na,0,2,150,1.5,\na,0,2,199,,0.8\n"
    )
    done = bring(db, text)
    assert done.epochs == 2 and bring(db, text).unchanged == 1
    found = series(db)["a"]
    assert found["train_loss_step"] == [2.0, 1.5] and found["val_loss"] == [0.9, 0.8] and found["step"] == [99, 199]
    assert "several steps of an epoch have a value, of which the last is kept: step, train_loss_step." in done.notes
    assert "1 row of steps without an epoch: left out." in done.notes


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("nc1", "a,0,1,1_5", "'1_5' is not a number"),
        ("nc1", "a,0,1_0,1.5", "'1_0' is not a whole number"),
        ("nc1", "a,1_0,1,1.5", "'1_0' is not a whole number"),
        ("nc1", "a,0,1,٣", "'٣' is not a number"),
        ("nc1", "a,0,٣,1", "'٣' is not a whole number"),
        ("nc1", "a,0,1,0x10", "'0x10' is not a number"),
        ("seconds", "a,0,1,1_5", "'1_5' is not a number of seconds"),
        ("split,nc1", "a,0,1,tset,1", "column 'split': 'tset' is no split"),
        ("split,nc1", "a,0,1,val,1", "'val' is no split"),
        ("split,nc1", "a,0,1,Test,1", "'Test' is no split"),
        ("split,nc1", "a,0,1,0.93,1", "'0.93' is no split"),
        ("layer,nc1", "a,0,1,Last,1", "column 'layer': 'Last' is no layer"),
        ("layer,nc1", "a,0,1,the last one,1", "is no layer"),
        ("nc1@tests", "a,0,1,1", "column 'nc1@tests': 'tests' is no split"),
        ("nc1@test/layer 1", "a,0,1,1", "is no layer"),
    ],
)
def test_what_only_looks_like_a_number_or_a_place_is_refused(db: str, head: str, row: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        bring(db, f"run,seed,epoch,{head}\n{row}\n")
    assert said in str(caught.value)
    assert "no split" not in said or "validation" in str(caught.value.hint)


def test_splits_and_layers_of_ones_own_are_taken_and_said(db: str) -> None:
    done = bring(db, "run,seed,epoch,split,layer,nc1\na,0,1,ood,features.3,1\na,0,1,validation,0,2\n")
    assert done.epochs == 1 and "splits of your own: ood." in done.notes
    with open_store(db) as store:
        assert store.values("a", 1) == {Address("nc1", "ood", "features.3"): 1, Address("nc1", "validation", "0"): 2}


LIGHTNING = (
    "epoch,step,train_loss_epoch,train_loss_step,val/acc\n"
    "0,49,,0.7,\n0,99,,,0.5\n0,99,0.6,,\n1,199,,,0.55\n1,199,0.4,,\n"
)


def test_lightnings_folders_are_runs(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version, seed in ((2, "seed: 7\n"), (10, "lr: 0.1\nseed_everything: 3\n"), (1, "lr: 0.1\n")):
        folder = tmp_path / "lightning_logs" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(LIGHTNING if version != 10 else "epoch,step,nc1\n0,9,1\n1,19,2\n")
        (folder / "hparams.yaml").write_text(seed)
    line = ["import", str(tmp_path / "lightning_logs"), "--from", "lightning", "--scenario", "warm-start"]
    assert call([*line, "--name", "theirs", "--db", db]) == 0
    said = capsys.readouterr()
    assert "3 runs (3 new); 6 epochs" in said.out and "1 of 3 runs name no seed" in said.err
    with open_store(db) as store:
        assert {row.id: row.seed for row in store.runs()} == {"version_1": 0, "version_2": 7, "version_10": 3}
    found = series(db)["version_2"]
    assert found["epoch"] == [1, 2] and found["train_loss_epoch"] == [0.6, 0.4] and found["val/acc"] == [0.5, 0.55]
    assert series(db)["version_10"]["nc1"] == [1, 2]
    one = str(tmp_path / "lightning_logs" / "version_2" / "metrics.csv")
    assert call(["import", one, "--from", "lightning", "--scenario", "s", "--name", "one", "--db", db]) == 0
    assert (
        call(["import", str(tmp_path / "x"), "--from", "lightning", "--scenario", "s", "--name", "n", "--db", db]) == 2
    )
    assert call(["import", one, "--from", "keras", "--scenario", "s", "--name", "n", "--db", db]) == 2
    assert "csv, jsonl, lightning, tensorboard, trackio" in capsys.readouterr().err


def test_lines_of_json_are_rows(db: str, tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_text(
        '{"epoch": 1, "nc1": 0.5, "test": {"accuracy": 0.25}, "at": "2026-01-01", "done": false}\n\n'
        '{"epoch": 2, "nc1": null, "test": {"accuracy": 0.5}, "at": "2026-01-02", "lr": 1e-3}\n'
        '{"epoch": 3, "nc1": NaN, "at": "2026-01-03"}\n'
    )
    with open_store(db) as store:
        done = import_csv(store, path, scenario="warm-start", name="theirs", kind="jsonl")
    assert series(db)["wide"] == {
        "epoch": [1, 2, 3], "done": [0, None, None], "lr": [None, 1e-3, None], "nc1": [0.5, None, None],
        "test.accuracy": [0.25, 0.5, None],
    }  # fmt: skip
    assert "columns of words are left out: at." in done.notes and any("no line has a run" in n for n in done.notes)
    path.write_text('{"epoch": 1}\n[1]\n')
    with open_store(db) as store, pytest.raises(DataError, match="line 2: no JSON object"):
        import_csv(store, path, scenario="warm-start", name="n", kind="jsonl")


def test_a_log_is_read_from_a_pipe(db: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("run,seed,epoch,nc1\na,0,0,1\na,0,1,2\n",))
    writer.start()
    with open_store(db) as store:
        assert import_csv(store, pipe, scenario="warm-start", name="theirs").epochs == 2
    writer.join()


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _event(step: int, scalars: dict[str, float], *, tensor: bool = False) -> bytes:
    """An Event of TensorBoard as its protocol buffer says, in its frame; checksums are not looked at."""
    summary = b""
    for tag, value in scalars.items():
        if tensor:  # as newer writers do: a TensorProto of type float, shape (), content
            number = b"\x08\x01" + b"\x12\x00" + b"\x22\x04" + struct.pack("<f", value)
            number = b"\x42" + _varint(len(number)) + number
        else:
            number = b"\x15" + struct.pack("<f", value)
        one = b"\x0a" + _varint(len(tag)) + tag.encode() + number
        summary += b"\x0a" + _varint(len(one)) + one
    data = b"\x09" + struct.pack("<d", 1.7e9) + b"\x10" + _varint(step) + b"\x2a" + _varint(len(summary)) + summary
    return struct.pack("<Q", len(data)) + b"crc4" + data + b"crc4"


@pytest.mark.parametrize("tensor", [False, True])
def test_event_files_of_tensorboard(db: str, tmp_path: Path, tensor: bool) -> None:
    """Two runs, one in two files of which the last breaks off; half numbers are exact in float32."""
    first = b"\x09" + struct.pack("<d", 1.7e9) + b"\x1a\x0dbrain.Event:2"
    head = struct.pack("<Q", len(first)) + b"crc4" + first + b"crc4"
    for run in ("a", "b/c"):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        parts = [_event(step, {"nc1": 2 - step / 4, "val/acc": step / 8}, tensor=tensor) for step in range(1, 5)]
        if run == "a":
            (folder / "events.out.tfevents.1.host").write_bytes(head + b"".join(parts))
        else:
            (folder / "events.out.tfevents.1.host").write_bytes(head + b"".join(parts[:2]))
            (folder / "events.out.tfevents.2.host").write_bytes(head + b"".join(parts[2:])[:-3])
    with open_store(db) as store:
        done = import_csv(store, tmp_path / "runs", scenario="warm-start", name="theirs", kind="tensorboard")
    found = series(db)
    assert found["a"] == {"epoch": [1, 2, 3, 4], "nc1": [1.75, 1.5, 1.25, 1.0], "val/acc": [0.125, 0.25, 0.375, 0.5]}
    assert found[done.runs["b/c"]]["epoch"] == [1, 2, 3]
    said = " ".join(done.notes)
    assert (
        "breaks off" in said and "the steps are taken as epochs" in said and "2 of 2 runs have logged no seed" in said
    )


def test_event_files_with_epochs_keep_the_last_value_of_each(db: str, tmp_path: Path) -> None:
    """As Lightning logs: the epoch beside every metric, counted from 0."""
    events = [
        _event(49, {"epoch": 0, "loss": 1.0}), _event(99, {"epoch": 0, "loss": 0.75}), _event(99, {"val": 0.25}),
        _event(149, {"epoch": 1, "loss": 0.5}), _event(199, {"epoch": 1, "val": 0.5}),
    ]  # fmt: skip
    (tmp_path / "one").mkdir()
    path = tmp_path / "one" / "events.out.tfevents.1"
    path.write_bytes(b"".join(events))
    with open_store(db) as store:
        import_csv(store, path, scenario="warm-start", name="theirs", kind="tensorboard")
    assert series(db)["one"] == {"epoch": [1, 2], "loss": [0.75, 0.5], "step": [99, 199], "val": [0.25, 0.5]}
    path.write_bytes(b"no events at all, but some text")
    with open_store(db) as store, pytest.raises(DataError, match="no event file"):
        import_csv(store, path, scenario="warm-start", name="n", kind="tensorboard")


def test_a_database_of_trackio(db: str, tmp_path: Path) -> None:
    path = tmp_path / "project.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_id TEXT, timestamp TEXT, run_name TEXT, step INTEGER, "
            "metrics TEXT)"
        )
        connection.execute("CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT)")
        connection.execute("INSERT INTO configs (run_name, config) VALUES ('swift', '{\"seed\": 7, \"lr\": 0.1}')")
        for run in ("swift", "calm"):
            for step in range(3):
                text = json.dumps({"nc1": 1 / (step + 1), "epoch": step, "test": {"accuracy": step / 4}, "note": "x"})
                connection.execute(
                    "INSERT INTO metrics (run_name, step, metrics, timestamp) VALUES (?, ?, ?, '')", (run, step, text)
                )
    with open_store(db) as store:
        done = import_csv(store, path, scenario="warm-start", name="theirs", kind="trackio")
        assert {row.id: row.seed for row in store.runs()} == {"swift": 7, "calm": 1}
    assert series(db)["swift"] == {
        "epoch": [1, 2, 3], "nc1": [1.0, 0.5, 1 / 3], "step": [0, 1, 2], "test.accuracy": [0, 0.25, 0.5],
    }  # fmt: skip
    assert "1 of 2 runs have logged no seed: they are numbered." in done.notes
    with open_store(db) as store, pytest.raises(DataError, match="no database of Trackio"):
        import_csv(store, Path(db), scenario="warm-start", name="n", kind="trackio")


def test_a_table_of_a_million_columns_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    names = ",".join(f"m{i}" for i in range(10**6))
    path.write_text(f"run,seed,epoch,{names}\n")
    with open_store(tmp_path / "a.db") as store, pytest.raises(DataError, match="1000003 columns"):
        import_csv(store, path, scenario="x", name="y")


@pytest.mark.parametrize(
    "text", ["=1+2", "+cmd|x", "-x", "@y", "'=z", "''@", "-1.5", "'quoted", "plain", "=HYPERLINK(1)"]
)
def test_texts_are_no_formulas_in_a_spreadsheet_and_come_back_as_they_were(tmp_path: Path, text: str) -> None:
    """A text that begins with = + - @ gets an apostrophe, which import takes off; numbers stay numbers."""
    table, again, db = tmp_path / "t.csv", tmp_path / "e.csv", tmp_path / "a.db"
    marked = f"'{text}" if text.lstrip("'")[:1] in ("=", "+", "-", "@") and text != "-1.5" else text
    assert for_spreadsheets(text) == marked and from_spreadsheets(marked) == text
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["run", "seed", "epoch", "nc1", "'=own"], [marked, 0, 1, -0.5, 2], [marked, 0, 2, -0.25, 3]]
        )
    assert call(["import", str(table), "--scenario", "x", "--name", text, "--db", str(db)]) == 0
    assert call(["export", "-o", str(again), "--db", str(db)]) == 0
    with open_store(db, readonly=True) as store:
        (row,) = store.runs()
        assert row.names == (text,) and row.epochs == 2
    with again.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    first = dict(zip(head, rows[0], strict=True))
    assert (first["name"], first["nc1"], first["'=own"]) == (marked, "-0.5", "2.0")
