"""Blocks of a volume on disk."""

import numpy as np
import pytest

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.mrc_volume import MrcVolume


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "int8"])
def test_a_block_is_that_part_of_the_volume(tmp_path, rng, dtype):
    volume = np.rint(rng.normal(0, 20, (7, 9, 12))).astype(np.float32)
    write_mrc(tmp_path / "v.mrc", volume, 3.5, dtype=dtype)
    blocks = MrcVolume(tmp_path / "v.mrc")
    assert blocks.shape == volume.shape and blocks.pixel_size_angst == pytest.approx(3.5)
    for window in (np.s_[2:5, 1:9, 3:4], np.s_[:, :, :], np.s_[6:7, 0:1, 0:12]):
        block = blocks[window]
        assert block.dtype == np.float32 and type(block) is np.ndarray
        np.testing.assert_array_equal(block, volume[window])


def test_axes_in_another_order_are_put_back(tmp_path, rng):
    volume = rng.normal(size=(4, 5, 6)).astype(np.float32)
    path = tmp_path / "v.mrc"
    write_mrc(path, volume, 2.0)
    content = bytearray(path.read_bytes())
    content[64:76] = np.array([2, 1, 3], dtype="<i4").tobytes()  # columns hold y, rows hold x
    path.write_bytes(content)
    np.testing.assert_array_equal(MrcVolume(path)[1:3, :, :], volume.transpose(0, 2, 1)[1:3])


def test_what_is_wrong_is_said_with_the_file(tmp_path):
    with pytest.raises(UserInputError, match="E-FILE-01"):
        MrcVolume(tmp_path / "none.mrc")
    volume = np.zeros((3, 4, 5), dtype=np.float32)
    write_mrc(tmp_path / "v.mrc", volume, 2.0)
    content = bytearray((tmp_path / "v.mrc").read_bytes())
    content[1024:1028] = np.float32(np.nan).tobytes()
    (tmp_path / "v.mrc").write_bytes(content)
    blocks = MrcVolume(tmp_path / "v.mrc")
    assert not blocks[1:2, :, :].any()
    with pytest.raises(DataQualityError, match="v.mrc"):
        blocks[0:1, :, :]
