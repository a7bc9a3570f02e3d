"""Many classes: the path of blocks and products against the loop, against definitions, and what it asks of memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.metrics import CollapseAccumulator, collapse, geometry, moments, neural_collapse, second_read
from ncpl_cli.metrics.features import measure_features
from ncpl_cli.metrics.neural_collapse import CLASSIFIER_METRICS, FEATURE_METRICS, CollapseResult, means_of
from tests.test_collapse import textbook

Array = np.ndarray[Any, Any]
Given = tuple[Array, Array, Array, Array]


def many(n: int, d: int, k: int, *, spread: float = 0.7, offset: float = 0.0, seed: int = 0) -> Given:
    """k classes of very different size in order of class, the first ones absent, features in float32."""
    draw = np.random.default_rng(seed)
    y = np.sort(np.concatenate([np.arange(3, k), (k * draw.random(n - k + 3) ** 2).astype(int)]))
    y = np.maximum(y, 3)
    x = draw.normal(size=(k, d))[y] + spread * draw.normal(size=(n, d)) + offset
    return x.astype(np.float32), y, draw.normal(size=(k, d)), draw.normal(size=k)


def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop over samples, differences of all pairs, sums by blocks."""
    monkeypatch.setattr(second_read, "MANY", 1 << 40)
    monkeypatch.setattr(geometry, "DIRECT", 1 << 60)


