"""Errors of tilt-series alignment against truth, for every mode: rms of the shifts (A), axis (deg), tilt offset (deg).

    python benchmarks/alignment_targets.py --seeds 3

Gaussian blobs in a slab, projected one by one here: nothing is shared with the library. Stages that jump by 10 % of the field, a tilt axis
given 10 deg wrong, a tilt offset of 8 deg, with and without gold beads.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from cryoet_core.errors import CryoetError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series.align import AlignmentSettings, align_tilt_series
from cryoet_core.tilt_series.evaluate import geometry_error, specimen_grid

PIXEL, SHAPE, TILTS = 14.0, (160, 168), np.arange(-60, 61, 3.0)
MODES = ("projection_matching", "patch_tracking", "combined")
CASES = {
    "plain": {},
    "beads": {"beads": 25},
    "jumps 10 %": {"jump": 0.1},
    "axis 10 deg off": {"axis_off": 10.0},
    "offset 8 deg": {"offset": 8.0},
    "all with beads": {"beads": 25, "jump": 0.1, "axis_off": 10.0, "offset": 8.0},
    "deformed 20 A": {"bend": 20.0},
}


def simulate(rng, *, axis=86.0, offset=2.0, axis_off=2.0, beads=0, jump=0.02, thickness=900.0, noise=2.0, bend=0.0):
    """Images (n, h, w), the nominal geometry and the true one. ``bend`` A: swelling at the field's edge at the highest tilt."""
    reach = 1.3 * max(SHAPE) * PIXEL
    n_blobs = 4000
    points = rng.uniform(-1, 1, (n_blobs + beads, 3)) * [reach, reach, thickness / 2]
    sigma, weight = rng.uniform(12, 35, len(points)), rng.uniform(0.5, 1.5, len(points))
    sigma[n_blobs:], weight[n_blobs:] = 35, 15
    shifts = rng.uniform(-1, 1, (TILTS.size, 2)) * jump * min(SHAPE) * PIXEL
    truth = TiltGeometry(0.0, TILTS + offset, axis, shifts[:, 0], shifts[:, 1])
    v, u = ((np.arange(n) - n // 2) * PIXEL for n in SHAPE)
    angle, images = np.deg2rad(axis), np.zeros((TILTS.size, *SHAPE), np.float32)
    across_axis, along_axis = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    for i, tilt in enumerate(np.deg2rad(TILTS + offset)):
        swelling = bend * np.abs(TILTS[i]) / TILTS.max() / (0.5 * min(SHAPE) * PIXEL) ** 2
        moved = points[:, :2] * (1 + swelling * np.hypot(points[:, 0], points[:, 1])[:, None])
        across = moved[:, 0] * np.cos(tilt) + points[:, 2] * np.sin(tilt)
        x, y = np.outer(across_axis, across) + np.outer(along_axis, moved[:, 1]) + shifts[i][:, None]
        in_v, in_u = (np.exp(-((g[None] - p[:, None]) ** 2) / (2 * sigma[:, None] ** 2)) for g, p in ((v, y), (u, x)))
        images[i] = -(in_v * weight[:, None]).T @ in_u
    spread = 1.4826 * np.median(np.abs(images - np.median(images)))
    images += noise * spread * rng.standard_normal(images.shape, dtype=np.float32)
    return images, TiltGeometry.nominal(TILTS, axis - axis_off), truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--axis-range-deg", type=float, default=12.0)
    chosen = parser.parse_args()
    grid = specimen_grid((0.35 * SHAPE[0] * PIXEL, 0.35 * SHAPE[0] * PIXEL, 300))
    print("case             seed mode                 rms A   axis deg  offset deg  seconds  patch residual px")
    for case in chosen.cases:
        for seed in range(chosen.seeds):
            images, nominal, truth = simulate(np.random.default_rng(seed), **CASES[case])
            for mode in chosen.modes:
                settings = AlignmentSettings(mode=mode, axis_range_deg=chosen.axis_range_deg)
                start = time.perf_counter()
                try:
                    found = align_tilt_series(images, nominal, PIXEL, settings)
                except CryoetError as error:
                    print(f"{case:16s} {seed:4d} {mode:20s} {error}")
                    continue
                error = geometry_error(found.geometry, truth, grid)
                print(f"{case:16s} {seed:4d} {mode:20s} {error.rms_angst:6.2f} {error.axis_deg:+9.3f} {error.tilt_offset_deg:+10.2f} "
                      f"{time.perf_counter() - start:9.1f}  {np.nanmedian(found.residual_px):8.2f}  {found.method}", flush=True)


if __name__ == "__main__":
    main()
