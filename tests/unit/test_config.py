import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cryoet_core.config import load_config
from cryoet_core.errors import UserInputError
from cryoet_core.workflow import Run

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p for p in (ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configs_are_valid(path):
    load_config(yaml.safe_load(path.read_text()), str(path))


def test_defaults_file_holds_exactly_the_defaults():
    values = yaml.safe_load((ROOT / "config/default.yaml").read_text())
    assert load_config(values) == load_config({})


def test_generated_files_are_in_sync():
    outcome = subprocess.run([sys.executable, ROOT / "tools/sync.py", "--check"], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    "values, message",
    [
        ({"preprocess_tilt_series": {"binnning": 4}}, "preprocess_tilt_series.binnning.*did you mean 'binning'"),
        ({"align_tilt_serie": {}}, "did you mean 'align_tilt_series'"),
        ({"averaging": [{"name": "a", "refine": {"symetry": "C1"}}]}, "averaging.0.refine.symetry.*'symmetry'"),
        ({"match_template": {"n_sigma": "many"}}, "match_template.n_sigma.*found 'many'"),
        ({"averaging": [{"name": "a", "postprocess": {"mtf": "k3.star"}}]}, "mtf needs mtf_pixel_size_angst"),
        ({"preprocess_tilt_series": {"binning": 0}}, "preprocess_tilt_series.binning.*found 0"),
    ],
)
def test_wrong_configs_name_the_key_and_the_way_out(values, message):
    with pytest.raises(UserInputError, match=f"(?s){message}"):
        load_config(values)


def test_several_problems_are_told_at_once():
    with pytest.raises(UserInputError, match="(?s)2 problems.*bining.*n_sigm"):
        load_config({"preprocess_tilt_series": {"bining": 1}, "match_template": {"n_sigm": 1}})


def test_zero_is_a_value_and_empty_is_not():
    config = load_config(yaml.safe_load("import_tilt_series: {tilt_axis_deg: 0, pixel_size_angst: }"))
    assert config.import_tilt_series.tilt_axis_deg == 0.0
    assert config.import_tilt_series.pixel_size_angst is None


def test_params_do_not_depend_on_how_a_number_is_written():
    runs = [
        Run(load_config({"data": {"simulate": True}, "correct_motion": {"b_factor_angst2": value}}))
        for value in (-500, -500.0, "-5e2")
    ]
    assert runs[0].step_params("correct_motion") == runs[1].step_params("correct_motion")
    assert runs[0].step_params("correct_motion") == runs[2].step_params("correct_motion")


def test_the_tutorials_values_are_in_chlamy():
    config = load_config(yaml.safe_load((ROOT / "config/chlamy.yaml").read_text()))
    assert config.import_tilt_series.tilt_axis_deg == -95.0
    assert config.correct_motion.b_factor_angst2 == -500
    assert (config.exclude_views.first_negative, config.exclude_views.last_positive) == (7, 4)
    assert config.reconstruct_tomogram.radial_cutoff == 0.35
    assert [r.extract_subtomos.crop_px for r in config.averaging] == [32, 64]
    assert config.averaging[1].extract_subtomos.max_dose_e_per_a2 == 50
    assert [r.refine.mask_diameter_angst for r in config.averaging] == [350, 350]


@pytest.mark.parametrize("data", [{}, {"simulate": True, "mdoc": "*.mdoc"}])
def test_data_must_come_from_one_place(data):
    with pytest.raises(UserInputError, match="E-CFG-06"):
        Run(load_config({"data": data}))


def test_series_are_found_by_glob(tmp_path):
    reference = str(tmp_path / "map.map")
    Path(reference).touch()
    for name in ("TS_1.mrc.mdoc", "TS_2.mdoc"):
        (tmp_path / name).touch()
    run = Run(load_config({"data": {"mdoc": f"{tmp_path}/*.mdoc", "reference": reference}}))
    assert run.tilt_series == ["TS_1", "TS_2"]
    assert run.series_source("TS_1")["movies_dir"] == str(tmp_path)
    with pytest.raises(UserInputError, match="E-CFG-07.*TS_9"):
        Run(load_config({"data": {"mdoc": f"{tmp_path}/*.mdoc", "reference": reference, "tilt_series": ["TS_9"]}}))


def test_hostile_names_are_refused(tmp_path):
    (tmp_path / "a; touch x.mdoc").touch()
    with pytest.raises(UserInputError, match="E-NAME-01"):
        Run(load_config({"data": {"mdoc": f"{tmp_path}/*.mdoc", "reference": "map.mrc"}}))


def test_stack_without_angles_is_refused(tmp_path):
    reference = str(tmp_path / "map.map")
    Path(reference).touch()
    (tmp_path / "TS_1.mrc").touch()
    with pytest.raises(UserInputError, match="E-TS-04.*TS_1.rawtlt"):
        Run(load_config({"data": {"stacks": f"{tmp_path}/*.mrc", "reference": reference}}))
    (tmp_path / "TS_1.rawtlt").touch()
    run = Run(load_config({"data": {"stacks": f"{tmp_path}/*.mrc", "reference": reference}}))
    assert run.series_source("TS_1") == {
        "kind": "stack", "stack": f"{tmp_path}/TS_1.mrc", "tilts": f"{tmp_path}/TS_1.rawtlt",
    }


def test_what_only_the_whole_config_can_tell(tmp_path):
    (tmp_path / "TS_1.mdoc").touch()
    with pytest.raises(UserInputError, match="E-CFG-05: data.reference"):
        Run(load_config({"data": {"mdoc": f"{tmp_path}/*.mdoc"}}))
    rounds = [{"name": "a", "reference": "previous"}]
    with pytest.raises(UserInputError, match="E-CFG-08"):
        Run(load_config({"data": {"simulate": True}, "averaging": rounds}))
    with pytest.raises(UserInputError, match="E-CFG-04"):
        Run(load_config({"data": {"simulate": True}, "averaging": [{"name": "a"}, {"name": "a"}]}))


@pytest.mark.parametrize(
    ("references", "start", "fits"),
    [
        (["template"], "given_poses", True),
        (["initial_model"], "given_poses", False),
        (["initial_model", "previous"], "given_poses", True),
        (["initial_model", "template"], "given_poses", False),
        (["initial_model", "previous", "template"], "given_poses", False),
        (["initial_model", "template"], "global", True),
        (["template", "previous", "template"], "given_poses", True),
    ],
)
def test_angles_and_reference_of_a_round_are_in_one_frame(references, start, fits):
    rounds = [{"name": f"r{i}", "reference": kind} for i, kind in enumerate(references)]
    rounds[-1]["refine"] = {"start": start}
    config = load_config({"data": {"simulate": True}, "averaging": rounds})
    if fits:
        Run(config)
        return
    with pytest.raises(UserInputError, match="E-CFG-14"):
        Run(config)


def test_mdocs_of_one_series_are_joined_by_their_names(tmp_path):
    reference = str(tmp_path / "map.map")
    Path(reference).touch()
    for name in ("TS_01_001.tif.mdoc", "TS_01_002.tif.mdoc", "TS_02_001.tif.mdoc"):
        (tmp_path / name).write_text("")
    data = {"mdoc": f"{tmp_path}/*.mdoc", "reference": reference}
    run = Run(load_config({"data": {**data, "mdoc_series": "(TS_[0-9]+)"}}))
    assert run.tilt_series == ["TS_01", "TS_02"] and len(run.series_source("TS_01")["mdoc"]) == 2
    with pytest.raises(UserInputError, match="E-CFG-09"):
        Run(load_config({"data": {**data, "mdoc_series": "(TS_"}}))
    with pytest.raises(UserInputError, match="E-CFG-09"):
        Run(load_config({"data": {**data, "mdoc_series": "grid"}}))


def test_an_override_mdoc_belongs_to_its_series(tmp_path):
    reference = str(tmp_path / "map.map")
    Path(reference).touch()
    for name in ("TS_01.mdoc", "TS_01_override.mdoc"):
        (tmp_path / name).write_text("")
    run = Run(load_config({"data": {"mdoc": f"{tmp_path}/*.mdoc", "reference": reference}}))
    assert run.tilt_series == ["TS_01"]
    assert [p.rsplit("/", 1)[1] for p in run.series_source("TS_01")["mdoc"]] == ["TS_01.mdoc", "TS_01_override.mdoc"]


def test_ctf_correction_twice_is_refused_before_anything_runs():
    sections = {"data": {"simulate": True}, "reconstruct_tomogram": {"ctf_3d": "phase_flip"}}
    with pytest.raises(UserInputError, match="E-CFG-13"):
        Run(load_config(sections))
    Run(load_config({**sections, "correct_ctf": {"mode": "none"}}))


def test_the_simulated_tutorial_is_processed_as_the_real_one():
    real, simulated = (load_config(yaml.safe_load((ROOT / "config" / name).read_text())) for name in ("chlamy.yaml", "simulated_tutorial.yaml"))
    own = {"results_dir", "seed", "data", "simulate"}
    assert simulated.model_dump(exclude=own) == real.model_dump(exclude=own)
    assert simulated.simulate.pixel_size_angst == real.import_tilt_series.pixel_size_angst
    assert simulated.simulate.nominal_axis_deg == real.import_tilt_series.tilt_axis_deg
