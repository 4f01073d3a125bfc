"""import_tilt_series where the sources contradict each other or are damaged: one fault costs its view, what is
consistent decides, and all is said."""

import time

import numpy as np
import pytest
import tifffile
from eer_files import write_eer
from mdoc_files import ACQUIRED, TITLE, section, sections_by_angle, write_mdoc, write_movies

from cryoet_core.errors import UserInputError
from cryoet_core.io.acquisition import Given, size_fit
from cryoet_core.io.images import load_images
from cryoet_core.io.import_series import import_movies, import_stack
from cryoet_core.io.mdoc import parse_mdoc
from cryoet_core.io.movies import grouped, open_movie
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.recordings import compare_counts

BY_ANGLE = np.argsort(ACQUIRED)
IDS = [7, 4, 3, 1, 2, 5, 6]  # tilt_id in the order of angles
DOSE = {i: 3.4 * (i - 1) for i in IDS}


@pytest.fixture
def movies(tmp_path):
    write_movies(tmp_path)
    return tmp_path


def imported(folder, sections, given=None, **more):
    return import_movies("TS_01", write_mdoc(folder, sections, **more), None, given or Given())


def doses(result):
    tilts = result.series.tilts
    return {int(i): round(float(d), 6) for i, d in zip(tilts["tilt_id"], tilts["pre_exposure_e_per_a2"], strict=True)}


def said(result, *words):
    return any(all(word in text for word in words) for text in result.summary()["warnings"])


# ---- one bad section ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value",
    [
        ("SubFramePath", None),
        ("ExposureDose", "1e400"),
        ("ExposureDose", "3,4 e/A2"),
        ("PriorRecordDose", "-5"),
        ("FrameDosesAndNumber", "x"),
    ],
)
def test_a_bad_section_costs_its_view_only(movies, key, value):
    sections = sections_by_angle()
    sections[2] = section(2, int(BY_ANGLE[2]), **{key: value})
    result = imported(movies, sections)
    tilts = result.series.tilts
    assert tilts["tilt_id"].tolist() == IDS and tilts["excluded"].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert tilts["exclude_reason"].tolist()[2] == "bad_mdoc_section"
    assert doses(result) == pytest.approx(DOSE)  # its dose was given, whatever its section says
    assert said(result, "[ZValue = 2] is left out", key) and result.summary()["n_bad_sections"] == 1


@pytest.mark.parametrize("value", [None, "", "150", "1.5e24", "nan", "abc"])
def test_a_section_without_an_angle_is_no_row_but_its_dose_counts(movies, value):
    sections = sections_by_angle()
    sections[2] = section(2, int(BY_ANGLE[2]), TiltAngle=value)
    result = imported(movies, sections)
    assert result.series.tilts["tilt_id"].tolist() == [7, 4, 1, 2, 5, 6]
    assert doses(result) == pytest.approx({i: DOSE[i] for i in (7, 4, 1, 2, 5, 6)})
    assert said(result, "[ZValue = 2] is left out", "TiltAngle")


def test_half_of_the_sections_bad_is_an_error(movies):
    sections = [
        text.replace("ExposureDose = 3.4", "ExposureDose = -1") if n < 4 else text
        for n, text in enumerate(sections_by_angle())
    ]
    with pytest.raises(UserInputError, match=r"E-MDOC-09.*\[ZValue = 0\] ExposureDose"):
        imported(movies, sections)


def test_a_section_whose_number_is_damaged_costs_nothing_but_its_number(movies):
    sections = sections_by_angle()
    sections[3] = sections[3].replace("[ZValue = 3]", "[ZValue = 3x]")
    result = imported(movies, sections)
    assert doses(result) == pytest.approx(DOSE) and said(result, "[ZValue = 3] is left out", "3x")


@pytest.mark.parametrize("lost", [0, 3])
def test_the_first_line_of_a_section_is_lost(movies, lost):
    """The keys of the first section then stand in front of all, those of another in the section before it."""
    sections = sections_by_angle()
    sections[lost] = sections[lost].split("\n", 1)[1]
    result = imported(movies, sections)
    whole = imported(movies, sections_by_angle())
    assert result.series.tilts.equals(whole.series.tilts) and said(result, f"[ZValue = {lost}] is missing")


