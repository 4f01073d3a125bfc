"""A first map from the particles alone: stochastic expectation-maximisation with momentum.

1. Explore: mini-batches are compared with the map at low resolution on a randomly turned coarse grid of poses. All poses
   contribute with their posterior weight: as the scores are one matrix product, so is their adjoint, the weighted sum of the
   images for every orientation. The running sums forget with step eta (online EM: a natural-gradient step of size eta with
   momentum 1 - eta), so early, wrong maps fade out. Several random starts compete.
2. Contest: the most likely start goes on beside its own mirror image, because at low resolution the two hands are nearly
   equally likely and a start may fall into the wrong one. The more likely hand stays.
3. Finish: mini-batches with continuous poses and growing resolution; a particle is searched globally at its first visit
   and now and then later, otherwise from its last pose.
Sources: Cappe & Moulines 2009, J R Stat Soc B 71:593 (online EM); Punjani et al. 2017, Nat Methods 14:290 (stochastic ab initio);
Kimanius et al. 2024, Nat Methods 21:1216 (VDAM, whose schedule of stages is followed).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import numpy as np
from threadpoolctl import threadpool_limits

from cryoet_core.backend import array_namespace, asnumpy, is_gpu_array
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.geometry import point_group, random_rotations, so3_grid
from cryoet_core.kernels.threads import for_blocks
from cryoet_core.subtomo.evaluate import mirror, resample, symmetry_axes
from cryoet_core.subtomo.likelihood import (
    SeriesImages,
    as_real,
    log_sum_exp,
    norm_terms,
    shift_phases,
    shifted_rows,
    whiten,
)
from cryoet_core.subtomo.mstep import (
    Accumulator,
    Reference,
    Sums,
    insert_particles,
    recentre,
    solvent_mask,
    ssnr_from_fsc,
)
from cryoet_core.subtomo.noise import initial_spectra, residual_sums, smooth_spectra
from cryoet_core.subtomo.poses import Poses
from cryoet_core.subtomo.search import SearchPlan, expectation_of_all, translation_grid

_NEGLIGIBLE = 1e-5  # posterior weights below this are not inserted
_SEARCH_AGAIN = 0.1  # share of the particles that are searched globally again in the last stage


@dataclass(frozen=True)
class InitialModelSettings:
    """Keys of the config section, plus what the images say."""

    pixel_size_angst: float
    box_px: int
    n_mini_batches: int = 40
    mini_batch_size: int | None = None
    n_starts: int = 4
    regularisation: float = 4.0
    mask_diameter_angst: float = 350.0
    symmetry: str = "C1"
    start_resolution_angst: float = 100.0
    final_resolution_angst: float | None = None
    offset_range_px: float = 3.0
    offset_step_px: float = 1.0

    @property
    def box_angst(self) -> float:
        return self.box_px * self.pixel_size_angst

    def shell(self, resolution_angst: float) -> int:
        return int(np.clip(np.rint(self.box_angst / resolution_angst), 3, self.box_px // 2))

    @property
    def last_shell(self) -> int:
        limit = max(40.0, 2 * self.pixel_size_angst)
        return self.shell(self.final_resolution_angst or limit)

    @property
    def first_shell(self) -> int:
        return min(self.shell(self.start_resolution_angst), self.last_shell)

    @property
    def n_explore(self) -> int:
        """Mini-batches of every start, and of the contest of the two hands: a quarter of all."""
        return max(2, self.n_mini_batches // 4)

    @property
    def n_finish(self) -> int:
        return max(2, self.n_mini_batches - 2 * self.n_explore)

    def finish_shell(self, number: int) -> int:
        """Finest shell of mini-batch ``number`` of the last stage: grows linearly over its first two thirds."""
        t = min(1.0, (number + 1) / (0.67 * self.n_finish))
        return int(np.rint(self.first_shell + 1 + t * (self.last_shell - self.first_shell - 1)))

    def batch_size(self, n: int) -> int:
        return int(min(n, self.mini_batch_size or max(60, min(400, n // 3))))


@dataclass(frozen=True)
class _Model:
    """A map with the running sums of its two pseudo-halves and the noise spectra of every series.

    offsets_px (n, 3) and rotations (n, 3, 3): last poses of all particles; known (n,) bool: rotations are of use.
    """

    volume: np.ndarray
    sums: tuple[Sums, Sums] | None
    sigma2: list
    offsets_px: np.ndarray
    rotations: np.ndarray
    known: np.ndarray


@dataclass
class InitialModel:
    """Result: map (box, box, box) float32, bright, centred; history: one dict of numbers per mini-batch.

    log_likelihood_starts: nats per particle of every start; mirror_gain: nats per particle by which the mirror image of the
    best start was more likely than itself (mirrored when positive).
    """

    map: np.ndarray
    history: list[dict] = field(default_factory=list)
    log_likelihood_starts: list[float] = field(default_factory=list)
    mirrored: bool = False
    mirror_gain: float = 0.0

    def numbers(self) -> dict:
        """What the summary shows."""
        last = self.history[-1]
        return {
            "resolution_angst": last["resolution_angst"],
            "log_likelihood_per_particle": last["log_likelihood_per_particle"],
            "log_likelihood_starts": self.log_likelihood_starts,
            "mirrored": self.mirrored,
            "mirror_gain_nats_per_particle": self.mirror_gain,
            "n_mini_batches": len(self.history),
        }


def initial_model(series: list[SeriesImages], settings: InitialModelSettings, rng, report=None) -> InitialModel:
    """Make a map from random orientations.

    series : images of every tilt series; ``rows`` number the particles 0..n-1 over all. rng : numpy Generator. report :
    callable(dict) after every mini-batch, or None.
    """
    out = InitialModel(None)
    spectra = [initial_spectra(s) for s in series]
    seeds = rng.spawn(settings.n_starts + 3)

    def run(models, count, labels, advance, generators):
        """Advance every model; each has its own random numbers, so they may run side by side."""
        runs = [_Run(m, label, advance, g) for m, label, g in zip(models, labels, generators, strict=True)]
        _side_by_side([(r, series, count, settings, report) for r in runs])
        for r in runs:
            out.history.extend(r.history)
        return [r.model for r in runs]

    with threadpool_limits(1, user_api="blas"):  # bits must not depend on threads; whole runs are parallel instead
        starts = [_random_start(series, spectra, settings, g) for g in seeds[: settings.n_starts]]
        labels = [f"start {k + 1}" for k in range(settings.n_starts)]
        explored = run(starts, settings.n_explore, labels, _grid_step, seeds[: settings.n_starts])
        subset = _draw(series, 150, seeds[-3])
        out.log_likelihood_starts = [float(_score(subset, m, explored[0].sigma2, settings)) for m in explored]
        best = explored[int(np.argmax(out.log_likelihood_starts))]
        rivals = [replace(best, volume=v, sums=None) for v in (best.volume, mirror(best.volume))]
        generators = [copy.deepcopy(seeds[-2]) for _ in rivals]  # both hands see the same mini-batches
        rivals = run(rivals, settings.n_explore, ("as found", "mirrored"), _grid_step, generators)
        scores = [_score(subset, m, rivals[0].sigma2, settings) for m in rivals]
        out.mirrored, out.mirror_gain = bool(scores[1] > scores[0]), float(scores[1] - scores[0])
        (model,) = run([rivals[int(out.mirrored)]], settings.n_finish, ("finish",), _pose_step, seeds[-1:])
        out.map = _final_map(model, settings)
    return out


@dataclass
class _Run:
    """One model on its way through a stage."""

    model: _Model
    label: str
    advance: object
    rng: object
    history: list[dict] = field(default_factory=list)

    def go(self, series, count, settings, report):
        for number in range(count):
            self.model, numbers = self.advance(series, self.model, number, settings, self.rng)
            self.history.append({"stage": self.label, "mini_batch": number + 1, **numbers})
            if report:
                report(self.history[-1])


def _side_by_side(jobs):
    """Run jobs (run, *arguments), in parallel threads on a CPU."""
    if is_gpu_array(jobs[0][1][0].masked):
        for job in jobs:
            job[0].go(*job[1:])
    else:
        for_blocks(lambda job: job[0].go(*job[1:]), [(job,) for job in jobs])


def _random_start(series, spectra, settings, rng):
    """Reconstruction of some particles at random orientations."""
    xp = array_namespace(series[0].masked)
    accumulator = Accumulator(settings.box_px, xp=xp, spread=series[0].is_3d)
    for number, images in _draw(series, 30, rng):
        n = len(images)
        zero = np.zeros((n, 3))
        insert_particles(accumulator, images, spectra[number], np.arange(n), random_rotations(n, rng), zero, np.ones(n))
    volume = _masked(accumulator.sums().reconstruct(max_shell=settings.first_shell), settings)
    n = 1 + max(int(s.rows.max()) for s in series)
    return _Model(volume, None, spectra, np.zeros((n, 3)), np.tile(np.eye(3), (n, 1, 1)), np.zeros(n, dtype=bool))


def _draw(series, size, rng):
    """A random subset of all particles: list of (series number, SeriesImages)."""
    counts = [len(s) for s in series]
    owner = np.repeat(np.arange(len(series)), counts)
    index = np.concatenate([np.arange(c) for c in counts])
    chosen = np.sort(rng.permutation(owner.size)[:size])
    parts = [(s, index[chosen[owner[chosen] == s]]) for s in range(len(series))]
    return [(s, series[s].take(rows)) for s, rows in parts if rows.size]


def _masked(volume, settings):
    xp = array_namespace(volume)
    return volume * solvent_mask(settings.box_px, settings.mask_diameter_angst, settings.pixel_size_angst, xp)


def _plan(settings, shell) -> SearchPlan:
    diameter = min(settings.mask_diameter_angst, settings.box_angst)
    return SearchPlan(shell, settings.box_angst, diameter, offset_step_px=settings.offset_step_px, n_candidates=16)


def _grid_step(series, model, number, settings, rng):
    """One mini-batch of exploration: marginal expectation-maximisation on a coarse, randomly turned grid."""
    batch = _draw(series, settings.batch_size(sum(len(s) for s in series)), rng)
    grid = so3_grid(1) @ random_rotations(1, rng)[0]
    offsets = model.offsets_px.copy()
    halves, noise, evidence = _grid_em(batch, model, model.sigma2, settings.first_shell, grid, settings, offsets)
    model = replace(model, offsets_px=offsets)
    return _advance(model, halves, noise, settings.first_shell, 0.9 if number < 3 else 0.5, evidence, batch, settings)


def _advance(model, halves, noise, shell, eta, log_likelihood, batch, settings):
    """Mix the mini-batch into the running sums and noise, make the next map, and collect the numbers."""
    sums = halves
    if model.sums is not None and model.sums[0].spread == halves[0].spread:
        sums = tuple(old * (1 - eta) + new * eta for old, new in zip(model.sums, halves, strict=True))
    maps = [_masked(s.reconstruct(max_shell=shell), settings) for s in sums]
    fsc = asnumpy(fourier_shell_correlation(*maps))
    ssnr = ssnr_from_fsc(fsc, True, settings.regularisation)
    volume = _masked((sums[0] + sums[1]).reconstruct(ssnr, shell), settings)
    size = sum(len(images) for _, images in batch)
    numbers = {
        "shell": int(shell),
        "resolution_angst": settings.box_angst / shell,
        "n_particles": size,
        "log_likelihood_per_particle": float(log_likelihood / size),
        "fsc": [float(v) for v in fsc[: shell + 1]],
    }
    sigma2 = [old if new is None else 0.5 * (old + new) for old, new in zip(model.sigma2, noise, strict=True)]
    return replace(model, volume=volume, sums=sums, sigma2=sigma2), numbers


def _grid_em(batch, model, sigma2, shell, grid, settings, offsets_px, maximise=True):
    """Sums of two pseudo-halves, noise spectra per series (None where no particle was drawn), log evidence.

    offsets_px (n, 3) centre the shifts that are searched, and are moved to the best of them.
    """
    xp = array_namespace(model.volume)
    reference = Reference.of_map(model.volume)
    accumulators = [Accumulator(settings.box_px, xp=xp) for _ in range(2)]
    noise, total = [None] * len(sigma2), 0.0
    sigma_px = max(settings.offset_range_px / 2, 0.5)
    step = _plan(settings, shell).shift_step(settings.box_px, shell)
    shifts = translation_grid(min(1.5 * step, settings.offset_range_px), step)
    for number, images in batch:
        white = whiten(images, sigma2[number], shell, offsets_px[images.rows])
        slices = reference.view_slices(white.view_rotations, grid, white.frequencies)
        phases = shift_phases(white.frequencies, white.view_rotations, shifts, xp)
        rows = shifted_rows(white.data, phases)
        scores = (rows @ as_real(slices).T).reshape(len(images), len(shifts), len(grid))
        scores -= norm_terms(white.weight, slices)[:, None]
        square = np.sum((offsets_px[images.rows][:, None] + shifts) ** 2, axis=2)
        scores += xp.asarray(-0.5 * square[:, :, None] / sigma_px**2, dtype=xp.float32)
        evidence = log_sum_exp(scores, (1, 2))
        total += float(evidence.sum()) - len(images) * np.log(len(grid) * len(shifts))
        if not maximise:
            continue
        best = asnumpy(scores.reshape(len(images), -1).argmax(axis=1))
        shift, orientation = best // len(grid), best % len(grid)
        move = phases[shift] * shift_phases(white.frequencies, white.view_rotations, offsets_px[images.rows], xp)
        noise[number] = _batch_noise(images, slices[orientation], move, sigma2[number], white.frequencies)
        scores -= xp.asarray(evidence, dtype=xp.float32)[:, None, None]
        weights = xp.exp(scores, out=scores)
        for half in range(2):
            _insert_marginal(accumulators[half], weights, rows, white, grid, slice(half, None, 2))
        offsets_px[images.rows] += shifts[shift]
    return tuple(a.sums() for a in accumulators), noise, total


def _insert_marginal(accumulator, weights, rows, white, grid, part):
    """Adjoint of the score: for every orientation the images weighted with the posterior, inserted as slices."""
    n, n_shifts, n_orientations = weights.shape
    mine = weights[part]
    if len(mine) == 0:
        return
    used = np.flatnonzero(asnumpy(mine.max(axis=(0, 1))) > _NEGLIGIBLE)
    mine = mine[:, :, used]
    rows = rows.reshape(n, n_shifts, -1)[part]
    data = mine.reshape(-1, used.size).T @ rows.reshape(-1, rows.shape[-1])  # (O, 2 F K)
    weight = mine.sum(axis=1).T @ white.weight[part].reshape(len(mine), -1)
    n_views, k = white.weight.shape[1:]
    turned = (white.view_rotations @ grid[used][:, None]).reshape(-1, 3, 3)
    data = data.view(np.complex64).reshape(-1, k)
    accumulator.insert(data, weight.reshape(-1, k), turned, white.frequencies)


def _batch_noise(images, slices, phases, previous, frequencies):
    """Noise spectra from the residuals at the best poses; shells beyond the present resolution keep the old value."""
    n = len(frequencies)
    low = replace(images, masked=images.masked[..., :n], ctf=images.ctf[..., :n], frequencies=frequencies)
    spectra = smooth_spectra(*residual_sums(low, slice(None), slices, phases))
    spectra[:, int(frequencies.shell[-1]) + 1 :] = previous[:, int(frequencies.shell[-1]) + 1 :]
    return spectra


def _score(subset, model, sigma2, settings):
    """Log evidence per particle of a fixed subset at given noise spectra, relative to no particle at all."""
    arguments = (settings.first_shell, so3_grid(1), settings, model.offsets_px.copy())
    total = _grid_em(subset, model, sigma2, *arguments, maximise=False)[2]
    return total / sum(len(images) for _, images in subset)


def _pose_step(series, model, number, settings, rng):
    """One mini-batch of the last stage: continuous poses, growing resolution."""
    shell = settings.finish_shell(number)
    batch = _draw(series, settings.batch_size(sum(len(s) for s in series)), rng)
    reference = Reference.of_map(model.volume)
    xp = array_namespace(model.volume)
    accumulators = [Accumulator(settings.box_px, xp=xp, spread=series[0].is_3d) for _ in range(2)]
    rotations, offsets, known = model.rotations.copy(), model.offsets_px.copy(), model.known.copy()
    noise, total = [None] * len(model.sigma2), 0.0
    parts, jobs = [], []
    for series_number, images in batch:
        again = (~known[images.rows]) | (rng.random(len(images)) < _SEARCH_AGAIN)
        for part, range_deg in ((images.take(again), None), (images.take(~again), 0.0)):
            if len(part):
                start = Poses(np.arange(len(part)), rotations[part.rows], offsets[part.rows], np.zeros(len(part)))
                plan = replace(_plan(settings, shell), range_deg=range_deg, offset_range_px=settings.offset_range_px)
                jobs.append((part, model.sigma2[series_number], reference, start, plan))
                parts.append(part.rows)
    for rows, posterior in zip(parts, expectation_of_all(jobs), strict=True):
        rotations[rows], offsets[rows] = posterior.best.rotations, posterior.best.shifts_px
        known[rows] = True
        total += float(posterior.log_likelihood.sum())
    for series_number, images in batch:
        every, frequencies = images.rows, images.frequencies.upto(shell)
        slices = reference.view_slices(images.view_rotations, rotations[every], frequencies)
        phases = shift_phases(frequencies, images.view_rotations, offsets[every], xp)
        noise[series_number] = _batch_noise(images, slices, phases, model.sigma2[series_number], frequencies)
        for half in range(2):
            index = np.arange(half, len(images), 2)
            poses = (rotations[every[index]], offsets[every[index]], np.ones(index.size))
            insert_particles(accumulators[half], images, model.sigma2[series_number], index, *poses)
    model = replace(model, rotations=rotations, offsets_px=offsets, known=known)
    halves = tuple(a.sums() for a in accumulators)
    return _advance(model, halves, noise, shell, 0.5, total, batch, settings)


def _final_map(model, settings):
    """The last map at its centre of mass; with a point group, turned to the standard axes and symmetrised."""
    xp = array_namespace(model.volume)
    ball = _masked(xp.ones_like(model.volume), settings)
    volume = resample(model.volume, np.eye(3), recentre(model.volume, ball))
    operators = point_group(settings.symmetry)
    if len(operators) > 1:
        volume = resample(volume, symmetry_axes(volume, operators), np.zeros(3))
        volume = sum(resample(volume, operator, np.zeros(3)) for operator in operators) / len(operators)
    return asnumpy(_masked(volume, settings)).astype(np.float32)
