"""Bundle adjustment of patch tracks: patch positions, shifts, tilt axis and tilt offset from where patches land in the views.

    landing(patch, view) = TiltGeometry.project(X_patch) + deformation(view; x, y) ,    residuals with a heavy tail (Cauchy)

Gauss-Newton with Levenberg's damping on sparse normal equations; Cauchy's weights are renewed in every step. What the landings
cannot tell is held by weak priors: the specimen's centre and its tilt about the axis, which is the same as a common tilt offset, by
patches lying in a level slab around Z = 0. The offset therefore is that which levels the specimen, no better.
Model of IMOD's tiltalign (Mastronarde & Held 2017), robust weights of Triggs et al. 2000.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse

from cryoet_core.errors import DataQualityError
from cryoet_core.geometry.local_deformation import LocalDeformation, from_plane
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series.patches import PatchTracks
from cryoet_core.tilt_series.plane import in_plane
from cryoet_core.tilt_series.refine_alignment import recentre, turned

CAUCHY_SCALE = 2.385  # residuals in units of sigma at which the weight is a half: 95 % efficiency on normal noise
OUTLIER_SIGMA = 4.0
MIN_PATCHES = 6
ACCEPT_SIGMA = 3.0  # standard errors by which held-out landmarks must agree better before an adjustment is taken
FOLDS = 4


@dataclass(frozen=True)
class BundleModel:
    """What is free and what is known before.

    axis_order : None keeps the axis; 0 one angle for all views; 1, 2 also a slope and curvature over the tilt angle. slab_sigma_angst :
    spread of patch depths around the level plane, or, not ``level``, around those given. offset_prior_deg : of a common tilt offset, around the one given. deformation_angst : of one coefficient of
    the local deformation (quadratic in x, y; over nodes in tilt), None = none. shear_angst : the same of its shear, which a turned axis
    resembles: both displace along y in proportion to x, and change with the tilt's size.
    """

    shifts: bool = True
    axis_order: int | None = 0
    offset: bool = True
    offset_prior_deg: float = 10.0
    slab_sigma_angst: float = 300.0
    level: bool = True
    deformation_angst: float | None = None
    deformation_nodes: int = 5
    shear_angst: float = 1.0


@dataclass(frozen=True)
class Bundle:
    """geometry : TiltGeometry. points_angst (p, 3). residual_px (m,) of every observation; view_residual_px (n,) median per view, NaN where
    nothing was observed. sigma_px : robust, one coordinate, at weight 1. outlier_share : beyond four sigma. Errors are standard errors from the covariance.
    deformation : local deformation of the views, None without. held_out_px, held_out_rigid_px : with and without deformation, NaN when not tried.
    """

    geometry: TiltGeometry
    points_angst: np.ndarray
    residual_px: np.ndarray
    view_residual_px: np.ndarray
    sigma_px: float
    outlier_share: float
    axis_change_deg: float
    axis_error_deg: float
    tilt_offset_deg: float
    tilt_offset_error_deg: float
    shift_error_angst: np.ndarray
    deformation: LocalDeformation | None = None
    held_out_px: float = np.nan
    held_out_rigid_px: float = np.nan


@dataclass
class _Unknowns:
    """points (p, 3) A, shift (n, 2) A, axis (k,) and offset (1,) in radians, deformation (nodes * 10) px."""

    points: np.ndarray
    shift: np.ndarray
    axis: np.ndarray
    offset: np.ndarray
    deformation: np.ndarray

    def moved(self, step) -> _Unknowns:
        parts = np.split(step, np.cumsum([v.size for v in self._fields()])[:-1])
        return _Unknowns(*(v + p.reshape(v.shape) for v, p in zip(self._fields(), parts, strict=True)))

    def _fields(self):
        return self.points, self.shift, self.axis, self.offset, self.deformation


class _Problem:
    """Residuals and derivatives of one set of tracks."""

    def __init__(self, tracks: PatchTracks, geometry: TiltGeometry, pixel_size_angst: float, model: BundleModel):
        self.tracks, self.geometry, self.pixel, self.model = tracks, geometry, pixel_size_angst, model
        self.reach = max(float(np.abs(tracks.points_angst[:, :2]).max()), 1.0)
        tilt = geometry.y_tilt_deg / 60.0
        self.axis_basis = np.stack([tilt**k for k in range((model.axis_order or 0) + 1)], axis=1)
        self.nodes = model.deformation_nodes if model.deformation_angst else 0
        self.hats = _hats(geometry.y_tilt_deg, self.nodes)
        self.start = _Unknowns(tracks.points_angst.astype(float), geometry.shift_angst, np.zeros(self.axis_basis.shape[1]),
                               np.zeros(1), np.zeros(10 * self.nodes))  # fmt: skip
        self.sizes = [v.size for v in self.start._fields()]
        self.edges = np.concatenate([[0], np.cumsum(self.sizes)])
        self.free = self._free()
        self.design = self._deformation_design()
        self.seen = in_plane(geometry)  # displacements happen in the specimen; the tilt shortens them

    def _free(self):
        m = self.model
        flags = (True, m.shifts, m.axis_order is not None, m.offset, True)
        return np.concatenate([np.full(n, f) for n, f in zip(self.sizes, flags, strict=True)])

    def _deformation_design(self):
        """(m, 5 nodes): what one coordinate of each observation takes from the coefficients; fixed at the first guess."""
        shape = self.shapes(self.tracks.points_angst[self.tracks.patch, :2])
        return (self.hats[self.tracks.view][:, :, None] * shape[:, None, :]).reshape(len(shape), -1)

    def shapes(self, plane_angst):
        """(m, 5) shapes of the local deformation at (m, 2) of the specimen plane; over all patches their mean is zero, that is the shift's part."""
        return _shapes(plane_angst / self.reach) - _shapes(self.tracks.points_angst[:, :2] / self.reach).mean(axis=0)

    def deformation_sigmas(self):
        """(nodes * 10,) px: spread of the coefficients, in the order of the unknowns."""
        sigmas = np.full((self.nodes, 5, 2), (self.model.deformation_angst or 1.0) / self.pixel)
        sigmas[:, [0, 1], [1, 0]] = min(self.model.shear_angst, self.model.deformation_angst or 1.0) / self.pixel
        return sigmas.ravel()

    def deformation(self, u: _Unknowns) -> LocalDeformation | None:
        """The local deformation of all views as one over their images."""
        if not self.nodes:
            return None
        views = np.einsum("vn,nks,vts->vkt", self.hats, u.deformation.reshape(self.nodes, 5, 2), self.seen) * self.pixel
        return from_plane(lambda plane: self.shapes(plane) @ views, self.turned(u), self.reach)

    def turned(self, u: _Unknowns) -> TiltGeometry:
        axis = np.rad2deg(self.axis_basis @ u.axis)
        moved = turned(self.geometry, axis_deg=axis, offset_deg=float(np.rad2deg(u.offset[0])))
        return moved.replace(x_shift_angst=u.shift[:, 0], y_shift_angst=u.shift[:, 1])

    def residual(self, u: _Unknowns):
        """(m, 2) seen minus predicted, px."""
        landing = self.turned(u).project(u.points)[0][self.tracks.view, self.tracks.patch] / self.pixel
        return self.tracks.xy_px - landing - self.bend(u)

    def bend(self, u):
        """(m, 2) local deformation, px."""
        if not self.nodes:
            return np.zeros_like(self.tracks.xy_px)
        return np.einsum("mts,ms->mt", self.seen[self.tracks.view], self.design @ u.deformation.reshape(-1, 2))

    def jacobian(self, u: _Unknowns):
        """(2 m, unknowns) sparse: derivatives of the predictions, px; the rows are x and y of each observation."""
        t, geometry = self.tracks, self.turned(u)
        m, rotation = len(t.patch), geometry.rotation
        uv, depth = geometry.replace(x_shift_angst=0.0, y_shift_angst=0.0).project(u.points)
        uv, depth = uv[t.view, t.patch], depth[t.view, t.patch]
        angle = np.deg2rad(geometry.z_rot_deg[t.view])
        across = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        row = np.arange(2 * m).reshape(m, 2)
        blocks = []
        columns = np.broadcast_to(3 * t.patch[:, None, None] + np.arange(3), (m, 2, 3))
        blocks.append((rotation[t.view, :2] / self.pixel, columns))
        columns = (self.edges[1] + 2 * t.view[:, None] + np.arange(2))[:, :, None]
        blocks.append((np.full((m, 2, 1), 1 / self.pixel), columns))
        swing = np.stack([-uv[:, 1], uv[:, 0]], axis=1)[:, :, None] * self.axis_basis[t.view][:, None, :] / self.pixel
        blocks.append((swing, np.broadcast_to(self.edges[2] + np.arange(swing.shape[2]), swing.shape)))
        lean = (across * depth[:, None] / self.pixel)[:, :, None]
        blocks.append((lean, np.full(lean.shape, self.edges[3])))
        if self.nodes:
            values = (self.seen[t.view][:, :, None, :] * self.design[:, None, :, None]).reshape(m, 2, -1)
            blocks.append((values, np.broadcast_to(self.edges[4] + np.arange(values.shape[2]), values.shape)))
        data = np.concatenate([v.ravel() for v, _ in blocks])
        rows = np.concatenate([np.broadcast_to(row[:, :, None], v.shape).ravel() for v, _ in blocks])
        column = np.concatenate([c.ravel() for _, c in blocks])
        return scipy.sparse.csr_matrix((data, (rows, column)), shape=(2 * m, self.edges[-1]))

    def prior(self, u: _Unknowns):
        """Gradient and diagonal of minus the log prior, (unknowns,) each."""
        m = self.model
        plane = np.array([self.reach, self.reach, m.slab_sigma_angst])
        sigmas = (
            np.broadcast_to(plane, u.points.shape), np.full(u.shift.shape, 1e4), np.full(u.axis.shape, np.deg2rad(10.0)),
            np.deg2rad([m.offset_prior_deg]), self.deformation_sigmas(),
        )  # fmt: skip
        centres = (self.start.points * [1, 1, not m.level], u.shift, np.zeros_like(u.axis), np.zeros(1), np.zeros_like(u.deformation))
        precision = np.concatenate([1 / s.ravel() ** 2 for s in sigmas])
        away = np.concatenate([(v - c).ravel() for v, c in zip(u._fields(), centres, strict=True)])
        return precision * away, precision


