"""The compiled loop of the online engine: a whole epoch of SGD on an MLP with ReLU, one core.

A step of batch 1 touches only what it must: rows of the first layer whose pixel is not zero, rows of the later
layers whose unit is active. That is exact, not an approximation: the other rows are multiplied by zero and their
gradient is zero. The loops over rows are those of data/rows.py.

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

from ncpl_cli.data.rows import FAST, SOURCE, add_rows, fetch, move_rows, pick_active, times_rows


@njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
def _fold(v, goal, scale, pull):  # type: ignore[no-untyped-def]
    """v <- scale v + (1 - scale) goal: the weights as they are."""
    for row in range(v.shape[0]):
        for j in range(v.shape[1]):
            v[row, j] *= scale
            if pull == 2:
                v[row, j] += (v.dtype.type(1) - scale) * goal[row, j]


@njit(fastmath=FAST, inline="always")
def _affine(width, pull, z, bias, weights, goal, index, values, first, last, scale, target, zeros):  # type: ignore[no-untyped-def]
    """z (width,) = bias + (scale weights + (1 - scale) goal) times the sparse vector (index, values)[first:last]."""
    if pull == 0:
        add_rows(width, z, bias, weights, index, values, first, last)
    else:
        add_rows(width, z, zeros, weights, index, values, first, last)
        if pull == 2:
            add_rows(width, target, zeros, goal, index, values, first, last)
        for j in range(width):
            z[j] = bias[j] + scale * z[j] + (z.dtype.type(1) - scale) * target[j]


@njit(fastmath=FAST, inline="always")
def _slopes(width, pull, moving, out, weights, goal, index, values, last, d, scale, push):  # type: ignore[no-untyped-def]
    """out[index] = (scale weights + (1 - scale) goal) d for the active units of the layer before, 0 for the others.

    Where `moving` the rows of `weights` take their step as well.
    """
    out[:] = 0
    if pull == 2:
        times_rows(width, 0, goal, index, values, last, d, d.dtype.type(1) - scale, push, out)
    times_rows(width, moving, weights, index, values, last, d, scale, push, out)


@njit(fastmath=FAST, inline="always")
def _of_classes(logits, label, classes, outputs, smoothing):  # type: ignore[no-untyped-def]
    """What cross-entropy asks of one sample: (right or not, loss); the logits become its slope, softmax - target.

    The target is (1 - smoothing) one-hot + smoothing / classes; the padding behind `classes` has no slope.
    """
    best, top = 0, logits[0]
    for c in range(1, classes):
        if logits[c] > top:
            best, top = c, logits[c]
    right = best == label and not math.isnan(logits[label])
    lost = logits[label] - top
    if smoothing > 0:
        mean = logits[0] * 0
        for c in range(classes):
            mean += logits[c] - top
        lost += smoothing * (mean / logits.dtype.type(classes) - lost)
    total = logits[0] * 0
    for c in range(classes):
        logits[c] = math.exp(logits[c] - top)
        total += logits[c]
    for c in range(classes):
        logits[c] /= total
    logits[label] -= 1
    if smoothing > 0:
        logits[label] += smoothing
        for c in range(classes):
            logits[c] -= smoothing / logits.dtype.type(classes)
    for c in range(classes, outputs):
        logits[c] = 0
    return right, math.log(total) - lost


@njit(fastmath=FAST, inline="always")
def _of_squares(out, label, numbers, sample, classes, outputs, asks):  # type: ignore[no-untyped-def]
    """What the mean squared error asks of one sample, as `_of_classes`: of its label's 1 and 0, or of its numbers."""
    best, count = 0, 0
    for c in range(classes):
        if out[c] > out[best]:
            best = c
        count += asks == LABELS or not math.isnan(numbers[sample, c])
    right = asks == LABELS and best == label and not math.isnan(out[label])
    share = out.dtype.type(1) / out.dtype.type(max(count, 1))
    lost = out[0] * 0
    for c in range(outputs):
        if c >= classes or (asks == NUMBERS and math.isnan(numbers[sample, c])):
            out[c] = 0
        else:
            if asks == NUMBERS:
                out[c] -= numbers[sample, c]
            elif c == label:
                out[c] -= 1
            lost += share * out[c] * out[c]
            out[c] *= 2 * share
    return right, lost


