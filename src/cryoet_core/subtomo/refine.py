"""Gold-standard refinement: two half sets, each with its own reference, until nothing improves.

Every iteration: expectation (poses, :mod:`.search`), maximisation (half maps, :mod:`.mstep`), FSC of the unregularised half
maps inside the solvent mask, Wiener filter from that FSC, noise spectra from the residuals. Scheme: Scheres & Chen 2012,
Nat Methods 9:853 (gold standard); Scheres 2012, J Struct Biol 180:519 (regularisation).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import lowpass
from cryoet_core.fsc import fourier_shell_correlation, resolution_at, signal_limit_at
from cryoet_core.geometry import angular_distance_deg, point_group
from cryoet_core.subtomo.checkpoint import restore_refinement, save_refinement
from cryoet_core.subtomo.likelihood import (
    SeriesImages,
    ball_log_likelihoods,
    pose_log_likelihoods,
    shift_phases,
    whiten,
)
from cryoet_core.subtomo.memory import contiguous, search_tile_mb
from cryoet_core.subtomo.mstep import (
    Accumulator,
    Reference,
    insert_particles,
    join_low_resolution,
    solvent_mask,
    ssnr_from_fsc,
)
from cryoet_core.subtomo.noise import (
    balanced,
    correction_sums,
    group_amplitude,
    initial_spectra,
    joined_sums,
    noise_factors,
    residual_sums,
    spectra,
)
from cryoet_core.subtomo.poses import Poses, Posterior
from cryoet_core.subtomo.search import SearchPlan, calibrated, expectation_of_all

_DIFFUSE_PROBABILITY, _DIFFUSE_DEG = 0.3, 20.0
_DIFFUSE_EVIDENCE = 3.0  # nats for a particle against none: odds of 20


@dataclass(frozen=True)
class RefineSettings:
    """Keys of the config section, plus what the images say."""

    pixel_size_angst: float
    box_px: int
    start: str = "global"
    initial_lowpass_angst: float = 40.0
    symmetry: str = "C1"
    mask_diameter_angst: float = 350.0
    angular_sampling_deg: float = 7.5
    offset_range_px: float = 5.0
    offset_step_px: float = 1.0
    local_search_from_deg: float = 1.8
    local_search_range_deg: float = 15.0
    max_iterations: int = 12
    join_halves_angst: float = 40.0
    regularisation: float = 1.0
    likelihood: str = "exact"
    offset_sigma_angst: float | None = None
    orientation_sigma_deg: float | None = None
    relax_symmetry: str = "C1"
    norm_correction: bool = True
    scale_correction: bool = True
    memory_mb: float = 4000.0

    @property
    def box_angst(self) -> float:
        return self.box_px * self.pixel_size_angst

    @property
    def nyquist_shell(self) -> int:
        return self.box_px // 2

    def shell(self, resolution_angst: float) -> int:
        """Shell of a resolution, at most the Nyquist shell."""
        return int(min(self.nyquist_shell, max(1, np.floor(self.box_angst / resolution_angst + 1e-6))))

    @property
    def join_shell(self) -> int:
        return min(self.shell(self.join_halves_angst), self.nyquist_shell // 3)


@dataclass
class ParticlePoses:
    """What is known of all particles; rows (n, ...) are those of the table.

    rotations (n, 3, 3); offsets_px (n, 3): 3-D, from the extraction centre, tomogram axes. log_likelihood, max_probability, angle_error_deg,
    offset_error_px (n,); diffuse (n,) bool.
    """

    rotations: np.ndarray
    offsets_px: np.ndarray
    log_likelihood: np.ndarray
    max_probability: np.ndarray
    angle_error_deg: np.ndarray
    offset_error_px: np.ndarray
    diffuse: np.ndarray


@dataclass
class IterationDetails(ParticlePoses):
    """What an iteration leaves besides its numbers.

    noise_factor, angle_change_deg, offset_change_px (n,); n_poses (n,) kept modes. sigma2 : noise spectra per series, (F, n_shells);
    scale : per series; shell_weight : per half, (n_shells,) mean weight (1 / variance of the map's noise).
    """

    noise_factor: np.ndarray
    angle_change_deg: np.ndarray
    offset_change_px: np.ndarray
    n_poses: np.ndarray
    sigma2: list
    scale: list
    shell_weight: list
    offset_sigma_px: float


@dataclass
class Iteration:
    """Numbers of one iteration (they go to iterations.json); maps are the unregularised halves.

    signal_to_angst : the finest detail that the halves share, also beyond zeros of the CTF; it says what the next search compares.
    """

    number: int
    search: str
    max_shell: int
    sampling_deg: float
    resolution_angst: float
    signal_to_angst: float
    fsc: np.ndarray
    angle_change_deg: float | None
    offset_change_angst: float | None
    expected_angle_error_deg: float
    expected_offset_error_angst: float
    mean_max_probability: float
    log_likelihood: float
    n_diffuse: int
    half1: np.ndarray = field(repr=False, default=None)
    half2: np.ndarray = field(repr=False, default=None)
    details: IterationDetails | None = field(repr=False, default=None)

    def sentence(self) -> str:
        """One line for the log."""
        change = "" if self.angle_change_deg is None else f", angles changed by {self.angle_change_deg:.1f} deg"
        beyond = "" if self.signal_to_angst >= self.resolution_angst else f" (beyond a gap in the FSC signal to {self.signal_to_angst:.1f} A)"
        return (
            f"iteration {self.number}, {self.search} search: {self.resolution_angst:.1f} A{beyond}{change}, "
            f"expected error {self.expected_angle_error_deg:.1f} deg, {self.n_diffuse} without a clear pose"
        )

    def numbers(self) -> dict:
        """Everything but the maps, JSON types."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("half1", "half2", "details")}
        values["fsc"] = [float(v) for v in self.fsc]
        return values


@dataclass
class Refined(ParticlePoses):
    """Result. half1, half2: unregularised, unmasked; map: both halves, regularised, solvent set to zero.

    over_ball : (n,) nats by which a particle, in its pose, is likelier as the map of the other half than as that map's
        spherical average, by what lies beyond the shells in which the halves are joined.
    """

    half1: np.ndarray
    half2: np.ndarray
    map: np.ndarray
    fsc: np.ndarray
    iterations: list[Iteration]
    converged: bool
    over_ball: np.ndarray


@dataclass
class _Group:
    """One tilt series' particles (3D: the run's) of one half set, and their poses."""

    series: int
    half: int
    images: SeriesImages
    poses: Poses
    posterior: Posterior | None = None
    expected: np.ndarray | None = None  # (P, 3, 3) orientations of the picks, when they are a prior


def refine(
    series: list[SeriesImages], half_set, reference, settings: RefineSettings, rotations=None, report=None, checkpoint=None
):
    """Refine all particles.

    Parameters
    ----------
    series : images of every tilt series, or the 3D sums of the run as one; ``rows`` number the particles 0..n-1 over all series.
    half_set : (n,) 1 or 2. reference : (box, box, box) map, bright, any grey scale.
    rotations : (n, 3, 3) starting orientations, needed for ``start == "given_poses"``.
    report : callable(Iteration) after every iteration, or None. Its maps and details are dropped afterwards.
    checkpoint : subtomo.checkpoint.Checkpoint or None: the state is kept there after every iteration, and a run that finds
        one goes on from it, with the same result to the bit (on the same device).

    Returns
    -------
    Refined.
    """
    groups = _groups(series, np.asarray(half_set), rotations, bool(settings.orientation_sigma_deg))
    symmetry = point_group(settings.symmetry)
    xp = array_namespace(reference)
    mask = solvent_mask(settings.box_px, settings.mask_diameter_angst, settings.pixel_size_angst, xp)
    state = _State(settings, settings.shell(settings.initial_lowpass_angst))
    kept = restore_refinement(checkpoint, state, groups, xp)
    if kept is None:
        sigma2 = [initial_spectra(images, settings.likelihood) for images in series]
        first = lowpass(reference, settings.initial_lowpass_angst, settings.pixel_size_angst) * mask
        first = first * np.float32(grey_scale(groups, sigma2, first, settings, settings.start == "given_poses"))
        references, iterations = [first, first], []
    else:
        sigma2, references, done = kept
        iterations = [Iteration(**{**i, "fsc": np.array(i["fsc"])}) for i in done]
    for number in range(len(iterations) + 1, settings.max_iterations + 1):
        plan = state.plan(symmetry)
        previous = [g.poses for g in groups]
        sliced = [Reference.of_map(r) for r in references]
        jobs = [(g.images, sigma2[g.series], sliced[g.half], g.poses, plan, g.expected) for g in groups]
        for group, posterior in zip(groups, expectation_of_all(jobs), strict=True):
            group.posterior, group.poses = posterior, posterior.best
        sigma2 = _noise(groups, sigma2, sliced, settings, state.max_shell)
        state.offset_sigma_px = _offset_sigma(groups, settings, state.offset_sigma_px)
        sums = [_maximise(groups, sigma2, half, settings, symmetry, xp) for half in (0, 1)]
        halves = [s.reconstruct() for s in sums]
        fsc = asnumpy(fourier_shell_correlation(*halves, mask))
        iterations.append(_summarise(number, state, groups, previous, fsc, float(mask.mean()), halves, symmetry, settings))
        if report:
            iterations[-1].details = _details(groups, previous, sigma2, sums, symmetry, state)
            report(iterations[-1])
            iterations[-1].details = None
        if state.update(iterations) or number == settings.max_iterations:
            break
        references = _references(sums, fsc, mask, settings)
        if checkpoint is not None:
            save_refinement(checkpoint, state, groups, sigma2, references, iterations)
        iterations[-1].half1 = iterations[-1].half2 = None
    for group, posterior in zip(groups, calibrated(jobs, [g.posterior for g in groups]), strict=True):
        group.posterior = posterior
    joined = (sums[0] + sums[1]).reconstruct(ssnr_from_fsc(fsc, True, settings.regularisation)) * mask
    half1, half2, joined = (asnumpy(v) for v in (*halves, joined))
    over_ball = [_over_ball(g, job, sliced[1 - g.half], settings.join_shell) for g, job in zip(groups, jobs, strict=True)]
    return Refined(
        **_particle_poses(groups),
        half1=half1,
        half2=half2,
        map=joined,
        fsc=fsc,
        iterations=iterations,
        converged=state.converged,
        over_ball=_by_row(groups, over_ball),
    )


class _State:
    """What the next iteration searches, and whether to go on."""

    def __init__(self, settings: RefineSettings, first_shell: int):
        self.settings = settings
        self.max_shell = first_shell
        self.sampling_deg = settings.angular_sampling_deg
        given = settings.start == "given_poses"
        self.search = "local grid" if given else "global"
        self.offset_range_px = settings.offset_range_px
        given_sigma = (settings.offset_sigma_angst or 0) / settings.pixel_size_angst
        self.offset_sigma_px = given_sigma or max(settings.offset_range_px / 2, 0.5)
        self.stalled, self.best = 0, np.inf
        self.converged = False

    def plan(self, symmetry) -> SearchPlan:
        s = self.settings
        is_global = self.search == "global"
        return SearchPlan(
            max_shell=self.max_shell,
            box_angst=s.box_angst,
            diameter_angst=min(s.mask_diameter_angst, s.box_angst),
            step_deg=max(2 * s.angular_sampling_deg, 1.0) if is_global else s.angular_sampling_deg,
            range_deg={"global": None, "local grid": s.local_search_range_deg, "local": 0.0}[self.search],
            offset_range_px=self.offset_range_px,
            offset_step_px=s.offset_step_px,
            offset_sigma_px=self.offset_sigma_px,
            orientation_sigma_deg=s.orientation_sigma_deg or np.inf,
            symmetry=symmetry,
            relaxed=None if s.relax_symmetry == "C1" else point_group(s.relax_symmetry),
            likelihood=s.likelihood,
            memory_mb=search_tile_mb(s.memory_mb),
        )

    def update(self, iterations) -> bool:
        """Choose the next search; True when refinement has converged."""
        s, last = self.settings, iterations[-1]
        reached = s.shell(last.signal_to_angst)
        self.max_shell = int(min(s.nyquist_shell, max(self.max_shell if reached >= self.max_shell else 3, reached + 2)))
        change = last.angle_change_deg
        while change is not None and change < self.sampling_deg and self.sampling_deg > s.local_search_from_deg * 1.05:
            self.sampling_deg /= 2
        if self.search == "local grid" or self.sampling_deg <= s.local_search_from_deg * 1.05:
            was_local, self.search = self.search == "local", "local"
        else:
            was_local = False
        moved = (last.offset_change_angst or 0) / s.pixel_size_angst
        self.offset_range_px = float(np.clip(3 * moved, min(2.0, s.offset_range_px), s.offset_range_px))
        improved = last.signal_to_angst < self.best * 0.99
        self.best = min(self.best, last.signal_to_angst)
        settled = change is not None and change < max(0.5 * last.expected_angle_error_deg, 0.2)
        self.stalled = 0 if improved or not was_local else self.stalled + 1
        self.converged = self.search == "local" and (self.stalled >= 2 or (self.stalled >= 1 and settled))
        return self.converged


def _groups(series, half_set, rotations, as_prior=False):
    groups = []
    for number, images in enumerate(series):
        for half in (0, 1):
            part = images.take(contiguous(np.flatnonzero(half_set[images.rows] == half + 1)))
            n = len(part)
            if n == 0:
                continue
            turned = np.tile(np.eye(3), (n, 1, 1)) if rotations is None else np.asarray(rotations)[part.rows]
            poses = Poses(np.arange(n), turned, np.zeros((n, 3)), np.zeros(n))
            expected = turned if as_prior and rotations is not None else None
            groups.append(_Group(number, half, part, poses, expected=expected))
    return groups


def grey_scale(groups, sigma2, volume, settings, poses_known: bool) -> float:
    """Factor that brings ``volume`` to the grey scale of the images: one linear regression over all images.

    With known poses the images are compared with their slices; otherwise their sum with the spherical average of the
    reference, which holds for orientations of any kind as long as they are many. Returns 1 when the fit is not positive.
    """
    xp = array_namespace(volume)
    reference = Reference.of_map(volume)
    cross = norm = 0.0
    for group in groups:
        shell = settings.shell(settings.initial_lowpass_angst)
        white = whiten(group.images, sigma2[group.series], shell, likelihood=settings.likelihood)
        for p in range(0, len(group.images), 16):
            part = white.take(slice(p, p + 16))
            if poses_known:
                turned = group.poses.rotations[p : p + 16]
                slices = reference.view_slices(white.view_rotations, turned, white.frequencies)
            else:
                slices = reference.spherical_slice(white.frequencies)[None, None]
            cross += float((part.data * slices.conj()).real.sum(dtype=xp.float64))
            norm += float((part.weight * (slices.real**2 + slices.imag**2)).sum(dtype=xp.float64))
    return cross / norm if cross > 0 and norm > 0 else 1.0


def _noise(groups, sigma2, references, settings, max_shell):
    """Noise spectra of every tilt series from the residuals at the best poses (both halves, each with its reference).

    The groups' corrections are brought up to date from the same residuals.
    """
    power, weight = [np.zeros_like(s) for s in sigma2], [np.zeros_like(s) for s in sigma2]
    corrections = []
    for group in groups:
        images, poses, parts = group.images, group.poses, []
        for p in range(0, len(images), 16):
            rows = np.arange(p, min(p + 16, len(images)))
            slices = references[group.half].view_slices(
                images.view_rotations, poses.rotations[rows], images.frequencies
            )
            xp = array_namespace(slices)
            phases = shift_phases(images.frequencies, images.view_rotations, poses.shifts_px[rows], xp)
            a, b = residual_sums(images, rows, slices, phases, settings.likelihood)
            power[group.series] += a
            weight[group.series] += b
            old = sigma2[group.series]
            parts.append(correction_sums(images, rows, slices, phases, old, max_shell, settings.likelihood))
        corrections.append(joined_sums(parts))
    _correct(groups, corrections, settings)
    return [spectra(a, b, settings.likelihood) for a, b in zip(power, weight, strict=True)]


def _strength_of(group):
    """(P,) int64: the tilt series whose strength every particle of the group shares."""
    own = group.images.strength_of
    return np.full(len(group.images), group.series) if own is None else asnumpy(own)


def _correct(groups, corrections, settings):
    """Scale of every series (one for both halves, mean 1 over the particles) and noise factor of every particle."""
    owners = [_strength_of(g) for g in groups]
    numbers = np.unique(np.concatenate(owners))
    if settings.scale_correction and len(numbers) > 1:
        mine = [[c.take(o == n) for o, c in zip(owners, corrections, strict=True)] for n in numbers]
        sizes = [sum(c.cross.size for c in m) for m in mine]
        scale = balanced([group_amplitude(m) for m in mine], sizes)
        for g, o in zip(groups, owners, strict=True):
            g.images = replace(g.images, amplitude=scale[np.searchsorted(numbers, o)])
    if settings.norm_correction:
        for g, c in zip(groups, corrections, strict=True):
            g.images = replace(g.images, noise_factor=noise_factors(c))


def _offset_sigma(groups, settings, present_px):
    """Width of the offsets' prior for the next iteration, px: given, or the posterior's mean square (never below 1.5 A)."""
    if settings.offset_sigma_angst:
        return present_px
    counts = [len(g.images) for g in groups]
    square = np.average([g.posterior.mean_square_offset_px2() for g in groups], weights=counts)
    return float(np.clip(np.sqrt(square), 1.5 / settings.pixel_size_angst, max(settings.offset_range_px, 0.5)))


def _maximise(groups, sigma2, half, settings, symmetry, xp):
    spread = groups[0].images.is_3d and settings.likelihood == "exact"  # RELION's model leaves the envelope in data and map
    accumulator = Accumulator(settings.box_px, xp=xp, spread=spread)
    for group in groups:
        if group.half == half:
            poses = group.posterior.poses
            insert_particles(
                accumulator,
                group.images,
                sigma2[group.series],
                poses.particle,
                poses.rotations,
                poses.shifts_px,
                group.posterior.weight,
                symmetry,
            )
    return accumulator.sums()


def _references(sums, fsc, mask, settings):
    """Next references: low frequencies joined, Wiener-filtered by the FSC, solvent set to zero."""
    ssnr = ssnr_from_fsc(fsc, False, settings.regularisation)
    return [s.reconstruct(ssnr) * mask for s in join_low_resolution(*sums, settings.join_shell)]


def _summarise(number, state, groups, previous, fsc, mask_fraction, halves, symmetry, settings) -> Iteration:
    posterior = [g.posterior for g in groups]
    first = number == 1 and state.search == "global"
    angle = np.concatenate(
        [
            angular_distance_deg(g.poses.rotations, p.rotations, symmetry)
            for g, p in zip(groups, previous, strict=True)
        ]
    )
    move = np.concatenate(
        [np.linalg.norm(g.poses.shifts_px - p.shifts_px, axis=1) for g, p in zip(groups, previous, strict=True)]
    )
    pixel = settings.pixel_size_angst
    return Iteration(
        number=number,
        search=state.search,
        max_shell=state.max_shell,
        sampling_deg=state.sampling_deg,
        resolution_angst=resolution_at(fsc, pixel, settings.box_px),
        signal_to_angst=signal_limit_at(fsc, pixel, settings.box_px, mask_fraction),
        fsc=fsc,
        angle_change_deg=None if first else float(np.median(angle)),
        offset_change_angst=float(np.median(move) * pixel),
        expected_angle_error_deg=float(np.median(np.concatenate([p.angle_error_deg for p in posterior]))),
        expected_offset_error_angst=float(np.median(np.concatenate([p.shift_error_px for p in posterior])) * pixel),
        mean_max_probability=float(np.mean(np.concatenate([p.max_probability for p in posterior]))),
        log_likelihood=float(sum(p.log_likelihood.sum() for p in posterior)),
        n_diffuse=int(sum(is_diffuse(p).sum() for p in posterior)),
        half1=asnumpy(halves[0]),
        half2=asnumpy(halves[1]),
    )


def _by_row(groups, values):
    """One array (n, ...) over all particles from one per group."""
    joined = np.concatenate([np.asarray(v) for v in values])
    out = np.empty_like(joined)
    out[np.concatenate([g.images.rows for g in groups])] = joined
    return out


def _particle_poses(groups) -> dict:
    """The fields of :class:`ParticlePoses`."""
    names = {n: n for n in ("log_likelihood", "max_probability", "angle_error_deg")} | {"offset_error_px": "shift_error_px"}
    return {
        "rotations": _by_row(groups, [g.poses.rotations for g in groups]),
        "offsets_px": _by_row(groups, [g.poses.shifts_px for g in groups]),
        **{field: _by_row(groups, [getattr(g.posterior, name) for g in groups]) for field, name in names.items()},
        "diffuse": _by_row(groups, [is_diffuse(g.posterior) for g in groups]),
    }


def _details(groups, previous, sigma2, sums, symmetry, state) -> IterationDetails:
    before = [p.rotations for p in previous]
    moved = [np.linalg.norm(g.poses.shifts_px - p.shifts_px, axis=1) for g, p in zip(groups, previous, strict=True)]
    turned = [angular_distance_deg(g.poses.rotations, r, symmetry) for g, r in zip(groups, before, strict=True)]
    one = [np.ones(len(g.images)) for g in groups]
    noise = [o if g.images.noise_factor is None else asnumpy(g.images.noise_factor) for g, o in zip(groups, one, strict=True)]
    of_series = {}  # number of the tilt series: (its strength, whose noise spectrum it has)
    for g in groups:
        strength = np.ones(len(g.images)) if g.images.amplitude is None else asnumpy(g.images.amplitude)
        of_series |= {int(o): (float(a), g.series) for o, a in zip(_strength_of(g), strength, strict=True)}
    all_series = range(max(len(sigma2), 1 + max(of_series)))
    kept = [np.bincount(g.posterior.poses.particle, minlength=len(g.images)) for g in groups]
    return IterationDetails(
        **_particle_poses(groups),
        noise_factor=_by_row(groups, noise),
        angle_change_deg=_by_row(groups, turned),
        offset_change_px=_by_row(groups, moved),
        n_poses=_by_row(groups, kept),
        sigma2=[asnumpy(sigma2[of_series[i][1] if i in of_series else min(i, len(sigma2) - 1)]) for i in all_series],
        scale=[of_series[i][0] if i in of_series else 1.0 for i in all_series],
        shell_weight=[asnumpy(s.shell_weight()) for s in sums],
        offset_sigma_px=state.offset_sigma_px,
    )


def _over_ball(group, job, other, join_shell):
    """(P,) nats of a group's particles, in their poses, as the map of the other half against its spherical average.

    The map of their own half holds their own noise, which a search of poses turns into evidence: particles of pure noise
    get a hundred nats from it. The other map knows nothing of them beyond the shells in which the halves are joined.
    """
    images, sigma2, _, _, plan, _ = job
    rotations, shifts = group.poses.rotations, group.poses.shifts_px

    def upto(shell):
        posed = pose_log_likelihoods(other, images, sigma2, shell, rotations, shifts, plan.likelihood)
        return posed - ball_log_likelihoods(other, images, sigma2, shell, shifts, plan.likelihood)

    return upto(plan.max_shell) - upto(min(join_shell, plan.max_shell))


def is_diffuse(posterior: Posterior):
    """(P,) bool: no pose stands out, the likelihood hardly bends, or a particle in any pose is hardly likelier than none."""
    unclear = (posterior.max_probability < _DIFFUSE_PROBABILITY) | (posterior.angle_error_deg > _DIFFUSE_DEG)
    return unclear | (posterior.log_evidence < _DIFFUSE_EVIDENCE)


def half_sets(names, seed: int):
    """Random halves by identity: (n,) of 1 and 2. Depends only on the names and the seed; differs by at most one in size."""
    import hashlib

    keys = [hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in names]
    order = np.argsort(np.array(keys), kind="stable")
    out = np.empty(len(keys), dtype=np.int64)
    out[order] = 1 + np.arange(len(keys)) % 2
    return out

