"""`ncpl features`: what other people's networks give their classifiers, against the networks' own hidden states."""

from __future__ import annotations

import collections
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ncpl_cli.data import load
from ncpl_cli.errors import InputError
from ncpl_cli.extraction import models
from ncpl_cli.extraction.reading import Layers, layer_names
from ncpl_cli.extraction.writing import features_file
from ncpl_cli.main import call
from ncpl_cli.metrics import collapse
from ncpl_cli.spec import DatasetSpec, NetworkSpec

Ask = Callable[..., tuple[dict[str, Any], dict[str, Any]]]

WORDS = ["the", "cat", "dog", "sat", "on", "mat", "ran", "to", "a", "house", "and", "then", "it", "slept", "all", "day"]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """`ncpl features ...` in an empty directory: document and arrays; exit code and what was said where it failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments: object) -> tuple[dict[str, Any], dict[str, Any]]:
        capsys.readouterr()
        code = call(["features", *map(str, arguments), "--device", "cpu", "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err and not list(tmp_path.glob(".ncpl*"))
        if code:
            return {"code": code, "said": err}, {}
        with np.load("features.npz") as file:
            return json.loads(out) | {"said": err}, dict(file)

    return run


def write(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def hub(name: str, module: Any, tokenizer: bool = True) -> Any:
    """A tiny model of transformers in a directory, with a tokenizer of a few words."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    with models.quiet():
        module.save_pretrained(name)
        if tokenizer:
            of_words = Tokenizer(WordLevel({w: i for i, w in enumerate(["<u>", "<end>", *WORDS])}, unk_token="<u>"))
            of_words.pre_tokenizer = pre_tokenizers.Whitespace()
            PreTrainedTokenizerFast(tokenizer_object=of_words, eos_token="<end>", unk_token="<u>").save_pretrained(name)
    return module.eval()