FURTHER = 3
"""How many samples earlier than its pixels the place of these is asked for."""


@njit(inline="always")
def _ask_for(coming, order, indptr, pixels, values, labels):  # type: ignore[no-untyped-def]
    """Have what a coming sample needs brought while this one is trained on: samples lie anywhere in memory."""
    if coming + FURTHER < order.shape[0]:
        sample = order[coming + FURTHER]
        fetch(indptr, sample, sample + 2)
        fetch(labels, sample, sample + 1)
    if coming < order.shape[0]:
        first, last = indptr[order[coming]], indptr[order[coming] + 1]
        fetch(pixels, first, last)
        fetch(values, first, last)


@njit(fastmath=FAST, inline="always")
def _earn(pull, utility, share, active, h, count, weights, goal, scale):  # type: ignore[no-untyped-def]
    """utility[j] += share h_j sum over k |w_jk|, of the active units; w = scale weights + (1 - scale) goal."""
    for n in range(count):
        row, total = active[n], h[0] * 0
        for k in range(weights.shape[1]):
            w = weights[row, k] * scale if pull else weights[row, k]
            if pull == 2:
                w += (h.dtype.type(1) - scale) * goal[row, k]
            total += abs(w)
        utility[row] += share * h[n] * total


CLASSES, SMOOTHED, LABELS, NUMBERS = 0, 1, 2, 3
"""What a kernel asks: cross-entropy, the same smoothed, the squared error of labels or of numbers."""


