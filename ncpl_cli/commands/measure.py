"""`ncpl measure`: every collapse and plasticity metric of features, of a network, of a stored run."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncpl_cli import values
from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Db, Device, Json
from ncpl_cli.commands._table import cell_text

if TYPE_CHECKING:
    from ncpl_cli.measurement import Measurement

OF_DATA = ("n", "d", "classes", "min_class_count", "rank_between", "null_nc1")
"""What collapse must be read with: of every layer and split, and at the top of the document those of last, train."""

SPLITS = ("train", "test", "validation", "unseen")
"""In the order in which they are shown; `unseen`: classes that were not trained on."""

NETWORK_OPTIONS = ("network", "dataset", "width", "depth", "activation", "norm")


def measure(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="TARGET", help="Files of features, or FILE.safetensors of weights.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="A stored run, instead of a file.")] = None,
    epoch: Annotated[int | None, typer.Option(min=0, help="Of the run; default its newest checkpoint.")] = None,
    split: Annotated[str | None, typer.Option(help="train, test or both; default what there is.")] = None,
    layers: Annotated[str, typer.Option(help="last or all.", show_default=True)] = "last",
    metrics: Annotated[str, typer.Option(help="default, all, or ids with commas (ncpl catalog).")] = "default",
    global_mean: Annotated[
        str, typer.Option(help="Features: of all samples, or of class means: sample or class.", show_default=True)
    ] = "sample",
    network: Annotated[
        str | None, typer.Option(help="Weights: mlp, resnet18, convnet, wide_resnet or module:callable.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Weights: the data set, as for ncpl train.")] = None,
    width: Annotated[int | None, typer.Option(help="Weights: units or channels of the network.")] = None,
    depth: Annotated[int | None, typer.Option(help="Weights: hidden layers of the network.")] = None,
    activation: Annotated[str | None, typer.Option(help="Weights: the network's activation.")] = None,
    norm: Annotated[str | None, typer.Option(help="Weights: the network's norm: none, layer or batch.")] = None,
    measure_samples: Annotated[int | None, typer.Option(help="Samples per split of a network; default all.")] = None,
    db: Db = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Measure features, a network or a stored run: one of FILE and --run.

    A features file holds arrays of any framework: features (N x d), labels (N integers from 0) and, if there are any,
    the classifier's weight (C x d) and bias (C), test_features and test_labels. The order of the samples
    does not matter. Weights are a safetensors file: a checkpoint, or any state dict. What is measured of a run is added
    to that epoch in the store.

    Features may also lie in several files or a directory of them: .npz, features.npy beside labels.npy, safetensors
    or Parquet with a column labels. More than 4 GiB are read in blocks, twice.

    Example: ncpl measure features.npz --json

    Example: ncpl measure --run 3fa9 --epoch 37 --layers all --metrics all

    Example: ncpl measure model.safetensors --network torchvision.models:resnet18 --dataset cifar10
    """
    from ncpl_cli.errors import InputError, unknown
    from ncpl_cli.metrics.catalogue import check_names

    files = [Path(one) for one in targets or ()]
    target = None if not files else str(files[0])
    if (target is None) == (run is None):
        raise InputError("measure takes either a file or --run ID.", "ncpl measure features.npz, ncpl measure --run ID")
    names = tuple(values.names(metrics, "--metrics"))
    check_names(names)
    for kind, value, known in (
        ("split", split or "both", ("train", "test", "both")), ("layers", layers, ("last", "all")),
        ("global mean", global_mean, ("sample", "class")),
    ):  # fmt: skip
        if value not in known:
            raise unknown(kind, value, known)
    asked: dict[str, Any] = dict(zip(NETWORK_OPTIONS, (network, dataset, width, depth, activation, norm), strict=True))
    weights = _are_weights(files)
    vain = [f"--{name}" for name, value in asked.items() if value is not None and not weights]
    if global_mean != "sample" and (weights or run is not None):
        vain.append("--global-mean class")
    if epoch is not None and run is None:
        vain.append("--epoch")
    if measure_samples is not None and not weights and run is None:
        vain.append("--measure-samples")
    if vain:
        what = "a run" if run is not None else "weights" if weights else "a features file"
        raise InputError(f"{' and '.join(vain)} cannot be chosen for {what}.", "ncpl measure --help")
    if run is not None:
        measured = _run(run, epoch, names, layers, measure_samples, db, data_dir, device)
    elif weights:
        measured = _weights(Path(str(target)), asked, names, layers, measure_samples, data_dir, device)
    else:
        from ncpl_cli.commands._rows import Rows
        from ncpl_cli.measurement import of_features

        measured = of_features(
            files, names, global_mean, Rows("rows of both passes"), layers, _streaming(device, files)
        )
    found = measured.found
    measured_on = {a.split for a in (*found.values, *found.undefined)}
    there = [*(one for one in SPLITS if one in measured_on), *sorted(measured_on - {*SPLITS})]
    if split == "test" and "test" not in there:
        raise InputError(
            f"{measured.target} has no test split.", "a features file has one with test_features and test_labels"
        )
    shown = [one for one in there if split in (None, "both", one)]
    for text in measured.notes:
        _common.note(f"note: {text}")
    if split == "both" and "test" not in there:
        _common.note("note: there is no test split.")
    if json_:
        _common.print_json(document(measured, shown))
    else:
        _print(measured, shown)
        if measured.stored:
            _common.note(f"added to {_common.store_url(db)}: ncpl export shows it.")


