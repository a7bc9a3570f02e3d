"""What `ncpl measure` measures: a features file, a file of weights, a stored run after one of its epochs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ncpl_cli import html, networks, runs, settings
from ncpl_cli.data import Dataset
from ncpl_cli.data.feature_files import FeatureFiles, is_layer, layers_of, open_files
from ncpl_cli.errors import DataError, InputError, told
from ncpl_cli.metrics import Measured, Snapshot, measure
from ncpl_cli.metrics.catalogue import AT_START, METRICS, chosen
from ncpl_cli.metrics.expensive import what_it_takes
from ncpl_cli.metrics.features import measure_features
from ncpl_cli.metrics.neural_collapse import CLASSIFIER_METRICS
from ncpl_cli.metrics.streamed import measure_stream
from ncpl_cli.networks.weights import load, read_weights, there
from ncpl_cli.provenance import provenance
from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.runs import Observer
from ncpl_cli.scenarios import Task, shown_by
from ncpl_cli.spec import NetworkSpec
from ncpl_cli.store import Owner, RunRow, Store
from ncpl_cli.trainer import begun, build

NEEDED = ("features", "labels")
OPTIONAL = (
    "weight", "bias", "test_features", "test_labels", "fine_labels", "test_fine_labels", "unseen_features",
    "unseen_labels",
)  # fmt: skip
KEYS = (
    "features (N x d) and labels (N), and if there are any weight (C x d), bias (C), test_features, test_labels, "
    "fine_labels, test_fine_labels, unseen_features, unseen_labels"
)

KNOWN_STARTS = (b"PK", b"\x93NUMPY", b"\x80")
"""First bytes of a zip archive, which an .npz is, and of what people take for one: a single array, a pickle."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of a target. `stored`: whether it now stands in the store."""

    target: str
    found: Measured
    notes: tuple[str, ...] = ()
    stored: bool = False

    def _repr_html_(self) -> str:
        return html.shown(self.target, (), (), self.notes) + self.found._repr_html_()


MOST_IN_MEMORY = 4 << 30
"""Bytes of features that are read at once; of more, blocks are gone through twice."""


def of_features(
    paths: Sequence[Path], metrics: Sequence[str], global_mean: str = "sample",
    seen: Callable[[int, int], None] = lambda done, total: None, layers: str = "last", device: str = "cpu",
) -> Measurement:  # fmt: skip
    """The chosen metrics of features from any framework: an .npz, or several files as `data.feature_files` has them.

    `seen(done, total)` is told how many rows are behind, where they are read in blocks, and their products are made
    on `device`, a CUDA device or the processor. `layers` all: the arrays features/NAME of an .npz too. Raises
    InputError for a file that is not there, lacks an array, holds objects or arrays that do not fit together,
    DataError for a damaged one.
    """
    if len(paths) == 1 and layers == "all" and (names := layers_of(paths[0])):
        measured = of_features(paths, metrics, global_mean, seen, device=device)
        for name in names:
            found = _of_files(open_files(paths, name), name, metrics, global_mean, seen, device).found
            measured.found.add(_of_layer(found, name))
        return measured
    if len(paths) > 1 or paths[0].is_dir() or paths[0].suffix in (".npy", ".safetensors", ".parquet"):
        return _of_files(open_files(paths), ", ".join(map(str, paths)), metrics, global_mean, seen, device)
    (path,) = paths
    if path.is_file() and path.stat().st_size > MOST_IN_MEMORY and zipfile.is_zipfile(path):
        return _of_files(open_files(paths), str(path), metrics, global_mean, seen, device)
    arrays = read_features(path)
    unused = sorted(arrays.keys() - {*NEEDED, *OPTIONAL})
    if "bias" in arrays and "weight" not in arrays:
        raise InputError(f"{path} has a bias and no weight.", f"it may hold {KEYS}")
    given = {name: array for name, array in arrays.items() if name not in unused}
    found = measure_features(**given, metrics=metrics, global_mean=global_mean)
    notes = [f"arrays that mean nothing here are left out: {', '.join(unused)}."] if unused else []
    if nameless := [name for name, array in given.items() if array.dtype.kind == "V"]:
        notes.append(f"{' and '.join(nameless)} of two bytes without a type, as NumPy saves bfloat16: read as that.")
    return Measurement(str(path), _with_reasons(found, metrics), tuple(notes))


