"""Poisson counts by table: a few nanoseconds a pixel, the same for any order and number of threads."""

from __future__ import annotations

from functools import cache

import numba
import numpy as np

LEVELS_PER_ELECTRON = 128
LARGEST_MEAN = 8
N_COUNTS = 32
"""Tables hold means of 0 to 8 in steps of 1/128 and counts of 0 to 31 (more than that: 5e-10 of the draws at mean 8)."""


@cache
def _alias_tables():
    """(keep (levels, N_COUNTS) uint32, other (levels, N_COUNTS) uint8): Walker's alias tables of Poisson distributions.

    A draw takes a cell at random and stays there with probability keep / 2^32, else it goes to the cell ``other``.
    """
    means = np.arange(LARGEST_MEAN * LEVELS_PER_ELECTRON + 2) / LEVELS_PER_ELECTRON
    probability = np.zeros((len(means), N_COUNTS))
    probability[:, 0] = np.exp(-means)
    for count in range(1, N_COUNTS):
        probability[:, count] = probability[:, count - 1] * means / count
    probability /= probability.sum(axis=1, keepdims=True)
    keep, other = np.empty(probability.shape, np.uint32), np.empty(probability.shape, np.uint8)
    for level, share in enumerate(probability * N_COUNTS):
        keep[level], other[level] = _alias(share)
    return keep, other


def _alias(share):
    """Vose's algorithm: cells of ``share`` (mean one) below one are filled up by those above."""
    share, keep, other = share.copy(), np.ones(len(share)), np.arange(len(share))
    small, large = list(np.flatnonzero(share < 1)), list(np.flatnonzero(share >= 1))
    while small and large:
        low, high = small.pop(), large[-1]
        keep[low], other[low] = share[low], high
        share[high] -= 1 - share[low]
        if share[high] < 1:
            small.append(large.pop())
    return np.minimum(keep * 2.0**32, 2.0**32 - 1), other


@numba.njit(inline="always")
def _mix(z):
    """The output function of SplitMix64 (Steele, Lea & Flood 2014): 64 random bits of any counter."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(cache=True)
def _draw(means, seed, keep, other, out):
    """One count per mean; pixel i has the random bits of counter i."""
    for i in range(means.size):
        mean = means[i]
        parts = max(1, int(np.ceil(mean / np.float32(LARGEST_MEAN))))  # a sum of Poisson counts is one
        scaled = mean / np.float32(parts) * np.float32(LEVELS_PER_ELECTRON)
        total, state = np.int64(0), seed + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(parts):
            state = _mix(state)
            # a level above or below, by chance, so that the mean is exact
            dither = np.float32(state >> np.uint64(40)) * np.float32(2.0**-24)
            level = int(scaled + dither)
            cell = int((state >> np.uint64(32)) & np.uint64(N_COUNTS - 1))
            stays = np.uint32(state & np.uint64(0xFFFFFFFF)) < keep[level, cell]
            total += cell if stays else np.int64(other[level, cell])
        out[i] = min(total, 255)


def count_electrons(means, rng) -> np.ndarray:
    """uint8 Poisson counts of the shape of ``means`` (float32, >= 0), at most 255.

    The mean is exact; the variance is too large by at most 1/4 of the step of the tables squared, 1.5e-5.
    """
    means = np.ascontiguousarray(means, np.float32)
    out = np.empty(means.size, np.uint8)
    _draw(means.ravel(), np.uint64(rng.integers(2**64, dtype=np.uint64)), *_alias_tables(), out)
    return out.reshape(means.shape)
