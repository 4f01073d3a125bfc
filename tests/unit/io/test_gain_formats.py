"""Gain references of every format, whole and damaged."""

import numpy as np
import pytest
import tifffile
from dm_files import write_dm

from cryoet_core.errors import CryoetError, UserInputError
from cryoet_core.io.defects import read_defects
from cryoet_core.io.gain import check_gain_fits, open_reference, read_gain, read_gain_image
from cryoet_core.io.mrc import write_mrc


@pytest.fixture
def gain():
    return np.random.default_rng(1).uniform(0.8, 1.2, (6, 8)).astype(np.float32)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_gatan_references_read_as_those_of_mrc(tmp_path, gain, version, dtype):
    """First row at the top, as in TIFF; the largest of several images; what the file is called does not matter."""
    pytest.importorskip("rsciio", reason="optional: pip install rosettasciio")
    image = gain if dtype == "float32" else (1000 * gain).astype(np.uint16)
    write_dm(tmp_path / f"CountRef.dm{version}", image[:2, :2], image[::-1], version=version)
    reference = open_reference(tmp_path / f"CountRef.dm{version}")
    assert reference.shape == (6, 8) and np.array_equal(reference.read(), image)
    write_mrc(tmp_path / "g.mrc", image.astype(np.float32), 1.0)
    assert np.allclose(read_gain(reference.path, (6, 8)).factor, read_gain(tmp_path / "g.mrc").factor)


def test_gatan_map_of_defects(tmp_path):
    pytest.importorskip("rsciio", reason="optional: pip install rosettasciio")
    bad = np.zeros((20, 30), np.uint16)
    bad[3, 4] = 1
    write_dm(tmp_path / "bad.dm4", bad[::-1])
    assert np.argwhere(read_defects(tmp_path / "bad.dm4", (20, 30))).tolist() == [[3, 4]]


def test_without_the_package_the_error_says_what_to_install(tmp_path, gain, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", None)
    write_dm(tmp_path / "g.dm4", gain)
    with pytest.raises(UserInputError, match="E-GAIN-04.*g.dm4.*rosettasciio.*dm2mrc"):
        read_gain_image(tmp_path / "g.dm4")


def test_the_content_says_what_a_reference_is(tmp_path, gain):
    write_mrc(tmp_path / "really_mrc.dm4", gain, 1.0)
    tifffile.imwrite(tmp_path / "really_tiff.dm4", gain[::-1])
    tifffile.imwrite(tmp_path / "g.gain", gain[::-1])
    for name in ("really_mrc.dm4", "really_tiff.dm4", "g.gain"):
        assert np.array_equal(read_gain_image(tmp_path / name), gain)


@pytest.mark.parametrize("name", ["g.gain", "g.tif", "g.dm3", "g.dm4", "g.mrc", "g.xyz"])
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404 not found</html>" * 30, bytes(2000), b"\0\0\0\4" + bytes(500), b"II*\0" + b"\xff" * 400],
)
def test_what_is_no_reference_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CryoetError) as stopped:
        read_gain_image(tmp_path / name)
    assert (
        stopped.value.code in ("E-GAIN-03", "E-GAIN-04", "E-MRC-01", "E-MRC-02")
        and name in str(stopped.value)
        and stopped.value.fix
    )


def test_a_size_that_the_file_cannot_hold_is_refused_before_memory_is_asked_for(tmp_path, gain):
    tifffile.imwrite(tmp_path / "g.gain", gain)
    raw = bytearray((tmp_path / "g.gain").read_bytes())
    with tifffile.TiffFile(tmp_path / "g.gain") as tiff:
        places = [tiff.pages[0].tags[key].valueoffset for key in ("ImageWidth", "ImageLength")]
        kinds = [tiff.pages[0].tags[key].dtype for key in ("ImageWidth", "ImageLength")]
    for size in (9000, 60000):
        for place, kind in zip(places, kinds, strict=True):
            raw[place : place + 2] = size.to_bytes(2, "little")
            assert kind in (3, 4)
        (tmp_path / "big.gain").write_bytes(raw)
        with pytest.raises(UserInputError, match="E-GAIN-03.*big.gain"):
            read_gain_image(tmp_path / "big.gain")


@pytest.mark.parametrize(
    "gain_shape, fits",
    [((8, 12), True), ((12, 8), True), ((16, 24), True), ((64, 96), True), ((4, 6), False), ((8, 13), False)],
)
def test_which_references_fit_movies(gain_shape, fits):
    if fits:
        check_gain_fits(gain_shape, (8, 12), "g.mrc")
        return
    with pytest.raises(UserInputError, match="E-GAIN-01.*g.mrc"):
        check_gain_fits(gain_shape, (8, 12), "g.mrc")


def test_serialem_defects_of_an_impossible_camera(tmp_path):
    (tmp_path / "d.txt").write_text("CameraSizeX 2000000\nCameraSizeY 2000000\nBadColumns 3\n")
    with pytest.raises(UserInputError, match="E-DEF-01.*found 2000000 x 2000000"):
        read_defects(tmp_path / "d.txt", (20, 30))
