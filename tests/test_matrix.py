"""The forgetting matrix as numbers: against a plain reading of the definitions, and out of stores without them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ncpl_cli.analysis import load
from ncpl_cli.main import call
from ncpl_cli.matrix import OF_MATRIX, numbers_of_rows
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store


def by_definition(table: np.ndarray, ends: list[int], tasks: list[int], untrained: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers after every epoch (rows of `table`, task by task, NaN = not tested), NaN = undefined."""
    found = {name: np.full(len(table), np.nan) for name in OF_MATRIX}
    for e, t in enumerate(tasks):
        row, old, own = table[e, : t + 1], table[ends[:t], :t], [table[ends[k], k] for k in range(t)]
        alone = np.isfinite(table[e]).sum() == 1 and e != ends[t]
        if t and (ahead := [table[ends[k - 1], k] - untrained[k] for k in range(1, t + 1)]) and e == ends[t]:
            found["forward_transfer"][e] = np.mean(ahead)
        if np.isnan(row).any() or alone:
            continue
        found["average_accuracy"][e] = row.mean()
        if t and np.isfinite(own).all():
            found["backward_transfer"][e] = np.mean(row[:t] - own)
            best = [np.nanmax(old[k:, k]) for k in range(t)]
            found["forgetting"][e] = np.mean(best - row[:t])
    return found


@pytest.mark.parametrize("seed", range(6))
def test_numbers_are_what_their_definitions_say(seed: int) -> None:
    """Tasks of one to four epochs; most of the table missing in the odd seeds, nothing in the even ones."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 5, 6)
    tasks = np.repeat(np.arange(6), lengths).tolist()
    ends = (np.cumsum(lengths) - 1).tolist()
    table, untrained = draw.random((len(tasks), 7)), draw.random(7)
    missing = (draw.random(table.shape) < 0.25) & (seed % 2 == 1)
    missing[[e for e, t in enumerate(tasks) if seed == 2 and e != ends[t]]] = True  # at the ends of tasks alone
    missing[ends[1], 0] = missing[ends[3], 3] = seed in (3, 4)
    table[missing] = np.nan
    rows = {e + 1: {k: float(a) for k, a in enumerate(row) if np.isfinite(a)} for e, row in enumerate(table)}
    rows = {0: dict(enumerate(untrained.tolist()))} | dict(reversed(rows.items()))
    found = numbers_of_rows([(0, 0), *((e + 1, t) for e, t in enumerate(tasks))], rows)
    wanted = by_definition(table, ends, tasks, untrained)
    assert found.keys() == {name for name, column in wanted.items() if np.isfinite(column).any()}
    for name, column in wanted.items():
        by_epoch = found.get(name, {})
        for e, value in enumerate(column):
            if name == "forward_transfer" and e not in ends:
                continue  # repeated where a row was taken within the task
            assert (e + 1 in by_epoch) == np.isfinite(value), (name, e)
            assert np.isnan(value) or by_epoch[e + 1] == pytest.approx(value, abs=1e-12)
    assert numbers_of_rows([(1, 0), (2, 1)], {1: {0: 0.5}, 2: {1: 0.5}}) == {}  # no matrix: the task at hand alone


def stored(path: Path, rows: dict[int, dict[int, float]], tasks: list[int], arms: int = 1) -> None:
    """Runs of before: rows of the matrix, none of its numbers; seeds 0 to 2 of each arm."""
    with open_store(path) as store:
        for arm in range(arms):
            for seed in range(3):
                key = f"{arm:04x}{seed:08x}"
                settings = {"interventions": ["redo"] * arm, "lr": 0.1}
                store.register(RunInfo(key, key, "permuted-digits", seed, settings, {"tasks": 3}, len(tasks)))
                attempt = store.claim([key], Owner.current(), {})[key]
                for epoch, task in enumerate(tasks, 1):
                    row = {k: a - 0.1 * arm * (k < task) - 0.01 * seed for k, a in rows[epoch].items()}
                    values = {Address("online_accuracy"): 0.5}
                    store.save([(key, attempt, EpochRecord(epoch, task, 1, 0, 0.0, 0.0, values, {}, row))])
                store.finish(key, attempt, "finished", None)


def test_stores_of_before_have_them_when_they_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.db"
    rows = {1: {0: 0.8}, 2: {0: 0.9}, 3: {1: 0.7}, 4: {0: 0.6, 1: 0.8}, 5: {0: 0.7, 1: 0.5, 2: 0.95}}
    stored(path, rows, [0, 0, 1, 1, 2], arms=2)
    wanted = {
        "average_accuracy": [np.nan, 0.9, np.nan, 0.7, (0.7 + 0.5 + 0.95) / 3],
        "backward_transfer": [np.nan, np.nan, np.nan, -0.3, (-0.2 - 0.3) / 2],
        "forgetting": [np.nan, np.nan, np.nan, 0.3, (0.2 + 0.3) / 2],
    }
    with open_store(path, readonly=True) as store:
        run = store.runs()[0].id
        assert [str(a) for a in store.recorded([run])][-3:] == list(wanted)
        study, frame = load(store, None), store.frame([run])
        for name, values in wanted.items():
            assert study.series[0].column(name) == pytest.approx(values, nan_ok=True)
            assert frame[name].to_numpy() == pytest.approx(values, nan_ok=True)
        assert not study.series[0].columns.get("forward_transfer", np.array([])).size
    assert call(["runs", "show", run, "--db", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["last_epoch"]["values"]
    assert {name: shown[name] for name in wanted} == pytest.approx({name: of[-1] for name, of in wanted.items()})
    assert call(["compare", "--y", "backward_transfer", "--db", str(path), "--json"]) == 0
    (arm,) = json.loads(capsys.readouterr().out)["comparisons"][0]["arms"]
    assert arm["gain"]["mean"] == pytest.approx(-0.1) and arm["gain"]["n_seeds"] == 3
    assert call(["export", "--db", str(path), "-o", str(tmp_path / "e.csv")]) == 0
    assert "backward_transfer" in (tmp_path / "e.csv").read_text().partition("\n")[0]


def test_what_was_recorded_stands(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with open_store(path) as store:
        store.register(RunInfo("a" * 12, "a", "mine", 0, {}, {"tasks": 2}, 2))
        attempt = store.claim(["a" * 12], Owner.current(), {})["a" * 12]
        for epoch, row in ((1, {0: 0.9}), (2, {0: 0.5, 1: 0.7})):
            values = {Address("average_accuracy"): 0.25} if epoch == 2 else {}
            store.save([("a" * 12, attempt, EpochRecord(epoch, epoch - 1, 1, 0, 0.0, 0.0, values, {}, row))])
        column = store.series([Address("average_accuracy"), Address("forgetting")], ["a" * 12])["a" * 12]
        assert column["average_accuracy"].tolist() == [0.9, 0.25] and column["forgetting"][1] == pytest.approx(0.4)
