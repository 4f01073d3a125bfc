"""What a config must not say: each is refused when it is read, with its key and what to do."""

import math
import os

import pytest

from cryoet_core.config import check_file, load_config
from cryoet_core.errors import UserInputError
from cryoet_core.workflow import Run


def refused(values, *words):
    with pytest.raises(UserInputError) as caught:
        Run(load_config(values))
    text = str(caught.value)
    assert all(word in text for word in words) and "E-CFG" in text and "Fix:" in text, text
    return text


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder "raw" with two series, beside the folder of the run."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "run").mkdir()
    for name in ("TS_1.mdoc", "TS_2.mdoc", "map.mrc"):
        (tmp_path / "raw" / name).touch()
    monkeypatch.chdir(tmp_path / "run")
    return {"mdoc": str(tmp_path / "raw/*.mdoc"), "reference": str(tmp_path / "raw/map.mrc")}


@pytest.mark.parametrize(
    "name", ["", "  ", "/", "///", "~", "~/results", "a{ts}", "a}b", "a\nb", "results\n", "a\tb", "a\x00b"]
)
def test_results_folder(name):
    refused({"data": {"simulate": True}, "results_dir": name}, "results_dir")


def test_results_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").touch()
    refused({"data": {"simulate": True}, "results_dir": str(tmp_path / "taken")}, "results_dir", "is a file")


def test_results_among_the_raw_data(data, tmp_path, monkeypatch):
    for name in ("raw", "raw/results", "raw/a/b"):
        refused({"data": data, "results_dir": str(tmp_path / name)}, "E-CFG-17", "results_dir")
    (tmp_path / "link").symlink_to("raw")
    refused({"data": data, "results_dir": str(tmp_path / "link/results")}, "E-CFG-17")
    Run(load_config({"data": data}))
    monkeypatch.chdir(
        tmp_path / "raw"
    )  # a run started among the data may make its results there, in a folder of their own
    Run(load_config({"data": data, "results_dir": "results"}))
    refused({"data": data, "results_dir": "."}, "E-CFG-17")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": 10**400}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"device": "gpu"}, "device"),
        ({"device": "cuda:0\n"}, "device"),
        ({"simulate": {"n_series": 1.5}}, "simulate.n_series"),
        ({"simulate": {"n_particles": -3}}, "simulate.n_particles"),
        ({"simulate": {"pixel_size_angst": math.inf}}, "simulate.pixel_size_angst"),
        ({"simulate": {"pixel_size_angst": math.nan}}, "simulate.pixel_size_angst"),
        ({"simulate": {"defocus_angst": 1e300}}, "simulate.defocus_angst"),
        ({"simulate": {"defocus_angst": int("9" * 400)}}, "simulate.defocus_angst"),
        ({"exclude_views": {"tilt_ids": [1, -2]}}, "exclude_views.tilt_ids"),
        ({"exclude_views": {"tilt_ids": [1.5]}}, "exclude_views.tilt_ids"),
        ({"exclude_views": {"tilt_ids": [True]}}, "exclude_views.tilt_ids"),
        ({"exclude_views": {"tilt_angles_deg": [math.inf]}}, "exclude_views.tilt_angles_deg"),
        ({"exclude_views": {"first_negative": -1}}, "exclude_views.first_negative"),
        ({"averaging": [{"name": "bin6\n"}]}, "averaging.0.name"),
        ({"averaging": [{"name": "{round}"}]}, "averaging.0.name"),
        ({"data": {"reference": "maps/{ts}.mrc"}}, "data.reference"),
        ({"data": {"stacks": "*.mrc", "tilts": "{dir}/{name}.tlt"}}, "data.tilts"),
        ({"data": {"stacks": "*.mrc", "tilts": "{ts.__class__}"}}, "data.tilts"),
        ({"match_template": {"picks": "picks/{}.star"}}, "match_template.picks"),
    ],
)
def test_numbers_and_texts(values, field):
    text = refused({"data": {"simulate": True}} | values, field)
    assert len(text) < 1500


def test_places_in_braces_that_a_key_knows(tmp_path):
    config = load_config({"data": {"mdoc_series": "TS_[0-9]{3}"}, "exclude_views": {"file": "lists/{ts}.yaml"}})
    assert config.data.mdoc_series == "TS_[0-9]{3}" and config.exclude_views.file == "lists/{ts}.yaml"


