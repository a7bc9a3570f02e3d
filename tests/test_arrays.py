"""Arrays as people have them: of foreign types, read-only, in other orders; and what is refused says what to write."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.metrics import CollapseAccumulator, collapse
from ncpl_cli.metrics.features import measure_features
from tests.test_collapse import sample

Array = np.ndarray[Any, Any]


def bfloat16(x: Array) -> Array:
    """The upper halves of float32, as NumPy stores what it has no name for."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2")


def widened(x: Array) -> Array:
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def read_only(x: Array) -> Array:
    found = x.copy()
    found.setflags(write=False)
    return found


def bits(given: Any) -> bytes:
    return given.detach().float().numpy().tobytes() if hasattr(given, "detach") else np.array(given).tobytes()


KINDS = {
    "bfloat16 as two bytes": (bfloat16, widened),
    "float16": (lambda x: x.astype(np.float16), lambda x: x.astype(np.float16).astype(np.float32)),
    "read-only": (read_only, lambda x: x),
    "Fortran order": (np.asfortranarray, lambda x: x),
    "a view with steps": (lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2], lambda x: x),
    "backwards": (lambda x: x[::-1, ::-1].copy()[::-1, ::-1], lambda x: x),
    "big-endian": (lambda x: x.astype(">f4"), lambda x: x.astype(np.float32)),
    "lists": (lambda x: x.tolist(), lambda x: x),
    "a matrix": (lambda x: x.astype(np.float32), lambda x: x.astype(np.float32)),
    "torch bfloat16": (lambda x: torch.from_numpy(x).bfloat16(), lambda x: torch.from_numpy(x).bfloat16().float()),
    "torch with gradient": (lambda x: torch.from_numpy(x).requires_grad_(), lambda x: x),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_array_is_what_it_holds(kind: str) -> None:
    x, y, w, b = sample(n=120)
    make, right = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given, plain = make(x), np.ascontiguousarray(np.asarray(right(x)))
        before = bits(given)
        one = collapse(given, y, w, b)
        assert one.values == collapse(plain, y, w, b).values
        stream = CollapseAccumulator(5).update(given, read_only(y)).revisit(given, y, read_only(w), b)
        assert stream.compute(w, b)["nc1"] == pytest.approx(one["nc1"], rel=1e-9)
        measured = measure_features(given, read_only(y), read_only(w), read_only(b), given, y)
        assert measured.values == measure_features(plain, y, w, b, plain, y).values
    after = bits(given)
    assert before == after


@pytest.mark.parametrize("dtype", ["uint64", "uint8", "int16", ">i4"])
def test_labels_of_any_integer_type(dtype: str) -> None:
    x, y, w, b = sample()
    assert collapse(x, y.astype(dtype), w, b).values == collapse(x, y, w, b).values


def test_memory_that_may_not_be_written_is_only_read(tmp_path: Path) -> None:
    x, y, _, _ = sample()
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    shown = np.load(tmp_path / "x.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert collapse(shown, y).values == collapse(x.astype(np.float32), y).values
    assert not shown.flags.writeable


X, Y, W, B = sample(n=60)
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "masked": ({"features": np.ma.masked_less(X, 0)}, "masked array", "~np.ma.getmaskarray"),
    "masked labels": ({"labels": np.ma.masked_equal(Y, 3)}, "masked array", "labels.data[keep]"),
    "float labels": ({"labels": Y.astype("f4")}, "60 integers, not float32", "labels.astype(int)"),
    "soft labels": ({"labels": Y + 0.5}, "60 integers", "must name classes"),
    "labels that are NaN": ({"labels": np.full(60, np.nan)}, "60 integers", "must name classes"),
    "a column": ({"labels": Y[:, None]}, "not int64 (60, 1)", "labels = labels[:, 0]"),
    "a column of floats": ({"labels": Y[:, None] * 1.0}, "(60, 1)", "labels[:, 0].astype(int)"),
    "one-hot": ({"labels": np.eye(5, dtype=int)[Y]}, "(60, 5)", "labels.argmax(1)"),
    "booleans": ({"labels": Y > 2}, "not bool", "labels.astype(int)"),
    "words": ({"labels": np.array(list("abcde"))[Y]}, "words", "return_inverse"),
    "ignored": ({"labels": np.where(Y == 3, -100, Y)}, "negative one, -100", "keep = labels >= 0"),
    "hashes": ({"labels": Y.astype(np.uint64) + np.uint64(2**63)}, "below 2^63", "return_inverse"),
    "from 1": ({"labels": Y + 1, "weight": W, "bias": B}, "a row for each label to 5", "labels - 1"),
    "a kernel of d x C": ({"weight": W.T}, "weight must be (classes, 12)", "weight.T"),
    "bias as a column": ({"weight": W, "bias": B[:, None]}, "one value for each row", "bias.reshape(-1)"),
    "maps": ({"features": X.reshape(60, 3, 2, 2)}, "matrix (N, d), not (60, 3, 2, 2)", "features.mean((2, 3))"),
    "one feature": ({"features": X[:, 0]}, "matrix", "features[:, None]"),
    "complex": ({"features": X + 0j}, "not of complex128", "features.real"),
    "eight bits without a name": ({"features": X.astype("i1").view("V1")}, "1 bytes without a type", "np.float32"),
    "objects": ({"features": X.astype(object)}, "not of object", "tolist"),
    "ragged": ({"features": [[1.0], [1.0, 2.0]]}, "array of numbers", "np.array"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_says_what_to_write(kind: str) -> None:
    changed, words, write = REFUSED[kind]
    given = {"features": X, "labels": Y, "weight": None, "bias": None} | changed
    with pytest.raises(InputError) as refused:
        collapse(**given)
    assert words in str(refused.value) and write in (refused.value.hint or "")
    with pytest.raises(InputError):
        CollapseAccumulator(5).revisit(**given)
    with pytest.raises(InputError):
        measure_features(**given)


@pytest.mark.parametrize("kind", ["one-hot", "ignored", "hashes", "from 1", "bias as a column", "maps", "words"])
def test_a_file_of_them_is_refused_likewise(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changed, words, write = REFUSED[kind]
    np.savez("f.npz", **{"features": X, "labels": Y} | changed)
    assert call(["measure", "f.npz"]) == 2
    said = capsys.readouterr().err
    assert words in said and write in said and "Traceback" not in said


def test_a_file_of_bfloat16_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("f.npz", features=bfloat16(X), labels=Y)
    assert call(["measure", "f.npz", "--metrics", "nc1"]) == 0
    out, err = capsys.readouterr()
    value = float(next(line for line in out.splitlines() if "nc1" in line).split("\t")[3])
    assert value == pytest.approx(collapse(widened(X), Y)["nc1"], rel=1e-12)
    assert "as NumPy saves bfloat16" in err


def test_a_type_of_ml_dtypes_is_taken_where_it_is_installed() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = X.astype(np.float32).astype(ml_dtypes.bfloat16)
    assert collapse(given, Y).values == collapse(given.astype(np.float32), Y).values
    small = X.astype(ml_dtypes.float8_e4m3fn)
    assert collapse(small, Y).values == collapse(small.astype(np.float32), Y).values


def test_importing_the_metrics_names_stays_light() -> None:
    code = "import sys, ncpl_cli.metrics; assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("empty", ["test", "unseen"])
def test_an_empty_split_is_refused_in_a_sentence(empty: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.repeat(np.arange(3), 20)
    with pytest.raises(InputError, match=f"{empty}_features has no rows"):
        measure_features(x, y, **{f"{empty}_features": x[:0], f"{empty}_labels": y[:0]})
