"""A counting camera: gain, dead and hot pixels, Poisson counts, X-rays, a grid bar in the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from cryoet_core.simulate.acquisition import View
from cryoet_core.simulate.counting import count_electrons
from cryoet_core.simulate.settings import SimulationSettings, generator

MAX_COUNT = 127
"""Counts saturate here, so that a byte means the same signed or unsigned."""


@dataclass(frozen=True)
class Camera:
    """gain (h, w) float32: raw * gain is flat, 0 on dead pixels. hot (h, w) float32: extra counts per frame."""

    gain: np.ndarray
    hot: np.ndarray


def make_camera(settings: SimulationSettings, seed: int) -> Camera:
    """The camera of the run: column structure, amplifier blocks, pixel spread and a gentle slope; mean gain one."""
    rng = generator(seed, "camera")
    height, width = settings.image_shape
    columns = 1 + 0.04 * rng.standard_normal(width)
    blocks = np.repeat(1 + 0.03 * rng.standard_normal(-(-width // 60)), 60)[:width]
    slope = _gentle_slope((height, width), rng)
    slope = 1 + 0.02 * slope / slope.std()
    gain = columns * blocks * slope * (1 + 0.03 * rng.standard_normal((height, width)))
    gain = np.clip(gain, 0.6, 1.6)
    gain /= gain.mean()
    where = rng.permutation(height * width)
    dead, hot_at = where[: settings.n_dead_pixels], where[settings.n_dead_pixels :][: settings.n_hot_pixels]
    gain.flat[dead] = 0
    hot = np.zeros((height, width), np.float32)
    hot.flat[hot_at] = rng.uniform(25, 90, len(hot_at))
    return Camera(gain.astype(np.float32), hot)


def _gentle_slope(shape, rng) -> np.ndarray:
    """(h, w) smooth random surface; of a large camera it is made on every eighth or sixteenth pixel."""
    coarse = max(1, min(shape) // 2048 * 8)
    small = [-(-n // coarse) for n in shape]
    surface = gaussian_filter(rng.standard_normal(small), 0.15 * min(shape) / coarse, mode="nearest")
    return surface if coarse == 1 else zoom(surface, coarse, order=1, mode="nearest", grid_mode=True)[: shape[0], : shape[1]]


def grid_bar(shape, rng) -> np.ndarray:
    """(h, w) float32 transmission of a view mostly behind a grid bar: a soft straight edge, 5 % through, 15-25 % in all."""
    height, width = shape
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    edge = np.quantile(along, 1 - rng.uniform(0.08, 0.2))
    return (0.05 + 0.95 / (1 + np.exp(-np.clip((along - edge) / 0.015, -50, 50)))).astype(np.float32)


def add_xrays(counts: np.ndarray, mean_hits: float, rng) -> list[dict]:
    """Add X-ray hits to raw counts (frames, h, w) in place: each in one frame, 1 to 12 touching pixels.

    Returns the hits: x_px, y_px (index), frame (0-based), n_pixels, counts (all pixels together).
    """
    frames, height, width = counts.shape
    most = np.iinfo(counts.dtype).max
    hits = []
    for _ in range(int(rng.poisson(mean_hits))):
        frame, y, x = int(rng.integers(frames)), int(rng.integers(height)), int(rng.integers(width))
        size = int(rng.integers(1, 13))
        pixels = [(y, x)]
        while len(pixels) < size:
            py, px = pixels[rng.integers(len(pixels))]
            dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[rng.integers(4)]
            if (py + dy, px + dx) not in pixels and 0 <= py + dy < height and 0 <= px + dx < width:
                pixels.append((py + dy, px + dx))
        peak = rng.uniform(25, 110)
        added = np.rint(peak * rng.uniform(0.4, 1.0, size)).astype(counts.dtype)
        added[0] = round(peak)
        for (py, px), value in zip(pixels, added, strict=True):
            counts[frame, py, px] = min(int(counts[frame, py, px]) + int(value), most)
        hits.append({"x_px": x, "y_px": y, "frame": frame, "n_pixels": size, "counts": int(added.sum())})
    return hits


def expose(intensity: np.ndarray, view: View, camera: Camera, settings: SimulationSettings, rng):
    """Counts of a movie.

    intensity: frames (h, w), a sequence, relative to the incident beam. Returns (raw (frames, h, w) uint8 counts, X-ray hits).
    A pixel of gain g sees 1/g of the electrons, so raw * gain is on average dose * pixel^2 * intensity.
    """
    per_frame = settings.dose_per_tilt_e_per_a2 * settings.pixel_size_angst**2 / len(intensity)
    sensitivity = np.divide(1, camera.gain, out=np.zeros_like(camera.gain), where=camera.gain > 0)
    scale = np.float32(per_frame * view.brightness) * sensitivity
    if view.dark:
        scale = scale * grid_bar(camera.gain.shape, rng)
    counts = np.empty((len(intensity), *scale.shape), np.uint8)
    for frame in range(len(intensity)):
        mean = np.maximum(intensity[frame], 0) * scale + camera.hot
        drawn = count_electrons(mean, rng) if settings.fast_counting else rng.poisson(mean)
        counts[frame] = np.minimum(drawn, MAX_COUNT)
    hits = add_xrays(counts, settings.xrays_per_tilt, rng)
    return np.minimum(counts, MAX_COUNT, out=counts), hits