def _of_files(
    files: FeatureFiles, target: str, metrics: Sequence[str], global_mean: str, seen: Callable[[int, int], None],
    device: str,
) -> Measurement:  # fmt: skip
    """Of files that fit into memory all at once, of others in two passes."""
    if not files.parts:
        raise InputError(f"{target} holds no features.", KEYS)
    if "bias" in files.others and "weight" not in files.others:
        raise InputError(f"{target} has a bias and no weight.", f"it may hold {KEYS}")
    notes = [f"arrays that mean nothing here are left out: {', '.join(files.unused)}."] if files.unused else []
    options: dict[str, Any] = {**files.others, "metrics": metrics, "global_mean": global_mean}
    if files.nbytes <= MOST_IN_MEMORY:
        found = measure_features(files.features(), files.labels, **options)
    else:
        notes.append(f"{files.nbytes / 2**30:.1f} GiB of features are read in blocks; null_nc1 is its estimate.")
        found = measure_stream(files.blocks, files.labels, **options, seen=seen, device=device)
    return Measurement(target, _with_reasons(found, metrics), tuple(notes))


def _of_layer(found: Measured, layer: str) -> Measured:
    """What was measured of a layer's features, at that layer; nothing of a classifier, which takes the last."""
    undefined = {a: why for a, why in found.undefined.items() if a.metric not in CLASSIFIER_METRICS}
    return Measured(
        {Address(a.metric, a.split, layer): value for a, value in found.values.items()},
        {Address(a.metric, a.split, layer): why for a, why in undefined.items()},
        {(split, layer): context for (split, _), context in found.contexts.items()},
    )


