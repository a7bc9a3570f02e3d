"""The compiled loops of the second read of the features (`second_read.py`)."""

from __future__ import annotations

import numpy as np
from numba import njit

from ncpl_cli.metrics.moments import centre_row
from ncpl_cli.metrics.rotations import dot

TILE = 4
"""Samples projected together: each direction is loaded once for them."""

ROUNDING = 1e-14
"""What may be left of two equal distances along the directions, as a share of the sample: then the features decide."""


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def project(  # type: ignore[no-untyped-def]
    x, labels, origin, offsets, directions, weight, places, bias, around, left, distance, nearest, predicted
):
    """One block: add to around (r,), left (C, r) and distance (C,); fill nearest and predicted (n,).

    directions (r, d) are those of the class means, places (C, r) the class means there; weight (C, d), bias (C,).
    """
    d, r, rows = x.shape[1], directions.shape[0], weight.shape[0]
    z, raw, p = np.zeros((TILE, d)), np.zeros((TILE, d)), np.empty((TILE, r + rows))
    squares, gaps = np.zeros(TILE), np.empty(places.shape[0])
    for first in range(0, x.shape[0], TILE):
        size = min(TILE, x.shape[0] - first)
        for t in range(size):
            own, row = labels[first + t], z[t]
            centre_row(x[first + t], origin, offsets[own], row)
            square = 0.0
            for j in range(d):
                square += row[j] * row[j]
            distance[own] += square
            squares[t] = square
            if rows:
                for j in range(d):
                    raw[t, j] = x[first + t, j]
        _products_of(z, directions, p, 0)
        _products_of(raw, weight, p, r)
        for t in range(size):
            i, own, dot = first + t, labels[first + t], p[t]
            for k in range(r):
                around[k] += dot[k] * dot[k]
                left[own, k] += dot[k]
                dot[k] += places[own, k]
            best, least, size = -1, np.inf, squares[t]
            for k in range(r):
                size += dot[k] * dot[k]
            for c in range(places.shape[0]):
                gap = 0.0
                for k in range(r):
                    gap += (dot[k] - places[c, k]) ** 2
                gaps[c] = gap
                if gap < least:  # an absent class has NaN for its place and is never nearest
                    best, least = c, gap
            limit = (np.sqrt(least) + ROUNDING * np.sqrt(size)) ** 2
            count = 0
            for c in range(places.shape[0]):
                count += gaps[c] <= limit
            if count > 1:
                best, least = -1, np.inf
                for c in range(places.shape[0]):
                    if gaps[c] <= limit:
                        gap = _gap_from(x[i], origin, offsets[c])
                        if gap < least:
                            best, least = c, gap
            nearest[i] = best
            if rows:
                best, most = 0, -np.inf
                for c in range(rows):
                    logit = dot[r + c] + bias[c]
                    if logit > most:
                        best, most = c, logit
                predicted[i] = best


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _products_of(z, rows, p, first):  # type: ignore[no-untyped-def]
    """Fill p (TILE, first + q) from `first` on with the products of z (TILE, d) and rows (q, d)."""
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    for k in range(rows.shape[0]):
        row = rows[k]
        p0, p1, p2, p3 = 0.0, 0.0, 0.0, 0.0
        for j in range(z.shape[1]):
            u = row[j]
            p0 += z0[j] * u
            p1 += z1[j] * u
            p2 += z2[j] * u
            p3 += z3[j] * u
        p[0, first + k], p[1, first + k], p[2, first + k], p[3, first + k] = p0, p1, p2, p3


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def add_rows(z, labels, distance, left):  # type: ignore[no-untyped-def]
    """Add centred rows z (n, d) to left (C, d) and their squares to distance (C,)."""
    for i in range(z.shape[0]):
        row, target, square = z[i], left[labels[i]], 0.0
        for j in range(z.shape[1]):
            target[j] += row[j]
            square += row[j] * row[j]
        distance[labels[i]] += square


@njit(nogil=True, cache=True, error_model="numpy")
def from_origin(x, origin, block):  # type: ignore[no-untyped-def]
    """Fill block (n, d) with rows of x from the origin."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            block[i, j] = x[i, j] - origin[j]


@njit(nogil=True, cache=True, error_model="numpy")
def add_places(along, places, own):  # type: ignore[no-untyped-def]
    """Add to each row (n, r) its class's place (K, r)."""
    for i in range(along.shape[0]):
        place = places[own[i]]
        for k in range(along.shape[1]):
            along[i, k] += place[k]


@njit(nogil=True, cache=True, error_model="numpy")
def shrink(samples, factor, few):  # type: ignore[no-untyped-def]
    """Fill few (n, d) with samples times a factor, in float32."""
    for i in range(samples.shape[0]):
        for j in range(samples.shape[1]):
            few[i, j] = samples[i, j] * factor


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _smallest(row, slack):  # type: ignore[no-untyped-def]
    """The bound below which an entry may be the smallest, how many are, and the last of them."""
    least = row[0]
    for c in range(row.shape[0]):
        least = min(least, row[c])
    limit, count, last = least + slack, 0, 0
    for c in range(row.shape[0]):
        count += row[c] <= limit
    if count == 1:
        while row[last] > limit:
            last += 1
    return limit, count, last


@njit(nogil=True, cache=True, error_model="numpy")
def nearest_of(products, slack, samples, x, places, origin, offsets, nearest):  # type: ignore[no-untyped-def]
    """Fill nearest (n,): the first row of places (K, r) that is nearest to samples (n, r), from the differences."""
    farthest = 0.0
    for c in range(places.shape[0]):
        farthest = max(farthest, dot(places[c], places[c]))
    for i in range(products.shape[0]):
        row = products[i]
        limit, count, best = _smallest(row, 2 * slack[i])
        if count != 1:
            best, least = 0, np.inf
            for c in range(places.shape[0]):
                if count == 0 or row[c] <= limit:
                    gap = _gap(samples[i], places[c])
                    if gap < least:
                        best, least = c, gap
            limit_of_ties = np.sqrt(least) + ROUNDING * np.sqrt(dot(samples[i], samples[i]) + farthest)
            ties = 0
            for c in range(places.shape[0]):
                if count == 0 or row[c] <= limit:
                    ties += _gap(samples[i], places[c]) <= limit_of_ties**2
            if ties > 1:
                least = np.inf
                for c in range(places.shape[0]):
                    if (count == 0 or row[c] <= limit) and _gap(samples[i], places[c]) <= limit_of_ties**2:
                        gap = _gap_from(x[i], origin, offsets[c])
                        if gap < least:
                            best, least = c, gap
        nearest[i] = best


@njit(nogil=True, cache=True, error_model="numpy")
def largest_of(products, slack, x, _, weight, bias, predicted):  # type: ignore[no-untyped-def]
    """Fill predicted (n,): the first class of the largest logit x . w + b, as the network computes it."""
    for i in range(products.shape[0]):
        row = products[i]
        limit, count, best = _smallest(row, 2 * slack[i])
        if count != 1:
            best, most = 0, -np.inf
            for c in range(weight.shape[0]):
                if count == 0 or row[c] <= limit:
                    logit = dot(x[i], weight[c]) + bias[c]
                    if logit > most:
                        best, most = c, logit
        predicted[i] = best


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _gap(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(len(a)):
        total += (a[j] - b[j]) ** 2
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _gap_from(row, origin, offset):  # type: ignore[no-untyped-def]
    """Squared distance of a row of features from a class mean: equal ones come out equal."""
    total = 0.0
    for j in range(len(row)):
        total += ((row[j] - origin[j]) - offset[j]) ** 2
    return total
