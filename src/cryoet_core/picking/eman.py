"""Picks as the tutorial's EMAN2 step makes them: global correlation with a coarsely turned reference, connected regions above a threshold.

Follows the steps of e2spt_tempmatch.py (EMAN2, program source) with its constants: shrink to about 450 voxels across, band-pass
both, clamp the tomogram to 3 sigma, 30 degrees between orientations, no missing wedge, no CTF, no mask; filter the map of maxima, threshold in its
standard deviations; one pick per connected region, scored by its sum. Unlike EMAN2 the last region is not forgotten, and the best
orientation of each pick is kept. For comparison with the tutorial; the step's own search finds more and fewer false ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, label

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import centre_crop_or_pad, frequency_grid
from cryoet_core.geometry import so3_grid_for_step
from cryoet_core.kernels.max_update import max_update
from cryoet_core.kernels.rotate_volume import rotate_volume
from cryoet_core.picking.peaks import prune_close
from cryoet_core.picking.reference import resample_map

STEP_DEG, SHRINK_TO = 30.0, 450
LOW_PASS, REFERENCE_HIGH_PASS_PX, CLAMP = 0.4, 4.0, 3.0
MAP_LOW_PASS, MAP_HIGH_PASS_PX = 0.3, 24.0
GOLD_SIGMA, SMALLEST_SUM = 8.0, 5.0


@dataclass(frozen=True)
class EmanPicks:
    """position_px (k, 3) z, y, x in the tomogram's own voxels; score: sum over the region; rotation (k, 3, 3); map in sigma."""

    position_px: np.ndarray
    score: np.ndarray
    rotation: np.ndarray
    sigma_map: np.ndarray
    orientation: np.ndarray
    rotations: np.ndarray
    shrink: int


