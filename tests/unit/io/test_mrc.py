"""MRC reading and writing, with mrcfile as oracle."""

import warnings

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoet_core.errors import CryoetError, DataQualityError, UserInputError
from cryoet_core.io import mrc
from cryoet_core.io.images import image_names, load_named_images, split_image_name
from cryoet_core.io.mrc import MrcBlockWriter, read_header, read_mrc, write_mrc
from cryoet_core.io.mrc_header import HEADER_DTYPE, IMOD_STAMP


@pytest.fixture
def stack():
    return np.random.default_rng(1).normal(100, 10, (3, 6, 10)).astype(np.float32)


def test_header_layout_is_1024_bytes():
    assert HEADER_DTYPE.itemsize == 1024
    assert {n: HEADER_DTYPE.fields[n][1] for n in ("mapcrs", "ispg", "imod_stamp", "origin_angst", "map", "label")} == {
        "mapcrs": 64, "ispg": 88, "imod_stamp": 152, "origin_angst": 196, "map": 208, "label": 224}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint16", "int8"])
def test_what_we_write_mrcfile_reads(tmp_path, stack, dtype):
    values = stack if dtype.startswith("float") else np.rint(stack) - (100 if dtype != "uint16" else 0)
    mrc.write_mrc(tmp_path / "a.mrc", values, 3.42, stack=True, dtype=dtype)
    with mrcfile.open(tmp_path / "a.mrc") as f:
        assert f.data.dtype == np.dtype(dtype)
        assert np.array_equal(f.data, values.astype(dtype))
        assert f.is_image_stack()
        assert float(f.voxel_size.x) == pytest.approx(3.42, rel=1e-6)
        assert float(f.voxel_size.y) == pytest.approx(3.42, rel=1e-6)
        assert float(f.header.dmean) == pytest.approx(f.data.mean(dtype=np.float64), rel=1e-6)
        assert float(f.header.rms) == pytest.approx(f.data.std(dtype=np.float64), rel=1e-5)
        assert int(f.header.nlabl) == 0 and f.header.origin.tolist() == (0, 0, 0)
    array, pixel = mrc.read_mrc(tmp_path / "a.mrc")
    assert array.dtype == np.float32 and np.array_equal(array, values.astype(dtype).astype(np.float32))
    assert pixel == pytest.approx(3.42, abs=1e-6)


def test_volume_and_image_kinds(tmp_path, stack):
    mrc.write_mrc(tmp_path / "v.mrc", stack, 2.0)
    mrc.write_mrc(tmp_path / "i.mrc", stack[0], 2.0)
    with mrcfile.open(tmp_path / "v.mrc") as f:
        assert f.is_volume() and int(f.header.mz) == 3 and float(f.voxel_size.z) == 2.0
    assert mrc.read_header(tmp_path / "i.mrc").ispg == 0
    assert mrc.read_mrc(tmp_path / "i.mrc")[0].shape == (1, 6, 10)
    assert mrcfile.validate(tmp_path / "v.mrc", print_file=None) and mrcfile.validate(tmp_path / "i.mrc")


def test_unsigned_bytes_survive(tmp_path):
    counts = np.array([[[0, 5], [127, 255]]], dtype=np.uint8)
    mrc.write_mrc(tmp_path / "u.mrc", counts, 1.0, stack=True, dtype="uint8")
    assert np.array_equal(mrc.read_mrc(tmp_path / "u.mrc")[0], counts)
    assert mrc.read_header(tmp_path / "u.mrc").dtype == np.uint8


@pytest.mark.parametrize("mode, dtype", [(1, np.int16), (2, np.float32), (6, np.uint16), (12, np.float16)])
def test_big_endian(tmp_path, mode, dtype):
    data = np.arange(24).reshape(2, 3, 4).astype(dtype)
    with mrcfile.new(tmp_path / "b.mrc") as f:
        f.set_data(data)
        f.voxel_size = 1.7
    raw = bytearray((tmp_path / "b.mrc").read_bytes())
    header = np.frombuffer(bytes(raw[:1024]), HEADER_DTYPE).astype(HEADER_DTYPE.newbyteorder(">"))
    header["machst"] = (0x11, 0x11, 0, 0)
    (tmp_path / "b.mrc").write_bytes(header.tobytes() + data.astype(data.dtype.newbyteorder(">")).tobytes())
    array, pixel = mrc.read_mrc(tmp_path / "b.mrc")
    assert np.array_equal(array, data) and pixel == pytest.approx(1.7)
    header["machst"] = 0  # a wrong stamp on good data: the header is only possible in one order
    (tmp_path / "b.mrc").write_bytes(header.tobytes() + data.astype(data.dtype.newbyteorder(">")).tobytes())
    assert np.array_equal(mrc.read_mrc(tmp_path / "b.mrc")[0], data)


