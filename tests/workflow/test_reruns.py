"""Which jobs an edit of the config reruns: the real rules and config, with scripts that only write their outputs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STUB = """from pathlib import Path
for output in map(Path, snakemake.output):
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix:
        output.write_text(snakemake.rule)
    else:
        output.mkdir()
"""
SIMULATE = ["simulate", "simulate_reference", "import_reference"]
PER_SERIES = ["import_tilt_series", "correct_motion", "estimate_ctf", "decide_handedness", "exclude_views", "erase_xrays", "align_tilt_series", "relion_stack"]
# the template is resized to the pixel size that preprocess_tilt_series made
TOMOGRAM = ["correct_ctf", "preprocess_tilt_series", "resize_reference", "reconstruct_tomogram"]
PICKING = ["match_template"]
ROUND = ["extract_subtomos", "refine", "reconstruct_particle", "postprocess", "relion_project"]
END = ["report", "all"]


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    prepare(folder)
    outcome = snakemake(folder, "--quiet", "all")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return folder


def prepare(folder):
    """The workflow in ``folder`` with scripts that only write their outputs."""
    for name in ("Snakefile", "workflow", "config", "profiles"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for script in (folder / "workflow/scripts").glob("*.py"):
        script.write_text(STUB)


@pytest.fixture(scope="module")
def tidy(tmp_path_factory):
    """A finished run of one series and one round with keep: results."""
    folder = tmp_path_factory.mktemp("tidy")
    prepare(folder)
    outcome = snakemake(folder, "--configfile", *tidy_config(folder), "--quiet", "all")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert "keep: results" in outcome.stderr and "starts from the movies" in outcome.stderr
    return folder


def tidy_config(folder, **edit):
    """Names of the config's files."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    values = {"keep": "results", "simulate": {"n_series": 1}, "averaging": config["averaging"][:1]} | edit
    (folder / "tidy.yaml").write_text(yaml.safe_dump(values))
    return "config/config.yaml", "tidy.yaml"


def planned(folder, edit=None, *more):
    """rule -> number of jobs of a dry run with ``edit`` merged over the demo's config and ``more`` arguments."""
    arguments = ["-n", *more]
    if edit is not None:
        (folder / "edit.yaml").write_text(yaml.safe_dump(edit))
        arguments += ["--configfile", "config/config.yaml", "edit.yaml"]
    return jobs_of(folder, arguments)


def jobs_of(folder, arguments):
    """rule -> number of jobs that a dry run with ``arguments`` lists."""
    outcome = snakemake(folder, *arguments)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    table = re.search(r"Job stats:\n.*?\n-.*?\n(.*?)\ntotal", outcome.stdout + outcome.stderr, re.S)
    if table is None:
        assert "Nothing to be done" in outcome.stdout + outcome.stderr
        return {}
    return {row.split()[0]: int(row.split()[1]) for row in table[1].splitlines()}


def test_a_second_run_does_nothing(run):
    assert planned(run) == {}


def test_a_fresh_clone_of_scripts_reruns_nothing(run):
    for script in (run / "workflow/scripts").glob("*.py"):
        script.touch()
    assert planned(run) == {}


