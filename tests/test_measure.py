"""`ncpl measure`: features files, files of weights, stored runs; what is refused, and in which words."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ncpl_cli.data import Dataset
from ncpl_cli.main import call
from ncpl_cli.metrics import Snapshot, collapse, measure
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.records import Address
from ncpl_cli.scenarios import Task
from ncpl_cli.store import open_store
from tests.test_collapse import sample, textbook
from tests.test_online_engine import a_network

Ask = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """`ncpl measure ...` in an empty directory: exit code, document, what was said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        code = call(["measure", *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if code == 0 else {}, err

    return run


def features(path: str = "f.npz", **more: Any) -> tuple[Any, Any, Any, Any]:
    x, y, w, b = sample()
    np.savez(path, **{"features": x, "labels": y, "weight": w, "bias": b, **more})
    return x, y, w, b


def test_a_features_file_is_measured_as_the_textbook_says(ask: Ask) -> None:
    x, y, w, b = features()
    code, found, _ = ask("f.npz")
    assert code == 0 and list(found["layers"]) == ["last"] and list(found["layers"]["last"]) == ["train"]
    here = found["layers"]["last"]["train"]
    for name, value in textbook(x, y, w, b).items():
        assert here[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name
    assert {k: found[k] for k in ("target", "n", "d", "classes", "rank_between")} == {
        "target": "f.npz", "n": 300, "d": 12, "classes": 5, "rank_between": 4,
    }  # fmt: skip
    assert found["min_class_count"] == np.bincount(y).min() and found["null_nc1"] == here["null_nc1"]
    draw = np.random.default_rng(0)  # the labels once permuted are one draw of these
    others = [textbook(x, draw.permutation(y), w, b)["nc1"] for _ in range(200)]
    assert min(others) < found["null_nc1"] < max(others)
    assert here["context"] == {
        k: found[k] for k in ("n", "d", "classes", "min_class_count", "rank_between", "null_nc1")
    }
    # features without a zero are of no ReLU
    assert here["undefined"] == {"dead_units": "the activation has no exact zeros"} and here["dead_units"] is None
    assert here.keys() - {"context", "undefined"} <= METRICS.keys()


def test_both_splits_and_both_global_means(ask: Ask) -> None:
    x, y, *_ = sample(seed=3)
    features(test_features=x[:100], test_labels=y[:100])
    _, found, _ = ask("f.npz", "--split", "both", "--global-mean", "class")
    splits = found["layers"]["last"]
    assert list(splits) == ["train", "test"] and splits["test"]["context"]["n"] == 100
    plain, by_sample = sample(), ask("f.npz")[1]["layers"]["last"]["train"]["nc1"]
    assert splits["train"]["nc1"] == collapse(*plain, global_mean="class")["nc1"] != by_sample
    assert splits["test"]["nc1_test_weak"] is not None and "nc1_test_weak" not in splits["train"]
    only = ask("f.npz", "--split", "test", "--metrics", "nc1,ncc_error")[1]
    assert list(only["layers"]["last"]) == ["test"] and only["n"] == 300
    assert only["layers"]["last"]["test"].keys() == {"nc1", "ncc_error", "context", "undefined"}
    # labels of any size, where no classifier says how many there are
    far = y.astype(np.int64) * 10**12
    np.savez("near.npz", features=x, labels=y, test_features=x[:100], test_labels=y[:100])
    np.savez("far.npz", features=x, labels=far, test_features=x[:100], test_labels=far[:100])
    assert ask("far.npz")[1]["layers"] == ask("near.npz")[1]["layers"]
    features()
    assert ask("f.npz", "--split", "test")[0] == 2
    assert "there is no test split" in ask("f.npz", "--split", "both")[2]


@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble", "int32"])
def test_any_real_type_of_any_framework(ask: Ask, dtype: str) -> None:
    x, y, _, _ = sample(spread=0.3)
    given = (x * 100).astype(dtype)
    np.savez("f.npz", features=given, labels=y.astype(np.uint8))
    code, found, _ = ask("f.npz", "--metrics", "nc1,nc2")
    here = found["layers"]["last"]["train"]
    assert here["nc1"] == pytest.approx(collapse(given.astype(np.float64), y)["nc1"], rel=1e-12)
    assert code == 0 and here["undefined"] == {"nc2": "the classifier's weight is not given"} and here["nc2"] is None


def test_what_is_undefined_is_null_and_no_error(ask: Ask) -> None:
    x, y, _, _ = sample()
    broken = x.copy()
    broken[5, 2] = np.nan
    np.savez("nan.npz", features=broken, labels=y, test_features=x, test_labels=y)
    np.savez("dead.npz", features=np.zeros_like(x), labels=y)
    np.savez("one.npz", features=x, labels=np.zeros_like(y))
    code, found, _ = ask("nan.npz")
    train, test = (found["layers"]["last"][split] for split in ("train", "test"))
    assert code == 0 and train["nc1"] is None and train["undefined"]["nc1"] == "features are not finite"
    assert found["n"] == 300 and train["undefined"]["effective_rank"] == "features are not finite"
    assert test["nc1"] is not None and test["ncc_error"] is None
    assert test["undefined"]["ncc_error"] == "the training features are not finite"
    dead = ask("dead.npz")[1]["layers"]["last"]["train"]
    assert dead["nc1"] is None and dead["undefined"]["nc1"] == "no between-class scatter" and dead["dead_units"] == 1
    one = ask("one.npz")[1]
    assert one["layers"]["last"]["train"]["undefined"]["cdnv"] == "fewer than two classes" and one["classes"] == 1
    asked = ask("one.npz", "--metrics", "hessian_top")[1]["layers"]["last"]["train"]
    why = "not to be had from this: it needs 2 000 training samples"
    assert asked["hessian_top"] is None and why in asked["undefined"]["hessian_top"]


def _arrays(**given: Any) -> Callable[[], object]:
    def write() -> None:
        x, y, w, b = sample()
        arrays = {"features": x, "labels": y, "weight": w, "bias": b} | given
        np.savez("f.npz", **{name: array for name, array in arrays.items() if array is not None})

    return write


REFUSED: list[tuple[Callable[[], object], int, str]] = [
    (lambda: None, 2, "there is no file f.npz"),
    (_arrays(labels=None), 2, "has no labels; it has features, weight, bias"),
    (_arrays(features=None, labels=None), 2, "has no features and no labels"),
    (_arrays(weight=None), 2, "has a bias and no weight"),
    (_arrays(labels=np.zeros(300)), 2, "labels must be 300 integers, not float64"),
    (_arrays(labels=np.zeros(299, int)), 2, "labels must be 300 integers"),
    (_arrays(labels=np.full(300, -1)), 2, "labels must count from 0"),
    (_arrays(weight=np.zeros((3, 12)), bias=None), 2, "with a row for each label to 4"),
    (_arrays(bias=np.zeros(4)), 2, "bias must have one value for each row"),
    (_arrays(features=np.zeros((300, 3, 4))), 2, "features must be a matrix"),
    (_arrays(features=np.zeros((300, 0))), 2, "features must be a matrix"),
    (_arrays(features=np.zeros((300, 12), complex)), 2, "array of numbers"),
    (_arrays(features=np.full((300, 12), None)), 2, "Python objects"),
    (_arrays(test_features=np.zeros((3, 12))), 2, "belong together"),
    (_arrays(test_features=np.zeros((3, 5)), test_labels=np.zeros(3, int)), 2, "weight must be"),
    (lambda: Path("f.npz").write_bytes(pickle.dumps({"features": 1})), 2, "Python objects"),
    (lambda: (np.save("f.npy", np.zeros(3)), Path("f.npy").rename("f.npz")), 2, "a single array"),
    (lambda: Path("f.npz").write_bytes(b"PK\x03\x04 not a zip"), 1, "damaged"),
    (lambda: Path("f.npz").write_bytes(b""), 2, "is no .npz file"),
    (lambda: Path("f.npz").write_text("features,labels"), 2, "is no .npz file"),
]


@pytest.mark.parametrize(("write", "code", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_files_that_are_no_features_are_refused(ask: Ask, write: Callable[[], object], code: int, words: str) -> None:
    write()
    found, _, said = ask("f.npz")
    assert found == code and words in said and "Traceback" not in said


def test_a_truncated_file_is_damaged(ask: Ask) -> None:
    features()
    path = Path("f.npz")
    path.write_bytes(path.read_bytes()[:-3000])
    code, _, said = ask("f.npz")
    assert code == 1 and "f.npz is damaged" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either a file or --run"), (["f.npz", "--run", "a"], "either a file or --run"),
        (["f.npz", "--metrics", "nc11"], "Did you mean 'nc1'"), (["f.npz", "--split", "tets"], "Did you mean 'test'"),
        (["f.npz", "--global-mean", "none"], "unknown global mean"), (["f.npz", "--network", "mlp"], "--network"),
        (["f.npz", "--epoch", "3"], "--epoch cannot be chosen"), (["m.pt"], "is a pickle"),
        (["m.safetensors"], "--network and --dataset must be given"),
        (["m.safetensors", "--network", "mlp", "--dataset", "digits", "--global-mean", "class"], "--global-mean"),
    ],
    ids=str,
)  # fmt: skip
def test_a_command_line_that_makes_no_sense(ask: Ask, arguments: list[str], words: str) -> None:
    features()
    Path("m.pt").write_bytes(b"")
    code, _, said = ask(*arguments)
    assert code == 2 and words in said


def test_a_table_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("f.npz", features=np.zeros((4, 3)), labels=np.array([0, 0, 1, 1]))
    assert call(["measure", "f.npz", "--metrics", "nc1,nc4,dormant_units"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "group\tmetric\tlayer\ttrain\treads",
        "collapse\tnc1\tlast\tundefined\tlower = more collapse",
        "collapse\tnc4\tlast\tundefined\thigher = more collapse",
        "units\tdormant_units\tlast\t1.0\thigher = less plastic",
    ]
    assert "undefined: nc1: no between-class scatter." in err


def test_weights_are_measured_on_a_data_set(ask: Ask, digits: Dataset) -> None:
    net = a_network(digits, precision="float32", width=20)
    save_file(net.state_dict(), "m.safetensors")
    options = ("--network", "mlp", "--width", 20, "--dataset", "digits")
    code, found, _ = ask("m.safetensors", *options, "--layers", "all")
    task = Task(0, 1, lambda _: np.arange(3), digits.train.labels, digits.test.labels)
    expected = measure(Snapshot(net, digits, task, None), layers="all")
    assert code == 0 and list(found["layers"]) == ["last", "classifier", "layer1", "layer2"]
    for address, value in expected.values.items():
        assert found["layers"][address.layer][address.split][address.metric] == value
    assert found["layers"]["last"]["train"]["undefined"]["distance_from_init"] == "the initialisation is not known"
    assert ask("m.safetensors", *options, "--metrics", "ntk_condition")[2].startswith("NTK of 128 samples")
    code, _, said = ask("m.safetensors", "--network", "mlp", "--dataset", "digits")
    assert code == 2 and "is (10, 20), and here it must be (10, 100)" in said
    save_file({"fc.weight": torch.zeros(3, 3)}, "m.safetensors")
    code, _, said = ask("m.safetensors", *options)
    assert code == 2 and "lacks hidden.0.weight" in said and "has in their place fc.weight" in said
    assert "mlp has: hidden.0.weight (20, 64)" in said
    Path("m.safetensors").write_bytes(b"nonsense")
    assert ask("m.safetensors", *options)[0] == 1


def test_a_state_dict_of_a_users_own_network(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("theirs.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes))\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10))
    save_file(net.state_dict(), "m.safetensors")
    code, found, _ = ask("m.safetensors", "--network", "theirs:make", "--dataset", "digits")
    assert code == 0 and found["d"] == 12 and found["layers"]["last"]["train"]["nc1"] > 0


def test_a_run_is_measured_from_its_checkpoint_and_stored(
    ask: Ask, capsys: pytest.CaptureFixture[str], digits: Dataset
) -> None:
    shape = ("--width", "8", "--depth", "2", "--train-samples", "200")
    train = ["train", "permuted-digits", "--tasks", "3", "--seeds", "0-1", "--batch-size", "32", *shape]
    assert call([*train, "--metrics", "nc1"]) == 0
    capsys.readouterr()
    with open_store("ncpl.db") as store:
        run = store.runs()[0].id
        before = {e: store.values(run, e) for e in range(4)}
    code, found, _ = ask("--run", run, "--metrics", "default,churn,hessian_top,plasticity_loss", "--layers", "all")
    here = found["layers"]["last"]["train"]
    # the engine keeps weights of several runs in one block, by which products round otherwise
    assert code == 0 and here["nc1"] == pytest.approx(before[3][Address("nc1")], rel=1e-5) and here["churn"] > 0
    assert here["plasticity_loss"] == before[3][Address("plasticity_loss")]
    with open_store("ncpl.db") as store:
        stored, row = store.values(run, 3), store.run(run)
        assert all(stored[a] == v for a, v in before[3].items())
        assert stored[Address("vci", "test", "layer1")] == found["layers"]["layer1"]["test"]["vci"]
        assert Address("hessian_top") not in stored and here["hessian_top"] is not None  # not of a task's beginning
        assert row.status == "finished" and not row.held and len(store.attempts(run)) == 2
    # no checkpoint after epoch 1: trained again, with the runs it was trained with, to the same bits
    code, found, said = ask("--run", run, "--epoch", 1, "--metrics", "nc1,dead_units")
    assert code == 0 and "trained again from epoch 0" in said
    assert found["layers"]["last"]["train"]["nc1"] == pytest.approx(before[1][Address("nc1")], rel=1e-5)
    with open_store("ncpl.db") as store:
        assert Address("dead_units") in store.values(run, 1) and Address("dead_units") not in store.values(run, 2)
        assert store.check() == []
    assert ask("--run", run, "--epoch", 4)[0] == 2
    assert ask("--run", "zzz")[0] == 2


def test_imported_runs_have_no_network(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    Path("log.csv").write_text("run,seed,epoch,nc1\na,0,1,0.5\n")
    assert call(["import", "log.csv", "--scenario", "warm-start", "--name", "x"]) == 0
    capsys.readouterr()
    code, _, said = ask("--run", "a")
    assert code == 2 and "was not trained by ncpl" in said


def test_a_terminal_of_80_columns_shows_each_metric_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y, *_ = features()
    features(test_features=x, test_labels=y)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert call(["measure", "f.npz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines) and "layer" not in lines[0]
    (nc1,) = [line for line in lines if " nc1 " in line and "few" not in line and "for" not in line]
    assert nc1.rstrip().endswith("↓ more collapse")
    shown = [line.split()[0] for line in lines[2:] if not line.startswith(("units", "few_shot"))]
    assert len(lines) == 1 + len([one for one in lines[1:] if one.strip()]) and len(set(shown)) == len(shown)
