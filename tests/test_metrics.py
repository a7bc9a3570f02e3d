"""Units, ranks, weights, plasticity loss and the snapshot, against definitions written out anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ncpl_cli import networks
from ncpl_cli.data import Dataset, load
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.metrics import Snapshot, collapse, forward, measure, units, weights
from ncpl_cli.metrics.catalogue import METRICS, check_names, chosen
from ncpl_cli.metrics.forward import view
from ncpl_cli.metrics.history import plasticity
from ncpl_cli.records import Address
from ncpl_cli.spec import DatasetSpec
from ncpl_cli.store import open_store
from tests.test_online_engine import a_network, a_task


def test_dead_and_dormant_units() -> None:
    h = torch.tensor([[0.0, 1.0, 0.01, 0.0], [0.0, 3.0, 0.01, 1e-9]])
    assert units.dead_units(h) == 0.25
    # mean activity per unit: 0, 2, .01, 5e-10; the layer's mean is .5025, and tau of it .01256
    assert units.dormant_units(h) == 0.75
    assert units.dormant_units(torch.zeros(5, 3)) == 1.0 and units.dead_units(torch.zeros(5, 3)) == 1.0


def test_five_ranks_that_are_called_by_each_others_names() -> None:
    h = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 30)) * np.linspace(0.01, 3, 30))
    s = np.linalg.svd(h.numpy(), compute_uv=False)
    assert np.allclose(units.spectrum(h), s)
    p = s / s.sum()
    found = units.ranks(units.spectrum(h))
    assert found["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert found["stable_rank"] == pytest.approx(np.linalg.norm(h) ** 2 / np.linalg.norm(h, 2) ** 2)
    assert found["participation_ratio"] == pytest.approx((s**2).sum() ** 2 / (s**4).sum())
    assert found["srank"] == next(k for k in range(1, 31) if s[:k].sum() >= 0.99 * s.sum())
    assert found["srank_squared"] == next(k for k in range(1, 31) if (s[:k] ** 2).sum() >= 0.99 * (s**2).sum())
    one = units.ranks(units.spectrum(torch.outer(torch.ones(9), torch.arange(1.0, 5.0))))
    assert all(value == pytest.approx(1, abs=1e-5) for value in one.values())
    assert units.ranks(units.spectrum(torch.zeros(4, 3))) == {}


def test_norms_of_weights(digits: Dataset) -> None:
    net = a_network(digits)
    flat = np.concatenate([p.detach().numpy().ravel() for p in net.parameters() if p.dim() == 2])
    initial = {name: p.detach() + 0.5 for name, p in net.named_parameters()}
    found, undefined = weights.weight_metrics(net, net.classifier.weight, initial)
    norms = [np.linalg.norm(p.detach(), 2) for p in net.parameters() if p.dim() == 2]
    count = sum(p.numel() for p in net.parameters())
    assert undefined == {}
    assert found == {
        "weight_norm": pytest.approx(np.linalg.norm(flat)),
        "weight_mean_abs": pytest.approx(np.abs(flat).mean()),
        "spectral_norm": pytest.approx(norms[-1]),
        "spectral_norm_max": pytest.approx(max(norms)),
        "distance_from_init": pytest.approx(0.5 * np.sqrt(count)),
    }
    unknown = weights.weight_metrics(net, net.classifier.weight, None)
    assert unknown[1] == {"distance_from_init": "the initialisation is not known"} and len(unknown[0]) == 4
    tall, wide = torch.randn(9, 4), torch.randn(3, 2, 2, 2)
    for matrix, norm in zip((tall, wide, tall.T), weights.spectral_norms([tall, wide, tall.T]), strict=True):
        assert float(norm) == pytest.approx(np.linalg.norm(matrix.flatten(1), 2))


def test_plasticity_loss_by_both_definitions() -> None:
    history = [(0, 1, 0.5), (0, 2, 0.9), (1, 1, 0.4), (1, 2, 0.6)]
    for end in (1, 2):
        values, reasons = plasticity(history[:end], is_last_epoch=end == 2)
        assert values == {} and set(reasons.values()) == {"first task"}
    values, reasons = plasticity(history[:3], is_last_epoch=False)
    assert values == {"plasticity_loss": pytest.approx(0.1)} and "not the task's last" in reasons["plasticity_loss_b24"]
    values, reasons = plasticity(history, is_last_epoch=True)
    assert values == {"plasticity_loss": pytest.approx(0.1), "plasticity_loss_b24": pytest.approx(0.2)}
    assert reasons == {}


@pytest.mark.parametrize(
    "shape", [{}, {"depth": 1}, {"norm": "layer", "activation": "tanh"}, {"norm": "batch"}], ids=str
)
@pytest.mark.parametrize("permuted", [True, False])
def test_a_view_is_what_the_network_says(digits: Dataset, shape: dict[str, Any], permuted: bool) -> None:
    net, task = a_network(digits, **shape), a_task(digits, permuted=permuted)
    net.train()
    with torch.no_grad():
        net(torch.rand(50, 64, dtype=torch.float64))  # gives batch norm statistics of its own
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = view(net, digits, digits.test, task.test_labels, task.pixel_order, device="cpu", layers=net.layer_names)
    assert net.training and all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.eval()
    x = torch.from_numpy(digits.test.images).flatten(1).double() / 16
    x = x if task.pixel_order is None else x[:, torch.from_numpy(task.pixel_order)]
    with torch.no_grad():
        logits, activations, _ = net.classify(x)
    assert torch.allclose(found.logits, logits, atol=1e-12)
    for name, activation in zip(net.layer_names, activations, strict=True):
        assert torch.allclose(found.layers[name], activation, atol=1e-12)
    y = torch.from_numpy(digits.test.labels)
    assert found.accuracy == float((logits.argmax(1) == y).double().mean())
    assert found.loss() == pytest.approx(float(F.cross_entropy(logits, y)))


def test_a_snapshot_measures_both_splits_and_all_layers(digits: Dataset) -> None:
    net, task = a_network(digits, precision="float32"), a_task(digits)
    initial = {name: p.detach().clone() for name, p in net.named_parameters()}
    found = measure(Snapshot(net, digits, task, initial), layers="all")
    seen = view(net, digits, digits.train, task.train_labels, task.pixel_order, device="cpu", layers=("last", "layer1"))
    alone = collapse(seen.layers["last"], seen.labels, net.classifier.weight, net.classifier.bias)
    assert found.values[Address("nc1")] == alone["nc1"] and found.values[Address("nc3")] == alone["nc3"]
    first = collapse(seen.layers["layer1"], seen.labels)
    assert found.values[Address("nc1", "train", "layer1")] == first["nc1"]
    assert Address("nc1", "test") in found.values and Address("nc1_test_weak", "test", "layer2") in found.values
    assert Address("nc3", "train", "layer1") not in found.values
    assert found.values[Address("distance_from_init")] == 0
    assert all(np.isfinite(value) for value in found.values.values())
    assert not found.values.keys() & found.undefined.keys()


def test_a_layer_too_large_to_be_kept_is_streamed(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    net, task = a_network(digits, precision="float32", width=20), a_task(digits)
    snapshot = Snapshot(net, digits, task, None)
    kept = measure(snapshot, layers="all")
    monkeypatch.setattr(forward, "MOST_KEPT", 1437 * 20 * 4 - 1)  # of the training split only
    streamed = measure(snapshot, layers="all")
    assert kept.values.keys() == streamed.values.keys() and kept.undefined == streamed.undefined
    for address, value in kept.values.items():
        assert streamed.values[address] == pytest.approx(value, rel=1e-6, abs=1e-9), address
    monkeypatch.setattr(forward, "MOST_KEPT", 1)
    both = measure(snapshot, ("nc1", "ncc_error"), layers="all")
    assert both.values[Address("nc1", "test")] == pytest.approx(kept.values[Address("nc1", "test")], rel=1e-6)
    assert both.undefined[Address("ncc_error", "test", "layer1")] == "the layer is too large"


def test_a_dead_network_is_undefined_not_collapsed(digits: Dataset) -> None:
    net, task = a_network(digits, precision="float32"), a_task(digits)
    with torch.no_grad():
        net.hidden[2].bias.fill_(-1e3)  # type: ignore[operator, union-attr]
    found = measure(Snapshot(net, digits, task, None))
    assert found.undefined[Address("nc1")] == "no between-class scatter"
    assert (
        found.values[Address("dead_units")] == 1.0
        and found.undefined[Address("effective_rank")] == "all features are zero"
    )


def test_validation_is_a_split_of_its_own() -> None:
    data = load(DatasetSpec("digits", validation_fraction=0.2))
    found = measure(Snapshot(a_network(data), data, a_task(data), None))
    assert 0 <= found.values[Address("validation_accuracy")] <= 1
    assert Address("nc1", "validation") in found.values


def test_only_what_is_asked_for_is_measured(digits: Dataset) -> None:
    found = measure(Snapshot(a_network(digits), digits, a_task(digits), None), ("nc1", "weight_norm"))
    assert {a.metric for a in found.values} == {"nc1", "weight_norm"}


def test_the_catalogue_loads_no_torch_and_covers_what_is_measured(digits: Dataset) -> None:
    code = "import sys; from ncpl_cli.metrics.catalogue import METRICS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    net = a_network(digits)
    found = measure(Snapshot(net, digits, a_task(digits), dict(net.named_parameters())))
    measured = {a.metric for a in (*found.values, *found.undefined)}
    assert measured <= METRICS.keys()
    families = {m.id for m in METRICS.values() if m.family in ("collapse", "units", "weights")}
    assert measured >= families
    assert chosen(["default"]) <= METRICS.keys()
    with pytest.raises(InputError, match="Did you mean 'nc1'"):
        check_names(["nc11"])


def test_a_run_stores_what_its_metrics_cost_and_what_they_were_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--train-samples", "200", "--width", "8", "--tasks", "2", "--measure-every", "2"]
    assert call(["train", "permuted-digits", *arguments, "--metrics", "default,churn", "--measure-samples", "150"]) == 0
    with open_store("ncpl.db") as store:
        (row,) = store.runs()
        stored = store.values(row.id, 2)
    assert row.recorded["counts"]["train"]["n"] == 150 and row.recorded["counts"]["test"]["classes"] == 10
    assert row.recorded["samples"] == 150 and stored[Address("rank_between")] <= 9
    cost = row.recorded["cost"]
    assert {"features", "collapse", "units", "churn", "weights"} <= cost.keys()
    # the untrained network, and the ends of both tasks
    assert cost.pop("forgetting")["epochs"] == 2
    assert {of["epochs"] for of in cost.values()} == {3} and all(of["seconds"] > 0 for of in cost.values())
    capsys.readouterr()
    assert call(["runs", "show", row.id]) == 0
    assert "family\tepochs\tseconds an epoch" in capsys.readouterr().out


@pytest.mark.parametrize("until", [["--epochs", "3"], ["--first-task-nc1", "1e6"]], ids=["epochs", "nc1"])
def test_expensive_families_are_due_at_a_tasks_last_epoch_and_on_request_at_every(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], until: list[str]
) -> None:
    """A task that ends by its nc1 is known to have ended only once nc1 is measured: it has them too."""
    monkeypatch.chdir(tmp_path)
    line = ["train", "permuted-digits", "--train-samples", "200", "--width", "8", "--tasks", "2", *until]
    ends = {0, 3, 6} if "--epochs" in until else {0, 1, 2}
    assert call(line) == 0
    names = ("gradient_norm", "preactivation_mean", "spectral_norm")
    with open_store("ncpl.db") as store:
        (row,) = store.runs()
        for epoch in range(max(ends) + 1):
            there = {address.metric for address in store.values(row.id, epoch)}
            assert there >= {"nc3", "srank"} and (there >= {*names}) == (epoch in ends), epoch
            assert epoch in ends or not there & {*names}
        cost = row.recorded["cost"]
        assert cost["weights"]["epochs"] == len(ends) and cost["features"]["epochs"] >= max(ends) + 1
        assert cost["forgetting"]["epochs"] == 2
    assert call([*line, "--metrics", "default,gradient_norm"]) == 0  # replayed for the epochs that lack it
    with open_store("ncpl.db") as store:
        for epoch in range(max(ends) + 1):
            there = {address.metric for address in store.values(row.id, epoch)}
            assert "gradient_norm" in there and ("spectral_norm" in there) == (epoch in ends)
    assert call([*line, "--metrics", "default,gradient_norm"]) == 0
    assert "nothing to train" in capsys.readouterr().err


@pytest.mark.parametrize(("activation", "few"), [("relu", 2000), ("relu", 300), ("tanh", 300)])
def test_a_split_is_seen_alike_in_one_block_and_in_many_in_place_and_not(
    digits: Dataset, activation: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = networks.build("mlp", digits.shape, 10, 3, width=20, depth=3, activation=activation)
    order = np.random.default_rng(0).permutation(digits.pixels)
    assert isinstance(net, networks.MLP)
    monkeypatch.setattr(forward, "FEW_ROWS", few)

    def seen(layers: list[str]) -> forward.View:
        return forward.view(
            net, digits, digits.train, digits.train.labels, order, device="cpu", layers=layers, inside=True
        )  # fmt: skip

    names = net.layer_names
    whole = seen(names)
    alone = [forward.preactivations(net, digits, digits.train, order, "cpu")]
    with monkeypatch.context() as wide:
        wide.setattr(forward, "NARROW", 0)
        alone.append(forward.preactivations(net, digits, digits.train, order, "cpu"))
    monkeypatch.setattr(forward, "WHOLE", 0)
    monkeypatch.setattr(forward, "BLOCK", 100)
    parts, last = seen(names), seen(["last"])
    monkeypatch.setattr(forward, "NARROW", 0)
    with_zeros = seen(names)
    monkeypatch.setattr(forward, "rectified", lambda network, device: False)
    plain = seen(names)
    for found in alone if few > len(digits.train) else ():
        for name in names:
            assert torch.allclose(found[name], plain.inside[name][0], atol=1e-5)
    for other in (parts, with_zeros, plain):
        assert torch.allclose(whole.logits, other.logits, atol=1e-5) and (whole.drawn == other.drawn).all()
        for name in names:
            assert torch.allclose(whole.layers[name], other.layers[name], atol=1e-5)
            for one, another in zip(whole.inside[name], other.inside[name], strict=True):
                assert len(one) == min(few, len(digits.train)) and torch.allclose(one, another, atol=1e-5)
            assert torch.equal(other.few(name)[0], other.inside[name][1])
    assert list(last.layers) == ["last"] and torch.equal(last.layers["last"], parts.layers["last"])
