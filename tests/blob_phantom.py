"""Test data of averaging: Gaussian blobs projected analytically, straight into Fourier coefficients.

Nothing of the library's projection, slicing or CTF is used, so that an error there cannot cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.subtomo.likelihood import FrequencyList, SeriesImages


@dataclass
class Blobs:
    """centres (n, 3) in A (x, y, z), mass (n,), one width in A."""

    centres: np.ndarray
    mass: np.ndarray
    width_angst: float

    def mirrored(self):
        return Blobs(self.centres * [1, 1, -1], self.mass, self.width_angst)

    def density(self, box, pixel_angst):
        """Map (box, box, box) whose sums along an axis are the pixels of a projection."""
        axis = (np.arange(box) - box // 2) * pixel_angst
        out = np.zeros((box, box, box))
        w = self.width_angst
        norm = pixel_angst / (np.sqrt(2 * np.pi) * w)
        for (x, y, z), m in zip(self.centres, self.mass, strict=True):
            gx, gy, gz = (np.exp(-((axis - c) ** 2) / (2 * w * w)) * norm for c in (x, y, z))
            out += m * gz[:, None, None] * gy[None, :, None] * gx[None, None, :]
        return out.astype(np.float32)


def chiral_blobs(seed=1, n=24, radius=95.0, width=14.0):
    """A compact chiral body: a random cloud in a squashed ball, without symmetry."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n, 3))
    centres *= radius * rng.random((n, 1)) ** (1 / 3) / np.linalg.norm(centres, axis=1, keepdims=True)
    centres *= [1.0, 0.85, 0.7]
    mass = rng.uniform(0.5, 1.5, n)
    return Blobs(centres - np.average(centres, axis=0, weights=mass), mass / mass.sum(), width)


def tilt_rotations(tilts_deg, axis_deg=85.0):
    """(F, 3, 3) Rz(axis) Ry(tilt), written out."""
    a = np.deg2rad(axis_deg)
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    out = []
    for t in np.deg2rad(np.asarray(tilts_deg, dtype=float)):
        ry = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
        out.append(rz @ ry)
    return np.array(out)


def coefficients(blobs, rotations, shifts_angst, kx, ky, box, pixel_angst):
    """Analytic transform of projections: rotations (..., 3, 3) to the image, shifts (..., 2) -> (..., K)."""
    uv = np.einsum("...ij,nj->...ni", rotations[..., :2, :], blobs.centres) + shifts_angst[..., None, :]
    step = 1.0 / (box * pixel_angst)
    phase = np.exp(-2j * np.pi * step * (uv[..., 0:1] * kx + uv[..., 1:2] * ky))
    envelope = np.exp(-2 * np.pi**2 * blobs.width_angst**2 * step**2 * (kx**2 + ky**2))
    return np.einsum("n,...nk->...k", blobs.mass, phase) * envelope


def ctf_values(kx, ky, box, pixel_angst, defocus_angst, dose, tilt_deg):
    """c(k) of one view: 300 kV, Cs 2.7 mm, 10 % amplitude contrast, dose weight, cos(tilt)."""
    k = np.hypot(kx, ky) / (box * pixel_angst)
    wavelength = 0.0196875
    gamma = np.pi * wavelength * defocus_angst * k**2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * k**4 + np.arcsin(0.1)
    decay = np.exp(-dose / (2 * (0.24499 * np.maximum(k, 1e-6) ** -1.6649 + 2.8141)))
    return np.sin(gamma) * decay * np.cos(np.deg2rad(tilt_deg))


@dataclass
class Simulated:
    images: SeriesImages
    rotations: np.ndarray
    offsets_px: np.ndarray
    sigma2: np.ndarray
    clean: np.ndarray


def simulate_series(
    blobs,
    n_particles,
    *,
    box=24,
    pixel_angst=21.0,
    tilts_deg=tuple(range(-60, 61, 4)),
    noise_sigma=0.003,
    offset_sigma_px=0.0,
    axis_deg=85.0,
    rotations=None,
    seed=0,
    first_row=0,
):
    """Particles in random poses with premultiplied noisy images; noise_sigma per raw pixel grows with tilt."""
    from cryoet_core.geometry import random_rotations

    rng = np.random.default_rng(seed)
    frequencies = FrequencyList.of_box(box)
    tilts = np.asarray(tilts_deg, dtype=float)
    views = tilt_rotations(tilts, axis_deg)
    rotations = random_rotations(n_particles, rng) if rotations is None else rotations
    offsets = rng.standard_normal((n_particles, 3)) * offset_sigma_px
    kx, ky = frequencies.kx, frequencies.ky
    clean = np.empty((n_particles, len(tilts), kx.size), dtype=np.complex64)
    ctf = np.empty(clean.shape, dtype=np.float32)
    dose = 3.4 * np.argsort(np.argsort(np.abs(tilts), kind="stable"))
    for p in range(n_particles):
        shift = np.einsum("fij,j->fi", views[:, :2], offsets[p] * pixel_angst)
        clean[p] = coefficients(blobs, views @ rotations[p], shift, kx, ky, box, pixel_angst)
        defocus = 30000 + rng.uniform(-400, 400)
        for f, tilt in enumerate(tilts):
            ctf[p, f] = ctf_values(kx, ky, box, pixel_angst, defocus, dose[f], tilt)
    sigma = noise_sigma * box / np.sqrt(2) * (1 + np.abs(tilts) / 60)
    noise = rng.standard_normal((*clean.shape, 2)).astype(np.float32) * sigma[:, None, None].astype(np.float32)
    data = (ctf * (ctf * clean + noise[..., 0] + 1j * noise[..., 1])).astype(np.complex64)
    sigma2 = np.repeat(sigma[:, None] ** 2, frequencies.n_shells, axis=1)
    rows = first_row + np.arange(n_particles)
    images = SeriesImages(rows, views, data, data, ctf, frequencies)
    return Simulated(images, rotations, offsets, sigma2, clean)
