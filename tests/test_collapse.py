"""Collapse metrics against closed forms, a literal float64 textbook, long doubles, and the faults of other codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncpl_cli.errors import InputError
from ncpl_cli.metrics import collapse, moments
from ncpl_cli.metrics.neural_collapse import CLASSIFIER_METRICS, FEATURE_METRICS, means_of

Array = np.ndarray[Any, Any]


def textbook(x: Array, y: Array, w: Array, b: Array) -> dict[str, float]:
    """The definitions, word for word, with d x d matrices, pseudo-inverses and loops, in float64."""
    x, y = x.astype(np.float64), np.unique(y, return_inverse=True)[1]
    k, n = y.max() + 1, len(x)
    mu = np.stack([x[y == c].mean(0) for c in range(k)])
    centre = x.mean(0)
    within = sum(np.outer(h - mu[c], h - mu[c]) for h, c in zip(x, y, strict=True)) / n
    m = (mu - centre).T  # d x K
    between = m @ m.T / k
    ideal = (np.eye(k) - np.ones((k, k)) / k) / np.sqrt(k - 1)
    u = m / np.linalg.norm(m, axis=0)
    rows = w / np.linalg.norm(w, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(k) for j in range(k) if i != j]
    v = [((x[y == c] - mu[c]) ** 2).sum(1).mean() for c in range(k)]
    distances = ((x[:, None] - mu[None]) ** 2).sum(2)
    rank = np.linalg.matrix_rank(between, tol=1e-9 * np.trace(between))

    def distance(a: Array) -> float:
        return float(np.linalg.norm(a / np.linalg.norm(a) - ideal))

    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-9)) / k,
        "nc1_ratio": np.trace(within) / np.trace(between),
        "nc1_fraction": np.trace(within) / np.trace(within + between),
        "vci": 1 - np.trace(np.linalg.pinv(within + between, rcond=1e-12) @ between) / rank,
        "cdnv": np.mean([(v[i] + v[j]) / (2 * ((mu[i] - mu[j]) ** 2).sum()) for i, j in pairs]),
        "nc2": distance(w @ w.T),
        "nc3": distance(w @ m),
        "nc4": float(np.mean(distances.argmin(1) == (x @ w.T + b).argmax(1))),
        "nc2_means": distance(m.T @ m),
        "equinorm_means": np.linalg.norm(m, axis=0).std(ddof=1) / np.linalg.norm(m, axis=0).mean(),
        "equinorm_weights": np.linalg.norm(w, axis=1).std(ddof=1) / np.linalg.norm(w, axis=1).mean(),
        "equiangular_means": np.mean([abs(u[:, i] @ u[:, j] + 1 / (k - 1)) for i, j in pairs]),
        "equiangular_weights": np.mean([abs(rows[i] @ rows[j] + 1 / (k - 1)) for i, j in pairs]),
        "self_duality": np.linalg.norm(w.T / np.linalg.norm(w) - m / np.linalg.norm(m)),
        "gnc2": np.mean([np.log(1 / np.linalg.norm(u[:, i] - u[:, j])) for i, j in pairs]),
        "bias_collapse": np.linalg.norm(w @ centre + b),
        "ncc_error": float(np.mean(distances.argmin(1) != y)),
    }


def sample(
    n: int = 300, d: int = 12, k: int = 5, seed: int = 0, spread: float = 0.7
) -> tuple[Array, Array, Array, Array]:
    draw = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), draw.integers(0, k, n - k)])
    x = draw.normal(size=(k, d))[y] + spread * draw.normal(size=(n, d))
    return x, y, draw.normal(size=(k, d)), draw.normal(size=k)


@pytest.mark.parametrize(("d", "k"), [(12, 5), (3, 5), (30, 2), (12, 10)])
def test_every_metric_equals_the_textbook(d: int, k: int) -> None:
    x, y, w, b = sample(d=d, k=k)
    ours, theirs = collapse(x, y, w, b), textbook(x, y, w, b)
    assert set(theirs) == {*FEATURE_METRICS, *CLASSIFIER_METRICS}
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name


def test_an_absent_class_is_left_out_of_k() -> None:
    x, y, w, b = sample(k=5)
    kept = y != 2
    ours = collapse(x[kept], y[kept], w, b, classes=5)
    theirs = textbook(x[kept], y[kept], w[[0, 1, 3, 4]], b[[0, 1, 3, 4]])
    for name in set(theirs) - {"nc4", "bias_collapse"}:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-11), name
    assert ours.context["classes"] == 4
    # nc4's predictions use all rows and the bias
    means = np.stack([x[y == c].mean(0) for c in (0, 1, 3, 4)])
    nearest = np.array([0, 1, 3, 4])[((x[kept][:, None] - means[None]) ** 2).sum(2).argmin(1)]
    assert ours["nc4"] == np.mean(nearest == (x[kept] @ w.T + b).argmax(1))


def test_an_exact_simplex_is_fully_collapsed() -> None:
    k, d = 6, 9
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0][:, :k]
    etf = np.sqrt(k / (k - 1)) * rotation @ (np.eye(k) - 1 / k)  # d x K
    y = np.repeat(np.arange(k), 7)
    found = collapse(etf.T[y] + 3.0, y, etf.T, -3.0 * etf.sum(0))
    for name in (
        "nc1",
        "nc2",
        "nc3",
        "nc2_means",
        "equinorm_means",
        "equiangular_means",
        "self_duality",
        "cdnv",
        "vci",
    ):
        assert found[name] == pytest.approx(0, abs=1e-7), name
    assert found["nc4"] == 1 and found["ncc_error"] == 0
    assert found["gnc2"] == pytest.approx(-0.5 * np.log(2 * k / (k - 1)))


def test_isotropic_scatter_has_its_closed_form() -> None:
    """Means s e_c in R^K, noise +-t along each axis: Sigma_W = t^2/K I, non-zero eigenvalues of Sigma_B are s^2/K."""
    k, s, t = 4, 3.0, 0.5
    y = np.repeat(np.arange(k), 2 * k)
    noise = np.tile(np.concatenate([np.eye(k), -np.eye(k)]), (k, 1)) * t
    found = collapse(s * np.eye(k)[y] + noise, y)
    assert found["nc1"] == pytest.approx((k - 1) * (t**2 / k) / (s**2 / k) / k)
    assert found["cdnv"] == pytest.approx(2 * t**2 / (2 * 2 * s**2))
    assert found["vci"] == pytest.approx(1 - s**2 / (s**2 + t**2))


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
@pytest.mark.parametrize("offset", [0.0, 100.0, 2.0**14])
def test_deep_collapse_in_float32_is_right(scale: float, offset: float) -> None:
    """Against long doubles on the input as rounded; noise in whole units of the last place."""
    draw = np.random.default_rng(1)
    n, d, k = 4000, 40, 10
    y = draw.integers(0, k, n)
    means = (3 * draw.normal(size=(k, d)) + offset).astype(np.float32)
    unit = np.maximum(np.spacing(np.abs(means)).max(), scale)
    x = (means[y] + np.round(2 * draw.normal(size=(n, d))) * unit).astype(np.float32)
    wide = x.astype(np.longdouble)
    mu = np.stack([wide[y == c].mean(0) for c in range(k)])
    centred = mu - wide.mean(0)
    z = wide - mu[y]
    _, s, v = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    truth = (
        sum(
            float((z @ v[j].astype(np.longdouble)) @ (z @ v[j].astype(np.longdouble))) / s[j] ** 2 for j in range(k - 1)
        )
        / n
    )
    assert collapse(x, y)["nc1"] == pytest.approx(truth, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50), factor=st.floats(0.1, 10))
def test_what_must_not_matter_does_not(seed: int, shift: float, factor: float) -> None:
    x, y, w, b = sample(n=80, d=7, k=4, seed=seed)
    draw = np.random.default_rng(seed + 1)
    plain = collapse(x, y, w, b)
    order = draw.permutation(len(x))
    rotation = np.linalg.qr(draw.normal(size=(7, 7)))[0]
    others = {
        "order": collapse(x[order], y[order], w, b),
        "rotation": collapse(x @ rotation, y, w @ rotation, b),
        "offset": collapse(x + shift, y, w, b - shift * w.sum(1)),
        "scale": collapse(factor * x, y, w, factor * b),
    }
    for change, found in others.items():
        for name, value in plain.values.items():
            if not (change == "scale" and name == "bias_collapse"):
                assert found[name] == pytest.approx(value, rel=1e-7, abs=1e-9), (change, name)
    linear = collapse(x @ draw.normal(size=(7, 7)) + 0.0, y)
    assert linear["vci"] == pytest.approx(plain["vci"], abs=1e-6)


def test_undefined_is_not_zero() -> None:
    x, y, w, b = sample()
    dead = collapse(np.zeros_like(x), y, w, b)
    assert np.isnan(dead["nc1"]) and dead.undefined["nc1"] == "no between-class scatter"
    constant = collapse(np.full_like(x, 7.3).astype(np.float32), y)
    assert np.isnan(constant["nc1"]) and np.isnan(constant["cdnv"])
    alone = collapse(x, np.zeros_like(y))
    assert np.isnan(alone["nc1"]) and alone.undefined["nc1"] == "fewer than two classes"
    broken = x.copy()
    broken[3, 4] = np.inf
    assert collapse(broken, y, w, b).undefined["nc3"] == "features are not finite"
    for result in (dead, constant, alone):
        assert all(np.isnan(result[name]) for name in result.undefined)
        assert all(np.isfinite(result[name]) or name in result.undefined for name in result.values)


def test_dead_duplicated_and_few_features_only_lower_the_rank() -> None:
    x, y, _, _ = sample(d=6, k=8, n=400)
    plain = collapse(x, y)
    assert plain.context["rank_between"] == 6
    padded = np.concatenate([x, np.zeros((len(x), 3)), x[:, :2]], axis=1).astype(np.float32)
    found = collapse(padded, y)
    assert found.context["rank_between"] == 6 and np.isfinite(found["nc1"])
    assert found["nc1"] == pytest.approx(textbook(padded, y, np.ones((8, 11)), np.ones(8))["nc1"], rel=1e-4)


def test_singletons_have_no_scatter_of_their_own() -> None:
    x, y, w, b = sample(n=5, k=5)
    found = collapse(x, y, w, b)
    assert found["nc1"] == pytest.approx(0, abs=1e-20) and found.context["min_class_count"] == 1


def test_both_global_means() -> None:
    x, y, _, _ = sample(n=200)
    x, y = x[: 200 - 30], np.where(np.arange(170) < 100, 0, y[:170])
    by_sample, by_class = collapse(x, y), collapse(x, y, global_mean="class")
    mu = np.stack([x[y == c].mean(0) for c in range(5)])
    m = mu - mu.mean(0)
    within = (x - mu[y]).T @ (x - mu[y]) / len(x)
    assert by_class["nc1"] == pytest.approx(np.trace(within @ np.linalg.pinv(m.T @ m / 5, rcond=1e-9)) / 5)
    assert by_class["nc1"] != pytest.approx(by_sample["nc1"], rel=1e-3)


def test_the_splits_of_hui_belkin_nakkiran() -> None:
    x, y, _, _ = sample(n=300, seed=0)
    t, u, _, _ = sample(n=150, seed=0, spread=0.9)
    train = means_of(x, y, 5)
    found = collapse(t, u, classes=5, train_means=train)
    mu = np.stack([x[y == c].mean(0) for c in range(5)])
    nearest = ((t[:, None] - mu[None]) ** 2).sum(2).argmin(1)
    assert found["ncc_error"] == np.mean(nearest != u)
    assert found["nc1_test_weak"] == pytest.approx(textbook(t, nearest, np.ones((5, 12)), np.ones(5))["nc1"], rel=1e-9)
    m = mu - x.mean(0)
    around = (t - mu[u]).T @ (t - mu[u]) / len(t)
    expected = np.trace(around @ np.linalg.pinv(m.T @ m / 5, rcond=1e-9)) / 5
    assert found["nc1_test_train_means"] == pytest.approx(expected, rel=1e-9)


def test_tensors_and_threads_give_the_same_bits() -> None:
    x, y, w, b = sample(n=20_000, d=30)
    x = x.astype(np.float32)
    one = collapse(x, y, w, b)
    assert collapse(x, y, w, b, threads=2).values == one.values
    tensors = collapse(
        torch.from_numpy(x).requires_grad_(), torch.from_numpy(y), torch.from_numpy(w), torch.from_numpy(b)
    )
    assert tensors.values == one.values
    assert np.isfinite(collapse(torch.from_numpy(x).bfloat16(), torch.from_numpy(y))["nc1"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (300, 11), (257, 12), (128, 13), (129, 37), (400, 100), (300, 128), (300, 129)]
)
def test_the_second_moment_is_the_sum_of_squares_in_long_doubles(n: int, d: int, dtype: str) -> None:
    draw = np.random.default_rng(n + d)
    # units of very different size, a common offset, classes that are missing, rows that are every second of an array
    wide = (np.maximum(draw.normal(size=(2 * n, d)), 0) * 10.0 ** draw.uniform(-6, 2, d) + 3).astype(dtype)
    x, y = wide[::2], draw.choice([0, 2, 3], n)
    means = moments.class_means(x, y, 5)
    z = ((x.astype(np.float64) - means.origin) - means.offsets[y]).astype(np.longdouble)
    found = moments.second_moment(x, y, means)
    rounding = n * np.finfo(np.float64).eps * (np.abs(z).T @ np.abs(z))  # of a sum of n products, in any order
    assert np.all(np.abs(found - z.T @ z) <= rounding) and np.array_equal(found, found.T)


def test_labels_without_meaning_have_the_nc1_that_is_promised() -> None:
    x, y, _, _ = sample(n=2000, d=12, k=5)
    promised = collapse(x, y).context["null_nc1"]
    draw = np.random.default_rng(0)
    seen = np.mean([collapse(x, draw.permutation(y))["nc1"] for _ in range(150)])
    assert promised == pytest.approx(seen, rel=0.2)  # it is (K-1) n / PR, the mean of a ratio taken as that of means


@pytest.mark.parametrize(
    ("x", "y", "w", "b", "words"),
    [
        (np.ones(3), np.zeros(3, int), None, None, "matrix"),
        (np.ones((3, 2)), np.zeros(4, int), None, None, "3 integers"),
        (np.ones((3, 2)), np.zeros(3), None, None, "integers"),
        (np.ones((3, 2)), np.array([0, -1, 1]), None, None, "negative"),
        (np.ones((3, 2)), np.array([0, 1, 2]), np.ones((2, 2)), None, "a row for each label"),
        (np.ones((3, 2)), np.array([0, 1, 1]), np.ones((2, 2)), np.ones(3), "one value for each row"),
        (np.array([["a", "b"]] * 3), np.array([0, 1, 1]), None, None, "numbers"),
        (np.ones((3, 2), object), np.array([0, 1, 1]), None, None, "features must be an array of numbers"),
        (np.ones((3, 2)), np.array([0, 1, 1], object), None, None, "labels must be an array of numbers"),
        (np.ones((3, 2), complex), np.array([0, 1, 1]), None, None, "numbers"),
        (np.ones((3, 2)), np.array([0, 1, 1]), None, np.ones(2), "one value for each row"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x: Any, y: Any, w: Any, b: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        collapse(x, y, w, b)


def test_labels_and_names_have_a_range() -> None:
    x, y, w, b = sample()
    with pytest.raises(InputError, match="below the number of classes, 4; there is a 4"):
        collapse(x, y, classes=4)
    with pytest.raises(InputError, match="Did you mean 'nc1'"):
        collapse(x, y, metrics=["nc11"])
    with pytest.raises(InputError, match="unknown global mean"):
        collapse(x, y, global_mean="samples")
    far = collapse(x, y.astype(np.uint64) * 10**9)
    assert far.values == collapse(x, y).values  # numbers of classes are names: no matrix of 4e9 class means
    few = collapse(x, y, w, b, metrics=["nc1", "nc4"])
    assert few.values == {name: collapse(x, y, w, b)[name] for name in ("nc1", "nc4")}


@pytest.mark.parametrize("dtype", ["float16", "int32", "uint8", "longdouble"])
def test_any_real_type_is_measured(dtype: str) -> None:
    x, y, _, _ = sample()
    x = np.clip(np.round(20 * (x + 5)), 0, 255)
    assert collapse(x.astype(dtype), y).values == pytest.approx(collapse(x, y).values, rel=1e-9, abs=1e-9)


def test_numbers_out_of_range_are_undefined() -> None:
    x, y, w, b = sample()
    found = collapse(x, y, np.where(w == w.max(), np.nan, w), b)  # which says nothing against the features
    assert found.undefined == dict.fromkeys(CLASSIFIER_METRICS, "the classifier is not finite")
    assert found["nc1"] == collapse(x, y)["nc1"] and np.isnan(found["nc3"])
    large = collapse(x * 1e200, y, w, b)
    assert np.isnan(large["nc1_ratio"]) and "too large" in large.undefined["nc1_ratio"]
    small = collapse(x * 1e-200, y)
    assert np.isnan(small["vci"]) and "too small" in small.undefined["vci"]
    for name, value in large.values.items():
        assert np.isfinite(value) or name in large.undefined, name
    none = collapse(np.empty((0, 3)), np.empty(0, int))
    assert np.isnan(none["nc1"]) and none.undefined["ncc_error"] == "fewer than two classes"


def test_fewer_samples_than_features_need_no_square_matrix() -> None:
    """In the samples' own span vci and null_nc1 are what they are: vci is 0 in general, but not of dead features."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 60)), np.arange(40) % 4
    found = collapse(x, y)
    assert found["vci"] == pytest.approx(0, abs=1e-12)
    mus = np.stack([x[y == c].mean(0) for c in range(4)])
    z, m = x - mus[y], mus - x.mean(0)
    total = z.T @ z / 40 + m.T @ m / 4
    participation = np.trace(total) ** 2 / np.trace(total @ total)
    assert found.context["null_nc1"] == pytest.approx(3 * 10 / participation, rel=1e-12)
    few = collapse(x[:, :9], y)
    wide = collapse(np.hstack([x[:, :9] @ draw.normal(size=(9, 30)), np.zeros((40, 30))]), y)
    assert few["vci"] > 0.5 and wide["vci"] == pytest.approx(few["vci"], abs=1e-10)


