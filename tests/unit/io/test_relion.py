"""The RELION 5 project view."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.io.alignment_files import write_alignment_files
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.relion import parse_visible_frames, read_relion_tomograms, write_relion_project
from cryoet_core.io.star import read_star
from cryoet_core.metadata import Particles, TiltSeries, read_particles

TILTS = [-4.0, 0.0, 4.0]


def make_series(name, voltage=300.0):
    table = pd.DataFrame({
        "tilt_id": [3, 1, 2], "movie": "m.tif", "image": [f"{i + 1:06d}@stacks/{name}.mrc" for i in range(3)],
        "nominal_tilt_deg": TILTS, "nominal_axis_deg": 85.0, "pre_exposure_e_per_a2": [6.0, 0.0, 3.0],
        "exposure_e_per_a2": 3.0, "defocus_u_angst": 30000.0, "defocus_v_angst": 29000.0, "defocus_angle_deg": 10.0,
        "ctf_scale": 1.0, "x_tilt_deg": 0.0, "y_tilt_deg": TILTS, "z_rot_deg": 84.0, "x_shift_angst": [1.0, 2.0, 3.0],
        "y_shift_angst": 0.0, "excluded": [1, 0, 0], "exclude_reason": ["dark", "none", "none"],
    })
    return TiltSeries(name, voltage, 2.7, 0.1, 7.0, 3.5, -1, (64, 48), (128, 96, 42), table)


def make_particles(**columns):
    table = pd.DataFrame({"tomo_name": ["TS_02", "TS_01", "TS_02"], "x_angst": [1.0, 2.0, 3.0], "y_angst": 0.0,
                          "z_angst": 0.0, "score": 1.0, "random_subset": [1, 2, 1], "species": "r"}).assign(**columns)
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImageSize": [24], "rlnTomoSubtomogramBinning": [2.0],
                           "rlnImagePixelSize": [14.0], "rlnImageDimensionality": [2],
                           "rlnCtfDataAreCtfPremultiplied": [1]})
    return Particles(table, optics, True)


@pytest.fixture
def maps(tmp_path):
    paths = {}
    for i, name in enumerate(("map", "half1", "half2", "mask")):
        paths[name] = tmp_path / f"my_{name}.mrc"
        write_mrc(paths[name], np.full((4, 4, 4), float(i)), 14.0)
    return paths


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return "results/relion/bin6"


def test_view_has_relions_files_and_columns(here, maps):
    series = [make_series("TS_01"), make_series("TS_02")]
    write_relion_project(here, series, make_particles(), **maps)
    tomograms = read_star(f"{here}/tomograms.star")["global"]
    assert tomograms["rlnTomoName"].tolist() == ["TS_01", "TS_02"]
    assert tomograms["rlnTomoTiltSeriesStarFile"].tolist() == [f"{here}/tilt_series/TS_0{i}.star" for i in (1, 2)]
    assert tomograms[["rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"]].iloc[0].tolist() == [64, 48, 20]
    assert {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMicrographOriginalPixelSize",
            "rlnTomoTiltSeriesPixelSize", "rlnTomoHand", "rlnOpticsGroupName"} <= set(tomograms)
    tilts = read_star(f"{here}/tilt_series/TS_01.star")["TS_01"]
    # RELION 5.0.1 stops at "n@stack.mrc" ("stacks of images in MRC-format should have extension .mrcs")
    assert tilts["rlnMicrographName"].tolist() == [f"00000{n}@{here}/tilt_series/TS_01.mrcs" for n in (2, 3)]
    assert Path(f"{here}/tilt_series/TS_01.mrcs").resolve() == Path("stacks/TS_01.mrc").resolve()
    assert {"rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst", "rlnDefocusU",
            "rlnDefocusV", "rlnDefocusAngle", "rlnMicrographPreExposure", "rlnCtfScalefactor",
            "rlnTomoNominalStageTiltAngle", "rlnTomoNominalTiltAxisAngle", "rlnMicrographMovieName"} <= set(tilts)
    assert not [c for c in tilts if not c.startswith("rln")]
    sets = read_star(f"{here}/optimisation_set.star")[""]
    assert sets == {"rlnTomoParticlesFile": f"{here}/particles.star", "rlnTomoTomogramsFile": f"{here}/tomograms.star",
                    "rlnTomoReferenceMap1File": f"{here}/half1.mrc", "rlnTomoReferenceMap2File": f"{here}/half2.mrc",
                    "rlnTomoReferenceMaskFile": f"{here}/mask.mrc"}
    for i, name in enumerate(("map", "half1", "half2", "mask")):
        array, pixel = read_mrc(f"{here}/{name}.mrc")
        assert array.max() == i and pixel == 14.0


def test_particles_of_the_view(here):
    write_relion_project(here, [make_series("TS_01"), make_series("TS_02", 200.0)], make_particles())
    blocks = read_star(f"{here}/particles.star")
    assert list(blocks) == ["general", "optics", "particles"]
    table = blocks["particles"]
    assert table["rlnTomoParticleName"].tolist() == ["TS_02/1", "TS_01/1", "TS_02/2"]
    assert table["rlnOpticsGroup"].tolist() == [2, 1, 2]
    assert blocks["optics"]["rlnVoltage"].tolist() == [300.0, 200.0]
    assert {"rlnAngleRot", "rlnOriginZAngst", "rlnRandomSubset", "rlnCenteredCoordinateZAngst"} <= set(table)
    assert not [c for c in table if not c.startswith("rln")]
    names = read_star(f"{here}/tomograms.star")["global"]["rlnOpticsGroupName"].tolist()
    assert names == blocks["optics"]["rlnOpticsGroupName"].tolist() == ["opticsGroup1", "opticsGroup2"]


def test_particle_images_only_where_each_has_its_file(here):
    series = [make_series("TS_01"), make_series("TS_02")]
    shared = make_particles(image_name=["000001@a.mrcs", "000001@b.mrcs", "000004@a.mrcs"], visible_frames="[0,1,1]")
    write_relion_project(here, series, shared)
    blocks = read_star(f"{here}/particles.star")
    assert "rlnImageName" not in blocks["particles"] and "rlnImageSize" not in blocks["optics"]
    assert blocks["general"]["rlnTomoSubTomosAre2DStacks"] == 0
    own = make_particles(image_name=["1.mrcs", "2.mrcs", "3.mrcs"], visible_frames=["[0,1,1]", "[1,0]", "[0,0,1]"])
    write_relion_project(here, series, own)
    blocks = read_star(f"{here}/particles.star")
    assert blocks["particles"]["rlnTomoVisibleFrames"].tolist() == ["[1,1]", "[1,0]", "[0,1]"]
    assert blocks["general"]["rlnTomoSubTomosAre2DStacks"] == 1 and blocks["optics"]["rlnImageSize"].tolist() == [24]
    assert read_particles(f"{here}/particles.star").are_2d_stacks


def test_view_is_read_back(here):
    written = [make_series("TS_01"), make_series("TS_02")]
    write_relion_project(here, written, make_particles())
    back = read_relion_tomograms(f"{here}/tomograms.star")
    assert [s.name for s in back] == ["TS_01", "TS_02"] and back[0].handedness == -1
    used = written[0].select(written[0].included)
    np.testing.assert_allclose(back[0].geometry.project([[10, 20, 30]])[0], used.geometry.project([[10, 20, 30]])[0])
    assert back[0].tilts["tilt_id"].tolist() == [1, 2] and back[0].included.all()
    moved = read_relion_tomograms(f"{here}/tomograms.star", ".")[1]
    assert moved.tilts["image"].iloc[0] == f"000002@{here}/tilt_series/TS_02.mrcs"


def test_refusals(here):
    series = [make_series("TS_01")]
    with pytest.raises(UserInputError, match="E-RELION-03.*TS_02"):
        write_relion_project(here, series, make_particles())
    with pytest.raises(UserInputError, match="E-RELION-01.*no views in use"):
        write_relion_project(here, [series[0].with_columns(excluded=1)], make_particles())
    bad = make_particles(tomo_name="TS_01", image_name=["1.mrcs", "2.mrcs", "3.mrcs"], visible_frames="[1,1,1]")
    with pytest.raises(UserInputError, match="E-RELION-02.*excluded view is visible"):
        write_relion_project(here, series, bad)
    with pytest.raises(UserInputError, match="E-RELION-02"):
        parse_visible_frames("[1,2]")


def test_views_of_a_stack_that_was_made_for_relion(here):
    """Only full views are in it, and the list of repairs is none of RELION's business."""
    series = make_series("TS_01")
    series = series.with_columns(image_even=series.tilts["image"], image_odd=series.tilts["image"], xray_repairs="x/TS_01_repairs.star")
    folder = "results/align_tilt_series/TS_01/relion"
    write_alignment_files(series, {"relion": f"{folder}/tomograms.star"}, "results/relion/stacks/TS_01.mrcs")
    table = read_star(f"{folder}/tilt_series/TS_01.star")["TS_01"]
    assert table["rlnMicrographName"].tolist() == [f"00000{n}@results/relion/stacks/TS_01.mrcs" for n in (2, 3)]
    assert not [c for c in table if "Even" in c or "Odd" in c or c.startswith("tl")] and not list(Path(folder).rglob("*.mrcs"))
    write_alignment_files(series, {"relion": f"{folder}/tomograms.star"})
    assert "rlnMicrographNameEven" in read_star(f"{folder}/tilt_series/TS_01.star")["TS_01"]
