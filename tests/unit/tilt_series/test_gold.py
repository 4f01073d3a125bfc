"""Beads in views that gold_phantom.py makes: found, measured, located, and not seen where there are none."""

import numpy as np
import pytest
from gold_phantom import Phantom
from phantom_series import make_series

from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series.gold import bead_diameters, distance_to_beads, locate_beads, series_beams, survey_views
from cryoet_core.tilt_series.gold_image import bead_profiles
from cryoet_core.tilt_series.gold_spots import USUAL_OPTICS, Beam, find_of_size, find_spots

TILTS = np.arange(-60, 61, 12.0)
AXIS = 86.0


def survey(phantom, rng, dose, defocus=30000.0, tilts=TILTS, change=lambda view: view, beam=None):
    """(Survey, true geometry) of a series of the phantom."""
    shifts = rng.normal(0, 40, (len(tilts), 2))
    views = (
        change(phantom.view(rng, t, dose=dose, defocus=defocus, shift=s)).astype(np.float32)
        for t, s in zip(tilts, shifts, strict=True)
    )
    beams = [beam or Beam(dose, defocus)] * len(tilts)
    return survey_views(views, phantom.pixel, beams), TiltGeometry(0.0, tilts, AXIS, shifts[:, 0], shifts[:, 1])


def located(found, geometry, field):
    return locate_beads(found, geometry, np.ones(len(geometry), bool), np.arange(1, len(geometry) + 1), field)


@pytest.mark.parametrize("diameter", [50.0, 100.0, 150.0])
def test_beads_are_found_measured_and_located(diameter):
    rng = np.random.default_rng(7)
    phantom = Phantom(rng, beads=12, diameters=(diameter,))
    found, geometry = survey(phantom, rng, dose=3.0)
    gold = located(found, geometry, phantom.field)
    assert found.diameters_angst == pytest.approx([diameter], rel=0.05)
    places, alone, false = [], [], 0
    for view, tilt in enumerate(TILTS):
        inside, uv = phantom.seen(tilt, AXIS, geometry.shift_angst[view])
        xy, seen = gold.in_view(view + 1)[0], gold.seen[gold.tilt_id == view + 1]
        gap = np.linalg.norm(uv[:, None] - xy[None], axis=2)  # (beads, places)
        places += list(gap[inside].min(axis=1, initial=np.inf) < 15)
        if abs(tilt) <= 48:
            alone += list(gap[inside][:, seen].min(axis=1, initial=np.inf) < 15)
        false += (gap.min(axis=0) > 0.5 * diameter + 30).sum()
    assert np.mean(places) >= 0.95 and np.mean(alone) >= 0.95  # at all tilts; up to 48 degrees in each view by itself
    assert false <= 0.02 * len(places)
    nearest = np.linalg.norm(gold.position_angst[:, None] - phantom.beads[None], axis=2)
    assert np.median(nearest.min(axis=1)) < 2.0
    assert np.median(np.abs(gold.bead_diameter_angst / phantom.bead_diameter[nearest.argmin(axis=1)] - 1)) < 0.05


def test_two_sizes_at_low_dose():
    rng = np.random.default_rng(7)
    phantom = Phantom(rng, beads=14, diameters=(60.0, 150.0))
    gold = located(*survey(phantom, rng, dose=1.0), phantom.field)
    assert sorted(gold.diameters_angst) == pytest.approx([60.0, 150.0], rel=0.05)
    nearest = np.linalg.norm(gold.position_angst[:, None] - phantom.beads[None], axis=2)
    kind = phantom.bead_diameter[nearest.argmin(axis=1)] > 100
    assert np.mean((gold.bead_diameter_angst > 100) == kind) > 0.9 and len(kind) >= 9


