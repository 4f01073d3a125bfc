"""What a cell has besides its large particles: membranes, gold, a dense cytosol; and the fast camera."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import poisson

from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.movies import open_movie
from cryoet_core.io.mrc import read_header, write_mrc
from cryoet_core.simulate import imaging
from cryoet_core.simulate.counting import LARGEST_MEAN, LEVELS_PER_ELECTRON, N_COUNTS, _alias_tables, count_electrons
from cryoet_core.simulate.detector import expose, make_camera
from cryoet_core.simulate.imaging import Microscope
from cryoet_core.simulate.series import simulate_series
from cryoet_core.simulate.settings import SimulationSettings, generator
from cryoet_core.simulate.specimen import field_half_sizes, make_specimen, outer_half_sizes

CELL = SimulationSettings(
    max_tilt_deg=40.0, tilt_step_deg=40.0, image_width_px=256, image_height_px=256, pixel_size_angst=10.0, thickness_angst=1200.0,
    n_particles=4, n_decoys=0, n_crowders=0, n_vesicles=2, vesicle_radius_min_angst=200.0, vesicle_radius_max_angst=400.0, n_gold_beads=3,
    crowding_mg_per_ml=30.0, n_dark_views=0, density_box_px=64, fast_counting=True, defocus_step_angst=800.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def specimen():
    return make_specimen(CELL, generator(3, "cell"))


# ---- where things are -------------------------------------------------------------------------------------------
def test_nothing_overlaps_and_vesicles_stay_in_the_slab(specimen):
    assert len(specimen.vesicles) > 4 and len(specimen.gold) > 6  # the same density beyond the field
    radius = [specimen.vesicles[:, 3] + 30, np.full(len(specimen.gold), 50.0), np.full(len(specimen.kind), specimen.species[0].radius_angst)]
    centre, radius = np.concatenate([specimen.vesicles[:, :3], specimen.gold, specimen.position]), np.concatenate(radius)
    gap = np.linalg.norm(centre[:, None] - centre[None], axis=2) - radius[:, None] - radius[None]
    np.fill_diagonal(gap, 1)
    assert gap.min() > 0
    assert (np.abs(specimen.vesicles[:, 2]) + specimen.vesicles[:, 3]).max() < 600
    assert (200 <= specimen.vesicles[:, 3]).all() and (specimen.vesicles[:, 3] <= 400).all()
    assert np.abs(specimen.gold[:, 2]).max() <= 600


def test_the_cytosol_has_its_density_and_keeps_out_of_particles_and_membranes(specimen):
    points = specimen.crowder_position
    outer = np.array([*outer_half_sizes(CELL), 0.5 * CELL.thickness_angst - 30])
    taken = 4 / 3 * np.pi * (len(specimen.kind) * 140.0**3 + (3 * 60 * specimen.vesicles[:, 3] ** 2).sum())
    dalton = specimen.crowder_potential.sum() / 3.0
    assert dalton / (8 * outer.prod() - taken) / 6.02214e-4 == pytest.approx(30, rel=0.05)
    assert (np.abs(points) < outer + [100, 100, 0]).all()
    for *centre, radius in specimen.vesicles:
        assert np.abs(np.linalg.norm(points - centre, axis=1) - radius).min() > 30
    for centre in specimen.position:
        assert np.linalg.norm(points - centre, axis=1).min() > 0.8 * specimen.species[0].radius_angst


@pytest.mark.parametrize("tilt", [0.0, 40.0])
def test_gold_is_black_where_the_truth_says(specimen, view, tilt):
    """The library's own projection of the true positions finds the darkest spots of the simulator's picture."""
    look = view(y_tilt_deg=tilt, z_rot_deg=86.0, x_shift_angst=23.0, y_shift_angst=-41.0, defocus_u_angst=30000, defocus_v_angst=30000)
    alone = replace(specimen, vesicles=np.empty((0, 4)), crowder_position=np.empty((0, 3)), kind=specimen.kind[:0], position=specimen.position[:0],
                    euler=specimen.euler[:0], inside=specimen.inside[:0], crowder_potential=np.empty(0), crowder_sigma=np.empty(0))  # fmt: skip
    image = Microscope(alone, replace(CELL, ice_structure_factor=0.0)).frames(look, np.random.default_rng(0))[0]
    seen = TiltGeometry(*(np.array([v], float) for v in (0, tilt, 86.0, 23.0, -41.0))).project(specimen.gold)[0].reshape(-1, 2) / 10 + 128
    seen = seen[((seen > 12) & (seen < 244)).all(axis=1)]
    seen = seen[[np.sort(np.hypot(*(seen - p).T))[1:2].sum() > 24 for p in seen]]
    assert len(seen) > 1
    y, x = np.mgrid[:256, :256]
    for u, v in seen:
        weight = np.maximum(0.6 * image.max() - image, 0) * (np.hypot(x - u, y - v) < 10)
        assert image[round(v), round(u)] < 0.25 * image.max()
        assert ((weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()) == pytest.approx((u, v), abs=0.3)


@pytest.mark.parametrize("tilt", [0.0, 50.0])
def test_a_vesicle_is_a_ring_of_its_radius(clean, view, beads_at, tilt):
    vesicle = np.array([[60.0, -40.0, 90.0, 260.0]])
    settings = replace(clean, image_width_px=256, image_height_px=256, amplitude_contrast=1.0)  # in focus: CTF = 1
    microscope = Microscope(replace(beads_at(np.empty((0, 3))), vesicles=vesicle), settings)
    phase = microscope.camera(microscope.contrast(view(y_tilt_deg=tilt, z_rot_deg=30.0), np.random.default_rng(0)))
    u, v = TiltGeometry(*(np.array([a], float) for a in (0, tilt, 30, 0, 0))).project(vesicle[:, :3])[0].ravel() / 4 + 128
    y, x = np.mgrid[:256, :256]
    r = np.hypot(x - u, y - v) * 4
    profile = np.array([phase[np.abs(r - at) < 3].mean() for at in np.arange(20, 330, 2)])
    assert abs(np.arange(20, 330, 2)[profile.argmax()] - 260) < 30  # a leaflet 18 A within or beyond
    assert phase[r > 310].max() < 1e-3 * profile.max() and phase[r < 100].mean() < 0.5 * profile.max()
    # all of its potential, and nothing else: two leaflets, 18 A on either side
    area = 4 * np.pi * ((260 + 18.0) ** 2 + (260 - 18.0) ** 2 + 2 * 6.0**2)
    assert phase.sum(dtype=float) * 16 == pytest.approx(6.526e-4 * imaging.LEAFLET_V_ANGST * area, rel=0.01)


def test_the_specimen_fills_tilted_views_to_their_borders(view):
    settings = replace(CELL, n_particles=0, n_vesicles=0, n_gold_beads=0, crowding_mg_per_ml=200.0)
    specimen = make_specimen(settings, generator(4, "cell"))
    half_x, half_y = field_half_sizes(settings)

    def border_to_middle(scene):
        scope = Microscope(scene, settings)
        phase = scope.camera(scope._crowders(view(y_tilt_deg=40.0, z_rot_deg=settings.nominal_axis_deg)))
        return 0.5 * (phase[:25].mean() + phase[-25:].mean()) / phase[50:206].mean()

    assert border_to_middle(specimen) == pytest.approx(1, abs=0.1)
    points = specimen.crowder_position
    inside = (np.abs(points[:, 0]) < half_x) & (np.abs(points[:, 1]) < half_y)
    cut = {name: getattr(specimen, name)[inside] for name in ("crowder_position", "crowder_potential", "crowder_sigma")}
    assert border_to_middle(replace(specimen, **cut)) < 0.6  # as it would be if the slab ended with the field


# ---- the camera -------------------------------------------------------------------------------------------------
def test_tables_hold_the_poisson_distribution():
    """Probabilities implied by the alias tables, against SciPy's: off by less than 1e-9 (32-bit thresholds, 32 counts)."""
    keep, other = _alias_tables()
    for level in (0, 1, 40, 175, 500, LARGEST_MEAN * LEVELS_PER_ELECTRON):
        stays = keep[level] / 2.0**32 / N_COUNTS
        found = stays.copy()
        np.add.at(found, other[level], 1 / N_COUNTS - stays)
        assert np.abs(found - poisson.pmf(np.arange(N_COUNTS), level / LEVELS_PER_ELECTRON)).max() < 1e-9


