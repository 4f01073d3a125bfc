"""Poses of particles: priors, continuous refinement on the likelihood, and posterior weights of several modes.

All six parameters are refined by damped Gauss-Newton steps (Levenberg-Marquardt) on the log posterior; rotations turn about
the tomogram's axes. The curvature gives Laplace's approximation of a mode's weight, log w = log L - 1/2 log det H, and the
expected error of the pose, so that no simulation of the accuracy is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoet_core.backend import asnumpy, tile_size
from cryoet_core.geometry import angular_distance_deg, rotation_vector_to_matrix
from cryoet_core.kernels.expand_poses import expand_poses
from cryoet_core.subtomo.likelihood import image_shifts, log_sum_exp

_MAX_TURN_DEG, _MAX_MOVE_PX = 10.0, 1.0  # largest Gauss-Newton step
_GAIN = 0.005  # nats: a pose is not moved on for less (a tenth of its uncertainty)
_SAME_DEG, _SAME_PX = 2.0, 0.5  # modes closer than this are one
_TAIL, _PROPOSAL = 8, 1.3  # degrees of freedom and width, in a mode's own sigmas, of what samples of the posterior are drawn from
_WIDEST = 2 * np.pi / (8 * np.pi**2) ** (2 / 3)  # curvature, 1/rad^2, of a Gaussian whose integral is that of all rotations


@dataclass(frozen=True)
class Poses:
    """Candidate poses, several per particle. particle (M,) int64 (0..P-1, sorted), rotations (M, 3, 3), shifts_px (M, 3)
    in tomogram axes relative to the images' present centre, score (M,) log-likelihood plus prior."""

    particle: np.ndarray
    rotations: np.ndarray
    shifts_px: np.ndarray
    score: np.ndarray

    def take(self, index) -> Poses:
        return Poses(self.particle[index], self.rotations[index], self.shifts_px[index], self.score[index])


@dataclass(frozen=True)
class Posterior:
    """Modes of the posterior and one row per particle.

    poses : the kept modes, best first within a particle; weight (M,) sums to 1 within a particle.
    covariance (M, 6, 6) of every mode (rotation vector about the tomogram's axes in rad, shift in px), from the curvature.
    log_likelihood (P,) of the best mode against "no particle"; max_probability (P,) its weight; angle_error_deg,
    shift_error_px (P,) expected errors of the best mode. log_evidence (P,) : log probability of the images with a particle in
    any pose, against none at all; near or below zero where the images hold no pose.
    """

    poses: Poses
    weight: np.ndarray
    covariance: np.ndarray
    log_likelihood: np.ndarray
    max_probability: np.ndarray
    angle_error_deg: np.ndarray
    shift_error_px: np.ndarray
    log_evidence: np.ndarray

    @property
    def best(self) -> Poses:
        return self.poses.take(self.first)

    @property
    def first(self) -> np.ndarray:
        """(P,) index of every particle's best mode."""
        return np.searchsorted(self.poses.particle, np.arange(self.log_likelihood.size))

    def mean_square_offset_px2(self) -> float:
        """Expected square of one component of the offsets over all particles, uncertainty included."""
        square = np.sum(self.poses.shifts_px**2, axis=1) + np.einsum("mii->m", self.covariance[:, 3:, 3:])
        return float(np.sum(self.weight * square) / (3 * max(self.log_likelihood.size, 1)))


