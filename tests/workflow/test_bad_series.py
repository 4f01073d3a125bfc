"""One of three tilt series is of no use: the real rules, config and job frame, with scripts that only write their outputs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cryoet_core.left_out import read_note

ROOT = Path(__file__).resolve().parents[2]
BAD = {"TS_02": "estimate_ctf"}
STUB = """
import json
from pathlib import Path
from cryoet_core.errors import DataQualityError
from cryoet_core.left_out import read_note, write_notes
from cryoet_core.step import step
BAD = json.loads(Path("bad.json").read_text())
with step(snakemake) as s:
    if BAD.get(s.of_series) == s.name:
        raise DataQualityError("E-X-01", f"nothing in {s.of_series}", fix="mend it")
    tables = snakemake.input.get("summaries") or snakemake.input.get("tilt_series")
    used = s.usable(tables) if s.of_series is None and not isinstance(tables, (str, type(None))) else []
    for output in map(Path, snakemake.output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if s.name == "decide_handedness" and (note := read_note(str(output).replace("decide_handedness", "import_tilt_series"))):
            write_notes([output], note)
        elif output.suffix:
            output.write_text(json.dumps({'used': used}) if output.suffix == ".json" else s.name)
        else:
            output.mkdir(exist_ok=True)
"""
HAND = """
    for plus, path in zip(snakemake.input.plus, snakemake.output.tables):
        if note := read_note(plus):
            write_notes([path], note)
"""


def snakemake(folder):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "mine.yaml", "--quiet", "rules"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for name in ("Snakefile", "workflow", "config", "profiles"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for script in (folder / "workflow/scripts").glob("*.py"):
        script.write_text(STUB + (HAND if script.stem == "decide_handedness" else ""))
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config |= {"data": {"simulate": True}, "simulate": {"n_series": 3}, "averaging": config["averaging"][:1]}
    config |= {"erase_xrays": {"find_peaks": False}}  # no stacks of their own for RELION
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    (folder / "bad.json").write_text(json.dumps(BAD))
    return folder


def test_a_bad_series_costs_itself(folder):
    run = snakemake(folder)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "averaged 2 of 3 tilt series; left out: TS_02 (nothing in TS_02)" in run.stderr
    results = folder / "results"
    for ts, step in BAD.items():
        assert read_note(results / f"match_template/{ts}/particles.star").step == step
        assert read_note(results / f"correct_motion/{ts}/summary.json") is None  # what was done before stays
    assert read_note(results / "match_template/TS_01/particles.star") is None
    averaged = json.loads((results / "extract_subtomos/bin6/summary.json").read_text())["used"]
    assert [Path(path).parent.name for path in averaged] == ["TS_01", "TS_03"]