@pytest.mark.parametrize("mean", [0.003, 0.3, 0.7431, 1.371, 5.03, 40.2])
def test_counts_have_the_mean_and_variance_of_poisson(mean):
    n = 400_000
    means = np.full(n, mean, np.float32)
    counts = count_electrons(means, np.random.default_rng(5)).astype(float)
    assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / n))
    assert counts.var() == pytest.approx(mean, abs=4 * np.sqrt((mean + 2 * mean**2) / n))
    next_frame = count_electrons(means, np.random.default_rng(6)).astype(float)
    for other in (np.roll(counts, 1), np.roll(counts, 640), next_frame):
        assert abs(np.corrcoef(counts, other)[0, 1]) < 4 / np.sqrt(n)
    observed = np.bincount(counts.astype(int), minlength=100)[:100]
    expected = n * poisson.pmf(np.arange(100), mean)
    enough = expected > 10
    assert ((observed - expected)[enough] ** 2 / expected[enough]).sum() < enough.sum() + 5 * np.sqrt(2 * enough.sum())


def test_movies_of_bytes_are_read_back_as_they_were_counted(tmp_path, clean, view):
    settings = replace(clean, fast_counting=True, xrays_per_tilt=20.0, n_hot_pixels=20)
    camera = make_camera(settings, 1)
    raw, hits = expose(np.ones((3, *settings.image_shape), np.float32), view(), camera, settings, np.random.default_rng(0))
    assert raw.dtype == np.uint8 and raw.max() == 127 and hits
    write_mrc(tmp_path / "movie.mrc", raw, 4.0, stack=True, dtype="uint8")
    assert read_header(tmp_path / "movie.mrc").mode == 0 and (tmp_path / "movie.mrc").stat().st_size == 1024 + raw.size
    assert np.array_equal(np.stack(list(open_movie(tmp_path / "movie.mrc"))), raw)


