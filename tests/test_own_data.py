"""`module:callable` data sets: what can only be meant one way is taken so and said, all else says what to write."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.data import Dataset, load
from ncpl_cli.errors import InputError, NcplError
from ncpl_cli.main import call
from ncpl_cli.spec import DatasetSpec
from ncpl_cli.store import open_store

N, TEST = 40, 12
DRAW = np.random.default_rng(5)
BYTES = DRAW.integers(0, 256, (N + TEST, 6, 6)).astype(np.uint8)
LABELS = np.arange(N + TEST) % 4
_NUMBERS = itertools.count()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes the body of a function into a new module and names it; `A` holds what tests hand over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def make(body: str) -> str:
        name = f"own_data_{next(_NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(body)
        made.append(name)
        return f"{name}:make"

    yield make
    for name in made:
        sys.modules.pop(name, None)


def _taken(own: Callable[[str], str], images: Any, labels: Any) -> Dataset:
    """The data set of a function that returns these, cut into train and test, back in their order."""
    globals()["GIVEN"] = images[:N], labels[:N], images[N:], labels[N:]
    return load(DatasetSpec(own(f"from {__name__} import GIVEN\ndef make():\n    return GIVEN\n")))


def _sorted(images: Any, labels: Any) -> list[tuple[bytes, int]]:
    return sorted((np.ascontiguousarray(i, np.float32).tobytes(), int(y)) for i, y in zip(images, labels, strict=True))


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


def _requires_grad() -> torch.Tensor:
    return torch.tensor(BYTES / 255.0, requires_grad=True)


COLOUR = DRAW.integers(0, 256, (N + TEST, 6, 5, 3)).astype(np.uint8)
FLOATS = (BYTES / 255).astype(np.float32)[:, None]
TABLE = DRAW.normal(size=(N + TEST, 7))

IMAGES = {
    "grey": (BYTES, BYTES[:, None], 255, None),
    "channels first": (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2), 255, None),
    "channels last": (COLOUR, COLOUR.transpose(0, 3, 1, 2), 255, "(N, H, W, C): 3 channels"),
    "grey, channels last": (BYTES[..., None], BYTES[:, None], 255, "(N, H, W, C): 1 channels"),
    "Fortran order": (np.asfortranarray(COLOUR), COLOUR.transpose(0, 3, 1, 2), 255, "(N, H, W, C)"),
    "read-only": (_read_only(BYTES), BYTES[:, None], 255, None),
    "reversed view": (BYTES[::-1][::-1], BYTES[:, None], 255, None),
    "tensor": (torch.from_numpy(BYTES), BYTES[:, None], 255, None),
    "int64 bytes": (BYTES.astype(np.int64), BYTES[:, None], 255, "taken as bytes"),
    "float bytes": (BYTES.astype(np.float64), BYTES[:, None], 255, "taken as bytes"),
    "big-endian": (BYTES.astype(">i2"), BYTES[:, None], 255, "taken as bytes"),
    "floats": (FLOATS, FLOATS, 1, None),
    "float16": (FLOATS.astype(np.float16), FLOATS.astype(np.float16), 1, None),
    "small whole floats": (BYTES // 16 * 1.0, (BYTES // 16)[:, None], 1, "taken as they are"),
    "masks": (BYTES > 99, (BYTES > 99)[:, None], 1, None),
    "table": (TABLE, TABLE.astype(np.float32)[:, None, None], 1, None),
    "table of bytes": (BYTES[:, 0], BYTES[:, 0][:, None, None], 1, "taken as they are"),
    "ten channels": (np.repeat(BYTES[:, None], 10, 1), np.repeat(BYTES[:, None], 10, 1), 255, None),
    "ten channels last": (np.repeat(BYTES[..., None], 10, 3), np.repeat(BYTES[..., None], 10, 3), 255, "transpose"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_every_kind(own: Callable[[str], str], kind: str) -> None:
    given, expected, scale, said = IMAGES[kind]
    data = _taken(own, given, LABELS)
    assert data.scale == scale and data.classes == 4
    assert data.train.images.dtype == (np.uint8 if data.scale == 255 or kind == "masks" else np.float32)
    assert _sorted(data.train.images, data.train.labels) == _sorted(expected[:N], LABELS[:N])
    assert _sorted(data.test.images, data.test.labels) == _sorted(expected[N:], LABELS[N:])
    assert (said is None and not data.notes) or (said and said in " ".join(data.notes)), data.notes


BAD_IMAGES = {
    "sixteen bits": (lambda: BYTES.astype(np.uint16) * 200, "astype(np.float32) / 65535"),
    "negative": (lambda: BYTES.astype(np.int16) - 100, "astype(np.float32)"),
    "nan": (lambda: np.where(BYTES > 250, np.nan, 1.0), "nan or infinite"),
    "infinite": (lambda: np.where(BYTES > 250, np.inf, 1.0), "nan or infinite"),
    "complex": (lambda: BYTES * 1j, "complex"),
    "masked": (lambda: np.ma.masked_greater(BYTES, 9), "filled"),
    "five axes": (lambda: BYTES[:, None, None], "(N, H, W, C)"),
    "one axis": (lambda: BYTES[:, 0, 0], "(N, H, W, C)"),
    "gradients": (_requires_grad, "detach().cpu().numpy()"),
    "ragged": (lambda: [np.zeros((i % 2 + 3, 3), np.uint8) for i in range(N + TEST)], "no array"),
    "one image too few": (lambda: BYTES[:-1], "11 test images and 12 test labels"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_other_images_are_refused_with_what_to_write(own: Callable[[str], str], kind: str) -> None:
    make, said = BAD_IMAGES[kind]
    with pytest.raises(InputError) as caught:
        _taken(own, make(), LABELS)
    assert said in f"{caught.value} {caught.value.hint}"


WORDS = np.array(["dog", "ant", "cat", "bee"])
LABEL_KINDS = {
    "int32": (LABELS.astype(np.int32), LABELS, None),
    "uint64": (LABELS.astype(np.uint64), LABELS, None),
    "column": (LABELS[:, None], LABELS, None),
    "tensor": (torch.from_numpy(LABELS), LABELS, None),
    "list": (LABELS.tolist(), LABELS, None),
    "from 1": (LABELS + 1, LABELS, "counted from 0"),
    "gaps": (LABELS * 10 + 3, LABELS, "3, 13, 23, 33 became the classes 0 to 3"),
    "plus and minus one": (LABELS % 2 * 2 - 1, LABELS % 2, "-1, 1 became"),
    "floats": (LABELS.astype(np.float32), LABELS, "whole numbers"),
    "floats from 1 in a column": (LABELS[:, None] + 1.0, LABELS, "counted from 0"),
    "one-hot": (np.eye(4)[LABELS], LABELS, "one-hot"),
    "one-hot, one class empty": (np.eye(6, dtype=bool)[LABELS], LABELS, "one-hot"),
    "truth": (LABELS > 1, LABELS > 1, None),
    "words": (WORDS[LABELS], np.array([3, 0, 2, 1])[LABELS], "alphabet"),
    "objects": (WORDS[LABELS].astype(object), np.array([3, 0, 2, 1])[LABELS], "alphabet"),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_every_kind(own: Callable[[str], str], kind: str) -> None:
    given, expected, said = LABEL_KINDS[kind]
    data = _taken(own, BYTES, given)
    assert _sorted(data.train.images, data.train.labels) == _sorted(BYTES[:N], expected[:N])
    assert _sorted(data.test.images, data.test.labels) == _sorted(BYTES[N:], expected[N:])
    assert data.classes == (6 if "empty" in kind else len(np.unique(expected)))
    assert (said is None and not data.notes) or (said and said in " ".join(data.notes)), data.notes


BAD_LABELS = {
    "halves": (LABELS / 2, "labels.astype(np.int64)"),
    "soft": (np.full((N + TEST, 4), 0.25), "argmax(1)"),
    "several ones": (np.eye(4)[LABELS] + np.eye(4)[0], "argmax(1)"),
    "ignored": (np.where(LABELS == 3, -100, LABELS), "labels >= 0"),
    "a regression": (np.arange(N + TEST), "regression"),
    "one class": (LABELS * 0, "two classes"),
    "hashes": (LABELS.astype(np.uint64) + np.uint64(2**63), "return_inverse"),
    "nan": (np.where(LABELS == 3, np.nan, LABELS), "whole numbers"),
    "three axes": (LABELS[:, None, None], "reshape(-1)"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_other_labels_are_refused_with_what_to_write(own: Callable[[str], str], kind: str) -> None:
    given, said = BAD_LABELS[kind]
    with pytest.raises(InputError) as caught:
        _taken(own, BYTES, given)
    assert said in f"{caught.value} {caught.value.hint}"


def test_bytes_keep_the_digest_they_had(own: Callable[[str], str]) -> None:
    """A run's identity: the content of plain uint8 images and labels from 0 has one digest however it is given."""
    plain = _taken(own, BYTES, LABELS)
    assert plain.digest == _taken(own, BYTES.astype(float), LABELS + 1).digest
    assert plain.digest != _taken(own, FLOATS, LABELS).digest


