"""Exclusion: lists, rules, files and darkness."""

import numpy as np
import pandas as pd
import pytest

from cryoet_core.config.exclude_views import ExcludeViews
from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.metadata import TiltSeries
from cryoet_core.tilt_series.exclude import (
    exclude_views,
    find_dark,
    read_selection_file,
    select_views,
    selection_from_file,
    selection_path,
    thickness_law,
    view_statistics,
)


def make_series(tilts):
    tilts = np.asarray(tilts, float)
    order = np.argsort(np.argsort(np.abs(tilts), kind="stable"), kind="stable")
    zero = np.zeros(tilts.size)
    table = pd.DataFrame(
        {"tilt_id": order + 1, "nominal_tilt_deg": tilts, "pre_exposure_e_per_a2": zero, "x_tilt_deg": zero,
         "y_tilt_deg": tilts, "z_rot_deg": zero + 85, "x_shift_angst": zero, "y_shift_angst": zero,
         "excluded": np.zeros(tilts.size, np.int64), "exclude_reason": "none"}
    )  # fmt: skip
    return TiltSeries("TS_01", 300.0, 2.7, 0.1, 3.5, 3.5, -1, (64, 64), (0, 0, 0), table)


def counted_views(rng, tilts, dark=(), thickness_ratio=0.4, counts=30.0):
    mean = counts * np.exp(-thickness_ratio / np.cos(np.deg2rad(tilts + 2.5)))
    mean[list(dark)] *= 0.15
    return [rng.poisson(m, (64, 64)).astype(np.float32) for m in mean]


TILTS = np.arange(-60, 61, 4.0)


@pytest.mark.parametrize("dark", [(), (0,), (0, 1, 2, 29, 30), (0, 1, 2, 3, 4, 5, 6, 27, 28, 29, 30), (15,)])
def test_all_dark_views_are_found_and_no_good_one_is_lost(rng, dark):
    series = make_series(TILTS)
    statistics = view_statistics(counted_views(rng, TILTS, dark))
    marked, *_ = exclude_views(series, statistics, ExcludeViews())
    assert set(np.flatnonzero(~marked.included)) == set(dark)
    assert set(marked.tilts["exclude_reason"][list(dark)]) <= {"dark"}
    assert len(marked) == len(series)


def test_a_partly_blocked_view_is_found_by_its_contrast(rng):
    views = counted_views(rng, TILTS)
    views[3][:, :20] *= 0.02
    found = find_dark(TILTS, view_statistics(views))
    assert list(np.flatnonzero(found.dark)) == [3]
    assert found.intensity[3] > 0.5


def test_xrays_and_hot_pixels_do_not_make_a_view_dark(rng):
    views = counted_views(rng, TILTS)
    views[10][5, 5], views[10][40, 7] = 1e5, 3e4
    assert not find_dark(TILTS, view_statistics(views)).dark.any()


def test_more_than_forty_percent_dark_is_an_error(rng):
    statistics = view_statistics(counted_views(rng, TILTS, dark=range(0, 14)))
    with pytest.raises(DataQualityError, match="E-TS-03"):
        exclude_views(make_series(TILTS), statistics, ExcludeViews())
    marked, *_ = exclude_views(make_series(TILTS), statistics, ExcludeViews(max_excluded_fraction=0.5))
    assert (~marked.included).sum() == 14


def test_normalised_images_are_not_judged(rng):
    views = [rng.normal(0, 1, (64, 64)) for _ in TILTS]
    darkness = find_dark(TILTS, view_statistics(views))
    assert not darkness.dark.any() and np.isnan(darkness.intensity).all()


def test_the_law_is_recovered_in_spite_of_dark_views():
    mean = 50 * np.exp(-0.7 / np.cos(np.deg2rad(TILTS)))
    expected = mean.copy()
    mean[:9] *= 0.2
    np.testing.assert_allclose(thickness_law(TILTS, mean), expected, rtol=0.02)


def test_tutorial_rule_takes_the_outermost_tilts():
    tilts = np.arange(-51, 52, 3.0)
    chosen = select_views(make_series(tilts).tilts, first_negative=7, last_positive=4)
    assert sorted(tilts[list(chosen)]) == [-51, -48, -45, -42, -39, -36, -33, 42, 45, 48, 51]


def test_rules_never_reach_the_other_side_of_zero():
    chosen = select_views(make_series([-6.0, -3.0, 0.0, 3.0]).tilts, first_negative=7)
    assert sorted(chosen) == [0, 1]


def test_lists_name_views_by_id_and_by_angle():
    series = make_series([-3.01, 0.02, 2.99])
    ids = series.tilts["tilt_id"].tolist()
    assert select_views(series.tilts, tilt_ids=[ids[2]], tilt_angles_deg=[-3]) == {2: "listed", 0: "listed"}
    with pytest.raises(UserInputError, match="E-TS-02"):
        select_views(series.tilts, tilt_ids=[99])
    with pytest.raises(UserInputError, match="E-TS-02"):
        select_views(series.tilts, tilt_angles_deg=[20])