def test_the_camera_of_a_large_image_is_as_rough_as_that_of_a_small_one():
    def gain(size):
        return make_camera(replace(CELL, image_width_px=size, image_height_px=size, n_dead_pixels=0, n_hot_pixels=0), 1).gain

    small, large = gain(448), gain(2048)
    assert large.shape == (2048, 2048) and large.mean() == pytest.approx(1, abs=1e-3)
    assert large.std() == pytest.approx(small.std(), rel=0.1)
    assert np.median(large, axis=1).std() == pytest.approx(np.median(small, axis=1).std(), rel=0.5)


def test_a_cell_is_written_with_its_truth(tmp_path):
    facts = simulate_series(CELL, "TS_01", 3, tmp_path)
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert len(truth["vesicles"]) == facts["n_vesicles"] and sum(v["in_field"] for v in truth["vesicles"]) == 2
    assert len(truth["gold_beads"]) == facts["n_gold_beads"] and sum(b["in_field"] for b in truth["gold_beads"]) >= 3
    assert truth["gold_diameter_angst"] == 100
    made = make_specimen(CELL, generator(3, "TS_01", "specimen"))
    written = np.array([[b[f"{axis}_angst"] for axis in "xyz"] for b in truth["gold_beads"]])
    assert written == pytest.approx(made.gold, abs=1e-5)
    assert [v["radius_angst"] for v in truth["vesicles"]] == pytest.approx(made.vesicles[:, 3].tolist())
    first = (tmp_path / "frames" / "TS_01_001_0.0.mrc").read_bytes()
    simulate_series(CELL, "TS_01", 3, tmp_path / "again")
    assert (tmp_path / "again" / "frames" / "TS_01_001_0.0.mrc").read_bytes() == first
