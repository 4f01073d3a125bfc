"""What is written is read back: every format, every frame."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoet_core.errors import UserInputError
from cryoet_core.geometry import angular_distance_deg
from cryoet_core.io.picks import FORMATS, Grid, Picks, Source, Tomogram, detect_format, read_picks, write_picks

VOXEL, DEGREE = 1e-3, 1e-3
KEEPS_SCORE = {"relion5", "relion4", "eman2", "cbox", "table", "tloc", "dynamo", "stopgap", "av3", "copick"}
KEEPS_CLASS = {"relion5", "relion4", "eman2", "table", "tloc", "deepfinder", "dynamo", "stopgap", "av3"}
TOMOGRAM = Tomogram("TS_07", Grid((481, 464, 151), 7.64), Grid((1924, 1856, 604), 1.91))


def random_picks(n, seed=0):
    """Anywhere inside; orientations at random, the first ones at the poles of all Euler conventions."""
    rng = np.random.default_rng(seed)
    index = rng.uniform([2, 2, 2], [478, 461, 148], (n, 3))
    rotations = Rotation.random(n, rng=rng).as_matrix()
    rotations[0] = Rotation.from_euler("z", 37, degrees=True).as_matrix()
    rotations[1] = np.diag([1.0, -1, -1]) @ Rotation.from_euler("z", -140, degrees=True).as_matrix()
    rotations[2] = np.eye(3)
    return Picks(TOMOGRAM.grid.to_angst(index), rotations, rng.uniform(0, 1, n), rng.integers(1, 4, n))


def ending(name):
    return FORMATS[name].extensions[0]


def compare(back, picks, form, *, rotations=True):
    order = np.argsort(picks.class_number, kind="stable") if form == "imod" else np.arange(len(picks))  # one object per class
    np.testing.assert_allclose(back.positions_angst, picks.positions_angst[order], atol=VOXEL * TOMOGRAM.grid.pixel_size_angst)
    if FORMATS[form].oriented and rotations:
        # 1e-3 degrees as a difference of matrix elements: the arc cosine of a trace is blind below 1e-6
        assert np.abs(back.rotations - picks.rotations).max() < np.deg2rad(DEGREE)
        assert angular_distance_deg(back.rotations, picks.rotations).max() < 10 * DEGREE
    else:
        assert back.rotations is None
    if form in KEEPS_SCORE:
        np.testing.assert_allclose(back.score, picks.score, rtol=1e-5, atol=1e-6)
    if form in KEEPS_CLASS:
        np.testing.assert_array_equal(back.class_number, picks.class_number)


@pytest.mark.parametrize("form", FORMATS)
def test_round_trip(tmp_path, form):
    picks, path = random_picks(60), tmp_path / f"picks{ending(form)}"
    lost = write_picks(path, picks, TOMOGRAM, form)
    assert lost == ["orientations"] * (not FORMATS[form].oriented) + ["scores"] * (form not in KEEPS_SCORE)
    if form not in ("imod_points",):
        assert detect_format(path) == form
    reading = read_picks(path, TOMOGRAM, Source(format=form))
    compare(reading.picks, picks, form)
    assert reading.n_in_file == 60 and reading.n_outside == 0 and reading.warnings == ()
    first = path.read_bytes()
    write_picks(path, picks, TOMOGRAM, form)
    assert path.read_bytes() == first


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("axes, pixel", [("xz-y", None), ("-x-yz", 3.82), ("zxy", 15.28)])
def test_round_trip_of_turned_and_scaled_volumes(tmp_path, form, axes, pixel):
    picks, path = random_picks(40, seed=2), tmp_path / f"picks{ending(form)}"
    write_picks(path, picks, TOMOGRAM, form, axes=axes, pixel_size_angst=pixel)
    back = read_picks(path, TOMOGRAM, Source(format=form, axes=axes, pixel_size_angst=pixel)).picks
    compare(back, picks, form)


@pytest.mark.parametrize("form", FORMATS)
def test_mirrored_volumes_keep_positions_only(tmp_path, form):
    picks, path = random_picks(10), tmp_path / f"picks{ending(form)}"
    assert "orientations" in write_picks(path, picks, TOMOGRAM, form, axes="xy-z")
    back = read_picks(path, TOMOGRAM, Source(format=form, axes="xy-z")).picks
    compare(back, picks, form, rotations=False)


@pytest.mark.parametrize("form", FORMATS)
def test_few_and_bare_picks(tmp_path, form):
    """One pick without orientation, score and class; and none at all."""
    path = tmp_path / f"picks{ending(form)}"
    one = Picks(np.array([[100.0, -200.0, 30.0]]))
    assert write_picks(path, one, TOMOGRAM, form) == []
    back = read_picks(path, TOMOGRAM, Source(format=form)).picks
    np.testing.assert_allclose(back.positions_angst, one.positions_angst, atol=VOXEL * 7.64)
    if back.rotations is not None:  # these formats cannot leave angles out
        assert form in ("dynamo", "stopgap", "av3")
        np.testing.assert_allclose(back.rotations, [np.eye(3)], atol=1e-9)
    write_picks(path, Picks(np.zeros((0, 3)), np.zeros((0, 3, 3))), TOMOGRAM, form)
    empty = read_picks(path, TOMOGRAM, Source(format=form))
    assert len(empty.picks) == empty.n_in_file == 0 and empty.warnings == (f"{path} holds no picks",)
    if form in ("coords", "imod_points"):
        assert path.read_text().startswith("#")


def test_whole_numbers_are_kept_whole_for_matlab(tmp_path):
    """STOPGAP and AV3 crop at orig_x: whole, the rest as shift."""
    from cryoet_core.io.picks.av3 import read_em
    from cryoet_core.io.star import read_star

    picks = random_picks(30)
    write_picks(tmp_path / "a.star", picks, TOMOGRAM, "stopgap")
    table = read_star(tmp_path / "a.star")["stopgap_motivelist"]
    assert (table["orig_x"] % 1 == 0).all() and table["x_shift"].abs().max() <= 0.5
    write_picks(tmp_path / "a.em", picks, TOMOGRAM, "av3")
    text = (tmp_path / "a.star").read_text()
    assert "#" not in text and "\n_motl_idx\n_tomo_num\n" in text  # its reader wants bare labels and no comments
    rows = read_em(tmp_path / "a.em")[0]
    assert (rows[:, 7:10] % 1 == 0).all() and np.abs(rows[:, 10:13]).max() <= 0.5


def test_a_pickle_with_a_program_is_not_run(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    (tmp_path / "evil.tloc").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserInputError, match="E-PICKS-05"):
        read_picks(tmp_path / "evil.tloc", TOMOGRAM)
    assert not (tmp_path / "made").exists()
