"""Images moved at random: right pixels, the draws of an epoch, a run that goes on to the same bits, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as theirs

from ncpl_cli.data import Dataset
from ncpl_cli.engines.moved import moved
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.plan import plan
from ncpl_cli.records import Address
from ncpl_cli.scenarios.augmentation import Augmentation, written
from ncpl_cli.scenarios.incremental import ClassIncremental, TaskIncremental
from ncpl_cli.settings import asked, specs
from ncpl_cli.spec import DatasetSpec
from ncpl_cli.store import open_store
from ncpl_cli.trainer import Start, begin, begun, train


def by_hand(image: np.ndarray, draw: np.ndarray, how: Augmentation, outside: list[int]) -> np.ndarray:
    """One image (C, H, W), pixel by pixel."""
    channels, height, width = image.shape
    flipped = image[:, :, ::-1] if how.flip and draw[0] < 0.5 else image
    whole = np.pad(flipped, ((0, 0), (how.crop, how.crop), (how.crop, how.crop)), mode="reflect")
    down, across = (int(float(u) * (2 * how.crop + 1)) for u in draw[1:3])
    cut = whole[:, down : down + height, across : across + width]
    angle, found = math.radians(float(draw[3]) * how.rotate), np.empty_like(image)
    for c, i, j in np.ndindex(channels, height, width):
        y, x = i - (height - 1) / 2, j - (width - 1) / 2
        a = round(y * math.cos(angle) + x * math.sin(angle) + (height - 1) / 2)
        b = round(x * math.cos(angle) - y * math.sin(angle) + (width - 1) / 2)
        inside = 0 <= a < height and 0 <= b < width
        found[c, i, j] = cut[c, a, b] if inside else outside[c]
    return found


@pytest.mark.parametrize("text", ["flip", "crop:2", "rotate:40", "crop:4+flip+rotate:15"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_every_pixel_is_where_it_belongs(text: str, kind: Any) -> None:
    draw = np.random.default_rng(0)
    images = (255 * draw.random((9, 3, 7, 6))).astype(kind)  # not square: rows and columns are told apart
    how = Augmentation.of(written(text, "--augment"))
    assert how is not None
    draws, outside = how.draws(1, 9), [3, 4, 5]
    got = moved(torch.from_numpy(images).flatten(1), torch.from_numpy(draws), how, (3, 7, 6), torch.tensor(outside))
    assert got.dtype == torch.from_numpy(images).dtype
    for image, u, now in zip(images, draws, got.numpy().reshape(images.shape), strict=True):
        assert np.array_equal(now, by_hand(image, u, how, outside))


def test_it_turns_and_cuts_as_torchvision_does() -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(1, 255, (4, 3, 32, 32)).astype(np.uint8))
    how = Augmentation(True, 4, 15.0, 0, 0)
    draws = torch.tensor([[0.1, 0.0, 0.999, 0.9], [0.9, 0.5, 0.5, 0.0], [0.2, 0.3, 0.7, 0.4], [0.7, 0.9, 0.1, 1.0]])
    got = moved(images.flatten(1), draws, how, (3, 32, 32), torch.zeros(3)).view(4, 3, 32, 32)
    for image, (flip, down, across, turn), now in zip(images, draws.tolist(), got, strict=True):
        other = theirs.hflip(image) if flip < 0.5 else image
        other = theirs.pad(other, [4], padding_mode="reflect")
        other = theirs.rotate(theirs.crop(other, int(down * 9), int(across * 9), 32, 32), turn * 15)
        assert (now == other).float().mean() > 0.998  # theirs rounds in float32: a tie may fall either way


def test_draws_are_of_the_run_the_task_and_the_epoch() -> None:
    one = Augmentation(True, 4, 15.0, seed=1, task=2)
    again = Augmentation.of("flip+crop:4+rotate:15", 1, 2)
    assert again == one and np.array_equal(one.draws(3, 50), again.draws(3, 50)) and one.draws(3, 50).shape == (50, 4)
    for other in (replace(one, seed=2), replace(one, task=3)):
        assert not np.array_equal(one.draws(3, 50), other.draws(3, 50))
    many = one.draws(4, 4000)
    assert not np.array_equal(many[:50], one.draws(3, 50)) and many.min() >= 0 and many.max() < 1
    shifts = np.bincount((many[:, 1] * 9).astype(int), minlength=9)
    assert len(shifts) == 9 and shifts.min() > 350 and 0.46 < (many[:, 0] < 0.5).mean() < 0.54


GIVEN = {"protocol": "dohare2024", "per_class": 12, "width": 4, "epochs": 3, "batch_size": 10, "tasks": 2,
         "lr_schedule": "step:1/2:0.2"}  # fmt: skip


def test_a_run_that_goes_on_within_a_task_is_the_run_that_never_stopped(digits: Dataset) -> None:
    (cohort,) = plan(specs(ClassIncremental, GIVEN, digits, DatasetSpec("digits"), [0]), "cpu")
    (plain,) = plan(specs(ClassIncremental, {**GIVEN, "augment": "none"}, digits, DatasetSpec("digits"), [0]), "cpu")
    history: list[tuple[int, int, float]] = []
    at, whole, ends = None, list[dict[str, torch.Tensor]](), []
    for epoch in train(cohort, digits):
        record, whole = epoch.records[0], epoch.state()
        if record is not None and record.epoch and at is None:
            history.append((record.task, record.task_epoch, record.values[Address("online_accuracy")]))
        if epoch.position.epoch == 4:
            at = Start(epoch.position, whole, [history])
    assert at is not None and at.position.next_task == 1 and at.position.next_task_epoch == 2
    for start, of in ((at, cohort), (None, plain)):
        for epoch in train(of, digits, start):
            ended = epoch.state()
        ends.append(all(torch.equal(value, whole[0][name]) for name, value in ended[0].items()))
    assert ends == [True, False]


def test_a_protocol_is_what_it_presets_and_is_not_kept(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "a.db")
    few = ["--dataset", "digits", "--tasks", "1", "--per-class", "12", "--width", "4", "--epochs", "1", "--db", path]
    assert call(["train", "class-incremental", "--protocol", "dohare2024", *few]) == 0
    spelled = ["--show", "seen", "--augment", "rotate:15+crop:1+flip", "--network", "convnet", "--optimizer", "sgd",
               "--momentum", "0.9", "--weight-decay", "5e-4", "--lr", "0.05", "--lr-schedule", "step:6/12/16:0.2",
               "--batch-size", "32"]  # fmt: skip
    assert call(["train", "class-incremental", *spelled, *few]) == 0
    assert "another setting" not in capsys.readouterr().err
    with open_store(path, readonly=True) as store:
        (row,) = store.runs()  # one run: the two say the same
    assert row.settings["augment"] == "flip+crop:1+rotate:15" and "protocol" not in row.settings


def test_an_mlp_is_shown_them_too_and_each_run_its_own(digits: Dataset) -> None:
    """One step of two runs at once on moved images, against each by itself in torch."""
    given = {"augment": "flip+crop:2", "optimizer": "sgd", "lr": 0.1, "batch_size": 20, "per_class": 10, "width": 8,
             "precision": "float64"}  # fmt: skip
    runs = specs(ClassIncremental, {"dataset": "digits", **given}, digits, DatasetSpec("digits"), (3, 4))
    (cohort,) = plan(runs, "cpu")
    nets, engine = begin(cohort, digits)
    alone, _ = begin(cohort, digits)
    tasks = begun(runs, nets, digits, "cpu")
    engine.train_epoch(tasks, [task.order(2) for task in tasks], 0.1, 2)
    for net, one, task in zip(nets, alone, tasks, strict=True):
        order, how = task.order(2), task.augmentation
        assert how is not None and len(order) == 20
        mean = [round(float(digits.channel_statistics[0][0] * digits.scale))]
        shown = [by_hand(digits.train.images[i], u, how, mean) for i, u in zip(order, how.draws(2, 20), strict=True)]
        x = torch.from_numpy(np.stack(shown)).flatten(1).double() / digits.scale
        y = torch.from_numpy(task.train_labels[order])
        loss = torch.nn.functional.cross_entropy(one(x)[:, :2], y)
        torch.autograd.backward(loss)
        for (name, parameter), trained in zip(one.named_parameters(), net.parameters(), strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter - 0.1 * parameter.grad, trained, atol=1e-12), name


def test_the_published_protocol_and_the_same_in_small() -> None:
    full = asked(ClassIncremental, {"dataset": "cifar100"})
    assert full.scenario.augment == "flip+crop:4+rotate:15" and full.dataset.validation_fraction == 0.1
    assert full == asked(ClassIncremental, {"dataset": "cifar100", "protocol": "dohare2024"})
    small = asked(ClassIncremental, {"dataset": "folder:somewhere", "protocol": "dohare2024"})
    assert (small.network.name, small.scenario.show, small.scenario.epochs) == ("convnet", "seen", 20)
    assert small.optimizer.lr_schedule == "step:6/12/16:0.2" and small.scenario.augment == full.scenario.augment
    theirs = asked(ClassIncremental, {"dataset": "cifar100", "protocol": "vandeven2022"})
    assert theirs.dataset.validation_fraction == 0
    assert (theirs.scenario.classes_per_task, theirs.scenario.show, theirs.scenario.augment) == (10, "new", "none")
    assert asked(TaskIncremental, {"dataset": "digits", "protocol": "dohare2024"}).scenario.show == "new"
    assert asked(ClassIncremental, {"dataset": "digits"}) == asked(ClassIncremental, {"dataset": "digits",
                                                                                     "protocol": "auto"})  # fmt: skip


@pytest.mark.parametrize("text", ["crop", "crop:0", "flip:1", "flip+flip", "rotate:181", "rotate:0", "turn:3", ""])
def test_what_is_impossible_is_said(text: str, digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["train", "class-incremental", "--dataset", "digits", "--augment", text, "--dry-run"]) == 2
    assert "--augment" in capsys.readouterr().err
    assert written("rotate:15+flip", "x") == "flip+rotate:15" and written("none", "x") == "none"
    with pytest.raises(InputError, match=r"crop:8 is impossible.*at most 7"):
        specs(ClassIncremental, {"dataset": "digits", "augment": "crop:8"}, digits, DatasetSpec("digits"), [0])