@dataclass(frozen=True)
class PosePrior:
    """Gaussian priors of the offsets from where the particles were picked and, optionally, of their orientations.

    centre_px : (P, 3) present offsets (the shifts of a search are added to them); sigma_px : one width.
    rotations : (P, 3, 3) expected orientations (of the picks), or None; sigma_deg : width of each component of the rotation
    vector away from them. symmetry : (n, 3, 3) operators; the nearest mate of the expected orientation counts.
    """

    centre_px: np.ndarray
    sigma_px: float
    rotations: np.ndarray | None = None
    sigma_deg: float = np.inf
    symmetry: np.ndarray | None = None

    @property
    def has_orientations(self) -> bool:
        return self.rotations is not None and np.isfinite(self.sigma_deg)

    @property
    def log_volume(self) -> float:
        """Log of the prior's volume (rad^3 px^3): what a mode's Laplace integral is divided by.

        All rotations have 8 pi^2 rad^3, shared by the symmetry mates.
        """
        turns = np.log(8 * np.pi**2 / (1 if self.symmetry is None else len(self.symmetry)))
        if self.has_orientations:
            turns = min(turns, 1.5 * np.log(2 * np.pi * np.deg2rad(self.sigma_deg) ** 2))
        return float(turns + 1.5 * np.log(2 * np.pi * self.sigma_px**2))

    def log(self, particle, shifts_px):
        """Log prior of total offsets for particles (...,) and shifts (..., 3)."""
        total = self.centre_px[particle] + shifts_px
        return -0.5 * np.sum(total * total, axis=-1) / self.sigma_px**2

    def turned(self, particle, rotations):
        """Rotation vectors (rad) (M, 3) from the expected orientations of ``particle`` (M,) to ``rotations`` (M, 3, 3)."""
        expected = self.rotations[particle]
        if self.symmetry is not None and len(self.symmetry) > 1:
            mates = expected[:, None] @ self.symmetry
            nearest = np.einsum("msij,mij->ms", mates, rotations).argmax(axis=1)
            expected = mates[np.arange(len(mates)), nearest]
        return Rotation.from_matrix(rotations @ np.swapaxes(expected, 1, 2)).as_rotvec().reshape(-1, 3)

    def log_rotation(self, particle, rotations):
        """Log prior of orientations (M,)."""
        if not self.has_orientations:
            return np.zeros(len(rotations))
        return -0.5 * np.sum(self.turned(particle, rotations) ** 2, axis=1) / np.deg2rad(self.sigma_deg) ** 2

    def log_grid(self, orientations):
        """Log prior of shared orientations (O, 3, 3) for all particles -> (P, O) float32."""
        n, mates = len(self.rotations), np.eye(3)[None] if self.symmetry is None else self.symmetry
        traces = [self.rotations.reshape(n, 9) @ (orientations @ np.linalg.inv(s)).reshape(-1, 9).T for s in mates]
        angle = np.arccos(np.clip((np.max(traces, axis=0) - 1) / 2, -1, 1))
        return (-0.5 * angle**2 / np.deg2rad(self.sigma_deg) ** 2).astype(np.float32)


@dataclass(frozen=True)
class _Expansion:
    """Log posterior, gradient (M, 6) and Gauss-Newton Hessian (M, 6, 6); parameters: rotation vector (rad), shift (px)."""

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray

    def take(self, index) -> _Expansion:
        return _Expansion(self.value[index], self.gradient[index], self.hessian[index])

    def put(self, index, other: _Expansion):
        """Put ``other`` in the place of some poses."""
        self.value[index], self.gradient[index], self.hessian[index] = other.value, other.gradient, other.hessian


def _expand(images, reference, poses: Poses, prior) -> _Expansion:
    """Second-order expansion of the log posterior at every pose."""
    frequencies, views = images.frequencies, images.view_rotations
    matrices, tangents = reference.turning(views, poses.rotations)
    moved = image_shifts(views, poses.shifts_px)
    arguments = (images.data, images.weight, poses.particle, moved, frequencies.box_px)
    sums = asnumpy(expand_poses(reference.transform, matrices, tangents, frequencies.points, *arguments))
    value, gradient, hessian = _assembled(sums, np.asarray(views) * (2 * np.pi / frequencies.box_px))
    gradient[:, 3:] -= (prior.centre_px[poses.particle] + poses.shifts_px) / prior.sigma_px**2
    hessian[:, [3, 4, 5], [3, 4, 5]] += 1 / prior.sigma_px**2
    value = value + prior.log(poses.particle, poses.shifts_px)
    if prior.has_orientations:
        turned, precision = prior.turned(poses.particle, poses.rotations), 1 / np.deg2rad(prior.sigma_deg) ** 2
        value = value - 0.5 * precision * np.sum(turned**2, axis=1)
        gradient[:, :3] -= precision * turned
        hessian[:, [0, 1, 2], [0, 1, 2]] += precision
    return _Expansion(value, gradient, hessian)


def _assembled(sums, phases_per_px):
    """Value (M,), gradient (M, 6), curvature (M, 6, 6) over all views from the sums of :func:`.expand_poses.expand_poses`.

    phases_per_px : (F, 3, 3), view rotations times 2 pi / box: what a shift in tomogram axes does to the phase of one cycle.
    """
    total = sums.sum(axis=1)
    gradient, hessian = np.empty((len(sums), 6)), np.empty((len(sums), 6, 6))
    gradient[:, :3] = total[:, 1:4]
    gradient[:, 3:] = np.einsum("mfa,fas->ms", sums[:, :, 4:7], phases_per_px)
    hessian[:, :3, :3] = _symmetric(total[:, 7:13])
    hessian[:, :3, 3:] = np.einsum("mfta,fas->mts", sums[:, :, 13:22].reshape(*sums.shape[:2], 3, 3), phases_per_px)
    hessian[:, 3:, :3] = hessian[:, :3, 3:].swapaxes(1, 2)
    hessian[:, 3:, 3:] = np.einsum("mfab,fas,fbt->mst", _symmetric(sums[:, :, 22:28]), phases_per_px, phases_per_px)
    return total[:, 0], gradient, hessian


