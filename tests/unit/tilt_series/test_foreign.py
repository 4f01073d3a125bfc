"""Foreign alignments are joined to views by key, checked by angle, and never change the hand of the run."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.foreign_alignment import ForeignAlignment, view_names
from cryoet_core.metadata import TiltSeries
from cryoet_core.tilt_series.foreign import import_alignment, match_values

NOMINAL = np.arange(-30.0, 31, 3)
N = len(NOMINAL)
NO_KEYS = {"names": None, "nominal_deg": None, "dose": None}


@pytest.fixture
def series():
    rng = np.random.default_rng(3)
    order = np.argsort(np.argsort(np.abs(NOMINAL), kind="stable"))
    tilts = pd.DataFrame({
        "tilt_id": order + 1, "movie": [f"frames/TS_01_{i:03d}.tif" for i in order], "nominal_tilt_deg": NOMINAL + rng.normal(0, 0.02, N),
        "pre_exposure_e_per_a2": 3.0 * order, "x_tilt_deg": 0.0, "y_tilt_deg": NOMINAL, "z_rot_deg": 85.0, "x_shift_angst": 0.0,
        "y_shift_angst": 0.0, "excluded": 0, "exclude_reason": "none",
    })  # fmt: skip
    return TiltSeries("TS_01", 300.0, 2.7, 0.1, 2.0, 2.0, -1, (512, 512), (0, 0, 0), tilts)


def foreign_of(series, offset=2.3, seed=0, **changes):
    """An alignment of all views in a random order, with all keys."""
    rng = np.random.default_rng(seed)
    geometry = TiltGeometry(1.1, series.tilts["nominal_tilt_deg"] + offset + rng.normal(0, 0.1, N), 84.0 + rng.normal(0, 0.3, N),
                            rng.normal(0, 50, N), rng.normal(0, 50, N))
    rows = rng.permutation(N)
    found = ForeignAlignment(
        "IMOD", "a.xf", geometry.select(rows), np.ones(N, bool), names=tuple(np.array(view_names(series.tilts["movie"]))[rows]),
        nominal_deg=np.round(series.tilts["nominal_tilt_deg"].to_numpy()[rows], 2), dose=series.tilts["pre_exposure_e_per_a2"].to_numpy()[rows],
    )
    return dataclasses.replace(found, **changes), geometry


def part(foreign, keep):
    """The rows of a mask or of positions."""
    return dataclasses.replace(foreign, geometry=foreign.geometry.select(keep), used=foreign.used[keep], **{
        k: None if v is None else (tuple(np.array(v)[keep]) if k == "names" else v[keep]) for k in NO_KEYS if (v := getattr(foreign, k), True)[1]
    })


def assert_same_images(found, truth, mirror=None, atol=1e-9):
    """Random points land at the same places; mirror (3,): signs of the points' coordinates in the found geometry."""
    points = np.random.default_rng(9).uniform(-400, 400, (20, 3))
    moved = points if mirror is None else points * mirror
    np.testing.assert_allclose(found.project(moved)[0], truth.project(points)[0], atol=atol)


@pytest.mark.parametrize("keys, named", [
    ({}, "name of the movie"), ({"names": None}, "stage angle"), ({"names": None, "nominal_deg": None}, "dose before the view"),
    (NO_KEYS, "refined angle"), ({"names": tuple(f"other_{i}" for i in range(N))}, "stage angle"),
])  # fmt: skip
def test_rows_of_any_order_find_their_views(series, keys, named):
    foreign, truth = foreign_of(series, **keys)
    taken = import_alignment(series, foreign)
    assert taken.key == named and taken.series.included.all() and taken.tilt_offset_deg == pytest.approx(2.3, abs=0.1)
    assert_same_images(taken.series.geometry, truth)
    assert taken.notes == []


