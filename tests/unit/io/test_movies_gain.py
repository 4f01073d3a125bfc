"""Movies in three formats, and gain references."""

import numpy as np
import pytest
import tifffile
from eer_files import write_eer

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.defects import read_defects
from cryoet_core.io.gain import check_gain_shape, orient, read_gain
from cryoet_core.io.movies import fractions_for, grouped, open_movie
from cryoet_core.io.mrc import write_mrc


@pytest.fixture
def frames():
    return np.random.default_rng(3).integers(0, 200, (4, 12, 16)).astype(np.uint8)


def test_mrc_and_tiff_give_the_same_frames(tmp_path, frames):
    write_mrc(tmp_path / "m.mrc", frames, 1.91, stack=True, dtype="uint8")
    # a TIFF of the same picture: its first row is the top one
    tifffile.imwrite(tmp_path / "m.tif", frames[:, ::-1], photometric="minisblack", compression="zlib")
    a, b = open_movie(tmp_path / "m.mrc"), open_movie(tmp_path / "m.tif")
    assert len(a) == len(b) == 4 and a.shape == b.shape == (12, 16)
    assert a.pixel_size_angst == pytest.approx(1.91) and b.pixel_size_angst == 0.0
    for _ in range(2):  # can be read again
        first, second = list(a), list(b)
        assert first[0].dtype == second[0].dtype == np.uint8
        assert np.array_equal(first, frames) and np.array_equal(second, frames)


@pytest.mark.parametrize("final_image", [False, True])
def test_eer_frames_are_summed_in_groups(tmp_path, final_image):
    events = np.random.default_rng(0).random((7, 16, 32)) < 0.05
    write_eer(tmp_path / "m.eer", events, final_image=final_image)
    movie = open_movie(tmp_path / "m.eer", eer_fractions=3)
    assert (movie.frames_of_item, movie.n_raw_frames, movie.shape) == ((2, 2, 3), 7, (16, 32))
    expected = np.stack([part.sum(axis=0)[::-1] for part in np.split(events, [2, 4])])
    assert np.array_equal(list(movie), expected) and np.sum(expected) == np.sum(events)  # no event is lost
    assert len(open_movie(tmp_path / "m.eer", eer_fractions=16)) == 7


