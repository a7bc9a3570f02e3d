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

# fused multiply-add and reordered sums, but nothing that assumes finite numbers: divergence must show
_FAST = {"contract", "reassoc", "nsz", "arcp"}


@njit(fastmath=_FAST, inline="always")
def _accumulate(z, rows, weights, index, values, first, last):  # type: ignore[no-untyped-def]
    """Z += sum over k of values[k] * weights[index[k]], eight rows at a time."""
    k = first
    while k + 8 <= last:
        r0, r1, r2, r3 = (weights[index[k]], weights[index[k + 1]], weights[index[k + 2]], weights[index[k + 3]])
        r4, r5, r6, r7 = (weights[index[k + 4]], weights[index[k + 5]], weights[index[k + 6]], weights[index[k + 7]])
        x0, x1, x2, x3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        x4, x5, x6, x7 = values[k + 4], values[k + 5], values[k + 6], values[k + 7]
        for j in range(rows):
            z[j] += ((x0 * r0[j] + x1 * r1[j]) + (x2 * r2[j] + x3 * r3[j])) + (
                (x4 * r4[j] + x5 * r5[j]) + (x6 * r6[j] + x7 * r7[j])
            )
        k += 8
    while k < last:
        row, x = weights[index[k]], values[k]
        for j in range(rows):
            z[j] += x * row[j]
        k += 1


@functools.cache
def kernel(width: int, outputs: int) -> Callable[..., tuple[int, float]]:
    """The loop for hidden layers of `width` and `outputs` logits, both padded to full vectors.

    They are constants of the compiled code: with known trip counts it is a sixth faster.
    """

    @njit(fastmath=_FAST, nogil=True, error_model="numpy", cache=True)
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
                _accumulate(z, width, w1, pixels, values, indptr[sample], indptr[sample + 1])
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
                        _accumulate(z, width, hidden[layer], active[i, layer], h[i, layer], 0, n)
                logits = out[i]
                for c in range(outputs):
                    logits[c] = b_out[c]
                _accumulate(logits, outputs, w_out, active[i, depth - 1], h[i, depth - 1], 0, count[i, depth - 1])

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


def padded(size: int) -> int:
    """The next multiple of 8: full vectors of float32 on AVX2, of float64 on AVX-512."""
    return -(-size // 8) * 8
