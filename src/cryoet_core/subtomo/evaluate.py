"""Results against truth: pose errors without the arbitrary frame of the average, and the best alignment of two maps.

The frame of an average is free: a map turned by Q and moved by c, with A' = A Q and position' = position + A c, describes the
same particles. Errors are given after the best Q and c are removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import irfft_centred
from cryoet_core.geometry import (
    angular_distance_deg,
    euler_to_matrix,
    healpix_directions,
    local_rotations,
    random_rotations,
    so3_grid,
)
from cryoet_core.kernels.sample_points import extract_points
from cryoet_core.subtomo.likelihood import FrequencyList, SeriesImages
from cryoet_core.subtomo.mstep import PAD, Reference
from cryoet_core.subtomo.poses import Poses
from cryoet_core.subtomo.search import SearchPlan, expectation

_CONSENSUS_DEG = 20.0


@dataclass(frozen=True)
class PoseErrors:
    """Errors per particle (n,) after the frame (rotation (3, 3), shift_angst (3,)) of the average is removed.

    ``A_estimated = A_true . rotation`` and ``position_estimated = position_true + A_true . shift_angst``.
    """

    angle_deg: np.ndarray
    position_angst: np.ndarray
    rotation: np.ndarray
    shift_angst: np.ndarray

    @property
    def median_angle_deg(self) -> float:
        return float(np.median(self.angle_deg))

    @property
    def median_position_angst(self) -> float:
        return float(np.median(self.position_angst))


def pose_errors(rotations, positions_angst, true_rotations, true_positions_angst, symmetry=None) -> PoseErrors:
    """Pose errors of matched particles: rotations (n, 3, 3), positions (n, 3) in A, the truth likewise.

    The frame is the one that most particles agree on (within 20 degrees), so wrong particles do not bend it.
    """
    estimated, true = np.asarray(rotations, float), np.asarray(true_rotations, float)
    relative = np.swapaxes(true, 1, 2) @ estimated
    frame = _consensus_rotation(relative, symmetry)
    angle = angular_distance_deg(true @ frame, estimated, symmetry)
    difference = np.asarray(positions_angst, float) - np.asarray(true_positions_angst, float)
    in_frame = np.einsum("nji,nj->ni", true, difference)
    shift = np.median(in_frame[angle <= max(_CONSENSUS_DEG, np.median(angle))], axis=0)
    return PoseErrors(angle, np.linalg.norm(in_frame - shift, axis=1), frame, shift)


def _consensus_rotation(relative, symmetry):
    votes = [np.sum(angular_distance_deg(relative, r, symmetry) < _CONSENSUS_DEG) for r in relative]
    frame = relative[int(np.argmax(votes))]
    operators = np.eye(3)[None] if symmetry is None else np.asarray(symmetry)
    for _ in range(3):
        mates = relative[:, None] @ operators  # the mate of every particle nearest to the frame
        nearest = np.argmax(np.einsum("nsij,ij->ns", mates, frame), axis=1)
        chosen = mates[np.arange(len(relative)), nearest]
        near = angular_distance_deg(chosen, frame) < _CONSENSUS_DEG
        u, _, vt = np.linalg.svd(chosen[near].sum(axis=0))
        frame = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return frame


def match_particles(positions_angst, true_positions_angst, max_distance_angst: float):
    """Pairs (index, true index) of mutual nearest neighbours closer than ``max_distance_angst`` -> two (m,) int64."""
    a, b = np.asarray(positions_angst, float), np.asarray(true_positions_angst, float)
    if len(a) == 0 or len(b) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    nearest = distance.argmin(axis=1)
    mutual = distance.argmin(axis=0)[nearest] == np.arange(len(a))
    index = np.flatnonzero(mutual & (distance[np.arange(len(a)), nearest] < max_distance_angst))
    return index, nearest[index]


@dataclass(frozen=True)
class Alignment:
    """How a map lies against a reference: x_map = rotation . x_reference + shift_px.

    map : the map brought into the reference's frame. correlation : real-space correlation there, inside the sphere.
    """

    map: np.ndarray
    rotation: np.ndarray
    shift_px: np.ndarray
    correlation: float


def align_map_to(volume, reference, max_shell=None, offset_range_px=3.0, seed=0) -> Alignment:
    """Best rigid alignment of ``volume`` to ``reference`` (both (n, n, n), one pixel size) by a full rotation search.

    The map's central slices in 24 directions play the images of one particle, so the search is that of refinement.
    """
    box = volume.shape[0]
    shell = max(3, box // 3) if max_shell is None else max_shell
    rng = np.random.default_rng(seed)
    views = random_rotations(24, rng)
    frequencies = FrequencyList.of_box(box)
    target = Reference.of_map(volume).slices(views, frequencies)[None]
    sliced = Reference.of_map(reference)
    power = [_power(x, frequencies, shell) for x in (target, sliced.slices(views, frequencies)[None])]
    scaled = Reference(sliced.transform * np.float32(np.sqrt(power[0] / power[1])), box)
    sigma2 = np.full((len(views), frequencies.n_shells), power[0] / 1000)
    xp = array_namespace(volume)
    ones = xp.ones(target.shape, dtype=xp.float32)
    images = SeriesImages(np.zeros(1, np.int64), views, target, target, ones, frequencies)
    start = Poses(np.zeros(1, np.int64), np.eye(3)[None], np.zeros((1, 3)), np.zeros(1))
    plan = SearchPlan(shell, box, 0.6 * box, offset_range_px=offset_range_px, offset_sigma_px=10.0, n_candidates=20)
    best = expectation(images, sigma2, scaled, start, plan).best
    moved = resample(volume, best.rotations[0], best.shifts_px[0])
    return Alignment(moved, best.rotations[0], best.shifts_px[0], correlation(moved, reference))


def _power(coefficients, frequencies, shell) -> float:
    n = frequencies.count(shell)
    values = coefficients[..., :n]
    return float((values.real**2 + values.imag**2).sum(dtype=np.float64))


def symmetry_axes(volume, operators, max_shell=None) -> np.ndarray:
    """Rotation Q (3, 3) that turns a map so that its point group lies on the standard axes: volume(Q x) is symmetric.

    The turn whose symmetrised transform keeps the most power in low shells, by a grid of orientations and local refinement.
    """
    n = volume.shape[0]
    last = max_shell or max(3, n // 4)
    transform = Reference.of_map(volume).transform
    axis = np.arange(-last, last + 1)
    k = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    radius = np.linalg.norm(k, axis=1)
    k = k[(radius > 0) & (radius <= last) & (k[:, 0] >= 0)]
    mates = np.einsum("sij,kj->ski", operators, k)

    def kept(turn):
        coords = (mates @ turn.T).reshape(-1, 3)
        values = asnumpy(extract_points(transform, coords.astype(np.float32), PAD)).reshape(len(operators), -1)
        return float(np.sum(np.abs(values.sum(axis=0)) ** 2))

    if np.allclose(np.asarray(operators)[:, 2, 2], 1):  # Cn: only the direction of the axis matters
        candidates = [euler_to_matrix(rot, tilt, 0.0).T for rot, tilt in healpix_directions(3)]
    else:
        candidates = so3_grid(2)
    best = max(candidates, key=kept)
    for step in (4.0, 1.5, 0.5):
        best = max(best @ local_rotations(1.8 * step, step), key=kept)
    return best


def resample(volume, rotation, shift_px):
    """volume(rotation . x + shift_px) on the same grid, by Fourier interpolation. rotation (3, 3), shift_px (x, y, z)."""
    n = volume.shape[0]
    return resample_map(volume, 1.0, n, 1.0, rotation, shift_px)


def resample_map(volume, pixel_size_angst, box_px, new_pixel_size_angst, rotation=None, shift_px=(0, 0, 0)):
    """A map on another grid: any box, any pixel size (exactly), optionally turned and moved.

    new(x) = volume(rotation . x + shift), x in A from index n//2; shift_px in new pixels. Frequencies beyond the old Nyquist
    limit are zero; densities per voxel keep their value.
    """
    xp = array_namespace(volume)
    n = volume.shape[0]
    transform = Reference.of_map(volume).transform
    axis = fft_module(np).fftfreq(box_px, 1 / box_px)
    half = np.arange(box_px // 2 + 1)
    kz, ky, kx = np.meshgrid(axis, axis, half, indexing="ij")
    k = np.stack([kx, ky, kz], axis=-1).reshape(-1, 3)
    usable = np.all(np.abs(k) < box_px / 2, axis=1)
    if rotation is not None:
        k = k @ np.asarray(rotation, float).T
    scale = n * pixel_size_angst / (box_px * new_pixel_size_angst)
    coords = k * scale
    usable &= np.linalg.norm(coords, axis=1) <= n / 2
    values = extract_points(transform, xp.asarray(coords, dtype=xp.float32), PAD)
    phase = np.exp(2j * np.pi / box_px * (k @ np.asarray(shift_px, float))) * usable
    factor = (pixel_size_angst / new_pixel_size_angst) ** 3
    spectrum = (values * xp.asarray(phase * factor, dtype=xp.complex64)).reshape(box_px, box_px, -1)
    return irfft_centred(spectrum, (box_px,) * 3, 3).astype(xp.float32)


def mirror(volume):
    """The other hand: z -> -z about index n//2 (even boxes lose their first plane to zero)."""
    xp = array_namespace(volume)
    flipped = xp.zeros_like(volume)
    flipped[1:] = volume[:0:-1]
    if volume.shape[0] % 2:
        flipped = volume[::-1].copy()
    return flipped


def correlation(a, b, mask=None) -> float:
    """Pearson correlation of two maps, inside the inscribed sphere or a mask."""
    a, b = asnumpy(a).astype(np.float64), asnumpy(b).astype(np.float64)
    if mask is None:
        axis = np.arange(a.shape[0]) - a.shape[0] // 2
        mask = sum(np.meshgrid(axis**2, axis**2, axis**2)) < (a.shape[0] / 2) ** 2
    inside = asnumpy(mask) > 0.5
    return float(np.corrcoef(a[inside], b[inside])[0, 1])

