"""Speed of tomogram reconstruction on one core, against a plain voxel loop in the same run and IMOD's tilt where it is installed; its quality.

    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/reconstruction_targets.py [--size 1024] [--thickness 256] [--views 41]
    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/reconstruction_targets.py --quality [--seed 1]

--quality: random blobs whose projections are formulas. Slope of the re-projection of wbp against the views at tilts to +-60 degrees (rays that cross the
specimen from end to end), and correlation of wbp with the truth; correlation of the SIRT-like filter with true SIRT.

Rates are voxels times views per second of process CPU time (which does not count the waiting of a busy machine); "whole" includes bringing the
views into the frame, filtering, super-sampling where it says so, and the Fourier crop.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numba
import numpy as np

from cryoet_core import parallel
from cryoet_core.geometry import TiltGeometry
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.kernels import back_project_aligned
from cryoet_core.simulate import blobs
from cryoet_core.tomogram.iterative import IterativeOptions, reconstruct_iteratively
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram
from cryoet_core.tomogram.view_filters import FilterOptions


@numba.njit
def plain_loop(images, cosines, sines, out):
    """What one writes first: for every voxel the sum over views, linear interpolation, tilt axis along y."""
    n, _, w = images.shape
    nz, ny, nx = out.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                total = np.float32(0)
                for i in range(n):
                    u = (x - nx // 2) * cosines[i] + (z - nz // 2) * sines[i] + w // 2
                    if 0 <= u < w - 1:
                        k = int(u)
                        f = np.float32(u - k)
                        total += (np.float32(1) - f) * images[i, y, k] + f * images[i, y, k + 1]
                out[z, y, x] = total


def cpu_seconds(function, repeats=2):
    """(smallest process CPU time, result) of ``repeats`` calls."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