def _shapes(plane):
    """(m, 5) shapes of the local deformation at positions (m, 2) of the specimen plane in units of the reach."""
    x, y = np.asarray(plane).T
    return np.stack([x, y, x * x, x * y, y * y], axis=1)


def _hats(tilt_deg, nodes: int):
    """(n, nodes) linear interpolation between nodes spread over the tilt range: smooth over views."""
    if not nodes:
        return np.zeros((len(tilt_deg), 0))
    at = np.linspace(tilt_deg.min(), tilt_deg.max(), nodes)
    return np.stack([np.interp(tilt_deg, at, row) for row in np.eye(nodes)], axis=1)


def _sigma(residual, weight) -> float:
    """Robust standard deviation of one coordinate at weight 1, px (median of Rayleigh's distribution is 1.177 sigma)."""
    return max(float(np.median(np.linalg.norm(residual, axis=1) * np.sqrt(weight))) / 1.1774, 1e-4)


def _cauchy(residual, weight, sigma):
    """(m,) weights of observations."""
    return weight / (1 + weight * np.sum(residual**2, axis=1) / (2 * (CAUCHY_SCALE * sigma) ** 2))


def _cost(problem, u, sigma):
    r, w = problem.residual(u), problem.tracks.weight
    c = 2 * (CAUCHY_SCALE * sigma) ** 2
    away, precision = problem.prior(u)
    return 0.5 * c / sigma**2 * np.log1p(w * np.sum(r**2, axis=1) / c).sum() + 0.5 * (away**2 / precision).sum()


