"""Coarse alignment: cosine-stretched correlation of neighbouring views, redundant links solved robustly.

Views are compared in the specimen plane, where the compression by cos(tilt) is already undone, so a link (i, j) measures
a_i - a_j directly. Links to the next two or three views are solved together; a wrong peak is outvoted, not accumulated.
Sources: cosine stretching as in tiltxcorr and AreTomo (Zheng et al. 2022); iteratively re-weighted least squares.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.tilt_series.plane import PlaneSpectra
from cryoet_core.tilt_series.slab_model import SlabPrior


def correlation_peak(cross, data: PlaneSpectra, limit_angst: float):
    """Position (x, y) in A and height in noise rms of the highest peak within ``limit_angst`` of zero lag.

    cross : (n_rows, n_columns) half-complex cross spectrum on the (cut) grid of ``data``.
    """
    xp = array_namespace(cross)
    fft = fft_module(xp)
    rows, columns = cross.shape
    ny, nx = (2 * scipy.fft.next_fast_len(int(n), real=True) for n in (rows, 2 * columns))
    full = xp.zeros((ny, nx // 2 + 1), dtype=xp.complex64)
    half = (rows + 1) // 2
    full[:half, :columns] = cross[:half]
    if rows > half:
        full[-(rows - half) :, :columns] = cross[half:]
    ky, kx = asnumpy(data.ky)[:, 0], asnumpy(data.kx)[0]
    step_y, step_x = 1 / (ny * abs(ky[1])), 1 / (nx * kx[1])
    image = asnumpy(fft.fftshift(fft.irfft2(full, s=(ny, nx))))
    y = (np.arange(ny) - ny // 2)[:, None] * step_y
    x = (np.arange(nx) - nx // 2)[None, :] * step_x
    allowed = np.where(x * x + y * y <= limit_angst**2, image, -np.inf)
    peak = np.unravel_index(int(np.argmax(allowed)), image.shape)
    row, column = parabolic_peak(image, peak)
    height = float(image[peak] / (np.sqrt(np.mean(image.astype(np.float64) ** 2)) + 1e-30))
    return np.array([(column - nx // 2) * step_x, (row - ny // 2) * step_y]), height


def parabolic_peak(image, peak):
    """[row, column] of the maximum near index ``peak`` of a periodic image (h, w), by a parabola along each axis."""
    position = []
    for axis in range(2):
        n = image.shape[axis]
        index = [list(peak) for _ in range(3)]
        for k in range(3):
            index[k][axis] = (peak[axis] + k - 1) % n
        low, mid, high = (float(image[tuple(i)]) for i in index)
        curvature = low - 2 * mid + high
        position.append(peak[axis] + (0.5 * (low - high) / curvature if curvature < 0 else 0.0))
    return position


def neighbour_links(data: PlaneSpectra, prior: SlabPrior, limit_angst: float, max_step: int = 3):
    """Measured a_i - a_j of all views up to ``max_step`` places apart in tilt.

    Returns
    -------
    pairs (m, 2) int64, displacement_angst (m, 2), height (m,): peak over rms of its correlation map.
    """
    xp = array_namespace(data.spectra)
    order = np.argsort(data.parallax)
    rho = [xp.asarray(prior.rho(asnumpy(f)).astype(np.float32)) for f in data.image_frequency]
    pairs, displacement, height = [], [], []
    for step in range(1, max_step + 1):
        for i, j in zip(order[step:], order[:-step], strict=True):
            dp = data.parallax[i] - data.parallax[j]
            coherence = xp.sinc(prior.thickness_angst * data.kx * dp) * xp.sqrt(rho[i] * rho[j])
            weight = (coherence / (1 - xp.minimum(coherence**2, 0.9))).astype(xp.float32)
            shift, sigma = correlation_peak(data.spectra[j].conj() * data.spectra[i] * weight, data, limit_angst)
            pairs.append((i, j))
            displacement.append(shift)
            height.append(sigma)
    return np.array(pairs, dtype=np.int64), np.array(displacement), np.array(height)


def solve_links(pairs, displacement, height, n_views: int, iterations: int = 20):
    """Positions a (n, 2), zero mean, from links a_i - a_j, by least squares re-weighted with Cauchy's function.

    Returns also the residual (m,) of every link in the unit of ``displacement``.
    """
    design = np.zeros((len(pairs), n_views))
    design[np.arange(len(pairs)), pairs[:, 0]] = 1
    design[np.arange(len(pairs)), pairs[:, 1]] = -1
    prior_weight = np.maximum(height - 2.0, 0.1)
    weight = prior_weight.copy()
    for _ in range(iterations):
        normal = design.T @ (weight[:, None] * design) + 1e-8 * np.eye(n_views) + np.ones((n_views, n_views))
        position = np.linalg.solve(normal, design.T @ (weight[:, None] * displacement))
        residual = np.linalg.norm(design @ position - displacement, axis=1)
        scale = max(1.4826 * np.median(residual), 1e-3)
        weight = prior_weight / (1 + (residual / (2 * scale)) ** 2)
    return position - position.mean(axis=0), residual
