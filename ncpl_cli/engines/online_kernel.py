"""The compiled loop of the online engine: a whole epoch of SGD on an MLP with ReLU, one core.

A step of batch 1 touches only what it must: rows of the first layer whose pixel is not zero, rows of the later
layers whose unit is active. That is exact, not an approximation: the other rows are multiplied by zero and their
gradient is zero. Eight rows are gathered at a time, so that the accumulator is loaded and stored an eighth as often
(3x100 on MNIST, one core: 9.5 µs a step one row at a time, 5.6 µs with eight).

A pull on every weight, lambda/2 |W - T|^2 with T = 0 (L2, weight decay) or a share of the initialisation (l2_init),
would touch all rows every step. It is carried lazily and exactly instead: W = s V + (1 - s) T with one number s for all
rows, so that a step W <- a W + (1 - a) T - g, a = 1 - rate lambda, is s <- a s and V <- V - g / s on the rows of g.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import njit

from ncpl_cli.data.sparse import FAST, accumulate


@njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
def _fold(v, goal, scale, pull):  # type: ignore[no-untyped-def]
    """v <- scale v + (1 - scale) goal: the weights as they are."""
    for row in range(v.shape[0]):
        for j in range(v.shape[1]):
            v[row, j] *= scale
            if pull == 2:
                v[row, j] += (v.dtype.type(1) - scale) * goal[row, j]


@functools.cache
def kernel(width: int, outputs: int, pull: int = 0) -> Callable[..., tuple[int, float]]:
    """The loop for hidden layers of `width` and `outputs` logits, both padded to full vectors.

    pull  0: nothing pulls on the weights; 1: towards zero; 2: towards the targets

    They are constants of the compiled code: with known trip counts it is a sixth faster.
    """
    smallest_scale = 1e-3  # below it s is folded into the weights, long before V loses digits

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def epoch(  # type: ignore[no-untyped-def]
        order, indptr, pixels, values, labels, w1, hidden, w_out, biases, b_out, rate, batch, classes,
        strength, w1_target, hidden_target, w_out_target, biases_target, b_out_target,
    ):  # fmt: skip
        """Train on `order` in batches; returns (right before the update, sum of losses before the update).

        w1 (D, width), hidden (L-1, width, width), w_out (width, outputs): rows are inputs; biases (L, width).
        With a pull of that strength the targets are of the same shapes (empty where pull is not 2).
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
        one = dtype.type(1)
        zero, scale, target = dtype.type(0), one, np.zeros(max(width, outputs), dtype)
        for start in range(0, order.shape[0], batch):
            size = min(batch, order.shape[0] - start)
            step = rate / size
            following = scale * (one - rate * strength) if pull else scale
            push = step / following if pull else step
            for i in range(size):
                sample = order[start + i]
                for j in range(width):
                    z[j] = zero if pull else biases[0, j]
                accumulate(z, width, w1, pixels, values, indptr[sample], indptr[sample + 1])
                if pull:
                    if pull == 2:
                        for j in range(width):
                            target[j] = 0
                        accumulate(target, width, w1_target, pixels, values, indptr[sample], indptr[sample + 1])
                    for j in range(width):
                        z[j] = biases[0, j] + scale * z[j] + (one - scale) * target[j]
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
                            z[j] = zero if pull else biases[layer + 1, j]
                        accumulate(z, width, hidden[layer], active[i, layer], h[i, layer], 0, n)
                        if pull:
                            if pull == 2:
                                for j in range(width):
                                    target[j] = 0
                                accumulate(target, width, hidden_target[layer], active[i, layer], h[i, layer], 0, n)
                            for j in range(width):
                                z[j] = biases[layer + 1, j] + scale * z[j] + (one - scale) * target[j]
                logits = out[i]
                n = count[i, depth - 1]
                for c in range(outputs):
                    logits[c] = zero if pull else b_out[c]
                accumulate(logits, outputs, w_out, active[i, depth - 1], h[i, depth - 1], 0, n)
                if pull:
                    if pull == 2:
                        for c in range(outputs):
                            target[c] = 0
                        accumulate(target, outputs, w_out_target, active[i, depth - 1], h[i, depth - 1], 0, n)
                    for c in range(outputs):
                        logits[c] = b_out[c] + scale * logits[c] + (one - scale) * target[c]

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
                            if pull:
                                total *= scale
                            if pull == 2:
                                for c in range(outputs):
                                    total += (one - scale) * w_out_target[unit, c] * logits[c]
                        else:
                            row = hidden[layer, unit]
                            later = delta[i, layer + 1]
                            for j in range(width):
                                total += row[j] * later[j]
                            if pull:
                                total *= scale
                            if pull == 2:
                                for j in range(width):
                                    total += (one - scale) * hidden_target[layer, unit, j] * later[j]
                        now[unit] = total
                        if batch == 1:  # the row is at hand and nobody needs its old value any more: update it now
                            x = push * h[i, layer, k]
                            if layer == depth - 1:
                                for c in range(outputs):
                                    row[c] -= x * logits[c]
                            else:
                                for j in range(width):
                                    row[j] -= x * later[j]

            if pull:  # biases are few: they are pulled as they stand
                for layer in range(depth):
                    for j in range(width):
                        goal = biases_target[layer, j] if pull == 2 else zero
                        biases[layer, j] -= rate * strength * (biases[layer, j] - goal)
                for c in range(outputs):
                    b_out[c] -= rate * strength * (b_out[c] - (b_out_target[c] if pull == 2 else zero))
            for i in range(size):
                sample = order[start + i]
                for j in range(width):
                    biases[0, j] -= step * delta[i, 0, j]
                    delta[i, 0, j] *= push
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
                        row, x = hidden[layer - 1, active[i, layer - 1, k]], push * h[i, layer - 1, k]
                        for j in range(width):
                            row[j] -= x * now[j]
                logits = out[i]
                for k in range(count[i, depth - 1] if batch > 1 else 0):
                    row, x = w_out[active[i, depth - 1, k]], push * h[i, depth - 1, k]
                    for c in range(outputs):
                        row[c] -= x * logits[c]
                for c in range(outputs):
                    b_out[c] -= step * logits[c]
            scale = following
            if pull and (scale < smallest_scale or start + batch >= order.shape[0]):
                _fold(w1, w1_target, scale, pull)
                for layer in range(depth - 1):
                    _fold(hidden[layer], hidden_target[layer], scale, pull)
                _fold(w_out, w_out_target, scale, pull)
                scale = one
        return correct, loss

    return epoch