def _normal_equations(problem, u, sigma):
    r = problem.residual(u)
    root = np.repeat(np.sqrt(_cauchy(r, problem.tracks.weight, sigma)) / sigma, 2)
    jacobian = scipy.sparse.diags(root) @ problem.jacobian(u)
    gradient, precision = problem.prior(u)
    normal = (jacobian.T @ jacobian).toarray() + np.diag(precision)
    right = jacobian.T @ (root * r.ravel()) - gradient
    return normal[np.ix_(problem.free, problem.free)], right[problem.free]


def _minimise(problem: _Problem, iterations: int = 40):
    """Unknowns, sigma (px) and the covariance of the free unknowns."""
    u, damping = problem.start, 1e-3
    for _ in range(iterations):
        sigma = _sigma(problem.residual(u), problem.tracks.weight)
        cost = _cost(problem, u, sigma)
        normal, right = _normal_equations(problem, u, sigma)
        gain = 0.0
        for _ in range(8):
            step = np.zeros(problem.edges[-1])
            step[problem.free] = _scaled_inverse(normal, damping) @ right
            trial = u.moved(step)
            gain = cost - _cost(problem, trial, sigma)
            if gain > 0:
                u, damping = trial, max(damping / 5, 1e-9)
                break
            damping *= 5
        if gain < 1e-6 * max(cost, 1.0):
            break
    sigma = _sigma(problem.residual(u), problem.tracks.weight)
    return u, sigma, _scaled_inverse(_normal_equations(problem, u, sigma)[0])


def _scaled_inverse(normal, damping: float = 0.0):
    """Inverse after scaling to a unit diagonal, because unknowns come in A, radians and pixels."""
    root = np.sqrt(np.diag(normal))
    scaled = normal / root[:, None] / root + damping * np.eye(len(root))
    return scipy.linalg.cho_solve(scipy.linalg.cho_factor(scaled), np.eye(len(root))) / root[:, None] / root


