"""Grids of orientations: HEALPix directions times in-plane angles, local grids, random rotations.

An orientation is the matrix A of conventions (reference -> tomogram). Direction = (rot, tilt), in-plane = psi.
HEALPix: Gorski et al. 2005, ApJ 622:759 (ring scheme). The steps are RELION's: 360 / (6 * 2**order) degrees.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.geometry.rotations import euler_to_matrix, rotation_vector_to_matrix


def healpix_nested_order(order: int) -> np.ndarray:
    """Ring index of every pixel of the nested scheme (RELION's order of directions): (12 * 4**order,) int64."""
    nside = 2**order
    pixel = np.arange(12 * nside * nside, dtype=np.int64)
    face, inner = pixel // nside**2, pixel % nside**2
    x = sum(((inner >> (2 * b)) & 1) << b for b in range(order)) if order else np.zeros_like(pixel)
    y = sum(((inner >> (2 * b + 1)) & 1) << b for b in range(order)) if order else np.zeros_like(pixel)
    ring = (2 + face // 4) * nside - x - y - 1  # 1 .. 4 nside - 1 from the north
    north, south = ring < nside, ring > 3 * nside
    length = np.where(north, ring, np.where(south, 4 * nside - ring, nside))  # a quarter of the pixels of the ring
    shift = np.where(north | south, 0, (ring - nside) & 1)
    first = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])[face]
    step = (first * length + x - y + 1 + shift) // 2
    step = (step - 1) % (4 * length)
    before_belt = 2 * nside * (nside - 1)
    north_start = 2 * ring * (ring - 1)
    belt_start = before_belt + (ring - nside) * 4 * nside
    south_start = pixel.size - 2 * length * (length + 1)
    return np.where(north, north_start, np.where(south, south_start, belt_start)) + step


def healpix_directions(order: int):
    """Pixel centres of the HEALPix sphere with nside = 2**order, ring order.

    Returns
    -------
    (12 * 4**order, 2) float64: longitude (rot) in [0, 360) and colatitude (tilt) in (0, 180), degrees.
    """
    nside = 2**order
    pixel = np.arange(12 * nside * nside, dtype=np.int64)
    n_cap = 2 * nside * (nside - 1)
    z = np.empty(pixel.size)
    longitude = np.empty(pixel.size)

    def cap(index):
        ring = np.floor((1 + np.sqrt(1 + 2 * index.astype(np.float64))) / 2).astype(np.int64)
        ring = np.where(2 * ring * (ring - 1) > index, ring - 1, ring)
        step = index - 2 * ring * (ring - 1)
        return 1 - ring**2 / (3 * nside**2), (step + 0.5) * 90.0 / ring

    north = pixel < n_cap
    south = pixel >= pixel.size - n_cap
    belt = ~(north | south)
    z[north], longitude[north] = cap(pixel[north])
    mirrored_z, mirrored_longitude = cap(pixel.size - 1 - pixel[south])
    z[south], longitude[south] = -mirrored_z, 360.0 - mirrored_longitude
    index = pixel[belt] - n_cap
    ring = index // (4 * nside) + nside
    phase = np.where((ring - nside) % 2 == 0, 0.5, 0.0)
    z[belt] = 4 / 3 - 2 * ring / (3 * nside)
    longitude[belt] = (index % (4 * nside) + phase) * 90.0 / nside
    return np.stack([longitude, np.rad2deg(np.arccos(np.clip(z, -1, 1)))], axis=1)


def so3_grid(order: int):
    """Uniform grid of orientations: HEALPix directions of ``order`` x 6*2**order in-plane angles -> (n, 3, 3).

    order 0: 60 deg step (72), 1: 30 (576), 2: 15 (4608), 3: 7.5 (36864).
    """
    n_psi = 6 * 2**order
    return _product(healpix_directions(order), np.arange(n_psi) * 360.0 / n_psi)


def so3_grid_for_step(step_deg: float):
    """Grid of orientations whose spacing is about ``step_deg``, not tied to powers of two -> (n, 3, 3).

    Directions lie on rings of equal colatitude spacing, each ring with spacing ``step_deg`` along it; in-plane angles are
    equidistant. The largest distance of any rotation to the grid is about 0.9 step.
    """
    n_rings = max(1, int(np.ceil(180.0 / step_deg)))
    colatitude = (np.arange(n_rings) + 0.5) * 180.0 / n_rings
    directions = []
    for ring, angle in enumerate(colatitude):
        count = max(1, int(np.ceil(360.0 * np.sin(np.deg2rad(angle)) / step_deg)))
        # golden-ratio offset: neighbouring rings must not line up at longitude 0
        longitude = (np.arange(count) + (ring * 0.618034) % 1.0) * 360.0 / count
        directions.append(np.stack([longitude, np.full(count, angle)], axis=1))
    n_psi = max(1, int(np.ceil(360.0 / step_deg)))
    return _product(np.concatenate(directions), np.arange(n_psi) * 360.0 / n_psi)


def _product(directions, psi_deg):
    rot, tilt = directions[:, None, 0], directions[:, None, 1]
    # psi - rot keeps the in-plane sampling even near the poles, where rot and psi turn about the same axis
    return euler_to_matrix(rot, tilt, psi_deg[None, :] - rot).reshape(-1, 3, 3)


def local_rotations(max_deg: float, step_deg: float):
    """Small rotations on a cubic grid of rotation vectors inside a ball -> (n, 3, 3), identity first.

    Multiply from the left (``local @ A``) to search around an orientation A.
    """
    count = int(np.floor(max_deg / step_deg + 1e-6))
    axis = np.arange(-count, count + 1) * step_deg
    vectors = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(vectors, axis=1)
    keep = length <= max_deg + 1e-6
    order = np.argsort(length[keep], kind="stable")
    return rotation_vector_to_matrix(vectors[keep][order])


def random_rotations(n: int, rng) -> np.ndarray:
    """``n`` rotations uniform on SO(3) -> (n, 3, 3), from normalised Gaussian quaternions."""
    quaternion = rng.standard_normal((n, 4))
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], axis=-1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], axis=-1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=-1),
        ],
        axis=-2,
    )