def test_sections_that_are_missing_between_others_count_with_their_dose(movies):
    sections = [section(n, n) for n in (0, 1, 4, 5, 6)]
    result = imported(movies, sections)
    assert doses(result) == pytest.approx({1: 0, 2: 3.4, 3: 4 * 3.4, 4: 5 * 3.4, 5: 6 * 3.4}) and said(
        result, "2 sections are missing"
    )


def test_an_mdoc_without_its_first_section(movies):
    """By PriorRecordDose nothing is lost; by the running sum the dose of what is missing is asked for."""
    prior = [section(a, a, PriorRecordDose=f"{3.4 * a:.1f}") for a in range(1, 7)]
    assert doses(imported(movies, prior)) == pytest.approx({a: 3.4 * a for a in range(1, 7)})
    summed = imported(movies, [section(a, a) for a in range(1, 7)])
    assert said(summed, "the first image recorded is [ZValue = 1]", "initial_dose_e_per_a2")
    assert said(summed, "1 files are called like the movies of this series")
    given = imported(movies, [section(a, a) for a in range(1, 7)], Given(initial_dose_e_per_a2=3.4))
    assert doses(given) == pytest.approx({a: 3.4 * a for a in range(1, 7)}) and not said(given, "first image recorded")


def test_copies_of_a_section_count_once_and_shared_movies_cost_their_views(movies):
    sections = sections_by_angle()
    assert doses(imported(movies, [*sections, sections[2]])) == pytest.approx(DOSE)
    sections[4] = sections[4].replace("TS_01_002_4.0", "TS_01_001_0.0")
    result = imported(movies, sections)
    assert result.series.tilts["excluded"].tolist() == [0, 0, 0, 1, 1, 0, 0] and said(result, "E-MDOC-05")
    assert doses(result) == pytest.approx(DOSE)


