"""Formulas of correlation: against scipy, statsmodels and pingouin to 1e-10, closed forms, and what is undefined."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from ncpl_cli.analysis import resampling, statistics, windows
from ncpl_cli.analysis.sentences import two_procedures
from ncpl_cli.analysis.statistics import Summary

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def autoregressive(phi: float, *shape: int, seed: int = 0) -> Array:
    noise = draw(*shape, seed=seed)
    noise[..., 1:] *= math.sqrt(1 - phi**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -phi], noise, axis=-1))


def near(value: float | None) -> object:
    return pytest.approx(value, rel=0, abs=1e-10)


# one correlation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 5, 30, 1000])
@pytest.mark.parametrize("rounded", [False, True], ids=["continuous", "ties"])
def test_pearson_and_spearman_are_scipys(n: int, rounded: bool) -> None:
    x, y = draw(3, n), draw(3, n, seed=1)
    if rounded:
        x, y = np.round(x * 2), np.round(y * 2)
    for i in range(3):
        if np.ptp(x[i]) and np.ptp(y[i]):
            assert statistics.pearson(x, y)[i] == near(stats.pearsonr(x[i], y[i]).statistic)
            assert statistics.spearman(x, y)[i] == near(stats.spearmanr(x[i], y[i]).statistic)


@pytest.mark.parametrize("offset", [0.0, 2.0**20, -(2.0**30)])
@pytest.mark.parametrize("unit", [1.0, 2.0**-500, 2.0**500])
def test_offsets_and_units_cost_no_digits(offset: float, unit: float) -> None:
    # multiples of 2^-20, so that neither the offset nor the unit rounds x
    x, y = np.round(draw(1, 200) * 2**20) / 2**20, draw(1, 200, seed=1)
    y = y + 0.5 * x
    expected = stats.pearsonr(x[0], y[0]).statistic
    shifted = (x + offset) * unit
    assert statistics.pearson(shifted, y)[0] == near(expected)
    assert statistics.pearson_between(shifted, y)[0, 0] == near(expected)
    assert windows.sliding_pearson(shifted, y, 200)[0, 0] == near(expected)
    assert statistics.spearman(shifted, y)[0] == near(stats.spearmanr(x[0], y[0]).statistic)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1.0, 2, 4], [3.0, 1, 2]),  # three points
        ([1.0, 1, 1, 1, 1], [1.0, 2, 3, 4, 6]),  # constant
        ([0.1 + 0.2, 0.3, 0.3, 0.3], [1.0, 2, 3, 5]),  # constant but for rounding
        ([1.0, 2, 3, 4], [2.0, 4, 6, 8]),  # r = 1
        ([1.0, 2, 3, 4, 7], [-1.0, -2, -3, -4, -7]),  # r = -1
        ([1.0, 2, math.nan, 4, 5], [2.0, 1, 6, 8, 3]),  # not a number
    ],
)
def test_what_is_undefined_is_nan_and_not_zero(x: list[float], y: list[float]) -> None:
    for f in (statistics.pearson, statistics.spearman):
        if f is statistics.spearman and not all(map(math.isfinite, x)):
            continue
        assert np.isnan(f(np.array(x), np.array(y)))
    assert np.isnan(statistics.pearson_between(np.array([x]), np.array([y]))).all()
    assert np.isnan(windows.sliding_pearson(np.array([x]), np.array([y]), len(x))).all()


def test_r_of_every_row_with_every_row() -> None:
    x, y = draw(4, 50), draw(3, 50, seed=1)
    expected = [[stats.pearsonr(a, b).statistic for b in y] for a in x]
    assert statistics.pearson_between(x, y) == near(np.array(expected))


# sliding windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "w"), [(10, 4), (100, 100), (101, 100), (257, 16), (250, 50), (60, 59)])
def test_sliding_windows_are_scipys_window_by_window(n: int, w: int) -> None:
    x, y = draw(2, n).cumsum(1) + 1e4, draw(2, n, seed=1).cumsum(1)
    found = windows.sliding_pearson(x, y, w)
    assert found.shape == (2, n - w + 1)
    for i, start in itertools.product(range(2), range(n - w + 1)):
        part = slice(start, start + w)
        assert found[i, start] == near(stats.pearsonr(x[i, part], y[i, part]).statistic)


def test_a_constant_stretch_is_undefined_in_the_windows_within_it_only() -> None:
    x, y = draw(1, 60), draw(1, 60, seed=1)
    x[0, 20:40] = 0.3
    found = windows.sliding_pearson(x, y, 10)[0]
    assert np.flatnonzero(np.isnan(found)).tolist() == list(range(20, 31))


def test_windows_shorter_than_four_points_or_longer_than_the_series() -> None:
    x, y = draw(2, 10), draw(2, 10, seed=1)
    assert np.isnan(windows.sliding_pearson(x, y, 3)).all()
    assert windows.sliding_pearson(x, y, 11).shape == (2, 0)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_windows_of_unequal_counts(method: str) -> None:
    x, y = draw(3, 40), draw(3, 40, seed=1)
    first = np.array([0, 0, 3, 10, 11, 12, 30, 37])
    last = np.array([3, 9, 12, 19, 20, 21, 39, 39])
    found = windows.windows(x, y, first, last, method)
    reference = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[method]
    for i, j in itertools.product(range(3), range(len(first))):
        part = slice(first[j], last[j] + 1)
        if last[j] - first[j] + 1 < 4:
            assert np.isnan(found[i, j])
        elif abs(r := reference(x[i, part], y[i, part]).statistic) < 1:
            assert found[i, j] == near(r)


# trends and controls -------------------------------------------------------------------------------------------


def test_detrended_is_scipys_detrend() -> None:
    x = autoregressive(0.9, 3, 200) + np.linspace(0, 30, 200)
    found = statistics.detrended(x, np.arange(200.0))
    assert found == near(signal.detrend(x, axis=1))
    assert statistics.detrended(np.arange(50.0)[None] * 3 + 1e8, np.arange(50.0)).tolist() == [[0.0] * 50]


def test_residuals_are_statsmodels_ols() -> None:
    import statsmodels.api as sm

    y, z = draw(2, 80), draw(3, 80, seed=1) * np.array([[1e-6], [1.0], [1e6]]) + 1e3
    for i in range(2):
        expected = sm.OLS(y[i], sm.add_constant((z.T - z.mean(1)) / z.std(1))).fit().resid
        assert statistics.residuals(y, z)[i] == near(expected)


def test_regressors_that_say_nothing_new_change_nothing() -> None:
    y, z = draw(1, 60), draw(1, 60, seed=1)
    alone = statistics.residuals(y, z)
    assert statistics.residuals(y, np.concatenate([z, 2 * z + 1, np.full((1, 60), 7.0)])) == near(alone)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_partial_correlations_are_pingouins(method: str) -> None:
    import pingouin

    for k in (1, 2, 3):
        z = draw(k, 90, seed=3)
        x, y = draw(90) + z.sum(0), draw(90, seed=1) - 0.5 * z.sum(0)
        names = [f"z{i}" for i in range(k)]
        frame = pd.DataFrame({"x": x, "y": y, **dict(zip(names, z, strict=True))})
        expected = pingouin.partial_corr(frame, "x", "y", covar=names, method=method)["r"].iloc[0]
        found = statistics.partial(x[None], y[None], z[None], method=method)[0]
        assert found == near(float(expected))


def test_one_control_follows_the_closed_form() -> None:
    x, y, z = draw(3, 50) + draw(50, seed=4)
    xy, xz, yz = (stats.pearsonr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert statistics.partial(x[None], y[None], z[None, None])[0] == near(expected)


def test_a_control_that_determines_x_leaves_nothing_to_correlate() -> None:
    x, y = draw(1, 50), draw(1, 50, seed=1)
    assert np.isnan(statistics.partial(x, y, 3 * x[:, None] - 2)).all()
    assert np.isnan(statistics.partial(x[:, :4], y[:, :4], draw(1, 1, 4, seed=2))).all()  # too few points


# dependence ----------------------------------------------------------------------------------------------------


def test_autocorrelations_are_statsmodels() -> None:
    from statsmodels.tsa.stattools import acf

    x = autoregressive(0.8, 2, 300)
    for i in range(2):
        assert statistics.autocorrelations(x)[i] == near(acf(x[i], nlags=299, fft=True))


def test_effective_n_follows_its_formula_and_meets_the_known_value() -> None:
    x, y = autoregressive(0.9, 2, 400, seed=1)
    products = (statistics.autocorrelations(x[None]) * statistics.autocorrelations(y[None]))[0, 1:]
    total = 0.0
    for product in products:
        if product <= 0:
            break
        total += product
    assert statistics.effective_n(x[None], y[None])[0] == near(400 / (1 + 2 * total))
    # AR(1), sum of phi^2k: n (1 - phi^2) / (1 + phi^2)
    x, y = (autoregressive(0.7, 200, 4000, seed=s) for s in (2, 3))
    assert np.median(statistics.effective_n(x, y)) == pytest.approx(4000 * (1 - 0.49) / (1 + 0.49), rel=0.05)
    assert np.isnan(statistics.effective_n(np.ones((1, 9)), draw(1, 9))).all()


# over runs -----------------------------------------------------------------------------------------------------


def test_the_interval_is_the_t_interval_of_fisher_z() -> None:
    r = np.array([0.2, 0.5, -0.1, 0.6, 0.4])
    z = np.arctanh(r)
    low, high = stats.t.interval(0.95, 4, z.mean(), stats.sem(z))
    found = statistics.summary(r)
    assert found.mean_r == near(float(r.mean())) and found.fisher_mean_r == near(math.tanh(z.mean()))
    assert found.ci95 == (near(math.tanh(low)), near(math.tanh(high)))
    assert found.spread_of_z == near(float(z.std(ddof=1))) and found.same_sign == (4, 5) and found.n == 5
    without = [np.delete(r, i).mean() for i in range(5)]
    assert found.leave_one_out == (near(min(without)), near(max(without)))


def test_summaries_of_few_runs() -> None:
    none = statistics.summary(np.array([math.nan, math.nan]))
    assert (none.n, none.mean_r, none.ci95, none.same_sign) == (0, None, None, (0, 0))
    one = statistics.summary(np.array([0.3, math.nan]))
    assert (one.n, one.mean_r, one.ci95, one.leave_one_out, one.same_sign) == (1, 0.3, None, None, (1, 1))
    two = statistics.summary(np.array([0.3, 0.4]))
    assert two.ci95 is not None and two.ci95[0] < 0.3 < 0.4 < two.ci95[1] and two.leave_one_out is None


def test_runs_of_one_seed_count_as_one() -> None:
    r = np.array([0.1, 0.3, 0.5, 0.7, 0.2, math.nan])
    found = statistics.summary(r, [0, 0, 1, 1, 2, 2])
    z = np.arctanh(r)
    units = np.array([z[:2].mean(), z[2:4].mean(), z[4]])
    low, high = stats.t.interval(0.95, 2, units.mean(), stats.sem(units))
    assert found.n == 3 and found.ci95 == (near(math.tanh(low)), near(math.tanh(high)))


# resampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [6, 7, 10])
def test_sign_flips_are_scipys_exact_permutation_test(runs: int) -> None:
    z = draw(runs, 3) + 0.4
    found = resampling.sign_flips(z)
    assert found.exact and found.flips == 2**runs
    for j in range(3):
        expected = stats.permutation_test(
            (z[:, j],), lambda a, axis: np.abs(a.mean(axis)), permutation_type="samples", n_resamples=np.inf,
            alternative="greater", vectorized=True,
        )  # fmt: skip
        assert found.p[j] == near(float(expected.pvalue))


def test_the_smallest_p_and_none_below_six_runs() -> None:
    assert resampling.sign_flips(np.full((6, 1), 0.5)).p.tolist() == [2 / 64]
    five = resampling.sign_flips(np.full((5, 2), 0.5))
    assert np.isnan(five.p).all() and np.isnan(five.p_family).all() and five.flips == 0
    z = np.full((7, 2), 0.5)
    z[:2, 1] = np.nan  # five runs left in this column
    mixed = resampling.sign_flips(z)
    assert mixed.p[0] == 2 / 128 and np.isnan(mixed.p[1])


@pytest.mark.parametrize("missing", [False, True])
def test_the_family_is_max_t_by_brute_force(missing: bool) -> None:
    runs, columns = 8, 5
    z = draw(runs, columns, seed=5) + np.array([0, 0, 0.3, 0.6, 1.0])
    if missing:
        z[0, 0] = z[3, 2] = z[1, 2] = np.nan

    def t(table: Array) -> Array:
        return np.array([abs(stats.ttest_1samp(c[np.isfinite(c)], 0).statistic) for c in table.T])

    observed = t(z)
    largest = np.array([t(z * np.array(s)[:, None]).max() for s in itertools.product((-1, 1), repeat=runs)])
    expected = [(largest >= value * (1 - 1e-9)).mean() for value in observed]
    found = resampling.sign_flips(z)
    assert found.p_family == near(np.array(expected))
    assert (found.p_family >= found.p - 1e-12).all()


def test_drawn_flips_are_seeded_counted_and_near_the_exact_p() -> None:
    z = draw(17, 40, seed=6) + 0.3
    one, again, other = (resampling.sign_flips(z, flips=9_999, seed=s) for s in (0, 0, 1))
    assert not one.exact and one.flips == 9_999
    assert one.p.tolist() == again.p.tolist() and one.p_family.tolist() == again.p_family.tolist()
    assert one.p.tolist() != other.p.tolist()
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=16)))  # the 17th held: |sum| has mirror images
    sums = np.abs(signs @ z[:16] + z[16])
    exact = (sums >= np.abs(z.sum(0)) * (1 - 1e-9)).mean(0)
    assert np.abs(one.p - exact).max() < 4 * math.sqrt(0.25 / 9_999)
    assert resampling.sign_flips(np.full((40, 1), 9.0), flips=999).p[0] == 1 / 1000  # (b + 1) / (m + 1), never 0


def test_benjamini_yekutieli_is_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).uniform(size=40) ** 3
    expected = multipletests(p, method="fdr_by")[1]
    assert resampling.benjamini_yekutieli(p) == near(expected)
    with_missing = np.insert(p, 3, np.nan)
    found = resampling.benjamini_yekutieli(with_missing)
    assert np.isnan(found[3]) and np.delete(found, 3) == near(expected)
    assert np.isnan(resampling.benjamini_yekutieli(np.array([np.nan]))).all()


def test_the_seed_swap_by_brute_force() -> None:
    r = np.tanh(draw(6, 6, seed=7) * 0.3 + np.eye(6))
    z = np.arctanh(r)
    centred = z - z.mean()
    found = [abs(np.mean([centred[i, j] for i, j in enumerate(order)])) for order in itertools.permutations(range(6))]
    expected = np.mean(np.array(found) >= abs(np.trace(centred) / 6) - 1e-12)
    swap = resampling.seed_swap(r)
    assert swap.p == near(float(expected)) and swap.exact and swap.permutations == 720
    assert swap.matched_r == near(float(np.trace(r) / 6))
    assert swap.swapped_r == near(float((r.sum() - np.trace(r)) / 30))
    few = resampling.seed_swap(r[:5, :5])
    assert few.p is None and few.swapped_r is not None
    r[0, 1] = np.nan
    assert resampling.seed_swap(r).matched_r is None


def test_permutations_over_runs_keep_to_their_blocks() -> None:
    x, y = np.arange(8.0), draw(8, 2, seed=8)
    y[:, 0] += x
    free = resampling.permutation(x, y, np.arange(8), permutations=4_999)
    expected = stats.permutation_test(
        (x,), lambda a: abs(stats.pearsonr(a, y[:, 0]).statistic), permutation_type="pairings", n_resamples=4_999,
        alternative="greater", vectorized=False, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert free.p[0] == pytest.approx(float(expected.pvalue), abs=0.01)
    assert (free.p_family >= free.p).all()
    # within blocks of two only 2^4 orders exist, so p cannot fall below 1/16
    blocks = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    within = resampling.permutation(x, y, blocks, permutations=4_999)
    assert within.p[0] > 1 / 16 - 0.02
    # x equal within every block: nothing can change hands
    assert np.isnan(resampling.permutation(np.repeat(np.arange(4.0), 2), y, blocks).p).all()
    assert np.isnan(resampling.permutation(x[:5], y[:5], np.arange(5)).p).all()


@pytest.mark.parametrize(("phi", "runs", "low", "high"), [(0.9, 6, 0.012, 0.052), (0.99, 10, 0.025, 0.075)])
def test_p_values_and_intervals_hold_their_size_under_autocorrelation(
    phi: float, runs: int, low: float, high: float
) -> None:
    """A small copy of benchmarks/correlate.py: true r = 0; the naive p of one run rejects half of the time."""
    repetitions, n, w = 600, 300, 100
    x, y = (autoregressive(phi, repetitions * runs, n, seed=s) for s in (1, 2))
    r = windows.sliding_pearson(x, y, w)[:, ::10].reshape(repetitions, runs, -1)
    single = r[:, 0, 0]
    naive = 2 * stats.t.sf(np.abs(single) * np.sqrt((w - 2) / (1 - single**2)), w - 2)
    assert (naive < 0.05).mean() > 0.4
    tests = [resampling.sign_flips(np.arctanh(one)) for one in r]
    assert low < np.mean([t.p[0] < 0.05 for t in tests]) < high
    assert low < np.mean([t.p_family.min() < 0.05 for t in tests]) < high
    intervals = [statistics.summary(one[:, 0]).ci95 for one in r]
    assert 0.92 < np.mean([i is not None and i[0] <= 0 <= i[1] for i in intervals]) < 0.98


def test_a_planted_correlation_is_recovered() -> None:
    planted = 0.6
    x, other = (autoregressive(0.5, 2_000, 100, seed=s) for s in (3, 4))
    r = statistics.pearson(x, planted * x + math.sqrt(1 - planted**2) * other)
    assert abs(math.tanh(np.arctanh(r).mean()) - planted) < 0.01


def test_an_interval_and_a_p_that_disagree_are_explained() -> None:
    above = Summary(6, 0.5, 0.5, (0.02, 0.8), 0.4, (6, 6), (0.4, 0.6))
    around = Summary(6, 0.5, 0.5, (-0.02, 0.8), 0.4, (5, 6), (0.4, 0.6))
    for summary, p in ((above, 0.06), (around, 0.03125)):
        (said,) = two_procedures(summary, p, 6)
        assert "two procedures" in said and "0.031" in said
    for summary, p in ((above, 0.03125), (around, 0.06), (above, None)):  # type: ignore[assignment]
        assert two_procedures(summary, p, 6) == []


@pytest.mark.parametrize("kind", ["float", "int", "ties", "infinite", "nan", "read-only"])
@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (9,), (3, 7), (2, 3, 50)])
def test_ranks_are_those_of_scipy(kind: str, shape: tuple[int, ...]) -> None:
    from scipy.stats import rankdata

    draw = np.random.default_rng(len(shape) + shape[-1])
    x = draw.normal(size=shape) if kind != "int" else draw.integers(-3, 3, shape)
    if kind in ("ties", "infinite", "nan"):
        x = np.round(x * 2)
    if kind == "infinite":
        x = np.where(draw.random(shape) < 0.3, np.inf * np.where(draw.random(shape) < 0.5, 1, -1), x)
    if kind == "nan" and x.size:
        x.flat[0] = np.nan
    if kind == "read-only":
        x.flags.writeable = False
    assert np.array_equal(statistics._mean_ranks(x), rankdata(x, axis=-1), equal_nan=True)