def against_plain_loop(images, tilts, thickness):
    """(ratio, largest difference, rate of the loop, rate of the kernel) on the middle rows."""
    rows = np.ascontiguousarray(images[:, :64])
    radians = np.deg2rad(tilts)
    out = np.empty((thickness, 64, images.shape[2]), np.float32)
    plain_loop(rows[:, :1], np.cos(radians), np.sin(radians), out[:, :1].copy())
    back_project_aligned(rows.transpose(0, 2, 1), tilts, out.shape)
    slow, _ = cpu_seconds(lambda: plain_loop(rows, np.cos(radians), np.sin(radians), out), 1)
    fast, found = cpu_seconds(lambda: back_project_aligned(rows.transpose(0, 2, 1), tilts, out.shape), 8)
    work = len(tilts) * out.size / 1e9
    inside = slice(out.shape[2] // 2 - 8, out.shape[2] // 2 + 8)
    return slow / fast, float(np.abs(found - out)[..., inside].max() / np.abs(out).max()), work / slow, work / fast


def imod_tilt(images, tilts, thickness, ours):
    """Seconds of IMOD's tilt on the same (aligned) stack and the correlation with ours, or None without tilt on PATH."""
    if shutil.which("tilt") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        stack, angles, out = (Path(folder) / name for name in ("in.mrc", "in.tlt", "out.mrc"))
        write_mrc(stack, images, 1.0, stack=True)
        angles.write_text("".join(f"{t:.2f}\n" for t in tilts))
        command = ["tilt", "-InputProjections", stack, "-OutputFile", out, "-TILTFILE", angles, "-THICKNESS", str(thickness),
                   "-RADIAL", "0.35,0.035", "-MODE", "2", "-PERPENDICULAR"]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        seconds = time.perf_counter() - start
        theirs = read_mrc(out)[0].transpose(1, 0, 2)[::-1]
    inner = tuple(slice(n // 4, -(n // 4)) for n in theirs.shape)
    return seconds, float(np.corrcoef(theirs[inner].ravel(), ours[inner].ravel())[0, 1])


def correlation(a, b) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def reprojection_slopes(volume, images, tilts, at) -> list[float]:
    """Slope of the re-projected volume against each of the views ``at``."""
    half, slopes = volume.shape[2] // 2, []
    for i in at:
        t = np.deg2rad(abs(tilts[i]))
        width = int((half - 10) * np.cos(t) - volume.shape[0] / 2 * np.sin(t))
        inner = slice(half - width, half + width)
        again, view = blobs.sums_along_rays(volume, tilts[i])[:, inner], images[i][8:-8:3, inner]
        slopes.append(float((again * view).sum() / (view * view).sum()))
    return slopes


def wbp_quality(seed: int):
    """Slopes and truth for several thicknesses, steps and fillings of the tomogram by the specimen."""
    rng = np.random.default_rng(seed)
    for thickness, step, filling in ((32, 3.0, 0.75), (64, 3.0, 0.6), (64, 3.0, 0.9), (64, 1.0, 0.75), (128, 3.0, 0.75)):
        tilts, size = np.arange(-60, 60.1, step), (2 * (130 + thickness), 32, thickness)
        geometry = TiltGeometry.nominal(tilts, 0.0)
        crowd = blobs.balanced_crowd(rng, 500, [size[0], 28, filling * thickness])
        images = blobs.views(*crowd, geometry, 1.0, (32, size[0]))
        at = np.linspace(0, len(tilts) - 1, 9).round().astype(int)
        truth, inner = blobs.volume(*crowd, size), slice(size[0] // 4, -(size[0] // 4))
        for weights in ("adjacent", "exact"):
            options = FilterOptions("wbp", angular_weights=weights, radial_cutoff=0.5)
            volume = reconstruct_tomogram(images, geometry, 1.0, size, options, super_sampling=1)
            slopes = reprojection_slopes(volume, images, tilts, at)
            print(f"{thickness} px thick, {filling} of it filled, step {step}, {weights}: slopes", ", ".join(f"{tilts[i]:.0f}: {v:.3f}" for i, v in zip(at, slopes, strict=True)),
                  f"; correlation with the truth {correlation(volume[..., inner], truth[..., inner]):.4f}", flush=True)


def sirt_like_quality(seed: int):
    rng, geometry = np.random.default_rng(seed), TiltGeometry.nominal(np.linspace(-60, 60, 41), 3.0)
    for thickness in (32, 64, 96):
        clean = blobs.views(*blobs.crowd(rng, 500, [400, 60, 0.9 * thickness]), geometry, 1.0, (80, 320))
        for noise in (0.3, 2.0, 20.0):
            images = clean + noise * rng.standard_normal(clean.shape, dtype=np.float32)
            for iterations in (10, 30):
                size = (160, 48, thickness)
                true, _ = reconstruct_iteratively(images, geometry, 1.0, size, IterativeOptions(iterations, padding=0))
                like = reconstruct_tomogram(images, geometry, 1.0, size, FilterOptions("sirt_like", iterations), super_sampling=1)
                print(f"SIRT-like against SIRT: {thickness} px thick, {iterations} iterations, noise {noise / clean.std():.1f} of the views' deviation: {correlation(true, like):.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--thickness", type=int, default=256)
    parser.add_argument("--views", type=int, default=41)
    parser.add_argument("--super-sampling", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--quality", action="store_true", help="grey values and SIRT-like filter instead of speed")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    if a.quality:
        wbp_quality(a.seed)
        sirt_like_quality(a.seed)
        return
    rng, tilts = np.random.default_rng(0), np.linspace(-60, 60, a.views)
    images = rng.standard_normal((a.views, a.size, a.size), dtype=np.float32)
    ratio, difference, slow, fast = against_plain_loop(images, tilts, a.thickness)
    print(f"back-projection kernel {fast:.2f} Gvp/s, plain voxel loop {slow:.2f} Gvp/s: {ratio:.1f} x (largest difference {difference:.1e})")
    geometry, size = TiltGeometry.nominal(tilts, 0.0), (a.size, a.size, a.thickness)
    work = a.views * float(np.prod(size)) / 1e9
    for s in a.super_sampling:
        seconds, volume = cpu_seconds(lambda s=s: reconstruct_tomogram(images, geometry, 1.0, size, FilterOptions("wbp"), super_sampling=s), 1)
        print(f"WBP {a.views} x {a.size}^2 -> {size}, super-sampling {s}, whole: {seconds:.1f} s, {work / seconds:.2f} Gvp/s")
        if s == 1:
            peer = imod_tilt(images, tilts, a.thickness, volume)
            print("IMOD tilt: not on PATH, skipped" if peer is None else f"IMOD tilt: {peer[0]:.1f} s, correlation {peer[1]:.4f}")
    small, few = rng.standard_normal((39, 256, 256), dtype=np.float32), TiltGeometry.nominal(np.linspace(-57, 57, 39), 0.0)
    for name, options in (("SIRT, 10 iterations", IterativeOptions(10)), ("SIRT, 10 iterations, no padding in z", IterativeOptions(10, padding=0)),
                          ("SART, 1 iteration, 5 views a time", IterativeOptions(1, 5))):  # fmt: skip
        seconds, _ = cpu_seconds(lambda o=options: reconstruct_iteratively(small, few, 1.0, (256, 256, 136), o), 1)
        print(f"{name}, 39 x 256^2 -> 256^2 x 136: {seconds:.1f} s")


if __name__ == "__main__":
    with parallel.limited(1):
        main()
