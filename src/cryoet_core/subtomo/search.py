"""The expectation step: every particle's most likely poses, from coarse to fine.

1. Where: all shifts of the range with few orientations, at a resolution that the coarse grid can resolve; left out when the shifts are few.
2. How: the full grid of orientations with the shifts around what was found; the best distinct orientations that
   could still win are kept: few for a clear particle, up to ``n_candidates`` for a dim one.
3. Exactly: these are refined in all six parameters (:mod:`.poses`) on a ladder of resolutions, each half as fine again as the one before.
   On every rung the modes that are still significant go on, fewer each time, so that the many-candidate rungs are cheap ones.

The resolution of a grid search is tied to the grid (a peak finer than the grid would be missed): 1.2 times the arc of half a step at
the rim of the particle. Coarser is safer for one particle's peak but tells orientations apart less: with the rim's own radian as the
limit most poses of dim particles were lost in the search, not in the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from cryoet_core.backend import array_namespace, asnumpy, is_gpu_array, tile_size
from cryoet_core.geometry import angular_distance_deg, local_rotations, so3_grid
from cryoet_core.kernels.threads import for_blocks
from cryoet_core.subtomo.likelihood import SeriesImages, WhitenedImages, log_likelihoods, shift_phases, whiten
from cryoet_core.subtomo.poses import (
    PosePrior,
    Poses,
    Posterior,
    best_of,
    join_posteriors,
    mean_square_distance,
    refine_poses,
    weigh_modes,
    widened,
)

_RUNG = 1.5  # ratio of the resolutions of two rungs of the ladder
_MODES = 6  # poses of one particle that may enter the map
_SIGNIFICANT = 1e-6  # modes below this posterior weight do not reach the next rung
_FEW_SHIFTS = 60
_MARGIN_NATS, _MARGIN_SHARE = 12.0, 0.4  # grid points so far below the best (or by this share of it) are no candidates
_SAMPLED, _SAMPLES = 64, 16  # particles whose posterior is sampled to know how wide it is, and samples of each
_LAST_STEPS = 12  # of continuous refinement at the finest resolution; most poses need two or three, a few of a hundred more than four
_CHUNK = 64  # particles of one parallel job; fixed, so that results do not depend on the number of threads


def translation_grid(range_px: float, step_px: float) -> np.ndarray:
    """3-D shifts n * step inside a ball of ``range_px`` -> (T, 3), the origin first."""
    count = int(np.floor(range_px / step_px + 1e-6))
    axis = np.arange(-count, count + 1) * float(step_px)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(grid, axis=1)
    keep = length <= range_px + 1e-6
    return grid[keep][np.argsort(length[keep], kind="stable")]


@dataclass(frozen=True)
class SearchPlan:
    """How to search.

    max_shell : finest shell used; box_angst : edge of the box; diameter_angst : of the particle.
    step_deg : spacing of the orientation grid (global) or of the local grid. range_deg : None for a global search; half
    width of the local grid; 0 for no grid at all (only continuous refinement of the present pose).
    offset_range_px, offset_step_px : shifts searched around the present offset. offset_sigma_px : width of their prior;
    orientation_sigma_deg : width of the prior around the expected orientations, where they are given.
    symmetry : (n, 3, 3) operators. relaxed : (n, 3, 3) operators that nearly hold, or None: poses that they relate are tried
    one against another. likelihood : of :func:`~.likelihood.whiten`.
    """

    max_shell: int
    box_angst: float
    diameter_angst: float
    step_deg: float = 15.0
    range_deg: float | None = None
    offset_range_px: float = 5.0
    offset_step_px: float = 1.0
    offset_sigma_px: float = 2.5
    orientation_sigma_deg: float = np.inf
    n_candidates: int = 48
    symmetry: np.ndarray | None = None
    relaxed: np.ndarray | None = None
    likelihood: str = "exact"
    memory_mb: float = 600.0

    def grid_shell(self, step_deg: float) -> int:
        """Finest shell that a grid of ``step_deg`` can resolve."""
        rim_angst = np.pi * self.diameter_angst * step_deg / 360
        return int(np.clip(np.rint(self.box_angst / (1.2 * rim_angst)), 3, self.max_shell))

    def ladder(self, coarse: int) -> list[tuple[int, int]]:
        """(shell, modes kept) of the rungs between the grid's resolution and the finest one."""
        rungs, shell, keep = [], coarse, max(_MODES, self.n_candidates // 2)
        while shell < self.max_shell:
            rungs.append((shell, keep))
            shell, keep = int(np.ceil(_RUNG * shell)), max(_MODES, keep // 3)
        return rungs

    def shift_step(self, box_px: int, shell: int) -> float:
        """Step of the shifts that matches ``shell``, not finer than asked for."""
        return max(self.offset_step_px, 0.2 * box_px / shell)


def asymmetric_unit(orientations, symmetry):
    """The orientations (O, 3, 3) nearest to the identity among their symmetry mates A S."""
    if symmetry is None or len(symmetry) == 1:
        return orientations
    traces = np.einsum("oij,nji->on", orientations, symmetry)
    return orientations[traces[:, 0] >= traces.max(axis=1) - 1e-9]


def expectation(
    images: SeriesImages, sigma2, reference, start: Poses, plan: SearchPlan, expected_rotations=None
) -> Posterior:
    """Posterior modes of all particles of a series (half set).

    start : one pose per particle, shifts_px being the present total offsets; global searches use only these.
    expected_rotations : (P, 3, 3) centres of the orientation prior (``plan.orientation_sigma_deg``), or None.
    The result's shifts are total offsets from the extraction centre again, in px.
    """
    prior = _prior(np.zeros((len(images), 3)), plan, expected_rotations)
    coarse = plan.grid_shell(plan.step_deg)
    if plan.range_deg is None:
        found = _global_candidates(images, sigma2, reference, start, plan, coarse, prior)
    elif plan.range_deg > 0:
        found = _local_candidates(images, sigma2, reference, start, plan, coarse, prior)
    else:
        found, coarse = start, plan.max_shell
    found = _with_relaxed_mates(found, plan.relaxed)
    for shell, keep in plan.ladder(coarse):
        found, hessians = refine_poses(_whitened(images, sigma2, shell, plan), reference, found, prior, 2)
        found = weigh_modes(found, hessians, len(images), keep, _SIGNIFICANT, plan.symmetry).poses
    refined, hessians = refine_poses(_whitened(images, sigma2, plan.max_shell, plan), reference, found, prior, _LAST_STEPS)
    return weigh_modes(refined, hessians, len(images), _MODES, 0.01, plan.symmetry, prior.log_volume)


def _prior(centre_px, plan, rotations=None):
    return PosePrior(centre_px, plan.offset_sigma_px, rotations, plan.orientation_sigma_deg, plan.symmetry)


def _whitened(images, sigma2, shell, plan, offsets_px=None):
    return whiten(images, sigma2, shell, offsets_px, likelihood=plan.likelihood)


def _with_relaxed_mates(poses: Poses, operators) -> Poses:
    """All poses A and their mates A S under a symmetry that may be broken, particle by particle."""
    if operators is None or len(operators) == 1:
        return poses
    index = np.repeat(np.arange(len(poses.particle)), len(operators))
    rotations = (poses.rotations[:, None] @ operators).reshape(-1, 3, 3)
    return replace(poses.take(index), rotations=rotations)


def expectation_of_all(jobs) -> list[Posterior]:
    """:func:`expectation` of many groups at once: jobs are tuples of its arguments (expected_rotations may be left out).

    On a CPU chunks of particles run in parallel, each with single-threaded matrix products (many small ones gain nothing
    from threads of their own). The result does not depend on the number of threads.
    """
    chunks = [(j, slice(c, c + _CHUNK)) for j, job in enumerate(jobs) for c in range(0, len(job[0]), _CHUNK)]
    done = {}

    def work(j, part):
        images, sigma2, reference, start, plan, *expected = jobs[j]
        begin = start.take(part)
        begin = replace(begin, particle=begin.particle - begin.particle[0])
        expected = [rotations[part] for rotations in expected if rotations is not None]
        done[j, part.start] = expectation(images.take(part), sigma2, reference, begin, plan, *expected)

    if is_gpu_array(jobs[0][0].masked):
        for chunk in chunks:
            work(*chunk)
    else:
        with threadpool_limits(1, user_api="blas"):
            for_blocks(work, chunks)
    return [join_posteriors([done[key] for key in sorted(done) if key[0] == j]) for j in range(len(jobs))]


def calibrated(jobs, posteriors) -> list[Posterior]:
    """The posteriors that :func:`expectation_of_all` gave for ``jobs``, as wide as samples of some particles' posteriors say.

    One factor for the covariances of all modes: the mean of :func:`.poses.mean_square_distance` over particles with a clear pose, spread over
    all jobs.
    """
    counts = np.array([p.log_likelihood.size for p in posteriors])
    clear = np.flatnonzero(np.concatenate([p.max_probability for p in posteriors]) > 0.5)
    if clear.size == 0:
        return list(posteriors)
    chosen = clear[np.unique(np.linspace(0, clear.size - 1, _SAMPLED).astype(np.int64))]
    first, rng, distances = np.cumsum(counts) - counts, np.random.default_rng(0), []
    for (images, sigma2, reference, _, plan, *expected), posterior, f, n in zip(jobs, posteriors, first, counts, strict=True):
        mine = chosen[(chosen >= f) & (chosen < f + n)] - f
        if mine.size:
            centres = [r[mine] for r in expected if r is not None]
            white = _whitened(images.take(mine), sigma2, plan.max_shell, plan)
            prior = _prior(np.zeros((mine.size, 3)), plan, *centres)
            distances.append(mean_square_distance(white, reference, best_of(posterior, mine), prior, _SAMPLES, rng))
    factor = float(np.mean(np.concatenate(distances)))
    return [widened(p, factor) for p in posteriors]


def _global_candidates(images, sigma2, reference, start, plan, coarse, prior):
    box = images.frequencies.box_px
    shifts = translation_grid(plan.offset_range_px, plan.shift_step(box, coarse))
    if len(shifts) <= _FEW_SHIFTS:
        return _how(images, sigma2, reference, start, plan, coarse, prior, shifts)
    few = asymmetric_unit(so3_grid(1), plan.symmetry)
    shell = plan.grid_shell(30.0)
    shifts = translation_grid(plan.offset_range_px, plan.shift_step(box, shell))
    centred = _centred(images, sigma2, shell, start, plan, prior)
    where = grid_search(*centred, reference, few, shifts, n_best=1, plan=plan)
    step = plan.shift_step(box, coarse)
    return _how(images, sigma2, reference, where, plan, coarse, prior, translation_grid(2 * step, step))


def _how(images, sigma2, reference, where, plan, coarse, prior, shifts):
    order = int(np.clip(np.rint(np.log2(60.0 / plan.step_deg)), 0, 4))
    orientations = asymmetric_unit(so3_grid(order), plan.symmetry)
    centred = _centred(images, sigma2, coarse, where, plan, prior)
    return grid_search(*centred, reference, orientations, shifts, n_best=plan.n_candidates, plan=plan)


def _local_candidates(images, sigma2, reference, start, plan, coarse, prior):
    box = images.frequencies.box_px
    rough = plan.grid_shell(2 * plan.step_deg)
    shifts = translation_grid(plan.offset_range_px, plan.shift_step(box, rough))
    centred = _centred(images, sigma2, rough, start, plan, prior)
    found = local_search(*centred, reference, start, plan.range_deg, 2 * plan.step_deg, shifts, 1)
    step = plan.shift_step(box, coarse)
    around = replace(start, shifts_px=found.shifts_px)
    centred = _centred(images, sigma2, coarse, around, plan, prior)
    fine = translation_grid(1.5 * step, step)
    return local_search(*centred, reference, around, plan.range_deg, plan.step_deg, fine, 3)


def _centred(images, sigma2, shell, poses, plan, prior):
    """Whitened images with their offsets undone, the prior that knows these offsets, and the offsets."""
    offsets = poses.shifts_px
    return _whitened(images, sigma2, shell, plan, offsets), replace(prior, centre_px=offsets), offsets


def grid_search(
    images: WhitenedImages, prior, offsets_px, reference, orientations, shifts, n_best=8, plan=None
) -> Poses:
    """Score every particle on one shared grid; the best shift of the ``n_best`` best, distinct orientations.

    orientations (O, 3, 3), shifts (T, 3) px about the offsets (P, 3) px that the images are centred by. Memory is bounded by tiles over orientations and particles.
    """
    xp = array_namespace(images.data)
    memory_mb = SearchPlan.memory_mb if plan is None else plan.memory_mb
    n, n_views = len(images.data), len(images.view_rotations)
    row_bytes = 8 * n_views * len(images.frequencies)
    o_tile = tile_size(len(orientations), 3 * row_bytes, memory_mb)
    p_tile = tile_size(n, 3 * len(shifts) * row_bytes + 8 * len(shifts) * o_tile, memory_mb)
    phases = shift_phases(images.frequencies, images.view_rotations, shifts, xp)
    log_prior = prior.log(np.arange(n)[:, None], shifts[None])  # (P, T)
    turned = prior.log_grid(orientations) if prior.has_orientations else None
    score = np.empty((n, len(orientations)), dtype=np.float32)
    shift = np.empty((n, len(orientations)), dtype=np.int64)
    for o in range(0, len(orientations), o_tile):
        slices = reference.view_slices(images.view_rotations, orientations[o : o + o_tile], images.frequencies)
        for p in range(0, n, p_tile):
            part = slice(p, p + p_tile)
            values = log_likelihoods(images.take(part), slices, phases)
            values += xp.asarray(log_prior[part, :, None], dtype=xp.float32)
            best = values.argmax(axis=1)
            shift[part, o : o + o_tile] = asnumpy(best)
            score[part, o : o + o_tile] = asnumpy(xp.take_along_axis(values, best[:, None], axis=1)[:, 0])
    if turned is not None:
        score += turned
    found = _select(score, shift, np.broadcast_to(orientations, (n, *orientations.shape)), shifts, n_best)
    return replace(found, shifts_px=found.shifts_px + offsets_px[found.particle])


def local_search(images, prior, offsets_px, reference, start, max_deg, step_deg, shifts, n_best=3) -> Poses:
    """As :func:`grid_search`, but every particle on its own orientations around its pose in ``start``."""
    xp = array_namespace(images.data)
    local = local_rotations(max_deg, step_deg)
    score = np.empty((len(images.data), len(local)), dtype=np.float32)
    shift = np.empty(score.shape, dtype=np.int64)
    orientations = local[None] @ start.rotations[:, None]
    phases = shift_phases(images.frequencies, images.view_rotations, shifts, xp)
    log_prior = prior.log(np.arange(len(score))[:, None], shifts[None])
    for p in range(len(score)):
        slices = reference.view_slices(images.view_rotations, orientations[p], images.frequencies)
        values = log_likelihoods(images.take(slice(p, p + 1)), slices, phases)[0]
        values += xp.asarray(log_prior[p, :, None], dtype=xp.float32)
        shift[p], score[p] = asnumpy(values.argmax(axis=0)), asnumpy(values.max(axis=0))
        score[p] += prior.log_rotation(np.full(len(local), p), orientations[p])
    found = _select(score, shift, orientations, shifts, n_best, distance_deg=1.5 * step_deg)
    return replace(found, shifts_px=found.shifts_px + offsets_px[found.particle])


def _select(score, shift, orientations, shifts, n_best, distance_deg=20.0) -> Poses:
    """The ``n_best`` orientations of every particle that are ``distance_deg`` apart, best first."""
    rows, columns = [], []
    pool = min(score.shape[1], 12 * n_best)
    for p, row in enumerate(score):
        top = np.argpartition(-row, pool - 1)[:pool]
        top = top[np.argsort(-row[top], kind="stable")]
        top = top[row[top] >= row[top[0]] - max(_MARGIN_NATS, _MARGIN_SHARE * abs(row[top[0]]))]
        chosen = []
        for candidate in top:
            if len(chosen) == n_best:
                break
            turned = orientations[p, candidate]
            if not chosen or angular_distance_deg(orientations[p, chosen], turned).min() > distance_deg:
                chosen.append(int(candidate))
        rows += [p] * len(chosen)
        columns += chosen
    rows, columns = np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)
    return Poses(rows, orientations[rows, columns], shifts[shift[rows, columns]], score[rows, columns].astype(float))
