"""What rounding leaves is not correlated: straight lines, cancelled losses, equal arms, ties of differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ncpl_cli.analysis import Options, Run, Series, Study, compare, correlate, statistics
from ncpl_cli.analysis.resampling import permutation

Array = NDArray[np.float64]


def written(values: Array, digits: int = 6) -> Array:
    """As a log has them: decimals, read back."""
    return np.array([float(f"{v:.{digits}f}") for v in values])


def lines(step: float, offset: float, n: int = 100) -> tuple[Array, Array]:
    k = np.arange(n)
    return written(offset + step * k, 8), written(3 - 0.7 * step * k, 8)


@pytest.mark.parametrize("offset", [0.0, 10.0, -1e4])
@pytest.mark.parametrize("step", [0.1, 0.01, 0.001])
def test_differences_of_straight_lines_are_constant(step: float, offset: float) -> None:
    x, y = lines(step, offset)
    assert np.isnan(statistics.pearson(statistics.differences(x), statistics.differences(y)))
    assert np.isnan(statistics.spearman(statistics.differences(x), statistics.differences(y)))
    z = np.random.default_rng(0).standard_normal(99)
    assert np.isnan(statistics.pearson(statistics.differences(x), z))  # one line is enough


def test_differences_keep_what_is_more_than_rounding() -> None:
    x = np.random.default_rng(0).standard_normal((3, 50)) + 1e3
    assert np.array_equal(statistics.differences(x), np.diff(x, axis=-1))
    small = 1.0 + 1e-12 * np.random.default_rng(1).standard_normal(50).cumsum()  # 1e-12 is far above eps
    assert np.array_equal(statistics.differences(small), np.diff(small))


def test_equal_steps_share_a_rank() -> None:
    """A staircase of two step sizes: their rounding must not be ranked."""
    draw = np.random.default_rng(3)
    steps = draw.choice([0.1, 0.3], 60)
    x = written(np.r_[5.0, 5 + steps.cumsum()], 3)
    assert len(np.unique(np.diff(x))) > 2 and len(np.unique(statistics.differences(x))) == 2
    other = draw.standard_normal(60)
    assert statistics.spearman(statistics.differences(x), other) == pytest.approx(
        float(statistics.spearman(steps, other)), abs=1e-12
    )


def study(x: Any, y: Any, runs: int = 8, n: int = 60, **more: Any) -> Study:
    epoch = np.arange(1.0, n + 1)
    return Study(tuple(
        Series.of(Run(f"r{s}", s, "warm-start"), epoch, np.zeros(n), epoch,
                  {"nc1": x(s), "test_accuracy": y(s), **{k: f(s) for k, f in more.items()}})
        for s in range(runs)
    ))  # fmt: skip


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_two_lines_have_no_correlation_by_any_route(method: str) -> None:
    """Raw, differenced, detrended, partial, windowed, lagged and swapped: |r| = 1 or nothing left, never a number."""
    e = np.arange(1.0, 61.0)
    made = study(
        lambda s: written(2 - e * 0.01 * (1 + s / 10)), lambda s: written(0.1 - 0.001 * e),
        train_accuracy=lambda s: written(0.5 + 0.005 * e),
    )  # fmt: skip
    (result,) = correlate(made, [("nc1", "test_accuracy")], Options(window=20, method=method, lags=(-3, 3)))
    overall = result.overall
    found = [overall.summary.mean_r, overall.seed_swap.matched_r, overall.p_sign_flip, overall.p_family]
    found += [c.summary.mean_r for c in (*overall.controls.values(), *overall.partial.values())]
    found += [c.p for c in (*overall.controls.values(), *overall.partial.values())]
    found += [lag.mean_r for lag in result.lags]
    assert set(found) == {None} and np.isnan(result.windows.r).all() and overall.effective_n is not None
    assert any("undefined in every run" in note for note in result.notes)


def test_a_line_beside_noise_leaves_its_controls_undefined() -> None:
    e = np.arange(1.0, 61.0)
    made = study(lambda s: written(2 - 0.01 * e), lambda s: np.random.default_rng(s).standard_normal(60))
    (result,) = correlate(made, [("nc1", "test_accuracy")], Options(window=20))
    assert result.overall.summary.mean_r is not None
    assert result.overall.controls["first_difference"].summary.mean_r is None
    assert result.overall.controls["detrended"].summary.mean_r is None


def test_a_control_that_varies_by_rounding_is_constant() -> None:
    draw = np.random.default_rng(0)
    flat = 0.3 + 1e-17 * draw.standard_normal(60)
    flat[::2] = np.nextafter(0.3, 1)
    made = study(lambda s: draw.standard_normal(60), lambda s: draw.standard_normal(60), train_accuracy=lambda s: flat)
    (result,) = correlate(made, [("nc1", "test_accuracy")], Options(window=20))
    assert result.overall.partial["train_accuracy"].summary.mean_r is None


def test_effective_n_of_rounding_is_undefined() -> None:
    flat = np.where(np.arange(50) % 2, 0.1 + 0.2, 0.3)
    assert np.isnan(statistics.effective_n(flat[None], flat[None])).all()


def test_accuracies_that_are_equal_are_no_loss() -> None:
    """B24's loss compares means over epochs: equal ones differ by the rounding of a sum."""
    online = np.r_[[0.1, 0.7, 0.1], np.tile([0.7, 0.1, 0.1], 12)]
    n = len(online)
    of = Series.of(
        Run("a", 0, "p"), np.arange(1.0, n + 1), np.repeat(np.arange(13.0), 3), np.tile([1.0, 2, 3], 13),
        {"online_accuracy": online, "plasticity_loss_b24": np.full(n, np.nan)},
    )  # fmt: skip
    assert np.array_equal(of.per_task("plasticity_loss_b24")[1:], np.zeros(12))


def test_arms_that_are_equal_have_no_gain() -> None:
    def run(seed: int, interventions: list[str], shift: float) -> Series:
        epoch = np.arange(5.0, 55.0, 5.0)
        y = 0.1 + 0.05 * np.arange(10) + shift
        about = Run(f"{seed}{shift}", seed, "warm-start", settings={"interventions": interventions})
        return Series.of(about, epoch, np.zeros(10), epoch, {"probe_test_accuracy": y, "train_accuracy": y})

    (comparison,) = compare(Study(tuple(
        run(s, i, h) for s in range(6) for i, h in (([], 0.0), (["l2:strength=0"], 3e-17))
    )))  # fmt: skip
    gain = comparison.arms[0].gain
    assert gain.mean == 0 and gain.p == 1


def test_a_column_of_rounding_gets_no_permutation_p() -> None:
    x = np.random.default_rng(0).standard_normal(8)
    y = np.where(np.arange(8) % 2, 0.1 + 0.2, 0.3)[:, None]
    assert np.isnan(permutation(x, y, np.arange(8), permutations=99).p).all()