def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of products, few rows at a time, sums by columns."""
    monkeypatch.setattr(second_read, "MANY", 0)
    monkeypatch.setattr(second_read, "ENTRIES", 6000)
    monkeypatch.setattr(geometry, "DIRECT", 0)
    monkeypatch.setattr(geometry, "ROWS", 17)
    monkeypatch.setattr(moments, "MOST_PARTS", 0)


def agree(one: CollapseResult, other: CollapseResult, rel: float = 1e-10) -> None:
    assert one.undefined == other.undefined and one.context == pytest.approx(other.context, rel=1e-9)
    for name, value in one.values.items():
        assert other[name] == pytest.approx(value, rel=rel, abs=1e-13, nan_ok=True), name


SHAPES = {"fewer dimensions": (3000, 8, 150), "more dimensions": (900, 200, 60), "two": (300, 5, 5),
          "one sample a class": (203, 30, 206), "fewer samples than features": (40, 90, 20)}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("spread", "offset"), [(0.7, 0.0), (1e-3, 100.0), (2.0, 1e4)])
def test_both_paths_give_the_same_numbers(
    shape: str, spread: float, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, w, b = many(*SHAPES[shape], spread=spread, offset=offset)
    train = means_of(x, y, len(w))
    t = x[::-3] + np.float32(0.01)
    with monkeypatch.context() as patch:
        direct(patch)
        loop, tested = collapse(x, y, w, b), collapse(t, y[::-3], w, b, train_means=train)
    with monkeypatch.context() as patch:
        products(patch)
        blocks, again = collapse(x, y, w, b, threads=2), collapse(t, y[::-3], w, b, train_means=train)
    agree(loop, blocks)
    agree(tested, again)


@pytest.mark.parametrize(("n", "d", "k"), [(700, 6, 130), (400, 120, 100)])
def test_hundreds_of_classes_are_what_the_textbook_says(n: int, d: int, k: int) -> None:
    x, y, w, b = many(n, d, k)
    present = np.unique(y)
    theirs = textbook(x, y, w[present], b[present])
    ours = collapse(x, y, w, b)
    wide = x.astype(np.float64)
    mu = np.stack([wide[y == c].mean(0) for c in present])
    nearest = present[((wide[:, None] - mu[None]) ** 2).sum(2).argmin(1)]
    theirs |= {
        "nc4": float(np.mean(nearest == (wide @ w.T + b).argmax(1))),
        "bias_collapse": float(np.linalg.norm(w @ wide.mean(0) + b)),
    }
    assert {*theirs} == {*FEATURE_METRICS, *CLASSIFIER_METRICS}
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-8, abs=1e-11), name


@pytest.mark.parametrize("seed", range(6))
def test_small_gaps_do_not_cancel(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes in pairs some 1e-5 apart: what follows from squares has no digits left of their distance."""
    draw = np.random.default_rng(seed)
    k, d = 120, 40
    means = np.repeat(draw.normal(size=(k // 2, d)), 2, axis=0) + 1e-5 * draw.normal(size=(k, d))
    y = np.repeat(np.arange(k), 6)
    x = means[y] + 1e-6 * draw.normal(size=(len(y), d))
    products(monkeypatch)
    ours = collapse(x, y, metrics=("cdnv", "gnc2", "ncc_error"))
    mu = x.reshape(k, 6, d).mean(1)
    v = ((x.reshape(k, 6, d) - mu[:, None]) ** 2).sum(2).mean(1)
    gaps = ((mu[:, None] - mu[None]) ** 2).sum(2)
    apart = ~np.eye(k, dtype=bool)
    assert ours["cdnv"] == pytest.approx(float(((v[:, None] + v[None])[apart] / (2 * gaps[apart])).mean()), rel=1e-9)
    unit = mu - x.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distances = np.sqrt(((unit[:, None] - unit[None]) ** 2).sum(2))[apart]
    assert ours["gnc2"] == pytest.approx(float(-np.log(distances).mean()), rel=1e-9)
    nearest = np.concatenate([((part[:, None] - mu[None]) ** 2).sum(2).argmin(1) for part in np.array_split(x, 9)])
    assert ours["ncc_error"] == float(np.mean(nearest != y))


def argmax(x: Array, y: Array, w: Array, b: Array | None) -> float:
    """nc4, word for word: the first class among equal logits of x W^T + b, the first among equally near means."""
    present = np.unique(y)
    mu = np.stack([x[y == c].mean(0) for c in present])
    near = present[((x[:, None] - mu[None]) ** 2).sum(2).argmin(1)]
    logits = x @ w.T + (0 if b is None else b)
    return float(np.mean(near == logits.argmax(1)))


@pytest.mark.parametrize("path", [direct, products])
@pytest.mark.parametrize("kind", ["dead samples", "twin rows", "zero classifier", "integers"])
def test_nc4_takes_the_first_of_tied_logits(path: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path(monkeypatch)
    for seed in range(12):
        draw = np.random.default_rng(seed)
        # integers: eight samples of each class, so that means and distances are exact, and their ties too
        y = np.concatenate([np.arange(7), np.arange(49) % 7 if kind == "integers" else draw.integers(0, 7, 49)])
        x, w = np.maximum(draw.normal(size=(56, 5)) - 1, 0), draw.normal(size=(7, 5))
        bias: Array | None = np.zeros(7)
        if kind == "twin rows":
            w, bias = w[[1, 1, 2, 2, 1, 5, 5]], np.array([1.0, 1, 0, 0, 1, 2, 2])
        if kind == "zero classifier":
            w = np.zeros_like(w)
        if kind == "integers":
            x, w, bias = draw.integers(0, 3, x.shape) * 1.0, draw.integers(-1, 2, w.shape) * 1.0, None
        assert collapse(x, y, w, bias, metrics=("nc4",))["nc4"] == argmax(x, y, w, bias), seed
        stream = CollapseAccumulator(7).update(x, y)
        for part in np.array_split(np.arange(56), 5):
            stream.revisit(x[part], y[part], w, bias)
        assert stream.compute(w, bias)["nc4"] == argmax(x, y, w, bias), seed


def low_rank(seed: int, kind: str) -> tuple[Array, Array, Array]:
    """Features in float32 that lie in a few directions, and what they are without the rounding."""
    draw = np.random.default_rng(seed)
    y = np.repeat(np.arange(6), 200)
    inner = (draw.normal(size=(6, 24)))[y] + draw.normal(size=(1200, 24)) * np.exp(2 * draw.normal(size=24))
    if kind == "a linear map":
        return y, inner, (inner @ draw.normal(size=(24, 60))).astype(np.float32)
    if kind == "duplicated":
        return y, inner, np.concatenate([inner, inner[:, ::-1], inner[:, :12]], axis=1).astype(np.float32)
    return y, inner, (inner @ draw.normal(size=(24, 60)) / 8 + 3).astype(np.float32)


@pytest.mark.parametrize("kind", ["a linear map", "duplicated", "an offset"])
@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_vci_of_a_stream_in_float32(kind: str, batch: int) -> None:
    """It is unchanged by linear maps, so the right value is that of the few directions themselves, in float64."""
    for seed in range(3):
        y, inner, x = low_rank(seed, kind)
        order = np.random.default_rng(seed).permutation(len(y))
        stream = CollapseAccumulator(6, metrics=("vci",))
        for start in range(0, len(y), batch):
            rows = order[start : start + batch]
            stream.update(x[rows], y[rows])
        mu = np.stack([inner[y == c].mean(0) for c in range(6)])
        z, m = inner - mu[y], mu - inner.mean(0)
        within, between = z.T @ z / len(y), m.T @ m / 6
        right = 1 - float(np.trace(np.linalg.solve(within + between, between))) / 5
        assert stream.compute()["vci"] == pytest.approx(right, rel=1e-5)
        assert collapse(x, y, metrics=("vci",))["vci"] == pytest.approx(right, rel=1e-5)


def test_a_stream_of_many_classes_is_the_whole() -> None:
    x, y, w, b = many(2500, 30, 400)
    stream = CollapseAccumulator(400)
    for start in range(0, 2500, 333):
        stream.update(x[start : start + 333], y[start : start + 333])
    for start in range(0, 2500, 250):
        stream.revisit(x[start : start + 250], y[start : start + 250], w, b)
    agree(collapse(x, y, w, b, classes=400), stream.compute(w, b), rel=1e-9)


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No matrix of d x d, no pairs of classes, no products with all classes for what needs none of them."""
    x, y, w, b = many(500, 20, 120)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("not asked for")

    whole = collapse(x, y, w, b)
    for module, name in ((moments, "second_moment"), (geometry, "_go_through"), (second_read, "_Bound")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(neural_collapse, "pairs", never)
    monkeypatch.setattr(second_read, "MANY", 1 << 40)
    for names in (("nc1",), ("nc2", "nc3", "nc1_ratio"), ("equinorm_means", "self_duality", "nc2_means")):
        found = collapse(x, y, w, b, metrics=names)
        assert found.values == pytest.approx({name: whole[name] for name in names}, rel=1e-10)
        stream = CollapseAccumulator(120, names).update(x, y).compute(w, b)
        assert stream.values == pytest.approx(found.values, rel=1e-9)
    monkeypatch.setattr(moments, "add_square", never)
    CollapseAccumulator(120, ("nc1_ratio", "nc2")).update(x, y).compute(w, b)


def test_nothing_of_classes_by_classes_by_dimensions_is_made() -> None:
    k, d = 1500, 40
    x, y, w, b = many(4500, d, k)
    collapse(x[:500], y[:500], w, b)  # what is compiled stays
    tracemalloc.start()
    collapse(x, y, w, b)
    measure_features(x, y, w, b, metrics=("nc1", "nc4", "gnc2", "cdnv", "equiangular_means"))
    stream = CollapseAccumulator(k)
    stream.update(x, y).revisit(x, y, w, b).compute(w, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * 8 * (k * d * 8 + 512 * k)  # K x K x d would be 720 MB, K x K 18 MB


def test_a_sum_over_pairs_is_what_it_says() -> None:
    draw = np.random.default_rng(0)
    points, v = draw.normal(size=(90, 7)), draw.random(90)
    found = geometry.pairs(points, v, ("equiangular", "uniformity", "variability"))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    each = [(i, j) for i in range(90) for j in range(90) if i != j]
    assert found.equiangular == pytest.approx(np.mean([abs(unit[i] @ unit[j] + 1 / 89) for i, j in each]), rel=1e-12)
    expected = np.mean([-np.log(np.linalg.norm(unit[i] - unit[j])) for i, j in each])
    assert found.uniformity == pytest.approx(expected, rel=1e-12)
    gaps = [(v[i] + v[j]) / (2 * ((points[i] - points[j]) ** 2).sum()) for i, j in each]
    assert found.variability == pytest.approx(np.mean(gaps), rel=1e-12)
    twice = geometry.pairs(points[[0, 1, 1]], v[:3], ("uniformity", "variability"))
    assert twice.same_way and twice.coincide and np.isnan(twice.uniformity) and np.isnan(twice.variability)


@pytest.mark.parametrize(("k", "d"), [(5, 12), (60, 4), (200, 60), (200, 110)])
def test_the_distance_from_a_simplex_in_blocks(k: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(k, d)), draw.normal(size=(k, d))
    monkeypatch.setattr(geometry, "ROWS", 64)
    for one, other in ((a, a), (a, b), (a, a + 0.1 * b)):
        product = one @ other.T
        right = np.linalg.norm(product / np.linalg.norm(product) - (np.eye(k) - 1 / k) / np.sqrt(k - 1))
        assert geometry.simplex_distance(one, other) == pytest.approx(right, rel=1e-12)
    assert np.isnan(geometry.simplex_distance(0 * a, a))


def test_the_number_of_threads_changes_no_number() -> None:
    x, y, w, b = many(3000, 40, 200)
    before = torch.get_num_threads()
    one, two = (collapse(x, y, w, b, threads=threads) for threads in (1, 2))
    assert one.values == two.values and torch.get_num_threads() == before
