"""A run on paper: order, limits, what is left."""

import json
import random

import pytest

from cryoet_core.resources import usage
from cryoet_core.resources.timeline import Job, Limits, RunPlan, duration, progress, schedule


def job(name, seconds, threads=1, mem=100, gpu=0, needs=()):
    return Job(name, threads, mem, gpu, float(seconds), tuple(needs))


@pytest.mark.parametrize(
    ("jobs", "limits", "seconds", "cores"),
    [
        ([job("a", 10), job("b", 5)], Limits(2), 10, 2),
        ([job("a", 10), job("b", 5)], Limits(1), 15, 1),
        ([job("a", 10), job("b", 5, needs=[0])], Limits(4), 15, 1),
        ([job("a", 10, threads=4), job("b", 5, threads=4)], Limits(4), 15, 4),
        ([job("a", 10, mem=600), job("b", 10, mem=600)], Limits(8, 1000), 20, 1),
        ([job("a", 10, gpu=1), job("b", 10, gpu=1), job("c", 10, gpu=1)], Limits(8, None, 2), 20, 2),
        ([job("a", 10, threads=64, mem=10**6)], Limits(8, 1000), 10, 8),  # Snakemake gives it what there is
        ([job("a", 10), job("b", 10), job("c", 1, threads=2)], Limits(2), 11, 2),
        ([job("a", 3), job("b", 4)], Limits(), 4, 2),
        ([], Limits(2), 0, 0),
    ],
)
def test_time_and_cores_of_small_runs(jobs, limits, seconds, cores):
    result = schedule(jobs, limits)
    assert (result.seconds, result.most["cores"]) == (seconds, cores)


def test_no_limit_is_passed_and_no_core_is_left_idle_for_long():
    rng = random.Random(1)
    for _ in range(20):
        jobs = [
            job(f"r {i}", rng.uniform(1, 20), rng.choice([1, 1, 2, 8]), rng.choice([500, 2000, 4000]), needs=rng.sample(range(i), min(i, rng.choice([0, 1, 2]))))
            for i in range(60)
        ]
        limits = Limits(8, 12_000)
        result = schedule(jobs, limits)
        assert result.most["cores"] <= 8 and result.most["mem_mb"] <= 12_000
        work = sum(j.seconds * j.threads for j in jobs) / 8
        longest = [0.0] * len(jobs)
        for i, j in enumerate(jobs):
            longest[i] = j.seconds + max((longest[n] for n in j.needs), default=0.0)
        assert max(work, max(longest)) <= result.seconds <= sum(j.seconds for j in jobs) + 1e-9


def test_what_runs_and_what_has_ended_is_not_done_again():
    jobs = [job("a", 10), job("b", 10), job("c", 10, needs=[0, 1])]
    assert schedule(jobs, Limits(2), {1: 4.0}, {0}).seconds == pytest.approx(16)
    assert schedule(jobs, Limits(2), {1: 100.0}, {0}).seconds == pytest.approx(11)  # late: it takes a little longer still
    assert schedule(jobs, Limits(2), {}, {0, 1, 2}).seconds == 0


def event(kind, name, time, wall=0.0):
    return usage.Event(kind, name, float(time), 1, wall, wall, 0.0, 100.0, 200.0)


def plan(*jobs, cores=1):
    return RunPlan(1000.0, Limits(cores), list(jobs))


def test_measured_times_correct_those_of_the_same_rule_and_of_new_ones():
    run = plan(job("a 1", 10), job("a 2", 10), job("b 1", 10))
    assert progress(run, [], 1000.0).seconds_left == 30
    done = [event(usage.STARTED, "a 1", 1000), event(usage.DONE, "a 1", 1020, 20.0)]
    assert progress(run, done, 1020.0).seconds_left == 40  # twice as long as planned
    done += [event(usage.STARTED, "b 1", 1020), event(usage.DONE, "b 1", 1025, 5.0)]
    found = progress(run, done, 1025.0)
    assert (found.done, found.total, found.seconds_left) == (2, 3, 20)
    assert str(found) == "2 of 3 jobs done, about 20 s left"


def test_a_running_job_counts_from_its_start():
    run = plan(job("a 1", 100), job("b 1", 50))
    assert progress(run, [event(usage.STARTED, "a 1", 1000)], 1060.0).seconds_left == pytest.approx(90)


def test_what_needs_a_failed_job_is_not_waited_for():
    run = plan(job("a 1", 10), job("b 1", 500, needs=[0]), job("c 1", 500, needs=[1]), job("a 2", 10))
    found = progress(run, [event(usage.FAILED, "a 1", 1001, 1.0)], 1001.0)
    assert found.seconds_left == 10 and found.done == 0


def test_the_last_job_says_that_all_is_done():
    assert str(progress(plan(job("a 1", 10)), [event(usage.DONE, "a 1", 1010, 10)], 1010.0)) == "1 of 1 jobs done"


def test_a_plan_is_written_and_read(tmp_path):
    run = RunPlan(12.5, Limits(2, None, 1), [job("a 1", 3), job("b", 4, 2, 300, 1, needs=[0])])
    run.write(tmp_path / "logs")
    assert RunPlan.read(tmp_path / "logs") == run
    assert [f.name for f in (tmp_path / "logs").iterdir()] == ["plan.json"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"time": 1, "limits": {}, "jobs": [{"name": "a"}]}', json.dumps({"time": "x", "limits": {}, "jobs": []})])
def test_a_strange_plan_is_none(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    assert RunPlan.read(tmp_path) is None
    assert RunPlan.read(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (7.4, "7 s"), (42, "40 s"), (89, "90 s"), (95, "2 min"), (1234, "21 min"), (5500, "1 h 30 min"), (7200, "2 h"), (36_100, "10 h")],
)
def test_durations_are_as_exact_as_an_estimate(seconds, text):
    assert duration(seconds) == text


def test_a_large_run_is_estimated_quickly():
    import time

    jobs = [job(f"r{k} {i}", 10, 1 + k % 2, needs=[] if k == 0 else [i * 15 + k - 1]) for i in range(500) for k in range(15)]
    start = time.process_time()
    assert schedule(jobs, Limits(64, 128_000)).most["cores"] == 64
    assert time.process_time() - start < 2.0
