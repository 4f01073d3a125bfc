"""Threads, memory and GPUs of real dry runs at the tutorial's size: what Snakemake would start fills the machine and never more."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cryoet_core.config import load_config
from cryoet_core.io.mrc import write_mrc
from cryoet_core.resources.costs import COSTS
from cryoet_core.resources.timeline import Job, Limits, schedule
from cryoet_core.workflow import Run

ROOT = Path(__file__).resolve().parents[2]
LONG = {"match_template", "initial_model", "refine", "reconstruct_particle", "extract_subtomos"}


def write_tutorial(folder, n_series):
    """The tutorial's config as it is, beside mdocs of 41 views of 4096 x 4096; there are no movies."""
    data = folder / "data/chlamy"
    data.mkdir(parents=True)
    header = "PixelSpacing = 1.91\nVoltage = 300\nImageSize = 4096 4096\n[T = Tilt axis angle = -95.0, binning = 1]\n"
    views = "".join(
        f"[ZValue = {z}]\nTiltAngle = {3 * z - 60}\nExposureDose = 3.4\nSubFramePath = X:\\f\\m{z}.mrc\nNumSubFrames = 8\n" for z in range(41)
    )
    for i in range(n_series):
        (data / f"TS_{i + 1:02d}.mdoc").write_text(header + views)
    write_mrc(data / "ribosome.mrc", np.ones((8, 8, 8), np.float32), 2.0)
    (data / "gain.mrc").write_bytes(b"")
    return folder


def planned(folder, *arguments, config="config/chlamy.yaml", profile="default"):
    """[(rule, wildcards, {threads, mem_mb, gpu, ...})] of a dry run, and all that it said."""
    command = [
        sys.executable, "-m", "snakemake", "-n", "-s", ROOT / "Snakefile", "--workflow-profile", ROOT / "profiles" / profile, "--directory", folder,
        "--configfile", ROOT / config, *arguments,
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "500"})
    assert found.returncode == 0, (found.stdout + found.stderr)[-3000:]
    said, jobs = found.stdout + found.stderr, []
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?: +.*\n)+)", said, re.M):
        threads = re.search(r"threads: (\d+)", body)
        resources = dict(re.findall(r"(\w+)=([^,\s]+)", re.search(r"resources: (.*)", body)[1]))
        wildcards = re.search(r"wildcards: (.*)", body)
        jobs.append((rule, wildcards[1] if wildcards else "", {"threads": int(threads[1]) if threads else 1, **resources}))
    return [job for job in jobs if job[0] != "all"], said


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return write_tutorial(tmp_path_factory.mktemp("eight"), 8)


def on_paper(jobs, limits):
    """All jobs of a dry run on a machine, as if all that one rule does could run at once but rules came one after another."""
    order, listed, before = [], [], ()
    for rule in dict.fromkeys(rule for rule, _, _ in jobs):
        mine = [len(listed) + k for k, job in enumerate([job for job in jobs if job[0] == rule])]
        for _, wildcards, r in [job for job in jobs if job[0] == rule]:
            listed.append(Job(f"{rule} {wildcards}", r["threads"], int(r["mem_mb"]), int(r["gpu"]), 10.0, before))
        order.append((rule, mine))
        before = tuple(mine)
    most = {rule: schedule([listed[i].__class__(**{**vars(listed[i]), "needs": ()}) for i in mine], limits).most for rule, mine in order}
    return schedule(listed, limits).most, most


def test_32_cores_and_128_gb_are_filled_and_never_passed(eight):
    jobs, said = planned(eight, "--cores", "32", "--resources", "mem_mb=128000")
    assert len(jobs) == 8 * 11 + 1 + 2 + 2 * 5 + 1 + 1 and {rule for rule, _, _ in jobs} <= set(COSTS)
    assert all(1 <= r["threads"] <= 32 and 100 <= int(r["mem_mb"]) <= 128_000 for _, _, r in jobs)
    together, each = on_paper(jobs, Limits(32, 128_000, 0))
    assert together["cores"] <= 32 and together["mem_mb"] <= 128_000
    assert all(each[rule]["cores"] == 32 for rule in ("initial_model", "refine", "reconstruct_particle"))  # alone: all cores
    assert all(24 <= each[rule]["cores"] <= 32 for rule in ("correct_motion", "reconstruct_tomogram", "match_template"))  # eight share them
    assert "warning: " not in said


def test_little_memory_is_never_passed(eight):
    jobs, _ = planned(eight, "--cores", "64", "--resources", "mem_mb=16000")
    together, _ = on_paper(jobs, Limits(64, 16_000, 0))
    assert together["cores"] <= 64 and together["mem_mb"] <= 16_000


def test_the_machine_s_own_memory_is_the_limit_when_none_is_given(eight):
    from cryoet_core.resources import machine

    jobs, _ = planned(eight, "--cores", "2")
    assert max(int(r["mem_mb"]) for _, _, r in jobs) <= machine.memory_for_jobs_mb()


def test_a_job_that_is_larger_than_the_machine_is_told_beforehand(eight):
    jobs, said = planned(eight, "--cores", "4", "--resources", "mem_mb=700")
    assert max(int(r["mem_mb"]) for _, _, r in jobs) == 700  # it runs alone
    assert "warning: match_template is expected to need" in said and "Traceback" not in said
    assert len(re.findall("warning: match_template", said)) == 1


def test_a_single_series_gives_long_jobs_all_cores(tmp_path):
    jobs, _ = planned(write_tutorial(tmp_path, 1), "--cores", "16", "--resources", "mem_mb=128000")
    assert {rule: r["threads"] for rule, _, r in jobs if rule in LONG} == dict.fromkeys(LONG, 16)


def test_the_cluster_s_profile_names_the_steps_that_use_a_gpu():
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    run = Run(load_config({"device": "cuda", "data": {"simulate": True}}))
    assert set(profile["set-resources"]) == {step for step in COSTS if run.step_gpu(step)}


def test_every_job_has_a_gpu_and_users_numbers_win(eight, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"device": "cuda"}))
    jobs, _ = planned(
        eight, "--cores", "32", "--resources", "mem_mb=128000", "gpu=4", "--set-threads", "refine=3", "--set-resources", "refine:mem_mb=5555",
        "--configfile", ROOT / "config/chlamy.yaml", tmp_path / "mine.yaml",
    )  # fmt: skip
    on_gpu = {rule for rule, _, r in jobs if r["gpu"] == "1"}
    assert "match_template" in on_gpu and "report" not in on_gpu
    together, _ = on_paper(jobs, Limits(32, 128_000, 4))
    assert together["gpu"] == 4 and together["cores"] <= 32
    assert {(r["threads"], r["mem_mb"]) for rule, _, r in jobs if rule == "refine"} == {(3, "5555")}