@functools.cache
def kernel(
    width: int, outputs: int, pull: int = 0, alone: bool = True, asks: int = CLASSES, renewing: bool = False
) -> Callable[..., tuple[int, float, int]]:
    """The loop for hidden layers of `width` and `outputs` logits, both padded to full vectors.

    pull   0: nothing pulls on the weights; 1: towards zero; 2: towards the targets
    alone  batches are of one sample: a row that the backward pass has read takes its step at once
    asks   the objective
    renewing  whether the utility of the units is kept, and the loop left where some are to begin anew

    They are constants of the compiled code: with known trip counts it is a sixth faster.
    """
    smallest_scale = 1e-3  # below it s is folded into the weights, long before V loses digits
    source, moving = SOURCE, int(alone)

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def epoch(  # type: ignore[no-untyped-def]
        order, indptr, pixels, values, labels, numbers, smoothing, w1, hidden, w_out, biases, b_out, rate, batch,
        classes, strength, w1_target, hidden_target, w_out_target, biases_target, b_out_target, utility, age, due, dues,
        decay, maturity,
    ):  # fmt: skip
        """Train on `order` in batches; returns (right and sum of losses before the update, samples done).

        w1 (D, width), hidden (L-1, width, width), w_out (width, outputs): rows are inputs; biases (L, width).
        `numbers` (N, classes) are read where they are asked. With a pull of that strength the targets are of the same
        shapes (empty where pull is not 2). Where `renewing`, what continual backpropagation keeps: utility and age
        (L, width of a layer), replacements due (L,), and `dues[m]` that m mature units add to them a step.
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
        zero, scale = dtype.type(0), one
        target, zeros = np.zeros(max(width, outputs), dtype), np.zeros(max(width, outputs), dtype)
        goals = hidden_target if pull == 2 else hidden
        for start in range(0, order.shape[0] if source else 0, batch):
            size = min(batch, order.shape[0] - start)
            step = dtype.type(rate / size)  # a quotient of float32 and an integer is float64, and all that follows
            following = scale * (one - rate * strength) if pull else scale
            push = step / following if pull else step
            for i in range(size):
                sample = order[start + i]
                _ask_for(start + i + batch, order, indptr, pixels, values, labels)
                _affine(width, pull, z, biases[0], w1, w1_target, pixels, values, indptr[sample], indptr[sample + 1],
                        scale, target, zeros)  # fmt: skip
                for layer in range(depth):
                    now_h, now_active = h[i, layer], active[i, layer]
                    n = pick_active(z, now_active, now_h)  # with what is not a number: it spreads and is seen
                    count[i, layer] = n
                    if layer + 1 < depth:
                        _affine(width, pull, z, biases[layer + 1], hidden[layer], goals[layer],
                                now_active, now_h, 0, n, scale, target, zeros)  # fmt: skip
                logits = out[i]
                last = depth - 1
                _affine(outputs, pull, logits, b_out, w_out, w_out_target, active[i, last], h[i, last], 0,
                        count[i, last], scale, target, zeros)  # fmt: skip
                if asks == LABELS or asks == NUMBERS:  # noqa: SIM109
                    right, lost = _of_squares(logits, labels[sample], numbers, sample, classes, outputs, asks)
                else:
                    right, lost = _of_classes(
                        logits, labels[sample], classes, outputs, smoothing if asks == SMOOTHED else zero
                    )
                correct += right
                loss += lost

                _slopes(outputs, pull, moving, delta[i, last], w_out, w_out_target, active[i, last], h[i, last],
                        count[i, last], logits, scale, push)  # fmt: skip
                for layer in range(depth - 2, -1, -1):
                    _slopes(width, pull, moving, delta[i, layer], hidden[layer], goals[layer],
                            active[i, layer], h[i, layer], count[i, layer], delta[i, layer + 1], scale,
                            push)  # fmt: skip

            if pull:  # biases are few: they are pulled as they stand
                for layer in range(depth):
                    for j in range(width):
                        goal = biases_target[layer, j] if pull == 2 else zero
                        biases[layer, j] -= rate * strength * (biases[layer, j] - goal)
                for c in range(outputs):
                    b_out[c] -= rate * strength * (b_out[c] - (b_out_target[c] if pull == 2 else zero))
            for i in range(size):
                sample = order[start + i]
                for layer in range(depth):
                    for j in range(width):
                        biases[layer, j] -= step * delta[i, layer, j]
                for c in range(outputs):
                    b_out[c] -= step * out[i, c]
                move_rows(width, w1, pixels, values, indptr[sample], indptr[sample + 1], push, delta[i, 0])
                if not moving:
                    for layer in range(1, depth):
                        move_rows(width, hidden[layer - 1], active[i, layer - 1], h[i, layer - 1], 0,
                                  count[i, layer - 1], push, delta[i, layer])  # fmt: skip
                    move_rows(outputs, w_out, active[i, depth - 1], h[i, depth - 1], 0, count[i, depth - 1], push,
                              out[i])  # fmt: skip
            scale = following
            stop = False
            if renewing:
                for layer in range(depth):
                    readers, goal = (hidden[layer], goals[layer]) if layer + 1 < depth else (w_out, w_out_target)
                    mature = 0
                    for unit in range(utility.shape[1]):
                        utility[layer, unit] *= decay
                        age[layer, unit] += 1
                        mature += age[layer, unit] > maturity
                    for i in range(size):
                        _earn(pull, utility[layer], (one - decay) / dtype.type(size), active[i, layer], h[i, layer],
                              count[i, layer], readers, goal, scale)  # fmt: skip
                    due[layer] += dues[mature]
                    stop = stop or due[layer] >= 1
            if pull and (scale < smallest_scale or stop or start + batch >= order.shape[0]):
                _fold(w1, w1_target, scale, pull)
                for layer in range(depth - 1):
                    _fold(hidden[layer], hidden_target[layer], scale, pull)
                _fold(w_out, w_out_target, scale, pull)
                scale = one
            if stop:
                return correct, loss, start + size
        return correct, loss, order.shape[0]

    return epoch