def test_extended_header_is_skipped(tmp_path, stack):
    with mrcfile.new(tmp_path / "e.mrc") as f:
        f.set_data(stack)
        f.set_extended_header(np.arange(100, dtype=np.uint8))
    assert mrc.read_header(tmp_path / "e.mrc").data_offset == 1124
    assert np.array_equal(mrc.read_section(tmp_path / "e.mrc", 2), stack[2])


def test_four_bit_values_low_half_first(tmp_path):
    with mrcfile.new(tmp_path / "p.mrc") as f:
        f.set_data(np.zeros((1, 2, 2), np.int8))
    raw = bytearray((tmp_path / "p.mrc").read_bytes()[:1024])
    raw[0:16] = np.array([3, 2, 1, 101], "<i4").tobytes()
    (tmp_path / "p.mrc").write_bytes(bytes(raw) + bytes([0x21, 0x03, 0x54, 0x06]))
    assert mrc.read_mrc(tmp_path / "p.mrc")[0].tolist() == [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize("order", [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)])
def test_axes_in_any_order(tmp_path, order):
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)  # [z, y, x]
    spatial = {1: 2, 2: 1, 3: 0}  # spatial axis -> array axis
    stored = volume.transpose([spatial[order[2]], spatial[order[1]], spatial[order[0]]])
    with mrcfile.new(tmp_path / "o.mrc") as f:
        f.set_data(np.ascontiguousarray(stored))
        f.header.mapc, f.header.mapr, f.header.maps = order
    assert np.array_equal(mrc.read_mrc(tmp_path / "o.mrc")[0], volume)


def test_signed_or_unsigned_bytes(tmp_path):
    mrc.write_mrc(tmp_path / "s.mrc", np.array([[200, 1]]), 1.0, dtype="uint8")
    raw = bytearray((tmp_path / "s.mrc").read_bytes())
    raw[152:156] = bytes(4)  # no stamp: the stored range says unsigned
    (tmp_path / "s.mrc").write_bytes(raw)
    assert mrc.read_mrc(tmp_path / "s.mrc")[0].max() == 200
    raw[152:160] = np.array([IMOD_STAMP, 1], "<i4").tobytes()  # the flag says signed: a contradiction
    (tmp_path / "s.mrc").write_bytes(raw)
    with pytest.raises(UserInputError, match="E-MRC-04"):
        mrc.read_mrc(tmp_path / "s.mrc")


def test_cut_files_are_refused_and_named(tmp_path, stack):
    path = tmp_path / "cut.mrc"
    mrc.write_mrc(path, stack, 1.0)
    whole = path.read_bytes()
    for size in [0, 100, 1023, 1024, 1025, *range(1100, len(whole), 61)]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserInputError, match="E-MRC-01") as caught:
            mrc.read_mrc(path)
        assert caught.value.file == str(path)
    path.write_bytes(whole[: 1024 + 240 + 5])
    with pytest.raises(UserInputError, match="section 2 of 3"):
        mrc.read_section(path, 0)


def test_wrong_mode_or_too_long_is_refused(tmp_path, stack):
    path = tmp_path / "m.mrc"
    mrc.write_mrc(path, stack, 1.0)
    raw = bytearray(path.read_bytes())
    raw[12:16] = np.int32(12).tobytes()
    path.write_bytes(raw)
    with pytest.raises(UserInputError, match="E-MRC-01"):
        mrc.read_mrc(path)
    raw[12:16] = np.int32(4).tobytes()
    path.write_bytes(raw)
    with pytest.raises(UserInputError, match="E-MRC-03"):
        mrc.read_mrc(path)
    raw[0:4] = np.int32(-5).tobytes()
    path.write_bytes(raw)
    with pytest.raises(UserInputError, match="E-MRC-02"):
        mrc.read_mrc(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 95), value=st.integers(0, 255))
def test_a_flipped_header_byte_never_gives_a_bug(tmp_path, position, value):
    path = tmp_path / "f.mrc"
    mrc.write_mrc(path, np.arange(60, dtype=np.float32).reshape(3, 4, 5), 1.0)
    raw = bytearray(path.read_bytes())
    raw[position] = value
    path.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            array, _ = mrc.read_mrc(path)
        except CryoetError as error:
            assert str(path) in str(error)
        else:
            assert array.size == 60 or position >= 92


def test_values_that_do_not_fit(tmp_path):
    for dtype in ("float16", "int16", "uint8"):
        with pytest.raises(DataQualityError, match="E-NUM-02"):
            mrc.write_mrc(tmp_path / "x.mrc", np.array([[1e6, 0.0]]), 1.0, dtype=dtype)
    with pytest.raises(DataQualityError, match="E-NUM-01"):
        mrc.write_mrc(tmp_path / "x.mrc", np.array([[np.nan, 0.0]]), 1.0)
    assert list(tmp_path.iterdir()) == []
    with mrcfile.new(tmp_path / "n.mrc") as f, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f.set_data(np.array([[1.0, np.inf]], np.float32))
    with pytest.raises(DataQualityError, match="first at index"):
        mrc.read_mrc(tmp_path / "n.mrc")


