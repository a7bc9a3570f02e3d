"""Read-outs, few-shot errors and label sets against brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncpl_cli import rng
from ncpl_cli.data import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.measurement import of_features
from ncpl_cli.metrics import collapse
from ncpl_cli.metrics.features import measure_features
from ncpl_cli.metrics.few_shot import directional_cdnv, few_shot, few_shot_bound, few_shot_metrics
from ncpl_cli.metrics.forward import view
from ncpl_cli.metrics.readouts import LAMBDAS, fit_fixed, readouts
from ncpl_cli.metrics.snapshot import Snapshot, measure
from ncpl_cli.networks import MLP
from ncpl_cli.objectives import parse
from ncpl_cli.records import Address
from ncpl_cli.scenarios.task import Task
from tests.test_online_engine import a_network, a_task

Array = np.ndarray[Any, Any]


def sample(seed: int = 0, n: int = 240, d: int = 7, classes: int = 4, spread: float = 1.6) -> tuple[Array, Array]:
    """Unbalanced, sorted, with an offset, features of very different size, one of them constant; labels 3, 6, ..."""
    draw = np.random.default_rng([7, seed])
    y = np.sort(draw.choice(classes, n, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2)))
    means = np.random.default_rng(99).normal(size=(classes, d))
    x = (means[y] + spread * draw.normal(size=(n, d))) * 10.0 ** np.linspace(-2, 2, d) + 50
    x[:, 2] = 5.0
    x = x.astype(np.float32)
    x.flags.writeable = False
    return x, 3 * (y + 1)


def ridge(x: Array, y: Array, t: Array, lambda_: float, scale: Array) -> Array:
    """Scores of `t`, by the augmented least squares problem."""
    z, mean = x.astype(float), x.astype(float).mean(0)
    z, t = (z - mean) / scale, (t - mean) / scale
    one_hot = (y[:, None] == np.unique(y)).astype(float)
    offset = one_hot.mean(0)
    whole = np.vstack([z, np.sqrt(lambda_ * len(x)) * np.eye(x.shape[1])])
    goal = np.vstack([one_hot - offset, np.zeros((x.shape[1], one_hot.shape[1]))])
    scores: Array = t @ np.linalg.lstsq(whole, goal, rcond=None)[0] + offset
    return scores


def accuracy(scores: Array, classes: Array, y: Array, group: dict[int, int] | None = None) -> float:
    right = 0
    for row, label in zip(scores, y.tolist(), strict=True):
        known = [i for i, c in enumerate(classes.tolist()) if group is None or group[c] == group.get(label)]
        right += label in classes and classes[max(known, key=lambda i: (row[i], -i))] == label
    return right / len(y)


def deviations(x: Array) -> Array:
    sd = x.astype(float).std(0)
    return np.where(sd > 1e-6 * sd.max(), sd, 1.0)


@pytest.mark.parametrize("order", [None, 5])
def test_read_outs_equal_brute_force(order: int | None) -> None:
    (x, y), (t, u) = sample(0), sample(1, n=150)
    u = u.copy()
    u[::29] = 1000  # a class that the training samples do not have
    groups = {3: 0, 6: 0, 9: 1, 12: 1}
    coarse = np.array([groups[label] for label in y.tolist()])
    shown = np.arange(len(x)) if order is None else np.random.default_rng(order).permutation(len(x))
    values, undefined = readouts((x, y), (t, u), groups=(y, coarse), orders=(shown, None))
    classes, xs, ts = np.unique(y), x.astype(float), t.astype(float)
    assert not undefined
    means = np.stack([xs[y == c].mean(0) for c in classes])
    nearest = -((ts[:, None] - means) ** 2).sum(2)
    lambda_ = 0.01 * ((xs - xs.mean(0)) ** 2).mean()
    fixed = ridge(xs, y, ts, lambda_, np.ones(7))
    held = rng.stream(0, "held-out fifth").permutation(len(x)) < len(x) // 5
    inside, outside = np.sort(shown[~held]), np.sort(shown[held])
    right = [
        accuracy(ridge(xs[inside], y[inside], xs[outside], one, deviations(xs[inside])), classes, y[outside])
        for one in LAMBDAS
    ]
    best = max(i for i, share in enumerate(right) if share == max(right))
    tuned = ridge(xs, y, ts, LAMBDAS[best], deviations(xs))
    assert values["readout_lambda"] == LAMBDAS[best]
    assert values["readout_lambda_edge"] == float(best in (0, len(LAMBDAS) - 1))
    for kind, scores in (("ncc", nearest), ("fixed", fixed), ("tuned", tuned)):
        assert values[f"readout_{kind}"] == pytest.approx(accuracy(scores, classes, u)), kind
        assert values[f"readout_{kind}_within"] == pytest.approx(accuracy(scores, classes, u, groups)), kind
        assert values[f"readout_{kind}_within"] >= values[f"readout_{kind}"]
    assert values["readout_tuned"] > values["readout_ncc"] + 0.05  # features of different size: scale matters


def test_a_fresh_read_out_is_fitted_on_the_fresh_samples() -> None:
    (x, y), (t, u), (f, v) = sample(0), sample(1), sample(2, n=90)
    values, _ = readouts((x, y), (t, u), fresh=(f, v))
    alone, _ = readouts((f, v), (t, u))
    assert {f"{name}_fresh": value for name, value in alone.items()} == {
        name: value for name, value in values.items() if name.endswith("_fresh")
    }
    assert {k: v for k, v in values.items() if not k.endswith("_fresh")} == readouts((x, y), (t, u))[0]


@pytest.mark.parametrize("samples", [5, 19, 20, 21, 40])
def test_fixed_ridge_is_the_same_from_samples_and_from_dimensions(samples: int) -> None:
    draw = np.random.default_rng(samples)
    x, y, t = draw.normal(size=(samples, 20)), draw.integers(0, 3, samples), draw.normal(size=(30, 20))
    y[:3] = 0, 1, 2
    fitted = fit_fixed(x, y, np.arange(3))
    lambda_ = 0.01 * ((x - x.mean(0)) ** 2).mean()
    assert fitted.lambda_ == pytest.approx(lambda_)
    assert np.allclose(fitted.scores(t), ridge(x, y, t, lambda_, np.ones(20)), rtol=0, atol=1e-10)


def test_the_order_of_samples_does_not_matter_to_read_outs() -> None:
    (x, y), (t, u) = sample(0), sample(1)
    draw = np.random.default_rng(0)
    first = readouts((x, y), (t, u), fresh=(x[::2], y[::2]))
    for _ in range(3):
        a, b = draw.permutation(len(x)), draw.permutation(len(t))
        half = draw.permutation(np.arange(0, len(x), 2))
        again = readouts((x[a], y[a]), (t[b], u[b]), fresh=(x[half], y[half]))
        assert again[0] == pytest.approx(first[0]) and again[1] == first[1]


def test_read_outs_that_cannot_be_had_say_why() -> None:
    (x, y), (t, u) = sample(0), sample(1)
    nan = x.copy()
    nan[3, 3] = np.nan
    for own, why in (((nan, y), "not finite"), ((x, y * 0), "two classes"), ((x[:8], y[:8] + np.arange(8)), "fewer")):
        values, undefined = readouts(own, (t, u))
        assert why in undefined["readout_tuned"] and "readout_lambda" in undefined
        assert ("readout_ncc" in values) == (why == "fewer")
    assert readouts((x * 0, y), (t * 0, u))[0]["readout_fixed"] == pytest.approx(float((u == 12).mean()))
    with pytest.raises(InputError, match="2 groups"):
        readouts((x, y), (t, u), groups=(y, np.arange(len(y)) % 2))
    with pytest.raises(InputError, match="dimensions"):
        readouts((x, y), (t[:, 1:], u))


@pytest.mark.parametrize(("classes", "k"), [(3, 1), (7, 1), (7, 5)])
def test_few_shot_errors_equal_brute_force(classes: int, k: int) -> None:
    x, y = sample(0, n=60 * classes, classes=classes)
    order = np.random.default_rng(1).permutation(len(x))
    found = few_shot(x, y, k, order=order, episodes=12)
    assert not isinstance(found, str) and found.ways == min(5, classes)
    errors: dict[str, list[float]] = {"": [], "ridge_": []}
    for episode in range(12):
        draw = rng.stream(0, "few shot", k, episode)
        members = [[i for i in order.tolist() if y[i] == c] for c in np.unique(y)]
        if classes > 5:
            members = [members[i] for i in draw.choice(classes, 5, replace=False)]
        drawn = [draw.permutation(np.array(rows))[: k + 100] for rows in members]
        s, own = x[[i for rows in drawn for i in rows[:k]]].astype(float), np.repeat(np.arange(len(drawn)), k)
        means = np.stack([s[own == c].mean(0) for c in range(len(drawn))])
        lambda_ = 0.01 * ((s - s.mean(0)) ** 2).mean()
        wrong: dict[str, list[float]] = {"": [], "ridge_": []}
        for c, rows in enumerate(drawn):
            t = x[rows[k:]].astype(float)
            near = ((t[:, None] - means) ** 2).sum(2).argmin(1)
            wrong[""].append(float((near != c).mean()))
            wrong["ridge_"].append(float((ridge(s, own, t, lambda_, np.ones(7)).argmax(1) != c).mean()))
        for rule, own_errors in wrong.items():
            errors[rule].append(float(np.mean(own_errors)))
    for rule, expected in errors.items():
        assert found.errors[rule] == pytest.approx(np.mean(expected), abs=1e-12)
        assert found.standard_errors[rule] == pytest.approx(np.std(expected, ddof=1) / np.sqrt(12), abs=1e-12)


def test_few_shot_metrics_name_ways_errors_and_the_bound() -> None:
    x, y = sample(0, n=420, classes=6)
    cdnv = collapse(x, y)["cdnv"]
    values, undefined = few_shot_metrics(x, y, cdnv)
    assert not undefined and values["few_shot_ways"] == 5
    assert values["few_shot_bound_5"] == pytest.approx(16 * 4 * 1.4 * cdnv) == few_shot_bound(5, 5, cdnv)
    assert 0 < values["few_shot_error_5_se"] < 0.05 and 0 < values["few_shot_ridge_error_1"] < 0.8
    without, why = few_shot_metrics(x, y)
    assert why["few_shot_bound_1"] == "cdnv is undefined" and without["few_shot_error"] == values["few_shot_error"]


def test_directional_cdnv_equals_its_definition() -> None:
    x, y = sample(0)
    xs, total, pairs = x.astype(float), 0.0, 0
    for c in np.unique(y):
        for other in np.unique(y):
            if c != other:
                apart = xs[y == c].mean(0) - xs[y == other].mean(0)
                unit = apart / np.linalg.norm(apart)
                total += unit @ np.cov(xs[y == c].T, bias=True) @ unit / (apart @ apart)
                pairs += 1
    assert directional_cdnv(x, y) == pytest.approx(total / pairs, rel=1e-9)
    assert directional_cdnv(x, y * 0) is None and directional_cdnv(x * 0, y) is None
    assert directional_cdnv(x * 1e3, y) == pytest.approx(total / pairs, rel=1e-4)


# of runs -----------------------------------------------------------------------------------------------------


def a_coarse_task(data: Dataset) -> Task:
    """Digits below 5 against the others, a few of them trained on, the rest fresh; the fine labels kept."""
    rows = np.random.default_rng(0).permutation(len(data.train))
    seen, rest = data.train.take(np.sort(rows[:600])), data.train.take(np.sort(rows[600:1000]))
    parts = {"train": replace(seen, labels=seen.labels // 5), "fresh": replace(rest, labels=rest.labels // 5)}
    return replace(
        a_task(data), train_labels=data.train.labels // 5, test_labels=data.test.labels // 5, outputs=2, parts=parts,
        label_sets={"fine": {"train": seen.labels, "fresh": rest.labels, "test": data.test.labels}},
    )  # fmt: skip


@pytest.mark.parametrize("samples", [None, 200])
def test_further_labels_are_splits_of_their_own_from_one_forward_pass(
    digits: Dataset, samples: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = a_coarse_task(digits)
    net = replace_head(a_network(digits, 3, width=20, depth=2), 2)
    initial = {name: p.detach().clone() for name, p in net.named_parameters()}
    passes: list[int] = []
    whole = MLP.classify_from
    monkeypatch.setattr(MLP, "classify_from", lambda self, z: (passes.append(len(z)), whole(self, z))[1])
    found = measure(Snapshot(net, digits, task, initial, samples=samples), ("default", "readout_ncc_within"), "all")
    monkeypatch.undo()
    measured = task.measured(digits)
    assert sum(passes) <= sum(min(len(one.split), samples or 10**6) for one in measured.values()) + 4000
    seen = {
        name: view(net, digits, one.split, one.labels, task.pixel_order, device="cpu", samples=samples)
        for name, one in measured.items()
    }
    fine = {"train": seen["train"].split, "test": seen["test"].split, "fresh": seen["fresh"].split}
    labels = {of: _labels(task, digits, of, samples) for of in fine}
    features = {of: seen[of].layers["last"].numpy() for of in fine}
    expected, _ = readouts(
        (features["train"], labels["train"]), (features["test"], labels["test"]),
        fresh=(features["fresh"], labels["fresh"]), groups=(labels["train"], seen["train"].labels),
        orders=(fine["train"].mixed, fine["fresh"].mixed), kinds=("ncc",),
    )  # fmt: skip
    ours = {a.metric: v for a, v in found.values.items() if (a.split, a.layer) == ("fine_test", "last")}
    assert ours["readout_ncc_within"] == expected["readout_ncc_within"]
    fresh = measure(Snapshot(net, digits, task, initial, samples=samples), ("readout_ncc_fresh", "readout_ncc"))
    assert fresh.values[Address("readout_ncc_fresh", "fine_test")] == expected["readout_ncc_fresh"]
    own_labels = [seen[of].labels for of in ("train", "test")]
    own, _ = readouts((features["train"], own_labels[0]), (features["test"], own_labels[1]), kinds=("ncc",))
    assert fresh.values[Address("readout_ncc", "test")] == own["readout_ncc"]
    of_test = collapse(features["test"], labels["test"], metrics=("nc1",))
    assert ours["nc1"] == pytest.approx(of_test["nc1"], rel=1e-6)
    assert found.undefined[Address("nc4", "fine_test")] == "the classifier knows other classes"
    assert found.values[Address("nc1", "train")] == pytest.approx(
        collapse(features["train"], seen["train"].labels, metrics=("nc1",))["nc1"], rel=1e-6
    )
    # pixels are a layer of the untrained network
    pixels = [one.split.images.reshape(len(one.split), -1) / digits.scale for one in (seen["train"], seen["test"])]
    own, _ = readouts((pixels[0], labels["train"]), (pixels[1], labels["test"]), kinds=("ncc",))
    assert fresh.values[Address("readout_ncc", "fine_test", "input")] == own["readout_ncc"]
    moved = {name: p + 1 for name, p in initial.items()}
    later = measure(Snapshot(net, digits, task, moved, samples=samples), ("readout_ncc",))
    assert {a.layer for a in later.values} == {"last"}


def _labels(task: Task, data: Dataset, of: str, samples: int | None) -> Array:
    labels, split = task.label_sets["fine"][of], task.measured(data)[of].split
    return labels if samples is None or samples >= len(split) else labels[split.draw(samples)]


def replace_head(net: MLP, outputs: int) -> MLP:
    from torch import nn

    head = nn.Linear(net.classifier.in_features, outputs).double()
    net.classifier = head
    return net


def test_few_shot_errors_stand_at_classes_never_trained_on_and_beside_them_at_the_others(digits: Dataset) -> None:
    kept, out = np.flatnonzero(digits.test.labels < 6), np.flatnonzero(digits.test.labels >= 6)
    parts = {"test": digits.test.take(kept), "unseen": digits.test.take(out)}
    task = replace(a_task(digits), parts=parts)
    net = a_network(digits, 3, width=20, depth=1)
    initial = {name: p.detach().clone() for name, p in net.named_parameters()}
    found = measure(Snapshot(net, digits, task, initial), ("default", "cdnv_directional"))
    ways = {a.split: v for a, v in found.values.items() if a.metric == "few_shot_ways" and a.layer == "last"}
    assert ways == {"unseen": 4.0, "test": 5.0}
    assert Address("few_shot_ridge_error_5", "unseen", "input") in found.values
    assert {a.split for a in found.values if a.metric == "cdnv_directional"} == {"train", "test", "unseen"}
    regression = replace(
        task, objective=parse("mse"), targets={"train": np.zeros((1437, 1)), "trained": np.zeros((1437, 1))}, outputs=1
    )
    none = measure(Snapshot(replace_head(net, 1), digits, regression, None), ("few_shot_error", "readout_ncc"))
    assert not none.values and {*none.undefined.values()} == {"regression"}


def test_anybodys_features_have_read_outs_of_fine_labels_and_few_shot_errors_of_unseen_classes(tmp_path: Path) -> None:
    (x, y), (t, u), (f, v) = sample(0), sample(1), sample(2, n=600, classes=6)
    groups = {3: 0, 6: 0, 9: 1, 12: 1}
    coarse = [np.array([groups[label] for label in of.tolist()]) for of in (y, u)]
    np.savez(
        tmp_path / "f.npz", features=x, labels=coarse[0], test_features=t, test_labels=coarse[1], fine_labels=y,
        test_fine_labels=u, unseen_features=f, unseen_labels=v,
    )  # fmt: skip
    found = of_features(
        [tmp_path / "f.npz"], ("default", "readout_fixed", "readout_fixed_within", "cdnv_directional")
    ).found
    expected, _ = readouts((x, y), (t, u), groups=(y, coarse[0]), kinds=("fixed",))
    for name in ("readout_fixed", "readout_fixed_within"):
        assert found.values[Address(name, "fine_test")] == expected[name]
    assert found.values[Address("readout_fixed", "test")] >= expected["readout_fixed"]
    assert found.values[Address("few_shot_error_5", "unseen")] == few_shot(f, v, 5).errors[""]  # type: ignore[union-attr]
    assert found.values[Address("few_shot_bound_1", "unseen")] == few_shot_bound(1, 5, collapse(f, v)["cdnv"])
    assert found.values[Address("cdnv_directional", "unseen")] == directional_cdnv(f, v)
    with pytest.raises(InputError, match="belong together"):
        measure_features(x, y, test_features=t, test_labels=u, fine_labels=y, metrics=("readout_ncc",))
    with pytest.raises(InputError, match="belong together"):
        measure_features(x, y, unseen_features=f)
