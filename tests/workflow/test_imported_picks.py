"""With match_template.picks no template is made, and the files of picks and exports are known to Snakemake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cryoet_core.config import load_config
from cryoet_core.errors import UserInputError
from cryoet_core.workflow import Run

ROOT = Path(__file__).resolve().parents[2]


def config(**changes):
    return {"data": {"simulate": True}, "simulate": {"n_series": 2}, "match_template": {"picks": "picks/{ts}.tbl"},
            "averaging": [{"name": "a", "reference": "initial_model"}]} | changes


def test_the_plan_of_a_run_with_imported_picks(tmp_path):
    (tmp_path / "picks").mkdir()
    for ts in "TS_01", "TS_02":
        (tmp_path / f"picks/{ts}.tbl").write_text("1\n")
    values = config()
    values["match_template"]["export_picks"] = ["imod", "copick"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "-n", "--cores", "2", "--directory", tmp_path, "--configfile", tmp_path / "mine.yaml"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"})
    text = outcome.stdout + outcome.stderr
    assert outcome.returncode == 0, text
    assert "rule match_template" in text and "picks/TS_02.tbl" in text and "match_template/TS_02/TS_02_imod.mod" in text
    assert "rule resize_reference" not in text and "_scores.mrc" not in text


def test_series_without_picks_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picks").mkdir()
    (tmp_path / "picks/TS_01.tbl").write_text("1\n")
    with pytest.raises(UserInputError, match="E-CFG-10.*nothing for TS_02.*picks/TS_02.tbl"):
        Run(load_config(config()))
    assert Run(load_config(config(match_template={"picks": "picks/TS_01.tbl"}))).picks("TS_02") == "picks/TS_01.tbl"


def test_a_reference_is_needed_only_where_it_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TS_01.st").write_bytes(b"")
    (tmp_path / "TS_01.tlt").write_text("0\n")
    (tmp_path / "TS_01.tbl").write_text("1\n")
    values = {"data": {"stacks": "*.st"}, "match_template": {"picks": "{ts}.tbl"}, "averaging": [{"name": "a", "reference": "initial_model"}]}
    assert Run(load_config(values)).reference() is None
    with pytest.raises(UserInputError, match="E-CFG-05"):
        Run(load_config(values | {"match_template": {}}))
    with pytest.raises(UserInputError, match="E-CFG-05"):
        Run(load_config(values | {"averaging": [{"name": "a", "reference": "template"}]}))


def test_wrong_axes_and_formats_are_refused_with_the_config():
    with pytest.raises(UserInputError, match="picks_axes.*order of axes"):
        load_config({"match_template": {"picks_axes": "xyy"}})
    with pytest.raises(UserInputError, match="export_picks"):
        load_config({"match_template": {"export_picks": ["peet"]}})
