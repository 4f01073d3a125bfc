"""The scripts of extraction, reconstruction, postprocessing and the RELION view on a small series, against truth."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from phantom_series import draw_views, make_series, truth_map
from script_runner import postprocess_inputs, run_script

from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.config.postprocess import Postprocess
from cryoet_core.config.reconstruct_particle import ReconstructParticle
from cryoet_core.errors import DataQualityError
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.io.images import image_names
from cryoet_core.io.mrc import read_header, read_mrc, write_mrc
from cryoet_core.io.star import read_star
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import Particles, read_particles, write_particles, write_tilt_series
from cryoet_core.subtomo.extract import extract_stacks
from cryoet_core.subtomo.extraction_run import ExtractionRun, extraction_settings, merge_particles
from cryoet_core.subtomo.likelihood import shift_phases
from cryoet_core.subtomo.mstep import Reference
from cryoet_core.subtomo.noise import correction_sums, group_amplitude, initial_spectra
from cryoet_core.subtomo.reconstruct import taper_to_sphere
from cryoet_core.subtomo.refine_run import series_images, volume_images
from cryoet_core.subtomo.stacks import ParticleVolumes, read_extracted
from cryoet_core.tilt_series.gold import Gold
from cryoet_core.tilt_series.gold_file import write_gold

EXTRACT = {"binning": 1, "box_px": 64, "crop_px": 32}
SHAPE, PIXEL = (240, 240), 4.0


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two series of 13 views with 4 well-separated particles each, one view excluded; coordinates are off by the origin."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    rng = np.random.default_rng(5)
    tables = []
    for number in (1, 2):
        series = make_series(
            np.linspace(-54, 54, 13), 85.0, SHAPE, PIXEL, shifts=rng.uniform(-8, 8, (13, 2)), dose_step=0.5
        )
        series.name = f"TS_{number:02d}"
        x, y = np.meshgrid([-200.0, 200.0], [-200.0, 200.0])
        positions = np.stack([x.ravel(), y.ravel(), np.zeros(4)], 1) + rng.uniform(-12, 12, (4, 3))
        angles = np.stack([rng.uniform(-180, 180, 4), rng.uniform(10, 170, 4), rng.uniform(-180, 180, 4)], 1)
        images = draw_views(series, positions, angles, SHAPE)
        images[3] = 1000  # the excluded view must not be used
        write_mrc(f"raw/{series.name}.mrc", images, PIXEL, stack=True)
        series = series.with_columns(
            image=image_names(13, f"raw/{series.name}.mrc"), excluded=[0] * 3 + [1] + [0] * 9
        )
        write_tilt_series(series, f"aligned/{series.name}.star")
        origin = rng.uniform(-6, 6, (4, 3))
        columns = dict(zip(("x_angst", "y_angst", "z_angst"), (positions + origin).T, strict=True))
        columns |= dict(zip(("origin_x_angst", "origin_y_angst", "origin_z_angst"), origin.T, strict=True))
        columns |= dict(zip(("rot_deg", "tilt_deg", "psi_deg"), angles.T, strict=True))
        table = pd.DataFrame(columns).assign(tomo_name=series.name, random_subset=[1, 2, 1, 2])
        write_particles(Particles(table), f"picks/{series.name}.star")
        tables.append((series, positions, images))
    run_script(
        "extract_subtomos",
        {"particles": ["picks/TS_01.star", "picks/TS_02.star"], "tilt_series": ["aligned/TS_01.star", "aligned/TS_02.star"]},
        {"particles": "x/particles.star", "images": "x/images", "summary": "x/summary.json"},
        EXTRACT | {"relion_files": True, "volumes_3d": True},
    )
    yield tables
    os.chdir(before)


def test_images_and_table_are_what_the_library_extracts(project):
    stacks = read_extracted("x/images/particles_2d.star", ["aligned/TS_01.star", "aligned/TS_02.star"])
    assert (stacks.n_particles, stacks.n_images, stacks.box, stacks.pixel_size_angst) == (8, 96, 32, PIXEL)
    settings = extraction_settings(ExtractSubtomos(**EXTRACT))
    for stack, (series, positions, images) in zip(stacks.series, project, strict=True):
        direct = extract_stacks(images, series, positions, settings)
        np.testing.assert_allclose(stack.images, direct.images, rtol=1e-3, atol=1e-5)
        assert 3 not in stack.view
        assert np.abs(stack.images).max() < 10
    table = stacks.particles.table
    np.testing.assert_allclose(stacks.particles.positions_angst[:4], project[0][1], atol=1e-4)
    assert (table[["origin_x_angst", "origin_y_angst", "origin_z_angst"]] == 0).all(axis=None)
    assert table["particle_name"].tolist()[4] == "TS_02/1"
    assert read_summary("x/summary.json")["n_images"] == 96


def test_relion_files_hold_the_same_images(project):
    ours, theirs = read_particles("x/images/particles_2d.star"), read_particles("x/images/particles_relion.star")
    assert theirs.are_2d_stacks and theirs.optics["rlnCtfDataAreCtfPremultiplied"].iloc[0] == 1
    name = theirs.table["image_name"].iloc[1]
    assert name == "x/images/TS_01/2_stack2d.mrcs"
    assert ours.table["image_name"].iloc[1] == "000013@x/images/TS_01.mrcs"
    np.testing.assert_array_equal(read_mrc(name)[0], read_mrc("x/images/TS_01.mrcs")[0][12:24])


def test_averaging_reads_the_volumes_where_they_were_asked_for(project):
    volumes = read_extracted("x/particles.star", [])
    assert isinstance(volumes, ParticleVolumes) and (volumes.n_particles, volumes.box, volumes.pixel_size_angst) == (8, 32, PIXEL)
    assert not volumes.particles.are_2d_stacks and volumes.particles.optics["rlnImageDimensionality"].iloc[0] == 3
    assert read_header(volumes.particles.table["image_name"].iloc[5]).shape == (32, 32, 32)
    assert read_header(volumes.particles.table["ctf_image"].iloc[5]).shape == (64, 32, 17)
    # both say the same about the strength of the true map, in the same units
    stacks = read_extracted("x/images/particles_2d.star", ["aligned/TS_01.star", "aligned/TS_02.star"])
    reference, strength = Reference.of_map(truth_map(32).astype(np.float32)), []
    for images in (series_images(stacks.series[0], 100.0), volume_images(volumes.select(np.arange(4)), 100.0)):
        slices = reference.view_slices(images.view_rotations, stacks.particles.rotations[:4], images.frequencies)
        phases = shift_phases(images.frequencies, images.view_rotations, np.zeros((4, 3)))
        sums = correction_sums(images, np.arange(4), slices, phases, initial_spectra(images), 10)
        strength.append(group_amplitude([sums]))
    assert strength[0] > 0 and abs(strength[1] / strength[0] - 1) < 0.1


def test_beads_of_the_alignment_are_erased_and_counted(project):
    """A bead's place beside the first particle of a series, as gold.star lists it: no image of that particle keeps what lies there."""
    series, positions, _ = project[0]
    bead = positions[0] + [30.0, 0, 0]
    seen = series.geometry.project(bead)[0][:, 0]
    n, table = len(seen), series.tilts
    gold = Gold(
        np.array([60.0]), bead[None], np.array([60.0]), np.array([n]), table["tilt_id"].to_numpy(), np.zeros(n, np.int64), seen, np.full(n, 60.0),
        np.ones(n, bool),
    )  # fmt: skip
    write_gold(gold, "TS_01", "gold/TS_01.star")
    write_tilt_series(dataclasses.replace(series, gold_file="gold/TS_01.star", gold_diameter_angst=60.0), "gold/aligned.star")
    inputs, changed = {"particles": ["picks/TS_01.star"], "tilt_series": ["gold/aligned.star"]}, {}
    for name, diameter in (("auto", "auto"), ("left", None)):
        outputs = {key: f"gold/{name}/{file}" for key, file in (("particles", "p.star"), ("images", "images"), ("summary", "s.json"))}
        run_script("extract_subtomos", inputs, outputs, EXTRACT | {"gold_diameter_angst": diameter})
        assert read_summary(outputs["summary"])["particles_with_a_bead_in_their_box"] == {"TS_01": 1}
        changed[name] = read_extracted(outputs["particles"], ["gold/aligned.star"]).series[0]
    particle = changed["auto"].particle
    change = np.abs(np.asarray(changed["auto"].images) - np.asarray(changed["left"].images)).max(axis=(1, 2))
    assert (change[particle == 0] > 0.01).all() and np.median(change[particle != 0]) < 1e-6


