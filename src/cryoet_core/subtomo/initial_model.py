"""A first map from the particles alone: stochastic expectation-maximisation with momentum.

1. Explore: mini-batches are compared with the map at low resolution on a randomly turned coarse grid of poses. All poses
   contribute with their posterior weight: as the scores are one matrix product, so is their adjoint, the weighted sum of the
   images for every orientation. The running sums forget with step eta (online EM: a natural-gradient step of size eta with
   momentum 1 - eta), so early, wrong maps fade out. Several random starts compete.
2. Contest: the most likely start goes on beside its own mirror image, because at low resolution the two hands are nearly
   equally likely and a start may fall into the wrong one. The more likely hand stays.
3. Finish: mini-batches with continuous poses and growing resolution; a particle is searched globally at its first visit,
   otherwise from its last pose.
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
from cryoet_core.subtomo.evaluate import mirror, resample, resample_map, symmetry_axes
from cryoet_core.subtomo.likelihood import (
    SeriesImages,
    as_real,
    ball_log_likelihoods,
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
from cryoet_core.subtomo.noise import initial_spectra, residual_sums, score_excess, smooth_spectra
from cryoet_core.subtomo.poses import Poses
from cryoet_core.subtomo.search import SearchPlan, expectation_of_all, translation_grid

_NEGLIGIBLE = 1e-5  # posterior weights below this are not inserted
_START_SHELLS = 5.5  # cycles across the particle at the first resolution
_STARTS_IF_DIM, _CLEAR_NATS = 4, 10.0  # starts; two, and half the steps, are enough when the map beats a ball by so much per particle
_VISITS = 3.3  # of every particle between two comparisons of starts
_CLEAR_POSE = 0.9  # probability of its best pose from which on a particle is only refined from there
_BALL = 0.3  # prior probability that a particle is none, or cannot be told from a ball
_TESTS = 8  # slices that the residuals are compared with
_OFF_CENTRE_PX = 0.3  # a map is moved back when it is further off


@dataclass(frozen=True)
class InitialModelSettings:
    """Keys of the config section, plus what the images say. None: chosen from the particles.

    pick_error_angst : where the particles may be, when ``offset_sigma_angst`` is None: half a voxel of the tomogram they were
    picked in.
    """

    pixel_size_angst: float
    box_px: int
    n_mini_batches: int | None = None
    mini_batch_size: int | None = None
    n_starts: int | None = None
    regularisation: float = 4.0
    mask_diameter_angst: float = 350.0
    symmetry: str = "C1"
    start_resolution_angst: float | None = None
    final_resolution_angst: float | None = None
    offset_sigma_angst: float | None = None
    pick_error_angst: float = 10.0

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
        """Shell of the start: finer than a ball of the particle's diameter could explain."""
        start = self.start_resolution_angst or min(self.mask_diameter_angst, self.box_angst) / _START_SHELLS
        return min(self.shell(start), self.last_shell)

    @property
    def offset_sigma_px(self) -> float:
        return (self.offset_sigma_angst or self.pick_error_angst) / self.pixel_size_angst

    def coarse(self) -> InitialModelSettings:
        """The same on pixels as large as the last resolution allows: nothing finer is ever used."""
        box = min(self.box_px, 2 * (self.last_shell + 2))
        return replace(self, box_px=box, pixel_size_angst=self.box_angst / box)

    def batch_size(self, n: int) -> int:
        return int(min(n, self.mini_batch_size or max(60, min(400, n // 3))))

    def n_explore(self, n: int) -> int:
        """Mini-batches between two comparisons of starts: every particle is seen about three times, or a quarter of all."""
        if self.n_mini_batches is not None:
            return max(2, self.n_mini_batches // 4)
        return max(6, round(_VISITS * n / self.batch_size(n)))

    def n_finish(self, n: int) -> int:
        if self.n_mini_batches is not None:
            return max(2, self.n_mini_batches - 2 * self.n_explore(n))
        return 2 * self.n_explore(n)

    def finish_shell(self, number: int, count: int) -> int:
        """Finest shell of mini-batch ``number`` of ``count`` of the last stage: grows linearly over its first two thirds."""
        t = min(1.0, (number + 1) / (0.67 * count))
        return int(np.rint(self.first_shell + 1 + t * (self.last_shell - self.first_shell - 1)))


@dataclass(frozen=True)
class _Model:
    """A map with the running sums of its two halves and the noise of every series.

    halves : the maps of particles of even and of odd rows alone; particles are only ever compared with the map of the other half, so
    that their own noise is not in it. volume : the map of both.
    sigma2 : noise spectra; excess : factors on them by which scores vary more than they say (noise.score_excess). offsets_px
    (n, 3), rotations (n, 3, 3), evidence (n,): last poses and log evidence of all particles; evidence is NaN before the first
    visit; known (n,) bool: rotations are of use.
    """

    volume: np.ndarray
    halves: tuple
    sums: tuple[Sums, Sums] | None
    sigma2: list
    excess: list
    offsets_px: np.ndarray
    rotations: np.ndarray
    evidence: np.ndarray
    known: np.ndarray

    @property
    def noise(self) -> list:
        return [s * e for s, e in zip(self.sigma2, self.excess, strict=True)]


@dataclass
class InitialModel:
    """Result: map (box, box, box) float32, bright, centred; history: one dict of numbers per mini-batch.

    log_likelihood_starts: nats per particle of every start; mirror_gain: nats per particle by which the mirror image of the
    best start was more likely than itself (mirrored when positive). over_ball: nats per particle by which the map at the first
    resolution was more likely than a ball: how clearly the particles have orientations.
    """

    map: np.ndarray
    history: list[dict] = field(default_factory=list)
    log_likelihood_starts: list[float] = field(default_factory=list)
    mirrored: bool = False
    mirror_gain: float = 0.0
    over_ball: float = 0.0

    def numbers(self) -> dict:
        """What the summary shows."""
        last = self.history[-1]
        return {
            "resolution_angst": last["resolution_angst"],
            "log_likelihood_per_particle": last["log_likelihood_per_particle"],
            "log_likelihood_starts": self.log_likelihood_starts,
            "mirrored": self.mirrored,
            "mirror_gain_nats_per_particle": self.mirror_gain,
            "nats_per_particle_over_a_ball": self.over_ball,
            "n_mini_batches": len(self.history),
        }


def initial_model(series: list[SeriesImages], settings: InitialModelSettings, rng, report=None) -> InitialModel:
    """Make a map from random orientations.

    series : images of every tilt series; ``rows`` number the particles 0..n-1 over all. rng : numpy Generator. report :
    callable(dict) after every mini-batch, or None.
    """
    coarse = settings.coarse()
    n_starts = settings.n_starts or _STARTS_IF_DIM
    *own, subset, contest, finish = rng.spawn(n_starts + 3)
    series = [s.cropped(coarse.box_px) for s in series]
    search = _Search(series, coarse, _draw(series, 150, subset), InitialModel(None), report)
    with threadpool_limits(1, user_api="blas"):  # bits must not depend on threads; whole runs are parallel instead
        model = search.better_hand(search.best_start(own), contest)
        (model,) = search.run([model], coarse.n_finish(search.n), ("finish",), _pose_step, [finish])
        search.out.map = _final_map(model, coarse, settings)
    return search.out


@dataclass(frozen=True)
class _Scores:
    """evidence, over_ball : (models,) nats per particle against no particle, and against a ball."""

    evidence: np.ndarray
    over_ball: np.ndarray


@dataclass
class _Search:
    """The stages of one initial model. subset : the particles by which models are compared; dim : no start has shown orientations clearly."""

    series: list
    settings: InitialModelSettings
    subset: list
    out: InitialModel
    report: object
    dim: bool = False

    @property
    def n(self) -> int:
        return sum(len(s) for s in self.series)

    @property
    def steps(self) -> int:
        return self.settings.n_explore(self.n) * (2 if self.dim else 1)

    def run(self, models, count, labels, advance, generators):
        """Advance every model; each has its own random numbers, so they may run side by side."""
        runs = [_Run(m, label, advance, g) for m, label, g in zip(models, labels, generators, strict=True)]
        _side_by_side([(r, self.series, count, self.settings, self.report) for r in runs])
        for r in runs:
            self.out.history.extend(r.history)
        return [r.model for r in runs]

    def compared(self, models) -> _Scores:
        """Nats per particle of every model, all with the noise of the first, so that only the maps differ."""
        return _Scores(*np.transpose([_score(self.subset, m, models[0].noise, self.settings) for m in models]))

    def best_start(self, generators) -> _Model:
        """The most likely of competing starts, each with its own random numbers; the better half goes on until one is left."""
        models, scores = self._explored(generators)
        alive = list(range(len(models)))
        while len(alive) > 1:
            alive = sorted(alive, key=lambda k: -scores[k])[: len(alive) // 2]
            labels = [f"start {k + 1}" for k in alive]
            again = self.run([models[k] for k in alive], self.steps, labels, _grid_step, [generators[k] for k in alive])
            for k, model, evidence in zip(alive, again, self.compared(again).evidence, strict=True):
                models[k], scores[k] = model, evidence
        self.out.log_likelihood_starts = scores.tolist()
        return models[alive[0]]

    def _explored(self, generators):
        """Two starts, and the others only where these do not show the orientations clearly: (models, evidence)."""
        models, spectra, settings = [], [initial_spectra(s) for s in self.series], self.settings
        while len(models) < len(generators):
            chosen = range(len(models), len(generators) if models else min(2, len(generators)))
            own = [generators[k] for k in chosen]
            starts = [_random_start(self.series, spectra, settings, g) for g in own]
            models += self.run(starts, self.steps, [f"start {k + 1}" for k in chosen], _grid_step, own)
            scores = self.compared(models)
            self.dim = settings.n_starts is None and scores.over_ball.max() < _CLEAR_NATS
            if settings.n_starts is None and not self.dim:
                break
        return models, scores.evidence

    def better_hand(self, model, generator) -> _Model:
        """The model or its mirror image after both went on with the same mini-batches, whichever is more likely."""
        generators = [copy.deepcopy(generator) for _ in range(2)]
        rivals = self.run([model, _mirrored(model)], self.steps, ("as found", "mirrored"), _grid_step, generators)
        scores = self.compared(rivals)
        self.out.mirror_gain = float(scores.evidence[1] - scores.evidence[0])
        self.out.mirrored = self.out.mirror_gain > 0
        self.out.over_ball = float(scores.over_ball[int(self.out.mirrored)])
        return rivals[int(self.out.mirrored)]


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
            self.model, numbers = self.advance(series, self.model, number, count, settings, self.rng)
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
    excess = [np.ones(s.shape[1]) for s in spectra]
    poses = (np.zeros((n, 3)), np.tile(np.eye(3), (n, 1, 1)), np.full(n, np.nan), np.zeros(n, dtype=bool))
    return _Model(volume, (volume, volume), None, spectra, excess, *poses)


def _mirrored(model):
    """The same model of the other hand; its poses do not fit any more."""
    sums = tuple(replace(s, data=mirror(s.data), weight=mirror(s.weight)) for s in model.sums)
    return replace(model, volume=mirror(model.volume), halves=tuple(mirror(h) for h in model.halves), sums=sums)


def _draw(series, size, rng):
    """A random subset of all particles: list of (series number, SeriesImages), those of even and of odd rows apart."""
    counts = [len(s) for s in series]
    owner = np.repeat(np.arange(len(series)), counts)
    index = np.concatenate([np.arange(c) for c in counts])
    chosen = np.sort(rng.permutation(owner.size)[:size])
    parts = [(s, index[chosen[owner[chosen] == s]]) for s in range(len(series))]
    parts = [(s, rows[series[s].rows[rows] % 2 == half]) for s, rows in parts for half in (0, 1)]
    return [(s, series[s].take(rows)) for s, rows in parts if rows.size]


def _half(images):
    """0 or 1: the half of the particles of one part of a batch."""
    return int(images.rows[0] % 2)


def _masked(volume, settings):
    xp = array_namespace(volume)
    return volume * solvent_mask(settings.box_px, settings.mask_diameter_angst, settings.pixel_size_angst, xp)


def _plan(settings, shell) -> SearchPlan:
    diameter = min(settings.mask_diameter_angst, settings.box_angst)
    sigma = settings.offset_sigma_px
    return SearchPlan(
        shell, settings.box_angst, diameter, offset_range_px=2 * sigma, offset_step_px=0.0, offset_sigma_px=sigma, n_candidates=16
    )


def _grid_step(series, model, number, count, settings, rng):
    """One mini-batch of exploration: marginal expectation-maximisation on a coarse, randomly turned grid."""
    batch = _draw(series, settings.batch_size(sum(len(s) for s in series)), rng)
    grid = so3_grid(1) @ random_rotations(1, rng)[0]
    found = _grid_em(batch, model, model.noise, settings.first_shell, grid, settings, rng)
    offsets, evidence = model.offsets_px.copy(), model.evidence.copy()
    for (_, images), moved, value in zip(batch, found.offsets_px, found.evidence, strict=True):
        offsets[images.rows], evidence[images.rows] = moved, value
    model = replace(model, offsets_px=offsets, evidence=evidence)
    eta = 0.9 if number < 3 and np.isnan(evidence).any() else 0.5
    model, numbers = _advance(model, found, settings.first_shell, eta, batch, settings)
    return _recentred(model, settings), numbers


def _recentred(model, settings):
    """The model with its centre of mass at the centre: a map that drifts off takes its particles out of the mask."""
    xp = array_namespace(model.volume)
    shift = recentre(model.volume, _masked(xp.ones_like(model.volume), settings))
    if np.linalg.norm(shift) < _OFF_CENTRE_PX:
        return model
    volume, *halves = (_masked(resample(v, np.eye(3), shift), settings) for v in (model.volume, *model.halves))
    return replace(model, volume=volume, halves=tuple(halves), sums=tuple(s.moved(shift) for s in model.sums))


@dataclass(frozen=True)
class _Expected:
    """What the expectation step of a mini-batch leaves.

    halves : sums of the two halves. sigma2, excess : per series of the run, None where no particle was drawn. evidence, over_ball,
    offsets_px : per part of the batch, (n,), (n,) and (n, 3); over_ball is the evidence against a ball.
    """

    halves: tuple
    sigma2: list
    excess: list
    evidence: list
    over_ball: list = field(default_factory=list)
    offsets_px: list = field(default_factory=list)


def _advance(model, found, shell, eta, batch, settings):
    """Mix the mini-batch into the running sums and noise, make the next map, and collect the numbers."""
    sums = found.halves
    if model.sums is not None and model.sums[0].spread == sums[0].spread:
        sums = tuple(old * (1 - eta) + new * eta for old, new in zip(model.sums, sums, strict=True))
    maps = [_masked(s.reconstruct(max_shell=shell), settings) for s in sums]
    fsc = asnumpy(fourier_shell_correlation(*maps))
    own, both = (ssnr_from_fsc(fsc, joined, settings.regularisation) for joined in (False, True))
    halves = tuple(_masked(s.reconstruct(own, shell), settings) for s in sums)
    volume = _masked((sums[0] + sums[1]).reconstruct(both, shell), settings)
    size = sum(len(images) for _, images in batch)
    numbers = {
        "shell": int(shell),
        "resolution_angst": settings.box_angst / shell,
        "n_particles": size,
        "log_likelihood_per_particle": float(sum(e.sum() for e in found.evidence) / size),
        "fsc": [float(v) for v in fsc[: shell + 1]],
        "nats_over_ball": float(sum(b.sum() for b in found.over_ball) / size),
        "excess": [[round(float(v), 2) for v in e[1 : shell + 1]] for e in found.excess if e is not None],
    }

    def mixed(before, now):
        return [old if new is None else 0.5 * (old + new) for old, new in zip(before, now, strict=True)]

    model = replace(model, sigma2=mixed(model.sigma2, found.sigma2), excess=mixed(model.excess, found.excess))
    return replace(model, volume=volume, halves=halves, sums=sums), numbers


def _grid_em(batch, model, noise, shell, grid, settings, rng=None, maximise=True) -> _Expected:
    """Every particle on one grid of orientations and shifts, against a ball as well.

    Particles that a ball explains as well as the map in any orientation (false picks, blurred ones) enter the map with less
    weight: the ball is one more orientation, of prior probability ``_BALL``, that nothing is inserted for.
    """
    xp = array_namespace(model.volume)
    references = [Reference.of_map(v) for v in model.halves]
    accumulators = [Accumulator(settings.box_px, xp=xp) for _ in range(2)]
    out, measured = _Expected(None, [], [], []), [[] for _ in model.sigma2]
    plan = _plan(settings, shell)
    step = plan.shift_step(settings.box_px, shell)
    shifts = translation_grid(step, step)
    for number, images in batch:
        half, offsets = _half(images), model.offsets_px[images.rows]
        reference = references[1 - half]
        white = whiten(images, noise[number], shell, offsets)
        slices = reference.view_slices(white.view_rotations, grid, white.frequencies)
        ball = xp.broadcast_to(reference.spherical_slice(white.frequencies), slices[:1].shape)
        slices = xp.concatenate([slices, ball])
        phases = shift_phases(white.frequencies, white.view_rotations, shifts, xp)
        rows = shifted_rows(white.data, phases)
        scores = (rows @ as_real(slices).T).reshape(len(images), len(shifts), len(slices))
        scores -= norm_terms(white.weight, slices)[:, None]
        prior = _log_prior(offsets[:, None] + shifts, step, plan.offset_sigma_px)[:, :, None] + _log_share(len(grid))
        scores += xp.asarray(prior, dtype=xp.float32)
        evidence = log_sum_exp(scores, (1, 2))
        out.evidence.append(asnumpy(evidence))
        ball_evidence = log_sum_exp(scores[:, :, -1], 1) - np.log(_BALL)
        out.over_ball.append(asnumpy(evidence - ball_evidence))
        if not maximise:
            continue
        best = asnumpy(scores[:, :, :-1].reshape(len(images), -1).argmax(axis=1))
        shift, orientation = best // len(grid), best % len(grid)
        move = phases[shift] * shift_phases(white.frequencies, white.view_rotations, offsets, xp)
        tests = slices[rng.permutation(len(grid))[:_TESTS]]
        measured[number].append(_batch_noise(images, slices[orientation], move, tests, model.sigma2[number], white.frequencies))
        scores -= xp.asarray(evidence, dtype=xp.float32)[:, None, None]
        weights = xp.exp(scores, out=scores)[:, :, :-1]
        _insert_marginal(accumulators[half], weights, rows, white, grid)
        out.offsets_px.append(offsets + shifts[shift])
    sigma2, excess = _averaged(measured)
    return replace(out, halves=tuple(a.sums() for a in accumulators), sigma2=sigma2, excess=excess)


def _averaged(measured):
    """(sigma2, excess) of every series from those of the parts of a batch, None where no particle was drawn."""
    means = [[np.mean(v, axis=0) for v in zip(*parts, strict=True)] if parts else [None, None] for parts in measured]
    return [m[0] for m in means], [m[1] for m in means]


def _log_prior(offsets_px, step_px, sigma_px):
    """Log prior probability of the cells of a grid of offsets (..., 3)."""
    square = np.sum(offsets_px**2, axis=-1)
    return -0.5 * square / sigma_px**2 + min(0.0, 3 * np.log(step_px) - 1.5 * np.log(2 * np.pi * sigma_px**2))


def _log_share(n):
    """Log prior of ``n`` orientations and the ball, (n + 1,)."""
    return np.log(np.append(np.full(n, (1 - _BALL) / n), _BALL))


def _insert_marginal(accumulator, weights, rows, white, grid):
    """Adjoint of the score: for every orientation the images weighted with the posterior, inserted as slices."""
    n, n_shifts, n_orientations = weights.shape
    used = np.flatnonzero(asnumpy(weights.max(axis=(0, 1))) > _NEGLIGIBLE)
    if used.size == 0:
        return
    mine = weights[:, :, used]
    data = mine.reshape(-1, used.size).T @ rows.reshape(-1, rows.shape[-1])  # (O, 2 F K)
    weight = mine.sum(axis=1).T @ white.weight.reshape(n, -1)
    n_views, k = white.weight.shape[1:]
    turned = (white.view_rotations @ grid[used][:, None]).reshape(-1, 3, 3)
    data = data.view(np.complex64).reshape(-1, k)
    accumulator.insert(data, weight.reshape(-1, k), turned, white.frequencies)


def _batch_noise(images, slices, phases, tests, previous, frequencies):
    """(noise spectra, excess) from the residuals at the best poses; shells beyond the present resolution keep the old value."""
    n = len(frequencies)
    low = replace(images, masked=images.masked[..., :n], ctf=images.ctf[..., :n], frequencies=frequencies)
    spectra = smooth_spectra(*residual_sums(low, slice(None), slices, phases))
    spectra[:, int(frequencies.shell[-1]) + 1 :] = previous[:, int(frequencies.shell[-1]) + 1 :]
    return spectra, score_excess(low, np.arange(len(low)), slices, phases, tests, spectra)


def _score(subset, model, noise, settings):
    """Log evidence per particle of a fixed subset at given noise, against no particle and against a ball."""
    found = _grid_em(subset, model, noise, settings.first_shell, so3_grid(1), settings, maximise=False)
    return [float(np.mean(np.concatenate(v))) for v in (found.evidence, found.over_ball)]


def _pose_step(series, model, number, count, settings, rng):
    """One mini-batch of the last stage: continuous poses, growing resolution."""
    shell = settings.finish_shell(number, count)
    batch = _draw(series, settings.batch_size(sum(len(s) for s in series)), rng)
    references = [Reference.of_map(v) for v in model.halves]
    xp = array_namespace(model.volume)
    accumulators = [Accumulator(settings.box_px, xp=xp, spread=series[0].is_3d) for _ in range(2)]
    rotations, offsets, known = model.rotations.copy(), model.offsets_px.copy(), model.known.copy()
    evidence, noise, measured = model.evidence.copy(), model.noise, [[] for _ in model.sigma2]
    parts, jobs, modes = [], [], [[] for _ in batch]
    for place, (series_number, images) in enumerate(batch):
        seen = known[images.rows]
        for part, range_deg in ((np.flatnonzero(~seen), None), (np.flatnonzero(seen), 0.0)):
            if part.size:
                rows = images.rows[part]
                start = Poses(np.arange(part.size), rotations[rows], offsets[rows], np.zeros(part.size))
                plan = replace(_plan(settings, shell), range_deg=range_deg)
                jobs.append((images.take(part), noise[series_number], references[1 - _half(images)], start, plan))
                parts.append((place, part, rows))
    for (place, part, rows), posterior in zip(parts, expectation_of_all(jobs), strict=True):
        rotations[rows], offsets[rows] = posterior.best.rotations, posterior.best.shifts_px
        known[rows] = posterior.max_probability > _CLEAR_POSE
        evidence[rows] = posterior.log_evidence
        poses = posterior.poses
        modes[place].append((part[poses.particle], poses.rotations, poses.shifts_px, posterior.weight))
    found = _Expected(None, [], [], [evidence[images.rows] for _, images in batch])
    for (series_number, images), mine in zip(batch, modes, strict=True):
        every, frequencies, half = images.rows, images.frequencies.upto(shell), _half(images)
        reference = references[1 - half]
        slices = reference.view_slices(images.view_rotations, rotations[every], frequencies)
        phases = shift_phases(frequencies, images.view_rotations, offsets[every], xp)
        tests = reference.view_slices(images.view_rotations, random_rotations(_TESTS, rng), frequencies)
        measured[series_number].append(_batch_noise(images, slices, phases, tests, model.sigma2[series_number], frequencies))
        ball = ball_log_likelihoods(reference, images, noise[series_number], shell, offsets[every])
        found.over_ball.append(evidence[every] - ball)
        share = 1 / (1 + _BALL / (1 - _BALL) * np.exp(np.clip(ball - evidence[every], -50, 50)))
        index, turned, moved, weight = (np.concatenate(v) for v in zip(*mine, strict=True))
        insert_particles(accumulators[half], images, noise[series_number], index, turned, moved, weight * share[index])
    model = replace(model, rotations=rotations, offsets_px=offsets, known=known, evidence=evidence)
    sigma2, excess = _averaged(measured)
    found = replace(found, halves=tuple(a.sums() for a in accumulators), sigma2=sigma2, excess=excess)
    return _advance(model, found, shell, 0.5, batch, settings)


def _final_map(model, settings, given):
    """The last map at its centre of mass; with a point group, turned to the standard axes and symmetrised; on the given grid."""
    xp = array_namespace(model.volume)
    ball = _masked(xp.ones_like(model.volume), settings)
    volume = resample(model.volume, np.eye(3), recentre(model.volume, ball))
    operators = point_group(settings.symmetry)
    if len(operators) > 1:
        volume = resample(volume, symmetry_axes(volume, operators), np.zeros(3))
        volume = sum(resample(volume, operator, np.zeros(3)) for operator in operators) / len(operators)
    if given.box_px != settings.box_px:
        finer = resample_map(volume, settings.pixel_size_angst, given.box_px, given.pixel_size_angst)
        volume = finer / np.float32((settings.pixel_size_angst / given.pixel_size_angst) ** 3)  # transforms keep their values
    return asnumpy(_masked(volume, given)).astype(np.float32)
