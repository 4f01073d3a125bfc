"""Every kernel on every device against a plain float64 reference.

Devices: "cpu" numba; "cuda source" = the GPU module and its CUDA source, compiled by g++ and run on host arrays;
"gpu" = CuPy on a real device. The two last are skipped, visibly, where they cannot run.
"""

from __future__ import annotations

import numpy as np
import pytest
import references
from devices import DEVICES, on_device

from cryoet_core import kernels

TOLERANCE = 1e-5  # relative to the root mean square of the reference


def rng(seed=1):
    return np.random.default_rng(seed)


def random_rotations(n, seed=2):
    matrices = np.linalg.qr(rng(seed).normal(size=(n, 3, 3)))[0]
    return matrices * np.linalg.det(matrices)[:, None, None]


def tilt_rotations(tilts_deg, axis_deg):
    a = np.deg2rad(axis_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return np.array([turn @ references.tilt_matrix(t) for t in tilts_deg])


def real(shape, seed=3):
    return rng(seed).normal(size=shape).astype(np.float32)


def complex_(shape, seed=4):
    pairs = rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    return pairs.view(np.complex64)[..., 0]


def hermitian_ft(n, seed=5):
    """Centred half transform of a real random cube."""
    return np.fft.fftshift(np.fft.rfftn(real((n, n, n), seed)), axes=(0, 1)).astype(np.complex64)


def back_project_cases():
    shapes = [
        ((3, 12, 10), (5, 7, 9), 0.0),
        ((2, 9, 40), (6, 8, 70), 85.0),
        ((4, 33, 8), (3, 37, 5), -40.0),
        ((1, 1, 1), (1, 1, 1), 0.0),
        ((2, 16, 16), (1, 16, 1), 90.0),
        ((5, 50, 60), (2, 50, 60), 0.0),
    ]
    for number, (images, shape, axis) in enumerate(shapes):
        n = images[0]
        geometry = tilt_rotations(np.linspace(-60, 63, n) if n > 1 else [0.0], axis)
        if number % 2 == 1:
            geometry = geometry @ random_rotations(1)[0]
        shifts = rng(number).normal(size=(n, 2)) * (number % 3)
        weights = rng(number).uniform(0.5, 2, n)
        yield (real(images), geometry, shifts, weights, shape), {"centre_offset_px": (0.5 * number, -1, 2)}
        if number in (0, 1, 2, 5):
            windows = np.stack([rng(number).normal(size=n) * 3, rng(number + 1).uniform(0.7, 6, n)], axis=1)
            windows[0] = 0.0, np.inf
            yield (
                (real(images), geometry, shifts, weights, shape),
                {"centre_offset_px": (0.5 * number, -1, 2), "depth_windows": windows},
            )


def forward_project_cases():
    for (images, geometry, shifts, _, shape), keywords in back_project_cases():
        if "depth_windows" not in keywords:
            yield (real(shape), geometry, shifts, images.shape[1:]), keywords


def aligned_cases():
    for number, (n, h, shape) in enumerate(
        [(3, 10, (5, 9, 12)), (4, 70, (6, 70, 7)), (1, 1, (1, 1, 1)), (2, 131, (3, 67, 20)), (2, 5, (35, 8, 150))]
    ):
        tilts = np.linspace(-65, 60, n) if n > 1 else [0.0]
        w = (11, 8, 1, 30, 90)[number]
        keywords = {"shifts_px": rng(number).normal(size=n), "centre_offset_px": (0.25, number % 3, -1.5)}
        yield n, w, h, tilts, shape, keywords


def back_project_aligned_cases():
    for n, w, h, tilts, shape, keywords in aligned_cases():
        yield (real((n, w, h)), tilts, shape), {"weights": rng(7).uniform(0.5, 2, n), **keywords}
        windows = np.stack([rng(8).normal(size=n) * 3, rng(9).uniform(0.7, 6, n)], axis=1)
        yield (real((n, w, h)), tilts, shape), {"weights": np.ones(n), **keywords, "depth_windows": windows}
        yield (real((n, 3 * w, h)), tilts, shape), {"weights": np.ones(n), **keywords, "samples_per_px": 3}


def forward_project_aligned_cases():
    for _, w, h, tilts, shape, keywords in aligned_cases():
        yield (real(shape), tilts, (h, w)), keywords


def extract_points_cases():
    for n, pad in [(8, 1), (9, 1), (12, 2)]:
        coords = rng(8).uniform(-n / 2 - 1, n / 2 + 1, (200, 3)).astype(np.float32)
        yield (hermitian_ft(n), coords), {"pad": pad}


def turned_lists():
    """(box, matrices, points): in the plane and in space, oversampled, scaled, up to the border and beyond it."""
    plane, space = rng(20).integers(-3, 4, (40, 3)), rng(21).integers(-3, 4, (60, 3))
    plane[:, 2] = 0
    yield 12, random_rotations(3), plane
    yield 12, 1.7 * random_rotations(2, 22), space
    yield 9, random_rotations(2, 23), space
    yield 8, 1.3 * random_rotations(3, 24), space + 0.25


def sample_turned_cases():
    yield (hermitian_ft(8), np.eye(3)[None], rng(30).integers(-4, 5, (60, 3)).astype(float)), {}  # on the voxels themselves
    for n, matrices, points in turned_lists():
        yield (hermitian_ft(n), matrices, points.astype(float)), {}


def expand_poses_cases():
    for n, matrices, points in turned_lists():
        points = points[np.any(points != 0, axis=1)]
        points = points[np.all(points == np.rint(points), axis=1)].astype(float)  # the origin lies on walls of cells, where there is no slope
        if not len(points):
            continue
        for repeat in (1, 5):  # more points than one thread of a GPU takes
            listed = np.tile(points, (repeat, 1))
            shape = (2, 1, len(listed))
            data, weight = complex_(shape), rng(27).uniform(0, 1, shape).astype(np.float32)
            particle, shifts = rng(28).integers(0, 2, len(matrices)), rng(29).normal(size=(len(matrices), 1, 3))
            tangents = rng(25).normal(size=(len(matrices), 1, 3, 3, 3))
            yield (hermitian_ft(n), matrices[:, None], tangents, listed, data, weight, particle, shifts, 14), {}


def insert_turned_cases():
    for n, matrices, points in turned_lists():
        values = complex_((len(matrices), len(points)))
        weights = rng(26).uniform(0, 1, values.shape).astype(np.float32)
        values[0, 3], weights[0, 3] = 0, 0
        yield (values, weights, matrices, points.astype(float), n), {}


def insert_slices_cases():
    for n, pad, radius in [(8, 1, 3), (11, 1, 4), (9, 1, 4), (8, 2, 3), (8, 2, 4), (6, 1, 3), (1, 1, 0)]:
        turns = np.concatenate([np.eye(3)[None], random_rotations(3)])
        slices = complex_((4, n, n // 2 + 1))
        weights = rng(9).uniform(0, 1, slices.shape).astype(np.float32)
        weights[1], slices[1] = 0, 0
        yield (slices, weights, turns, n), {"radius_px": radius, "pad": pad}
    for scale in (0.4, 1.7):
        slices = complex_((4, 10, 6))
        weights = rng(10).uniform(0, 1, slices.shape).astype(np.float32)
        yield (slices, weights, scale * turns, 10), {"radius_px": 5}


def gather_slices_cases():
    turns = np.concatenate([np.eye(3)[None], random_rotations(3)])
    for n, size, pad, radii in [(8, 8, 1, [3, 4, 2, 4]), (8, 8, 2, [4, 1, 3.5, 5]), (9, 12, 1, [6, 6, 0, 5]), (1, 2, 1, [0] * 4)]:
        slices = complex_((4, size, size // 2 + 1))
        weights = rng(9).uniform(0, 1, slices.shape).astype(np.float32)
        yield (slices, weights, turns, n), {"radii_px": np.array(radii, float), "pad": pad}


def rotate_volume_cases():
    turns = np.concatenate([np.eye(3)[None], random_rotations(2)])
    for shape, radius in [((8, 8, 8), None), ((9, 9, 9), 3.5), ((5, 8, 41), None), ((1, 1, 1), None), ((1, 6, 3), 2)]:
        yield (real(shape), turns), {"radius_px": radius}
    for scale in (0.5, 2.0):
        yield (real((10, 10, 10)), scale * turns), {"radius_px": None}
    for shape, box in [((12, 12, 12), (5, 5, 5)), ((6, 7, 8), (9, 10, 4)), ((4, 4, 4), (1, 12, 3))]:
        yield (real(shape), 1.6 * turns), {"radius_px": 4, "box": box}


def phase_shift_accumulate_cases():
    for n, h, w in [(3, 8, 10), (2, 7, 9), (1, 1, 1), (4, 70, 6)]:
        spectra = complex_((n, h, w // 2 + 1))
        yield (spectra, rng(n).normal(size=(n, 2)) * 4, (h, w)), {"weights": rng(n).uniform(0.5, 1, n)}


def warp_accumulate_cases():
    for (h, w), (gy, gx) in [((20, 17), (3, 4)), ((9, 30), (1, 1)), ((1, 1), (1, 1)), ((3, 5), (2, 1)), ((70, 8), (5, 2))]:
        yield (real((h, w)), rng(h).normal(size=(2, gy, gx)) * 4), {}


def sample_spline_cases():
    for (h, w), shape, angle, offset in [((9, 12), (10, 14), 0.0, (0, 0)), ((12, 7), (15, 15), 50.0, (3.3, -4)), ((8, 8), (9, 20), -85.0, (9, 1.5)),
                                         ((1, 1), (3, 3), 180.0, (1, 1)), ((20, 6), (7, 7), 135.0, (40, 3))]:  # fmt: skip
        a = np.deg2rad(angle)
        matrix = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) * (1.0 if h < 12 else 1.6)
        yield (real((h, w)), matrix, np.array(offset, float), shape), {}


CASES = {
    "back_project": back_project_cases,
    "back_project_aligned": back_project_aligned_cases,
    "forward_project": forward_project_cases,
    "forward_project_aligned": forward_project_aligned_cases,
    "extract_points": extract_points_cases,
    "sample_turned": sample_turned_cases,
    "expand_poses": expand_poses_cases,
    "insert_turned": insert_turned_cases,
    "insert_slices": insert_slices_cases,
    "gather_slices": gather_slices_cases,
    "rotate_volume": rotate_volume_cases,
    "phase_shift_accumulate": phase_shift_accumulate_cases,
    "warp_accumulate": warp_accumulate_cases,
    "sample_spline": sample_spline_cases,
}
COMPLEX = ("extract_points", "sample_turned", "phase_shift_accumulate")
PARAMETERS = [
    pytest.param(kernel, args, keywords, id=f"{kernel.name}-{number}")
    for kernel in kernels.KERNELS
    if kernel.name in CASES
    for number, (args, keywords) in enumerate(CASES[kernel.name]())
]


def assert_close(found, expected, dtype):
    assert found.dtype == dtype and found.shape == expected.shape
    scale = np.sqrt(np.mean(np.abs(expected) ** 2)) or 1.0
    assert np.abs(found - expected).max() <= TOLERANCE * scale * 5, "largest error"
    assert np.sqrt(np.mean(np.abs(found - expected) ** 2)) <= TOLERANCE * scale, "rms error"


def test_every_kernel_has_a_test():
    assert {k.name for k in kernels.KERNELS} == {*CASES, "max_update"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("kernel", "args", "keywords"), PARAMETERS)
def test_kernel_equals_reference(kernel, args, keywords, device):
    expected = getattr(references, kernel.name)(*args, **keywords)
    with on_device(device) as to:
        found = to.host(kernel.contract(to.device(args[0]), *to.arguments(kernel, args[1:]), **keywords))
    if kernel.name in ("insert_slices", "insert_turned", "gather_slices"):
        assert_close(found[0], expected[0], "complex64")
        assert_close(found[1], expected[1], "float32")
    elif kernel.name == "expand_poses":
        for part in ((0,), range(1, 4), range(4, 7), range(7, 13), range(13, 22), range(22, 28)):  # each has its own unit
            assert_close(found[..., part], expected[..., part], "float64")
    else:
        assert_close(found, expected, "complex64" if kernel.name in COMPLEX else "float32")
