"""Times every CPU kernel against SciPy/NumPy doing the same work in the same run (process CPU time, one thread).

Usage: NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/bench_kernels.py [kernel name ...]
The ratio is what is comparable between machines; the rate depends on the machine and on its load.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import scipy.fft
import scipy.ndimage

from cryoet_core import kernels
from cryoet_core.geometry.rotations import rotation_y, rotation_z

RNG = np.random.default_rng(0)


def seconds(function, repeats=3):
    """Smallest process CPU time of ``repeats`` calls, after one call that compiles."""
    function()
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def turns(n):
    q = np.linalg.qr(RNG.normal(size=(n, 3, 3)))[0]
    return q * np.linalg.det(q)[:, None, None]


def noise(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def pairs(*shape):
    return noise(*shape, 2).view(np.complex64)[..., 0]


def bench_back_project():
    n, size, shape = 41, 512, (64, 512, 512)
    images = noise(n, size, size)
    rotations = np.array([rotation_z(85) @ rotation_y(t) for t in np.linspace(-60, 60, n)])
    ours = seconds(lambda: kernels.back_project(images, rotations, np.zeros((n, 2)), None, shape), 2)
    z, y, x = np.meshgrid(*[np.arange(s, dtype=np.float32) - s // 2 for s in (4, 512, 512)], indexing="ij")

    def scipy_one():
        u, v = (r[0] * x + r[1] * y + r[2] * z + size // 2 for r in rotations[3, :2])
        scipy.ndimage.map_coordinates(images[3], [v, u], order=1, output=np.float32)

    work = n * np.prod(shape) / 1e9
    yield "back_project 41x512^2 -> 512x512x64", work, "Gvp/s", ours, seconds(scipy_one, 1) * n * 16, "map_coordinates"


def bench_back_project_aligned():
    n, size, shape = 41, 512, (128, 512, 512)
    images = noise(n, size, size)
    tilts = np.linspace(-60, 60, n)
    ours = seconds(lambda: kernels.back_project_aligned(images.transpose(0, 2, 1), tilts, shape))
    rotations = np.array([rotation_y(t) for t in tilts])
    general = seconds(lambda: kernels.back_project(images, rotations, np.zeros((n, 2)), None, (16, 512, 512)), 1) * 8
    work = n * np.prod(shape) / 1e9
    yield "back_project_aligned 41x512^2 -> 512x512x128", work, "Gvp/s", ours, general, "back_project"


def bench_forward_project():
    n, shape = 11, (32, 256, 256)
    volume = noise(*shape)
    rotations = np.array([rotation_z(85) @ rotation_y(t) for t in np.linspace(-60, 60, n)])
    ours = seconds(lambda: kernels.forward_project(volume, rotations, np.zeros((n, 2)), (256, 256)))
    z, y, x = np.meshgrid(*[np.arange(s) - s // 2 for s in shape], indexing="ij")

    def bincount_one():
        u, v = (r[0] * x + r[1] * y + r[2] * z + 128 for r in rotations[3, :2])
        u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
        for du in (0, 1):
            for dv in (0, 1):
                a, b = u0 + du, v0 + dv
                inside = (a >= 0) & (a < 256) & (b >= 0) & (b < 256)
                weight = volume * (1 - np.abs(u - a)) * (1 - np.abs(v - b))
                np.bincount((b * 256 + a)[inside], weight[inside], 65536)

    work = n * np.prod(shape) / 1e9
    yield "forward_project 256x256x32 -> 11x256^2", work, "Gvp/s", ours, seconds(bincount_one, 1) * n, "bincount"
    ours = seconds(lambda: kernels.forward_project_aligned(volume, np.linspace(-60, 60, n), (256, 256)))
    yield "forward_project_aligned, same", work, "Gvp/s", ours, seconds(bincount_one, 1) * n, "bincount"


def bench_sample_turned():
    for n, m in ((32, 2000), (64, 1000), (128, 200)):
        volume_ft = scipy.fft.fftshift(scipy.fft.rfftn(noise(n, n, n)), axes=(0, 1)).astype(np.complex64)
        rotations, radius = turns(m), n // 2 - 1
        ky, kx = np.meshgrid(scipy.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1), indexing="ij")
        inside = kx**2 + ky**2 <= radius**2
        plane = np.stack([kx[inside], ky[inside], 0 * kx[inside]])
        ours = seconds(lambda v=volume_ft, r=rotations, p=plane: kernels.sample_turned(v, np.swapaxes(r, 1, 2), p.T))

        def scipy_some(v=volume_ft, r=rotations, p=plane, c=n // 2):
            for turn in r[:20]:
                k = turn.T @ p
                k *= np.where(k[0] < 0, -1, 1)
                where = [k[2] + c, k[1] + c, k[0]]
                scipy.ndimage.map_coordinates(v.real, where, order=1, output=np.float32)
                scipy.ndimage.map_coordinates(v.imag, where, order=1, output=np.float32)

        work = m * inside.sum() / 1e6
        yield f"sample_turned, {m} slices of {n}^3", work, "Mpix/s", ours, seconds(scipy_some, 1) * m / 20, "map_coordinates"


def bench_insert_slices():
    for n, m in ((32, 2000), (64, 1000), (128, 200)):
        slices, weights, rotations = pairs(m, n, n // 2 + 1), np.abs(noise(m, n, n // 2 + 1)), turns(m)
        radius = n // 2 - 1
        ky, kx = np.meshgrid(scipy.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1), indexing="ij")
        inside = kx**2 + ky**2 <= radius**2
        plane = np.stack([kx[inside], ky[inside], 0 * kx[inside]])
        accumulator = kernels.new_accumulator(n)
        ours = seconds(
            lambda s=slices, w=weights, r=rotations, n=n, q=radius, a=accumulator: kernels.insert_slices(
                s, w, r, n, radius_px=q, out=a
            )
        )

        def bincount_some(s=slices, w=weights, r=rotations, p=plane, n=n, inside=inside):
            for i, turn in enumerate(r[:10]):
                k = turn.T @ p
                k *= np.where(k[0] < 0, -1, 1)
                low = np.floor(k).astype(int)
                for corner in range(8):
                    d = np.array([corner & 1, corner >> 1 & 1, corner >> 2])[:, None]
                    g = low + d
                    t = np.prod(1 - np.abs(k - g), axis=0)
                    index = ((g[2] + n // 2) % n * n + (g[1] + n // 2) % n) * (n // 2 + 1) + g[0] % (n // 2 + 1)
                    for part in (s[i].real[inside], s[i].imag[inside], w[i][inside]):
                        np.bincount(index, t * part, n * n * (n // 2 + 1))

        work = m * inside.sum() / 1e6
        yield f"insert_slices {m} into {n}^3", work, "Mpix/s", ours, seconds(bincount_some, 1) * m / 10, "bincount"


def bench_rotate_volume():
    for n in (32, 64):
        volume, rotations = noise(n, n, n), turns(20)
        ours = seconds(lambda v=volume, r=rotations, q=n // 2 - 1: kernels.rotate_volume(v, r, q)) / 20
        theirs = seconds(lambda v=volume, r=rotations: scipy.ndimage.affine_transform(v, r[0], order=1), 2)
        yield f"rotate_volume {n}^3, sphere", n**3 / 1e6, "Mvox/s", ours, theirs, "affine_transform order 1"


def bench_sample_spline():
    image, turn = noise(1024, 1024), rotation_z(4.0)[:2, :2]
    ours = seconds(lambda: kernels.sample_spline(image, turn, [30.0, -30.0], image.shape))
    theirs = seconds(lambda: scipy.ndimage.affine_transform(image, turn, [30.0, -30.0], order=3, prefilter=False), 2)
    yield "sample_spline 1024^2", image.size / 1e6, "Mpix/s", ours, theirs, "affine_transform order 3"


def bench_max_update():
    shape = (128, 256, 256)
    scores, best, index, norm = noise(*shape), noise(*shape), np.zeros(shape, np.int32), np.abs(noise(*shape))

    def plain():
        value = scores * norm
        better = value > best
        best[better] = value[better]
        index[better] = 3

    ours = seconds(lambda: kernels.max_update(scores, best, index, 3, norm))
    yield "max_update 128x256x256", scores.size / 1e6, "Mvox/s", ours, seconds(plain, 1), "numpy where"


def bench_phase_shift_accumulate():
    spectra = pairs(4, 2048, 1025)
    shifts = RNG.normal(size=(4, 2))
    ky, kx = scipy.fft.fftfreq(2048)[:, None].astype(np.float32), (np.arange(1025) / 2048).astype(np.float32)

    def plain():
        total = np.zeros((2048, 1025), np.complex64)
        for spectrum, (dx, dy) in zip(spectra, shifts, strict=True):
            total += spectrum * np.exp(-2j * np.pi * (kx * np.float32(dx) + ky * np.float32(dy)))

    ours = seconds(lambda: kernels.phase_shift_accumulate(spectra, shifts, (2048, 2048)))
    yield "phase_shift_accumulate 4x2048^2", spectra.size / 1e6, "Mpix/s", ours, seconds(plain, 1), "numpy"


def bench_warp_accumulate():
    image, table = RNG.standard_normal((2048, 2048), dtype=np.float32), RNG.normal(size=(2, 65, 65))
    y, x = np.mgrid[:2048, :2048].astype(np.float32)

    def plain():
        dx, dy = (scipy.ndimage.zoom(t, 2048 / 65, order=1) for t in table)
        scipy.ndimage.map_coordinates(image, [y + dy, x + dx], order=5, prefilter=False, mode="grid-wrap")

    ours = seconds(lambda: kernels.warp_accumulate(image, table))
    yield "warp_accumulate 2048^2", image.size / 1e6, "Mpix/s", ours, seconds(plain, 1), "scipy map_coordinates, order 5"


BENCHES = {name.removeprefix("bench_"): f for name, f in list(globals().items()) if name.startswith("bench_")}


def main(names):
    lines = [f"{'kernel':46s} {'CPU s':>9s} {'rate':>9s} {'':7s} {'ratio':>7s}  against"]
    for name in names or BENCHES:
        for label, work, unit, ours, theirs, against in BENCHES[name]():
            lines.append(f"{label:46s} {ours:9.4f} {work / ours:9.2f} {unit:7s} {theirs / ours:7.1f}  {against}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