def test_a_file_gives_each_series_its_own_list(tmp_path, rng):
    path = tmp_path / "views.yaml"
    path.write_text("TS_01: {first_negative: 2}\nTS_02: {tilt_ids: [1]}\n")
    listed = selection_from_file(read_selection_file(path), "TS_01", path)
    statistics = view_statistics(counted_views(rng, TILTS))
    marked, *_ = exclude_views(make_series(TILTS), statistics, ExcludeViews(), listed)
    assert list(np.flatnonzero(~marked.included)) == [0, 1]
    assert set(marked.tilts["exclude_reason"][:2]) == {"first_negative"}
    path.write_text("TS_01: {frist_negative: 2}\n")
    with pytest.raises(UserInputError, match="E-TS-05.*frist_negative"):
        selection_from_file(read_selection_file(path), "TS_01", path)
    with pytest.raises(UserInputError, match="E-TS-05"):
        read_selection_file(tmp_path / "absent.yaml")


def test_excluding_nearly_everything_is_an_error(rng):
    statistics = view_statistics(counted_views(rng, TILTS))
    with pytest.raises(DataQualityError, match="E-TS-01"):
        exclude_views(make_series(TILTS), statistics, ExcludeViews(first_negative=15, last_positive=13))


def test_earlier_exclusions_keep_their_reason(rng):
    series = make_series(TILTS)
    series = series.with_columns(excluded=[1] + [0] * 30, exclude_reason=["import"] + ["none"] * 30)
    marked, *_ = exclude_views(series, view_statistics(counted_views(rng, TILTS)), ExcludeViews(first_negative=2))
    assert marked.tilts["exclude_reason"].tolist()[:3] == ["import", "first_negative", "none"]


def test_views_with_poor_ctf_are_excluded_on_request():
    rng = np.random.default_rng(5)
    series = make_series(TILTS)
    resolution = np.full(len(TILTS), 12.0)
    resolution[[0, 4]] = 26.0
    series = series.with_columns(ctf_max_resolution_angst=resolution)
    statistics = view_statistics(counted_views(rng, TILTS))
    kept, *_ = exclude_views(series, statistics, ExcludeViews())
    assert kept.included.all()
    marked, *_ = exclude_views(series, statistics, ExcludeViews(max_ctf_resolution_angst=20.0))
    assert np.flatnonzero(~marked.included).tolist() == [0, 4]
    assert marked.tilts["exclude_reason"].iloc[4] == "ctf_resolution"


def test_a_viewers_list_gives_views_with_reasons(tmp_path, rng):
    path = tmp_path / "TS_01.yaml"
    path.write_text("TS_01:\n- {tilt_id: 3, reason: Ice crystal!}\n- {tilt_id: 5}\n")
    assert selection_path(str(tmp_path / "{ts}.yaml"), "TS_01") == str(path)
    assert selection_path(str(tmp_path / "{ts}.yaml"), "TS_02") is None
    listed = selection_from_file(read_selection_file(path), "TS_01", path)
    series, statistics = make_series(TILTS), view_statistics(counted_views(rng, TILTS))
    marked, *_ = exclude_views(series, statistics, ExcludeViews(), listed)
    excluded = marked.tilts[~marked.included].set_index("tilt_id")["exclude_reason"]
    assert excluded.to_dict() == {3: "viewer_ice_crystal", 5: "viewer"}
    path.write_text("tilt_series:\n- {tilt_id: 3, reason: drift}\n")
    assert selection_from_file(read_selection_file(path), "TS_01", path) == {"views": [(3, "viewer_drift")]}
    for wrong in ("TS_01: [{tilt: 3}]", "TS_01: [{tilt_id: three}]", "TS_01: [4]", "TS_01: 4"):
        path.write_text(wrong)
        with pytest.raises(UserInputError, match="E-TS-05"):
            selection_from_file(read_selection_file(path), "TS_01", path)
    with pytest.raises(UserInputError, match="E-TS-02"):
        exclude_views(series, statistics, ExcludeViews(), {"views": [(99, "viewer")]})


def test_automatic_criteria_together_are_limited(rng):
    series = make_series(TILTS).with_columns(motion_rms_angst=np.where(np.arange(TILTS.size) < 14, 20.0, 1.0))
    statistics = view_statistics(counted_views(rng, TILTS))
    with pytest.raises(DataQualityError, match="E-TS-03.*motion"):
        exclude_views(series, statistics, ExcludeViews(max_motion_angst=10.0))
    marked, *_ = exclude_views(series, statistics, ExcludeViews(max_motion_angst=10.0, max_excluded_fraction=0.5))
    assert set(marked.tilts["exclude_reason"][:14]) == {"motion"} and marked.included[14:].all()


def test_a_list_that_multiplies_itself_is_refused_before_it_is_built(tmp_path):
    path = tmp_path / "views.yaml"
    letters = "abcdefghijk"
    nested = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip(letters, letters[1:], strict=False)]
    path.write_text("a: &a [x, x, x]\n" + "".join(nested))
    with pytest.raises(UserInputError, match=r"E-TS-05.*views.yaml.*alias \(\*\)"):
        read_selection_file(path)
    path.write_text("[" * 5000 + "]" * 5000)
    with pytest.raises(UserInputError, match="E-TS-05"):
        read_selection_file(path)
