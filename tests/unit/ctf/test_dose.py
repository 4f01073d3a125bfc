"""Phase shift and astigmatism that change with dose: found where the data have them, left alone where not.

Spectra are written down here from the textbook formula, bin by bin, with gamma-distributed noise; no images.
"""

import numpy as np
import pytest
from rings import AMPLITUDE, CS_MM, KV, _lambda

from cryoet_core.ctf.fit import fit_series
from cryoet_core.ctf.model import Optics
from cryoet_core.ctf.score import prepare_view
from cryoet_core.ctf.spectra import PolarGrid, ViewSpectra

PIXEL, WINDOW, N = 2.5, 256, 24
TILTS = np.linspace(-46, 46, N)
DOSE = 3.0 * np.argsort(np.argsort(np.abs(TILTS), kind="stable"))
X = 2 * DOSE / DOSE.max() - 1
N_TILES = 60


def _spectrum(rng, grid, defocus, cosine, sine, phase_rad):
    lam = _lambda()
    zk2 = defocus * grid.k2 + 0.5 * (cosine * grid.k2_cos + sine * grid.k2_sin)
    gamma = np.pi * lam * zk2 - 0.5 * np.pi * CS_MM * 1e7 * lam**3 * grid.k2**2 + np.arcsin(AMPLITUDE) + phase_rad
    mean = 1 / (1 + (grid.k / 0.05) ** 2) * 0.5 * np.sin(gamma) ** 2 + 1
    shape = np.maximum(N_TILES * grid.counts, 1)
    return ViewSpectra((mean * rng.gamma(shape) / shape)[None], np.zeros(1), np.array([N_TILES]), np.ones((2, 2), np.float32), 0.0)


def _fit(rng, cosine, sine, phase_deg, fit_phase):
    grid = PolarGrid.create(WINDOW, PIXEL, 40.0)
    defocus = 25000 + rng.normal(0, 300, N)
    values = np.broadcast_arrays(defocus, cosine, sine, np.deg2rad(phase_deg))
    spectra = [_spectrum(rng, grid, *v) for v in zip(*values, strict=True)]
    radii = slice(*np.searchsorted(grid.k, [1 / 30, 1 / 8]))
    optics = Optics(KV, CS_MM, AMPLITUDE)
    radial, polar = ([prepare_view(s, grid, radii, WINDOW * PIXEL, optics, radial=r) for s in spectra] for r in (True, False))
    fits, _ = fit_series(radial, polar, (10000, 40000), TILTS, DOSE, fit_phase=fit_phase)
    return fits[-1], defocus


@pytest.mark.parametrize("phase", [5.0, 60.0, 120.0, 175.0])
def test_constant_phase_shift_is_found_and_kept_constant(rng, phase):
    fit, defocus = _fit(rng, 500.0, -300.0, phase, True)
    assert fit.orders == (0, 0) and np.ptp(fit.phase_deg) == 0 and 0 <= fit.phase_deg[0] < 180
    error = (fit.phase_deg[0] - phase + 90) % 180 - 90
    assert abs(error) < 3 and abs(error) < 4 * fit.phase_error_deg
    assert np.median(np.abs(fit.defocus_angst - defocus)) < 100


def test_phase_shift_that_builds_up_with_dose(rng):
    truth = 60 + 25 * X
    fit, defocus = _fit(rng, 0.0, 0.0, truth, True)
    assert fit.orders[1] >= 1
    assert np.abs(fit.phase_deg - truth).max() < 5
    assert np.median(np.abs(fit.defocus_angst - defocus)) < 100


def test_astigmatism_that_drifts_with_dose(rng):
    cosine, sine = 600 + 400 * X, -200 + 300 * X
    fit, _ = _fit(rng, cosine, sine, 0.0, False)
    assert fit.orders[0] >= 1
    assert np.abs(fit.astigmatism - np.stack([cosine, sine], axis=1)).max() < 150
    u, v, angle = fit.defocus_u_v_angle
    np.testing.assert_allclose(u - v, np.hypot(cosine, sine), atol=150)
    assert angle.shape == (N,) and np.ptp(angle) > 5


def test_constant_astigmatism_stays_constant():
    orders = [_fit(np.random.default_rng(seed), 600.0, -200.0, 0.0, False)[0].orders for seed in range(5)]
    assert orders == [(0, 0)] * 5
