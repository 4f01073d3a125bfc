"""Insertion of image transforms into a Fourier volume: the exact adjoint of reading slices.

Every pixel of the whole (not only the half) plane of image i is shared among the eight grid points around
k = pad * R_i^T (kx, ky, 0) with trilinear weights t, together with its weight::

    data(g) = sum t(k - g) * slices(kx, ky),     weight(g) = sum t(k - g) * weights(kx, ky)

``slices`` are already multiplied by what they are to be weighted with (CTF / sigma^2), ``weights`` are the matching
weights (CTF^2 / sigma^2). Only kx >= 0 is kept; the plane kx = 0 receives both Friedel mates, so it is exactly
Hermitian. With <A, B> summed over the whole (Hermitian) planes and volumes, <extract F, S> = <F, insert S>.
Columns kx = 0 and (even width) kx = w/2 of a slice stand for one pixel each, every other column for two.

Sums are float64 on a CPU and 64-bit fixed point on a GPU: both are independent of the number and order of threads.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, is_gpu_array
from cryoet_core.kernels import insert_slices_cpu, insert_slices_gpu
from cryoet_core.kernels.validation import dense, host, in_place


def new_accumulator(n, pad=1, xp=np):
    """Zeros float64 (N, N, N//2 + 1, 4), N = n * pad: real and imaginary part of data, weight, one unused."""
    box = int(n) * int(pad)
    return xp.zeros((box, box, box // 2 + 1, 4), xp.float64)


def split_accumulator(accumulator):
    """(data complex64 (N, N, N//2 + 1), weight float32 of the same shape) of an accumulator, same device."""
    xp = array_namespace(accumulator)
    data = xp.empty(accumulator.shape[:3], xp.complex64)
    data.real = accumulator[..., 0]
    data.imag = accumulator[..., 1]
    return data, accumulator[..., 2].astype(xp.float32)


def insert_slices(slices, weights, rotations, n, *, radius_px, pad=1, out=None):
    """(data complex64, weight float32), each (N, N, N//2 + 1), N = n * pad, kz and ky centred, kx >= 0.

    Parameters
    ----------
    slices : complex64 (m, h, w//2 + 1), rfft2 layout with even or odd h = w.
    weights : float32 (m, h, w//2 + 1); pixels whose weight and value are both zero are skipped.
    rotations : (m, 3, 3) volume to image, acting on (x, y, z); a scale in them scales k.
    n : box of the volume before oversampling, px; the images have the same box.
    radius_px : largest radius inserted, Fourier px.
    pad : whole-number oversampling.
    out : accumulator from :func:`new_accumulator`. When given it is added to and returned instead (insert batches,
        then call :func:`split_accumulator` once).

    Raises
    ------
    ValueError when a shape does not fit.
    """
    slices = dense("slices", slices, 3, "complex64")
    weights = dense("weights", weights, 3)
    m, h, half = slices.shape
    if half != h // 2 + 1 or weights.shape != slices.shape:
        raise ValueError(f"slices and weights must both be (m, h, h//2 + 1), found {slices.shape}, {weights.shape}")
    rotations = host("rotations", rotations, (m, 3, 3))
    xp = array_namespace(slices, weights)
    accumulator = new_accumulator(n, pad, xp) if out is None else out
    box = int(n) * int(pad)
    in_place("out", accumulator, (box, box, box // 2 + 1, 4), "float64", slices)
    implementation = insert_slices_gpu if is_gpu_array(slices) else insert_slices_cpu
    implementation.insert_slices(slices, weights, rotations, float(radius_px), float(pad), accumulator)
    return split_accumulator(accumulator) if out is None else accumulator


def insert_turned(values, weights, matrices, points, n, *, out=None):
    """(data complex64, weight float32), each (n, n, n//2 + 1): values at ``matrices`` times ``points``, the adjoint of reading them there.

    Parameters
    ----------
    values : complex64 (m, K); weights : float32 (m, K). Every value stands for itself and its Friedel mate, so the points hold one of each pair.
    matrices : (m, 3, 3), points : (K, 3) as in :func:`.sample_points.sample_turned`. n : box of the grid, oversampling included.
    out : accumulator from :func:`new_accumulator`, added to and returned instead.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    values, weights = dense("values", values, 2, "complex64"), dense("weights", weights, 2)
    if weights.shape != values.shape:
        raise ValueError(f"values and weights must have one shape, found {values.shape}, {weights.shape}")
    matrices, points = host("matrices", matrices, (len(values), 3, 3)), host("points", points, (values.shape[1], 3))
    accumulator = new_accumulator(n, 1, array_namespace(values, weights)) if out is None else out
    in_place("out", accumulator, (int(n), int(n), int(n) // 2 + 1, 4), "float64", values)
    implementation = insert_slices_gpu if is_gpu_array(values) else insert_slices_cpu
    implementation.insert_turned(values, weights, matrices, points, accumulator)
    return split_accumulator(accumulator) if out is None else accumulator