KINDS = ("plain", "constant", "twins", "coinciding", "one class", "dead", "huge", "tiny", "collapsed")


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10_000), k=st.integers(2, 7), d=st.integers(1, 9), kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float32", "float64"]),
)  # fmt: skip
def test_degenerate_features_have_the_values_that_lapack_gives(
    seed: int, k: int, d: int, kind: str, dtype: str
) -> None:
    """Few rows are turned until they are orthogonal, small matrices eliminated by hand: as LAPACK would have it."""
    draw = np.random.default_rng(seed)
    y = np.repeat(np.arange(k), draw.integers(0, 9, k))  # classes with one sample, with none
    y = y if len(y) else np.arange(k)
    centres = draw.normal(size=(k, d))
    if kind == "coinciding":
        centres[1] = centres[0]
    x = centres[y] + (0.0 if kind in ("collapsed", "coinciding") else 0.5) * draw.normal(size=(len(y), d))
    if kind in ("constant", "dead"):
        x[:, 0] = 3.0 * (kind == "constant")
    if kind == "twins":
        x[:, -1] = x[:, 0]
    x *= {"huge": 1e15, "tiny": 1e-15}.get(kind, 1.0)
    y = 0 * y if kind == "one class" else y
    x, w, b = x.astype(dtype), draw.normal(size=(k, d)), draw.normal(size=k)
    with pytest.MonkeyPatch.context() as patch:
        found = collapse(x, y, w, b)
        patch.setattr(moments, "rotated", lambda a: None)
        patch.setattr("ncpl_cli.metrics.vci.SMALL", 0)
        expected = collapse(x, y, w, b)
    assert found.undefined == expected.undefined
    assert found.context == pytest.approx(expected.context, rel=1e-11)
    for name, value in expected.values.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-11, nan_ok=True), name


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000), k=st.integers(1, 20), d=st.integers(1, 30), scale=st.sampled_from([1e-200, 1, 1e200])
)
def test_rotations_give_singular_values_and_directions(seed: int, k: int, d: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    a = draw.normal(size=(k, d)) * np.exp(3 * draw.normal(size=k))[:, None]
    a[-1] = a[: draw.integers(0, k) or 1].mean(0)  # often one direction less, also K = 2
    s, v = moments.row_space(a * scale)
    expected = np.linalg.svd(a, compute_uv=False)
    assert s.shape == (min(k, d),) and v.shape == (min(k, d), d)
    assert np.allclose(s / scale, expected, rtol=1e-13, atol=1e-13 * expected[0])
    kept = s > 1e-13 * s[0]
    assert np.allclose(v[kept] @ v[kept].T, np.eye(kept.sum()), atol=1e-13)
    assert np.allclose((a @ v[kept].T) @ v[kept], a, rtol=0, atol=1e-12 * expected[0])


def test_rows_without_a_direction_left_are_lapack_s() -> None:
    for a in (np.zeros((3, 4)), np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[0.0, 0.0], [3.0, 4.0]])):
        s, v = moments.row_space(a)
        assert np.allclose(s, np.linalg.svd(a, compute_uv=False), atol=1e-15)
        assert np.allclose(v @ v.T, np.eye(len(v)), atol=1e-14)
    assert len(moments.row_space(np.array([[np.nan, 1.0]]))[0]) == 0
