"""Averaging against truth: likelihoods, credible poses, wrong poses, noise, initial models, and the speed of the expectation step.

Particles are beads projected in real space by the simulator (no slice of a transform anywhere), crowded by small proteins, under a CTF,
radiation damage and counting noise written out here; only then premultiplied and cropped. The rotations of the views are written out too.

    python benchmarks/averaging_targets.py coverage wrong_poses offset noise template rate initial_model --out results.json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.fft import fftshift, ifftshift, irfft2, irfftn, rfft2, rfftn
from scipy.stats import chi2

from cryoet_core.fourier import lowpass
from cryoet_core.fsc import fourier_shell_correlation, resolution_at
from cryoet_core.geometry import angular_distance_deg
from cryoet_core.metadata import Particles
from cryoet_core.simulate.molecules import chiral_molecule, density_map, ribosome
from cryoet_core.simulate.physics import phase_per_potential
from cryoet_core.simulate.splat import gaussian_table, project_beads, splat_blobs
from cryoet_core.subtomo.evaluate import align_map_to, mirror, pose_errors
from cryoet_core.subtomo.extract import ExtractionSettings, crop_to_disc
from cryoet_core.subtomo.initial_model import InitialModelSettings, initial_model
from cryoet_core.subtomo.likelihood import SeriesImages, log_likelihoods, shift_phases, whiten
from cryoet_core.subtomo.mstep import Reference
from cryoet_core.subtomo.noise import residual_sums, spectra
from cryoet_core.subtomo.poses import PosePrior, Poses, refine_poses
from cryoet_core.subtomo.refine import RefineSettings, half_sets, refine
from cryoet_core.subtomo.refine_run import volume_images
from cryoet_core.subtomo.search import SearchPlan, calibrated, expectation_of_all, grid_search, translation_grid
from cryoet_core.subtomo.stacks import ParticleVolumes
from cryoet_core.subtomo.volumes import sum_views, view_noise

WAVELENGTH, CS, Q0 = 0.0196875, 2.7e7, 0.1  # A, A, fraction: 300 kV, 2.7 mm
BEAD_SIGMA = 4.0  # A
DQE, MEAN_FREE_PATH, THICKNESS = 0.7, 3000.0, 1200.0


@dataclass
class Data:
    images: SeriesImages
    rotations: np.ndarray
    offsets_px: np.ndarray
    truth: np.ndarray
    pixel: float
    diameter: float
    stack: np.ndarray  # (n, F, box, box) premultiplied real images
    ctf: np.ndarray  # (n, F, box, box//2 + 1)
    optics: np.ndarray  # (n, F, 4) defocus, dose before, dose, scale
    false: np.ndarray  # (n,) bool, no particle at all


def views(tilts, axis_deg):
    """(F, 3, 3) Rz(axis) Ry(tilt), written out."""
    a = np.deg2rad(axis_deg)
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    t = np.deg2rad(tilts)
    zero, one = np.zeros(t.size), np.ones(t.size)
    ry = np.stack([np.stack(r, -1) for r in ((np.cos(t), zero, np.sin(t)), (zero, one, zero), (-np.sin(t), zero, np.cos(t)))], 1)
    return rz @ ry


def random_matrices(n, rng):
    q, r = np.linalg.qr(rng.standard_normal((n, 3, 3)))
    q = q * np.sign(np.einsum("nii->ni", r))[:, None, :]
    q[:, :, 0] *= np.sign(np.linalg.det(q))[:, None]
    return q


def transfer(n, pixel, defocus, before, dose, scale):
    """c(k) = CTF x damage x scale on the rfft2 grid of n pixels."""
    k = np.hypot(np.fft.fftfreq(n, pixel)[:, None], np.fft.rfftfreq(n, pixel)[None])
    gamma = np.pi * WAVELENGTH * defocus * k**2 - 0.5 * np.pi * CS * WAVELENGTH**3 * k**4 + np.arcsin(Q0)
    damage = np.exp(-(before + dose / 2) / (2 * (0.24499 * np.maximum(k, 1e-5) ** -1.6649 + 2.8141)))
    return np.sin(gamma) * damage * scale


def half_size(transform, n):
    """The central n x n Fourier coefficients of an image twice as fine; the Nyquist rows are dropped."""
    h = n // 2
    out = np.concatenate([transform[:h], transform[-h:]])[:, : h + 1] / 4
    out[h], out[:, h] = 0, 0
    return out


def true_map(molecule, pixel, box):
    """Map whose sums along an axis are the pixels of a projection, of the contrast 2 x phase."""
    fine = density_map(molecule, pixel / 2, 2 * box, BEAD_SIGMA) * (2 * phase_per_potential(300.0) * pixel)
    f = fftshift(rfftn(ifftshift(fine)), axes=(0, 1))
    f = ifftshift(f[box // 2 : -(box // 2), box // 2 : -(box // 2), : box // 2 + 1], axes=(0, 1)) / 8
    f[box // 2], f[:, box // 2], f[:, :, box // 2] = 0, 0, 0
    return fftshift(irfftn(f, s=(box,) * 3)).astype(np.float32)


def simulate(
    molecule, n, *, pixel=7.64, box=64, dose=3.0, noise=1.0, tilts=None, axis=85.0, sigma_offset_angst=8.0, crowd=1.0, diameter=320.0,
    seed=0, offsets_px=None, first_row=0, defocus=25000.0, crowd_kda=60.0, false_share=0.0,
) -> Data:
    """Premultiplied stacks of n particles of one series. ``noise`` multiplies the standard deviation of the counting noise.

    false_share : of the particles are none: each is another heap of the molecule's beads, of the same size and mass.
    """
    rng = np.random.default_rng([seed, n])
    tilts = np.arange(-60.0, 60.1, 4.0) if tilts is None else np.asarray(tilts, float)
    rotate, order = views(tilts, axis), np.argsort(np.argsort(np.abs(tilts), kind="stable"))
    turned = random_matrices(n, rng)
    offsets = rng.standard_normal((n, 3)) * sigma_offset_angst / pixel if offsets_px is None else offsets_px
    loss = np.exp(-0.5 * THICKNESS / MEAN_FREE_PATH * (1 / np.cos(np.deg2rad(tilts)) - 1))
    sigma = noise / np.sqrt(dose * pixel**2 * DQE * np.exp(-THICKNESS / MEAN_FREE_PATH))
    work, fine, table = 2 * box, 4 * box, gaussian_table(2 * BEAD_SIGMA / pixel)
    weights = (molecule.potential_v_angst3 * phase_per_potential(300.0) * 2 / (pixel / 2) ** 2).astype(np.float32)
    images = np.empty((n, tilts.size, box, box), np.float32)
    ctf = np.empty((n, tilts.size, box, box // 2 + 1), np.float32)
    every_optics = np.empty((n, tilts.size, 4))
    cut = slice(work // 2 - box // 2, work // 2 + box // 2)
    false = np.arange(n) < round(false_share * n)
    for p in range(n):
        place = np.einsum("fij,j->fi", rotate[:, :2], offsets[p]) * 2 + fine // 2
        fields = crowded(crowd, rotate, fine, pixel / 2, rng, crowd_kda)
        beads = heap(molecule.xyz_angst, rng) if false[p] else molecule.xyz_angst
        project_beads(fields, beads, weights, rotate @ turned[p], place, pixel / 2, table)
        depth = rng.uniform(-400, 400)
        for f in range(tilts.size):
            optics = every_optics[p, f] = (defocus + depth, dose * order[f], dose, loss[f])
            clean = half_size(rfft2(np.roll(fields[f], (-(fine // 2),) * 2, (0, 1))), work)
            c = transfer(work, pixel, *optics)
            spectrum = clean * c + rfft2(rng.standard_normal((work, work)) * sigma)
            images[p, f] = fftshift(irfft2(spectrum * c, s=(work, work)))[cut, cut]
            ctf[p, f] = transfer(box, pixel, *optics)
    packed = SeriesImages.from_images(images, ctf, rotate, first_row + np.arange(n), disc(box, diameter / pixel))
    return Data(packed, turned, offsets, true_map(molecule, pixel, box), pixel, diameter, images, ctf, every_optics, false)


def heap(xyz, rng):
    """The same beads as another body: six lobes of random places, a different one at every call."""
    radius = np.sqrt(np.mean(np.sum(xyz**2, axis=1)))
    lobes = rng.standard_normal((6, 3)) * 0.45 * radius
    out = lobes[rng.integers(6, size=len(xyz))] + rng.standard_normal((len(xyz), 3)) * 0.38 * radius
    return (out - out.mean(axis=0)).astype(xyz.dtype)


def disc(box, diameter_px):
    """Circular mask with a raised-cosine edge of 3 px."""
    axis = np.arange(box) - box // 2
    edge = np.clip((diameter_px / 2 + 3 - np.hypot(axis[:, None], axis[None])) / 3, 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * edge)).astype(np.float32)


def with_noise(data: Data, sigma, rng) -> Data:
    """The same particles with other noise: white of standard deviation ``sigma`` per pixel, premultiplied, before the mask."""
    box = data.stack.shape[-1]
    raw = rng.standard_normal(data.stack.shape, dtype=np.float32) * np.float32(sigma)
    images = data.stack + irfft2(rfft2(raw) * data.ctf, s=(box, box)).astype(np.float32)
    old, mask = data.images, disc(box, data.diameter / data.pixel)
    return replace(data, images=SeriesImages.from_images(images, data.ctf, old.view_rotations, old.rows, mask))


@dataclass
class Summed(ParticleVolumes):
    """3D pseudo-subtomograms kept in memory."""

    made: tuple = ()

    def sums(self, row):
        data, weight, multiplicity = (getattr(self.made[row], name) for name in ("data", "weight", "multiplicity"))
        return data / np.float32(np.sqrt(self.box)), weight, multiplicity


def summed(data: Data, whiten=True, name="TS_01") -> Summed:
    """The particles' images summed in 3D as extraction does it: faded to the disc, in a box twice as large, inserted into the grid of the box."""
    n, n_views, box = data.stack.shape[:3]
    settings = ExtractionSettings(1, 2 * box, box)
    images = crop_to_disc(data.stack.reshape(-1, box, box), 0.0)
    noise = view_noise(images, Recomputed(data), np.tile(np.arange(n_views), n), n_views, data.pixel) if whiten else None
    used = np.hypot(np.fft.fftfreq(2 * box)[:, None], np.fft.rfftfreq(2 * box)[None]) <= 0.5
    used, made = np.broadcast_to(used, (n_views, *used.shape)), []
    for p in range(n):
        boxes = np.pad(images[p * n_views : (p + 1) * n_views], ((0, 0), (box // 2,) * 2, (box // 2,) * 2))
        c = np.stack([transfer(2 * box, data.pixel, *optics) for optics in data.optics[p]]).astype(np.float32)
        made.append(sum_views(boxes, c, used, data.images.view_rotations, settings, noise))
    table = pd.DataFrame({"tomo_name": [name] * n})
    return Summed(Particles(table), data.pixel, box, made=tuple(made))


@dataclass
class Recomputed:
    """Transfer of the images of all particles, one after another, in the form that extraction has it."""

    data: Data

    def evaluate(self, rows, shape, pixel):
        return self.data.ctf.reshape(-1, shape[0], shape[0] // 2 + 1)[rows]


def in_3d(data: Data, whiten=True, likelihood="exact") -> Data:
    """The same particles with the 3D sums in place of their images."""
    images = volume_images(summed(data, whiten), data.diameter, likelihood=likelihood)
    return replace(data, images=replace(images, rows=data.images.rows))


def crowded(level, rotate, fine, pixel, rng, kda=60.0):
    """Projections (F, fine, fine) of proteins of ``kda`` (``level`` x 40 mg/ml) in the slab around and across a particle."""
    out = np.zeros((len(rotate), fine, fine), np.float32)
    if level == 0:
        return out
    reach = np.array([0.5 * fine * pixel + THICKNESS, 0.5 * fine * pixel + THICKNESS, THICKNESS / 2])
    number = rng.poisson(level * 4.0e-7 * 60.0 / kda * np.prod(2 * reach))
    xyz = rng.uniform(-1, 1, (number, 3)) * reach
    xyz = xyz[np.linalg.norm(xyz, axis=1) > 150]
    weight = np.full(len(xyz), kda * 3.0e3 * phase_per_potential(300.0) * 2 / pixel**2)
    width = 16.0 * (kda / 60.0) ** (1 / 3) / pixel
    for f, matrix in enumerate(rotate):
        points = xyz @ matrix[:2].T / pixel + fine // 2
        near = np.all((points > -12) & (points < fine + 12), axis=1)
        splat_blobs(out[f], points[near], weight[near], np.full(near.sum(), width))
    return out


def noise_spectra(data: Data, reference, likelihood="exact"):
    """Spectra from the residuals at the true poses: what a refinement converges to."""
    sums = [0.0, 0.0]
    for p in range(0, len(data.images), 16):
        rows = np.arange(p, min(p + 16, len(data.images)))
        slices = reference.view_slices(data.images.view_rotations, data.rotations[rows], data.images.frequencies)
        phases = shift_phases(data.images.frequencies, data.images.view_rotations, data.offsets_px[rows])
        parts = residual_sums(data.images, rows, slices, phases, likelihood)
        sums = [a + b for a, b in zip(sums, parts, strict=True)]
    return spectra(*sums, likelihood)


def plan_of(data: Data, likelihood="exact", shell=None, **values):
    box = data.images.frequencies.box_px
    values = {"offset_range_px": 24.0 / data.pixel, "offset_sigma_px": 8.0 / data.pixel, **values}
    return SearchPlan(shell or box // 2, box * data.pixel, data.diameter, likelihood=likelihood, **values)


def nothing_known(n):
    return Poses(np.arange(n), np.tile(np.eye(3), (n, 1, 1)), np.zeros((n, 3)), np.zeros(n))


def search(data, likelihood, **values):
    reference = Reference.of_map(data.truth)
    sigma2 = noise_spectra(data, reference, likelihood)
    plan = plan_of(data, likelihood, **values)
    jobs = [(data.images, sigma2, reference, nothing_known(len(data.images)), plan)]
    return calibrated(jobs, expectation_of_all(jobs))[0]


def credible(posterior, rotations, offsets_px, rng, samples=4000, probability=0.95):
    """Is the true pose in the particle's highest-density set of ``probability``? (P,) bool.

    The posterior is the mixture of its modes' Gaussians; the threshold of the density comes from samples of the mixture.
    """
    inside = np.empty(len(rotations), bool)
    for p in range(len(rotations)):
        mine = np.flatnonzero(posterior.poses.particle == p)
        modes, cov, weight = posterior.poses.take(mine), posterior.covariance[mine], posterior.weight[mine]
        factors, draws = np.linalg.cholesky(cov), []
        for m, count in enumerate(rng.multinomial(samples, weight)):
            draws.append(rng.standard_normal((count, 6)) @ factors[m].T)
        # the modes are far apart: from each only its own density counts
        density = [_mode_log(v, cov[m], weight[m]) for m, v in enumerate(draws) if len(v)]
        threshold = np.quantile(np.concatenate(density), 1 - probability)
        inside[p] = _density_at(modes, cov, weight, rotations[p], offsets_px[p]) >= threshold
    return inside


def likely_enough(data, posterior, likelihood, **values):
    """Is the true pose in the set of all poses whose log posterior is within half the 95 % quantile of chi2(6), 6.3 nats, of the best? (P,) bool.

    The credible set of the posterior itself; :func:`credible` is that of its description by Gaussians.
    """
    plan, reference, n = plan_of(data, likelihood, **values), Reference.of_map(data.truth), len(data.images)
    white = whiten(data.images, noise_spectra(data, reference, likelihood), plan.max_shell, likelihood=likelihood)
    truth = Poses(np.arange(n), data.rotations, data.offsets_px, np.zeros(n))
    values = refine_poses(white, reference, truth, PosePrior(np.zeros((n, 3)), plan.offset_sigma_px), n_steps=0)[0].score
    return posterior.log_likelihood - values < 0.5 * chi2.ppf(0.95, 6)


def _mode_log(difference, cov, weight):
    solved = np.linalg.solve(cov, difference.T).T
    return np.log(weight) - 0.5 * np.sum(difference * solved, axis=1) - 0.5 * np.linalg.slogdet(cov)[1]


def _density_at(modes, cov, weight, rotation, offset_px):
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(rotation @ np.swapaxes(modes.rotations, 1, 2)).as_rotvec()
    steps = np.concatenate([turn, offset_px - modes.shifts_px], axis=1)
    return max(_mode_log(steps[m : m + 1], cov[m], weight[m])[0] for m in range(len(steps)))


def wrong(posterior, data, limit_deg=15.0):
    return angular_distance_deg(posterior.best.rotations, data.rotations) > limit_deg


def coverage(args):
    """Credible sets after a global search with the true map; errors of the right poses, and what was expected (root mean squares)."""
    conditions = {
        "bin 8, noise x 3": (3.0, args.crowd, 15.28, 32), "bin 8, noise x 3, not crowded": (3.0, 0.0, 15.28, 32),
        "bin 4, noise x 2": (2.0, args.crowd, 7.64, 64), "bin 4, noise x 5": (5.0, args.crowd, 7.64, 64),
    }  # fmt: skip
    out = {}
    for name, (noise, crowd, pixel, box) in conditions.items():
        data = simulate(ribosome(), args.particles, pixel=pixel, box=box, noise=noise, crowd=crowd, seed=args.seed + len(out))
        posterior = search(data, "exact")
        inside = credible(posterior, data.rotations, data.offsets_px, np.random.default_rng(0))
        near = ~wrong(posterior, data)
        angle = angular_distance_deg(posterior.best.rotations, data.rotations)[near]
        out[name] = {
            "asked": "0.90 to 0.98", "in_95_of_posterior": float(likely_enough(data, posterior, "exact").mean()),
            "credible_95": float(inside.mean()), "credible_95_of_right": float(inside[near].mean()),
            "wrong": float(1 - near.mean()), "median_deg": float(np.median(angle)), "rms_deg": float(np.sqrt(np.mean(angle**2))),
            "expected_deg": float(np.sqrt(np.mean(posterior.angle_error_deg[near] ** 2))),
        }
        print(name, out[name], flush=True)
    return out


def counting_noise(pixel, dose=3.0):
    return 1 / np.sqrt(dose * pixel**2 * DQE * np.exp(-THICKNESS / MEAN_FREE_PATH))


def likelihoods(args):
    """Wrong poses without any search: is one of 4,608 orientations more than 30 degrees away more likely than the true pose?

    The same particles and noise for both likelihoods, each with its own spectra; many noises for each particle.
    """
    from cryoet_core.geometry import so3_grid

    clean = simulate(ribosome(), 40, noise=0.0, crowd=args.crowd, seed=1)
    reference, rng, out = Reference.of_map(clean.truth), np.random.default_rng(0), {}
    n, grid, frequencies = 40, so3_grid(2), clean.images.frequencies
    for noise in args.noise:
        trials = [with_noise(clean, noise * counting_noise(clean.pixel), rng) for _ in range(args.trials)]
        wins = {}
        for kind in ("exact", "relion"):
            whites = []
            for t in trials:
                sigma2 = noise_spectra(t, reference, kind)
                whites.append(whiten(t.images, sigma2, frequencies.box_px // 2, t.offsets_px, likelihood=kind))
            wins[kind] = beaten(whites, reference, grid, clean.rotations)
        counts = {k: int(w.sum()) for k, w in wins.items()}
        out[f"noise x {noise:g}"] = {
            "asked": "exact <= 0.75 relion", **{k: c / (n * args.trials) for k, c in counts.items()}, "trials": n * args.trials,
            "ratio": counts["exact"] / max(counts["relion"], 1), "only_exact_wrong": int((wins["exact"] & ~wins["relion"]).sum()),
            "only_relion_wrong": int((wins["relion"] & ~wins["exact"]).sum()),
        }
        print(noise, out[f"noise x {noise:g}"], flush=True)
    return out


def beaten(whites, reference, grid, rotations, tile=128):
    """(trials, n) bool: some far orientation of the grid is more likely than the true one."""
    first, best, n = whites[0], None, len(rotations)
    still = np.zeros((1, 3))
    own = reference.view_slices(first.view_rotations, rotations, first.frequencies)
    phases = shift_phases(first.frequencies, first.view_rotations, still)
    truth = np.stack([[log_likelihoods(w.take(slice(p, p + 1)), own[p : p + 1], phases)[0, 0, 0] for p in range(n)] for w in whites])
    best = np.full(truth.shape, -np.inf)
    for o in range(0, len(grid), tile):
        part = grid[o : o + tile]
        slices = reference.view_slices(first.view_rotations, part, first.frequencies)
        near = angular_distance_deg(part[None], rotations[:, None]) < 30
        for t, w in enumerate(whites):
            scores = log_likelihoods(w, slices, phases)[:, 0]
            best[t] = np.maximum(best[t], np.where(near, -np.inf, scores).max(axis=1))
    return best > truth


def wrong_poses(args):
    out = {}
    for noise in args.noise:
        data = simulate(ribosome(), args.particles, noise=noise, crowd=args.crowd, seed=1)
        both = [search(data, likelihood) for likelihood in ("exact", "relion")]
        rates = [float(wrong(p, data).mean()) for p in both]
        sigma2 = [noise_spectra(data, Reference.of_map(data.truth), k) for k in ("exact", "relion")]
        out[f"noise x {noise:g}"] = {
            "asked": "exact <= 0.75 relion", "exact": rates[0], "relion": rates[1],
            "ratio": rates[0] / max(rates[1], 1e-9), "n": len(data.images),
            "less_likely_than_truth": [float(_missed(data, s, p, k)) for s, p, k in zip(sigma2, both, ("exact", "relion"), strict=True)],
        }
        print(noise, out[f"noise x {noise:g}"], flush=True)
    return out


def _missed(data, sigma2, posterior, likelihood):
    """Share of particles whose found pose is less likely than the true one refined: errors of the search, not of the likelihood."""
    start = Poses(np.arange(len(data.images)), data.rotations, data.offsets_px, np.zeros(len(data.images)))
    plan = plan_of(data, likelihood, range_deg=0.0)
    best = expectation_of_all([(data.images, sigma2, Reference.of_map(data.truth), start, plan)])[0]
    return np.mean(best.log_likelihood > posterior.log_likelihood + 1.0)


def offset(args):
    """A 3 px offset at bin 8 in one iteration, global and local search."""
    rng = np.random.default_rng(3)
    direction = rng.standard_normal((40, 3))
    offsets = 3 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    data = simulate(ribosome(), 40, pixel=15.28, box=32, offsets_px=offsets, crowd=args.crowd)
    reference = Reference.of_map(data.truth)
    sigma2, out = noise_spectra(data, reference), {}
    for name, values in (("global", {}), ("local", {"range_deg": 15.0, "step_deg": 7.5})):
        plan = plan_of(data, shell=12, offset_range_px=5.0, offset_sigma_px=2.5, **values)
        start = replace(nothing_known(40), rotations=data.rotations @ views(np.full(40, 6.0), 0.0))
        best = expectation_of_all([(data.images, sigma2, reference, start, plan)])[0].best
        error = np.linalg.norm(best.shifts_px - offsets, axis=1)
        out[name] = {"asked": "recovered", "within_half_px": float(np.mean(error < 0.5)), "median_px": float(np.median(error))}
    print(out, flush=True)
    return out


def pure_noise(data, seed):
    """The same particles' images with noise alone: new noise of a common spectrum times c."""
    rng = np.random.default_rng(seed)
    shape = data.images.masked.shape
    values = rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0] * data.images.ctf
    return replace(data.images, masked=values, unmasked=values)


def noise_settings(data, **values):
    box = data.images.frequencies.box_px
    values = {"mask_diameter_angst": data.diameter, "initial_lowpass_angst": 60.0, "max_iterations": 4, "offset_range_px": 3.0, **values}
    return RefineSettings(data.pixel, box, **values)


def noise(args):
    """Halves of pure noise, and the reference in their map (no template from noise), over seeds; bin 8."""
    data = simulate(ribosome(), args.particles, pixel=15.28, box=32, crowd=0)
    box, rows = 32, []
    for seed in range(args.seeds):
        images = pure_noise(data, seed)
        settings = noise_settings(data)
        result = refine([images], half_sets(range(len(images)), seed), data.truth, settings)
        start = max(settings.shell(settings.initial_lowpass_angst), settings.join_shell) + 1
        with_truth = fourier_shell_correlation(result.map, data.truth)
        rows.append({
            "first_independent_shell": start, "fsc_mean_beyond": float(result.fsc[start:].mean()), "fsc_max_beyond": float(result.fsc[start:].max()),
            "resolution_angst": result.iterations[-1].resolution_angst, "template_fsc_mean_beyond": float(with_truth[start:].mean()),
            "template_fsc_max_beyond": float(np.abs(with_truth[start:]).max()), "template_fsc_within": float(with_truth[1:start].mean()),
            "diffuse": float(result.diffuse.mean()), "last_shell": result.iterations[-1].max_shell, "box": box,
        })
        print(seed, rows[-1], flush=True)
    return {"asked": "fsc beyond the low-pass < 0.143; reference not in the map beyond it", "seeds": rows}


def peak_gflops(rows=2048, inner=4096, columns=1152, repeats=3):
    """sgemm rate of this run, one thread."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner), dtype=np.float32), rng.standard_normal((columns, inner), dtype=np.float32)
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        a @ b.T
        best = min(best, time.process_time() - start)
    return 2e-9 * rows * inner * columns / best


def rate(args):
    """Grid search of bin 4 and bin 8 particles as a fraction of the matrix product's peak (CPU time, one thread)."""
    from threadpoolctl import threadpool_limits

    from cryoet_core.geometry import so3_grid

    out = {}
    with threadpool_limits(1):
        for name, pixel, box, shell in (("bin 8, 38 A", 15.28, 32, 13), ("bin 4, 38 A", 7.64, 64, 13)):
            data = simulate(chiral_molecule(), 64, pixel=pixel, box=box, crowd=0)
            reference = Reference.of_map(data.truth)
            white = whiten(data.images, noise_spectra(data, reference), shell)
            shifts, grid = translation_grid(5, 2), so3_grid(2)
            centre = np.zeros((64, 3))
            prior, plan = PosePrior(centre, 2.5), plan_of(data, shell=shell)
            grid_search(white.take(slice(0, 4)), prior, centre, reference, grid[:64], shifts, 8, plan)
            peak, start = peak_gflops(), time.process_time()
            grid_search(white, prior, centre, reference, grid, shifts, 8, plan)
            seconds = time.process_time() - start
            flop = 2.0 * 64 * len(shifts) * len(grid) * 2 * white.data[0].size
            out[name] = {
                "asked": ">= 0.70", "fraction_of_peak": 1e-9 * flop / seconds / peak, "peak_gflops": peak, "seconds": seconds,
                "orientations": len(grid), "shifts": len(shifts), "coefficients": int(white.data[0].size),
            }
            print(name, out[name], flush=True)
    return out


CONDITIONS = {  # of initial_model: as the demo's particles, and dim ones in a crowd of heavy bodies, a fifth of them false
    "demo": {"pixel": 21.0, "box": 24, "dose": 3.4},
    "dim": {"pixel": 15.0, "box": 32, "noise": 2.5, "crowd": 2.0, "crowd_kda": 600.0, "false_share": 0.2, "defocus": 17000.0},
}


def initial_models(args):
    """New particles, noise and random starts for every seed: structure and hand against truth."""
    out = {}
    for name in args.conditions:
        rows = []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            half = args.particles // 2
            series = [
                simulate(ribosome(), half, axis=80.0 + 8 * s, seed=2 * seed + s, first_row=s * half, **CONDITIONS[name]) for s in (0, 1)
            ]
            rows.append({"seed": seed, **one_initial_model(series, seed)})
            print(name, rows[-1], flush=True)
        out[name] = {"asked": ">= 9 of 10", "right": sum(r["right"] for r in rows), "of": len(rows), "particles": args.particles, "seeds": rows}
    return out


def one_initial_model(series, seed):
    truth, pixel, box = series[0].truth, series[0].pixel, series[0].truth.shape[0]
    start = time.process_time()
    settings = InitialModelSettings(pixel, box, mask_diameter_angst=series[0].diameter)
    model = initial_model([s.images for s in series], settings, np.random.default_rng(seed))
    seconds = time.process_time() - start
    reversed_truth = mirror(truth)
    found, other = align_map_to(model.map, truth), align_map_to(model.map, reversed_truth)
    fsc, mirrored = fourier_shell_correlation(found.map, truth), fourier_shell_correlation(other.map, reversed_truth)
    limit = resolution_at(fsc, pixel, box, 0.5)
    return {
        "right": bool(limit < 60.0 and limit < resolution_at(mirrored, pixel, box, 0.5) and found.correlation > other.correlation),
        "fsc_half_angst": limit, "fsc_half_mirrored_angst": resolution_at(mirrored, pixel, box, 0.5), "correlation": found.correlation,
        "correlation_mirrored": other.correlation, "shift_angst": float(np.linalg.norm(found.shift_px)) * pixel, "cpu_s": seconds,
        "mirror_gain": model.mirror_gain, "over_ball": model.over_ball, "starts": model.log_likelihood_starts,
    }


def two_series(args, **values):
    """Two series of half the particles each, with other tilt axes and rows that go on."""
    half = args.particles // 2
    return [
        simulate(ribosome(), half, crowd=args.crowd, axis=80.0 + 8 * s, first_row=s * half, **{**values, "seed": values["seed"] + s})
        for s in (0, 1)
    ]


def refined(images, series, likelihood, start, **values):
    """Refinement of ``images`` (list of SeriesImages) of the Data ``series`` from orientations ``start``: errors, FSC against truth, CPU time."""
    truth, pixel, box = series[0].truth, series[0].pixel, series[0].truth.shape[0]
    rotations, offsets = (np.concatenate([getattr(s, k) for s in series]) for k in ("rotations", "offsets_px"))
    values = {"start": "given_poses", "mask_diameter_angst": 320.0, "max_iterations": 5, **values}
    settings, clock = RefineSettings(pixel, box, likelihood=likelihood, **values), time.process_time()
    result = refine(images, half_sets(range(len(rotations)), 0), lowpass(truth, settings.initial_lowpass_angst, pixel), settings, start)
    errors = pose_errors(result.rotations, result.offsets_px * pixel, rotations, offsets * pixel)
    fsc, n = fourier_shell_correlation(result.map, truth), len(result.iterations)
    return {
        "asked": "<= 2.5 deg, 1.5 A", "median_deg": errors.median_angle_deg, "median_angst": errors.median_position_angst,
        "wrong": float(np.mean(errors.angle_deg > 15)), "gold_standard_angst": result.iterations[-1].resolution_angst,
        "against_truth_angst": resolution_at(fsc, pixel, box, 0.5), "iterations": n, "seconds_per_iteration": (time.process_time() - clock) / n,
        "fsc_truth": [float(v) for v in fsc],
    }


def turned_by(rotations, sigma_deg, rng):
    """``rotations`` (n, 3, 3) turned by Gaussian rotation vectors of ``sigma_deg`` per axis."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.deg2rad(sigma_deg) * rng.standard_normal((len(rotations), 3))).as_matrix() @ rotations


def refinement(args):
    """Gold-standard refinement of two series at bin 4 from poses as a bin 8 round leaves them, for both likelihoods."""
    series = two_series(args, noise=args.noise[0], seed=30)
    start, out = turned_by(np.concatenate([s.rotations for s in series]), 4.0, np.random.default_rng(5)), {}
    for likelihood in ("exact", "relion"):
        out[likelihood] = refined([s.images for s in series], series, likelihood, start)
        print(likelihood, {k: v for k, v in out[likelihood].items() if k != "fsc_truth"}, flush=True)
    return out


def direct_3d(images, sigma2, p, shell, volumes, shifts):
    """Sums over coefficients in float64: Re D* P - W |P|^2 / 2 over sigma^2, for volumes (O, K) and shifts (T, 3) -> (T, O)."""
    frequencies = images.frequencies.upto(shell)
    n = len(frequencies)
    x, w = images.masked[p, 0, :n].astype(complex), images.ctf[p, 0, :n].astype(float) ** 2
    s2, out = sigma2[0, frequencies.shell], np.empty((len(shifts), len(volumes)))
    for t, shift in enumerate(shifts):
        ramp = np.exp(-2j * np.pi / frequencies.box_px * (frequencies.points @ shift))
        for o, volume in enumerate(volumes):
            model = volume.astype(complex) * ramp
            out[t, o] = np.sum(((x.conj() * model).real - 0.5 * w * np.abs(model) ** 2) / s2)
    return out


def likelihood_3d(args):
    """The 3D likelihood: its matrix form against direct sums; against the 2D one on the same particles; searches and refinements of both."""
    out = {}
    for name, pixel, box, noise in (("bin 8", 15.28, 32, args.noise_3d[0]), ("bin 4", 7.64, 64, args.noise_3d[1])):
        data = simulate(ribosome(), args.particles, pixel=pixel, box=box, noise=noise, crowd=args.crowd, seed=args.seed)
        solid = in_3d(data)
        out[name] = {"noise": noise, "particles": args.particles, **_compared(data, solid)}
        plain = {"3D plain sums": (in_3d(data, False), "exact"), "3D relion": (in_3d(data, False, "relion"), "relion")}
        for kind, (d, likelihood) in {"2D": (data, "exact"), "3D": (solid, "exact"), **plain, "2D relion": (data, "relion")}.items():
            out[name][kind] = _searched(d, likelihood)
            print(name, kind, out[name][kind], flush=True)
    series = two_series(args, noise=args.noise_3d[2], seed=args.seed + 10)
    start, n = turned_by(np.concatenate([s.rotations for s in series]), 4.0, np.random.default_rng(args.seed)), args.particles // 2
    made = [summed(s, name=f"TS_{i}") for i, s in enumerate(series)]
    table = Particles(pd.concat([m.particles.table for m in made], ignore_index=True))
    run = Summed(table, series[0].pixel, 64, made=made[0].made + made[1].made)
    for kind, images in (("2D", [s.images for s in series]), ("3D", [volume_images(run, 320.0, half_sets(range(2 * n), 0))])):
        out[f"refinement {kind}"] = refined(images, series, "exact", start)
        print(kind, {k: v for k, v in out[f"refinement {kind}"].items() if k != "fsc_truth"}, flush=True)
    return out


def _compared(data, solid, n_poses=60):
    """Matrix form against direct sums, and 3D against 2D log-likelihoods over poses near the truth and far from it, at Nyquist."""
    reference, rng, rows = Reference.of_map(data.truth), np.random.default_rng(1), []
    shell = data.truth.shape[0] // 2 - 1
    noise = [noise_spectra(d, reference) for d in (data, solid)]
    for p in range(min(8, len(data.images))):
        turned = np.concatenate([data.rotations[p][None], turned_by(np.repeat(data.rotations[p][None], n_poses, 0), 8.0, rng), random_matrices(n_poses, rng)])
        shifts, both = data.offsets_px[p] + np.array([[0.0, 0, 0], [0.7, -0.4, 0.2]]), []
        for d, sigma2 in zip((data, solid), noise, strict=True):
            white = whiten(d.images.take([p]), sigma2, shell)
            slices = reference.view_slices(white.view_rotations, turned, white.frequencies)
            both.append(log_likelihoods(white, slices, shift_phases(white.frequencies, white.view_rotations, shifts))[0].astype(float))
        expected = direct_3d(solid.images, noise[1], p, shell, slices[:, 0], shifts)
        slope = np.polyfit(both[0].ravel(), both[1].ravel(), 1)
        rows.append((
            np.abs(both[1] - expected).max(), np.corrcoef(both[0].ravel(), both[1].ravel())[0, 1], np.std(both[1] - both[0]),
            np.std(both[1] - np.polyval(slope, both[0])), slope[0], np.ptp(both[0]),
        ))
    names = ("matrix_against_direct_nats", "correlation", "rms_difference_nats", "rms_beside_a_line_nats", "slope", "range_nats")
    rows = np.array(rows)
    return {"asked": "<= 1e-3 nats", names[0]: float(rows[:, 0].max()), **{k: float(v) for k, v in zip(names[1:], rows[:, 1:].mean(axis=0), strict=True)}}


def _searched(data, likelihood):
    """One global expectation step with the true map: wrong poses, errors, credible sets, CPU time."""
    clock = time.process_time()
    posterior = search(data, likelihood)
    seconds = time.process_time() - clock
    near = ~wrong(posterior, data)
    inside = credible(posterior, data.rotations, data.offsets_px, np.random.default_rng(0))
    best = posterior.best
    return {
        "wrong": float(1 - near.mean()), "median_deg": float(np.median(angular_distance_deg(best.rotations, data.rotations)[near])),
        "expected_deg": float(np.median(posterior.angle_error_deg[near])),
        "median_angst": float(np.median(np.linalg.norm(best.shifts_px - data.offsets_px, axis=1)[near]) * data.pixel),
        "credible_95_of_right": float(inside[near].mean()), "in_95_of_posterior": float(likely_enough(data, posterior, likelihood).mean()),
        "seconds": seconds,
    }


PARTS = {"coverage": coverage, "likelihoods": likelihoods, "wrong_poses": wrong_poses, "offset": offset, "noise": noise, "rate": rate, "initial_model": initial_models, "refinement": refinement, "likelihood_3d": likelihood_3d}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "all"])
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0, help="of initial_model")
    parser.add_argument("--conditions", nargs="+", choices=[*CONDITIONS], default=[*CONDITIONS], help="of initial_model")
    parser.add_argument("--noise", type=float, nargs="+", default=[4.0, 6.0], help="factors on the counting noise (wrong poses)")
    parser.add_argument("--trials", type=int, default=10, help="noises of each particle (likelihoods)")
    parser.add_argument("--crowd", type=float, default=1.0, help="small proteins around the particles, x 40 mg/ml")
    parser.add_argument("--noise-3d", type=float, nargs=3, default=[3.0, 5.0, 3.0], help="likelihood_3d: of the searches at bin 8 and bin 4, of the refinement")
    parser.add_argument("--seed", type=int, default=70, help="of the particles (coverage, likelihood_3d)")
    parser.add_argument("--out", help="JSON file of all numbers")
    args = parser.parse_args()
    results = {part: PARTS[part](args) for part in (PARTS if "all" in args.parts else args.parts)}
    if args.out:
        with open(args.out, "w") as handle:
            json.dump(results, handle, indent=1)


if __name__ == "__main__":
    main()