@pytest.mark.parametrize("key", ["reference", "gain_reference", "defects"])
def test_a_file_of_the_data_that_is_missing_or_a_folder(data, tmp_path, key):
    refused({"data": data | {key: str(tmp_path / "no.mrc")}}, "E-CFG-16", f"data.{key}", "no.mrc", "missing")
    refused({"data": data | {key: str(tmp_path)}}, "E-CFG-16", f"data.{key}", "folder")


def test_a_list_a_mask_and_an_mtf_that_are_missing(data):
    refused({"data": data, "exclude_views": {"file": "no.yaml"}}, "E-CFG-16", "exclude_views.file", "no.yaml")
    rounds = [
        {
            "name": "a",
            "extract_subtomos": {"binning": 2, "box_px": 32},
            "refine": {"mask_diameter_angst": 300},
            "reference": "template",
        }
    ]
    for key in ("mask", "mtf"):
        rounds[0]["postprocess"] = {key: "no.file"} | ({"mtf_pixel_size_angst": 1.0} if key == "mtf" else {})
        refused({"data": data, "averaging": rounds}, "E-CFG-16", f"averaging.0.postprocess.{key}", "no.file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_reference_that_may_not_be_read(data, tmp_path):
    (tmp_path / "raw/map.mrc").chmod(0)
    with pytest.raises(UserInputError, match="E-FILE-03.*data.reference"):
        Run(load_config({"data": data}))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("TS_3: {tilt_ids: [1]}\n", "TS_3"),
        ("TS_1: {tilt_ids: [1]}\nts_2: {tilt_ids: [1]}\n", "ts_2"),
        ("1: {tilt_ids: [1]}\n", "E-CFG-18"),
    ],
)
def test_a_list_of_views_of_an_unknown_series(data, text, word):
    with open("bad.yaml", "w") as file:
        file.write(text)
    refused({"data": data, "exclude_views": {"file": "bad.yaml"}}, "E-CFG-18", "exclude_views.file", "TS_1", word)


def test_a_list_may_name_series_that_are_not_processed_today(data):
    with open("bad.yaml", "w") as file:
        file.write("TS_1: {tilt_ids: [1]}\nTS_2: {tilt_ids: [1]}\n")
    assert Run(
        load_config({"data": data | {"tilt_series": ["TS_1"]}, "exclude_views": {"file": "bad.yaml"}})
    ).tilt_series == ["TS_1"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("{tilt_ids: 3}", "whole numbers"),
        ("{tilt_ids: [1.5]}", "whole numbers"),
        ("{tilt_ids: [-1]}", "whole numbers"),
        ("{tilt_ids: [true]}", "whole numbers"),
        ("{tilt_ids: }", "whole numbers"),
        ("{tilt_ids: [1" + "0" * 400 + "]}", "whole numbers"),
        ("{tilt_angles_deg: [.inf]}", "-90 to 90"),
        ("{tilt_angles_deg: [.nan]}", "-90 to 90"),
        ("{tilt_angles_deg: [sixty]}", "-90 to 90"),
        ("{first_negative: 1.5}", "whole number"),
        ("{last_positive: -2}", "whole number"),
        ("{last_positive: many}", "whole number"),
        ("{tilts: [1]}", "tilt_ids"),
        ("[{tilt_id: -1}]", "tilt_id"),
        ("[{tilt_id: 1, reason: [a]}]", "tilt_id"),
        ("[3]", "tilt_id"),
        ("5", "tilt_id"),
        ("{tilt_ids: [1], tilt_ids: [2]}", "YAML"),
        ("&a [*a, *a]", "E-TS-05"),
        ("[" * 3000, "E-TS-05"),
    ],
)
def test_every_field_of_a_list_of_views(data, part, expected):
    with open("bad.yaml", "w") as file:
        file.write(f"TS_1: {part}\n")
    with pytest.raises(UserInputError) as caught:
        Run(load_config({"data": data, "exclude_views": {"file": "bad.yaml"}}))
    assert (
        caught.value.code == "E-TS-05"
        and expected in str(caught.value)
        and "bad.yaml" in str(caught.value)
        and len(str(caught.value)) < 1500
    )


def test_a_key_given_twice(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("match_template:\n  n_sigma: 5\n  max_particles: 3\n  n_sigma: 6\n")
    with pytest.raises(UserInputError, match="E-CFG-15.*mine.yaml.*'n_sigma' is given twice, in lines 2 and 4"):
        check_file(path)
    path.write_text("a: &x {b: 1}\nc:\n  <<: *x\n  b: 2\n")
    check_file(path)  # merging and overriding is what << is for