def test_one_missing_time_does_not_spoil_the_order_of_the_others(movies):
    sections = sections_by_angle()
    sections[0] = section(0, 6, DateTime=None)
    result = imported(movies, sections)  # sorted by angle: its number does not say when it was recorded
    assert doses(result) == pytest.approx(DOSE) and result.series.tilts["excluded"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    in_order = [section(a, a, **({"DateTime": None} if a == 3 else {})) for a in range(7)]
    result = imported(movies, in_order)
    assert doses(result) == pytest.approx(DOSE) and not result.series.tilts["excluded"].any()


# ---- contradictions -------------------------------------------------------------------------------------------------


def clock(acquired, hours_back=0, from_image=4):
    hour = 18 - hours_back * (acquired >= from_image)
    return f"09-Mar-23  {hour:02d}:{acquired:02d}:12"


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("hours", [1, 12])
def test_a_clock_that_was_put_back(movies, prior, hours):
    sections = [
        section(a, a, DateTime=clock(a, hours), **({"PriorRecordDose": f"{3.4 * a:.1f}"} if prior else {}))
        for a in range(7)
    ]
    result = imported(movies, sections)
    assert result.series.tilts["tilt_id"].tolist() == IDS and doses(result) == pytest.approx(DOSE)
    assert said(result, "contradict" if prior else "clock was changed")
    assert result.sources["order"] == ("mdoc PriorRecordDose" if prior else "mdoc section number")


def test_in_a_sorted_file_the_prior_dose_that_adds_up_decides(movies):
    sections = [
        section(n, int(a), DateTime=clock(a, 1), PriorRecordDose=f"{3.4 * a:.1f}") for n, a in enumerate(BY_ANGLE)
    ]
    result = imported(movies, sections)
    assert (
        result.series.tilts["tilt_id"].tolist() == IDS
        and doses(result) == pytest.approx(DOSE)
        and said(result, "adds up")
    )


def test_a_prior_dose_that_starts_again_does_not_decide(movies):
    sections = [section(a, a, PriorRecordDose=f"{3.4 * (a % 4) + 0.01 * (a > 3):.2f}") for a in range(7)]
    result = imported(movies, sections)
    assert result.series.tilts["tilt_id"].tolist() == IDS and doses(result) == pytest.approx(DOSE)
    assert (
        said(result, "DateTime was used") and said(result, "running sum") and result.sources["order"] == "mdoc DateTime"
    )


def test_am_and_pm(movies):
    times = ["11:58:12 AM", "11:59:12 AM", "12:00:12 PM", "12:01:12 PM", "12:02:12 PM", "01:03:12 PM", "01:04:12 pm"]
    sections = [section(n, int(a), DateTime=f"09-Mar-23  {times[a]}") for n, a in enumerate(BY_ANGLE)]
    result = imported(movies, sections)
    assert result.series.tilts["tilt_id"].tolist() == IDS and result.warnings == []


@pytest.mark.parametrize(
    "key, wrong, value",
    [("PixelSpacing", "7", 3.5), ("PixelSpacing", "-1", 3.5), ("Voltage", "200", 300.0), ("Voltage", "0", 300.0)],
)
@pytest.mark.parametrize("at", [0, 3])
def test_one_section_against_the_rest(movies, key, wrong, value, at):
    sections = sections_by_angle(Voltage="300")
    sections[at] = section(at, int(BY_ANGLE[at]), **{"Voltage": "300", key: wrong})
    result = imported(movies, sections)
    series = result.series
    assert {"PixelSpacing": series.pixel_size_angst, "Voltage": series.voltage_kv}[key] == value
    assert said(result, key, f"[ZValue = {at}]", wrong) and not series.tilts["excluded"].any()


def test_the_axis_of_most_sections(movies):
    sections = sections_by_angle()
    sections[0] = section(0, int(BY_ANGLE[0]), RotationAngle="84.8")
    result = imported(movies, sections, title="")
    assert result.series.tilts["z_rot_deg"].iloc[0] == pytest.approx(84.8) and said(
        result, "RotationAngle is 174.8 in 6 of 7 images"
    )
    result = imported(movies, sections_by_angle(RotationAngle="84.8"))
    assert result.series.tilts["z_rot_deg"].iloc[0] == 84.8 and said(result, "title's tilt axis (84.8", "-5.2")


def test_a_bidirectional_series_in_two_files_without_times(movies):
    """0, 4, 8, .. in the first, -4, -8, .. in the second, whose numbers and prior doses begin again."""
    parts = [[0, 1, 4, 5], [2, 3, 6]]
    paths = []
    for number, part in enumerate(parts):
        texts = [section(n, a, DateTime=None, PriorRecordDose=f"{3.4 * n:.1f}") for n, a in enumerate(part)]
        path = movies / f"TS_01_part{number + 1}.mdoc"
        path.write_text("\n".join(["Voltage = 300\nImageSize = 12 8\n", TITLE, "", *texts]))
        paths.append(path)
    result = import_movies("TS_01", paths, None, Given())
    tilts = result.series.tilts
    assert tilts["tilt_id"].tolist() == [7, 6, 5, 1, 2, 3, 4] and doses(result) == pytest.approx(DOSE)


# ---- sizes ----------------------------------------------------------------------------------------------------------


def write_tiffs(folder, frames, pack=False):
    """One TIFF per view; frames (n, h, w) of counts 0 to 15, two to a byte if asked, lower four bits first."""
    names = []
    for i, angle in enumerate(ACQUIRED):
        names.append(f"TS_01_{i + 1:03d}_{angle}.tif")
        data = (frames[..., ::2] | frames[..., 1::2] << 4) if pack else frames
        tifffile.imwrite(folder / names[-1], data[:, ::-1], photometric="minisblack")
    return names


def of_names(names, **changes):
    return [section(n, int(a), name=names[a], **changes) for n, a in enumerate(BY_ANGLE)]


@pytest.mark.parametrize("known_by", ["ImageSize", "half ImageSize", "gain"])
def test_packed_counts_are_unpacked(tmp_path, known_by):
    counts = np.random.default_rng(1).poisson(3, (2, 16, 24)).clip(0, 15).astype(np.uint8)
    names = write_tiffs(tmp_path, counts, pack=True)
    head = (
        "PixelSpacing = 3.5\nVoltage = 300\n"
        + {"ImageSize": "ImageSize = 24 16\n", "half ImageSize": "ImageSize = 12 8\n", "gain": ""}[known_by]
    )
    write_mrc(tmp_path / "gain.mrc", np.ones((16, 24), np.float32), 3.5)
    mdoc = write_mdoc(tmp_path, of_names(names), head)
    result = import_movies(
        "TS_01", mdoc, None, Given(), gain=str(tmp_path / "gain.mrc") if known_by == "gain" else None
    )
    assert result.series.image_size_px == (24, 16) and said(result, "two counts in each byte", "24 x 16")
    assert result.series.pixel_size_angst == (1.75 if known_by == "half ImageSize" else 3.5)
    movie = open_movie(result.series.tilts["movie"].iloc[0]).unpacked_to((16, 24))
    assert np.array_equal(list(movie), counts)
    assert open_movie(result.series.tilts["movie"].iloc[0]).unpacked_to((16, 12)).shape == (
        16,
        12,
    )  # as they are, where that is the size


def test_bytes_of_half_the_width_that_are_no_packed_counts_are_refused(tmp_path):
    names = write_tiffs(tmp_path, np.random.default_rng(1).poisson(3, (2, 16, 12)).astype(np.uint8))
    with pytest.raises(UserInputError, match="E-MOVIE-07.*12 x 16 bytes.*expected 24 x 16"):
        imported(tmp_path, of_names(names), head="PixelSpacing = 3.5\nVoltage = 300\nImageSize = 24 16\n")


def test_movies_of_another_size_than_the_mdoc_says_are_refused(tmp_path):
    write_movies(tmp_path, (2, 8, 18))
    with pytest.raises(UserInputError, match="E-MOVIE-07.*found 18 x 8, expected 12 x 8"):
        imported(tmp_path, sections_by_angle())
    result = imported(tmp_path, sections_by_angle(), Given(pixel_size_angst=2.0))
    assert result.series.pixel_size_angst == 2.0 and said(result, "18 x 8", "12 x 8")
    write_mrc(
        tmp_path / "gain.mrc", np.ones((16, 36), np.float32), 3.5
    )  # two against one: the mdoc's size is the odd one
    result = import_movies(
        "TS_01", write_mdoc(tmp_path, sections_by_angle()), None, Given(), gain=str(tmp_path / "gain.mrc")
    )
    assert result.series.pixel_size_angst == 3.5 and said(result, "gain reference agrees with the movies")


def test_frames_across_the_images_need_their_own_axis(tmp_path):
    write_movies(tmp_path, (2, 12, 8))
    with pytest.raises(
        UserInputError, match="E-MOVIE-08.*found 8 x 12, expected 12 x 8.*RotationAndFlip 1.*tilt_axis_deg"
    ):
        imported(tmp_path, sections_by_angle(RotationAndFlip="1"))
    result = imported(tmp_path, sections_by_angle(), Given(tilt_axis_deg=-5.0))
    assert (
        result.series.image_size_px == (8, 12)
        and result.series.tilts["z_rot_deg"].iloc[0] == -5.0
        and said(result, "across")
    )


@pytest.mark.parametrize(
    "shape, stated, scale, transposed",
    [
        ((4092, 5760), (5760, 4092), 1, False),
        ((4092, 5760), (5744, 4080), 1, False),
        ((8184, 11520), (5744, 4080), 2, False),
        ((3838, 3710), (3838, 3710), 1, True),
        ((3710, 3838), (3838, 3710), 1, False),
        ((4096, 4096), (512, 512), 8, False),
        ((2046, 2880), (5760, 4092), 0.5, False),
        ((300, 360), (120, 100), 3, False),
    ],
)
def test_how_frames_fit_images(shape, stated, scale, transposed):
    fit = size_fit(shape, stated)
    assert (fit.scale, fit.transposed) == (scale, transposed)


@pytest.mark.parametrize(
    "shape, stated", [((4092, 2880), (5760, 4092)), ((80, 48), (96, 80)), ((100, 100), (500, 500))]
)
def test_sizes_that_do_not_fit(shape, stated):
    assert size_fit(shape, stated) is None


def test_a_gain_of_another_camera_is_named_on_import(movies):
    write_mrc(movies / "gain.mrc", np.ones((9, 12), np.float32), 3.5)
    with pytest.raises(UserInputError, match="E-GAIN-01.*gain.mrc.*found 12 x 9, expected 12 x 8"):
        import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given(), gain=str(movies / "gain.mrc"))
    (movies / "gain.dm4").write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(UserInputError, match="E-GAIN-03.*gain.dm4"):
        import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given(), gain=str(movies / "gain.dm4"))