def _shrunk(volume, n: int):
    if n == 1:
        return volume
    z, y, x = (s // n * n for s in volume.shape)
    return volume[:z, :y, :x].reshape(z // n, n, y // n, n, x // n, n).mean(axis=(1, 3, 5))


def _band_pass(volume, low_pass: float, high_pass_px: float):
    """Gaussian band-pass: cut-off (sigma) low_pass in cycles per voxel, and high_pass_px periods along the longest side; edge mean 0, sigma 1."""
    xp = array_namespace(volume)
    fft = fft_module(xp)
    k2 = sum(g * g for g in frequency_grid(volume.shape, 1.0, xp))
    sharp = high_pass_px / max(volume.shape)
    window = xp.exp(-k2 / (2 * low_pass**2)) * (1 - xp.exp(-k2 / (2 * sharp**2)))
    filtered = fft.irfftn(fft.rfftn(volume) * window, s=volume.shape).astype(xp.float32)
    edge = [filtered[0], filtered[-1], filtered[:, 0], filtered[:, -1], filtered[:, :, 0], filtered[:, :, -1]]
    mean = float(sum(e.sum(dtype=xp.float64) for e in edge)) / sum(e.size for e in edge)
    return (filtered - mean) / max(float(filtered.std()), 1e-12)


def _largest_correlation(volume, reference, rotations, report):
    """Running maximum over orientations of the global correlation, and its number."""
    xp = array_namespace(volume)
    fft = fft_module(xp)
    transform = fft.rfftn(volume)
    best, index = xp.full(volume.shape, -np.inf, dtype=xp.float32), xp.zeros(volume.shape, dtype=xp.int32)
    for number, rotation in enumerate(rotations):
        turned = centre_crop_or_pad(rotate_volume(reference, rotation[None])[0], volume.shape, 3)
        turned = fft.ifftshift(turned)
        scores = fft.irfftn(transform * fft.rfftn(turned).conj(), s=volume.shape)
        max_update(xp.ascontiguousarray(scores, dtype=xp.float32), best, index, number)
        if report is not None:
            report(number + 1, len(rotations))
    return best, index


def _without_edges(sigma_map, margin: int):
    kept = np.zeros_like(sigma_map)
    inner = (slice(None), slice(margin, -margin), slice(margin, -margin))
    kept[inner] = sigma_map[inner]
    return kept


def regions(sigma_map, n_sigma: float, box: int):
    """Connected regions (6 neighbours) above n_sigma: positions of their maxima (k, 3), sums (k,)."""
    above = np.where(sigma_map > n_sigma, sigma_map, 0)
    labels, _ = label(above > 0)
    places, sums = [], []
    for number, window in enumerate(find_objects(labels), 1):
        part = np.where(labels[window] == number, above[window], 0)
        if part.sum() <= SMALLEST_SUM or np.count_nonzero(part) >= box**3:
            continue
        top = np.unravel_index(int(part.argmax()), part.shape)
        places.append([s.start + t for s, t in zip(window, top, strict=True)])
        sums.append(part.sum())
    return np.array(places, dtype=np.int64).reshape(-1, 3), np.array(sums, dtype=np.float64)


def match_like_eman2(
    tomogram, reference, pixel_size_angst: float, *, n_sigma: float = 6.0, max_particles: int = 800, min_distance_angst: float | None = None,
    remove_edge_px: int = 0, remove_gold: bool = False, report=None,
) -> EmanPicks:
    """Picks of a dark ``tomogram`` (z, y, x) with a bright ``reference`` (n, n, n), both of ``pixel_size_angst``; best first.

    min_distance_angst : None or negative = half the reference's box. remove_edge_px : of the shrunk tomogram, EMAN2 has 32 when asked.
    """
    xp = array_namespace(tomogram)
    shrink = max(1, tomogram.shape[2] // SHRINK_TO)
    small = -_shrunk(tomogram, shrink)
    box = max(8, 2 * round(reference.shape[0] / shrink / 2))
    model = asnumpy(reference) if shrink == 1 else resample_map(asnumpy(reference), pixel_size_angst, pixel_size_angst * shrink, box)
    model = _band_pass(xp.asarray(model), LOW_PASS, REFERENCE_HIGH_PASS_PX)
    volume = _band_pass(small, LOW_PASS, box / 2)
    rotations = so3_grid_for_step(STEP_DEG)
    best, index = _largest_correlation(xp.clip(volume, -CLAMP, CLAMP), model, rotations, report)
    sigma_map = np.maximum(asnumpy(_band_pass(best, MAP_LOW_PASS, MAP_HIGH_PASS_PX)), 0)
    if remove_gold:
        sigma_map = np.where(asnumpy(volume) > GOLD_SIGMA, 0, sigma_map)
    if remove_edge_px:
        sigma_map = _without_edges(sigma_map, remove_edge_px)
    places, sums = regions(sigma_map, n_sigma, box)
    distance = box / 2 if min_distance_angst is None or min_distance_angst < 0 else min_distance_angst / (pixel_size_angst * shrink)
    kept = prune_close(places, sums, distance)[:max_particles] if len(places) else np.empty(0, dtype=np.int64)
    places, sums = places[kept], sums[kept]
    # a shrunk voxel is the mean of shrink voxels: its centre lies between them
    position = (places + 0.5) * shrink - 0.5
    chosen = rotations[asnumpy(index)[tuple(places.T)]] if len(places) else np.empty((0, 3, 3))
    return EmanPicks(position, sums, chosen, sigma_map, asnumpy(index), rotations, shrink)


def full_size(volume, shrink: int, shape) -> np.ndarray:
    """A shrunk map on the tomogram's grid, voxels repeated, 0 beyond its last."""
    result = np.zeros(shape, dtype=volume.dtype)
    large = volume.repeat(shrink, 0).repeat(shrink, 1).repeat(shrink, 2)
    result[tuple(slice(0, min(a, b)) for a, b in zip(large.shape, shape, strict=True))] = large[tuple(slice(0, n) for n in shape)]
    return result
