"""Picks whose file counts in something else than it seems (fractions, Warp's exports, other volumes); files without picks."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from test_picks_conventions import TOMOGRAM

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.io.picks import FORMATS, Grid, Picks, Source, Tomogram, read_picks, write_picks
from cryoet_core.picking.exchange import import_picks

# TOMOGRAM: 100 x 80 x 60 voxels of 10 A, 400 x 320 x 240 pixels of 2.5 A
FRACTIONS = np.array([[0.75, 0.5, 0.25], [0.1, 0.9, 0.5], [0.5, 0.5, 0.95], [0.0, 0.0, 0.0]])
MEANT = np.array([[250.0, 0, -150], [-400, 320, 0], [0, 0, 270], [-500, -400, -300]])


def star(labels, rows, before=""):
    head = "".join(f"_{label} #{i}\n" for i, label in enumerate(labels, 1))
    return f"{before}\ndata_particles\n\nloop_\n{head}" + "\n".join(" ".join(map(str, row)) for row in rows) + "\n"


def read(path, content, tomogram=TOMOGRAM, **source):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_picks(path, tomogram, Source(**source))


XYZ = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
IN_FRACTIONS = {
    "TS_01_15.00Apx_ribosome.star": star([*XYZ, "rlnMicrographName"], [[*f, "TS_01.tomostar"] for f in FRACTIONS]),
    "a.coords": "\n".join(" ".join(map(str, f)) for f in FRACTIONS),
    "a.csv": "x,y,z,score\n" + "\n".join(",".join(map(str, f)) + ",1" for f in FRACTIONS),
    "a.tloc": pickle.dumps(pd.DataFrame(FRACTIONS, columns=pd.Index(list("XYZ"), dtype=object))),
}


@pytest.mark.parametrize("name", IN_FRACTIONS)
def test_fractions_are_scaled_by_the_tomogram(tmp_path, name):
    """As Warp's matching writes them: 0.5 is the middle, whatever voxel the file might be thought to count in."""
    for pixel in (None, 5.0):
        reading = read(tmp_path / name, IN_FRACTIONS[name], pixel_size_angst=pixel)
        np.testing.assert_allclose(reading.picks.positions_angst, MEANT, atol=1e-6)
        assert "fractions" in reading.warnings[0] and name in reading.warnings[0] and "fractions" in reading.unit


def test_voxels_of_a_corner_are_no_fractions(tmp_path):
    reading = read(tmp_path / "a.coords", "0 0 0\n1 1 1\n0 1 1\n")
    np.testing.assert_allclose(reading.picks.positions_angst[1], (np.ones(3) - [50, 40, 30]) * 10)
    reading = read(tmp_path / "b.coords", "0.5 0.5 0.5\n1.5 0.5 0.5\n")
    np.testing.assert_allclose(reading.picks.positions_angst[0], (np.full(3, 0.5) - [50, 40, 30]) * 10)


def test_a_file_joined_with_itself_is_questioned(tmp_path):
    lines = "".join(f"{x} {y} {z}\n" for x, y, z in [(10, 20, 5), (90, 70, 50), (40, 12, 30), (15, 60, 44), (77, 33, 9)])
    assert not [w for w in read(tmp_path / "a.coords", lines).warnings if "very position" in w]
    said = [w for w in read(tmp_path / "b.coords", lines + lines).warnings if "very position" in w]
    assert len(said) == 1 and said[0].startswith("5 of 10 picks of") and "b.coords" in said[0]


BINNING, RAW = 7.19856, 1.667
WARP = Tomogram("Unt_083", Grid((611, 834, 194), 12.0), Grid((4400, 6000, 1400), RAW))
EXPORTED = np.array([[494.521, 564.065, 28.146], [110.32, 671.485, 120.663], [240.453, 318.015, 176.674]])


def warp_export(rows=EXPORTED, stacks=1, binning=BINNING, coordinates=XYZ):
    before = f"""data_general

_rlnTomoSubTomosAre2DStacks {stacks}

data_optics

loop_
_rlnOpticsGroup #1
_rlnTomoTiltSeriesPixelSize #2
_rlnTomoSubtomogramBinning #3
_rlnImagePixelSize #4
1 {RAW} 1.0 {RAW}
2 {RAW} {binning} {RAW * binning}
"""
    return star(
        ["rlnTomoName", *coordinates, "rlnOpticsGroup"], [["Unt_083.tomostar", *row, 2] for row in rows], before
    )