@pytest.mark.parametrize("seed", range(20))
def test_no_beads_without_gold(seed):
    """Ribosomes, dense protein, vesicles, ice crystals, carbon and contamination at 1 to 5 e/A2 and up to 60
    degrees."""
    rng = np.random.default_rng(100 + seed)
    more = {"ribosomes": (60, 150, 20)[seed % 3], "vesicles": 6, "crystals": 6, "carbon": seed % 2 == 0}
    phantom = Phantom(rng, shape=(300, 320), **more)
    phantom.carbon_edge = (-0.42, 0.1)[seed % 3 == 0]
    found, geometry = survey(
        phantom, rng, (1.0, 2.0, 3.0, 5.0)[seed % 4], (15000.0, 30000.0, 50000.0)[seed % 3], TILTS[::2]
    )
    gold = located(found, geometry, phantom.field)
    assert len(gold.position_angst) == 0 and len(gold.diameters_angst) == 0 and len(gold.xy_angst) == 0


@pytest.mark.parametrize(
    "change",
    [lambda v: (v - v.mean()) / v.std(), lambda v: 100 * v + 20000, lambda v: v / 12],
    ids=["mean 0, sd 1", "with an offset", "averaged"],
)
def test_unit_of_grey_values_does_not_matter(change):
    rng = np.random.default_rng(3)
    phantom = Phantom(rng, beads=8)
    view = phantom.view(rng, 20.0)
    spots, other = (find_spots(v.astype(np.float32), phantom.pixel, Beam(3.0, 30000.0)) for v in (view, change(view)))
    one, two = (s.xy_angst[s.like_gold & (np.abs(s.diameter_angst - 100) < 20)] for s in (spots, other))
    assert len(one) >= 6
    np.testing.assert_allclose(two[np.lexsort(two.T)], one[np.lexsort(one.T)], atol=1.0)


def test_unknown_and_wrong_defocus_still_measure_the_diameter():
    for beam in (Beam(), Beam(3.0, 15000.0)):
        rng = np.random.default_rng(3)
        phantom = Phantom(rng, shape=(300, 320), beads=8)
        assert survey(phantom, rng, 3.0, 40000.0, TILTS[::2], beam=beam)[0].diameters_angst == pytest.approx(
            [100.0], rel=0.08
        )


def test_spots_that_move_on_their_own_are_no_beads():
    """Dust on the camera stays where it is while the specimen tilts."""
    rng = np.random.default_rng(5)
    phantom = Phantom(rng, shape=(300, 320), beads=6)
    phantom.beads[:, 2] = 0
    still = [phantom.view(rng, 0.0) for _ in TILTS]
    found = survey_views(still, phantom.pixel, [Beam(3.0, 30000.0)] * len(TILTS))
    assert found.diameters_angst == pytest.approx([100.0], rel=0.05)
    shifts = np.column_stack([60 * np.arange(len(TILTS)), np.zeros(len(TILTS))])
    assert len(located(found, TiltGeometry(0.0, TILTS, AXIS, *shifts.T), phantom.field).position_angst) == 0


def test_a_view_that_hides_a_bead_still_has_its_place():
    rng = np.random.default_rng(7)
    phantom = Phantom(
        rng,
        shape=(300, 320),
        dark_crystals=0,
        carbon=False,
        positions=[(-400, -300, 200), (-300, 300, -200), (50, 0, 0), (350, 350, 100)],
    )
    found, geometry = survey(phantom, rng, 3.0)
    blank = find_spots(rng.poisson(40, phantom.shape).astype(np.float32), phantom.pixel)
    found.views[3] = blank
    gold = located(found, geometry, phantom.field)
    here = gold.tilt_id == 4
    inside, uv = phantom.seen(TILTS[3], AXIS, geometry.shift_angst[3])
    assert here.sum() >= inside.sum() >= 3 and not gold.seen[here].any()
    assert np.linalg.norm(uv[inside][:, None] - gold.xy_angst[here][None], axis=2).min(axis=1).max() < 6


