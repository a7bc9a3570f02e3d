"""A small version of benchmarks/verdicts.py: size and coverage of everything printed, under a true null."""

from __future__ import annotations

import math

import pytest

from benchmarks.verdicts import cell, null_study, printed
from ncpl_cli.analysis import Options, correlate


@pytest.mark.parametrize(("kind", "phi", "runs", "repetitions"), [
    ("compare", 0.9, 6, 150), ("compare", 0.5, 10, 100), ("correlate", 0.99, 6, 60), ("correlate", 0.5, 10, 60),
    ("over runs", 0.9, 6, 150), ("levels", 0.5, 10, 100), ("predict", 0.9, 6, 16), ("scenarios", 0.5, 6, 200),
    ("settings", 0.5, 6, 24),
])  # fmt: skip
def test_every_printed_p_and_interval_holds_under_a_null(kind: str, phi: float, runs: int, repetitions: int) -> None:
    """4 standard errors around the nominal 5 %: what rejects a true zero in 10 to 73 %, as naive p do, fails here."""
    found = cell(kind, phi, runs, repetitions)
    slack = 4 * math.sqrt(0.05 * 0.95 / repetitions)
    assert len(found) >= 7 or kind not in ("compare", "correlate")
    assert len(found) >= 2
    for name, (size, coverage, n) in found.items():
        assert n == repetitions, name
        assert size is None or size <= 0.05 + slack, (name, size)
        assert coverage is None or coverage >= 0.95 - slack, (name, coverage)


def test_everything_that_correlate_prints_is_looked_at() -> None:
    import numpy as np

    result = correlate(null_study(np.random.default_rng(0), 6, 200, 0.5), [("nc1", "test_accuracy")],
                       Options(window=50, flips=99, family_flips=99, lags=(-3, 3)))[0]  # fmt: skip
    names = {name for name, _, _ in printed(result)}
    assert {"whole series", "seed swap", "detrended", "first_difference", "given train_accuracy"} <= names
    assert all(p is not None for name, p, _ in printed(result))
