"""Every kernel, and the three heavy steps, on a GPU against the same code on all CPU cores, in one run: time, rate, ratio, difference.

    python benchmarks/bench_gpu.py [--small] [--only NAME ...]

Kernel times are the smallest wall time of several calls with data already on the device, after one call that compiles; steps are timed once,
after a small one that compiles, from host arrays to host arrays. The difference is |gpu - cpu| over |cpu|, both root mean square. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numba
import numpy as np
import scipy.fft
from bench_kernels import RNG, noise, turns
from match_speed import blob_template, series
from refine_memory import BINNING, BOX, PIXEL, write_data

from cryoet_core import backend, kernels
from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.config.refine import Refine
from cryoet_core.geometry.rotations import rotation_y, rotation_z
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.picking.match import match_template
from cryoet_core.subtomo.refine_run import refine_stacks
from cryoet_core.subtomo.stacks import read_stacks
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram

TILTS = np.linspace(-60.0, 60.0, 41)


def transform(n):
    return scipy.fft.fftshift(scipy.fft.rfftn(noise(n, n, n)), axes=(0, 1)).astype(np.complex64)


def slice_points(n):
    ky, kx = np.meshgrid(scipy.fft.fftfreq(n, 1 / n), np.arange(n // 2), indexing="ij")
    inside = kx**2 + ky**2 <= (n // 2 - 1) ** 2
    return np.stack([kx[inside], ky[inside], 0 * kx[inside]], axis=1)


def kernel_cases(size: int):
    """(label, operations in units of 1e9, unit, function of device arrays, host arrays that go to the device)."""
    tilted = np.array([rotation_z(85) @ rotation_y(t) for t in TILTS])
    still = np.zeros((len(TILTS), 2))
    images, shape = noise(len(TILTS), size, size), (size // 4, size, size)
    work = images.shape[0] * np.prod(shape) / 1e9
    yield "back_project", work, "Gvp/s", lambda a: kernels.back_project(a, tilted, still, None, shape), (images,)
    yield "back_project_aligned", work, "Gvp/s", lambda a: kernels.back_project_aligned(a, TILTS, shape), (images,)
    volume = noise(*shape)
    yield "forward_project", work, "Gvp/s", lambda v: kernels.forward_project(v, tilted, still, (size, size)), (volume,)
    yield "forward_project_aligned", work, "Gvp/s", lambda v: kernels.forward_project_aligned(v, TILTS, (size, size)), (volume,)
    box, count = 64, 10 * size
    plane, matrices = slice_points(box), turns(count)
    work = count * len(plane) / 1e9
    yield "sample_turned", work, "Gpoint/s", lambda v: kernels.sample_turned(v, matrices, plane), (transform(box),)
    values = noise(count, len(plane), 2).view(np.complex64)[..., 0]
    weights = np.abs(noise(count, len(plane)))
    yield "insert_turned", work, "Gpoint/s", lambda s, w: kernels.insert_turned(s, w, matrices, plane, box), (values, weights)
    slices = noise(count // 10, box, box // 2 + 1, 2).view(np.complex64)[..., 0]
    some = matrices[: count // 10]
    yield (
        "insert_slices", work / 10, "Gpoint/s", lambda s, w: kernels.insert_slices(s, w, some, box, radius_px=box // 2 - 1),
        (slices, np.abs(slices)),
    )  # fmt: skip
    small, few = noise(48, 48, 48), matrices[:200]
    yield "rotate_volume", len(few) * small.size / 1e9, "Gvox/s", lambda v: kernels.rotate_volume(v, few, 23), (small,)
    spectra, shifts = noise(8, size, size // 2 + 1, 2).view(np.complex64)[..., 0], RNG.normal(size=(8, 2))
    yield "phase_shift_accumulate", spectra.size / 1e9, "Gpix/s", lambda s: kernels.phase_shift_accumulate(s, shifts, (size, size)), (spectra,)
    movie, table = noise(size, size), RNG.normal(size=(2, 65, 65))
    yield "warp_accumulate", movie.size / 1e9, "Gpix/s", lambda i: kernels.warp_accumulate(i, table), (movie,)
    turn = rotation_z(4.0)[:2, :2]
    yield "sample_spline", movie.size / 1e9, "Gpix/s", lambda i: kernels.sample_spline(i, turn, [30.0, -30.0], movie.shape), (movie,)
    scores, best, index = noise(*shape), noise(*shape), np.zeros(shape, np.int32)

    def update(s, b, i):
        kernels.max_update(s, b, i, 3)
        return b

    yield "max_update", scores.size / 1e9, "Gvox/s", update, (scores, best, index)


def synchronise(device):
    if device != "cpu":
        import cupy

        cupy.cuda.Device().synchronize()


def timed(function, device, repeats):
    """Smallest wall seconds of ``repeats`` calls."""
    best = np.inf
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return best


def difference(found, expected) -> float:
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    return max(float(np.linalg.norm(backend.asnumpy(f) - e) / np.linalg.norm(e)) for f, e in pairs)


def run_kernel(function, arrays):
    """(GPU seconds, CPU seconds, difference of the results)."""
    on_gpu = [backend.to_device(a, "cuda:0") for a in arrays]
    found, expected = function(*on_gpu), function(*arrays)  # max_update changes its arrays: compared before they are timed
    error = difference(found, expected)
    gpu, cpu = timed(lambda: function(*on_gpu), "cuda:0", 5), timed(lambda: function(*arrays), "cpu", 1)
    return gpu, cpu, error


def reconstruct(device, size):
    images = backend.to_device(np.random.default_rng(2).standard_normal((len(TILTS), size, size), dtype=np.float32), device)
    geometry = TiltGeometry.nominal(TILTS, 85.0)
    return reconstruct_tomogram(images, geometry, 10.0, (size, size, size // 4))


def match(device, size):
    shape = (max(size // 8, 34), size // 4, size // 4)
    volume = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    config = MatchTemplate(particle_diameter_angst=264.0, angular_step_deg=12.0)
    reference = backend.to_device(blob_template(32, 22), device)
    threads = 1 if device != "cpu" else numba.get_num_threads()
    result = match_template(backend.to_device(volume, device), reference, 12.0, series(), config, np.random.default_rng(0), threads=threads)
    return result.scores


def refine(device, size):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tilt_series = write_data(folder, max(size // 4, 20), len(TILTS))
        stacks = read_stacks(folder / "particles.star", tilt_series)
        reference = np.random.default_rng(1).standard_normal((BOX,) * 3).astype(np.float32)
        config = Refine(initial_lowpass_angst=30, max_iterations=1)
        refined, _ = refine_stacks(stacks, reference, PIXEL * BINNING, config, 1, lambda a: backend.to_device(a, device))
        return refined.map


STEPS = {"reconstruct_tomogram": reconstruct, "match_template": match, "refine, one iteration": refine}


def run_step(function, size):
    """(GPU seconds, CPU seconds, difference)."""
    seconds, results = [], []
    for device in ("cuda:0", "cpu"):
        function(device, 128)
        synchronise("cuda:0")
        start = time.perf_counter()
        results.append(function(device, size))
        seconds.append(time.perf_counter() - start)
    return *seconds, difference(*results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="views of 128 px instead of 512: to try the script itself")
    parser.add_argument("--only", nargs="*", default=[], help="names of kernels and steps (the first word)")
    args = parser.parse_args()
    if not backend.gpu_available():
        sys.exit("bench_gpu: no CUDA device (or no CuPy), nothing to measure")
    size = 128 if args.small else 512
    print(f"{'':26s} {'GPU s':>9s} {'rate':>9s} {'':9s} {f'{numba.get_num_threads()} cores s':>11s} {'ratio':>7s}  difference", flush=True)
    chosen = [c for c in kernel_cases(size) if not args.only or c[0] in args.only]
    for label, work, unit, function, arrays in chosen:
        gpu, cpu, error = run_kernel(function, arrays)
        print(f"{label:26s} {gpu:9.5f} {work / gpu:9.2f} {unit:9s} {cpu:11.4f} {cpu / gpu:7.1f}  {error:.1e}", flush=True)
    for label, function in STEPS.items():
        if not args.only or label.split(",")[0] in args.only:
            gpu, cpu, error = run_step(function, size)
            print(f"{label:26s} {gpu:9.3f} {'':19s} {cpu:11.3f} {cpu / gpu:7.1f}  {error:.1e}", flush=True)


if __name__ == "__main__":
    main()