def _check(tracks: PatchTracks):
    seen = np.unique(tracks.patch).size
    if seen < MIN_PATCHES:
        raise DataQualityError(
            "E-TS-01", "too few patches could be tracked", field="patches", found=seen,
            expected=f"at least {MIN_PATCHES}", fix="use mode: projection_matching for this series, or a smaller patch",
        )  # fmt: skip


def solve_bundle(tracks: PatchTracks, geometry: TiltGeometry, pixel_size_angst: float, model: BundleModel | None = None) -> Bundle:
    """Adjust everything to the tracks.

    Parameters
    ----------
    tracks : see patches.PatchTracks. geometry : first alignment of the same views. pixel_size_angst : of the raw views.

    Raises
    ------
    DataQualityError E-TS-01 when fewer than six patches were tracked.
    """
    _check(tracks)
    model = model or BundleModel()
    problem = _Problem(tracks, geometry, pixel_size_angst, model)
    u, sigma, covariance = _minimise(problem)
    residual = np.linalg.norm(problem.residual(u), axis=1)
    full = np.zeros(problem.edges[-1])
    full[problem.free] = np.sqrt(np.maximum(np.diag(covariance), 0))
    errors = problem.start.moved(full)  # of angles and deformation, whose start is zero
    shift_error = full[problem.edges[1] : problem.edges[2]].reshape(-1, 2)
    per_view = [np.median(residual[tracks.view == i]) if np.any(tracks.view == i) else np.nan for i in range(len(geometry))]
    return Bundle(
        geometry=recentre(problem.turned(u)),
        points_angst=u.points,
        residual_px=residual,
        view_residual_px=np.array(per_view),
        sigma_px=sigma,
        outlier_share=float(np.mean(residual * np.sqrt(tracks.weight) > OUTLIER_SIGMA * sigma)),
        axis_change_deg=float(np.rad2deg((problem.axis_basis @ u.axis).mean())),
        axis_error_deg=float(np.rad2deg(errors.axis[0])),
        tilt_offset_deg=float(np.rad2deg(u.offset[0])),
        tilt_offset_error_deg=float(np.rad2deg(errors.offset[0])),
        shift_error_angst=np.linalg.norm(shift_error, axis=1),
        deformation=problem.deformation(u),
    )


def held_out_residuals(tracks: PatchTracks, geometry: TiltGeometry, pixel_size_angst: float, model: BundleModel):
    """(m,) residuals, px, of patches that took no part in finding the views' geometry (only their own position is fitted).

    Folds are runs of neighbouring patches, because overlapping patches share their noise.
    """
    residual = np.full(len(tracks.patch), np.nan)
    fixed = replace(model, shifts=False, axis_order=None, offset=False, deformation_angst=None)
    fold = np.arange(len(tracks.points_angst)) * FOLDS // len(tracks.points_angst)
    for k in range(FOLDS):
        out = fold[tracks.patch] == k
        if not out.any() or out.all():
            continue
        found, bend = geometry, 0.0
        if model.shifts or model.deformation_angst:
            problem = _Problem(tracks.select(~out), geometry, pixel_size_angst, model)
            u, _, _ = _minimise(problem)
            found = problem.turned(u)
            bend = _Problem(tracks.select(out), geometry, pixel_size_angst, model).bend(u)
        part = tracks.select(out)
        test = _Problem(replace(part, xy_px=part.xy_px - bend), found, pixel_size_angst, fixed)
        residual[out] = np.linalg.norm(test.residual(_minimise(test)[0]), axis=1)
    return residual


def improvement(before, after) -> float:
    """How many standard errors the clipped mean of paired residuals ``after`` (m,) lies below ``before``; positive = better."""
    both = np.isfinite(before) & np.isfinite(after)
    if both.sum() < 2:
        return 0.0
    limit = 4 * np.median(before[both]) + 1e-9
    gain = np.minimum(before[both], limit) - np.minimum(after[both], limit)
    return float(gain.mean() / (gain.std() / np.sqrt(gain.size) + 1e-12))


def solve_with_deformation(tracks, geometry, pixel_size_angst, model: BundleModel, n_sigma: float = 3.0, rigid=None) -> Bundle:
    """:func:`solve_bundle`, with local deformation only when it predicts patches that were held out better than ``rigid`` does, by default the
    same model without deformation.
    """
    rigid = rigid or replace(model, deformation_angst=None)
    plain = held_out_residuals(tracks, geometry, pixel_size_angst, rigid)
    bent = held_out_residuals(tracks, geometry, pixel_size_angst, model)
    chosen = model if improvement(plain, bent) > n_sigma else rigid
    found = solve_bundle(tracks, geometry, pixel_size_angst, chosen)
    return replace(found, held_out_px=float(np.nanmedian(bent)), held_out_rigid_px=float(np.nanmedian(plain)))