@pytest.mark.parametrize(
    "edit, rules",
    [
        ({"simulate": {"n_particles": 90}}, [*SIMULATE, *PER_SERIES, *TOMOGRAM, *PICKING, *ROUND, "initial_model", *END]),
        ({"estimate_ctf": {"window_px": 256}}, PER_SERIES[2:] + TOMOGRAM + PICKING + ROUND + ["initial_model"] + END),
        ({"decide_handedness": {"handedness": "-1"}}, PER_SERIES[3:] + TOMOGRAM + PICKING + ROUND + ["initial_model"] + END),
        ({"correct_ctf": {"mode": "multiply"}}, TOMOGRAM + PICKING + ROUND + ["initial_model"] + END),
        ({"correct_ctf": {"full_size": True}}, TOMOGRAM + PICKING + ROUND + ["initial_model"] + END),
        ({"preprocess_tilt_series": {"binning": 3}}, TOMOGRAM + PICKING + ROUND + ["initial_model"] + END),
        ({"preprocess_tilt_series": {"grey_values": "mean0"}}, TOMOGRAM[1:] + PICKING + ROUND + ["initial_model"] + END),
        ({"reconstruct_tomogram": {"sirt_iterations": 5}}, TOMOGRAM[3:] + PICKING + ROUND + ["initial_model"] + END),
        ({"match_template": {"n_sigma": 5.0}}, PICKING + ROUND + ["initial_model"] + END),
        ({"resize_reference": {"mask_edge_px": 4.0}}, ["resize_reference"] + PICKING + ROUND + ["initial_model"] + END),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_an_edit_reruns_its_step_and_what_follows(run, edit, rules):
    assert set(planned(run, edit)) == set(rules)


def test_a_report_that_is_not_made_again_says_so(tmp_path):
    """A step before it fails: the old page stays, and says which steps are newer or missing."""
    prepare(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/report.html").write_text("<body>old")
    (tmp_path / "workflow/scripts/estimate_ctf.py").write_text("raise SystemExit(2)")
    assert snakemake(tmp_path, "--quiet", "all").returncode != 0
    text = (tmp_path / "results/report.html").read_text()
    assert "This page is out of date (newer than this page: " in text
    newer, missing = text.split("missing or being made again:")
    assert "import_tilt_series TS_01" in newer and "estimate_ctf TS_01" in missing and "postprocess bin4" in missing
    assert text.endswith("old")


def test_an_edit_of_the_last_round_leaves_the_first_alone(run):
    config = yaml.safe_load((run / "config/config.yaml").read_text())
    config["averaging"][-1].setdefault("refine", {})["symmetry"] = "C2"
    jobs = planned(run, {"averaging": config["averaging"]})
    assert jobs == dict.fromkeys(["refine", "reconstruct_particle", "postprocess", "relion_project", *END], 1)


def test_a_new_round_only_adds_its_own_jobs(run):
    config = yaml.safe_load((run / "config/config.yaml").read_text())
    extra = {**config["averaging"][-1], "name": "extra"}
    jobs = planned(run, {"averaging": [*config["averaging"], extra]})
    assert set(jobs) == {*ROUND, *END}


def test_threads_device_and_memory_are_not_results(run):
    assert planned(run, {"device": "cpu"}) == {}
    assert planned(run, None, "--cores", "64", "--resources", "mem_mb=300000", "gpu=8", "--set-threads", "refine=5") == {}


def test_an_unknown_key_stops_the_run_with_one_sentence(run):
    (run / "edit.yaml").write_text("match_template: {n_sigmas: 5}\n")
    outcome = snakemake(run, "-n", "--configfile", "config/config.yaml", "edit.yaml")
    assert outcome.returncode != 0
    text = outcome.stdout + outcome.stderr
    assert "did you mean 'n_sigma'?" in text and "Traceback" not in text


def test_keep_results_removes_stacks_and_the_run_stays_finished(tidy):
    results = tidy / "results"
    gone = [f"{step}/TS_01/TS_01{half}.mrc" for step in ("correct_motion", "correct_ctf", "preprocess_tilt_series") for half in ("", "_even", "_odd")]
    kept = ["correct_motion/TS_01/TS_01.star", "erase_xrays/TS_01/TS_01_repairs.star", "reconstruct_tomogram/TS_01/TS_01.mrc", "relion/stacks/TS_01.mrcs"]
    assert not [name for name in [*gone, "extract_subtomos/bin6/images"] if (results / name).exists()]
    assert not [name for name in kept if not (results / name).exists()]
    assert jobs_of(tidy, ["-n", "--configfile", *tidy_config(tidy)]) == {}
    assert jobs_of(tidy, ["-n", "--configfile", *tidy_config(tidy, keep="all")]) == {}


def test_what_an_edit_redoes_after_keep_results(tidy):
    rounds = yaml.safe_load((ROOT / "config/config.yaml").read_text())["averaging"][:1]
    sharper = [rounds[0] | {"postprocess": {"mask_edge_angst": 20.0}}]
    assert set(jobs_of(tidy, ["-n", "--configfile", *tidy_config(tidy, averaging=sharper)])) == {"postprocess", "relion_project", *END}
    picks = {"match_template": {"n_sigma": 5.0}}
    redone = set(jobs_of(tidy, ["-n", "--configfile", *tidy_config(tidy, **picks)]))
    assert {"correct_motion", "extract_subtomos", "match_template"} <= redone and not {"simulate", "import_tilt_series"} & redone
    further = [rounds[0], rounds[0] | {"name": "extra", "reference": "previous"}]
    assert "correct_motion" in jobs_of(tidy, ["-n", "--configfile", *tidy_config(tidy, averaging=further)])


@pytest.mark.parametrize(
    "edit, kept, asked",
    [
        ({"erase_xrays": {"stack": True}}, "erase_xrays/TS_01/TS_01.mrc", "erase_xrays/TS_01/TS_01_even.mrc"),
        ({"relion_project": {"stacks": "linked"}}, "correct_motion/TS_01/TS_01.mrc", "correct_motion/TS_01/TS_01_even.mrc"),
        ({}, "relion/stacks/TS_01.mrcs", "correct_motion/TS_01/TS_01.mrc"),
    ],
)
def test_the_stack_that_relion_reads_stays(tidy, edit, kept, asked):
    """One stack of full views stays: RELION's own, or the one its tables link to."""
    text = snakemake(tidy, "-n", "--forceall", "--configfile", *tidy_config(tidy, **edit))
    temporary = [line.split("Would remove temporary output ")[1] for line in (text.stdout + text.stderr).splitlines() if "Would remove temporary" in line]
    assert f"results/{asked}" in temporary and f"results/{kept}" not in temporary
    assert ("relion_stack" in text.stdout + text.stderr) == (not edit)
