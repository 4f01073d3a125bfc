"""Half precision (MRC mode 12): fast conversion, statistics in one pass, and whether half precision is enough for an image.

Half precision has 11 bits: values of 2^k to 2^(k+1) lie on a grid of 2^(k-10), up to 65504. A view that counts n electrons per pixel
is rounded by at most 2^-11 n, which is less than 3e-4 sqrt(n) of its own shot noise in the mean square, whatever the grey value of an electron.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit

LARGEST = 65504.0
MAX_ERROR = 0.02  # rounding error over noise of a pixel, rms: adds 4e-4 to the variance
_SAMPLED_ROWS = 256


@dataclass(frozen=True)
class Measured:
    """Of all pixels of an image: minimum, maximum, mean (NaN where a pixel is not finite) and summed squares about the mean."""

    minimum: float
    maximum: float
    mean: float
    squares: float


def measure(image: np.ndarray) -> Measured:
    """Statistics of a float32 or float16 image, in float64 and one pass over memory."""
    values = np.ascontiguousarray(image).reshape(-1)
    about = float(values[0])
    if values.dtype == np.float16:
        low, high, first, second = _sums_of_half(_all_halves(), values.view(np.uint16), about)
    else:
        low, high, first, second = _sums(values, about)
    mean = first / values.size
    return Measured(float(low), float(high), about + mean, max(0.0, second - first * mean))


@njit(cache=True, nogil=True)
def _sums(values, about):
    """Minimum, maximum, sum and sum of squares of values - about; each stretch of 4096 is added up by itself."""
    low, high, first, second = values[0], values[0], 0.0, 0.0
    for start in range(0, values.size, 4096):
        a, b = 0.0, 0.0
        for i in range(start, min(start + 4096, values.size)):
            low, high = min(low, values[i]), max(high, values[i])
            difference = np.float64(values[i]) - about
            a += difference
            b += difference * difference
        first += a
        second += b
    return low, high, first, second


@njit(cache=True, nogil=True)
def _sums_of_half(table, index, about):
    """:func:`_sums` of the numbers that ``index`` stands for."""
    part = np.empty(4096, np.float32)
    low, high, first, second = table[index[0]], table[index[0]], 0.0, 0.0
    for start in range(0, index.size, 4096):
        stop = min(start + 4096, index.size)
        for i in range(start, stop):
            part[i - start] = table[index[i]]
        least, most, a, b = _sums(part[: stop - start], about)
        low, high = min(low, least), max(high, most)
        first += a
        second += b
    return low, high, first, second


def to_half(image: np.ndarray) -> np.ndarray:
    """float32 -> float16, to nearest even, the same bits as NumPy's; beyond 65504 infinite."""
    values = np.ascontiguousarray(image, dtype=np.float32)
    half = np.empty(values.shape, np.float16)
    _narrow(values.reshape(-1), values.reshape(-1).view(np.int32), half.reshape(-1).view(np.uint16))
    return half


@njit(cache=True, nogil=True)
def _narrow(values, bits, half):
    for i in range(values.size):
        size = bits[i] & np.int32(0x7FFFFFFF)
        # exponent from bias 127 to 15; half a unit of the last place less one, and one more where that place is odd
        kept = (size + np.int32(0xFFF) + ((size >> np.int32(13)) & np.int32(1)) - np.int32(112 << 23)) >> np.int32(13)
        # below 2^-14 numbers are multiples of 2^-24
        small = np.int32(np.rint(min(abs(values[i]), np.float32(2.0**-14)) * np.float32(2.0**24)))
        kept = kept if size >= np.int32(0x38800000) else small
        kept = np.int32(0x7C00) if size >= np.int32(0x477FF000) else kept
        kept = np.int32(0x7E00) if size > np.int32(0x7F800000) else kept
        half[i] = np.uint16(kept | ((bits[i] >> np.int32(16)) & np.int32(0x8000)))


def from_half(half: np.ndarray) -> np.ndarray:
    """float16 -> float32, exactly, by a table of all 65536 numbers."""
    single = np.empty(half.shape, np.float32)
    _look_up(_all_halves(), np.ascontiguousarray(half).reshape(-1).view(np.uint16), single.reshape(-1))
    return single


@cache
def _all_halves() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


@njit(cache=True, nogil=True)
def _look_up(table, index, out):
    for i in range(index.size):
        out[i] = table[index[i]]


def is_enough(image: np.ndarray) -> bool:
    """Whether half precision changes ``image`` (h, w) by no more than MAX_ERROR of its noise, and holds all of its values."""
    return max(-float(image.min()), float(image.max())) <= LARGEST and rounding_over_noise(image) <= MAX_ERROR


def rounding_over_noise(image: np.ndarray) -> float:
    """Rms error of half precision over the noise of one pixel of ``image`` (h, w), on a sample of its rows.

    Noise: from the mean difference of neighbours, which outliers hardly change. 0 where half precision is exact, as it is for counts to 2048.
    """
    rows = np.ascontiguousarray(image[:: max(1, len(image) // _SAMPLED_ROWS)], dtype=np.float32)
    error = float(np.sqrt(np.square(from_half(to_half(rows)) - rows).mean(dtype=np.float64)))
    if error == 0:
        return 0.0
    noise = 0.5 * np.sqrt(np.pi) * float(np.abs(np.diff(rows, axis=1)).mean(dtype=np.float64))
    return error / noise if noise > 0 else float("inf")