def test_profile_is_that_of_a_wave_propagated_in_two_dimensions():
    """Independent: the exit wave on a grid, Fresnel's propagator as a 2-D transform, intensity averaged over rings."""
    n, step, defocus, diameter = 512, 2.0, 30000.0, 100.0
    axis = (np.arange(n) - n // 2) * step
    r = np.hypot(axis, axis[:, None])
    path = 2 * np.sqrt(np.clip(0.25 * diameter**2 - r**2, 0, None))
    k = np.fft.fftfreq(n, step)
    k2 = k**2 + k[:, None] ** 2
    aberration = np.pi * 0.0196875 * defocus * k2 - 0.5 * np.pi * 2.7e7 * 0.0196875**3 * k2**2
    wave = np.fft.fft2(np.fft.ifftshift(np.exp((12.0 * 6.53e-4j - 0.0043 / 2) * path))) * np.exp(
        1j * aberration - 25 * k2
    )
    intensity = np.abs(np.fft.fftshift(np.fft.ifft2(wave))) ** 2
    intensity = np.real(np.fft.ifft2(np.fft.fft2(intensity) * np.sinc(k * 5.0) * np.sinc(k[:, None] * 5.0)))
    rings = (r / 5).astype(int)
    mean = np.bincount(rings.ravel(), intensity.ravel())[:30] / np.bincount(rings.ravel())[:30]
    profile = sum(bead_profiles([diameter], np.arange(0, 150, 1.0), defocus, USUAL_OPTICS, 5.0))[0]
    ours = np.array(
        [np.average(profile[5 * i : 5 * i + 5], weights=np.arange(5 * i, 5 * i + 5) + 0.5) for i in range(30)]
    )
    assert np.abs(ours[2:] - (mean[2:] - 1)).max() < 0.02


def test_a_given_size_is_searched_in_one_view():
    rng = np.random.default_rng(11)
    phantom = Phantom(rng, beads=8, ribosomes=20, carbon=False, dark_crystals=0)
    inside, uv = phantom.seen(0.0)
    found = find_of_size(phantom.view(rng, 0.0), phantom.pixel, 100.0, Beam(3.0, 30000.0))
    assert np.linalg.norm(uv[inside][:, None] - found[None], axis=2).min(axis=1).max() < 20


@pytest.mark.parametrize("shape, pixel", [((30, 33), 1.0), ((200, 210), 10.0), ((8, 8), 60.0)])
def test_blank_and_tiny_views_have_no_spots(shape, pixel):
    rng = np.random.default_rng(0)
    for view in (np.zeros(shape), np.full(shape, -5.0), rng.poisson(5, shape)):
        assert len(find_spots(view.astype(np.float32), pixel).xy_angst) == 0


def test_what_the_table_does_not_know_is_not_used():
    series = make_series([0.0, 30.0, 60.0], 86.0, (64, 64), 5.0, dose_step=3.0)
    series.tilts.loc[0, ["defocus_u_angst", "exposure_e_per_a2"]] = [np.nan, 0.0]
    assert [(b.dose_e_per_a2, b.defocus_angst) for b in series_beams(series)] == [
        (None, None),
        (3.0, 12100.0),
        (3.0, 12200.0),
    ]


def test_no_views_no_diameters():
    assert len(bead_diameters([])) == 0


def test_distance_to_beads():
    places = np.array([(0.0, 0, 0), (100, 0, 0)])
    np.testing.assert_allclose(
        distance_to_beads(places, np.array([(0.0, 30, 40), (500, 0, 0)])), [50, np.hypot(100, 50)]
    )
    assert np.isinf(distance_to_beads(places, np.zeros((0, 3)))).all()


def test_positions_follow_the_frame_of_the_tomogram():
    rng = np.random.default_rng(7)
    phantom = Phantom(rng, shape=(300, 320), beads=5, dark_crystals=0)
    found, geometry = survey(phantom, rng, 3.0)
    gold = located(found, geometry, phantom.field)
    moved = geometry.replace(
        x_shift_angst=geometry.project([(0.0, 0, 150)])[0][:, 0, 0],
        y_shift_angst=geometry.project([(0.0, 0, 150)])[0][:, 0, 1],
    )
    shift = gold.positions_in(moved, np.arange(1, len(TILTS) + 1)) - gold.position_angst
    assert len(shift) >= 4
    np.testing.assert_allclose(shift, np.tile([0, 0, -150.0], (len(shift), 1)), atol=5)
