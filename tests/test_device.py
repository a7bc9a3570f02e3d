"""Which device `auto` means, how many runs go together on it, and the switches that a precision turns."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from ncpl_cli import networks, settings
from ncpl_cli.data import Dataset, load
from ncpl_cli.device import arithmetic
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.plan import COHORT_SIZE, best_device, plan
from ncpl_cli.scenarios import PermutedDigits
from ncpl_cli.spec import NetworkSpec, OptimizerSpec, RunSpec
from tests.test_online_engine import a_task


def never() -> str:
    raise AssertionError("to ask for a GPU loads torch")


def specs(count: int = 1) -> list[RunSpec]:
    dataset = settings.dataset_spec(PermutedDigits, {})
    return settings.specs(PermutedDigits, {}, load(dataset), dataset, list(range(count)))


def test_auto_gives_single_samples_to_the_cpu_and_all_else_to_the_gpu() -> None:
    (plain,) = specs()
    assert best_device([plain], never) == "cpu"
    for other in (
        replace(plain, network=NetworkSpec(norm="layer")),
        replace(plain, optimizer=OptimizerSpec(batch_size=128)),
        replace(plain, engine="stacked"),
        replace(plain, precision="tf32"),
    ):
        assert best_device([other], lambda: "cuda:0") == "cuda:0"
        assert best_device([plain, other], lambda: "cuda:0") == "cuda:0"  # one device for all
        assert best_device([other], lambda: "cpu") == "cpu"


def test_more_runs_keep_step_on_a_gpu() -> None:
    many = [replace(spec, network=NetworkSpec(norm="layer")) for spec in specs(130)]
    assert [len(cohort.specs) for cohort in plan(many, "cpu")] == [32, 32, 32, 32, 2]
    assert [len(cohort.specs) for cohort in plan(many, "cuda:0")] == [COHORT_SIZE["cuda"], 2]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_switches_are_turned_for_as_long_as_it_lasts(precision: str) -> None:
    cudnn = torch.backends.cudnn

    def switches() -> tuple[object, ...]:
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before = switches()
    try:
        cudnn.benchmark = True
        mine = switches()
        with pytest.raises(KeyError), arithmetic("cuda:0", precision):
            assert switches() == (True, False, precision == "tf32", "high" if precision == "tf32" else "highest")
            raise KeyError
        assert switches() == mine
        with arithmetic("cpu", precision):
            assert switches() == mine
    finally:
        cudnn.benchmark = bool(before[1])


def test_convolutions_lie_as_they_are_used_and_batches_are_counted_at_the_end(digits: Dataset) -> None:
    net = networks.build("resnet18", digits.shape, 10, 0, width=2, norm="batch", statistics=digits.channel_statistics)
    engine = StackedEngine([net], digits, OptimizerSpec(batch_size=16, momentum=0.9), "cpu")
    engine.train_epoch([a_task(digits)], [np.arange(40)], 0.01)
    for name, value in net.named_parameters():
        assert value.dim() != 4 or value.is_contiguous(memory_format=torch.channels_last), name
    counts = {int(value) for name, value in net.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {3}
    engine.train_epoch([a_task(digits)], [np.arange(32)], 0.01)
    assert {int(v) for n, v in net.state_dict().items() if n.endswith("num_batches_tracked")} == {5}
    (saved,) = engine.state()
    engine.load_state([{name: value.clone() for name, value in saved.items()}])
    assert all(torch.equal(a, b) for a, b in zip(engine.state()[0].values(), saved.values(), strict=True))


def test_a_thread_that_needs_other_switches_waits_for_those_that_have_them() -> None:
    began, let_go, seen = threading.Event(), threading.Event(), []

    def holds() -> None:
        with arithmetic("cuda:0", "tf32"):
            began.set()
            let_go.wait(30)
            seen.append(torch.backends.cudnn.allow_tf32)

    def wants() -> None:
        with arithmetic("cuda:0", "bf16"), arithmetic("cuda:0", "float32"):
            seen.append(torch.backends.cudnn.allow_tf32)

    before = torch.backends.cudnn.allow_tf32
    first, second = threading.Thread(target=holds), threading.Thread(target=wants)
    first.start()
    began.wait(30)
    with arithmetic("cuda:0", "tf32"):  # alike: at once
        second.start()
    let_go.set()
    first.join()
    second.join()
    assert seen == [True, False] and torch.backends.cudnn.allow_tf32 == before
