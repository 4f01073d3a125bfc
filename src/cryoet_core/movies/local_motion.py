"""Local motion of one movie: a smooth field about the whole-frame track, and a test that it helps.

All patches are fitted together: the field's nodes maximise scale * (sum of all patches' pair correlations) + log prior. The prior is a
Gaussian process over the steps between frames, whose values at two places are alike by exp(-distance / LENGTH) (as in Zivanov et al. 2019,
IUCrJ 6, 5, for particles). It is white in the unknowns used here, so an unconstrained mode stays at nothing. The field of one half of the
frequencies must then raise the objective on the other half over what it does without its local part; otherwise there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from cryoet_core.movies import local_field
from cryoet_core.movies.local_field import LocalField
from cryoet_core.movies.motion import MIN_SIGNIFICANCE
from cryoet_core.movies.pair_correlation import split_frequencies
from cryoet_core.movies.patch_correlation import OVERLAP, PatchMaps, patch_layout, patch_maps

STEPS_ANGST = (0.5, 2.0, 8.0)  # typical local movement between two frames, from calm to violent; the held-out test chooses
LENGTH_ANGST = 5000.0  # distance at which it has changed
START_SMOOTHING_ANGST = 8.0


@dataclass(frozen=True)
class FieldBasis:
    """Unknowns z (T, N, 2), standard normal a priori, to the field: nodes = to_time z to_space', movement = time z space'.

    time : (frames, T). space : (patches, N). to_time : (t, T). to_space : (y * x, N).
    """

    time: np.ndarray
    space: np.ndarray
    to_time: np.ndarray
    to_space: np.ndarray

    def movement(self, z):
        """(frames, patches, 2)."""
        return np.einsum("ft,tna,pn->fpa", self.time, z, self.space, optimize=True)

    def transposed(self, gradient):
        """(T, N, 2) from a gradient of the movement."""
        return np.einsum("ft,fpa,pn->tna", self.time, gradient, self.space, optimize=True)

    def nodes(self, z):
        """(t, y * x, 2)."""
        return np.einsum("kt,tna,mn->kma", self.to_time, z, self.to_space, optimize=True)


def field_basis(grid_xy, n_time: int, times, n_frames: int, shape, points_xy, pixel_size_angst: float, step_angst: float) -> FieldBasis:
    """Unknowns that are independent under the prior.

    times : (frames,) where the estimation's frames lie on the movie's 0 .. n_frames - 1. points_xy : (patches, 2). step_angst : of the prior.
    """
    time = local_field.time_basis(n_time, times, n_frames)
    steps = np.diff(time, axis=0)
    values, vectors = np.linalg.eigh(steps.T @ steps)
    kept = values > 1e-9 * values.max()  # a constant moves nothing
    to_time = vectors[:, kept] / np.sqrt(values[kept])
    nodes_xy = _nodes_xy(grid_xy, shape)
    apart = np.linalg.norm(nodes_xy[:, None] - nodes_xy[None], axis=2) * pixel_size_angst
    to_space = np.linalg.cholesky((step_angst / pixel_size_angst) ** 2 * np.exp(-apart / LENGTH_ANGST))
    space = local_field.space_basis(grid_xy, shape, points_xy)
    return FieldBasis(time @ to_time, space @ to_space, to_time, to_space)


def _nodes_xy(grid_xy, shape):
    """(y * x, 2) positions of the nodes, movie pixels."""
    along = [np.linspace(0, n - 1, k) if k > 1 else np.array([(n - 1) / 2]) for n, k in zip(shape[::-1], grid_xy, strict=True)]
    x, y = np.meshgrid(*along)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def objective_scale(maps: PatchMaps, movement) -> float:
    """What one unit of the objective weighs in log-likelihood near ``movement`` (see motion.signal_scale); patches overlap."""
    return max(0.0, float(maps.curvature(movement).sum() / maps.gradient_variance().sum())) / OVERLAP


def refine_field(maps: PatchMaps, basis: FieldBasis, start):
    """Unknowns z that maximise scale * objective - |z|^2 / 2, from ``start``."""
    z = start
    for _ in range(2):
        scale = objective_scale(maps, basis.movement(z))

        def cost(flat, scale=scale):
            here = flat.reshape(start.shape)
            value, gradient = maps.value_and_gradient(basis.movement(here))
            return 0.5 * float(flat @ flat) - scale * value, flat - scale * basis.transposed(gradient).ravel()

        z = minimize(cost, z.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-7}).x.reshape(start.shape)
    return z


def fit_field(maps: PatchMaps, basis: FieldBasis, pixel_size_angst: float):
    """Unknowns z of the best field: from no local motion, and from the fit to blurred maps, which reaches further."""
    zero = np.zeros((basis.time.shape[1], basis.space.shape[1], 2))
    far = refine_field(maps.smoothed(START_SMOOTHING_ANGST / pixel_size_angst), basis, zero)
    found = [refine_field(maps, basis, start) for start in (zero, far)]
    scale = max(objective_scale(maps, basis.movement(z)) for z in found)
    return max(found, key=lambda z: scale * maps.value(basis.movement(z)) - 0.5 * float((z**2).sum()))


def held_out_gain(halves, basis: FieldBasis, pixel_size_angst: float):
    """Objective gained on each half of the frequencies by the local part of the field fitted to the other: (gain, in standard deviations).

    The local part is tested alone: against the same field averaged over the patches; the field must also be better than no movement.
    """
    local, total, variance, all_variance = 0.0, 0.0, 0.0, 0.0
    for fitted, tested in (halves, halves[::-1]):
        movement = basis.movement(fit_field(fitted, basis, pixel_size_angst))
        shared = np.broadcast_to(movement.mean(axis=1, keepdims=True), movement.shape)
        value, still = tested.value(movement), np.zeros_like(movement)
        local += value - tested.value(shared)
        variance += tested.noise_of_gain(movement, shared) ** 2
        total += value - tested.value(still)
        all_variance += tested.noise_of_gain(movement, still) ** 2
    least = np.sqrt(np.finfo(float).tiny)
    return local, float(min(local / max(np.sqrt(variance), least), total / max(np.sqrt(all_variance), least)))


def predicted_error(maps: PatchMaps, basis: FieldBasis, z) -> float:
    """Rms error of one coordinate of the field over frames and patches, movie pixels: the posterior's width."""
    movement = basis.movement(z)
    scale = objective_scale(maps, movement)
    bend = np.clip(scale * maps.curvature(movement), 0, None)
    steps = basis.time[maps.second] - basis.time[maps.first]  # (pairs, T)
    variances = []
    for axis in (0, 1):
        per_patch = np.einsum("qs,pq,qt->pst", steps, bend[:, :, axis], steps, optimize=True)
        precision = np.einsum("pst,pm,pn->smtn", per_patch, basis.space, basis.space, optimize=True)
        size = precision.shape[0] * precision.shape[1]
        covariance = np.linalg.inv(precision.reshape(size, size) + np.eye(size)).reshape(precision.shape)
        over_time = np.einsum("smtn,fs,ft->mn", covariance, basis.time, basis.time, optimize=True) / len(basis.time)
        variances.append(np.einsum("mn,pm,pn->", over_time, basis.space, basis.space, optimize=True) / len(basis.space))
    return float(np.sqrt(np.mean(variances)))


