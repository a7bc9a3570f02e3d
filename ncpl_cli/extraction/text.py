"""Text that a network is shown: next tokens of a language model, texts with a label each, tokens with one each.

    text:FILE     .txt is one text; .jsonl, .csv and .parquet have a text a row: `text`, with `label` of the whole, or
                  `tokens` (words) with `labels` (one a word)
    tokens:FILE   numbers: .npy is one sequence (T,) or several (N, T); .npz has input_ids (N, T) and, if there are any,
                  attention_mask (N, T) and labels, (N,) or (N, T)
Classes of a language model are the next tokens (Wu & Papyan 2024): a sample is a position, its label the token after
it. Labels below 0 are no samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli.errors import DataError, InputError, told
from ncpl_cli.extraction.models import Model, quiet
from ncpl_cli.extraction.shown import Batch, Labels, Shown
from ncpl_cli.rng import stream

Sequences = list[NDArray[np.int64]]
NO_SAMPLE = -100
"""The label of a token that is no sample, as transformers has it."""


def of_text(
    model: Model, dataset: str, *, classes_from: str | None, max_classes: int | None, min_count: int,
    context: int | None, samples: int | None,
) -> Shown:  # fmt: skip
    """What a data set of text shows a model, whose kind says what is a sample. Raises InputError, DataError."""
    length = min(context or model.context, model.context) if model.tokenizer or context is None else context
    kind, _, name = dataset.partition(":")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"there is no file {path}.", "--dataset text:FILE or tokens:FILE")
    wanted = classes_from or ("tokens" if model.kind == "next" else "labels")
    if wanted == "tokens" and model.kind != "next":
        raise InputError("--classes-from tokens is for language models; this one has classes of its own.")
    read = _tokens if kind == "tokens" else _texts
    sequences, targets = read(model, path, length, wanted)
    whole = targets and isinstance(targets[0], int)
    if model.kind == "labelled" and not whole:
        raise InputError(f"{path} has no label for each of its texts.", "a column `label` beside `text`")
    if model.kind != "labelled" and whole:
        raise InputError(f"{path} has a label for each text, and this network gives one for each token.")
    if whole:
        return _labelled(sequences, np.array(targets, np.int64), max_classes, min_count, samples)
    return _tokenwise(sequences, targets, wanted == "tokens" or model.kind == "tagged", max_classes, min_count, samples)


def _tokens(model: Model, path: Path, length: int, wanted: str) -> tuple[Sequences, list[Any]]:
    """Sequences of numbers of tokens, and what stands for each: next tokens, or the labels of the file."""
    try:
        read = np.load(path, allow_pickle=False)
        given: dict[str, Any] = {"input_ids": read}
        if isinstance(read, np.lib.npyio.NpzFile):
            with read:
                given = dict(read)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} holds no arrays of numbers ({told(error)}).", "np.save(path, input_ids)") from error
    ids = given.get("input_ids")
    if ids is None or ids.ndim not in (1, 2) or ids.dtype.kind not in "iu" or not ids.size or ids.min() < 0:
        raise InputError(f"{path} has no input_ids: whole numbers (T,) or (N, T).", "np.save(path, input_ids)")
    rows = [np.asarray(row, np.int64) for row in np.atleast_2d(ids)]
    if (mask := given.get("attention_mask")) is not None:
        if mask.shape != np.atleast_2d(ids).shape:
            raise InputError(f"attention_mask of {path} is {mask.shape}, and input_ids are {ids.shape}.")
        lengths = mask.astype(bool).sum(1)
        if (np.sort(mask.astype(bool), axis=1)[:, ::-1] != mask.astype(bool)).any():
            raise InputError(f"attention_mask of {path} does not pad at the end.", "pad on the right")
        rows = [row[:end] for row, end in zip(rows, lengths, strict=True)]
    if wanted == "tokens":
        return _windows(rows, length)
    labels = given.get("labels")
    if labels is None or len(labels) != len(rows) or labels.dtype.kind not in "iu" or labels.ndim > 2:
        raise InputError(f"{path} has no labels: whole numbers, one a sequence (N,) or one a token (N, T).")
    if labels.ndim == 1:
        return [row[:length] for row in rows], [int(label) for label in labels]
    if labels.shape != np.atleast_2d(ids).shape:
        raise InputError(f"labels of {path} are {labels.shape}, and input_ids are {ids.shape}.")
    return [row[:length] for row in rows], [
        np.asarray(label[: len(row)], np.int64)[:length] for label, row in zip(labels, rows, strict=True)
    ]


def _texts(model: Model, path: Path, length: int, wanted: str) -> tuple[Sequences, list[Any]]:
    """The same of texts, by the model's tokenizer."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer here.", "--dataset tokens:FILE.npy has numbers of tokens")
    records = list(_records(path))
    if not records:
        raise DataError(f"{path} is empty.", "it may hold one text, or a text a row")
    if wanted == "tokens":
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        with quiet():
            texts = (tokenizer(_of(one, "text", path), add_special_tokens=False, verbose=False) for one in records)
            stream_of = [np.array(text["input_ids"] + end, np.int64) for text in texts]
        return _windows([np.concatenate(stream_of)], length)
    if model.kind == "tagged":
        names = _names([_of(one, "labels", path) for one in records], model, path)
        sequences, targets = [], []
        for one, tags in zip(records, names, strict=True):
            with quiet():
                given = tokenizer(list(_of(one, "tokens", path)), is_split_into_words=True, truncation=True,
                                  max_length=length)  # fmt: skip
            words = given.word_ids()
            first = [place for place, word in enumerate(words) if word is not None and word not in words[:place]]
            target = np.full(len(words), NO_SAMPLE, np.int64)
            target[first] = [tags[words[place]] for place in first]
            sequences.append(np.array(given["input_ids"], np.int64))
            targets.append(target)
        return sequences, targets
    labels = _names([[_of(one, "label", path)] for one in records], model, path)
    with quiet():
        ids = [tokenizer(_of(one, "text", path), truncation=True, max_length=length)["input_ids"] for one in records]
    return [np.array(one, np.int64) for one in ids], [int(label[0]) for label in labels]


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if path.suffix == ".txt":
            yield {"text": path.read_text(encoding="utf-8")}
        elif path.suffix in (".jsonl", ".json"):
            with path.open(encoding="utf-8") as file:
                yield from (json.loads(line) for line in file if line.strip())
        elif path.suffix in (".csv", ".parquet"):
            import pandas as pd

            frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
            yield from frame.to_dict("records")  # type: ignore[misc]
        else:
            raise InputError(f"{path} is no file of text.", "known are .txt, .jsonl, .csv and .parquet")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({told(error)}).", "UTF-8 text, one JSON object a line, a table"
        ) from error


