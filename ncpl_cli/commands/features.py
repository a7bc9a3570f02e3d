"""`ncpl features`: features of anybody's network, written for `ncpl measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Device, Json
from ncpl_cli.spec import NETWORKS
from ncpl_cli.values import Allowed

PRECISIONS = ("float32", "float16", "bfloat16", "float64")
TEXT = ("text:", "tokens:")
HUBS = ("torchvision.models:", "timm:", "hf:")


def features(
    model: Annotated[str, typer.Argument(help="torchvision.models:NAME, timm:NAME, hf:NAME, module:callable, mlp.")],
    dataset: Annotated[
        str, typer.Option(help="As for ncpl train; or text:FILE (.txt .jsonl .csv .parquet), tokens:FILE (.npy .npz).")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The features file.")] = "features.npz",
    weights: Annotated[
        str, typer.Option(help="published, none, or a FILE.safetensors.", show_default=True)
    ] = "published",
    layers: Annotated[
        str, typer.Option(help="last, all, or names of modules with commas.", parser=Allowed(), show_default=True)
    ] = "last",
    positions: Annotated[
        str, typer.Option(help="Of other layers: their mean, or all.", parser=Allowed(choices=("mean", "all")),
                          show_default=True)
    ] = "mean",
    split: Annotated[
        str, typer.Option(help="train, test or both.", parser=Allowed(choices=("train", "test", "both")),
                          show_default=True)
    ] = "both",
    samples: Annotated[int | None, typer.Option(min=1, help="Samples of a split, drawn; default all.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default 64 images, 8 texts.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, float16, bfloat16 or float64; default the network's.",
                                 parser=Allowed(choices=PRECISIONS))
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="Images seen as published, or by the data's mean and deviation: published, data.",
                                 parser=Allowed(choices=("published", "data")))
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side to which images are brought before.")] = None,
    classes_from: Annotated[
        str | None, typer.Option(help="Text: next tokens (language models), or labels: tokens, labels.",
                                 parser=Allowed(choices=("tokens", "labels")))
    ] = None,
    max_classes: Annotated[int | None, typer.Option(min=1, help="Text: the classes with most samples.")] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Text: samples a class has at least.", show_default=True)] = 1,
    context: Annotated[int | None, typer.Option(min=1, help="Text: tokens of a sequence; at most 1024.")] = None,
    width: Annotated[int | None, typer.Option(help="Of ncpl's networks: units or channels.")] = None,
    depth: Annotated[int | None, typer.Option(help="Of ncpl's networks: layers.")] = None,
    activation: Annotated[str | None, typer.Option(help="Of ncpl's networks.")] = None,
    norm: Annotated[str | None, typer.Option(help="Of ncpl's networks: none, layer or batch.")] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:  # fmt: skip
    """Write what a network's classifier is given, for `ncpl measure`: features, labels, weight and bias, as an .npz.

    The classifier is found: the linear layer whose output is the logits. Other layers become arrays features/NAME,
    which `ncpl measure --layers all` reads. The file grows by blocks, and is there whole or not at all.

    A language model's classes are the next tokens: a sample is a position, its label the token that follows.

    timm and transformers are extras: pip install 'ncpl[timm]', 'ncpl[hf]'.

    Example: ncpl features torchvision.models:resnet18 --weights none --dataset digits -o digits.npz

    Example: ncpl features hf:gpt2 --dataset text:corpus.txt --max-classes 1000

    Example: ncpl features mine:network --dataset folder:DIR --layers all -o mine.npz
    """
    from ncpl_cli import output as files
    from ncpl_cli.errors import InputError

    files.check(output)
    if not files.special(output) and not output.endswith(".npz"):
        raise InputError(f"-o {output} is no .npz.", "-o features.npz")
    if weights not in ("published", "none") and not Path(weights).is_file():
        raise InputError(f"there is no file {weights}.", "--weights published, none or a FILE.safetensors")
    if ":" not in model and model not in NETWORKS:
        from ncpl_cli.errors import unknown

        raise unknown("network", model, [*(f"{hub}NAME" for hub in HUBS), *NETWORKS, "module:callable"])
    of_text = dataset.startswith(TEXT)
    asked = {"classes-from": classes_from, "max-classes": max_classes, "context": context}
    if not of_text and (vain := [f"--{name}" for name, value in asked.items() if value is not None]):
        raise InputError(f"{' and '.join(vain)} cannot be chosen for images.", "--dataset text:FILE or tokens:FILE")
    shape: dict[str, Any] = {"width": width, "depth": depth, "activation": activation, "norm": norm}
    if model.startswith(HUBS) and any(value is not None for value in shape.values()):
        raise InputError("--width, --depth, --activation and --norm belong to ncpl's own networks.")
    from ncpl_cli import device as device_of

    where = device_of.resolve(device)
    from ncpl_cli.commands._rows import Rows
    from ncpl_cli.extraction.extract import extract

    if model.startswith("hf:") and model[3:4] in (".", "/", "~") and not Path(model[3:]).expanduser().is_dir():
        raise InputError(f"there is no directory {model[3:]}.", "hf:NAME of the hub, or a directory of save_pretrained")
    if weights == "published" and model.startswith(HUBS) and not Path(model.partition(":")[2]).is_dir():
        _common.note(f"the published weights of {model} are downloaded if they are not there.")
    if of_text:
        found, shown, classes = _text(model, weights, dataset, classes_from=classes_from, max_classes=max_classes,
                                      min_count=min_count, context=context, samples=samples)  # fmt: skip
    else:
        found, shown, classes = _images(model, weights, dataset, shape, preprocess, image_size, samples, data_dir)
    if split != "both":
        if split not in shown:
            raise InputError(f"{dataset} has no {split} split.")
        shown = {"train": shown[split]}  # the file then has that split as its features
    done = extract(
        found, shown, classes, output, layers=layers, pooled=positions == "mean",
        batch_size=batch_size or (8 if of_text else 64), precision=precision, device=where, seen=Rows("samples"),
    )  # fmt: skip
    for text in done.notes:
        _common.note(f"note: {text}")
    if json_:
        _common.print_json({
            "model": model, "dataset": dataset, "weights": weights, "output": output, "classifier": done.classifier,
            "with_classifier": done.with_classifier, "layers": done.layers, "splits": done.splits, "device": where,
        })  # fmt: skip
        return
    columns = ("split", "samples", "classes", "fewest", "median", "most")
    _common.print_table(columns, [[name, *sizes.values()] for name, sizes in done.splits.items()])
    said = ", ".join(f"{name} {size}" for name, size in list(done.layers.items())[-6:])
    more = f" and {len(done.layers) - 6} more" if len(done.layers) > 6 else ""
    _common.note(f"{output}: the classifier is `{done.classifier}`; dimensions: {said}{more}. ncpl measure {output}")


def _text(model: str, weights: str, dataset: str, **options: Any) -> tuple[Any, Any, int | None]:
    from ncpl_cli.errors import InputError
    from ncpl_cli.extraction import models, text

    if model.startswith(("torchvision.models:", "timm:")) or ":" not in model:
        raise InputError(f"{model} is a network for images.", "--dataset digits, folder:PATH, ...")
    found = (
        models.of_transformers(model, weights, None) if model.startswith("hf:") else models.of_tokens(model, weights)
    )
    if found.kind == "images":
        raise InputError(f"{model} is a network for images.", "--dataset digits, folder:PATH, ...")
    return found, {"train": text.of_text(found, dataset, **options)}, None


def _images(
    model: str, weights: str, dataset: str, shape: dict[str, Any], preprocess: str | None, image_size: int | None,
    samples: int | None, data_dir: str | None,
) -> tuple[Any, Any, int | None]:  # fmt: skip
    from ncpl_cli import settings
    from ncpl_cli.data.folder import list_folder
    from ncpl_cli.errors import InputError
    from ncpl_cli.extraction import images, models
    from ncpl_cli.spec import DatasetSpec

    folder = dataset.removeprefix("folder:") if dataset.startswith("folder:") else None
    hub = model.startswith(HUBS)
    look = preprocess or (
        "published" if model.startswith(("timm:", "hf:")) or (weights == "published" and hub) else "data"
    )
    if look == "published" and not hub:
        raise InputError(f"{model} has no published way of seeing images.", "--preprocess data, or standardise in it")
    if look == "data" and not model.startswith("torchvision.models:") and hub:
        raise InputError(f"{model} sees images as published.", "leave --preprocess out")
    data = None
    if look == "data" or folder is None:
        data = _common.load_data(DatasetSpec(dataset, image_size=image_size if folder else None),
                                 _common.data_path(data_dir))  # fmt: skip
    classes = data.classes if data is not None else list_folder(Path(str(folder))).classes
    if model.startswith("timm:"):
        found = models.of_timm(model, weights, classes)
    elif model.startswith("hf:"):
        found = models.of_transformers(model, weights, classes)
        if found.kind != "images":
            raise InputError(f"{model} is a network for text.", "--dataset text:FILE or tokens:FILE")
    elif look == "published":
        found = models.of_torchvision(model, weights, classes)
    else:
        assert data is not None
        if weights == "published" and hub:
            raise InputError("published weights see images as published.", "--weights none, or a file")
        found = models.own(settings.network_spec({"network": model, **shape}), weights, data)
    if image_size is not None and (folder is None or look == "published"):
        assert found.see is not None
        found.see = models.resized(found.see, image_size)
    if data is not None:
        shown, _ = images.of_dataset(found, data, samples)
    else:
        shown, _ = images.of_folder(found, Path(str(folder)), samples)
    return found, shown, classes
