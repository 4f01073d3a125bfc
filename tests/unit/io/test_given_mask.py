"""Masks of users: IMOD's signed bytes, 0/255, soft edges, and what is no mask."""

import numpy as np
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.io import mrc
from cryoet_core.io.mask import read_mask
from cryoet_core.io.mrc_header import IMOD_STAMP
from cryoet_core.io.mrc_volume import MrcVolume

INSIDE = np.zeros((6, 8, 10), dtype=np.float32)
INSIDE[2:4, 3:6, 2:7] = 1


def write(path, values, dtype="float32", pixel=10.0):
    mrc.write_mrc(path, np.asarray(values), pixel, dtype=dtype)
    return path


def write_imod_signed(path, values, pixel=10.0):
    """Bytes 0 to 255 as IMOD stores them: minus 128, stamp and flag, the header's range with them."""
    write(path, values.astype(np.int16) - 128, "int8", pixel)
    raw = bytearray(path.read_bytes())
    raw[152:160] = np.array([IMOD_STAMP, 1], "<i4").tobytes()
    path.write_bytes(raw)
    return path


def test_imods_signed_bytes_are_value_minus_128(tmp_path):
    values = np.arange(240, dtype=np.uint8).reshape(4, 6, 10)
    path = write_imod_signed(tmp_path / "s.mrc", values)
    assert mrc.read_header(path).shifted_bytes
    assert np.array_equal(mrc.read_mrc(path)[0], values.astype(np.float32))
    stored = mrc.read_mrc(path, dtype=None)[0]
    assert stored.dtype == np.uint8 and np.array_equal(stored, values)
    assert np.array_equal(mrc.read_section(path, 2), values[2])
    assert np.array_equal(MrcVolume(path)[1:3, 2:5, 3:], values[1:3, 2:5, 3:])


def test_signed_bytes_of_others_are_what_they_say(tmp_path):
    """MRC2014's mode 0 without IMOD's stamp; with the stamp and without the flag the bytes are unsigned."""
    path = write(tmp_path / "i.mrc", np.array([[[-128, -1, 0, 127]]]), "int8")
    assert mrc.read_mrc(path)[0].tolist() == [[[-128, -1, 0, 127]]] and not mrc.read_header(path).shifted_bytes
    path = write(tmp_path / "u.mrc", np.array([[[0, 1, 200, 255]]]), "uint8")
    assert mrc.read_mrc(path)[0].tolist() == [[[0, 1, 200, 255]]] and not mrc.read_header(path).shifted_bytes


SOFT = np.clip(INSIDE + 0.25 * np.roll(INSIDE, 1, 2), 0, 1)
ACCEPTED = {  # (values, dtype, what they mean, words of the warning)
    "0 and 1": (INSIDE, "float32", INSIDE, []),
    "bytes 0 and 1": (INSIDE, "int8", INSIDE, []),
    "soft": (SOFT, "float32", SOFT, []),
    "0 and 255": (255 * INSIDE, "uint8", INSIDE, ["0 and 255", "taken as 1"]),
    "0 and 0.4": (0.4 * INSIDE, "float32", INSIDE, ["0 and 0.4", "taken as 1"]),
    "0 and 7": (7 * INSIDE, "int16", INSIDE, ["0 and 7"]),
    "soft bytes": (np.rint(255 * SOFT), "uint8", np.rint(255 * SOFT) / np.float32(255), ["divided by 255"]),
    "overshoot": (
        1.02 * SOFT - 0.01,
        "float32",
        np.clip(np.float32(1.02) * SOFT - np.float32(0.01), 0, 1),
        ["-0.01 to 1.01", "cut to 0..1"],
    ),
    "all inside": (np.ones_like(INSIDE), "float32", np.ones_like(INSIDE), ["leaves nothing out"]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_values_become_zero_to_one(tmp_path, name):
    values, dtype, meant, words = ACCEPTED[name]
    mask = read_mask(write(tmp_path / "mask.mrc", values.astype(dtype), dtype), "postprocess.mask", 10.0)
    assert mask.values.dtype == np.float32
    assert np.allclose(mask.values, meant, atol=1e-6) and mask.values.max() == 1
    assert len(mask.warnings) == bool(words) and all(word in mask.warnings[0] for word in words)
    assert not words or str(tmp_path / "mask.mrc") in mask.warnings[0]


def test_imods_mask_is_zero_and_one(tmp_path):
    mask = read_mask(write_imod_signed(tmp_path / "m.mrc", INSIDE), "postprocess.mask", 10.0)
    assert np.array_equal(mask.values, INSIDE) and mask.warnings == ()


@pytest.mark.parametrize(
    "values, found",
    [
        (0 * INSIDE, "nothing is inside.*values 0 to 0"),
        (INSIDE - 128, r"values -128 to -127 \(-128, -127\)"),
        (255 - 0 * INSIDE, "values 255 to 255"),
        (INSIDE + 2 * np.roll(INSIDE, 2, 2), r"values 0 to 3 \(0, 1, 2, 3\)"),
        (-INSIDE, "values -1 to 0"),
        (0.3 * SOFT, "values 0 to 0.3"),
        (np.linspace(-4, 4, 480).reshape(6, 8, 10), "values -4 to 4,"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_values(tmp_path, values, found):
    with pytest.raises(UserInputError, match=f"E-MASK-01.*mask.mrc: postprocess.mask.*{found}.*Fix: "):
        read_mask(write(tmp_path / "mask.mrc", values), "postprocess.mask", 10.0)


def test_a_mask_of_other_pixels_is_questioned(tmp_path):
    assert (
        "pixels of 5 A, what it masks 10 A"
        in read_mask(write(tmp_path / "m.mrc", INSIDE, pixel=5.0), "k", 10.0).warnings[0]
    )
    for pixel in 1.0, 10.05:  # unknown, rounded
        assert read_mask(write(tmp_path / "m.mrc", INSIDE, pixel=pixel), "k", 10.0).warnings == ()
