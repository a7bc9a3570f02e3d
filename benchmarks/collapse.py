"""NC1 to NC4 and CDNV, and the streaming accumulator, beside plain products and a per-sample loop in the same run.

python benchmarks/collapse.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from ncpl_cli.metrics import CollapseAccumulator, CollapseResult, collapse

NAMES = ["nc1", "nc2", "nc3", "nc4", "cdnv"]


def median(*works: Callable[[], object], times: int = 15) -> list[tuple[float, float, float]]:
    """Milliseconds of each work: median and fastest of several, and the processor's time over all cores.

    In turn, so that all see the same machine; on a machine that others use, too, the last says most.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in works]
    for _ in range(times + 1):
        for work, of_work in zip(works, found, strict=True):
            began, busy = time.perf_counter(), time.process_time()
            work()
            of_work.append(((time.perf_counter() - began) * 1e3, (time.process_time() - busy) * 1e3))
    timed = [np.array(one[1:]) for one in found]  # the first one compiles
    return [(float(np.median(t[:, 0])), float(t[:, 0].min()), float(np.median(t[:, 1]))) for t in timed]


def second_moment(x: np.ndarray, y: np.ndarray) -> float:
    """What a plain implementation does: X^T X in float64, then the pseudo-inverse."""
    wide = torch.from_numpy(x).double()
    counts = torch.bincount(torch.from_numpy(y))
    means = torch.zeros(len(counts), x.shape[1], dtype=torch.float64).index_add_(0, torch.from_numpy(y), wide)
    means /= counts[:, None]
    within = (wide.T @ wide - (means * counts[:, None]).T @ means) / len(x)
    centred = means - wide.mean(0)
    return float(torch.trace(within @ torch.linalg.pinv(centred.T @ centred / len(counts), rtol=1e-9))) / len(counts)


def loop(x: np.ndarray, y: np.ndarray, w: np.ndarray, count: int = 500) -> float:
    """The published code's way, sample by sample (its first `count`), scaled up."""
    means = np.stack([x[y == c].mean(0) for c in range(10)])
    began = time.perf_counter()
    within = np.zeros((x.shape[1], x.shape[1]))
    for h, c in zip(x[:count], y[:count], strict=True):
        within += np.outer(h - means[c], h - means[c])
        int(np.argmin(((h - means) ** 2).sum(1)) == np.argmax(w @ h))
    return (time.perf_counter() - began) * 1e3 * len(x) / count


def main() -> None:
    """Print one line per size."""
    torch.set_num_threads(2)
    draw = np.random.default_rng(0)
    for n, d, floor, stream_floor in ((60_000, 100, 25, 40), (50_000, 512, 70, 230)):
        y = draw.integers(0, 10, n)
        x = (draw.normal(size=(10, d))[y] + draw.normal(size=(n, d))).astype(np.float32)
        w, b = draw.normal(size=(10, d)), draw.normal(size=10)

        def ours(threads: int = 2) -> CollapseResult:
            return collapse(x, y, w, b, metrics=NAMES, threads=threads)  # noqa: B023

        def stream(batch: int) -> CollapseResult:
            found = CollapseAccumulator(10)
            for i in range(0, len(x), batch):  # noqa: B023
                found.update(x[i : i + batch], y[i : i + batch])  # noqa: B023
            return found.compute(w, b)  # noqa: B023

        slow = loop(x, y, w)
        (two, fastest, cpu), (one, *_), (plain, *_) = median(ours, lambda: ours(1), lambda: second_moment(x, y))  # noqa: B023
        agree = abs(ours()["nc1"] / second_moment(x, y) - 1)
        print(
            f"{n} x {d}: {two:.1f} ms on two cores (fastest {fastest:.1f}, CPU {cpu:.1f}, floor {floor}), "
            f"{one:.1f} on one; float64 X^T X for nc1 alone {plain:.0f} ms ({plain / two:.1f} times), per-sample loop "
            f"{slow:.0f} ms ({slow / two:.0f} times); nc1 agrees to {agree:.0e}"
        )
        images = torch.from_numpy(x)
        (large, fastest, cpu), (small, *_), (bare, least, least_cpu) = median(
            lambda: stream(len(x)), lambda: stream(1000), lambda: images.T @ images  # noqa: B023
        )  # fmt: skip
        agree = abs(stream(1000)["nc1"] / ours()["nc1"] - 1)
        print(
            f"    one pass, with vci: {large:.1f} ms whole (fastest {fastest:.1f}, CPU {cpu:.1f}, floor {stream_floor}"
            f"), {small:.1f} in batches of 1000; bare float32 X^T X {bare:.1f} ms (fastest {least:.1f}, CPU "
            f"{least_cpu:.1f}): {large / bare:.2f} times, CPU by CPU {cpu / least_cpu:.2f}; nc1 agrees to {agree:.0e}"
        )
    # class distances of some units, noise of 1e-5: nc1 = 1e-11
    y = draw.integers(0, 10, 60_000)
    x = (draw.normal(size=(10, 100))[y] + 1e-5 * draw.normal(size=(60_000, 100))).astype(np.float32)
    deep, whole = CollapseAccumulator(10).update(x, y).compute()["nc1"], collapse(x, y)["nc1"]
    print(f"deep collapse: nc1 = {whole:.1e}, the stream agrees to {abs(deep / whole - 1):.0e} (floor 1e-06)")


if __name__ == "__main__":
    main()
