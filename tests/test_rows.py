"""The loops over picked rows, in registers and plain, against the sums written out in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numba import njit

from ncpl_cli.data import registers, rows
from ncpl_cli.data.dataset import Split
from ncpl_cli.data.sparse import sparse
from ncpl_cli.engines.online_kernel import kernel

LOOPS = [
    pytest.param(rows.plain, id="plain"),
    pytest.param(
        registers,
        id="registers",
        marks=pytest.mark.skipif(not rows.IN_REGISTERS, reason="this processor has no AVX2 and FMA"),
    ),
]


def compiled(loops: Any, width: int, moving: int) -> Any:
    """The three loops with their constants, as the kernel calls them."""
    add_rows, move_rows, times_rows = loops.add_rows, loops.move_rows, loops.times_rows

    @njit(error_model="numpy")
    def all_three(z, base, weights, index, values, first, last, factor, d, scale, out):  # type: ignore[no-untyped-def]
        add_rows(width, z, base, weights, index, values, first, last)
        times_rows(width, moving, weights, index, values, last, d, scale, factor, out)
        move_rows(width, weights, index, values, first, last, factor, d)

    return all_three


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize(
    ("width", "dtype", "moving"), [(8, "float32", 0), (104, "float32", 1), (256, "float32", 0), (104, "float64", 1)]
)
def test_they_are_the_sums_they_name(loops: Any, width: int, dtype: str, moving: int) -> None:
    draw = np.random.default_rng(width + moving)
    run = compiled(loops, width, moving)
    for first, last in ((0, 19), (3, 12), (5, 5)):
        weights, base, d = draw.normal(size=(40, width)), draw.normal(size=width), draw.normal(size=width)
        values, out, index = draw.normal(size=20), draw.normal(size=40), draw.permutation(40)[:20].astype(np.uint32)
        given = [array.astype(dtype) for array in (weights, base, d, values, out)]
        w, b, e, v, o = given
        z = np.full(width, np.nan, dtype)  # whatever stood there before
        run(z, b, w, index, v, first, last, v.dtype.type(0.3), e, v.dtype.type(0.7), o)

        w64, b64, e64, v64, o64 = (array.astype(np.float64) for array in (weights, base, d, values, out))
        expected_z = b64 + v64[first:last] @ w64[index[first:last]]
        o64[index[:last]] += 0.7 * w64[index[:last]] @ e64
        if moving:
            w64[index[:last]] -= 0.3 * np.outer(v64[:last], e64)
        w64[index[first:last]] -= 0.3 * np.outer(v64[first:last], e64)
        close = {"rtol": 0, "atol": 2e-5 if dtype == "float32" else 1e-13}
        np.testing.assert_allclose(z, expected_z, **close)
        np.testing.assert_allclose(o, o64, **close)
        np.testing.assert_allclose(w, w64, **close)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_active_are_those_above_zero_and_those_that_are_no_number(loops: Any, dtype: str) -> None:
    pick_active = loops.pick_active

    @njit(error_model="numpy")
    def pick(z, index, values):  # type: ignore[no-untyped-def]
        return pick_active(z, index, values)

    draw = np.random.default_rng(4)
    for size in (8, 104, 256):
        unlike = draw.choice([np.nan, -0.0, 0.0, np.inf, -np.inf, -1e-45, 1e-45], size)
        some = draw.normal(size=(3, size))
        for z in (*some.astype(dtype), np.where(some[0] > 1, unlike, some[1]).astype(dtype), np.ones(size, dtype)):
            index, values, expected = np.empty(size, np.uint32), np.empty(size, dtype), np.flatnonzero(~(z <= 0))
            count = pick(z, index, values)
            assert np.array_equal(index[:count], expected) and values[:count].tobytes() == z[expected].tobytes()


@pytest.mark.parametrize("loops", LOOPS)
def test_what_is_asked_for_is_not_changed_and_nothing_else_is_read(loops: Any) -> None:
    fetch = loops.fetch

    @njit
    def ask(array, first, last):  # type: ignore[no-untyped-def]
        fetch(array, first, last)

    for array in (np.arange(40, dtype=np.uint32), np.arange(40.0), np.empty(0, np.int64)):
        before = array.copy()
        for first, last in ((0, len(array)), (3, 4), (7, 7), (9, 2)):
            ask(array, first, last)
        assert np.array_equal(array, before)


def test_a_product_that_is_not_a_number_is_seen() -> None:
    weights, z = np.ones((2, 8), np.float32), np.zeros(8, np.float32)
    weights[1, 3] = np.nan
    index, values = np.arange(2, dtype=np.uint32), np.zeros(2, np.float32)
    given = z, z.copy(), weights, index, values, 0, 2, np.float32(0), z.copy(), np.float32(1), np.zeros(2, np.float32)
    compiled(rows, 8, 1)(*given)
    assert np.isnan(z[3]) and np.isfinite(np.delete(z, 3)).all()


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255.0), ("float32", 3.0), ("float64", 1.0)])
def test_sparse_images_are_the_pixels_that_are_not_zero(dtype: str, scale: float) -> None:
    draw = np.random.default_rng(3)
    wide = (draw.integers(0, 256, (14, 1, 5, 4)) * (draw.random((14, 1, 5, 4)) < 0.3)).astype(dtype)
    wide[4] = 0  # an empty image amid others, and one at the end
    wide[-2] = 0
    if dtype != "uint8":
        wide[0, 0, 0, 0], wide[2, 0, 0, 1] = np.nan, -0.0
    wide.flags.writeable = False
    split, flat = Split(wide[::2], np.zeros(7, np.int64)), wide[::2].reshape(7, 20)
    image, pixel = np.nonzero(flat)
    for name in ("float32", "float64"):
        found = sparse(split, scale, name)
        assert np.array_equal(np.repeat(np.arange(7), np.diff(found.starts)), image)
        assert np.array_equal(found.pixels, pixel) and found.pixels.dtype == np.uint32
        expected = (flat.astype(np.float64)[image, pixel] / scale).astype(name)
        assert found.values.tobytes() == expected.tobytes()


def test_on_another_processor_the_plain_loops_do_the_same() -> None:
    code = (
        "from ncpl_cli.data import rows\n"
        "assert not rows.IN_REGISTERS and rows.add_rows is rows.plain.add_rows\n"
        "from tests.test_online_engine import test_it_equals_autograd_in_float64 as check\n"
        "from ncpl_cli.data import load\nfrom ncpl_cli.spec import DatasetSpec\n"
        "check(load(DatasetSpec('digits')), 2, 1, True)\n"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": "generic"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_compiled_loop_is_cached_by_the_source_of_its_rows() -> None:
    closure = kernel(8, 8).py_func.__closure__  # type: ignore[attr-defined]
    assert rows.SOURCE in [cell.cell_contents for cell in closure]