def _of(record: Mapping[str, Any], column: str, path: Path) -> Any:
    if not isinstance(record, Mapping) or column not in record:
        has = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise InputError(f"{path} has no column {column}; it has {has}.")
    return record[column]


def _names(labels: Sequence[Sequence[Any]], model: Model, path: Path) -> list[NDArray[np.int64]]:
    """Labels as numbers of the network's outputs: numbers as they are, words by the network's names of them."""
    words = sorted({str(one) for row in labels for one in row if not isinstance(one, int | np.integer)})
    if unknown := [word for word in words if word not in model.label_ids]:
        known = ", ".join(list(model.label_ids)[:8])
        raise InputError(f"{path} has labels that {model.name} does not know: {', '.join(unknown[:4])}.", known)
    return [
        np.array([one if isinstance(one, int | np.integer) else model.label_ids[str(one)] for one in row], np.int64)
        for row in labels
    ]


def _windows(rows: Sequences, length: int) -> tuple[Sequences, list[NDArray[np.int64]]]:
    """Pieces of at most `length` tokens, and of each position the token after it; none is shown twice."""
    sequences, targets = [], []
    for row in rows:
        for start in range(0, len(row) - 1, length):
            piece = row[start : start + length + 1]
            sequences.append(piece[:-1])
            targets.append(piece[1:])
    if not sequences:
        raise InputError("there are no two tokens, one after the other.", "a longer text")
    return sequences, targets