@pytest.mark.parametrize("pixel", [0.0, -1.0, np.nan])
def test_pixel_size_must_be_given(tmp_path, pixel):
    with pytest.raises(UserInputError, match="E-MRC-08"):
        mrc.write_mrc(tmp_path / "x.mrc", np.ones((2, 2)), pixel)


def test_statistics_do_not_lose_precision(tmp_path):
    data = np.random.default_rng(0).normal(1e5, 1.0, (4, 64, 64)).astype(np.float32)
    mrc.write_mrc(tmp_path / "x.mrc", data, 1.0)
    assert float(mrc.read_header(tmp_path / "x.mrc").raw["rms"]) == pytest.approx(data.astype(np.float64).std(), rel=1e-5)


def test_same_content_same_bytes(tmp_path, stack):
    for name in "ab":
        mrc.write_mrc(tmp_path / name, stack, 1.5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_stack_writer_is_atomic_and_checks_shapes(tmp_path, stack):
    path = tmp_path / "w.mrc"
    with mrc.MrcStackWriter(path, (6, 10), 2.0) as writer:
        for section in stack:
            writer.write(section)
        assert not path.exists()
    assert np.array_equal(mrc.read_mrc(path)[0], stack)
    with pytest.raises(UserInputError, match="E-MRC-08"), mrc.MrcStackWriter(path, (6, 10), 2.0) as writer:
        writer.write(stack[0].T)
    with pytest.raises(UserInputError, match="E-MRC-08"), mrc.MrcStackWriter(path, (6, 10), 2.0):
        pass
    assert np.array_equal(mrc.read_mrc(path)[0], stack)
    assert list(tmp_path.iterdir()) == [path]


def test_sections_and_names(tmp_path, stack):
    mrc.write_mrc(tmp_path / "a.mrc", stack, 1.0, stack=True)
    mrc.write_mrc(tmp_path / "b@c.mrc", stack[0] + 1, 1.0)
    assert split_image_name("000003@x/y@z.mrc") == (2, "x/y@z.mrc")
    assert split_image_name("x.mrc") == (0, "x.mrc")
    names = image_names(3, tmp_path / "a.mrc")
    assert names[0].startswith("000001@")
    images = load_named_images([names[2], f"{tmp_path}/b@c.mrc", names[0]])
    assert np.array_equal(images, [stack[2], stack[0] + 1, stack[0]])
    with pytest.raises(UserInputError, match="E-MRC-06"):
        load_named_images([f"000004@{tmp_path}/a.mrc"])
    with pytest.raises(UserInputError, match="E-FILE-01"):
        load_named_images(["000001@nowhere.mrc"])
    with pytest.raises(UserInputError, match="E-IMG-01"):
        load_named_images([])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_volume_written_in_blocks_is_the_same_file(tmp_path, rng, dtype):
    volume = rng.normal(0.3, 0.01, (5, 9, 7)).astype(np.float32)
    write_mrc(tmp_path / "whole.mrc", volume, 4.0, dtype=dtype)
    with MrcBlockWriter(tmp_path / "blocks.mrc", volume.shape, 4.0, dtype=dtype) as writer:
        for z, y in ((2, 4), (0, 0), (2, 0), (0, 4)):
            writer.write_block(z, y, volume[z : z + 2 + (z > 0), y : y + 4 + (y > 0)])
        with pytest.raises(UserInputError, match="E-MRC-08"):
            writer.write_block(4, 0, volume[:2])
    whole, blocks = (read_header(tmp_path / f"{name}.mrc") for name in ("whole", "blocks"))
    assert blocks.shape == whole.shape and blocks.mode == whole.mode and blocks.pixel_size_angst == whole.pixel_size_angst
    np.testing.assert_array_equal(read_mrc(tmp_path / "blocks.mrc")[0], read_mrc(tmp_path / "whole.mrc")[0])
    statistics = [np.frombuffer((tmp_path / f"{n}.mrc").read_bytes()[:1024], "<f4")[[19, 20, 21, 54]] for n in ("whole", "blocks")]
    np.testing.assert_allclose(*statistics, rtol=1e-6)  # minimum, maximum, mean, rms


def test_values_too_small_for_half_precision_are_refused(tmp_path, rng):
    volume = rng.normal(0, 1e-6, (3, 8, 8)).astype(np.float32)
    with pytest.raises(DataQualityError, match="E-NUM-02"), MrcBlockWriter(tmp_path / "v.mrc", volume.shape, 4.0, dtype="float16") as writer:
        writer.write_block(0, 0, volume)
    assert not (tmp_path / "v.mrc").exists()
