"""Every kernel with data on a device, at the size of the tutorial or at a tiny one, and the least work of one call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bench_kernels import RNG, noise, pairs, turns
from floors import Work

from cryoet_core import kernels
from cryoet_core.backend import array_namespace, to_device
from cryoet_core.geometry.rotations import rotation_y, rotation_z


@dataclass(frozen=True)
class KernelSize:
    """Views of image_px squared, volumes of depth_px such planes, frames of movie_px squared, slices of box_px."""

    image_px: int
    depth_px: int
    views: int
    movie_px: int
    frames: int
    box_px: int
    slices: int
    poses: int
    rotations: int


TUTORIAL = KernelSize(1024, 350, 30, 4096, 8, 128, 4000, 400, 200)
MIDDLE = KernelSize(256, 64, 11, 1024, 4, 48, 500, 50, 50)
TINY = KernelSize(24, 6, 3, 48, 2, 12, 10, 3, 4)


@dataclass(frozen=True)
class KernelCase:
    """``run()`` gives the result on the device; amount of unit (1e9) is what one call does, for a rate."""

    name: str
    run: object
    work: Work
    amount: float
    unit: str


def spread(shape, device: str):
    """float32 noise of a large shape on a device: one random plane, moved on from plane to plane."""
    plane = to_device(noise(*shape[1:]), device)
    xp = array_namespace(plane)
    return xp.stack([xp.roll(plane, 7 * i, axis=0) for i in range(shape[0])])


def plane_points(box: int) -> np.ndarray:
    """(K, 3) whole-numbered frequencies of half a plane within the box's Nyquist frequency, the origin left out."""
    ky, kx = np.meshgrid(np.arange(-(box // 2), box - box // 2), np.arange(box // 2), indexing="ij")
    radius2 = kx**2 + ky**2
    inside = (radius2 <= (box // 2 - 1) ** 2) & (radius2 > 0)
    return np.stack([kx[inside], ky[inside], 0 * kx[inside]], axis=1).astype(float)


def projections(size: KernelSize, device: str):
    tilts = np.linspace(-60.0, 60.0, size.views)
    tilted, still = np.array([rotation_z(85) @ rotation_y(t) for t in tilts]), np.zeros((size.views, 2))
    shape, image = (size.depth_px, size.image_px, size.image_px), (size.image_px, size.image_px)
    images, volume = spread((size.views, *image), device), spread(shape, device)
    voxels, pixels = float(np.prod(shape)), float(size.views * np.prod(image))
    amount = size.views * voxels / 1e9
    flat = Work(bytes=4 * (voxels + pixels), flops=4e9 * amount)  # linear interpolation along one axis
    full = Work(bytes=4 * (voxels + pixels), flops=8e9 * amount)  # along two
    yield "back_project", lambda: kernels.back_project(images, tilted, still, None, shape), full, amount, "Gvp/s"
    yield "back_project_aligned", lambda: kernels.back_project_aligned(images, tilts, shape), flat, amount, "Gvp/s"
    yield "forward_project", lambda: kernels.forward_project(volume, tilted, still, image), full, amount, "Gvp/s"

    def forward_project_aligned():
        return kernels.forward_project_aligned(volume, tilts, image)

    yield "forward_project_aligned", forward_project_aligned, flat, amount, "Gvp/s"


def slices_and_points(size: KernelSize, device: str):
    box, count = size.box_px, size.slices
    points, matrices = plane_points(box), turns(count)
    stored = float(box * box * (box // 2 + 1))  # coefficients of the volume
    volume = to_device(pairs(box, box, box // 2 + 1), device)
    k = float(count * len(points))
    read = Work(bytes=8 * (stored + k), flops=8 * 4 * k)  # eight corners of complex numbers
    yield "sample_turned", lambda: kernels.sample_turned(volume, matrices, points), read, k / 1e9, "Gpoint/s"
    many = count * len(points)
    coords = to_device(RNG.uniform(-box / 2 + 1, box / 2 - 1, (many, 3)).astype(np.float32), device)
    scattered = Work(bytes=8 * stored + (8 + 12) * k, flops=8 * 4 * k)
    yield "extract_points", lambda: kernels.extract_points(volume, coords), scattered, k / 1e9, "Gpoint/s"
    values, weights = to_device(pairs(count, len(points)), device), to_device(np.abs(noise(count, len(points))), device)
    added = Work(bytes=12 * (stored + k), flops=8 * 6 * k)  # eight corners of data and weight

    def insert_turned():
        return kernels.insert_turned(values, weights, matrices, points, box)

    yield "insert_turned", insert_turned, added, k / 1e9, "Gpoint/s"
    slices = to_device(pairs(count, box, box // 2 + 1), device)
    slice_weights = to_device(np.abs(noise(count, box, box // 2 + 1)), device)
    radii = np.full(count, float(box // 2 - 1))

    def insert_slices():
        return kernels.insert_slices(slices, slice_weights, matrices, box, radius_px=box // 2 - 1)

    def gather_slices():
        return kernels.gather_slices(slices, slice_weights, matrices, box, radii_px=radii)

    yield "insert_slices", insert_slices, added, k / 1e9, "Gpoint/s"
    yield "gather_slices", gather_slices, added, k / 1e9, "Gpoint/s"


def poses(size: KernelSize, device: str):
    box, views, count = size.box_px // 2, min(size.views, 11), size.poses
    points = plane_points(box)
    volume, k = to_device(pairs(box, box, box // 2 + 1), device), float(count * views * len(points))
    matrices = turns(count * views).reshape(count, views, 3, 3)
    tangents = RNG.normal(size=(count, views, 3, 3, 3))
    data = to_device(pairs(count, views, len(points)), device)
    weight = to_device(np.abs(noise(count, views, len(points))), device)
    shifts, rows = RNG.normal(size=(count, views, 3)), np.arange(count)

    def run():
        return kernels.expand_poses(volume, matrices, tangents, points, data, weight, rows, shifts, box)

    work = Work(bytes=12 * k, flops=(8 * 4 * 4 + 28 * 3) * k)  # value and three slopes from eight corners, 28 sums
    yield "expand_poses", run, work, k / 1e9, "Gpoint/s"


def images_and_maps(size: KernelSize, device: str):
    movie = (size.movie_px, size.movie_px)
    pixels, half = float(np.prod(movie)), size.movie_px // 2 + 1
    small, few, box = to_device(noise(34, 34, 34), device), turns(size.rotations), 34
    voxels = size.rotations * float(box) ** 3
    turned = Work(bytes=4 * voxels, flops=16 * voxels)
    yield "rotate_volume", lambda: kernels.rotate_volume(small, few, 17), turned, voxels / 1e9, "Gvox/s"
    spectra = spread((size.frames, size.movie_px, 2 * half), device).view(np.complex64)
    shifts, count = RNG.normal(size=(size.frames, 2)), float(size.frames * size.movie_px * half)
    shifted = Work(bytes=8 * (count + size.movie_px * half), flops=10 * count)

    def phase_shift_accumulate():
        return kernels.phase_shift_accumulate(spectra, shifts, movie)

    yield "phase_shift_accumulate", phase_shift_accumulate, shifted, count / 1e9, "Gpix/s"
    image, table, turn = spread((1, *movie), device)[0], RNG.normal(size=(2, 65, 65)), rotation_z(4.0)[:2, :2]
    warped = Work(bytes=8 * pixels, flops=2 * 36 * pixels)  # six by six values of a spline of degree 5
    yield "warp_accumulate", lambda: kernels.warp_accumulate(image, table), warped, pixels / 1e9, "Gpix/s"
    splined = Work(bytes=8 * pixels, flops=2 * 16 * pixels)  # four by four values

    def sample_spline():
        return kernels.sample_spline(image, turn, [30.0, -30.0], movie)

    yield "sample_spline", sample_spline, splined, pixels / 1e9, "Gpix/s"
    shape = (size.depth_px, size.image_px, size.image_px)
    scores, voxels = spread(shape, device), float(np.prod(shape))
    xp = array_namespace(scores)
    best, index = xp.zeros(shape, np.float32), xp.zeros(shape, np.int32)

    def max_update():
        best[:] = 0
        kernels.max_update(scores, best, index, 3)
        return best

    # the best scores are cleared, both maps are read, half of the places change both results
    yield "max_update", max_update, Work(bytes=(4 + 8 + 4) * voxels, flops=voxels), voxels / 1e9, "Gvox/s"


FAMILIES = (projections, slices_and_points, poses, images_and_maps)


def kernel_cases(size: KernelSize, device: str, families=FAMILIES):
    """One :class:`KernelCase` after another; the data of a family are freed when the next one begins."""
    for family in families:
        for case in family(size, device):
            yield KernelCase(*case)
