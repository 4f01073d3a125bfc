"""import_tilt_series against an acquisition written by hand."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from eer_files import write_eer
from mdoc_files import ACQUIRED, TITLE, section, sections_by_angle, write_mdoc, write_movies

from cryoet_core.config.import_tilt_series import ImportTiltSeries
from cryoet_core.errors import UserInputError
from cryoet_core.io.acquisition import Given, wrap_degrees
from cryoet_core.io.images import load_images
from cryoet_core.io.import_series import import_movies, import_stack
from cryoet_core.io.mrc import write_mrc
from cryoet_core.metadata import read_tilt_series, write_tilt_series


@pytest.fixture
def movies(tmp_path):
    write_movies(tmp_path)
    return tmp_path


def test_movies_are_sorted_and_keyed(movies):
    result = import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given())
    tilts = result.series.tilts
    assert tilts["nominal_tilt_deg"].is_monotonic_increasing
    assert tilts["tilt_id"].tolist() == [7, 4, 3, 1, 2, 5, 6]
    assert tilts["pre_exposure_e_per_a2"].tolist() == pytest.approx([3.4 * (i - 1) for i in (7, 4, 3, 1, 2, 5, 6)])
    assert [Path(m).name for m in tilts["movie"]][3] == "TS_01_001_0.0.mrc"
    assert (tilts["n_frames"] == 2).all() and "image" not in tilts
    series = result.series
    assert (series.voltage_kv, series.pixel_size_angst, series.movie_pixel_size_angst) == (300.0, 3.5, 3.5)
    assert series.image_size_px == (12, 8) and series.tomogram_size_px == (0, 0, 0) and series.handedness == -1
    assert tilts["z_rot_deg"].eq(84.8).all() and tilts["y_tilt_deg"].equals(tilts["nominal_tilt_deg"])
    for column in ("x_tilt_deg", "x_shift_angst", "y_shift_angst", "defocus_u_angst", "excluded"):
        assert (tilts[column] == 0).all()
    np.testing.assert_allclose(tilts["ctf_scale"], np.cos(np.deg2rad(tilts["nominal_tilt_deg"])))
    assert result.sources["tilt_axis"] == "mdoc title" and result.sources["order"] == "mdoc DateTime"
    assert result.warnings == []


def test_order_of_sections_does_not_matter(movies):
    sections = sections_by_angle()
    expected = import_movies("TS_01", write_mdoc(movies, sections), None, Given()).series.tilts
    for seed in range(3):
        random.Random(seed).shuffle(sections)
        assert import_movies("TS_01", write_mdoc(movies, sections), None, Given()).series.tilts.equals(expected)


def test_order_without_times(movies):
    by_dose = [section(n, int(a), DateTime=None, PriorRecordDose=f"{3.4 * a:.1f}")
               for n, a in enumerate(np.argsort(ACQUIRED))]
    result = import_movies("TS_01", write_mdoc(movies, by_dose), None, Given())
    assert result.series.tilts["tilt_id"].tolist() == [7, 4, 3, 1, 2, 5, 6]
    assert result.sources["order"] == "mdoc PriorRecordDose"
    by_number = [section(a, a, DateTime=None) for a in range(7)]
    result = import_movies("TS_01", write_mdoc(movies, by_number), None, Given())
    assert result.series.tilts["tilt_id"].tolist() == [7, 4, 3, 1, 2, 5, 6]
    assert "order of the sections" in result.warnings[0]


@pytest.mark.parametrize("given, title, rotation, axis, source", [
    (None, TITLE, "174.8", 84.8, "mdoc title"),
    (None, "", "174.8", 84.8, "mdoc RotationAngle - 90"),
    (None, "", "3.35", -86.65, "mdoc RotationAngle - 90"),
    (None, "", "-96.9", 173.1, "mdoc RotationAngle - 90"),
    (None, "[T = TiltAxisAngle = -91.81  Binning = 1]", "0", 1.81, "mdoc title (Tomography 5)"),
    (0.0, TITLE, "174.8", 0.0, "config tilt_axis_deg"),
    (-95.0, TITLE, "174.8", -95.0, "config tilt_axis_deg"),
])
def test_tilt_axis_and_its_source(movies, given, title, rotation, axis, source):
    mdoc = write_mdoc(movies, sections_by_angle(RotationAngle=rotation), title=title)
    result = import_movies("TS_01", mdoc, None, Given(tilt_axis_deg=given))
    assert result.series.tilts["z_rot_deg"].iloc[0] == pytest.approx(axis, abs=1e-9)
    assert result.sources["tilt_axis"] == source
    assert bool(result.warnings) == (given is not None)  # both given values are > 10 degrees from the mdoc's


def test_tomo5_can_be_forced(movies):
    mdoc = write_mdoc(movies, sections_by_angle())
    assert import_movies("TS_01", mdoc, None, Given(tomo5=True)).series.tilts["z_rot_deg"].iloc[0] == pytest.approx(
        -174.8)
    assert wrap_degrees(-180.0) == 180.0 and wrap_degrees(185.0) == -175.0 and wrap_degrees(10.0) == 10.0


def test_dose_sources(movies):
    def imported(given=None, **changes):
        mdoc = write_mdoc(movies, sections_by_angle(**changes))
        return import_movies("TS_01", mdoc, None, given or Given())

    zero = imported(ExposureDose="0", FrameDosesAndNumber="0.5 4 1.5 2")
    assert zero.series.tilts["exposure_e_per_a2"].eq(5).all() and "FrameDosesAndNumber" in zero.sources["exposure"]
    rate = imported(ExposureDose="0", DoseRate="24.5", ExposureTime="1.5", Binning="1")
    assert rate.series.tilts["exposure_e_per_a2"].iloc[0] == pytest.approx(24.5 * 1.5 / 3.5**2)
    given = imported(Given(dose_per_tilt_e_per_a2=2.0, initial_dose_e_per_a2=10.0))
    assert given.series.tilts["pre_exposure_e_per_a2"].tolist() == [22, 16, 14, 10, 12, 18, 20]
    with pytest.raises(UserInputError, match="E-MDOC-08.*dose_per_tilt_e_per_a2"):
        imported(ExposureDose="0")


def test_prior_dose_is_used_and_checked(movies):
    sections = [section(n, int(a), PriorRecordDose=f"{5 + 4 * a}") for n, a in enumerate(np.argsort(ACQUIRED))]
    result = import_movies("TS_01", write_mdoc(movies, sections), None, Given())
    assert result.series.tilts["pre_exposure_e_per_a2"].tolist() == [29, 17, 13, 5, 9, 21, 25]
    assert "more than 10 %" in result.warnings[0]
    result = import_movies("TS_01", write_mdoc(movies, sections), None, Given(initial_dose_e_per_a2=0.0))
    assert result.series.tilts["pre_exposure_e_per_a2"].min() == 0


def test_repeated_tilt_keeps_the_last(movies):
    write_mrc(movies / "again.mrc", np.zeros((2, 8, 12)), 3.5, stack=True, dtype="uint8")
    again = section(7, 3, name="again.mrc", DateTime="09-Mar-23  19:00:00")
    result = import_movies("TS_01", write_mdoc(movies, [*sections_by_angle(), again]), None, Given())
    tilts = result.series.tilts
    bad = tilts[tilts["excluded"] == 1]
    assert len(tilts) == 8 and bad["tilt_id"].tolist() == [4]
    assert bad["exclude_reason"].tolist() == ["recorded again as tilt_id 8"]
    assert len(result.warnings) == 1


def test_super_resolution_movies_halve_the_pixel(tmp_path):
    write_movies(tmp_path, (2, 16, 24))
    result = import_movies("TS_01", write_mdoc(tmp_path, sections_by_angle()), None, Given())
    assert result.series.pixel_size_angst == 1.75 and "ImageSize" in result.sources["pixel_size"]
    given = import_movies("TS_01", write_mdoc(tmp_path, sections_by_angle()), None, Given(pixel_size_angst=3.5))
    assert given.series.pixel_size_angst == 3.5


def test_movies_elsewhere_and_in_another_case(tmp_path):
    (tmp_path / "frames").mkdir()
    write_movies(tmp_path / "frames")
    (tmp_path / "frames/TS_01_001_0.0.mrc").rename(tmp_path / "frames/ts_01_001_0.0.MRC")
    result = import_movies("TS_01", write_mdoc(tmp_path, sections_by_angle()), tmp_path / "frames", Given())
    assert result.series.tilts["movie"].iloc[3].endswith("frames/ts_01_001_0.0.MRC")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda s: s[:1], "E-MDOC-04"),
        (lambda s: [*s[:3], *(t.replace("TiltAngle", "Tilt") for t in s[3:])], r"E-MDOC-06.*ZValue = 3\] TiltAngle"),
        (
            lambda s: [*s[:3], *(t.replace("SubFramePath", "Path") for t in s[3:])],
            r"E-MDOC-06.*ZValue = 6\] SubFramePath",
        ),
        (lambda s: [*s[:3], *(t.replace("TiltAngle = ", "TiltAngle = 15") for t in s[3:])], r"E-MDOC-09.*found 150"),
        (
            lambda s: [t.replace("_01_00", "_01_0") for t in s[:4]] + s[4:],
            "E-MDOC-02: .*4 of 7 movies.*TS_01_00.*TS_01_0",
        ),
        (
            lambda s: [s[0], s[1], *(t.replace("TS_01_001_0.0", "TS_01_002_4.0") for t in s[3:5])],
            "E-MDOC-05.*ZValue = 3.*ZValue = 4",
        ),
    ],
)
def test_errors_say_what_and_where(movies, make, message):
    with pytest.raises(UserInputError, match=message):
        import_movies("TS_01", write_mdoc(movies, make(sections_by_angle())), None, Given())


def test_missing_values_name_the_config_key(movies):
    mdoc = write_mdoc(movies, sections_by_angle(PixelSpacing=None, RotationAngle=None), head="", title="")
    for given, key in ((Given(), "voltage_kv"), (Given(voltage_kv=300.0), "pixel_size_angst"),
                       (Given(voltage_kv=300.0, pixel_size_angst=2.0), "tilt_axis_deg")):
        with pytest.raises(UserInputError, match=f"E-MDOC-08.*import_tilt_series.{key}"):
            import_movies("TS_01", mdoc, None, given)
    with pytest.raises(UserInputError, match="E-FILE-02"):
        import_movies("TS_01", mdoc, movies / "nowhere", Given())


def test_movies_of_different_size(movies):
    for name in ("TS_01_004_-8.0.mrc", "TS_01_005_8.0.mrc", "TS_01_001_0.0.mrc"):
        write_mrc(movies / name, np.zeros((2, 8, 10)), 3.5, stack=True, dtype="uint8")
    result = import_movies(
        "TS_01", write_mdoc(movies, sections_by_angle()), None, Given()
    )  # three of seven cost their views
    assert result.series.image_size_px == (12, 8) and result.series.tilts["n_frames"].tolist() == [2, 0, 2, 0, 2, 0, 2]
    assert sum("will be left out: E-MOVIE-04" in text for text in result.warnings) == 3
    (movies / "TS_01_006_12.0.mrc").unlink()
    with pytest.raises(UserInputError, match="E-MOVIE-04"):
        import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given())


@pytest.fixture
def eer_movies(tmp_path):
    for i, angle in enumerate(ACQUIRED):
        write_eer(tmp_path / f"TS_01_{i + 1:03d}_{angle}.eer", np.random.default_rng(i).random((5, 8, 12)) < 0.2)
    names = [f"TS_01_{i + 1:03d}_{angle}.eer" for i, angle in enumerate(ACQUIRED)]
    return write_mdoc(tmp_path, [section(n, int(a), name=names[a], NumSubFrames="5") for n, a in enumerate(np.argsort(ACQUIRED))])


@pytest.mark.parametrize("finer", [1, 2, 4])
@pytest.mark.parametrize("pixel", [None, 3.0])
def test_super_resolved_eer_has_finer_pixels_in_the_table(eer_movies, tmp_path, finer, pixel):
    result = import_movies("TS_01", eer_movies, None, Given(eer_super_resolution=finer, pixel_size_angst=pixel))
    write_tilt_series(result.series, tmp_path / "a.star")
    series = read_tilt_series(tmp_path / "a.star")
    assert series.image_size_px == (12 * finer, 8 * finer) and series.eer_super_resolution == finer
    assert series.pixel_size_angst == series.movie_pixel_size_angst == (pixel or 3.5) / finer
    assert (series.tilts["n_frames"] == 5).all() and result.warnings == []
    assert ("EER super-resolution" in result.sources["pixel_size"]) == (finer > 1)


def test_super_resolution_of_other_movies_is_said_to_do_nothing(movies):
    result = import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given(eer_super_resolution=2))
    assert result.series.image_size_px == (12, 8) and result.series.eer_super_resolution == 1
    assert result.warnings == ["eer_super_resolution: 2 has no effect: the movies are not EER"]


STACK = Given(voltage_kv=300.0, tilt_axis_deg=0.0)


@pytest.fixture
def stack(tmp_path):
    images = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 6, 8), np.float32)
    write_mrc(tmp_path / "TS.mrc", images, 10.0, stack=True, dtype="float16")
    rows = [(0, 60, 117, 5), (1, -30, 50, 4), (2, 0, 0, 1), (3, 30, 30, 3), (4, -3, 3, 2)]
    text = "section\ttilt_deg\tprior_dose_e_per_a2\tacquisition_order\tmovie\n"
    (tmp_path / "TS.tsv").write_text(text + "".join("\t".join(map(str, r)) + "\tx.tif\n" for r in rows))
    (tmp_path / "TS.rawtlt").write_text("60\n-30\n0\n30\n-3\n")
    return tmp_path


def test_stack_with_a_table(stack):
    result = import_stack("TS", stack / "TS.mrc", stack / "TS.tsv", STACK)
    tilts = result.series.tilts
    assert tilts["nominal_tilt_deg"].tolist() == [-30, -3, 0, 30, 60]
    assert tilts["tilt_id"].tolist() == [4, 2, 1, 3, 5]
    assert tilts["pre_exposure_e_per_a2"].tolist() == [50, 3, 0, 30, 117]
    assert tilts["exposure_e_per_a2"].tolist() == [67, 27, 3, 20, 23.5]
    assert load_images(result.series).mean(axis=(1, 2)).tolist() == [1, 4, 2, 3, 0]
    assert "movie" not in tilts and result.series.pixel_size_angst == 10.0
    assert result.sources["pixel_size"] == "header of the stack" and result.sources["tilt_axis"] == "config tilt_axis_deg"


def test_stack_with_angles_only(stack):
    given = Given(voltage_kv=300.0, tilt_axis_deg=0.0, dose_per_tilt_e_per_a2=3.0, pixel_size_angst=9.5)
    result = import_stack("TS", stack / "TS.mrc", stack / "TS.rawtlt", given)
    assert result.series.tilts["tilt_id"].tolist() == [4, 2, 1, 3, 5]
    assert result.series.tilts["pre_exposure_e_per_a2"].tolist() == [9, 3, 0, 6, 12]
    assert "dose-symmetric" in result.warnings[0] and result.series.pixel_size_angst == 9.5


def test_stack_refusals(stack):
    (stack / "short.tlt").write_text("0\n1\n")
    (stack / "bad.tsv").write_text("section\ttilt_deg\n0\tx\n")
    (stack / "names.tsv").write_text("a\tb\n0\t1\n")
    for tilts, given, message in (
        ("short.tlt", STACK, "E-STACK-02.*2 angles.*expected 5"), ("bad.tsv", STACK, "E-TSV-02.*tilt_deg, row 1"),
        ("names.tsv", STACK, "E-TSV-01.*tilt_deg"), ("TS.rawtlt", STACK, "E-STACK-01.*dose_per_tilt"),
        ("TS.tsv", Given(tilt_axis_deg=0.0), "E-STACK-01.*voltage_kv"),
        ("TS.tsv", Given(voltage_kv=300.0), "E-STACK-01.*tilt_axis_deg"),
    ):
        with pytest.raises(UserInputError, match=message):
            import_stack("TS", stack / "TS.mrc", stack / tilts, given)


def test_config_section_and_given_values_have_the_same_keys():
    assert ImportTiltSeries().model_dump() == vars(Given())


RUN_SCRIPT = """
import json, sys
from types import SimpleNamespace as N
class Files(dict):
    __getattr__ = dict.__getitem__
