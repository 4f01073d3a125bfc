"""Refinement of a tilt-series alignment against leave-one-out predictions of the slab model (see slab_model.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series import slab_model
from cryoet_core.tilt_series.coarse import correlation_peak, neighbour_links, solve_links
from cryoet_core.tilt_series.plane import PlaneSpectra, PlaneViews, in_plane, plane_spectra, shift_spectra
from cryoet_core.tilt_series.slab_model import SlabPrior


@dataclass(frozen=True)
class Band:
    """Resolution limits of a stage, A."""

    low_angst: float
    high_angst: float


def add_plane_shift(geometry: TiltGeometry, delta_angst) -> TiltGeometry:
    """Move where the specimen's centre lands by in-plane displacements (n, 2), seen through each view."""
    shift = geometry.shift_angst + np.einsum("nij,nj->ni", in_plane(geometry), delta_angst)
    return geometry.replace(x_shift_angst=shift[:, 0], y_shift_angst=shift[:, 1])


def recentre(geometry: TiltGeometry) -> TiltGeometry:
    """Choose the specimen's centre in its plane so that it stays as near as possible to the centre of all images."""
    g, s = in_plane(geometry), geometry.shift_angst
    translation = -np.linalg.solve(np.einsum("nji,njk->ik", g, g), np.einsum("nji,nj->i", g, s))
    return add_plane_shift(geometry, np.broadcast_to(translation, s.shape))


def spectra_in_band(views: PlaneViews, geometry, band: Band, thickness_angst: float):
    """Whitened spectra up to the band's upper limit and the prior fitted to them."""
    data = plane_spectra(views, geometry, max_frequency=1 / band.high_angst)
    return data, prior_in_band(data, band, thickness_angst)


def prior_in_band(data: PlaneSpectra, band: Band, thickness_angst: float) -> SlabPrior:
    """The prior of a slab of this thickness fitted to ``data``."""
    return slab_model.estimate_signal_fraction(data, thickness_angst, 1 / band.low_angst, 1 / band.high_angst)


def flat_prior(thickness_angst: float, band: Band, signal_fraction: float = 0.3) -> SlabPrior:
    """A prior for data whose coherence cannot be measured yet."""
    frequency = np.array([1 / band.low_angst, 1 / band.high_angst])
    return SlabPrior(thickness_angst, frequency, np.full(2, signal_fraction))


def coarse_step(views, geometry, band: Band, thickness_angst: float, limit_angst: float):
    """Link neighbours, solve, apply. Returns geometry and the median link residual (A)."""
    data = plane_spectra(views, geometry, max_frequency=1 / band.high_angst)
    links = neighbour_links(data, flat_prior(thickness_angst, band), limit_angst)
    position, residual = solve_links(*links, len(views))
    return recentre(add_plane_shift(geometry, position)), float(np.median(residual))


def predict_from(data: PlaneSpectra, prior: SlabPrior, view: int, others):
    """Prediction of ``view`` from the views ``others`` and the weight 1/variance of every coefficient."""
    chosen = np.append(np.asarray(others, dtype=np.int64), view)
    part = replace(
        data,
        spectra=data.spectra[chosen],
        image_frequency=data.image_frequency[chosen],
        parallax=data.parallax[chosen],
    )
    model = slab_model.precision(part, prior, n_row_groups=6)
    prediction, weight = slab_model.leave_one_out(part, model)
    return prediction[-1], weight[-1]


def matching_sweep(data: PlaneSpectra, prior: SlabPrior, limit_angst: float, outward: bool, n_references: int = 8):
    """Projection matching, one view after another from the least to the most tilted.

    Each view is correlated with its prediction from up to ``n_references`` nearest views: those already aligned
    (``outward``) or all others. Returns the accumulated in-plane shifts (n, 2), A.
    """
    xp = array_namespace(data.spectra)
    order = np.argsort(np.abs(data.parallax))
    total = np.zeros((order.size, 2))
    spectra = data.spectra.copy()
    for rank, view in enumerate(order[1:] if outward else order):
        pool = order[: rank + 1] if outward else order[order != view]
        nearest = pool[np.argsort(np.abs(np.arctan(data.parallax[pool]) - np.arctan(data.parallax[view])))]
        prediction, weight = predict_from(replace(data, spectra=spectra), prior, view, nearest[:n_references])
        peak, _ = correlation_peak(prediction.conj() * spectra[view] * weight, data, limit_angst)
        phase = xp.exp(2j * np.pi * (data.kx * float(peak[0]) + data.ky * float(peak[1])))
        spectra[view] = spectra[view] * phase.astype(xp.complex64)
        total[view] = peak
    return total - total.mean(axis=0)


def scoring_steps(data: PlaneSpectra, prior: SlabPrior, max_angst: float, steps: int = 4):
    """Fisher-scoring steps on one resampling. Returns in-plane shifts (n, 2), standard errors (n, 2), badness."""
    model = slab_model.precision(data, prior)
    total = np.zeros((data.spectra.shape[0], 2))
    best, best_total, error = np.inf, total, total
    for _ in range(steps):
        delta, error, value = slab_model.shift_step(data, model)
        if value < best:
            best, best_total = value, total
        length = np.linalg.norm(delta, axis=1).max()
        delta = delta * min(1.0, max_angst / max(length, 1e-9))
        total = total + delta
        data = shift_spectra(data, delta)
        if length < 0.01 * max_angst:
            break
    value = slab_model.badness(data, model)
    return (total, error, value) if value < best else (best_total, error, best)


def profile_badness(views, geometry, band: Band, prior: SlabPrior) -> float:
    """Badness of a geometry after letting the shifts follow."""
    data = plane_spectra(views, geometry, max_frequency=1 / band.high_angst)
    return scoring_steps(data, prior, band.high_angst, steps=2)[2]


def turned(geometry: TiltGeometry, axis_deg: float = 0.0, offset_deg: float = 0.0, x_tilt_deg: float = 0.0) -> TiltGeometry:
    """The geometry with the tilt axis turned, all tilt angles changed, and the specimen tilted about x."""
    return geometry.replace(
        z_rot_deg=geometry.z_rot_deg + axis_deg,
        y_tilt_deg=geometry.y_tilt_deg + offset_deg,
        x_tilt_deg=geometry.x_tilt_deg + x_tilt_deg,
    )


def best_thickness(views, geometry, band: Band, candidates):
    """The slab thickness (A) of highest likelihood among three or more rising ``candidates``, parabola over its logarithm."""
    data, values = plane_spectra(views, geometry, max_frequency=1 / band.high_angst), []
    for thickness in candidates:
        values.append(slab_model.badness(data, slab_model.precision(data, prior_in_band(data, band, thickness))))
    i = int(np.clip(np.argmin(values), 1, len(candidates) - 2))
    x, y = np.log(candidates[i - 1 : i + 2]), np.array(values[i - 1 : i + 2])
    a, b, _ = np.polyfit(x - x[1], y, 2)
    offset = -b / (2 * a) if a > 0 else x[int(np.argmin(y))] - x[1]
    return float(np.exp(np.clip(x[1] + offset, x[0], x[2])))


def loo_correlation(data, prior):
    """(n,) leave-one-out correlation of every view, see slab_model.leave_one_out_correlation."""
    return asnumpy(slab_model.leave_one_out_correlation(data, slab_model.precision(data, prior)))
