"""A network by its name, of whoever made it: torchvision, timm, transformers, ncpl, a callable of one's own.

Weights are the published ones, a safetensors file, or none. Nothing runs code when it is read: torchvision's files are
read with `weights_only`, transformers' and timm's as safetensors, and no code comes with a model (no remote code).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ncpl_cli import networks
from ncpl_cli.callables import call, load_object, said
from ncpl_cli.errors import DataError, InputError, unknown
from ncpl_cli.networks.weights import load, read_weights

if TYPE_CHECKING:
    from ncpl_cli.data import Dataset
    from ncpl_cli.spec import NetworkSpec

PUBLISHED, NONE = "published", "none"
"""Weights that are no file."""

KINDS = {
    "CausalLM": ("next", "AutoModelForCausalLM"), "LMHeadModel": ("next", "AutoModelForCausalLM"),
    "SequenceClassification": ("labelled", "AutoModelForSequenceClassification"),
    "TokenClassification": ("tagged", "AutoModelForTokenClassification"),
    "ImageClassification": ("images", "AutoModelForImageClassification"),
}  # fmt: skip
"""What a model of transformers is shown, by the end of its class's name, and what loads it."""

See = Callable[[Sequence[NDArray[Any]], float], Tensor]


@dataclass
class Model:
    """A network and how it is shown something.

    kind       images; labelled: texts with a label each; tagged: tokens with one each; next: a language model
    see        images: (C, H, W) arrays and the scale of white -> a batch (N, C, H, W)
    published  images: they are seen as the network's makers say, each from its own size
    tokenizer  of text, None where there is none
    context    tokens of a sequence, at most
    label_ids  numbers of the network's outputs by name
    own        of text: takes input_ids alone, and attention_mask only where there is something to be masked
    """

    name: str
    module: nn.Module
    kind: str = "images"
    see: See | None = None
    published: bool = False
    tokenizer: Any = None
    context: int = 1024
    label_ids: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    own: bool = False

    def forward(self, given: Any) -> Any:
        """What the module returns for a batch: a tensor, or arguments by name."""
        if not isinstance(given, dict):
            return self.module(given)
        if not self.own:
            return self.module(**given)
        if bool(given["attention_mask"].all()):
            return self.module(given["input_ids"])
        return call(self.name, self.module, given["input_ids"], attention_mask=given["attention_mask"])


def extra(name: str, package: str) -> Any:
    """A library that is not among ncpl's own; raises InputError with what to install."""
    try:
        with quiet():
            return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"{package} is not installed, or cannot be imported ({error}).",
                         f"pip install 'ncpl[{name}]'") from error  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries keep their warnings and progress to themselves."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _loading(name: str, what: str) -> Iterator[None]:
    """Whatever a library says of a model it cannot load, as a sentence."""
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    except (InputError, DataError):
        raise
    except ImportError as error:
        raise InputError(f"{name} needs more than is installed: {said(error)}.") from error
    except Exception as error:
        raise DataError(
            f"{what} of {name} cannot be had: {said(error)[:300]}.",
            "--weights FILE.safetensors or none; published ones are downloaded, or lie in the library's cache",
        ) from error


def of_tokens(name: str, weights: str) -> Model:
    """A network for tokens of one's own, `module:callable`: input_ids (N, T) -> logits (N, T, C)."""
    module = call(name, load_object(name))
    if not isinstance(module, nn.Module):
        raise InputError(f"{name} gave a {type(module).__name__}, not a torch.nn.Module.")
    model = Model(name, module, "next", own=True)
    if weights not in (PUBLISHED, NONE):
        model.notes += load(module, read_weights(Path(weights))[0], Path(weights), name)
    return model