def _symmetric(six):
    """(..., 3, 3) from its entries 00, 01, 02, 11, 12, 22."""
    return six[..., [[0, 1, 2], [1, 3, 4], [2, 4, 5]]]


def _damped_step(expansion: _Expansion, damping):
    """Levenberg-Marquardt step, limited in angle and length -> (M, 6)."""
    diagonal = np.einsum("mii->mi", expansion.hessian)
    ridge = damping[:, None] * diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-12
    system = expansion.hessian + ridge[:, :, None] * np.eye(6)
    step = np.linalg.solve(system, expansion.gradient[..., None])[..., 0]
    turn = np.rad2deg(np.linalg.norm(step[:, :3], axis=1, keepdims=True))
    move = np.linalg.norm(step[:, 3:], axis=1, keepdims=True)
    step[:, :3] *= np.minimum(1, _MAX_TURN_DEG / np.maximum(turn, 1e-9))
    step[:, 3:] *= np.minimum(1, _MAX_MOVE_PX / np.maximum(move, 1e-9))
    return step


def refine_poses(images, reference, poses: Poses, prior, n_steps=4, memory_mb=200.0):
    """Climb the log posterior from every pose by ``n_steps`` at most -> (Poses, Hessians (M, 6, 6)); a step that does not climb is taken back."""
    bytes_per_pose = 8 * len(images.view_rotations) * (120 + len(images.frequencies) // 8)
    size = tile_size(len(poses.score), bytes_per_pose, memory_mb)
    parts = [poses.take(slice(s, s + size)) for s in range(0, len(poses.score), size)]
    done = [_climb(images, reference, part, prior, n_steps) for part in parts]
    fields = ("particle", "rotations", "shifts_px", "score")
    merged = Poses(*(np.concatenate([getattr(d[0], f) for d in done]) for f in fields))
    return merged, np.concatenate([d[1] for d in done])


def _climb(images, reference, poses, prior, n_steps):
    best, damping = _expand(images, reference, poses, prior), np.full(len(poses.score), 1e-2)
    rotations, shifts = poses.rotations.copy(), poses.shifts_px.copy()
    going = np.arange(len(poses.score))
    for _ in range(n_steps):
        step = _damped_step(best.take(going), damping[going])
        worth = np.einsum("mi,mi->m", step, best.gradient[going]) > 2 * _GAIN
        going, step = going[worth], step[worth]
        if going.size == 0:
            break
        turned = rotation_vector_to_matrix(np.rad2deg(step[:, :3])) @ rotations[going]
        trial = Poses(poses.particle[going], turned, shifts[going] + step[:, 3:], best.value[going])
        new = _expand(images, reference, trial, prior)
        better = new.value > best.value[going]
        rose = going[better]
        rotations[rose], shifts[rose] = trial.rotations[better], trial.shifts_px[better]
        damping[going] *= np.where(better, 0.2, 10)
        best.put(rose, new.take(better))
    return Poses(poses.particle, rotations, shifts, best.value), best.hessian


def weigh_modes(
    poses: Poses, hessians, n_particles: int, n_keep=3, least=0.01, symmetry=None, log_prior_volume=0.0
) -> Posterior:
    """Posterior weights of refined poses by Laplace's approximation; duplicates and unlikely modes are dropped.

    ``max_probability`` is the best mode's share among all distinct modes, before any is dropped.
    """
    # a mode without any curvature in angle is as wide as all rotations, never wider
    eigenvalues = np.maximum(np.linalg.eigvalsh(hessians + np.diag([_WIDEST, _WIDEST, _WIDEST, 0, 0, 0])), 1e-6)
    log_volume = 3 * np.log(2 * np.pi) - 0.5 * np.log(eigenvalues).sum(axis=1) - log_prior_volume
    log_weight = poses.score + log_volume
    covariance = np.linalg.inv(hessians + 1e-6 * np.eye(6))
    turn = np.rad2deg(np.sqrt(np.clip(np.einsum("mii->m", covariance[:, :3, :3]), 0, np.pi**2)))
    move = np.sqrt(np.clip(np.einsum("mii->m", covariance[:, 3:, 3:]), 0, 1e4))
    keep, weight, probability, evidence = [], [], np.ones(n_particles), np.zeros(n_particles)
    for p in range(n_particles):
        mine = np.flatnonzero(poses.particle == p)
        mine = mine[np.argsort(-log_weight[mine], kind="stable")]
        chosen = _distinct(poses, mine, symmetry)
        total = log_sum_exp(log_weight[chosen], 0)
        # overlapping wide modes together are never wider than the prior
        evidence[p] = total - max(0.0, float(log_sum_exp(log_volume[chosen], 0)))
        share = np.exp(log_weight[chosen] - total)
        chosen, share, probability[p] = chosen[:n_keep], share[:n_keep], share[0]
        enough = share >= min(least, share.max())
        keep += list(np.array(chosen)[enough])
        weight += list(share[enough] / share[enough].sum())
    keep = np.array(keep, dtype=np.int64)
    kept = poses.take(keep)
    first = np.searchsorted(kept.particle, np.arange(n_particles))
    weight = np.array(weight)
    best = keep[first]
    return Posterior(kept, weight, covariance[keep], kept.score[first], probability, turn[best], move[best], evidence)


def mean_square_distance(images, reference, posterior: Posterior, prior, samples: int, rng):
    """How far from its best mode a particle's pose lies on average under the true posterior, over what the mode's Gaussian says -> (P,).

    The mean of the squared Mahalanobis distance over six, 1 for a Gaussian, by importance sampling of the log posterior around the mode. A
    dim particle's log posterior is no parabola within its own width: distances over which slices turn by more than a radian of their finest
    phases bring side maxima, and what lies in these is missing from the curvature at the maximum.
    """
    first = posterior.first
    n, best, root = first.size, posterior.best, np.linalg.cholesky(posterior.covariance[first])
    z = _PROPOSAL * rng.standard_normal((n, samples, 6)) * np.sqrt(_TAIL / rng.chisquare(_TAIL, (n, samples, 1)))
    square = np.sum(z**2, axis=2)
    steps = np.einsum("pij,pkj->pki", root, z).reshape(-1, 6)
    particle = np.repeat(best.particle, samples)
    rotations = rotation_vector_to_matrix(np.rad2deg(steps[:, :3])) @ np.repeat(best.rotations, samples, axis=0)
    poses = Poses(particle, rotations, np.repeat(best.shifts_px, samples, axis=0) + steps[:, 3:], np.zeros(len(particle)))
    value = refine_poses(images, reference, poses, prior, n_steps=0)[0].score.reshape(n, samples)
    log_weight = value + (_TAIL + 6) / 2 * np.log1p(square / (_PROPOSAL**2 * _TAIL))
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    return np.sum(weight * square, axis=1) / weight.sum(axis=1) / 6


def best_of(posterior: Posterior, particles) -> Posterior:
    """Only the best modes of ``particles`` (n,), which become 0 .. n-1."""
    first, names = posterior.first[particles], ("log_likelihood", "max_probability", "angle_error_deg", "shift_error_px", "log_evidence")
    poses = replace(posterior.poses.take(first), particle=np.arange(len(first)))
    rows = {name: getattr(posterior, name)[particles] for name in names}
    return Posterior(poses, np.ones(len(first)), posterior.covariance[first], **rows)


def widened(posterior: Posterior, factor: float) -> Posterior:
    """The same modes with ``factor`` times their covariance."""
    errors = {name: getattr(posterior, name) * np.sqrt(factor) for name in ("angle_error_deg", "shift_error_px")}
    return replace(posterior, covariance=posterior.covariance * factor, **errors)


def _distinct(poses, order, symmetry):
    chosen = []
    for m in order:
        others = np.array(chosen, dtype=np.int64)
        if others.size:
            angle = angular_distance_deg(poses.rotations[others], poses.rotations[m], symmetry)
            far = np.linalg.norm(poses.shifts_px[others] - poses.shifts_px[m], axis=1) > _SAME_PX
            if not np.all((angle > _SAME_DEG) | far):
                continue
        chosen.append(int(m))
    return chosen


def join_posteriors(parts: list[Posterior]) -> Posterior:
    """One posterior of consecutive groups of particles; particles are renumbered in order."""
    first = np.cumsum([0] + [p.log_likelihood.size for p in parts])
    poses = Poses(
        np.concatenate([p.poses.particle + f for p, f in zip(parts, first, strict=False)]),
        *(np.concatenate([getattr(p.poses, name) for p in parts]) for name in ("rotations", "shifts_px", "score")),
    )
    names = ("weight", "covariance", "log_likelihood", "max_probability", "angle_error_deg", "shift_error_px", "log_evidence")
    return Posterior(poses, *(np.concatenate([getattr(p, name) for p in parts]) for name in names))