@pytest.mark.parametrize("keys", [{}, {"names": None}, {"names": None, "nominal_deg": None}])
def test_views_that_the_file_lacks_are_excluded(series, keys):
    foreign, truth = foreign_of(series)
    of_row = np.argsort(import_alignment(series, foreign).rows)
    gone = [0, 7, N - 1]
    keep = np.sort(of_row[[i for i in range(N) if i not in gone]])
    taken = import_alignment(series, dataclasses.replace(part(foreign, keep), **keys))
    assert np.flatnonzero(~taken.series.included).tolist() == gone
    assert set(taken.series.tilts["exclude_reason"][gone]) == {"not_in_alignment"}
    kept = taken.series.included
    assert_same_images(taken.series.geometry.select(kept), truth.select(kept))
    g = taken.series.geometry.select(gone)  # a place to go on from: common axis and offset, no shift
    np.testing.assert_allclose(g.y_tilt_deg, series.tilts["nominal_tilt_deg"][gone] + 2.3, atol=0.1)
    np.testing.assert_allclose(g.z_rot_deg, 84, atol=0.3)
    assert (g.shift_angst == 0).all()


def test_dark_frames_and_unused_rows_say_so(series):
    foreign, _ = foreign_of(series, offset=0.0)
    order = np.argsort(import_alignment(series, foreign).rows)
    darkless = dataclasses.replace(part(foreign, np.sort(order[2:])), dark_deg=(-30.0,), program="AreTomo")
    reasons = import_alignment(series, darkless).series.tilts["exclude_reason"].tolist()
    assert reasons[:3] == ["excluded_in_alignment", "not_in_alignment", "none"]
    used = np.ones(N, bool)
    used[order[4]] = False
    tilts = import_alignment(series, dataclasses.replace(foreign, used=used)).series.tilts
    assert tilts["exclude_reason"][4] == "excluded_in_alignment" and tilts["excluded"].sum() == 1
    before = series.with_columns(excluded=[1] + [0] * (N - 1), exclude_reason=["dark"] + ["none"] * (N - 1))
    tilts = import_alignment(before, foreign).series.tilts
    assert tilts["exclude_reason"][0] == "dark" and tilts["x_shift_angst"][0] != 0


def test_refined_angles_alone_say_when_they_are_ambiguous(series):
    foreign, truth = foreign_of(series, offset=0.2, **NO_KEYS)
    order = np.argsort(foreign.geometry.y_tilt_deg)
    end = import_alignment(series, part(foreign, order[:-1]))  # the last view is missing: an offset of one step fits as well
    assert np.flatnonzero(~end.series.included).tolist() == [N - 1]
    assert any("-2.8" in note or "+3.2" in note for note in end.notes) and "rawtlt" in end.notes[0]
    middle = import_alignment(series, part(foreign, np.delete(order, 9)))  # a gap tells where it is
    assert np.flatnonzero(~middle.series.included).tolist() == [9] and middle.notes == []
    kept = middle.series.included
    assert_same_images(middle.series.geometry.select(kept), truth.select(kept))


def test_an_axis_that_points_the_other_way_is_turned_and_the_images_stay(series):
    foreign, truth = foreign_of(series, handedness=1)
    back = dataclasses.replace(foreign, geometry=foreign.geometry.replace(z_rot_deg=foreign.geometry.z_rot_deg - 180))
    taken = import_alignment(series, back)
    order = np.argsort(taken.rows)
    assert_same_images(taken.series.geometry, back.geometry.select(order), mirror=[-1, -1, -1])
    assert np.allclose(taken.series.geometry.z_rot_deg, 84, atol=1.5) and "points the other way" in taken.notes[0]
    assert taken.series.handedness == -1 and len(taken.notes) == 1  # +1 about the turned axis is -1 about ours: they agree
    same = import_alignment(series, foreign)
    assert len(same.notes) == 1 and "disagree" in same.notes[0]


def test_tilts_of_the_other_sign_are_turned_where_names_show_it(series):
    foreign, _ = foreign_of(series, nominal_deg=None)
    mirrored = dataclasses.replace(foreign, geometry=foreign.geometry.replace(y_tilt_deg=-foreign.geometry.y_tilt_deg,
                                                                              x_tilt_deg=-foreign.geometry.x_tilt_deg))
    taken = import_alignment(series, mirrored)
    order = np.argsort(taken.rows)
    assert_same_images(taken.series.geometry, mirrored.geometry.select(order), mirror=[1, 1, -1])
    assert "mirrored specimen" in taken.notes[0] and taken.tilt_offset_deg == pytest.approx(2.3, abs=0.1)