# ---- damaged headers ------------------------------------------------------------------------------------------------


def zeroed(data):
    return bytes(1024) + data[1024:]


def of_mode_7(data):
    return data[:12] + (7).to_bytes(4, "little") + data[16:]


def huge(data):
    return (1 << 20).to_bytes(4, "little") * 2 + data[8:]


@pytest.mark.parametrize(
    "damage",
    [
        zeroed,
        of_mode_7,
        huge,
        lambda data: b"<!DOCTYPE html><html>404</html>",
        lambda data: b"<html>" * 1000,
        lambda data: b"",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_damaged_header_costs_its_view(movies, damage, first):
    path = movies / ("TS_01_007_-12.0.mrc" if first else "TS_01_002_4.0.mrc")
    path.write_bytes(damage(path.read_bytes()))
    result = imported(movies, sections_by_angle())
    assert result.series.tilts["n_frames"].tolist() == ([0, 2, 2, 2, 2, 2, 2] if first else [2, 2, 2, 2, 0, 2, 2])
    assert result.series.image_size_px == (12, 8) and said(result, "will be left out: E-MOVIE-02", path.name)


# ---- numbers of frames ----------------------------------------------------------------------------------------------


def write_eers(folder, counts):
    names = []
    for i, (angle, n) in enumerate(zip(ACQUIRED, counts, strict=True)):
        names.append(f"TS_01_{i + 1:03d}_{angle}.eer")
        write_eer(folder / names[-1], np.random.default_rng(i).random((n, 8, 12)) < 0.2)
    return names


@pytest.mark.parametrize("stated", ["24", None, "350"])
def test_an_eer_that_holds_fewer_frames_has_less_dose(tmp_path, stated):
    """Known by the mdoc's number, and by the other movies where the mdoc has none or one that no movie agrees with."""
    names = write_eers(tmp_path, [24, 24, 10, 24, 24, 24, 24])
    result = imported(tmp_path, of_names(names, NumSubFrames=stated))
    tilts = result.series.tilts.set_index("tilt_id")
    assert tilts["n_frames"].tolist() == [24, 24, 10, 24, 24, 24, 24] and tilts["n_frames_lost"].tolist() == [
        0,
        0,
        14,
        0,
        0,
        0,
        0,
    ]
    assert (
        tilts.loc[3, "exposure_e_per_a2"] == pytest.approx(3.4 * 10 / 24)
        and (tilts["exposure_e_per_a2"].drop(3) == 3.4).all()
    )
    assert doses(result) == pytest.approx(DOSE)  # the specimen got all of it
    assert said(result, "10 of 24 frames are there: 14 are lost")
    assert [(e["n_frames"], e["expected"]) for e in result.summary()["frames_lost"]] == [(10, 24)]


def test_one_frame_less_than_stated_everywhere_is_no_loss(tmp_path):
    """A writer that counts a frame more than the camera keeps; a movie with half of them is one all the same."""
    names = write_eers(tmp_path, [60, 60, 60, 30, 60, 60, 59])
    result = imported(tmp_path, of_names(names, NumSubFrames="61"))
    assert [entry["n_frames"] for entry in result.summary()["frames_lost"]] == [30, 59]
    tilts = result.series.tilts.set_index("tilt_id")
    exposure = tilts["exposure_e_per_a2"]
    assert exposure[4] == pytest.approx(3.4 * 30 / 61) and exposure[1] == 3.4


def test_frames_in_proportion_to_the_dose_are_no_loss(tmp_path):
    counts = [10, 11, 11, 12, 12, 14, 20]
    names = write_eers(tmp_path, counts)
    sections = [
        section(n, int(a), name=names[a], NumSubFrames=None, ExposureDose=f"{0.3 * counts[a]:.2f}")
        for n, a in enumerate(BY_ANGLE)
    ]
    result = imported(tmp_path, sections)
    assert (
        result.summary()["frames_lost"] == [] and result.warnings == [] and "n_frames_lost" not in result.series.tilts
    )
    assert result.series.tilts.set_index("tilt_id").loc[7, "exposure_e_per_a2"] == pytest.approx(6.0)


def test_movies_that_were_summed_to_fewer_frames_keep_their_dose(movies):
    result = imported(movies, sections_by_angle(NumSubFrames="40"))
    assert (result.series.tilts["exposure_e_per_a2"] == 3.4).all() and result.summary()["frames_lost"] == []
    assert said(result, "the mdoc says 40 frames, the movies have 2")


def test_what_an_eer_says_of_itself(tmp_path):
    write_eer(
        tmp_path / "a.eer",
        np.zeros((5, 8, 12), bool),
        metadata='<metadata><item name="numberOfFrames">12</item></metadata>',
    )
    movie = open_movie(tmp_path / "a.eer")
    assert movie.stated_frames == 12 and movie.n_raw_frames == 5
    counts = compare_counts(
        [movie], [type("S", (), {"number": lambda *a: None, "numbers": lambda *a: None})()], np.array([3.0])
    )
    assert counts.lost == []  # one movie alone that disagrees with itself proves nothing
    assert grouped(31, 16) == (1, *(2,) * 15) and sum(grouped(97, 16)) == 97 and grouped(3, 16) == (1, 1, 1)


# ---- a stack's own mdoc ---------------------------------------------------------------------------------------------


def write_stack(folder, n=7, shape=(8, 12), pixel=3.5):
    write_mrc(
        folder / "TS_01.mrc",
        np.arange(n, dtype=np.float32)[:, None, None] * np.ones((n, *shape), np.float32),
        pixel,
        stack=True,
    )
    return folder / "TS_01.mrc"


def test_a_stack_with_its_own_mdoc(tmp_path):
    stack = write_stack(tmp_path)
    mdoc = write_mdoc(tmp_path, sections_by_angle(SubFramePath=None, NumSubFrames=None))
    result = import_stack("TS_01", stack, mdoc, Given())
    series = result.series
    assert series.tilts["tilt_id"].tolist() == IDS and doses(result) == pytest.approx(DOSE) and result.warnings == []
    assert load_images(series).mean(axis=(1, 2)).tolist() == list(range(7)) and "movie" not in series.tilts
    assert (series.voltage_kv, series.pixel_size_angst, series.tilts["z_rot_deg"].iloc[0]) == (300.0, 3.5, 84.8)
    assert result.sources["order"] == "mdoc DateTime" and result.sources["exposure"] == "mdoc ExposureDose"
    given = Given(voltage_kv=200.0, tilt_axis_deg=0.0, dose_per_tilt_e_per_a2=2.0)
    assert doses(import_stack("TS_01", stack, mdoc, given)) == pytest.approx({i: 2.0 * (i - 1) for i in IDS})


def test_a_stack_against_its_mdoc(tmp_path):
    sections = sections_by_angle(SubFramePath=None)
    mdoc = write_mdoc(tmp_path, sections[:6])
    with pytest.raises(UserInputError, match="E-STACK-02.*6 sections, 0 to 5.*expected 7"):
        import_stack("TS_01", write_stack(tmp_path), mdoc, Given())
    sections[2] = section(2, int(BY_ANGLE[2]), SubFramePath=None, TiltAngle="x")
    result = import_stack("TS_01", write_stack(tmp_path), write_mdoc(tmp_path, sections), Given())
    assert load_images(result.series).mean(axis=(1, 2)).tolist() == [0, 1, 3, 4, 5, 6] and said(
        result, "[ZValue = 2] is left out"
    )
    binned = import_stack(
        "TS_01", write_stack(tmp_path, shape=(4, 6), pixel=7.0), write_mdoc(tmp_path, sections_by_angle()), Given()
    )
    assert binned.series.pixel_size_angst == 7.0 and binned.warnings == []
    wrong = import_stack("TS_01", write_stack(tmp_path, pixel=5.0), write_mdoc(tmp_path, sections_by_angle()), Given())
    assert wrong.series.pixel_size_angst == 3.5 and said(wrong, "header of the stack says 5 A")
    with pytest.raises(UserInputError, match="E-MOVIE-08"):
        import_stack("TS_01", write_stack(tmp_path, shape=(12, 8)), write_mdoc(tmp_path, sections_by_angle()), Given())


# ---- cut and odd mdocs ----------------------------------------------------------------------------------------------


def test_movies_that_no_section_names_are_told(movies):
    result = imported(movies, [section(a, a) for a in range(5)])
    assert len(result.series.tilts) == 5 and said(
        result, "2 files are called like the movies of this series", "TS_01_006_12.0.mrc"
    )
    write_mrc(
        movies / "TS_02_001_0.0.mrc", np.zeros((2, 8, 12)), 3.5, stack=True, dtype="uint8"
    )  # another series' movie in the same folder
    assert imported(movies, sections_by_angle()).warnings == []


def test_a_section_of_unknown_kind_costs_its_view(movies):
    sections = sections_by_angle()
    sections[3] = sections[3].replace("[ZValue", "[ZKalue")
    result = imported(movies, sections)
    assert doses(result) == pytest.approx(DOSE) and said(result, "[ZKalue = 3]")
    assert result.series.tilts["excluded"].tolist() == [0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("name", ["a" * 300 + ".mrc", "a\0b.mrc", "../../etc/x.mrc"])
def test_names_that_no_movie_can_have(movies, name):
    sections = sections_by_angle()
    sections[3] = section(3, 0, name=name)
    result = imported(movies, sections)
    assert result.series.tilts["exclude_reason"].tolist()[3] == "missing_movie" and doses(result) == pytest.approx(DOSE)


def test_two_angles_in_one_line(movies):
    sections = sections_by_angle()
    sections[3] = section(3, 0, TiltAngle="3.4 5.4")
    assert said(imported(movies, sections), "[ZValue = 3] is left out", "several values")


@pytest.mark.parametrize(
    "text",
    [
        "[T = " + " " * 100000 + "x",
        "[ZValue = 0" + " " * 100000 + "x]",
        "[T = \n" + "a b\n" * 50000,
        "DateTime = " + "1-Jan-20 " * 20000,
    ],
)
def test_reading_an_mdoc_takes_time_in_proportion_to_its_length(text):
    begun = time.perf_counter()
    mdoc = parse_mdoc("[ZValue = 1]\nTiltAngle = 3\n[ZValue = 2]\nTiltAngle = 4\n[ZValue = 3]\nTiltAngle = 5\n" + text)
    assert mdoc.title_axis is None and [s.time for s in mdoc.images][0] is None
    assert time.perf_counter() - begun < 2.0


def test_half_of_a_series_and_headers_that_say_another_pixel_are_told(movies):
    half = [section(n, a, TiltAngle=f"{12 * n + 0.5}") for n, a in enumerate(range(4))]
    assert said(imported(movies, half), "one side", "0.5 to 36.5", "data.mdoc_series")
    assert not said(imported(movies, sections_by_angle()), "one side")
    result = imported(movies, sections_by_angle(), Given(pixel_size_angst=7.0))
    assert said(result, "headers of the movies say 3.5 A per pixel, 7 A was used")
