"""The accumulator as a torchmetrics Metric, alone, in a collection, and merged over processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ncpl_cli.metrics import CollapseAccumulator, NeuralCollapse
from tests.forked import context
from tests.test_collapse import sample

torchmetrics = pytest.importorskip("torchmetrics")


def test_it_is_the_accumulator() -> None:
    x, y, w, b = sample(n=2000)
    metric = NeuralCollapse(5, torch.from_numpy(w), torch.from_numpy(b))
    together = torchmetrics.MetricCollection([metric])
    expected = CollapseAccumulator(5)
    for part in np.array_split(np.arange(2000), 7):
        together.update(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
        expected.update(x[part], y[part])
    found, whole = together.compute(), expected.compute(w, b)
    assert found.keys() == whole.values.keys() and metric.undefined == whole.undefined
    for name, value in whole.values.items():
        assert float(found[name]) == pytest.approx(value, nan_ok=True)
    metric.reset()
    assert metric(torch.from_numpy(x[:300]), torch.from_numpy(y[:300])) is None
    assert float(metric.compute()["nc1"]) == CollapseAccumulator(5).update(x[:300], y[:300]).compute()["nc1"]
    assert metric.clone().compute().keys() == found.keys()


def work(rank: int, file: str) -> None:
    """One of two processes, with its part of the rows."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    x, y, _, _ = sample(n=900)
    metric = NeuralCollapse(5)
    part = slice(0, 300) if rank == 0 else slice(300, 900)
    metric.update(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    whole = CollapseAccumulator(5).update(x, y).compute()
    assert abs(float(metric.compute()["nc1"]) / whole["nc1"] - 1) < 1e-9
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_processes_are_merged(tmp_path: Path) -> None:
    workers = [context.Process(target=work, args=(rank, str(tmp_path / "meet"))) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