def own(shape: NetworkSpec, weights: str, data: Dataset) -> Model:
    """ncpl's networks, one's own and torchvision's without published weights, which standardise images themselves."""
    name = shape.name
    file = None if weights in (PUBLISHED, NONE) else Path(weights)
    tensors = {} if file is None else read_weights(file)[0]
    wide = any(value.dtype == torch.float64 for value in tensors.values())
    (channels, height, width), statistics = data.shape, data.channel_statistics
    if channels == 1 and name.startswith("torchvision."):  # made for three
        channels, statistics = 3, (np.repeat(statistics[0], 3), np.repeat(statistics[1], 3))
    made = networks.build(
        name, (channels, height, width), data.classes, 0, precision="float64" if wide else "float32",
        statistics=None if name == "mlp" else statistics,
        width=shape.width, depth=shape.depth, activation=shape.activation, norm=shape.norm,
    )  # fmt: skip
    notes = load(made, tensors, file, name) if file is not None else []
    if file is None and name in networks.NETWORKS:
        notes.append(f"no weights are given: {name} is as it was initialised.")

    def see(images: Sequence[NDArray[Any]], scale: float) -> Tensor:
        pixels = torch.from_numpy(np.stack(images)).to(made.classifier.weight.dtype) / scale
        pixels = pixels.expand(-1, channels, -1, -1)
        return pixels if module is made else (pixels - mean) / std

    module = made.body if isinstance(made, networks.OwnNetwork) else made
    mean, std = (made.mean, made.std) if isinstance(made, networks.OwnNetwork) else (torch.zeros(1), torch.ones(1))
    return Model(name, module, see=see, notes=notes)


def of_torchvision(name: str, weights: str, classes: int) -> Model:
    """torchvision's as published: its own way of seeing images, with its published weights or a file's."""
    from torchvision import models

    builder = name.partition(":")[2]
    if builder not in (known := models.list_models(module=models)):
        raise unknown("network of torchvision", builder, known, shown=12)
    published = models.get_model_weights(builder).DEFAULT
    with _loading(name, "the published weights"):
        if weights == PUBLISHED:
            state = torch.hub.load_state_dict_from_url(
                published.url, progress=False, check_hash=True, weights_only=True
            )
            module = models.get_model(builder, weights=None)
            module.load_state_dict(state)
        else:
            module = models.get_model(builder, weights=None, num_classes=classes)
    notes, transforms = _filled(module, weights, name), published.transforms()
    return Model(
        name, module, see=lambda images, scale: _each(images, scale, transforms), published=True, notes=notes
    )  # fmt: skip


def of_timm(name: str, weights: str, classes: int) -> Model:
    """timm's, with its published weights or a file's."""
    timm = extra("timm", "timm")
    bare = name.partition(":")[2]
    with _loading(name, "the published weights" if weights == PUBLISHED else "the network"):
        if weights == PUBLISHED:
            module = timm.create_model(bare, pretrained=True)
        else:
            module = timm.create_model(bare, pretrained=False, num_classes=classes)
        config = timm.data.resolve_model_data_config(module)
    notes = _filled(module, weights, name)
    _, height, width = config["input_size"]
    mean, std = config["mean"], config["std"]
    look = Look((height, width), config.get("crop_pct") or 1.0, mean, std, config.get("interpolation") or "bicubic")
    return Model(name, module, see=look, published=True, notes=notes)


