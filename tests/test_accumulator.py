"""The streaming accumulator against `collapse` on the whole: splits, merges, deep collapse, memory, the second pass."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncpl_cli.errors import InputError
from ncpl_cli.metrics import CollapseAccumulator, accumulator, collapse, neural_collapse, sums
from ncpl_cli.metrics.accumulator import BLOCK
from ncpl_cli.metrics.neural_collapse import CollapseResult
from tests.test_collapse import sample
from tests.test_collapse_accuracy import deep

Array = np.ndarray[Any, Any]
LATER = ("nc4", "ncc_error")


def agree(found: CollapseResult, whole: CollapseResult, rel: float = 1e-9) -> None:
    """The same values, reasons and context, but for what a first pass cannot know."""
    for name, value in whole.values.items():
        if name not in LATER:
            assert found[name] == pytest.approx(value, rel=rel, abs=1e-11, nan_ok=True), name
    assert {n: w for n, w in found.undefined.items() if n not in LATER} == whole.undefined
    assert found.context == pytest.approx(whole.context, rel=rel)


def fed(x: Array, y: Array, cuts: list[int], classes: int = 5) -> CollapseAccumulator:
    found = CollapseAccumulator(classes)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(x)], strict=True):
        found.update(x[start:stop], y[start:stop])
    return found


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 2 * BLOCK + 500), max_size=6), gap=st.booleans())
def test_a_split_at_any_point_equals_the_whole(seed: int, cuts: list[int], gap: bool) -> None:
    x, y, w, b = sample(n=2 * BLOCK + 500, seed=seed)
    if gap:  # a class that comes late, one that is absent, and one sample alone at the beginning
        y = np.where(y == 3, 4, y)
        order = np.argsort(y == 2, kind="stable")
        x, y = x[order], y[order]
    agree(fed(x, y, cuts).compute(w, b), collapse(x, y, w, b, classes=5))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    a=st.integers(0, 400),
    b=st.integers(0, 400),
    global_mean=st.sampled_from(["sample", "class"]),
)
def test_merging_is_associative_and_equals_the_whole(seed: int, a: int, b: int, global_mean: str) -> None:
    x, y, _, _ = sample(n=400, seed=seed)
    a, b = sorted((a, b))
    parts = [slice(0, a), slice(a, b), slice(b, None)]

    def one(i: int) -> CollapseAccumulator:
        return CollapseAccumulator(5).update(x[parts[i]], y[parts[i]])

    left = one(0).merge(one(1)).merge(one(2))
    right = one(0).merge(one(1).merge(one(2)))
    backwards = one(2).merge(one(1)).merge(one(0))
    whole = collapse(x, y, global_mean=global_mean, classes=5)
    for found in (left, right, backwards):
        agree(found.compute(global_mean=global_mean), whole)


@pytest.mark.parametrize("offset", [0.0, 100.0, 2.0**14])
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 3e-6])
@pytest.mark.parametrize("first", [1, 7, 305])
def test_deep_collapse_survives_the_stream(noise: float, offset: float, first: int) -> None:
    x, y = deep(noise, offset, "float32")
    whole = collapse(x, y)
    if offset == 0 and noise == 3e-6:
        assert 1e-12 < whole["nc1"] < 1e-10
    agree(fed(x, y, list(range(first, len(x), 50))).compute(), whole, rel=1e-6)
    half = len(x) // 2
    agree(fed(x[:half], y[:half], []).merge(fed(x[half:], y[half:], [])).compute(), whole, rel=1e-6)


def test_the_second_pass_gives_what_needs_final_means() -> None:
    x, y, w, b = sample(n=700)
    stream, whole = fed(x, y, [300]), collapse(x, y, w, b)
    once = stream.compute(w, b)
    for name in LATER:
        assert np.isnan(once[name]) and "second pass" in once.undefined[name]
    stream.revisit(x[:300], y[:300], w, b)
    assert "300 of 700" in stream.compute(w, b).undefined["nc4"]
    stream.revisit(x[300:], y[300:], w, b)
    twice = stream.compute(w, b)
    assert all(twice[name] == whole[name] for name in LATER) and not twice.undefined
    stream.update(x[:1], y[:1])  # the means are no longer final
    assert "second pass" in stream.compute(w, b).undefined["ncc_error"]
    without = fed(x, y, []).revisit(x, y).compute(w, b)
    assert without["ncc_error"] == whole["ncc_error"] and "nc4" in without.undefined


def test_memory_does_not_grow_with_the_stream() -> None:
    x, y, _, _ = sample(n=5 * BLOCK, d=20)
    x = x.astype(np.float32)
    stream = CollapseAccumulator(5).update(x, y)
    tracemalloc.start()
    for _ in range(20):
        stream.update(x, y)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < x.nbytes / 2
    assert stream.compute().context["n"] == 21 * len(x)


def test_the_callers_memory_may_be_used_again() -> None:
    x, y, _, _ = sample(n=300)
    stream, batch = CollapseAccumulator(5), np.empty((50, x.shape[1]))
    for start in range(0, 300, 50):
        batch[:] = x[start : start + 50]
        stream.update(batch, y[start : start + 50])
    agree(stream.compute(), collapse(x, y))


def test_precisions_mix_and_tensors_stream() -> None:
    x, y, w, _ = sample(n=600)
    mixed = CollapseAccumulator(5)
    mixed.update(x[:200].astype(np.float32), y[:200]).update(x[200:], y[200:])
    same = np.concatenate([x[:200].astype(np.float32).astype(np.float64), x[200:]])
    agree(mixed.compute(), collapse(same, y), rel=1e-6)
    tensors = CollapseAccumulator(5).update(torch.from_numpy(x).bfloat16().requires_grad_(), torch.from_numpy(y))
    agree(tensors.compute(torch.from_numpy(w)), collapse(torch.from_numpy(x).bfloat16(), y, w), rel=1e-6)


def test_what_is_undefined_has_its_reason() -> None:
    x, y, _, _ = sample()
    nothing = CollapseAccumulator(5).compute()
    assert (
        set(nothing.undefined.values())
        == {"fewer than two classes"}
        == {*fed(x, 0 * y, []).compute().undefined.values()}
    )
    broken = x.copy()
    broken[0, 0] = np.nan
    spoilt = CollapseAccumulator(5).update(x, y).merge(fed(broken, y, []))
    assert set(spoilt.compute().undefined.values()) == {"features are not finite"}
    assert fed(np.zeros_like(x), y, []).compute().undefined["nc1"] == "no between-class scatter"


def test_what_does_not_fit_is_refused() -> None:
    x, y, w, b = sample()
    stream = CollapseAccumulator(5).update(x, y)
    with pytest.raises(InputError, match="below the number of classes, 5; there is a 9"):
        stream.update(x, y + 5)
    with pytest.raises(InputError, match="11 dimensions here and had 12"):
        stream.update(x[:, :11], y)
    with pytest.raises(InputError, match="do not merge"):
        stream.merge(CollapseAccumulator(4))
    with pytest.raises(InputError, match="11 dimensions do not merge"):
        stream.merge(fed(x[:, :11], y, []))
    with pytest.raises(InputError, match="a row for each of 6"):
        fed(x, y, [], classes=6).compute(w, b)
    with pytest.raises(InputError, match="at least one class"):
        CollapseAccumulator(0)


def test_above_the_largest_square_a_second_pass_gives_nc1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulator, "MOST_SQUARE", 11)
    monkeypatch.setattr(sums, "MOST_SQUARE", 11)
    monkeypatch.setattr(neural_collapse, "MOST_SQUARE", 11)
    x, y, _, _ = sample(n=3000)
    once = fed(x, y, [1000])
    why = once.compute().undefined
    assert "revisit" in why["nc1"] and why["vci"] == "needs a d x d matrix, and d is above 11"
    for part in np.array_split(np.arange(3000), 4):
        once.revisit(x[part], y[part])
    whole, found = collapse(x, y), once.compute()
    assert found["nc1"] == pytest.approx(whole["nc1"], rel=1e-10) and found.undefined == whole.undefined
    assert found["ncc_error"] == whole["ncc_error"]
    assert "nc1" in once.compute(global_mean="class").undefined  # the second pass went along other directions