job = json.loads(sys.argv[1])
config = N(rule="import_tilt_series", input=Files(job["input"]), output=Files(job["output"]), wildcards=Files(ts="TS_01"),
           params=N(source=job["source"], get=lambda k, d=None: job["config"]), log=[], threads=1, config={}, resources={})
class Wildcards(Files):
    def __iter__(self): return iter(self.values())
config.wildcards = Wildcards(ts="TS_01")
exec(compile(open(job["script"]).read(), job["script"], "exec"), {"snakemake": config})
"""


@pytest.mark.parametrize("config, code", [({}, 0), ({"tilt_axis_deg": 0.0}, 0), ({"pixel_size": 1.0}, 2)])
def test_script(movies, config, code):
    mdoc = write_mdoc(movies, sections_by_angle())
    job = {"script": str(Path(__file__).parents[2] / "workflow/scripts/import_tilt_series.py"), "config": config,
           "input": {"mdoc": str(mdoc)}, "source": {"kind": "mdoc", "mdoc": str(mdoc), "movies_dir": str(movies)},
           "output": {"table": "out/TS_01.star", "summary": "out/summary.json"}}
    done = subprocess.run([sys.executable, "-c", RUN_SCRIPT, json.dumps(job)], cwd=movies, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == code, done.stderr
    if code:
        assert "E-CFG-01" in done.stderr and not (movies / "out").exists()
        return
    series = read_tilt_series(movies / "out/TS_01.star")
    summary = json.loads((movies / "out/summary.json").read_text())
    assert len(series) == summary["n_tilts"] == 7
    assert summary["tilt_axis_deg"] == config.get("tilt_axis_deg", 84.8) == series.tilts["z_rot_deg"].iloc[0]
    assert summary["sources"]["pixel_size"] == "mdoc PixelSpacing"
    assert ("config tilt_axis_deg" in done.stderr or "tilt axis" in done.stderr) == bool(config)


def test_the_first_of_repeated_tilts_can_be_kept_or_repeats_refused(movies):
    write_mrc(movies / "again.mrc", np.zeros((2, 8, 12)), 3.5, stack=True, dtype="uint8")
    again = section(7, 3, name="again.mrc", DateTime="09-Mar-23  19:00:00")
    path = write_mdoc(movies, [*sections_by_angle(), again])
    tilts = import_movies("TS_01", path, None, Given(duplicates="first")).series.tilts
    assert tilts[tilts["excluded"] == 1]["exclude_reason"].tolist() == ["recorded before as tilt_id 4"]
    with pytest.raises(UserInputError) as stopped:
        import_movies("TS_01", path, None, Given(duplicates="error"))
    assert stopped.value.code == "E-MDOC-11" and "-7.99" in str(stopped.value)


def test_one_mdoc_per_movie_is_joined(movies):
    whole = import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given())
    paths = []
    for n, acquired in enumerate(np.random.default_rng(1).permutation(len(ACQUIRED))):
        name = f"TS_01_{acquired + 1:03d}_{ACQUIRED[acquired]}.mrc"
        path = movies / f"{name}.mdoc"
        text = section(0, int(acquired), **({"SubFramePath": None} if n == 2 else {}))
        path.write_text("Voltage = 300\nImageSize = 12 8\n" + (TITLE + "\n" if n == 0 else "") + text.replace("ZValue", "FrameSet"))
        paths.append(path)
    joined = import_movies("TS_01", paths, None, Given())
    assert joined.series.tilts.equals(whole.series.tilts)


def test_an_override_mdoc_replaces_sections(movies):
    path = write_mdoc(movies, sections_by_angle())
    override = movies / "TS_01_override.mdoc"
    override.write_text("\n".join([TITLE, section(0, 2, ExposureDose="2.0")]))
    result = import_movies("TS_01", [path, override], None, Given())
    by_id = result.series.tilts.set_index("tilt_id")["exposure_e_per_a2"]
    assert by_id[3] == 2.0 and (by_id.drop(3) == 3.4).all()
    assert any("described twice" in w and "override" in w for w in result.warnings)


def test_what_the_config_overrode_is_told(movies):
    result = import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given(tilt_axis_deg=-95.0, voltage_kv=300.0,
                                                                                      dose_per_tilt_e_per_a2=3.0))
    told = result.summary()["overridden"]
    assert told == {"tilt_axis_deg": {"config": -95.0, "mdoc": 84.8}, "dose_per_tilt_e_per_a2": {"config": 3.0, "mdoc": 3.4}}
    assert result.sources["tilt_axis"] == "config tilt_axis_deg"


@pytest.mark.parametrize("field, value", [("ExposureDose", "1e400"), ("PriorRecordDose", "-5"), ("TiltAngle", "1.5e24")])
def test_impossible_values_name_their_line(movies, field, value):
    sections = sections_by_angle(**{field: value})
    with pytest.raises(UserInputError) as stopped:
        import_movies("TS_01", write_mdoc(movies, sections), None, Given())
    assert stopped.value.code == "E-MDOC-09" and field in str(stopped.value)


def test_a_montage_is_no_tilt_series(movies):
    tiles = [section(i, i, TiltAngle="0.01", PieceCoordinates=f"{i} 0 0") for i in range(3)]
    with pytest.raises(UserInputError) as stopped:
        import_movies("TS_01", write_mdoc(movies, tiles), None, Given())
    assert stopped.value.code == "E-MDOC-04" and "montage" in str(stopped.value)


def test_a_damaged_movie_does_not_stop_its_series(movies):
    mdoc = write_mdoc(movies, sections_by_angle())
    for acquired in (1, 2, 3):
        path = movies / f"TS_01_{acquired:03d}_{ACQUIRED[acquired - 1]}.mrc"
        path.write_bytes(path.read_bytes()[:1100])
    result = import_movies("TS_01", mdoc, None, Given())
    assert result.series.tilts["n_frames"].tolist() == [2, 2, 0, 0, 0, 2, 2]
    assert sum("will be left out: E-MOVIE-02" in text for text in result.summary()["warnings"]) == 3
    path = movies / "TS_01_004_-8.0.mrc"
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(UserInputError, match="E-MOVIE-02"):
        import_movies("TS_01", mdoc, None, Given())


def test_missing_movies_cost_their_views_only(movies):
    whole = import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given()).series.tilts
    for acquired in (1, 2, 3):
        (movies / f"TS_01_{acquired:03d}_{ACQUIRED[acquired - 1]}.mrc").unlink()
    result = import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given())
    tilts = result.series.tilts
    gone = tilts["tilt_id"].isin([1, 2, 3])
    assert tilts["exclude_reason"].tolist() == np.where(gone, "missing_movie", "none").tolist()
    assert tilts["excluded"].tolist() == gone.astype(int).tolist() and (tilts["n_frames"][gone] == 0).all()
    same = [c for c in whole if c not in ("excluded", "exclude_reason", "n_frames")]
    assert tilts[same].equals(whole[same])  # keys, doses and names as if all were there
    summary = result.summary()
    assert len(summary["missing_movies"]) == 3 and summary["n_excluded"] == 3
    assert sum("missing" in text and "TS_01_00" in text for text in summary["warnings"]) == 3
    (movies / "TS_01_004_-8.0.mrc").unlink()
    with pytest.raises(UserInputError, match=f"E-MDOC-02.*4 of 7 movies.*in {movies}.*TS_01_00.*data.movies_dir"):
        import_movies("TS_01", write_mdoc(movies, sections_by_angle()), None, Given())


def test_of_repeated_tilts_the_one_that_exists_is_kept(movies):
    again = section(7, 3, name="again.mrc", DateTime="09-Mar-23  19:00:00")
    mdoc = write_mdoc(movies, [*sections_by_angle(), again])
    tilts = import_movies("TS_01", mdoc, None, Given()).series.tilts.set_index("tilt_id")
    assert tilts.loc[8, "exclude_reason"] == "missing_movie" and tilts.loc[4, "excluded"] == 0
    (movies / "again.mrc").write_bytes((movies / "TS_01_001_0.0.mrc").read_bytes()[:1100])  # damaged: correct_motion will mark it
    tilts = import_movies("TS_01", mdoc, None, Given()).series.tilts.set_index("tilt_id")
    assert (tilts["excluded"] == 0).all() and tilts.loc[8, "n_frames"] == 0