def _kept(counts: NDArray[np.int64], max_classes: int | None, min_count: int) -> NDArray[np.bool_]:
    """Which classes stay, by how many samples they have: the largest, of equal ones the first."""
    kept = counts >= max(1, min_count)
    if max_classes is not None and kept.sum() > max_classes:
        order = np.argsort(-counts, kind="stable")[:max_classes]
        kept &= np.isin(np.arange(len(counts)), order)
    if not kept.any():
        raise InputError("no class is left.", "a smaller --min-count")
    return kept


def _said(counts: NDArray[np.int64], kept: NDArray[np.bool_]) -> list[str]:
    there = counts > 0
    if (there <= kept).all():
        return []
    share = counts[kept].sum() / counts.sum()
    return [f"{int(kept.sum()):,} of {int(there.sum()):,} classes are kept, {share:.1%} of the samples."]


def _labelled(
    sequences: Sequences, labels: Labels, max_classes: int | None, min_count: int, samples: int | None
) -> Shown:
    counts = np.bincount(labels[labels >= 0])
    kept = _kept(counts, max_classes, min_count)
    rows = np.flatnonzero(labels >= 0)
    rows = rows[kept[labels[rows]]]
    if samples is not None and samples < len(rows):
        rows = np.sort(stream(0, "texts").permutation(rows)[:samples])

    def batches(size: int) -> Iterator[Batch]:
        for start in range(0, len(rows), size):
            given, mask = _padded([sequences[row] for row in rows[start : start + size]])
            yield Batch(given, len(given["input_ids"]), mask=mask)

    return Shown(labels[rows], batches, notes=_said(counts, kept))


def _tokenwise(
    sequences: Sequences, targets: list[NDArray[np.int64]], comparable: bool, max_classes: int | None, min_count: int,
    samples: int | None,
) -> Shown:  # fmt: skip
    every = np.concatenate(targets)
    if not (every >= 0).any():
        raise InputError("no token has a label.")
    counts = np.bincount(every[every >= 0])
    kept = np.append(_kept(counts, max_classes, min_count), False)  # at the end for labels below 0
    chosen = [np.flatnonzero(kept[np.where(one >= 0, one, -1)]) for one in targets]
    order = [row for row, places in enumerate(chosen) if len(places)]
    if samples is not None:
        mixed = stream(0, "sequences").permutation(order)
        until = np.cumsum([len(chosen[row]) for row in mixed])
        taken = [int(row) for row in mixed[: int(np.searchsorted(until, samples)) + 1]]
        over = sum(len(chosen[row]) for row in taken) - samples
        if over > 0:  # fewer than the last has
            chosen[taken[-1]] = chosen[taken[-1]][:-over]
        order = sorted(taken)
    labels = np.concatenate([targets[row][chosen[row]] for row in order])

    def batches(size: int) -> Iterator[Batch]:
        for start in range(0, len(order), size):
            own = order[start : start + size]
            given, mask = _padded([sequences[row] for row in own])
            width = mask.shape[1]
            rows = np.concatenate([chosen[row] + place * width for place, row in enumerate(own)])
            yield Batch(given, len(rows), torch.from_numpy(rows), mask)

    return Shown(labels, batches, comparable, _said(counts, kept[:-1]))


def _padded(rows: Sequences) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Sequences in one tensor, shorter ones padded at the end, and which tokens there are."""
    width = max(len(row) for row in rows)
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    shown = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    return shown, shown["attention_mask"]