def test_warps_2d_exports_are_the_centred_positions_of_relion_5(tmp_path):
    centred = EXPORTED * 12.0 - np.array([4400, 6000, 1400]) / 2 * RAW
    labels = [f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"]
    relion5 = read(tmp_path / "five.star", warp_export(centred, coordinates=labels), WARP)
    old = read(tmp_path / "old.star", warp_export(), WARP)
    np.testing.assert_allclose(old.picks.positions_angst, relion5.picks.positions_angst, atol=0.1)
    assert (
        "Warp" in old.warnings[0]
        and "pixels of 12 A" in old.warnings[0]
        and old.unit == "pixels of 12 A, as the file says"
    )
    assert relion5.warnings == () and relion5.unit == "A, as the file says"


def test_what_is_no_such_export_counts_in_pixels_of_the_tilt_images(tmp_path):
    """3D subtomograms, no binning, stacks whose coordinates fit only as raw pixels, and what the user says."""
    raw = EXPORTED * BINNING
    meant = EXPORTED * 12.0 - np.array([4400, 6000, 1400]) / 2 * RAW
    for content in (warp_export(raw, stacks=0), warp_export(raw, binning=1.0), warp_export(raw)):
        reading = read(tmp_path / "a.star", content, WARP)
        np.testing.assert_allclose(reading.picks.positions_angst, meant, atol=0.1)
        assert reading.unit == "pixels of 1.667 A, as the file says" and reading.warnings == ()
    given = read(tmp_path / "a.star", warp_export(), WARP, pixel_size_angst=12.0)
    np.testing.assert_allclose(given.picks.positions_angst, meant, atol=0.1)
    assert given.unit == "voxels of 12 A, as given"


def test_an_assumed_pixel_size_is_said(tmp_path):
    reading = read(tmp_path / "a.star", star(["rlnTomoName", *XYZ], [["TS_01", 253, 94, 166]]))
    np.testing.assert_allclose(reading.picks.positions_angst, [[132.5, -165.0, 115.0]])
    assert "2.5 A, that of the tilt images, is assumed" in reading.warnings[0] and "a.star" in reading.warnings[0]
    assert reading.unit == "voxels of 2.5 A, assumed: the file does not say"
    assert read(tmp_path / "a.coords", "50 40 30\n").unit == "voxels of 10 A, assumed: the file does not say"


RNG = np.random.default_rng(5)
ALL_OVER = RNG.uniform([0, 0, 0], [99, 79, 59], (60, 3))
FRAMES = {
    "corner": (ALL_OVER * 0.45, "in one corner"),
    "far corner": (ALL_OVER * 0.45 + [54, 43, 32], "in one corner"),
    "few in a voxel": (np.full((3, 3), 0.4) + RNG.uniform(0.7, 0.9, (3, 3)), "in one voxel"),
    "voxel": (np.full((7, 3), 40) + RNG.uniform(0, 0.9, (7, 3)), "in one voxel"),
    "plane of z": (ALL_OVER * [1, 1, 0] + [0, 0, 30], "in a plane"),
    "tilted plane": (np.c_[ALL_OVER[:, :2], 10 + 0.2 * ALL_OVER[:, 0] + 0.3 * ALL_OVER[:, 1]], "in a plane"),
    "small part": (ALL_OVER * 0.4 + [30, 24, 18], "% of the tomogram"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_picks_that_fill_little_of_the_tomogram_are_questioned_by_name(tmp_path, name):
    index, words = FRAMES[name]
    reading = read(tmp_path / "some.coords", "\n".join(" ".join(f"{v:.3f}" for v in row) for row in index))
    assert len(reading.picks) == len(index) and len(reading.warnings) == 1
    assert (
        words in reading.warnings[0]
        and "some.coords" in reading.warnings[0]
        and "picks_pixel_size_angst" in reading.warnings[0]
    )


@pytest.mark.parametrize(
    "index", [ALL_OVER, ALL_OVER[:5], ALL_OVER * [1, 1, 0.4] + [0, 0, 18], np.array([[3.5, 4, 5], [3.6, 4, 5]])]
)
def test_picks_of_a_specimen_are_not_questioned(tmp_path, index):
    assert read(tmp_path / "a.coords", "\n".join(" ".join(f"{v:.3f}" for v in row) for row in index)).warnings == ()


CBOX_LABELS = ["CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Confidence"]
NOTHING = {
    **{f"no byte{form.extensions[0]} {name}": (f"a{form.extensions[0]}", b"", name) for name, form in FORMATS.items()},
    **{f"no byte, auto{end}": (f"a{end}", b"", "auto") for form in FORMATS.values() for end in form.extensions},
    "blanks": ("a.star", b" \n\t\r\n ", "auto"),
    "our comment": ("a.coords", b"# no picks\n", "auto"),
    "a comment of dynamo": ("a.tbl", b"% nothing\n\n", "auto"),
    "byte order mark": ("a.csv", b"\xef\xbb\xbf\n", "auto"),
    "a star of comments": ("a.star", b"# version 50001\n\n# nothing\n", "auto"),
    "relion 4": ("a.star", star(XYZ, []).encode(), "auto"),
    "relion 5": ("a.star", star([f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"], []).encode(), "auto"),
    "a table of no label": ("a.star", b"data_particles\n\nloop_\n", "auto"),
    "a block of nothing": ("a.star", b"data_\n", "auto"),
    "optics alone are full": ("a.star", star(XYZ, [], "data_optics\nloop_\n_rlnOpticsGroup\n1\n").encode(), "auto"),
    "stopgap": ("a.star", b"data_stopgap_motivelist\n\nloop_\n_motl_idx\n_orig_x\n", "auto"),
    "cbox": ("a.cbox", ("data_cryolo\nloop_\n" + "".join(f"_{label}\n" for label in CBOX_LABELS)).encode(), "auto"),
    "eman2": ("a_info.json", b'{"boxes_3d": [], "class_list": {}}', "auto"),
    "eman2 before picking": ("a_info.json", b'{"apix_unbin": 1.7, "tlt_params": [[0, 0]]}', "auto"),
    "copick": ("a.json", json.dumps({"points": []}).encode(), "auto"),
    "deepfinder": ("a.xml", b"<objlist/>", "auto"),
    "header alone": ("a.csv", b"X,Y,Z,score\n", "auto"),
    "tloc": (
        "a.tloc",
        pickle.dumps(pd.DataFrame(np.zeros((0, 3)), columns=pd.Index(list("XYZ"), dtype=object))),
        "auto",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_file_without_picks_is_none_with_a_warning(tmp_path, name):
    file, content, form = NOTHING[name]
    path = tmp_path / file
    reading = read(path, content, format=form)
    assert len(reading.picks) == reading.n_in_file == 0
    assert reading.warnings == (f"{path} holds no picks",)
    assert reading.format in FORMATS


@pytest.mark.parametrize("form", FORMATS)
def test_what_we_export_of_no_picks_comes_back(tmp_path, form):
    path = tmp_path / f"a{FORMATS[form].extensions[0]}"
    write_picks(path, Picks.none(), TOMOGRAM, form)
    for asked in (form, "auto") if path.suffix != ".txt" else (form,):
        reading = read_picks(path, TOMOGRAM, Source(format=asked))
        assert len(reading.picks) == 0 and reading.warnings == (f"{path} holds no picks",)


class Series:
    name, pixel_size_angst, movie_pixel_size_angst, tomogram_size_px = "TS_01", 10.0, 2.5, (400, 320, 240)
    voltage_kv, spherical_aberration_mm, amplitude_contrast = 300.0, 2.7, 0.1
    ctf = None


def test_the_summary_says_what_was_assumed(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoet_core.picking.exchange.particle_optics", lambda series: pd.DataFrame())
    (tmp_path / "TS_01.star").write_text(star(XYZ, [[253, 94, 166]]))
    (tmp_path / "TS_02.coords").write_text("")
    config = MatchTemplate(picks=str(tmp_path / "{ts}.star"))
    found = import_picks(tmp_path / "TS_01.star", Series(), (60, 80, 100), config)
    assert "assumed" in found.summary["imported"]["unit"] and "is assumed" in found.summary["imported"]["warnings"][1]
    none = import_picks(tmp_path / "TS_02.coords", Series(), (60, 80, 100), config)
    assert none.summary["n_picks"] == 0 and none.warnings == [f"{tmp_path / 'TS_02.coords'} holds no picks"]