def _are_weights(files: list[Path]) -> bool:
    if len(files) != 1 or files[0].suffix != ".safetensors":
        return False
    from ncpl_cli.data.feature_files import holds_features

    return not holds_features(files[0])


def _streaming(device: str, files: list[Path]) -> str:
    """Where the products of a stream are made: a CUDA device where there is one and enough to do; MPS has no float64.

    What is no stream is read on the processor: resolving a device there would load a driver for nothing.
    """
    from ncpl_cli import device as device_of

    if device == "auto" and sum(file.stat().st_size for file in files if file.is_file()) < 1 << 30:
        return "cpu"
    found = device_of.resolve(device)
    return found if found.startswith("cuda") else "cpu"


def _run(
    run: str, epoch: int | None, names: tuple[str, ...], layers: str, samples: int | None, db: str | None,
    data_dir: str | None, device: str,
) -> Measurement:  # fmt: skip
    from ncpl_cli import device as device_of
    from ncpl_cli import settings
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.errors import InputError
    from ncpl_cli.measurement import of_run
    from ncpl_cli.store import open_store

    where = device_of.resolve(device)
    with open_store(_common.store_url(db), create=False) as store:
        row = store.run(run)
        if "dataset_digest" not in row.settings:
            raise InputError(
                f"run {row.id} was not trained by ncpl: there is no network to measure.",
                "ncpl measure features.npz measures features from anywhere",
            )
        data = _common.load_data(settings.dataset_of(row), _common.data_path(data_dir))
        with Progress() as progress:
            return of_run(store, row, data, epoch, names, layers, device=where, observer=progress, samples=samples)


def _weights(
    path: Path, asked: dict[str, Any], names: tuple[str, ...], layers: str, samples: int | None, data_dir: str | None,
    device: str,
) -> Measurement:  # fmt: skip
    from ncpl_cli import device as device_of
    from ncpl_cli import settings
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.errors import InputError
    from ncpl_cli.measurement import of_weights
    from ncpl_cli.spec import DatasetSpec

    if lacking := [f"--{name}" for name in ("network", "dataset") if asked[name] is None]:
        raise InputError(
            f"weights alone are no network: {' and '.join(lacking)} must be given.",
            f"ncpl measure {path} --network resnet18 --dataset cifar10",
        )
    where = device_of.resolve(device)
    shape = settings.network_spec(asked)
    data = _common.load_data(DatasetSpec(asked["dataset"]), _common.data_path(data_dir))
    with Progress() as progress:
        return of_weights(path, shape, data, names, layers, device=where, observer=progress, samples=samples)