def read_features(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a features file, by name; object arrays and pickles are refused."""
    there(path)
    try:
        with path.open("rb") as opened:
            if not opened.read(8).startswith(KNOWN_STARTS):
                raise InputError(f"{path} is no .npz file.", f"np.savez(path, features=..., labels=...): {KEYS}")
            opened.seek(0)
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError(f"{path} is a single array.", f"a features file is an .npz with {KEYS}")
            if lacking := [name for name in NEEDED if name not in file.files]:
                raise InputError(
                    f"{path} has no {' and no '.join(lacking)}; it has {', '.join(file.files) or 'nothing'}.",
                    f"np.savez(path, features=..., labels=...): it holds {KEYS}",
                )
            return {name: file[name] for name in file.files if not is_layer(name)}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(
            f"{path} is damaged or no .npz file ({told(error)}).", "write it again with np.savez"
        ) from error
    except ValueError as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise InputError(
                f"{path} holds Python objects, which run code when they are read: only arrays of numbers are.",
                "np.savez(path, features=np.stack(...), labels=np.array(..., dtype=int))",
            ) from error
        raise DataError(f"{path} is damaged ({told(error)}).", "write it again with np.savez") from error


def of_weights(
    path: Path, shape: NetworkSpec, data: Dataset, metrics: Sequence[str], layers: str, *, device: str,
    observer: Observer, samples: int | None = None,
) -> Measurement:  # fmt: skip
    """The chosen metrics of a network on a data set, its weights from a safetensors file: a checkpoint or a state dict.

    The images are taken as they are, without a scenario's permutation. Raises InputError where the file's tensors are
    not the network's.
    """
    tensors, run = read_weights(path)
    wide = any(value.dtype == torch.float64 for value in tensors.values())
    network = networks.build(
        shape.name, data.shape, data.classes, 0, precision="float64" if wide else "float32",
        statistics=None if shape.name == "mlp" else data.channel_statistics,
        width=shape.width, depth=shape.depth, activation=shape.activation, norm=shape.norm,
    )  # fmt: skip
    notes = load(network, tensors, path, shape.name)
    network.to(device)
    task = Task(0, 1, lambda _: np.arange(len(data.train)), data.train.labels, data.test.labels)
    _say_what_it_takes(network, metrics, observer)
    found = measure(Snapshot(network, data, task, None, device, samples), tuple(metrics), layers)
    if run:
        notes.append(
            f"this is a checkpoint of run {run}, measured here on the images as they are: ncpl measure --run {run} "
            "measures it on its own task."
        )
    return Measurement(str(path), _with_reasons(found, metrics), tuple(notes))


def of_run(
    store: Store, row: RunRow, data: Dataset, epoch: int | None, metrics: Sequence[str], layers: str, *, device: str,
    observer: Observer, samples: int | None = None,
) -> Measurement:  # fmt: skip
    """The chosen metrics of a run after an epoch (default: its newest checkpoint), added to that epoch in the store.

    What stands there already stays. Where there is no checkpoint after that epoch, the run is trained again up to it
    from the nearest one before. While another process trains the run, nothing is written.
    """
    last = store.last_epoch(row.id)
    kept = runs.kept_epochs(store, row.id)
    at = (max(kept) if kept else last) if epoch is None else epoch
    if not 0 <= at <= last:
        raise InputError(
            f"run {row.id} has no epoch {at}.",
            f"it has epochs 0 to {last}" if last >= 0 else "it has not begun: ncpl train",
        )
    spec = settings.from_row(row, data)
    network = build(spec, data)
    initial = {name: value.detach().clone().to(device) for name, value in network.named_parameters()}
    state = runs.state_after(store, row.id, at, data, device, observer)
    network.load_state_dict(state)
    network.to(device)
    stored = next(one for one in store.rows(row.id) if one["epoch"] == at)
    data = shown_by(spec.scenario, data)
    (task,) = begun([spec], [network], data, device, stored["task"])
    snapshot = Snapshot(network, data, task, initial, device, samples or spec.measure.samples, spec.optimizer.lr)
    _say_what_it_takes(network, metrics, observer)
    metrics = settings.measured_in(spec.scenario, metrics)
    found = measure(snapshot, metrics, layers)
    there = {a.metric for a in (*found.values, *found.undefined)}
    wanted = {*metrics} - there  # of the run's history, which one look at a network does not show
    known = {a: v for a, v in store.values(row.id, at).items() if a.metric in wanted}
    why = {a: text for a, text in store.reasons(row.id, at).items() if a.metric in wanted}
    notes = []
    if late := sorted({a.metric for a in found.values} & AT_START):
        notes.append(f"{', '.join(late)}: after the epoch, and not stored: a run stores them of a task's beginning.")
    added = False
    if store.run(row.id).held:
        notes.append("the run is being trained just now: nothing was stored.")
    elif samples is not None and samples != spec.measure.samples:
        notes.append("on other samples than the run's own: nothing was stored.")
    else:
        _add(store, row, found, stored, provenance(device, "measure"))
        added = True
    found.values |= known
    found.undefined |= why
    return Measurement(f"{row.id} epoch {at}", _with_reasons(found, metrics), tuple(notes), added)


def _add(store: Store, row: RunRow, found: Measured, stored: Mapping[str, Any], facts: Mapping[str, object]) -> None:
    """Add what was measured to the epoch, as an attempt of its own; the run is then again what it was."""
    values = {a: v for a, v in found.values.items() if a.metric not in AT_START}
    undefined = {a: why for a, why in found.undefined.items() if a.metric not in AT_START}
    if stored["online_accuracy"] is not None:  # by which the store knows the epoch
        values[Address("online_accuracy")] = stored["online_accuracy"]
    record = EpochRecord(
        stored["epoch"], stored["task"], stored["task_epoch"], stored["samples_seen"], 0.0, 0.0, values, undefined
    )
    attempt = store.claim([row.id], Owner.current(), facts, cohort=row.cohort)[row.id]
    try:
        store.supplement(row.id, attempt, record)
    finally:
        if row.status in ("finished", "failed", "diverged"):
            store.finish(row.id, attempt, row.status, row.error)
        else:
            store.release(row.id, attempt)


def _say_what_it_takes(network: networks.Network, metrics: Sequence[str], observer: Observer) -> None:
    if text := what_it_takes(lambda: network, network.classifier.out_features, chosen(metrics)):
        observer.note(text)


def _with_reasons(found: Measured, metrics: Sequence[str]) -> Measured:
    """Metrics that were asked for by name and cannot be had from the target, with what they need."""
    there = {a.metric for a in (*found.values, *found.undefined)}
    for name in metrics:
        if name in METRICS and name not in there:
            found.undefined[Address(name)] = f"not to be had from this: it needs {METRICS[name].needs}"
    return found