def _stripe(band, layout) -> int:
    """Columns of one stripe of a half: stripes blur a half's content along x by the width of the image over theirs, a quarter of a patch here."""
    return max(4, -(-4 * band[1] // layout.side[1]))


@dataclass(frozen=True)
class LocalResult:
    """field : None when it was not accepted. shared_px : (n_frames, 2) what the fit adds to the track. held_out_gain : standard deviations."""

    field: LocalField | None
    shared_px: np.ndarray
    held_out_gain: float


def estimate_local(
    spectra,
    shape,
    band,
    pixel_size_angst: float,
    track_px,
    groups,
    grid_xy,
    *,
    n_time: int | None = None,
    resolution_range_angst=(500.0, 10.0),
    b_factor_angst2: float = -500.0,
    rng: np.random.Generator | None = None,
) -> LocalResult:
    """Local motion about a whole-frame track.

    Parameters
    ----------
    spectra : band spectra (pair_correlation.band_spectrum) of the groups of frames; band : their (h, w); shape : (h, w) of the movie.
    track_px : (groups, 2) movement x, y of the groups, movie pixels. groups : frame numbers of each group (motion.group_frames).
    grid_xy : nodes along x and y. n_time : nodes in time (None: at most TIME_NODES).
    """
    n_frames = int(sum(len(g) for g in groups))
    n_time = min(local_field.TIME_NODES, len(groups), n_time or len(groups))
    nothing = LocalResult(None, np.zeros((n_frames, 2)), 0.0)
    if len(groups) < 2 or n_time < 2:
        return nothing
    scale_xy = (shape[1] / band[1], shape[0] / band[0])
    layout = patch_layout(band, (pixel_size_angst * scale_xy[1], pixel_size_angst * scale_xy[0]), grid_xy)
    half = split_frequencies(band, rng or np.random.default_rng(0), _stripe(band, layout))

    def maps_of(columns):
        return patch_maps(spectra, band, scale_xy, pixel_size_angst, track_px, layout, columns,
                          resolution_range_angst=resolution_range_angst, b_factor_angst2=b_factor_angst2)

    halves = maps_of(half), maps_of(~half)
    times = [float(g.mean()) for g in groups]
    centres = halves[0].centres_px
    bases = [field_basis(grid_xy, n_time, times, n_frames, shape, centres, pixel_size_angst, step) for step in STEPS_ANGST]
    tested = [(held_out_gain(halves, basis, pixel_size_angst), basis) for basis in bases]
    (_, gain), basis = max(tested, key=lambda one: one[0][0])
    if gain < MIN_SIGNIFICANCE:
        return replace(nothing, held_out_gain=gain)
    maps = maps_of(np.ones_like(half))  # of the halves each is smeared along x a little
    z = fit_field(maps, basis, pixel_size_angst)
    nodes = basis.nodes(z).reshape(n_time, grid_xy[1], grid_xy[0], 2)
    nodes, shared = local_field.without_shared_part(nodes, shape)
    found = LocalField(nodes, tuple(shape), n_frames, gain, predicted_error(maps, basis, z))
    return LocalResult(found, local_field.time_basis(n_time, np.arange(n_frames), n_frames) @ shared, gain)
