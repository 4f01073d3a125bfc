"""Defects of a camera from maps, MotionCor's boxes and SerialEM's lists."""

import numpy as np
import pytest
import tifffile

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.defects import read_defects, with_defects
from cryoet_core.io.gain import Gain
from cryoet_core.io.mrc import write_mrc

SHAPE = (60, 80)


def _expected(*pixels):
    bad = np.zeros(SHAPE, bool)
    for y, x in pixels:
        bad[y, x] = True
    return bad


@pytest.mark.parametrize("name", ["map.mrc", "map.tif"])
@pytest.mark.parametrize("factor", [1, 2])
def test_maps(tmp_path, name, factor):
    image = np.zeros((factor * SHAPE[0], factor * SHAPE[1]), np.uint8)
    image[factor * 3 + factor - 1, factor * 7] = image[-1, 0] = 5
    if name.endswith("mrc"):
        write_mrc(tmp_path / name, image.astype(np.float32), 1.0)
    else:
        tifffile.imwrite(tmp_path / name, image[::-1])  # TIFF: the first row is the top one
    assert np.array_equal(read_defects(tmp_path / name, SHAPE), _expected((3, 7), (59, 0)))


def test_motioncor_boxes_count_from_the_bottom(tmp_path):
    (tmp_path / "boxes.txt").write_text("# x y w h\n10 2 3 1\n\n79 59 1 1\n")
    expected = _expected((2, 10), (2, 11), (2, 12), (59, 79))
    assert np.array_equal(read_defects(tmp_path / "boxes.txt", SHAPE), expected)


SERIALEM = "CameraSizeX 80\r\nCameraSizeY 60\r\nRotationAndFlip 0\r\nBadColumns 4 5\r\nPartialBadColumn 20 2 50 59\r\n" \
    "PartialBadRow 10 1 30 31\r\nBadPixels 70 0 71 1\r\n"


def test_serialem_list_counts_rows_from_the_top(tmp_path):
    (tmp_path / "defects.txt").write_text(SERIALEM)
    expected = _expected((49, 30), (49, 31), (59, 70), (58, 71))
    expected[:, 4:6] = expected[:10, 20:22] = True
    assert np.array_equal(read_defects(tmp_path / "defects.txt", SHAPE), expected)
    fine = read_defects(tmp_path / "defects.txt", (120, 160))  # super-resolution movies
    assert np.array_equal(fine[::2, ::2], expected) and np.array_equal(fine[1::2, 1::2], expected)


@pytest.mark.parametrize(("text", "error"), [
    ("70 2 20 1\n", "E-DEF-01.*x to 90.*80 x 60.*Fix"),
    ("1 2 3\n", "E-DEF-02.*line 1.*x y w h"),
    ("1 2 3 -4\n", "E-DEF-02.*not negative"),
    ("", "E-DEF-02.*an empty file"),
    ("BadRows 3\n", "E-DEF-02.*CameraSizeX"),
    ("CameraSizeX 80\nCameraSizeY 60\nBadColumns 80\n", "E-DEF-02.*line 3"),
    ("CameraSizeX 40\nCameraSizeY 60\n", "E-DEF-01.*40 x 60.*80 x 60"),
])
def test_wrong_text_is_named(tmp_path, text, error):
    (tmp_path / "defects.txt").write_text(text)
    with pytest.raises(UserInputError, match=error):
        read_defects(tmp_path / "defects.txt", SHAPE)


def test_wrong_maps_are_named(tmp_path):
    write_mrc(tmp_path / "turned.mrc", np.zeros(SHAPE[::-1], np.float32), 1.0)
    with pytest.raises(UserInputError, match="E-DEF-01.*turned.mrc.*60 x 80.*80 x 60"):
        read_defects(tmp_path / "turned.mrc", SHAPE)
    write_mrc(tmp_path / "gain.mrc", np.ones(SHAPE, np.float32), 1.0)
    with pytest.raises(DataQualityError, match="E-DEF-03.*100.0 %"):
        read_defects(tmp_path / "gain.mrc", SHAPE)
    with pytest.raises(UserInputError, match="E-FILE-01.*data.defects"):
        read_defects(tmp_path / "none.txt", SHAPE)


def test_defects_join_the_dead_pixels_of_the_gain():
    gain = Gain(np.full(SHAPE, 2.0, np.float32), _expected((1, 1)))
    joined = with_defects(gain, _expected((2, 2)))
    assert joined.factor is gain.factor and np.array_equal(joined.defects, _expected((1, 1), (2, 2)))
    alone = with_defects(None, _expected((2, 2)))
    assert (alone.factor == 1).all() and np.array_equal(alone.defects, _expected((2, 2)))