def test_damaged_or_unknown_movies(tmp_path, frames):
    tifffile.imwrite(tmp_path / "m.tif", frames, photometric="minisblack", compression="lzw")
    raw = (tmp_path / "m.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserInputError, match=r"E-MOVIE-02.*|E-MOVIE-03.*"):
        list(open_movie(tmp_path / "cut.tif"))
    (tmp_path / "no.tif").write_bytes(b"nothing")
    with pytest.raises(UserInputError, match="E-MOVIE-02"):
        open_movie(tmp_path / "no.tif")
    with pytest.raises(UserInputError, match="E-MOVIE-01"):
        open_movie(tmp_path / "x.dm4")
    with pytest.raises(UserInputError, match="E-FILE-01"):
        open_movie(tmp_path / "absent.tif")


def test_orient_turns_and_flips():
    image = np.array([[1, 2, 3], [4, 5, 6]])  # row 0 at the bottom: on screen 4 5 6 above 1 2 3
    assert orient(image, flip_x=True).tolist() == [[3, 2, 1], [6, 5, 4]]
    assert orient(image, flip_y=True).tolist() == [[4, 5, 6], [1, 2, 3]]
    assert orient(image, transpose=True).tolist() == [[1, 4], [2, 5], [3, 6]]
    # counter-clockwise on screen: the right column (6 over 3) becomes the top row, read 6 3
    assert orient(image, rotate_quarters=1).tolist()[::-1] == [[6, 3], [5, 2], [4, 1]]
    assert np.array_equal(orient(orient(image, rotate_quarters=3), rotate_quarters=1), image)


def test_gain_factor_and_defects(tmp_path):
    gain = np.random.default_rng(1).uniform(0.8, 1.2, (20, 30)).astype(np.float32)
    gain[3, 4] = 0
    write_mrc(tmp_path / "g.mrc", gain, 1.0)
    result = read_gain(tmp_path / "g.mrc", (20, 30))
    assert result.defects.sum() == 1 and result.defects[3, 4]
    good = ~result.defects
    assert result.factor[good].mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(result.factor[good] / gain[good], 1 / gain[good].mean(), rtol=1e-5)
    inverse = read_gain(tmp_path / "g.mrc", inverse=True)
    np.testing.assert_allclose((result.factor * inverse.factor)[good], (result.factor * inverse.factor)[0, 0], rtol=1e-5)


def test_gain_formats_agree(tmp_path):
    gain = np.random.default_rng(1).uniform(0.8, 1.2, (6, 8)).astype(np.float32)
    write_mrc(tmp_path / "g.mrc", gain, 1.0)
    for name in ("g.tif", "g.gain"):
        tifffile.imwrite(tmp_path / name, gain[::-1])
        assert np.allclose(read_gain(tmp_path / name).factor, read_gain(tmp_path / "g.mrc").factor)


@pytest.mark.parametrize("gain, movie, advice", [
    ((30, 20), (20, 30), "transpose"), ((40, 60), (20, 30), "2x larger"), ((20, 30), (40, 60), "super-resolution"),
    ((7, 7), (20, 30), "this camera"),
])
def test_wrong_gain_size_says_what_to_do(gain, movie, advice):
    with pytest.raises(UserInputError, match=f"E-GAIN-01.*{advice}"):
        check_gain_shape(gain, movie, "g.mrc")


def test_dead_gain(tmp_path):
    gain = np.ones((10, 10), np.float32)
    gain[:, :2] = -1
    write_mrc(tmp_path / "g.mrc", gain, 1.0)
    with pytest.raises(DataQualityError, match="E-GAIN-02.*20.0 %"):
        read_gain(tmp_path / "g.mrc")


def test_a_super_resolution_gain_is_binned_by_sensitivity(tmp_path):
    gain = np.ones((8, 12), np.float32)
    gain[0:2, 0:2] = [[1, 2], [2, 4]]  # sensitivities 1, 1/2, 1/2, 1/4: mean 9/16
    gain[4, 4] = 0
    write_mrc(tmp_path / "gain.mrc", gain, 1.0, stack=True)
    found = read_gain(tmp_path / "gain.mrc", (4, 6))
    assert found.factor.shape == (4, 6) and found.defects.sum() == 1 and found.defects[2, 2]
    assert found.factor[0, 0] / found.factor[1, 1] == pytest.approx(16 / 9)
    with pytest.raises(UserInputError) as stopped:
        read_gain(tmp_path / "gain.mrc", (6, 9))
    assert stopped.value.code == "E-GAIN-01" and "Fix" in str(stopped.value)


@pytest.mark.parametrize("finer", [2, 4])
def test_super_resolution_events_fall_inside_their_pixel(tmp_path, finer):
    events = np.random.default_rng(0).random((4, 16, 32)) < 0.05
    write_eer(tmp_path / "m.eer", events)
    plain = open_movie(tmp_path / "m.eer", eer_fractions=2)
    fine = open_movie(tmp_path / "m.eer", eer_fractions=2, eer_super_resolution=finer)
    assert fine.shape == (16 * finer, 32 * finer)
    for coarse, frame in zip(plain, fine, strict=True):
        assert np.array_equal(frame.reshape(16, finer, 32, finer).sum(axis=(1, 3)), coarse)
        rows, columns = np.nonzero(frame)
        assert len(set(rows % finer)) == len(set(columns % finer)) == 1  # the file puts all events at one place in their pixel


def test_fractions_of_an_exposure():
    assert fractions_for(3.0, 0.5) == 6 and fractions_for(3.0, 50.0) == 1
    with pytest.raises(UserInputError) as stopped:
        fractions_for(0.0, 0.5, "a.eer")
    assert stopped.value.code == "E-MOVIE-05" and "a.eer" in str(stopped.value)


def test_a_tiff_cut_behind_a_page_is_damaged(tmp_path, frames):
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, np.zeros((6, 64, 64), np.uint8), photometric="minisblack", contiguous=False)
    whole = path.read_bytes()
    for size in (len(whole) - 100, len(whole) // 2, len(whole) // 3):
        path.write_bytes(whole[:size])
        with pytest.raises(UserInputError) as stopped:
            list(open_movie(path))
        assert stopped.value.code == "E-MOVIE-02" and "m.tif" in str(stopped.value)


@pytest.mark.parametrize("finer", [2, 4])
def test_sub_pixel_bits_say_where_in_its_pixel_an_event_is(tmp_path, finer):
    rng = np.random.default_rng(4)
    events, places = rng.random((1, 8, 16)) < 0.3, rng.integers(0, 16, (1, 8, 16))
    write_eer(tmp_path / "m.eer", events, places=places)
    expected = np.zeros((8 * finer, 16 * finer))
    for row, column in np.argwhere(events[0]):
        place = places[0, row, column]
        x, y = (int(place & 3) ^ 2) * finer // 4, (int(place >> 2) ^ 2) * finer // 4
        expected[row * finer + y, column * finer + x] += 1
    (frame,) = open_movie(tmp_path / "m.eer", eer_fractions=1, eer_super_resolution=finer)
    assert np.array_equal(frame[::-1], expected)


def test_a_gain_of_camera_pixels_is_repeated_for_super_resolved_eer(tmp_path):
    gain = np.random.default_rng(1).uniform(0.8, 1.2, (4, 6)).astype(np.float32)
    gain[1, 2] = 0
    write_mrc(tmp_path / "g.mrc", gain, 1.0)
    coarse, fine = read_gain(tmp_path / "g.mrc", (4, 6)), read_gain(tmp_path / "g.mrc", (16, 24), super_resolution=4)
    for y, x in ((0, 0), (1, 2), (3, 5)):
        block = (slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
        assert (fine.factor[block] == coarse.factor[y, x]).all() and (fine.defects[block] == coarse.defects[y, x]).all()
    turned = read_gain(tmp_path / "g.mrc", (12, 8), super_resolution=2, transpose=True)
    assert turned.factor.shape == (12, 8) and turned.factor[10, 2] == coarse.factor[1, 5]
    with pytest.raises(UserInputError, match="E-GAIN-01.*eer_super_resolution"):
        read_gain(tmp_path / "g.mrc", (8, 12))
    with pytest.raises(UserInputError, match="E-GAIN-01"):
        read_gain(tmp_path / "g.mrc", (16, 24), super_resolution=2)


def test_defects_of_camera_pixels_belong_to_all_their_parts(tmp_path):
    (tmp_path / "boxes.txt").write_text("3 1 1 2\n")
    bad = read_defects(tmp_path / "boxes.txt", (40, 60), 2)
    assert bad.sum() == 8 and bad[2:6, 6:8].all()


@pytest.mark.parametrize(
    "compression, bits",
    [(65000, (8, 2, 2)), (65001, (7, 2, 2)), (65002, (7, 2, 2)), (65002, (8, 2, 2)), (65002, (9, 3, 3))],
)
def test_every_compression_of_eer_gives_the_events(tmp_path, compression, bits):
    """Frames with long gaps, an empty one and a full one; every event is found in its pixel, at camera pixels and 2
    times finer."""
    rng = np.random.default_rng(7)
    events = rng.random((5, 48, 64)) < 0.01
    events[1], events[2], events[3, :40] = False, True, False
    write_eer(
        tmp_path / "m.eer",
        events,
        places=rng.integers(0, 1 << sum(bits[1:]), events.shape),
        compression=compression,
        bits=bits,
    )
    movie = open_movie(tmp_path / "m.eer", eer_fractions=5)
    assert np.array_equal(list(movie), events[:, ::-1])
    fine = np.array(list(open_movie(tmp_path / "m.eer", eer_fractions=5, eer_super_resolution=2)))
    assert np.array_equal(fine.reshape(5, 48, 2, 64, 2).sum(axis=(2, 4)), events[:, ::-1])


def test_groups_use_all_frames_and_differ_by_one():
    for count, groups in ((31, 16), (96, 16), (7, 3), (3, 16), (97, 1), (1, 1)):
        sizes = grouped(count, groups)
        assert sum(sizes) == count and len(sizes) == min(count, groups) and max(sizes) - min(sizes) <= 1


def test_headers_that_claim_too_much_are_refused_before_memory_is_asked_for(tmp_path):
    """A width of two numbers, frames that the bytes of the file cannot make, and events of a camera of 2^31 pixels."""
    tifffile.imwrite(tmp_path / "m.tif", np.zeros((4, 64, 96), np.uint8), photometric="minisblack", compression="lzw")
    whole = (tmp_path / "m.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "m.tif") as tiff:
        tag = tiff.pages[0].tags["ImageWidth"]
    count, value = tag.offset + 4, tag.offset + 8
    write_eer(tmp_path / "m.eer", np.zeros((2, 64, 96), bool))
    events = bytearray((tmp_path / "m.eer").read_bytes())
    place = bytes(events).index((256).to_bytes(2, "little") + b"\x04\x00\x01\x00\x00\x00")
    for name, data, at, number in (
        ("two.tif", whole, count, 2),
        ("wide.tif", whole, value, 60000),
        ("wide.eer", events, place + 8, 1 << 20),
    ):
        changed = bytearray(data)
        changed[at : at + 4] = number.to_bytes(4, "little")
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(UserInputError, match=f"E-MOVIE-0[23].*{name}"):
            list(open_movie(tmp_path / name))


def test_a_tiff_of_four_bits_per_count(tmp_path):
    """Two counts to a byte as TIFF itself has them: four bits by the header, the first pixel in the upper ones."""
    counts = np.random.default_rng(0).integers(0, 16, (8, 12)).astype(np.uint8)
    path = tmp_path / "four.tif"
    tifffile.imwrite(path, counts[:, 0::2] << 4 | counts[:, 1::2], photometric="minisblack")
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        width, bits = (tiff.pages[0].tags[name].offset + 8 for name in ("ImageWidth", "BitsPerSample"))
    raw[width : width + 2], raw[bits : bits + 2] = (12).to_bytes(2, "little"), (4).to_bytes(2, "little")
    path.write_bytes(raw)
    (frame,) = open_movie(path)
    assert np.array_equal(frame, counts[::-1])
