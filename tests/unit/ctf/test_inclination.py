"""A specimen that lies inclined on the stage: both angles from the spectra, and no angle where there is none.

Spectra of cells are written down from the textbook formula; the depth of every cell by hand from the plane's normal.
"""

import numpy as np
import pytest
from rings import AMPLITUDE, CS_MM, KV, _lambda, flat_series

from cryoet_core.ctf.fit import CtfFit, refine_series
from cryoet_core.ctf.inclination import fit_inclination
from cryoet_core.ctf.model import Optics
from cryoet_core.ctf.score import prepare_view
from cryoet_core.ctf.spectra import PolarGrid, TileCells

PIXEL, WINDOW, HAND = 3.0, 256, -1
TILTS = np.linspace(-54, 54, 13)
OPTICS = Optics(KV, CS_MM, AMPLITUDE)
# a grid bar hides the right quarter of the image, so that a wrong plane shifts the defocus at the image's centre
AT = np.array([[x, y] for x in np.linspace(-2400, 1200, 6) for y in (-2000.0, 0.0, 2000.0)])


def _depth(tilt_deg, y_deg, x_deg):
    """(n_cells,) for a tilt axis along y: the plane's normal is (0, -sin a, cos a), then turned by the tilt."""
    a, b = np.deg2rad(x_deg), np.deg2rad(tilt_deg + y_deg)
    normal = np.cos(a) * np.sin(b), -np.sin(a), np.cos(a) * np.cos(b)
    return -(normal[0] * AT[:, 0] + normal[1] * AT[:, 1]) / normal[2]


def _cells(rng, grid, defocus, depth, strength):
    lam, z = _lambda(), defocus + HAND * depth[:, None, None]
    gamma = np.pi * lam * z * grid.k2 - 0.5 * np.pi * CS_MM * 1e7 * lam**3 * grid.k2**2 + np.arcsin(AMPLITUDE)
    mean = strength / (1 + (grid.k / 0.05) ** 2) * np.sin(gamma) ** 2 + 1
    shape = np.maximum(3 * grid.counts, 1)
    return TileCells(mean * rng.gamma(shape, size=mean.shape) / shape, AT, np.full(len(AT), 3), np.ones((2, 2), np.float32))


def _fitted(rng, y_deg, x_deg, strength=0.5):
    """(Inclination, rms defocus error on the nominal plane, on the plane found)."""
    grid = PolarGrid.create(WINDOW, PIXEL, 40.0)
    truth = 25000 + rng.normal(0, 300, len(TILTS))
    cells = [_cells(rng, grid, z, _depth(t, y_deg, x_deg), strength) for z, t in zip(truth, TILTS, strict=True)]
    geometry = flat_series(TILTS, (16, 16), PIXEL).geometry
    radii = slice(*np.searchsorted(grid.k, [1 / 30, 1 / 8]))

    def prepared(spectra, radial):
        return [prepare_view(s, grid, radii, WINDOW * PIXEL, OPTICS, radial=radial) for s in spectra]

    def refined(slopes):
        strips = [c.strips(s) for c, s in zip(cells, slopes, strict=True)]
        return refine_series(prepared(strips, False), truth + 200, HAND, 250.0)

    nominal = refined(geometry.depth_plane())
    whole = [c.as_spectra(s) for c, s in zip(cells, geometry.depth_plane(), strict=True)]
    found = fit_inclination(prepared(whole, True), prepared(whole, False), [AT] * len(cells), geometry, nominal)
    errors = [np.sqrt(np.mean((f.defocus_angst - truth) ** 2)) for f in (nominal, refined(found.slopes(geometry)))]
    return found, *errors


@pytest.mark.parametrize("y_deg, x_deg", [(4.0, 0.0), (0.0, -5.0), (-6.0, 3.0)])
def test_both_angles_against_truth(rng, y_deg, x_deg):
    found, before, after = _fitted(rng, y_deg, x_deg)
    assert found.used and found.y_error_deg < 0.5 and found.x_error_deg < 0.5
    assert abs(found.y_deg - y_deg) < max(0.1, 4 * found.y_error_deg)
    assert abs(found.x_deg - x_deg) < max(0.1, 4 * found.x_error_deg)
    assert after < 60 and (after < 0.6 * before or not y_deg)


def test_a_flat_specimen_stays_flat_and_errors_are_honest():
    scaled = []
    for seed in range(5):
        found, *_ = _fitted(np.random.default_rng(seed), 0.0, 0.0, strength=0.1)
        assert not found.used
        scaled += [found.y_deg / found.y_error_deg, found.x_deg / found.x_error_deg]
    assert 0.3 < np.sqrt(np.mean(np.square(scaled))) < 2.0


def test_strips_keep_what_the_cells_hold(rng):
    grid = PolarGrid.create(WINDOW, PIXEL, 40.0)
    cells = _cells(rng, grid, 25000, _depth(50, 0, 0), 0.5)
    slope = flat_series([50.0], (16, 16), PIXEL).geometry.depth_plane()[0]
    strips = cells.strips(slope)
    assert 2 < len(strips.depth_angst) <= 9 and strips.n_tiles.sum() == cells.n_tiles.sum()
    np.testing.assert_allclose(strips.n_tiles @ strips.depth_angst, cells.n_tiles @ (AT @ slope), atol=1e-6)
    np.testing.assert_allclose(np.tensordot(strips.n_tiles, strips.polar, 1), np.tensordot(cells.n_tiles, cells.polar, 1))


def test_fit_needs_no_rings_to_survive(rng):
    """Views that know nothing leave the prior: no inclination, an error as wide as the prior."""
    grid = PolarGrid.create(WINDOW, PIXEL, 40.0)
    cells = [_cells(rng, grid, 25000, _depth(t, 0, 0), 0.0) for t in TILTS]
    geometry, n = flat_series(TILTS, (16, 16), PIXEL).geometry, len(TILTS)
    whole = [c.as_spectra(s) for c, s in zip(cells, geometry.depth_plane(), strict=True)]
    radii = slice(*np.searchsorted(grid.k, [1 / 30, 1 / 8]))
    views = [[prepare_view(s, grid, radii, WINDOW * PIXEL, OPTICS, radial=r) for s in whole] for r in (True, False)]
    fit = CtfFit(np.full(n, 25000.0), np.zeros((n, 2)), np.zeros(n), np.zeros(n), np.zeros(n), HAND, 250.0, 0.0)
    assert not fit_inclination(*views, [AT] * n, geometry, fit).used