def gpt(**more: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = {"n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 2, "vocab_size": len(WORDS) + 2}
    return hub("gpt", GPT2LMHeadModel(GPT2Config(**size | more)))


pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, of which there are many


def test_of_torchvision_as_its_own_pooling_gives_them_and_the_measure_is_the_direct_one(
    ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    said, found = ask("torchvision.models:resnet18", "--weights", "none", "--dataset", "digits", "--samples", "40",
                      "--layers", "all", "--batch-size", "16")  # fmt: skip
    assert said["classifier"] == "fc" and said["with_classifier"] and said["layers"]["last"] == 512
    assert list(said["layers"])[:2] == ["layer1.0", "layer1.1"] and said["splits"]["train"]["n"] == 40
    data = load(DatasetSpec("digits"))
    split = data.train.drawn(40)
    assert np.array_equal(found["labels"], split.labels) and found["test_features"].shape == (40, 512)
    made = models.own(NetworkSpec("torchvision.models:resnet18"), "none", data)
    net: Any = made.module
    mean, std = (torch.tensor(s.repeat(3)).float().view(1, 3, 1, 1) for s in data.channel_statistics)
    x = (torch.from_numpy(split.images).float() / data.scale).expand(-1, 3, -1, -1)
    with torch.no_grad():
        net.eval()
        h = net.maxpool(net.relu(net.bn1(net.conv1((x - mean) / std))))
        first = net.layer1[0](h)
        h = net.layer4(net.layer3(net.layer2(net.layer1(h)))).mean((2, 3))
    assert np.allclose(found["features"], h, atol=1e-5)
    assert np.allclose(found["features/layer1.0"], first.mean((2, 3)), atol=1e-5)
    assert np.array_equal(found["weight"], net.fc.weight.detach()) and "features/fc" not in found
    assert call(["measure", "features.npz", "--layers", "all", "--json", "--metrics", "nc1,nc4"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    direct = collapse(found["features"], found["labels"], found["weight"], found["bias"])
    assert layers["last"]["train"]["nc4"] == direct["nc4"] and layers["last"]["train"]["nc1"] == direct["nc1"]
    for name in ("layer1.0", "layer3.1"):
        expected = collapse(found[f"features/{name}"], found["labels"])["nc1"]
        assert layers[name]["train"]["nc1"] == pytest.approx(expected) and "nc4" not in layers[name]["train"]
        assert layers[name]["test"]["nc1"] == pytest.approx(
            collapse(found[f"test_features/{name}"], found["test_labels"])["nc1"]
        )


def test_images_seen_without_the_models_own_processor_are_noted(ask: Ask) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    net = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=10, **size))
    net.save_pretrained("vit")
    said, found = ask("hf:./vit", "--dataset", "digits", "--samples", "20")
    assert found["features"].shape == (20, 8) and "no image processor of ./vit can be had" in said["said"]


def test_a_language_models_classes_are_the_next_tokens(ask: Ask) -> None:
    draw = np.random.default_rng(0)
    words = list(draw.choice(WORDS, 203, p=np.arange(1, 17) / 136))
    write("c.txt", " ".join(words))
    net = gpt()
    said, found = ask("hf:./gpt", "--dataset", "text:c.txt", "--layers", "all", "--batch-size", "3")
    ids = np.array([2 + WORDS.index(word) for word in words] + [1])  # and the end
    assert np.array_equal(found["labels"], ids[1:]) and said["splits"]["train"]["n"] == 203
    assert said["splits"]["train"]["max_class_count"] == max(collections.Counter(ids[1:].tolist()).values())
    expected, inner = [], []
    for start in range(0, 203, 16):
        with torch.no_grad():
            hidden = net(torch.from_numpy(ids[start : start + 16])[None], output_hidden_states=True).hidden_states
        expected.append(hidden[-1][0][: 203 - start])
        inner.append(hidden[1][0][: 203 - start])
    assert np.allclose(found["features"], torch.cat(expected), atol=1e-5)
    assert np.allclose(found["features/transformer.h.0"], torch.cat(inner), atol=1e-5)
    assert np.array_equal(found["weight"], net.lm_head.weight.detach()) and "bias" not in found
    logits = found["features"] @ found["weight"].T  # all rows of it are in nc4's predictions
    assert collapse(**found_of(found))["nc4"] == pytest.approx(np.mean(logits.argmax(1) == nearest(found)), abs=1e-12)

    most = [token for token, _ in collections.Counter(ids[1:].tolist()).most_common(5)]
    _, few = ask("hf:./gpt", "--dataset", "text:c.txt", "--classes-from", "tokens", "--max-classes", "5")
    rows = np.isin(ids[1:], most)
    assert np.array_equal(few["labels"], ids[1:][rows]) and np.allclose(
        few["features"], found["features"][rows], atol=1e-5
    )
    said, some = ask("hf:./gpt", "--dataset", "text:c.txt", "--samples", "50", "--min-count", "10")
    assert len(some["labels"]) == 50 == len(some["features"]) and "classes are kept" in said["said"]
    np.save("ids.npy", ids)
    _, same = ask("hf:./gpt", "--dataset", "tokens:ids.npy")
    assert np.allclose(same["features"], found["features"], atol=1e-6)


def found_of(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("features", "labels", "weight")}


def nearest(found: dict[str, Any]) -> Any:
    x, y = found["features"].astype(float), found["labels"]
    classes = np.unique(y)
    means = np.stack([x[y == c].mean(0) for c in classes])
    return classes[((x[:, None] - means) ** 2).sum(2).argmin(1)]


def test_labelled_tokens_and_texts_padded_or_not(ask: Ask) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    size = {"vocab_size": len(WORDS) + 2, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 32}  # fmt: skip
    torch.manual_seed(1)
    names = {"O": 0, "N": 1, "V": 2}
    tagger = hub(
        "tagger", BertForTokenClassification(BertConfig(**size, label2id=names, id2label=dict(enumerate(names))))
    )
    draw, rows = np.random.default_rng(0), []
    for _ in range(9):
        n = int(draw.integers(2, 8))
        rows.append({"tokens": list(draw.choice(WORDS, n)), "labels": list(draw.choice(list(names), n))})
    write("tags.jsonl", "\n".join(json.dumps(row) for row in rows))
    said, found = ask("hf:./tagger", "--dataset", "text:tags.jsonl", "--batch-size", "4")
    assert said["classifier"] == "classifier" and np.array_equal(
        found["labels"], [names[one] for row in rows for one in row["labels"]]
    )
    expected = []
    for row in rows:  # each by itself: nothing is padded
        ids = torch.tensor([[2 + WORDS.index(word) for word in row["tokens"]]])
        with torch.no_grad():
            expected.append(tagger.bert(ids).last_hidden_state[0])
    assert np.allclose(found["features"], torch.cat(expected), atol=1e-5)

    judge = hub("judge", BertForSequenceClassification(BertConfig(**size, num_labels=2)))
    write("texts.csv", "text,label\n" + "".join(f"{' '.join(r['tokens'])},{i % 2}\n" for i, r in enumerate(rows)))
    _, found = ask("hf:./judge", "--dataset", "text:texts.csv", "--layers", "all", "--batch-size", "4")
    with torch.no_grad():
        outs = [judge.bert(torch.tensor([[2 + WORDS.index(w) for w in r["tokens"]]])) for r in rows]
    assert np.allclose(found["features"], torch.cat([one.pooler_output for one in outs]), atol=1e-5)
    means = torch.stack([one.last_hidden_state[0].mean(0) for one in outs])  # over its own tokens, not the padding
    assert np.allclose(found["features/bert.encoder.layer.1"], means, atol=1e-5)
    assert list(found["labels"]) == [i % 2 for i in range(9)]
    assert "has no column labels; it has text, label" in ask("hf:./tagger", "--dataset", "text:texts.csv")[0]["said"]


def test_a_folder_is_read_file_by_file_and_seen_as_published(ask: Ask) -> None:
    timm = pytest.importorskip("timm")
    draw = np.random.default_rng(0)
    for name in "ab":
        Path("images", name).mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(draw.integers(0, 256, (200 + 9 * i, 190, 3)).astype(np.uint8)).resize(
                (300 - i, 240)
            )
            image.save(Path("images", name, f"{i}.png"))
    net = timm.create_model("test_resnet", num_classes=2).eval()
    save_file(net.state_dict(), "mine.safetensors")
    said, found = ask("timm:test_resnet", "--weights", "mine.safetensors", "--dataset", "folder:images",
                      "--precision", "float16", "--batch-size", "3")  # fmt: skip
    assert (
        said["splits"]["train"]["n"] == 8 and said["splits"]["test"]["n"] == 2 and found["features"].dtype == np.float16
    )
    see = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    listing = models_listing()
    files = [file for i, file in enumerate(listing.files) if i not in listing.test]
    with torch.no_grad():
        shown = torch.stack([see(Image.open(file)) for file in files])
        expected = net.forward_head(net.forward_features(shown), pre_logits=True)
    assert np.abs(found["features"] - expected.numpy()).max() < 0.02 * float(expected.abs().max())


def models_listing() -> Any:
    from ncpl_cli.data.folder import list_folder

    return list_folder(Path("images"))


def test_published_weights_are_read_with_weights_only(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models as of

    state, asked = of.squeezenet1_0().state_dict(), {}

    def fetch(url: str, **options: Any) -> Any:
        asked.update(options)
        print("Downloading")
        return state

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    said, _ = ask("torchvision.models:squeezenet1_0", "--dataset", "digits", "--samples", "2", "--split", "test")
    assert asked["weights_only"] is True and asked["check_hash"] is True
    assert said["code"] == 2 and "no linear layer" in said["said"]  # it ends in a convolution


def test_a_network_of_ones_own_and_its_checkpoint(ask: Ask) -> None:
    write("own_net.py", "from torch import nn\ndef make(num_classes):\n    return nn.Sequential(nn.Flatten(), "
          "nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, num_classes))\n"
          "class Tokens(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
          "        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)\n"
          "    def forward(self, ids):\n        return self.head(self.table(ids))\n")  # fmt: skip
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10))
    save_file({f"module.{name}": value for name, value in net.state_dict().items()}, "w.safetensors")
    said, found = ask("own_net:make", "--weights", "w.safetensors", "--dataset", "digits", "--layers", "1,2",
                      "--split", "test")  # fmt: skip
    data = load(DatasetSpec("digits"))
    mean, std = (torch.tensor(s).float().view(1, 1, 1, 1) for s in data.channel_statistics)
    with torch.no_grad():
        before = net[:2]((torch.from_numpy(data.test.images).float() / data.scale - mean) / std)
    assert said["classifier"] == "3" and np.allclose(found["features/1"], before, atol=1e-5)
    assert np.allclose(found["features"], before.relu(), atol=1e-5) and np.array_equal(
        found["labels"], data.test.labels
    )
    np.savez("t.npz", input_ids=np.arange(12).reshape(2, 6) % 9, labels=np.array([[0, 1, -100, 2, 1, 0]] * 2))
    said, found = ask("own_net:Tokens", "--dataset", "tokens:t.npz", "--classes-from", "labels")
    assert found["features"].shape == (10, 4) and list(found["labels"]) == [0, 1, 2, 1, 0] * 2
    assert "weight" not in found and "left out" in said["said"]
    _, found = ask("own_net:Tokens", "--dataset", "tokens:t.npz", "--precision", "bfloat16")
    assert found["features"].dtype == np.float32 and found["weight"].shape == (9, 4)
    said, found = ask("mlp", "--dataset", "digits", "--samples", "20", "--layers", "layer1", "--width", "6")
    assert (
        found["features/layer1"].shape == (20, 6) and found["features"].min() == 0 and "as it was init" in said["said"]
    )


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("resnet19 --dataset digits", 2, "Did you mean 'resnet18'"),
        ("torchvision.models:resnet19 --dataset digits", 2, "unknown network of torchvision"),
        ("mlp --dataset digits -o d.csv", 2, "is no .npz"), ("mlp --dataset digits -o .", 2, "is a directory"),
        ("mlp --dataset digits --weights no.safetensors", 2, "there is no file"),
        ("mlp --dataset digits --weights p.pt", 2, "is a pickle"),
        ("mlp --dataset digits --layers nine", 2, "unknown layer"),
        ("mlp --dataset digits --max-classes 3", 2, "cannot be chosen for images"),
        ("mlp --dataset digits --precision int8", 2, "--precision"),
        ("mlp --dataset text:c.txt", 2, "network for images"),
        ("hf:./none --dataset text:c.txt", 2, "there is no directory"),
        ("own_bad:f --dataset digits", 2, "cannot be imported"),
        ("mlp --dataset digits --batch-size 0", 2, "--batch-size"),
        ("mlp --dataset digits --samples -1", 2, "--samples"), ("timm:resnet9 --dataset digits", 1, "cannot be had"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_sentence(ask: Ask, line: str, code: int, words: str) -> None:
    write("p.pt", "x")
    write("c.txt", "the cat")
    write("features.npz", "old")
    said, _ = ask(*line.split())
    assert said["code"] == code and words in said["said"] and "error: " in said["said"]
    assert Path("features.npz").read_text() == "old"


def test_what_is_not_installed_says_which_extra(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for model, extra in (("timm:resnet18", "ncpl[timm]"), ("hf:gpt2", "ncpl[hf]")):
        said, _ = ask(model, "--dataset", "digits", "--samples", "2")
        assert said["code"] == 2 and f"pip install '{extra}'" in said["said"]


def test_the_file_is_written_block_by_block_and_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    block = np.random.default_rng(0).normal(size=(500, 250))
    tracemalloc.start()
    with features_file(str(path)) as file:
        for _ in range(40):  # 40 MB
            file.add("features", block)
            file.add("features/a", block[:, :3])
        file.whole["labels"] = np.zeros(20000, np.int64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    with np.load(path) as found:
        assert np.array_equal(found["features"][-500:], block) and found["features/a"].shape == (20000, 3)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), features_file(str(path)) as file:
        file.add("features", block)
        1 / 0  # noqa: B018
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["f.npz"]


def test_which_modules_are_layers_and_what_is_not_computed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4)])
            self.drop, self.head, self.used = nn.Dropout(), nn.Linear(4, 3), 0

        def forward(self, x: Any) -> Any:
            x = self.blocks[1](self.blocks[0](x))
            return self.head(self.drop(x))

    net = Net()
    assert layer_names(net, "head", "all") == ["blocks.0.0", "blocks.0.1", "blocks.1"]
    reading, uses = Layers(net, net, torch.ones(2, 4), "all"), []
    assert reading.names == ["blocks.0.0", "blocks.0.1", "blocks.1", "last"]
    net.head.register_forward_hook(lambda *_: uses.append(1))
    found = reading.read(torch.ones(2, 4))
    assert not uses and torch.equal(found["last"], found["blocks.1"]) and net.training
    with pytest.raises(InputError, match="unknown layer"):
        layer_names(net, "head", "block.1")
