"""The least time that a computation can take here: the work it cannot avoid over rates measured in the same run.

:class:`Work` counts bytes through memory, float32 operations and Fourier transforms; :func:`calibrate` measures how
fast this CPU core, or this GPU, copies, multiplies matrices and transforms; :meth:`Work.floor` divides. What is counted
for a step is a function of its sizes (:func:`motion`, :func:`ctf`, ...): a benchmark and a finished run have the
same floors.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from cryoet_core.backend import fft_module

KINDS = ("view", "tile", "volume")  # transforms of whole views, of many small images, of volumes: their rates differ


def real_fft(shape, count: float = 1) -> float:
    """Operations of ``count`` real transforms of ``shape``: 2.5 n log2 n each."""
    n = math.prod(shape)
    return count * 2.5 * n * math.log2(max(n, 2))


@dataclass(frozen=True)
class Work:
    """What a computation cannot do without.

    bytes : read and written once. flops : float32 additions and multiplications. fft : operations by kind of transform.
    """

    bytes: float = 0.0
    flops: float = 0.0
    fft: dict = field(default_factory=dict)

    def times(self, count: float) -> Work:
        return Work(count * self.bytes, count * self.flops, {kind: count * n for kind, n in self.fft.items()})

    def floor(self, rates: Rates) -> float:
        """Seconds: memory and arithmetic go on at the same time, transforms and other arithmetic do not."""
        arithmetic = self.flops / rates.flops + sum(n / rates.fft[kind] for kind, n in self.fft.items())
        return max(self.bytes / rates.bytes, arithmetic)


@dataclass(frozen=True)
class Rates:
    """Per second, of one CPU core or one GPU: bytes read plus written by a copy, operations of a float32 matrix product
    and of transforms by kind (KINDS)."""

    bytes: float
    flops: float
    fft: dict

    def sentence(self) -> str:
        transforms = ", ".join(f"{kind} {n / 1e9:.3g}" for kind, n in self.fft.items())
        return (
            f"copy {self.bytes / 1e9:.3g} GB/s, sgemm {self.flops / 1e9:.4g} GFLOP/s, transforms ({transforms}) GFLOP/s"
        )

    def numbers(self) -> dict:
        fft = {kind: n / 1e9 for kind, n in self.fft.items()}
        return {"copy_gb_per_s": self.bytes / 1e9, "sgemm_gflop_per_s": self.flops / 1e9, "fft_gflop_per_s": fft}

    @classmethod
    def of(cls, numbers: dict) -> Rates:
        """What :meth:`numbers` gave."""
        fft = {kind: 1e9 * n for kind, n in numbers["fft_gflop_per_s"].items()}
        return cls(1e9 * numbers["copy_gb_per_s"], 1e9 * numbers["sgemm_gflop_per_s"], fft)


def cpu_seconds(function, repeats: int = 3) -> float:
    """Least processor time of ``repeats`` calls, after one that warms up."""
    function()
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return max(best, 1e-9)


def calibrate(
    seconds, xp=np, *, copy_mb=128, matrix=1536, view_px=2048, tiles=(64, 256), volume=(128, 128, 128)
) -> Rates:
    """Rates of the device of ``xp``; ``seconds(call, repeats)`` gives the least seconds of a call on it."""
    fft = fft_module(xp)
    rng = np.random.default_rng(0)

    def noise(*shape):
        """Random numbers, repeated: making them must not take longer than the measurement."""
        count = math.prod(shape)
        few = xp.asarray(rng.standard_normal(min(count, 1 << 20), dtype=np.float32))
        return xp.tile(few, -(-count // few.size))[:count].reshape(shape)

    def copied() -> float:
        source = noise(copy_mb * 2**18)
        target = xp.empty_like(source)
        return 2 * source.nbytes / seconds(lambda: xp.copyto(target, source), 5)

    def multiplied() -> float:
        a, b = noise(matrix, matrix), noise(matrix, matrix)
        product = xp.empty_like(a)
        return 2.0 * matrix**3 / seconds(lambda: xp.matmul(a, b, out=product), 3)

    def transformed(shape, count: int = 1) -> float:
        images, axes = noise(count, *shape), tuple(range(1, len(shape) + 1))
        return real_fft(shape, count) / seconds(lambda: fft.rfftn(images, axes=axes), 3)

    tile = (tiles[1], tiles[1])
    rates = {
        "view": transformed((view_px, view_px)),
        "tile": transformed(tile, tiles[0]),
        "volume": transformed(volume),
    }
    return Rates(copied(), multiplied(), rates)


def gpu_seconds(function, repeats: int = 3) -> float:
    """Least seconds of ``repeats`` calls on the current GPU, between two events, after one call that warms up."""
    import cupy

    function()
    start, end, best = cupy.cuda.Event(), cupy.cuda.Event(), math.inf
    for _ in range(repeats):
        start.record()
        function()
        end.record()
        end.synchronize()
        best = min(best, cupy.cuda.get_elapsed_time(start, end) / 1e3)
    return max(best, 1e-9)


def calibrate_gpu(tiny: bool = False) -> Rates:
    """Rates of the current GPU; ``tiny`` for the stand-in."""
    import cupy

    if tiny:
        return calibrate(gpu_seconds, cupy, copy_mb=4, matrix=128, view_px=256, tiles=(8, 64), volume=(32, 32, 32))
    return calibrate(
        gpu_seconds, cupy, copy_mb=1024, matrix=8192, view_px=4096, tiles=(4096, 128), volume=(250, 480, 462)
    )


def calibrate_core() -> Rates:
    """Rates of one CPU core, in processor seconds."""
    with threadpool_limits(1):
        return calibrate(cpu_seconds)


# What every step cannot do without, from its sizes: views of (h, w) pixels, counts of one call.


def motion(shape, frames: int) -> Work:
    """One movie: every frame read as bytes and transformed, an even and an odd sum transformed back and written."""
    pixels = math.prod(shape)
    return Work(bytes=frames * pixels + 2 * 4 * pixels, fft={"view": real_fft(shape, frames + 2)})


def ctf(shape, window_px: int) -> Work:
    """Power spectra of tiles of ``window_px`` that overlap by half."""
    window = min(window_px, *shape)
    tiles = math.prod(2 * (n // window) - 1 for n in shape)
    return Work(bytes=4 * math.prod(shape), fft={"tile": real_fft((window, window), tiles)})


def one_pass(shape, images: int = 1) -> Work:
    """Every pixel read once."""
    return Work(bytes=4 * images * math.prod(shape))


def xrays(shape) -> Work:
    """Full, even and odd view read and written."""
    return Work(bytes=6 * 4 * math.prod(shape))


def alignment(views: int, shape, thickness_px: float) -> Work:
    """Three rounds of all views into a slab of ``thickness_px``, four operations per voxel and view."""
    return Work(bytes=4 * views * math.prod(shape), flops=3 * 4 * views * math.prod(shape) * thickness_px)


def ctf_correction(shape, images: int = 3) -> Work:
    """Full, even and odd view transformed and back once."""
    return Work(bytes=2 * 4 * images * math.prod(shape), fft={"view": real_fft(shape, 2 * images)})


def binning(shape, factor: int, images: int = 3) -> Work:
    """Full, even and odd view transformed, the cropped spectra transformed back."""
    small = tuple(n // factor for n in shape)
    transforms = real_fft(shape, images) + real_fft(small, images)
    return Work(bytes=4 * images * (math.prod(shape) + math.prod(small)), fft={"view": transforms})


def back_projection(views: int, shape, voxels: float) -> Work:
    """Every view filtered by a pair of transforms; linear interpolation, four operations per voxel and view."""
    flops = 4.0 * views * voxels
    return Work(bytes=4 * (views * math.prod(shape) + voxels), flops=flops, fft={"view": real_fft(shape, 2 * views)})


def matching(voxels: float, rotations: float, rank: int = 200) -> Work:
    """All rotations at all voxels as a product with ``rank`` eigen-templates; a hierarchical search does less."""
    return Work(bytes=3 * 4 * voxels, flops=2.0 * rank * voxels * rotations)


def extraction(views: int, shape, factor: int, images: float, box_px: int) -> Work:
    """Every view binned once; every particle image cut, transformed, multiplied and transformed back."""
    binned = binning(shape, factor, views) if factor > 1 else one_pass(shape, views)
    pixels = images * box_px**2
    return Work(
        binned.bytes + 3 * 4 * pixels, 4.0 * pixels, {**binned.fft, "tile": real_fft((box_px, box_px), 2 * images)}
    )


def half_plane(radius_px: float) -> float:
    """Coefficients of a real image within a radius."""
    return 0.5 * math.pi * radius_px**2


def lattice_points(radius: float) -> int:
    """Whole-numbered points (x, y, z) within a radius."""
    k = np.arange(-int(radius), int(radius) + 1)
    return int(((k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2) <= radius**2).sum())


def expectation(images: float, box_px: int, orientations: float, offsets: float, shells: float | None = None) -> Work:
    """Every particle image against every orientation and offset: four operations per coefficient."""
    coefficients = half_plane(min(box_px / 2 - 1, shells or math.inf))
    return Work(bytes=8 * images * coefficients, flops=4.0 * images * coefficients * orientations * offsets)


def particle_reconstruction(images: float, box_px: int) -> Work:
    """Every particle image transformed, data and weight shared among the eight voxels around each point."""
    points = 2 * half_plane(box_px / 2)
    return Work(
        bytes=8 * images * points, flops=8 * 2 * 3 * images * points, fft={"tile": real_fft((box_px, box_px), images)}
    )


def postprocessing(box_px: int) -> Work:
    """Two half maps, their masked and their random-phase copies transformed, the map transformed back."""
    shape = (box_px,) * 3
    return Work(bytes=4 * 3 * box_px**3, fft={"volume": real_fft(shape, 2 + 2 + 4 + 1)})