def test_tilts_of_the_other_sign_must_be_said_where_only_angles_are_known(series):
    half = series.select(np.arange(6, N))  # -12 to 30 degrees: not its own mirror image
    foreign, truth = foreign_of(series, **NO_KEYS)
    order = np.argsort(foreign.geometry.y_tilt_deg)
    shown = part(foreign, order[6:])
    negative = dataclasses.replace(shown, geometry=shown.geometry.replace(y_tilt_deg=-shown.geometry.y_tilt_deg,
                                                                         x_tilt_deg=-shown.geometry.x_tilt_deg))
    with pytest.raises(UserInputError, match="E-ALN-05.*alignment_tilts to opposite"):
        import_alignment(half, dataclasses.replace(negative, nominal_deg=-half.tilts["nominal_tilt_deg"].to_numpy()))
    taken = import_alignment(half, negative, opposite_tilts=True)
    assert_same_images(taken.series.geometry, truth.select(np.arange(6, N)))
    assert "as asked" in taken.notes[0]


def test_what_does_not_belong_together_is_refused(series):
    foreign, _ = foreign_of(series)
    small = series.select(np.arange(N - 2))
    with pytest.raises(UserInputError, match=f"E-ALN-04.*more views.*{N} views in the file.*{N - 2} in the series"):
        import_alignment(small, foreign)
    with pytest.raises(UserInputError, match="E-ALN-04.*lacks 15"):
        import_alignment(series, part(foreign, np.arange(6)))
    renamed = dataclasses.replace(foreign, names=("stranger", *foreign.names[1:]))
    with pytest.raises(UserInputError, match="E-ALN-04.*stranger"):
        import_alignment(series, renamed)
    other = dataclasses.replace(foreign, names=None, nominal_deg=foreign.nominal_deg * 1.5)
    with pytest.raises(UserInputError, match=r"E-ALN-05.*-44.94 to 45 deg.*-29.9592 to"):
        import_alignment(series, other)
    stretched = foreign.geometry.replace(y_tilt_deg=foreign.geometry.y_tilt_deg * 1.5)
    for keys in ({}, {"names": None}, {"names": None, "nominal_deg": None}, NO_KEYS):
        with pytest.raises(UserInputError, match="E-ALN-05"):
            import_alignment(series, dataclasses.replace(foreign, geometry=stretched, **keys))
    with pytest.raises(UserInputError, match=r"E-ALN-07.*found -6.*tilt_axis_deg"):
        import_alignment(series, dataclasses.replace(foreign, geometry=foreign.geometry.replace(z_rot_deg=-6.0)))


def test_of_repeated_tilts_the_one_in_use_gets_the_alignment(series):
    twice = series.tilts.iloc[[5]].assign(tilt_id=99, movie="again.tif", excluded=1, exclude_reason="recorded again as tilt_id 3")
    both = dataclasses.replace(series, tilts=pd.concat([series.tilts.iloc[:5], twice, series.tilts.iloc[5:]], ignore_index=True))
    foreign, truth = foreign_of(series, names=None, dose=None)
    taken = import_alignment(both, foreign)
    kept = taken.series.included
    assert kept.sum() == N and not kept[5]
    assert_same_images(taken.series.geometry.select(kept), truth)


def test_matches_are_unique_and_ordered_by_offset():
    known, yes = np.arange(0.0, 30, 3), np.ones(10, bool)
    (match,) = match_values(np.array([9.0, 0.0, 3.02]), known, yes, tolerance=0.1)
    assert match.rows.tolist() == [3, 0, 1] and match.residual == pytest.approx(0.02)
    assert match_values(np.array([0.0, 0.05]), known, yes, tolerance=0.1) == []
    assert match_values(np.array([1.5]), known, yes, tolerance=0.1) == []
    several = match_values(np.array([3.5, 6.5]), known, yes, tolerance=0.1, max_offset=7.0)
    assert [round(m.offset, 6) for m in several] == [0.5, -2.5, 3.5, -5.5]
    assert several[0].rows.tolist() == [1, 2]


def test_a_file_that_holds_fewer_views_than_it_says_is_refused(series):
    foreign, _ = foreign_of(series)
    whole = dataclasses.replace(part(foreign, np.arange(N - 1)), n_stated=N, dark_deg=(30.0,))
    assert import_alignment(series, whole).series.included.sum() == N - 1
    with pytest.raises(UserInputError, match=f"E-ALN-11.*a.xf.*{N - 1} aligned and 0 dark views.*{N} together"):
        import_alignment(series, dataclasses.replace(whole, dark_deg=()))
