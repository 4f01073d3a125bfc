"""3-D CTF correction against truth: beads in a thick slab, every bead imaged with the CTF of its own depth.

The views are summed in Fourier space by formulas of this file (rotation, CTF, bead), which share nothing with the library. The tomogram is
compared with the drawn beads by correlation in Fourier shells beyond the first zero of the CTF, for: no correction, the
per-view correction along the tilted plane, and 3-D correction in the pass of back-projection.

    python benchmarks/ctf_in_depth_targets.py --size 128 --thickness 3000 --pixel 3 --defocus 20000
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.fft import irfft2, rfftn

from cryoet_core.metadata import TiltSeries
from cryoet_core.tilt_series.ctf_correction import CtfCorrectionSettings, correct_views, view_ctfs
from cryoet_core.tomogram.ctf_in_depth import CtfInDepth, automatic_step_angst
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram
from cryoet_core.tomogram.view_filters import FilterOptions

WAVELENGTH, CS, AMPLITUDE = 0.0196875, 2.7e7, 0.1
SIGMA_ANGST = 2.0


@dataclass(frozen=True)
class Scene:
    """What is simulated: a slab of beads and the microscope."""

    size: int = 128
    thickness_angst: float = 3000.0
    pixel: float = 3.0
    defocus: float = 20000.0
    astigmatism: float = 1500.0
    astigmatism_deg: float = 30.0
    axis: float = 4.0
    x_tilt: float = 0.0
    hand: int = -1
    count: int = 60
    noise: float = 0.0
    seed: int = 1


def beads(rng, count, size_angst):
    """(count, 3) centred positions in a box of ``size_angst`` (x, y, z)."""
    return rng.uniform(-0.5, 0.5, (count, 3)) * np.asarray(size_angst)


def project(positions, tilt_deg, scene):
    """u, v, depth of points, written out: tilt about x, then x cos + z sin and -x sin + z cos, then the axis turned from +y."""
    t, a, b = np.deg2rad([tilt_deg, scene.axis, scene.x_tilt])
    x, y, z = positions.T
    y, z = y * np.cos(b) - z * np.sin(b), y * np.sin(b) + z * np.cos(b)
    across, depth = x * np.cos(t) + z * np.sin(t), z * np.cos(t) - x * np.sin(t)
    return across * np.cos(a) - y * np.sin(a), across * np.sin(a) + y * np.cos(a), depth


def view_image(positions, tilt, shape, scene, ideal=False):
    """-sum of beads, each through the CTF (ideal: |CTF|) at defocus + hand x depth; (h, w), the specimen's centre on index n//2."""
    pixel = scene.pixel
    ky, kx = np.fft.fftfreq(shape[0], pixel)[:, None], np.fft.rfftfreq(shape[1], pixel)[None]
    k2 = kx**2 + ky**2
    defocus = scene.defocus + 0.5 * scene.astigmatism * np.cos(2 * (np.arctan2(ky, kx) - np.deg2rad(scene.astigmatism_deg)))
    bead = np.exp(-2 * np.pi**2 * SIGMA_ANGST**2 * k2) / pixel**2
    total = np.zeros(k2.shape, complex)
    for u, v, depth in zip(*project(positions, tilt, scene), strict=True):
        gamma = np.pi * WAVELENGTH * (defocus + scene.hand * depth) * k2 - 0.5 * np.pi * CS * WAVELENGTH**3 * k2**2
        shift = np.exp(-2j * np.pi * (kx * (u + shape[1] // 2 * pixel) + ky * (v + shape[0] // 2 * pixel)))
        contrast = np.sin(gamma + np.arcsin(AMPLITUDE))
        total -= (np.abs(contrast) if ideal else contrast) * shift
    return irfft2(total * bead, shape).astype(np.float32)


def draw(positions, size_px, pixel):
    """The beads, dark, in a volume (nz, ny, nx)."""
    volume = np.zeros(size_px[::-1], np.float32)
    for position in positions / pixel:
        axes, reach = [], int(np.ceil(5 * SIGMA_ANGST / pixel)) + 1
        for n, c in zip(size_px, position, strict=True):
            index = np.arange(int(np.rint(c)) - reach, int(np.rint(c)) + reach + 1)
            kept = index[(index >= -(n // 2)) & (index < n - n // 2)]
            axes.append((kept + n // 2, np.exp(-((kept - c) ** 2) * pixel**2 / (2 * SIGMA_ANGST**2))))
        (ix, gx), (iy, gy), (iz, gz) = axes
        volume[np.ix_(iz, iy, ix)] -= gz[:, None, None] * gy[:, None] * gx
    return volume


def boxes(volume, positions, pixel, side):
    """(m, side, side, side) cut around the voxels next to the positions that lie far enough inside."""
    corner = np.rint(positions[:, ::-1] / pixel).astype(int) + np.array(volume.shape) // 2 - side // 2
    inside = ((corner >= 0) & (corner + side <= volume.shape)).all(axis=1)
    return np.array([volume[z : z + side, y : y + side, x : x + side] for z, y, x in corner[inside]])


def band_correlation(volume, truth, positions, low, high, pixel, side=32):
    """Correlation with the truth over frequencies low..high (1/A) in boxes around the beads.

    In boxes, because a thick slab is sampled too coarsely by 3 degrees far away from every bead, whatever the CTF.
    """
    fa, fb = (rfftn(boxes(v, positions, pixel, side), axes=(1, 2, 3)) for v in (volume, truth))
    full, half = np.fft.fftfreq(side, pixel), np.fft.rfftfreq(side, pixel)
    k = np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)
    weight = ((k >= low) & (k < high)) * np.r_[1.0, np.full(side // 2 - 1, 2.0), 1.0]
    cross = ((fa * fb.conj()).real * weight).sum()
    return float(cross / np.sqrt(((np.abs(fa) ** 2) * weight).sum() * ((np.abs(fb) ** 2) * weight).sum()))


def make_series(tilts, shape, scene):
    """A TiltSeries of perfectly aligned views."""
    n, u = len(tilts), scene.defocus + 0.5 * scene.astigmatism
    columns = {"tilt_id": np.arange(1, n + 1), "nominal_tilt_deg": tilts, "pre_exposure_e_per_a2": 0.0, "x_tilt_deg": scene.x_tilt,
               "y_tilt_deg": tilts, "z_rot_deg": scene.axis, "x_shift_angst": 0.0, "y_shift_angst": 0.0, "excluded": 0, "exclude_reason": "none",
               "defocus_u_angst": u, "defocus_v_angst": u - scene.astigmatism, "defocus_angle_deg": scene.astigmatism_deg,
               "phase_shift_deg": 0.0}  # fmt: skip
    return TiltSeries("TS_01", 300.0, 2.7, AMPLITUDE, scene.pixel, scene.pixel, scene.hand, shape[::-1], (0, 0, 0), pd.DataFrame(columns))


def simulate(scene):
    """(tilts, bead positions, views, views with |CTF|): views are wide enough that each sees every bead."""
    rng = np.random.default_rng(scene.seed)
    tilts, field = np.arange(-60.0, 61, 3), scene.size * scene.pixel
    width = scene.size + scene.thickness_angst / scene.pixel
    height = scene.size + (abs(np.sin(np.deg2rad(scene.axis))) + 2 * abs(np.sin(np.deg2rad(scene.x_tilt)))) * width
    shape = 2 * int(height / 2), 2 * int(width / 2)
    positions = beads(rng, scene.count, (0.6 * field, 0.6 * field, scene.thickness_angst))
    clean, ideal = (np.array([view_image(positions, t, shape, scene, i) for t in tilts]) for i in (False, True))
    noise = np.float32(scene.noise * clean.std()) * rng.standard_normal(clean.shape, dtype=np.float32)
    return tilts, positions, clean + noise, ideal + noise


def measure(scene, modes=("phase_flip",), steps=(None,), assumed_hand=None):
    """Yield (name, correlation beyond the first zero, the same in the outer third of the depth, seconds) of every way of correcting.

    The last line is what phases without any error would give.
    """
    pixel = scene.pixel
    tilts, positions, images, ideal = simulate(scene)
    size_px = (scene.size, scene.size, 2 * int(np.ceil((scene.thickness_angst / pixel + 32) / 2)))
    truth, outer = draw(positions, size_px, pixel), positions[np.abs(positions[:, 2]) > scene.thickness_angst / 3]
    series = make_series(tilts, images.shape[1:], scene)
    options, first_zero = FilterOptions(method="wbp", radial_cutoff=0.4), 1 / np.sqrt(WAVELENGTH * scene.defocus)
    series.handedness = assumed_hand or scene.hand
    ctfs, optics = view_ctfs(series), series.optics

    def made(views, ctf=None):
        start = time.perf_counter()
        volume = reconstruct_tomogram(views, series.geometry, pixel, size_px, options, super_sampling=1, ctf=ctf)
        seconds = time.perf_counter() - start
        return *(band_correlation(volume, truth, p, first_zero, 0.4 / pixel, pixel) for p in (positions, outer)), seconds

    yield "none", *made(images)
    for mode in modes:
        settings = CtfCorrectionSettings(mode=mode)
        strips = np.concatenate([correct_views(i[None], c, pixel, optics, settings) for i, c in zip(images, ctfs, strict=True)])
        yield f"{mode}, per view", *made(strips)
        for step in steps:
            step = automatic_step_angst(pixel, 0.435, optics) if step is None else step
            yield f"{mode}, 3-D, copies every {step:.0f} A", *made(images, CtfInDepth(settings, ctfs, optics, step))
    yield "phases known exactly", *made(ideal)


def by_wrong_hand(scene):
    """Correlation beyond the first zero after 3-D phase flipping with the hand turned."""
    lines = list(measure(scene, assumed_hand=-scene.hand))
    return next(line[1] for line in lines if "3-D" in line[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--thickness", type=float, default=3000.0)
    parser.add_argument("--pixel", type=float, default=3.0)
    parser.add_argument("--defocus", type=float, default=20000.0)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of white noise, relative to the views'")
    parser.add_argument("--modes", nargs="+", default=["phase_flip", "multiply", "wiener"])
    parser.add_argument("--steps", nargs="+", type=float, default=[None])
    parser.add_argument("--x-tilt", type=float, default=0.0)
    a = parser.parse_args()
    scene = Scene(a.size, a.thickness, a.pixel, a.defocus, noise=a.noise, x_tilt=a.x_tilt)
    for name, correlation, outer, seconds in measure(scene, a.modes, a.steps):
        print(f"{name:42s} correlation {correlation:6.3f}, outer third {outer:6.3f}   {seconds:6.1f} s")


if __name__ == "__main__":
    main()
