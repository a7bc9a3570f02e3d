"""The accumulator on a device: the host's numbers, nothing mixed, ties as the host decides them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.errors import InputError
from ncpl_cli.metrics import CollapseAccumulator, collapse
from ncpl_cli.metrics.accumulator import BLOCK
from ncpl_cli.verification.cases import CASES
from tests.pseudo_device import DEVICE, pseudo_device
from tests.test_collapse import sample
from tests.test_collapse_accuracy import deep

CASES_OF_FEATURES = [case for case in (make() for make in CASES) if not case.further]


def streamed(x: Any, y: Any, w: Any, b: Any, classes: int, *, there: bool = True, cut: int = 700) -> Any:
    """Both passes on the pseudo device, whose seams must hold; batches lie there already or come from the host."""
    with pseudo_device() as seen:
        found = CollapseAccumulator(classes, device=DEVICE)
        parts = [slice(i, i + cut) for i in range(0, len(x), cut)]
        batches = [(torch.tensor(x[p]).to(DEVICE) if there else x[p], y[p]) for p in parts]
        for features, labels in batches:
            found.update(features, labels)
        for features, labels in batches:
            found.revisit(features, labels, w, b)
        result = found.compute(w, b)
    assert seen.mixed == [] and seen.arrays == []
    return result


@pytest.mark.parametrize("case", CASES_OF_FEATURES, ids=lambda case: case.name)
def test_every_reference_case_is_the_hosts(case: Any) -> None:
    classes = len(case.weight) if case.weight is not None else int(case.labels.max()) + 1
    found = streamed(case.features, case.labels, case.weight, case.bias, classes, cut=45)
    whole = collapse(case.features, case.labels, case.weight, case.bias, classes=classes)
    relative, absolute = case.tolerance("nc1")
    assert found.undefined == whole.undefined
    for name, value in whole.values.items():
        assert found[name] == pytest.approx(value, rel=relative, abs=max(absolute, 1e-11), nan_ok=True), name
    for name in {"nc4", "ncc_error"} & whole.values.keys():  # counts: ties go as they go there
        assert found[name] == pytest.approx(whole[name], abs=0, rel=1e-15, nan_ok=True), name


@pytest.mark.parametrize(("noise", "offset"), [(1e-5, 0.0), (1e-5, 100.0), (1e-2, 1e4)])
def test_deep_collapse_and_offsets_keep_their_digits(noise: float, offset: float) -> None:
    x, y = deep(noise, offset, "float32")
    found, whole = streamed(x, y, None, None, int(y.max()) + 1, there=False), collapse(x, y)
    for name in ("nc1", "cdnv", "nc1_ratio", "vci"):
        assert found[name] == pytest.approx(whole[name], rel=1e-6), name


def test_a_class_that_comes_late_blocks_of_all_sizes_and_half_precision() -> None:
    x, y, w, b = sample(n=2 * BLOCK + 300, seed=4)
    order = np.argsort(y == 2, kind="stable")
    x, y = x[order], y[order]
    whole = collapse(x, y, w, b, classes=5)
    for cut in (1000, 5000):
        found = streamed(x, y, w, b, 5, cut=cut)
        assert found.values == pytest.approx(whole.values, rel=1e-9, abs=1e-11)
    short = torch.tensor(x).half()
    found = streamed(short.numpy(), y, w, b, 5)
    assert found["nc1"] == pytest.approx(collapse(short.numpy(), y, w, b)["nc1"], rel=1e-9)
    assert found.context["rank_between"] == 4


def test_accumulators_of_device_and_host_merge_and_memory_may_be_used_again() -> None:
    x, y, w, b = sample(n=900, seed=1)
    with pseudo_device() as seen:
        there, here = CollapseAccumulator(5, device=DEVICE), CollapseAccumulator(5)
        memory = torch.empty(100, x.shape[1], dtype=torch.float64).to(DEVICE)
        for start in range(0, 400, 100):
            memory.copy_(torch.from_numpy(x[start : start + 100]))
            there.update(memory, y[start : start + 100])
        here.update(x[400:700], y[400:700])
        there.merge(here).update(x[700:], y[700:])
        found = there.compute(w, b)
        other = CollapseAccumulator(5).merge(there).compute(w, b)
        with pytest.raises(InputError, match="dimensions here"):
            there.update(x[:, :3], y)
    assert seen.mixed == []
    whole = collapse(x, y, w, b)
    for name in ("nc1", "vci", "cdnv", "nc2", "nc3"):
        assert found[name] == pytest.approx(whole[name], rel=1e-9) == other[name]


def test_what_is_not_finite_or_no_matrix_is_said_as_on_the_host() -> None:
    x, y, _, _ = sample(n=60)
    with pseudo_device():
        found = CollapseAccumulator(5, device=DEVICE).update(torch.full((60, 3), float("inf")).to(DEVICE), y)
        assert found.compute().undefined["nc1"] == "features are not finite"
        with pytest.raises(InputError, match="features must be a matrix"):
            CollapseAccumulator(5, device=DEVICE).update(torch.zeros(60).to(DEVICE), y)
        with pytest.raises(InputError, match="labels must be 60 integers"):
            CollapseAccumulator(5, device=DEVICE).update(torch.tensor(x).to(DEVICE), y[:3])


@pytest.mark.gpu
def test_on_a_real_device() -> None:
    x, y, w, b = sample(n=5000, seed=2)
    found = CollapseAccumulator(5, device="cuda:0")
    found.update(torch.tensor(x).cuda(), torch.tensor(y).cuda()).revisit(x, y, w, b)
    assert found.compute(w, b).values == pytest.approx(collapse(x, y, w, b).values, rel=1e-9, abs=1e-11)
