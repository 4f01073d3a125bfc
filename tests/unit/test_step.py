"""A job as its script sees it: threads, device, log, what it notes, how it ends."""

import json
from types import SimpleNamespace

import pytest
import scipy.fft

from cryoet_core import backend, parallel
from cryoet_core import step as step_module
from cryoet_core.errors import UserInputError
from cryoet_core.resources import usage
from cryoet_core.resources.timeline import Job, Limits, RunPlan
from cryoet_core.step import step


class Wildcards(list):
    ts = property(lambda self: self[0])


class Output(list):
    summary = property(lambda self: self[0])


def snakemake(tmp_path, threads=3, gpu=0, device="cpu", rule="refine"):
    return SimpleNamespace(
        rule=rule, wildcards=Wildcards(["bin4"]), input=None, output=None, params={"config": {}, "seed": 7}, threads=threads,
        resources={"gpu": gpu, "mem_mb": 1500}, log=[str(tmp_path / "logs/refine/bin4.log")], config={"device": device},
    )


@pytest.fixture(autouse=True)
def stays_alive(monkeypatch):
    monkeypatch.setattr(step_module, "_die_with_parent", lambda: None)  # of the test runner


def text_of(tmp_path):
    return (tmp_path / "logs/refine/bin4.log").read_text()


def test_a_job_uses_its_threads_and_no_more(tmp_path):
    before = parallel.n_threads()
    with step(snakemake(tmp_path)) as s:
        assert (s.threads, parallel.n_threads(), scipy.fft.get_workers()) == (3, 3, 3)
    assert (parallel.n_threads(), scipy.fft.get_workers()) == (before, 1)


def test_start_and_end_are_told_and_noted(tmp_path):
    RunPlan(0.0, Limits(4), [Job("refine bin4", 3, 1500, 0, 10.0), Job("report", 1, 300, 0, 30.0, (0,))]).write(tmp_path / "logs")
    with step(snakemake(tmp_path)) as s:
        s.log.info("working")
    lines = text_of(tmp_path).splitlines()
    assert lines[0].startswith("[refine bin4] 3 threads, 1500 MB planned; 0 of 2 jobs done, about ")
    assert lines[1] == "[refine bin4] working"
    assert lines[2].startswith("[refine bin4] done in ") and "peak memory" in lines[2] and "; 1 of 2 jobs done, about " in lines[2]
    started, done = usage.read(tmp_path / "logs")
    assert (started.event, done.event, done.job, done.threads, done.planned_mb) == ("started", "done", "refine bin4", 3, 1500)
    assert done.peak_mb > 20 and done.cpu_s >= done.main_s > 0 and done.wall_s > 0


def test_without_a_plan_of_this_run_nothing_is_said_about_it(tmp_path):
    RunPlan(0.0, Limits(4), [Job("other", 1, 100, 0, 10.0)]).write(tmp_path / "logs")
    with step(snakemake(tmp_path)):
        pass
    assert "jobs done" not in text_of(tmp_path)


def test_a_job_without_a_log_file_notes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = snakemake(tmp_path)
    job.log = []
    with step(job):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserInputError("E-X-01", "no such thing", fix="look again"), 2, "E-X-01"),
        (MemoryError("12 GB"), 3, "E-MEM-01"),
        (RuntimeError("oops"), 1, "E-BUG"),
    ],
)
def test_a_failed_job_says_why_and_is_noted_as_failed(tmp_path, error, code, words):
    with pytest.raises(SystemExit) as stopped, step(snakemake(tmp_path)):
        raise error
    assert stopped.value.code == code and words in text_of(tmp_path)
    assert [e.event for e in usage.read(tmp_path / "logs")] == ["started", "failed"]


def test_progress_and_reports_reach_the_log(tmp_path):
    with step(snakemake(tmp_path)) as s:
        assert list(s.progress([1, 2], what="views")) == [1, 2]
        for done in (1, 2, 3):
            s.report(done, 3, "planes")
    assert "2 of 2 views, 0 s" in text_of(tmp_path) and "3 of 3 planes, 0 s" in text_of(tmp_path)


def test_random_numbers_depend_on_seed_step_and_names_only(tmp_path):
    draws = []
    for threads in (1, 4):
        with step(snakemake(tmp_path, threads)) as s:
            draws.append([s.rng("a").integers(10**9), s.rng("b").integers(10**9)])
    assert draws[0] == draws[1] and draws[0][0] != draws[0][1]


# ---- GPUs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Two GPUs that are not there; the list of what was made the current device."""
    used = []
    monkeypatch.setattr(backend, "n_gpus", lambda: 2)
    monkeypatch.setattr(backend, "gpu_available", lambda: True)
    monkeypatch.setattr(backend, "use_device", lambda device: used.append(device) or device)
    monkeypatch.setattr(step_module.tempfile, "gettempdir", lambda: str(tmp_path))
    return used


def test_jobs_at_the_same_time_take_different_gpus(tmp_path, gpus):
    with step(snakemake(tmp_path, gpu=1, device="auto")) as first:
        with step(snakemake(tmp_path, gpu=1, device="cuda")) as second:
            assert (first.device, second.device) == ("cuda:0", "cuda:1")
        with step(snakemake(tmp_path, gpu=1, device="auto")) as third:
            assert third.device == "cuda:1"
    assert gpus == ["cuda:0", "cuda:1", "cuda:1"]
    with step(snakemake(tmp_path, gpu=1, device="auto")) as again:
        assert again.device == "cuda:0"


def test_a_named_gpu_is_taken_and_a_job_without_one_stays_on_the_cpu(tmp_path, gpus):
    with step(snakemake(tmp_path, gpu=1, device="cuda:1")) as s:
        assert s.device == "cuda:1"
    with step(snakemake(tmp_path, gpu=0, device="auto")) as s:
        assert s.device == "cpu"


def test_summaries_are_written_whole(tmp_path):
    job = snakemake(tmp_path)
    job.output = Output([str(tmp_path / "summary.json")])
    with step(job) as s:
        s.write_summary({"n": 3})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"n": 3}
