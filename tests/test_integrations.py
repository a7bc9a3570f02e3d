"""Callbacks of Lightning and transformers: epochs, features, resumption and failure, with the libraries themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ncpl_cli.errors import InputError
from ncpl_cli.extraction.live import Live
from ncpl_cli.metrics import collapse
from ncpl_cli.records import Address
from ncpl_cli.store import open_store

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, of which there are many


def data(n: int = 48) -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    return TensorDataset(torch.randn(n, 5, generator=draw) + 2 * torch.eye(5)[y], y)


def test_lightning_stores_each_epoch_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint

    from ncpl_cli.integrations.lightning import Recording

    class Net(LightningModule):
        def __init__(self, lr: float = 0.1, fails: int = 99) -> None:
            super().__init__()
            self.save_hyperparameters("lr")
            self.fails = fails
            self.body = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3))
            self.body[1].eval()

        def forward(self, x: Any) -> Any:
            return self.body(x)

        def training_step(self, batch: Any, _: int) -> Any:
            if self.current_epoch == self.fails:
                raise RuntimeError("broken")
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss, on_epoch=True, on_step=False)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    loader = DataLoader(data(), batch_size=16)

    def fit(epochs: int, *more: Any, made: dict[str, Any] | None = None, **options: Any) -> Any:
        seed_everything(4, verbose=False)
        net = Net(**made or {})
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        Trainer(max_epochs=epochs, callbacks=list(more), default_root_dir=tmp_path, num_sanity_val_steps=1,
                enable_checkpointing=len(more) > 1, **quiet).fit(net, loader, loader, **options)  # fmt: skip
        return net

    url = str(tmp_path / "l.db")

    def recording() -> Any:
        names = {"val_acc": "test_accuracy"}
        return Recording(url, "theirs", name="n", measure=loader, measure_test=loader, rename=names)

    net = fit(2, recording(), ModelCheckpoint(tmp_path, "kept", save_last=False))
    store = open_store(url)
    (row,) = store.runs()
    assert row.status == "finished" and row.seed == 4 and row.settings == {"lr": 0.1} and row.names == ("n",)
    assert [one["epoch"] for one in store.rows(row.id)] == [1, 2]
    assert net.body[0].training and not net.body[1].training  # a frozen norm stays frozen
    net.eval()
    x, y = data().tensors
    with torch.no_grad():
        expected = collapse(net.body[:4](x), y, net.body[4].weight, net.body[4].bias)
    values = store.values(row.id, 2)
    assert values[Address("nc1")] == pytest.approx(expected["nc1"], rel=1e-5)
    assert values[Address("nc4")] == expected["nc4"] and Address("nc1", "test") in values
    assert {Address("train_loss"), Address("test_accuracy")} <= values.keys()

    bare = fit(2)  # what is measured changes nothing in training
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), net.parameters(), strict=True))
    fit(3, recording(), ModelCheckpoint(tmp_path, "again"), ckpt_path=tmp_path / "kept.ckpt")
    assert [one["epoch"] for one in store.rows(row.id)] == [1, 2, 3] and len(store.attempts(row.id)) == 2
    with pytest.raises(RuntimeError, match="broken"):
        fit(3, recording(), made={"lr": 0.2, "fails": 1})
    (failed,) = [one for one in store.runs() if one.id != row.id]
    assert failed.status == "failed" and "broken" in str(failed.error) and store.last_epoch(failed.id) == 1
    store.close()


def test_transformers_stores_each_epoch_with_its_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

    from ncpl_cli.integrations.transformers import Recording

    draw = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(1, 9, (6,), generator=draw), "labels": torch.tensor(i % 2)} for i in range(24)]
    loader = DataLoader(rows, batch_size=8)  # type: ignore[arg-type]
    size = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    url = str(tmp_path / "t.db")

    def train(epochs: int, **options: Any) -> Any:
        set_seed(0)
        net = BertForSequenceClassification(BertConfig(**size, num_labels=2))
        arguments = TrainingArguments(
            str(tmp_path / "out"), num_train_epochs=epochs, per_device_train_batch_size=8, report_to=[], use_cpu=True,
            eval_strategy="epoch", save_strategy="epoch", logging_steps=1, disable_tqdm=True, seed=3,
        )  # fmt: skip
        recording = Recording(url, "theirs", measure=loader, rename={"eval_loss": "test_loss", "loss": "train_loss"})
        Trainer(net, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[recording]).train(**options)
        return net

    net = train(2)
    store = open_store(url)
    (row,) = store.runs()
    assert row.status == "finished" and row.seed == 3 and [one["epoch"] for one in store.rows(row.id)] == [1, 2]
    measured = Live(loader)(net)
    net.eval()
    with torch.no_grad():
        pooled = net.bert(torch.stack([one["input_ids"] for one in rows])).pooler_output
    assert np.allclose(measured["features"], pooled, atol=1e-5) and measured["weight"].shape == (2, 8)
    for epoch in (1, 2):
        values = store.values(row.id, epoch)
        assert {Address("nc1"), Address("test_loss"), Address("train_loss"), Address("grad_norm")} <= values.keys()
    assert store.values(row.id, 2)[Address("nc1")] == pytest.approx(collapse(**measured)["nc1"], rel=1e-4)
    assert store.values(row.id, 1)[Address("test_loss")] != store.values(row.id, 2)[Address("test_loss")]
    train(3, resume_from_checkpoint=True)
    assert [one["epoch"] for one in store.rows(row.id)] == [1, 2, 3] and len(store.attempts(row.id)) == 2
    store.close()


def test_next_tokens_of_a_live_model_are_moved_as_its_loss_moves_them() -> None:
    class TinyCausalLM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)

        def forward(self, input_ids: Any) -> Any:
            return {"logits": self.head(self.table(input_ids))}

    net, ids = TinyCausalLM(), torch.arange(12).reshape(2, 6) % 7
    labels = ids.clone()
    labels[0, 3] = -100
    found = Live([{"input_ids": ids, "labels": labels}])(net)
    kept = labels[:, 1:] >= 0
    assert np.array_equal(found["labels"], labels[:, 1:][kept])
    assert np.allclose(found["features"], net.table(ids[:, :-1])[kept].detach()) and found["bias"] is None


def test_what_is_not_installed_or_no_batch_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for library, extra in (("lightning", "lightning"), ("transformers", "hf")):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
        monkeypatch.delitem(sys.modules, f"ncpl_cli.integrations.{library}", raising=False)
        with pytest.raises(InputError, match="is not installed") as refused:
            __import__(f"ncpl_cli.integrations.{library}")
        assert refused.value.hint == f"pip install 'ncpl[{extra}]'"
    with pytest.raises(InputError, match="a batch is a Tensor"):
        Live([torch.zeros(3)])(nn.Linear(1, 1))
    with pytest.raises(InputError, match="nothing to measure"):
        Live([])(nn.Linear(1, 1))
