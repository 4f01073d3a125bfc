"""Broken files: one sentence that says where and what, never a traceback."""

import json
import struct

import numpy as np
import pytest
from test_picks_conventions import (
    CBOX,
    DEEPFINDER,
    RELION4,
    RELION5,
    STOPGAP,
    TOMOGRAM,
    dynamo_line,
    em_motive_list,
    imod_model,
)
from test_picks_round_trip import TOMOGRAM as LARGE
from test_picks_round_trip import ending, random_picks

from cryoet_core.errors import CryoetError, UserInputError
from cryoet_core.io.picks import FORMATS, Axes, Source, detect_format, read_picks, write_picks

COPICK = {"unit": "angstrom", "points": [{"location": {"x": 1.0, "y": 2.0, "z": 3.0}, "score": 1}]}


def copick(**changes):
    return json.dumps(COPICK | {"points": [COPICK["points"][0] | changes]})


def eman2(box):
    return json.dumps({"apix_unbin": 1.0, "boxes_3d": [[0, 0, 0, "tm", 1, 0], box]})


STRETCHED = np.diag([2.0, 1, 1, 1]).tolist()
MIRROR = np.diag([1.0, 1, -1, 1]).tolist()
BROKEN = {  # what is wrong: (file name, content, code, words of the message)
    "no such table": ("a.star", "data_something\n\nloop_\n_x #1\n1\ndata_other\n\nloop_\n_y #1\n1\n", "E-PICKS-03", ["data_particles", "data_something"]),
    "no coordinates": ("a.star", RELION5.replace("rlnCenteredCoordinateY", "rlnMisspelledY"), "E-PICKS-03", ["rlnCenteredCoordinateXAngst"]),
    "a word for a number": ("a.star", RELION5.replace("132.5", "12,5"), "E-STAR-05", ["rlnCenteredCoordinateXAngst", "12,5"]),
    "pixel of no size": ("a.star", RELION4.replace("1 2.5", "1 0.0"), "E-PICKS-13", ["pixel size", "0"]),
    "a row too short": ("a.star", RELION5.replace(" 10 -20 5", " 10 -20"), "E-STAR-01", ["line 16", "9 values", "10"]),
    "not a star file": ("a.star", "hello\n", "E-STAR-02", ["line 1"]),
    "stopgap without angles": ("a.star", STOPGAP.replace("_phi\n", "_fie\n"), "E-PICKS-03", ["phi"]),
    "nan in stopgap": ("a.star", STOPGAP.replace("26.0", "nan"), "E-PICKS-04", ["orig_y", "row 1", "nan"]),
    "cbox without widths": ("a.cbox", CBOX.replace("_Width", "_Wide"), "E-PICKS-03", ["Width"]),
    "cbox of another program": ("a.cbox", RELION5, "E-PICKS-03", ["data_cryolo"]),
    "json cut": ("a.json", '{"boxes_3d": [\n[1, 2,', "E-PICKS-05", ["line 2", "JSON"]),
    "json of another program": ("a.json", '{"a": 1}', "E-PICKS-01", ["boxes_3d", "points", "picks_format"]),
    "a box too short": ("a.json", eman2([1, 2]), "E-PICKS-02", ["boxes_3d[1]", "[1, 2]"]),
    "text in a box": ("a.json", eman2([1, "y", 3, "tm", 1, 0]), "E-PICKS-04", ["boxes_3d[1][1]", "'y'"]),
    "true in a box": ("a.json", eman2([1, True, 3, "tm", 1, 0]), "E-PICKS-04", ["boxes_3d[1][1]", "True"]),
    "copick without z": ("a.json", copick(location={"x": 1, "y": 2}), "E-PICKS-03", ["points[0].location.z"]),
    "copick in pixels": ("a.json", json.dumps(COPICK | {"unit": "px"}), "E-PICKS-11", ["unit", "px", "angstrom"]),
    "copick stretched": ("a.json", copick(transformation_=STRETCHED), "E-PICKS-06", ["point 1", "determinant"]),
    "copick mirrored": ("a.json", copick(transformation_=MIRROR), "E-PICKS-06", ["point 1"]),
    "copick 3 x 3": ("a.json", copick(transformation_=np.eye(3).tolist()), "E-PICKS-02", ["points[0].transformation_", "4 rows"]),
    "ndjson cut": ("a.ndjson", '{"type": "point", "location": {"x": 1, "y": 2, "z": 3}}\n{"type": "po', "E-PICKS-05", ["line 2"]),
    "ndjson without location": ("a.ndjson", '{"type": "point"}\n', "E-PICKS-03", ["line 1.location"]),
    "xml cut": ("a.xml", DEEPFINDER[:60], "E-PICKS-05", ["line 2"]),
    "xml of another program": ("a.xml", "<boxes/>", "E-PICKS-05", ["<boxes>", "<objlist>"]),
    "xml without x": ("a.xml", DEEPFINDER.replace(' x="', ' w="'), "E-PICKS-03", ["x of object 1"]),
    "xml with a word": ("a.xml", DEEPFINDER.replace("25.5", "many"), "E-PICKS-04", ["y of object 1", "many"]),
    "xml bomb": ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><objlist/>', "E-PICKS-05", ["ENTITY"]),
    "table row too short": ("a.tbl", dynamo_line(0, 0, 0) + "1 2 3\n", "E-PICKS-02", ["line 2", "26 numbers"]),
    "table with a word": ("a.tbl", dynamo_line(0, "up", 0), "E-PICKS-02", ["line 1", "numbers"]),
    "table with nan": ("a.tbl", dynamo_line(0, "NaN", 0), "E-PICKS-02", ["line 1", "finite"]),
    "coords with two": ("a.coords", "1 2 3\n4 5\n", "E-PICKS-02", ["line 2", "'4 5'", "3 values"]),
    "coords with a word": ("a.coords", "1 2 3\n\n4 5 far\n", "E-PICKS-02", ["line 3", "numbers"]),
    "csv without z": ("a.csv", "x,y,size\n1,2,3\n", "E-PICKS-03", ["column z", "size"]),
    "csv with a word": ("a.csv", "x,y,z\n1,2,three\n", "E-PICKS-04", ["z of row 1", "three"]),
    "points with two": ("a.pt", "1 2\n", "E-PICKS-02", ["line 1", "3 to 5"]),
    "points with a word": ("a.pt", "1 2 3\n1 2 x\n", "E-PICKS-02", ["line 2", "3 numbers"]),
    "unclear text": ("a.txt", "1 2 3\n", "E-PICKS-01", [".txt", "imod_points", "picks_format"]),
    "em too short": ("a.em", em_motive_list()[:300], "E-PICKS-05", ["300 bytes", "512"]),
    "em cut": ("a.em", em_motive_list()[:-4], "E-PICKS-05", ["588 bytes", "592"]),
    "em of something else": ("a.em", bytes([6, 0, 0, 5]) + struct.pack("<3i", 4, 5, 1) + bytes(496 + 80), "E-PICKS-05", ["4 x 5 x 1", "20 x n"]),
    "em of no type": ("a.em", bytes([6, 0, 0, 77]) + em_motive_list()[4:], "E-PICKS-05", ["type 77"]),
    "mod cut": ("a.mod", imod_model(1, 2, 3)[:-90], "E-PICKS-05", ["cut"]),
    "mod without its end": ("a.mod", imod_model(1, 2, 3)[:-4], "E-PICKS-05", ["IEOF"]),
    "mod of something else": ("a.mod", b"MZ" + bytes(500), "E-PICKS-05", ["IMODV1.2"]),
    "tloc of something else": ("a.tloc", b"hello", "E-PICKS-05", [".coords"]),
    "coords on one line": ("a.coords", "1 2 3 4 5 6 7 8 9\n", "E-PICKS-02", ["one line of 9 numbers", "ends of the lines"]),
    "table on one line": ("a.tbl", (dynamo_line(0, 0, 0) * 2).replace("\n", " "), "E-PICKS-02", ["line 1", "end of a line lost"]),
    "two models in one file": ("a.mod", imod_model(1, 2, 3) * 2, "E-PICKS-05", ["joined", "one model"]),
    "two annotations on a line": ("a.ndjson", '{"location": {"x": 1, "y": 2, "z": 3}}' * 2, "E-PICKS-05", ["line 1", "JSON"]),
    "tables joined": ("a.csv", "x,y,z\n1,2,3\nx,y,z\n4,5,6\n", "E-PICKS-04", ["x of row 2", "'x'"]),
    "underscore for a point": ("a.csv", "x,y,z\n1_5,2,3\n", "E-PICKS-04", ["x of row 1", "1_5"]),
    "underscore in a star": ("a.star", RELION5.replace("132.5", "132_5"), "E-STAR-05", ["132_5"]),
    "400 digits in json": ("a.json", eman2([1, 10**400, 3]), "E-PICKS-04", ["boxes_3d[1][1]", "finite"]),
    "5000 digits in json": ("a.json", eman2([1, 2, 3]).replace("1, 2, 3", "1, 2, " + "9" * 5000), "E-PICKS-05", ["digits"]),
    "400 digits in a line": ("a.ndjson", '{"location": {"x": 1, "y": 2, "z": 1' + "0" * 400 + "}}", "E-PICKS-04", ["line 1.location.z"]),
    "400 digits in coords": ("a.coords", "1 2 3\n4 5 " + "9" * 400 + "\n", "E-PICKS-04", ["z of row 2"]),
    "400 digits in xml": ("a.xml", DEEPFINDER.replace("25.5", "7" * 400), "E-PICKS-04", ["y of object 1"]),
    "400 digits of a class": ("a.star", RELION4.replace(" 10 -20 5 1\n", " 10 -20 5 " + "1" * 400 + "\n"), "E-STAR-05", ["rlnOpticsGroup"]),
    "deep json": ("a.json", '{"boxes_3d": [' + "[" * 100000 + "]" * 100000 + "]}", "E-PICKS-05", ["brackets"]),
    "deep json in a pick": ("a.json", '{"boxes_3d": [[1, 2, ' + "[" * 900 + "]" * 900 + "]]}", "E-PICKS-04", ["boxes_3d[0][2]"]),
    "deep json line": ("a.ndjson", "[" * 100000 + "]" * 100000, "E-PICKS-05", ["line 1"]),
    "no pixel at all": ("a.star", RELION4.replace("1 2.5", "1 nan"), "E-PICKS-04", ["rlnTomoTiltSeriesPixelSize", "nan"]),
    "info file of no pixel": ("a.json", '{"apix_unbin": -1.0, "boxes_3d": [[0, 0, 0, "tm", 1, 0]]}', "E-PICKS-02", ["apix_unbin", "-1"]),
    "xml in no encoding": ("a.xml", b'<?xml version="1.0" encoding="no-such"?><objlist', "E-PICKS-05", []),
    "binary for text": ("a.coords", b"\0\1\2", "E-PICKS-05", ["binary"]),
    "no ending": ("picks", "1 2 3\n", "E-PICKS-01", ["without an ending"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_clear_error(tmp_path, name):
    file, content, code, words = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserInputError) as raised:
        read_picks(path, TOMOGRAM)
    error = raised.value
    assert error.code == code and str(path) in str(error) and error.fix and error.expected
    for word in words:
        assert word in str(error), str(error)


def test_absent_file_unknown_format_and_axes(tmp_path):
    with pytest.raises(UserInputError, match="E-FILE-01"):
        read_picks(tmp_path / "absent.tbl", TOMOGRAM)
    (tmp_path / "a.coords").write_text("1 2 3\n")
    with pytest.raises(UserInputError, match="E-PICKS-01.*relion5"):
        read_picks(tmp_path / "a.coords", TOMOGRAM, Source(format="peet"))
    for text in "xyy", "xz", "x+yz", "":
        with pytest.raises(UserInputError, match="E-PICKS-09"):
            Axes.parse(text)


def test_a_class_that_deepfinder_has_not(tmp_path):
    picks = read_picks_of(tmp_path, "a.csv", "x,y,z,class\n1,2,3,-1\n")
    with pytest.raises(UserInputError, match="E-PICKS-12.*-1"):
        write_picks(tmp_path / "a.xml", picks, TOMOGRAM, "deepfinder")


def read_picks_of(folder, name, text):
    (folder / name).write_text(text)
    return read_picks(folder / name, TOMOGRAM).picks


def test_picks_of_another_volume_are_refused(tmp_path):
    """Unbinned coordinates in a binned tomogram; a few outside are left out, with a warning."""
    path = tmp_path / "a.coords"
    path.write_text("10 10 10\n300 200 100\n200 300 20\n")
    with pytest.raises(UserInputError, match=r"E-PICKS-08.*2 of 3 outside: voxels x 10 to 300.*0 to 99, 79, 59.*picks_pixel_size_angst"):
        read_picks(path, TOMOGRAM)
    path.write_text("10 10 10\n" * 9 + "300 200 100\n")
    reading = read_picks(path, TOMOGRAM)
    assert len(reading.picks) == 9 and reading.n_outside == 1 and "1 picks lie outside" in reading.warnings[0]


def test_which_tomogram_of_a_file(tmp_path):
    path = tmp_path / "all.tbl"
    path.write_text(dynamo_line(0, 0, 0) + dynamo_line(0, 0, 0).replace(" 7 1 2 0 ", " 8 1 2 0 "))
    with pytest.raises(UserInputError, match=r"E-PICKS-07.*tomograms 7, 8.*picks_tomograms: \{TS_01: 7\}"):
        read_picks(path, TOMOGRAM)
    reading = read_picks(path, TOMOGRAM, Source(tomogram_number=8))
    assert reading.picks.row.tolist() == [2] and reading.n_other_tomograms == 1
    path.write_text(dynamo_line(0, 0, 0))
    with pytest.raises(UserInputError, match="E-PICKS-07"):  # one number, but the file is for all series
        read_picks(path, TOMOGRAM, Source(own_file=False))


def test_other_names_of_the_tomogram(tmp_path):
    path = tmp_path / "picks.star"
    path.write_text(RELION5.replace("TS_02", "TS_01").replace("TS_01", "tomo_b"))
    own = read_picks(path, TOMOGRAM, Source(own_file=True))
    assert len(own.picks) == 2 and "tomo_b" in own.warnings[0]
    shared = read_picks(path, TOMOGRAM, Source(own_file=False))
    assert len(shared.picks) == 0 and "it names tomo_b" in shared.warnings[0]


def test_choice_by_class_and_score(tmp_path):
    picks, path = random_picks(50), tmp_path / "a.tbl"
    write_picks(path, picks, LARGE, "dynamo")
    reading = read_picks(path, LARGE, Source(class_number=2, min_score=0.5))
    wanted = (picks.class_number == 2) & (picks.score >= 0.5)
    assert reading.picks.row.tolist() == (np.flatnonzero(wanted) + 1).tolist() and 0 < wanted.sum() < 50
    assert reading.n_other_classes == (picks.class_number != 2).sum()
    assert reading.n_other_classes + reading.n_below_score + len(reading.picks) == 50


def test_wishes_that_a_file_cannot_fulfil_are_said(tmp_path):
    (tmp_path / "a.coords").write_text("1 2 3\n")
    reading = read_picks(tmp_path / "a.coords", TOMOGRAM, Source(class_number=1, min_score=0.5))
    assert len(reading.picks) == 1 and "no classes" in reading.warnings[0] and "no scores" in reading.warnings[1]


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_give_picks_or_one_of_our_errors(tmp_path, form):
    """120 files of every format, cut or with bytes changed."""
    path = tmp_path / f"picks{ending(form)}"
    write_picks(path, random_picks(12), LARGE, form)
    good = path.read_bytes()
    rng = np.random.default_rng(len(form))
    outcomes = set()
    for trial in range(120):
        data = bytearray(good[: rng.integers(0, len(good))] if trial % 3 == 0 else good)
        for _ in range(rng.integers(0, 6) if data else 0):
            data[rng.integers(0, len(data))] = rng.integers(0, 256) if trial % 2 else rng.choice(list(b'{}[]<>"#_-. \n09eNa'))
        path.write_bytes(bytes(data))
        try:
            reading = read_picks(path, LARGE, Source(format=form))
            assert np.isfinite(reading.picks.positions_angst).all()
            outcomes.add("read")
        except CryoetError as error:
            outcomes.add(error.code)
        if trial % 5 == 0:
            try:
                detect_format(path)
            except CryoetError:
                pass
    assert "read" in outcomes and len(outcomes) > 1


def tloc(*operations, tail=b"."):
    return b"\x80\x04" + b"".join(operations) + tail


HUNGRY = {
    "an object number of 2^31": (tloc(b"N", b"r\xff\xff\xff\x7f"), "object number 2147483647"),
    "an object number in digits": (tloc(b"N", b"p2000000000\n"), "object number 2000000000"),
    "bytes of 2^40": (tloc(b"\x8e" + struct.pack("<Q", 1 << 40) + b"x"), "1099511627776"),
    "a bytearray of 2^40": (tloc(b"\x96" + struct.pack("<Q", 1 << 40) + b"x"), "1099511627776"),
    "text of 2^32": (tloc(b"X\xff\xff\xff\xff" + b"x"), "4294967295"),
    "a joined file": (tloc(b"N") + tloc(b"N"), "behind its end"),
}


@pytest.mark.parametrize("name", HUNGRY)
def test_a_tloc_that_asks_for_memory_is_refused_without_it(tmp_path, name):
    import tracemalloc

    content, words = HUNGRY[name]
    path = tmp_path / "a.tloc"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserInputError, match=f"E-PICKS-05.*{words}"):
            read_picks(path, TOMOGRAM)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_long_lines_take_time_linear_in_their_length(tmp_path):
    """Blanks, quotes that never close, digits and endings without end: a second for what took minutes."""
    import time

    from cryoet_core.io.picks.relion import tomogram_name

    lines = {
        "a.star": ["data_particles\n\nloop_\n_rlnTomoName\n" + part for part in ('"a' + " " * 300000 + "x\n", '"a ' * 100000, "'\"" * 100000)],
        "a.tbl": ["1" * 200000 + "\n", ("1" * 100000 + "+") * 2 + "i\n"],
        "a.coords": [" " * 300000 + "1 2\n", "-" * 300000 + "\n"],
    }
    start = time.process_time()
    for name, contents in lines.items():
        for content in contents:
            (tmp_path / name).write_text(content)
            with pytest.raises(UserInputError):
                read_picks(tmp_path / name, TOMOGRAM)
    tomogram_name("a" + ".mrc" * 50000)
    tomogram_name("_1" * 100000)
    assert time.process_time() - start < 8