RETURNED = {
    "None": "None", "three": "1, 2, 3", "a word": "'data'", "a dict": "{'a': 1, 'b': 2, 'c': 3, 'd': 4}",
}  # fmt: skip


@pytest.mark.parametrize("kind", RETURNED)
def test_a_wrong_return_is_the_command_lines_fault(
    own: Callable[[str], str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = own(f"def make():\n    return {RETURNED[kind]}\n")
    assert call(["train", "permuted-digits", "--dataset", name, "--dry-run"]) == 2
    assert "not four arrays" in capsys.readouterr().err


FAULTY = {
    "the function": ("def make():\n    x = 1\n    raise KeyError('no such column')\n", 1, "line 3", "no such column"),
    "a library": (
        "import numpy as np\ndef make():\n    return np.load('/nowhere/x.npy')\n",
        1,
        "line 3",
        "No such file",
    ),
    "leaving": ("import sys\ndef make():\n    sys.exit('set DATA first')\n", 1, "line 3", "set DATA first"),
    "its import": ("import numpy\nvalue = undefined_name\n", 2, "line 2", "undefined_name"),
    "its syntax": ("def make(:\n    pass\n", 2, "line 1", "SyntaxError"),
    "a lack": ("import not_installed_at_all\n", 2, "line 1", "not_installed_at_all"),
    "arguments": ("def make(root):\n    pass\n", 2, "", "missing a required argument: 'root'"),
    "a constant": ("make = 3\n", 2, "", "not callable"),
    "another name": ("def made():\n    pass\n", 2, "", "it has: made"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_what_their_code_raises_is_shown_with_their_line(
    own: Callable[[str], str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    body, code, line, said = FAULTY[kind]
    name = own(body)
    assert call(["train", "permuted-digits", "--dataset", name, "--dry-run"]) == code
    err = capsys.readouterr().err
    assert said in err and line in err and "unexpectedly" not in err and "report" not in err
    if line:
        assert f"{name.partition(':')[0]}.py, {line}" in err


def test_a_module_that_is_missing_is_the_command_lines_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["train", "permuted-digits", "--dataset", "no_such_module_here:make", "--dry-run"]) == 2
    assert "no_such_module_here" in capsys.readouterr().err


def test_a_network_of_their_own_that_fails_says_where(
    own: Callable[[str], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = own("def make(shape, classes):\n    raise ValueError('wants 224 x 224')\n")
    assert call(["train", "permuted-digits", "--network", made, "--db", str(tmp_path / "a.db")]) == 1
    err = capsys.readouterr().err
    assert "wants 224 x 224" in err and ".py, line 2" in err and "unexpectedly" not in err


def test_a_table_trains_an_mlp(own: Callable[[str], str], tmp_path: Path) -> None:
    """Two classes that a line parts are learnt from floats below and above zero."""
    name = own(
        "import numpy as np\n"
        "def make():\n"
        "    x = np.random.default_rng(0).normal(size=(300, 5))\n"
        "    y = x @ [1, -1, 2, 0, 0] > 0\n"
        "    return x[:200], y[:200], x[200:], y[200:]\n"
    )
    options = ["--tasks", "1", "--epochs", "30", "--batch-size", "32", "--lr", "0.1", "--depth", "1"]
    code = call(["train", "permuted-digits", "--dataset", name, *options, "--db", str(tmp_path / "a.db")])
    assert code == 0
    with open_store(tmp_path / "a.db") as store:
        frame = store.frame()
    assert frame["online_accuracy"].max() > 0.95


def test_errors_of_ncpl_itself_are_not_blamed_on_others() -> None:
    from ncpl_cli.callables import where

    try:
        load(DatasetSpec("digits", train_samples=3))
    except NcplError as error:
        assert where(error) is None