def document(measured: Measurement, splits: list[str]) -> dict[str, Any]:
    """What `--json` prints (INTERFACE: measure)."""
    found = measured.found
    layers: dict[str, dict[str, Any]] = {}
    for layer, split, names in _places(measured, splits):
        here: dict[str, Any] = {name: found.values.get(_at(name, split, layer)) for name in names}
        here["context"] = _context(measured, split, layer)
        reasons = {name: found.undefined.get(_at(name, split, layer)) for name in names}
        here["undefined"] = {name: why for name, why in reasons.items() if why is not None}
        layers.setdefault(layer, {})[split] = here
    return {"target": measured.target, **_context(measured, "train", "last"), "layers": layers}


def _at(name: str, split: str, layer: str) -> Any:
    from ncpl_cli.records import Address

    return Address(name, split, layer)


def _context(measured: Measurement, split: str, layer: str) -> dict[str, Any]:
    context = measured.found.contexts.get((split, layer), {})
    return {key: context.get(key) for key in OF_DATA}


def _places(measured: Measurement, splits: list[str]) -> list[tuple[str, str, list[str]]]:
    """(layer, split, metrics) for all that was measured: the last layer first, metrics as in the catalogue."""
    from ncpl_cli.metrics.catalogue import METRICS

    there = {*measured.found.values, *measured.found.undefined}
    layers = sorted({a.layer for a in there}, key=lambda layer: (layer != "last", layer))
    places = []
    for layer in layers:
        for split in splits:
            names = [name for name in METRICS if _at(name, split, layer) in there]
            if names:
                places.append((layer, split, names))
    return places


def _briefly(reads: str) -> str:
    """What a low or high value means, in a few words: `↓ more collapse`."""
    for long, short in (("lower = ", "↓ "), ("higher = ", "↑ "), ("context of ", "for ")):
        reads = reads.replace(long, short)
    return reads.partition(":")[0]


def _print(measured: Measurement, splits: list[str]) -> None:
    """A table of the metrics in the catalogue's groups, with what a low value means; reasons below it."""
    from ncpl_cli.metrics.catalogue import METRICS

    found = measured.found
    places = _places(measured, splits)
    layers = list(dict.fromkeys(layer for layer, _, _ in places))
    context = _context(measured, "train", "last")
    head = ", ".join(f"{key} {cell_text(value)}" for key, value in context.items() if value is not None)
    _common.note(f"{measured.target}: {head}" if head else measured.target)
    rows: list[list[object]] = []
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        names = {name for at, _, of in places if at == layer for name in of}
        for name in (name for name in METRICS if name in names):
            cells: list[object] = []
            for split in splits:
                address = _at(name, split, layer)
                if (why := found.undefined.get(address)) is not None:
                    cells.append("undefined")
                    reasons.setdefault(why, []).append(str(address))
                else:
                    cells.append(found.values.get(address))
            rows.append([METRICS[name].family, name, layer, *cells, METRICS[name].direction])
    columns = ["group", "metric", "layer", *splits, "reads"]
    if sys.stdout.isatty():  # a group is named once, a layer where there are several, and what a value means in a line
        for before, row in reversed(list(itertools.pairwise(rows))):
            row[0] = "" if row[0] == before[0] and row[2] == before[2] else row[0]
        for row in rows:
            row[-1] = _briefly(str(row[-1]))
        if layers == ["last"]:
            del columns[2]
            for row in rows:
                del row[2]
    _common.print_table(columns, rows, least=("reads", "group"))
    for why, which in reasons.items():
        _common.note(f"undefined: {', '.join(which)}: {why}.")
