"""The compiled loop of the online engine: a whole epoch of SGD on an MLP with ReLU, one core.

A step of batch 1 touches only what it must: rows of the first layer whose pixel is not zero, rows of the later
layers whose unit is active. That is exact, not an approximation: the other rows are multiplied by zero and their
gradient is zero. Eight rows are gathered at a time, so that the accumulator is loaded and stored an eighth as often
(3x100 on MNIST, one core: 9.5 µs a step one row at a time, 5.6 µs with eight).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import njit

from ncpl_cli.data.sparse import FAST, accumulate


@functools.cache
def kernel(width: int, outputs: int) -> Callable[..., tuple[int, float]]:
    """The loop for hidden layers of `width` and `outputs` logits, both padded to full vectors.

    They are constants of the compiled code: with known trip counts it is a sixth faster.
    """

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def epoch(order, indptr, pixels, values, labels, w1, hidden, w_out, biases, b_out, rate, batch, classes):  # type: ignore[no-untyped-def]
        """Train on `order` in batches; returns (right before the update, sum of losses before the update).

        w1 (D, width), hidden (L-1, width, width), w_out (width, outputs): rows are inputs; biases (L, width).
        """
        depth = biases.shape[0]
        dtype = w1.dtype
        z = np.zeros(width, dtype)
        out = np.zeros((batch, outputs), dtype)
        active = np.zeros((batch, depth, width), np.uint32)  # units above zero, first `count` entries
        h = np.zeros((batch, depth, width), dtype)  # their activations, in the same places
        count = np.zeros((batch, depth), np.int64)
        delta = np.zeros((batch, depth, width), dtype)  # loss by preactivation
        correct, loss = 0, 0.0
        for start in range(0, order.shape[0], batch):
            size = min(batch, order.shape[0] - start)
            step = rate / size
            for i in range(size):
                sample = order[start + i]
                for j in range(width):
                    z[j] = biases[0, j]
                accumulate(z, width, w1, pixels, values, indptr[sample], indptr[sample + 1])
                for layer in range(depth):
                    n = 0
                    now_h, now_active = h[i, layer], active[i, layer]
                    for j in range(width):  # without a branch: half of them would be mispredicted
                        now_h[n] = z[j]
                        now_active[n] = j
                        n += not z[j] <= 0  # NaN counts as active, so that it spreads and is seen
                    count[i, layer] = n
                    if layer + 1 < depth:
                        for j in range(width):
                            z[j] = biases[layer + 1, j]
                        accumulate(z, width, hidden[layer], active[i, layer], h[i, layer], 0, n)
                logits = out[i]
                for c in range(outputs):
                    logits[c] = b_out[c]
                accumulate(logits, outputs, w_out, active[i, depth - 1], h[i, depth - 1], 0, count[i, depth - 1])

                label = labels[sample]
                best, top = 0, logits[0]
                for c in range(1, classes):
                    if logits[c] > top:
                        best, top = c, logits[c]
                if best == label and not math.isnan(logits[label]):
                    correct += 1
                right = logits[label] - top
                total = logits[0] * 0
                for c in range(classes):
                    logits[c] = math.exp(logits[c] - top)
                    total += logits[c]
                loss += math.log(total) - right
                for c in range(classes):
                    logits[c] /= total  # from here on the loss by logit: softmax - one-hot
                logits[label] -= 1
                for c in range(classes, outputs):
                    logits[c] = 0

                for layer in range(depth - 1, -1, -1):
                    now = delta[i, layer]
                    for j in range(width):
                        now[j] = 0
                    for k in range(count[i, layer]):
                        unit = active[i, layer, k]
                        total = z[0] * 0
                        if layer == depth - 1:
                            row = w_out[unit]
                            for c in range(outputs):
                                total += row[c] * logits[c]
                        else:
                            row = hidden[layer, unit]
                            later = delta[i, layer + 1]
                            for j in range(width):
                                total += row[j] * later[j]
                        now[unit] = total
                        if batch == 1:  # the row is at hand and nobody needs its old value any more: update it now
                            x = step * h[i, layer, k]
                            if layer == depth - 1:
                                for c in range(outputs):
                                    row[c] -= x * logits[c]
                            else:
                                for j in range(width):
                                    row[j] -= x * later[j]

            for i in range(size):
                sample = order[start + i]
                for j in range(width):
                    delta[i, 0, j] *= step
                    biases[0, j] -= delta[i, 0, j]
                now = delta[i, 0]
                for k in range(indptr[sample], indptr[sample + 1]):
                    row, x = w1[pixels[k]], values[k]
                    for j in range(width):
                        row[j] -= x * now[j]
                for layer in range(1, depth):
                    now = delta[i, layer]
                    for j in range(width):
                        biases[layer, j] -= step * now[j]
                    for k in range(count[i, layer - 1] if batch > 1 else 0):
                        row, x = hidden[layer - 1, active[i, layer - 1, k]], step * h[i, layer - 1, k]
                        for j in range(width):
                            row[j] -= x * now[j]
                logits = out[i]
                for k in range(count[i, depth - 1] if batch > 1 else 0):
                    row, x = w_out[active[i, depth - 1, k]], step * h[i, depth - 1, k]
                    for c in range(outputs):
                        row[c] -= x * logits[c]
                for c in range(outputs):
                    b_out[c] -= step * logits[c]
        return correct, loss

    return epoch