def of_transformers(name: str, weights: str, classes: int | None) -> Model:
    """transformers', from its hub or a directory: classifiers of images, texts and tokens, and language models."""
    extra("hf", "transformers")
    with quiet():
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    bare = name.partition(":")[2]
    with _loading(name, "the configuration"):
        config = transformers.AutoConfig.from_pretrained(bare, trust_remote_code=False)
    made_for = (getattr(config, "architectures", None) or ["nothing"])[0]
    kind, loader = next((found for end, found in KINDS.items() if made_for.endswith(end)), (None, ""))
    if kind is None:
        raise InputError(
            f"{name} is made for {made_for}, whose features have no classes here.",
            f"classes that are known end in: {', '.join(f'For{end}' for end in KINDS if end != 'LMHeadModel')}",
        )
    auto, notes = getattr(transformers, loader), list[str]()
    with _loading(name, "the published weights" if weights == PUBLISHED else "the network"):
        if weights == PUBLISHED:
            module, found = auto.from_pretrained(
                bare, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
            if missing := sorted(found["missing_keys"]):
                notes.append(f"not in the published weights, and drawn at random: {', '.join(missing[:4])}.")
        else:
            if kind == "images" and classes is not None:
                config.num_labels = classes
            module = auto.from_config(config, trust_remote_code=False)
    notes += _filled(module, weights, name)
    model = Model(name, module, kind, notes=notes, published=kind == "images")
    if kind == "images":
        model.see = _processor(bare, config, notes)
        return model
    with contextlib.suppress(Exception), quiet():  # a model may come without; text then says that it lacks one
        model.tokenizer = transformers.AutoTokenizer.from_pretrained(bare, trust_remote_code=False)
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1024
    model.context = min(most if most > 0 else 1024, 1024)
    model.label_ids = {str(key): int(value) for key, value in (getattr(config, "label2id", None) or {}).items()}
    return model


def _filled(module: nn.Module, weights: str, name: str) -> list[str]:
    """Put a file's tensors into a module, where a file is named."""
    if weights in (PUBLISHED, NONE):
        return []
    tensors, state = read_weights(Path(weights))[0], module.state_dict()
    saved = {state[key].data_ptr(): key for key in tensors if key in state}
    tied = {key: tensors[saved[value.data_ptr()]] for key, value in state.items()
            if key not in tensors and value.data_ptr() in saved}  # fmt: skip
    return load(module, {**tied, **tensors}, Path(weights), name)


@dataclass(frozen=True)
class Look:
    """Images as a network's makers see them: the shorter side to size / crop, the middle, standardised."""

    size: tuple[int, int]
    crop: float
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = "bicubic"

    def __call__(self, images: Sequence[NDArray[Any]], scale: float) -> Tensor:
        """(C, H, W) arrays -> (N, 3, height, width)."""
        return _each(images, scale, self._one)

    def _one(self, image: Tensor) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as T

        known = {mode.value for mode in InterpolationMode}
        mode = InterpolationMode(self.interpolation if self.interpolation in known else "bicubic")
        shorter = max(round(side / self.crop) for side in self.size)
        image = T.center_crop(T.resize(image, [shorter], mode, antialias=True), list(self.size))
        if not image.is_floating_point():
            image = image.float() / 255
        found: Tensor = T.normalize(image, list(self.mean), list(self.std))
        return found


def _each(images: Sequence[NDArray[Any]], scale: float, one: Callable[[Tensor], Tensor]) -> Tensor:
    """Each image, of whatever size, in three channels and as bytes or in [0, 1]."""
    found = []
    for image in images:
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        pixels = pixels if pixels.dtype == torch.uint8 else pixels.float() / scale
        found.append(one(pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels))
    return torch.stack(found)


def _processor(bare: str, config: Any, notes: list[str]) -> See:
    """The image processor of a model of transformers; where none can be had, its size alone, which is noted."""
    import transformers

    try:
        with quiet():
            processor = transformers.AutoImageProcessor.from_pretrained(bare, trust_remote_code=False)
    except Exception as error:
        notes.append(
            f"no image processor of {bare} can be had ({said(error)[:200]}): images are brought to its size, -1..1."
        )
        size = getattr(config, "image_size", 224)
        sides = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        return Look(sides, 1.0, (0.5,) * 3, (0.5,) * 3)

    def see(images: Sequence[NDArray[Any]], scale: float) -> Tensor:
        bytes_ = [
            image if image.dtype == np.uint8 else (image / scale * 255).round().astype(np.uint8) for image in images
        ]
        given = [np.broadcast_to(image, (3, *image.shape[1:])) if len(image) == 1 else image for image in bytes_]
        found: Tensor = processor(list(given), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
        return found

    return see


def resized(see: See, side: int) -> See:
    """The same, of images brought to side x side."""

    def squared(images: Sequence[NDArray[Any]], scale: float) -> Tensor:
        given = [torch.from_numpy(np.ascontiguousarray(image)).float() for image in images]
        small = [F.interpolate(one[None], (side, side), mode="bilinear", antialias=True)[0].numpy() for one in given]
        return see(small, scale)

    return squared