def test_map_fsc_and_relion_view(project):
    aligned = ["aligned/TS_01.star", "aligned/TS_02.star"]
    run_script(
        "reconstruct_particle",
        {"particles": "x/particles.star", "tilt_series": aligned},
        {"half1": "r/half1.mrc", "half2": "r/half2.mrc", "map": "r/map.mrc", "summary": "r/summary.json"},
        ReconstructParticle(taper_px=4.0).model_dump(),
        extraction=ExtractSubtomos(**EXTRACT).model_dump(),
    )
    volume, pixel = read_mrc("r/map.mrc")
    assert pixel == pytest.approx(PIXEL)
    fsc = fourier_shell_correlation(volume, taper_to_sphere(truth_map(32).astype(np.float32), 4))
    assert fsc[1:7].min() > 0.95  # eight particles: 96 views do not fill more shells
    assert read_summary("r/summary.json")["n_particles"] == 8
    run_script(
        "postprocess",
        postprocess_inputs("r/half1.mrc", "r/half2.mrc"),
        {"map": "p/map.mrc", "mask": "p/mask.mrc", "fsc": "p/fsc.star", "summary": "p/summary.json",
         "local_resolution": "p/local_resolution.mrc", "local_map": "p/map_local.mrc"},
        Postprocess(mask_diameter_angst=100.0).model_dump(), mask_diameter_angst=100.0, first_map="template",
    )
    summary = read_summary("p/summary.json")
    assert 8 < summary["resolution_angst"] < 25
    assert len(read_star("p/fsc.star")["fsc"]) == 17
    local = read_mrc("p/local_resolution.mrc")[0]
    assert summary["local_resolution_median_angst"] == pytest.approx(np.median(local[local > 0]), rel=1e-5)
    assert read_mrc("p/map_local.mrc")[0].shape == (32, 32, 32)
    outputs = {"optimisation_set": "relion/optimisation_set.star"}
    inputs = {"particles": "x/particles.star", "tilt_series": aligned, "map": "p/map.mrc", "mask": "p/mask.mrc"}
    run_script("relion_project", inputs | {"half1": "r/half1.mrc", "half2": "r/half2.mrc"}, outputs, {})
    assert Path("relion/half2.mrc").exists()
    assert len(read_particles("relion/particles.star")) == 8


def test_one_bad_series_does_not_stop_the_others(project, tmp_path):
    (good, positions, images), (bad, _, _) = project
    particles = merge_particles([read_particles("picks/TS_01.star"), read_particles("picks/TS_02.star")])
    run = ExtractionRun(ExtractSubtomos(**EXTRACT), tmp_path)
    run.add_series(bad.with_columns(defocus_u_angst=0.0), particles, lambda: images)
    assert "E-EXT-03" in run.warnings[0]
    with pytest.raises(DataQualityError, match="E-EXT-05"):
        run.table()
    run.add_series(good, particles, lambda: images)
    assert run.table().table["tomo_name"].unique().tolist() == ["TS_01"]
    assert (tmp_path / "TS_01.mrcs").exists()


def test_no_particles_is_an_error():
    with pytest.raises(DataQualityError, match="E-EXT-05"):
        merge_particles([Particles(pd.DataFrame({"tomo_name": [], "x_angst": []}))])
