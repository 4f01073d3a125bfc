"""How many threads and how much memory a job asks for."""

import itertools
import math
from types import SimpleNamespace

import pytest

from cryoet_core.config import load_config
from cryoet_core.resources.costs import COSTS, SAFETY, Cost
from cryoet_core.resources.plan import ResourcePlan, best_threads, efficient_threads, planned_mb
from cryoet_core.workflow import Run

DEMO = {"data": {"simulate": True}, "averaging": [{"name": "one"}]}


def demo(**config):
    return Run(load_config({**DEMO, **config}))


def wildcards(step):
    return SimpleNamespace(**{"series": {"ts": "TS_01"}, "round": {"round": "one"}, "run": {}}[COSTS[step].of])


def test_speed_ups_follow_the_two_measured_numbers():
    perfect, none = Cost(0, two_threads=2.0, most=64), Cost(0, two_threads=1.0)
    assert [perfect.speed_up(t) for t in (1, 2, 32)] == pytest.approx([1, 2, 32])
    assert none.speed_up(8) == 1
    some = Cost(0, two_threads=1.6, most=8)
    assert some.speed_up(2) == pytest.approx(1.6) and 1.6 < some.speed_up(4) < some.speed_up(8) == some.speed_up(128)


@pytest.mark.parametrize(
    ("cost", "n_jobs", "cores", "threads"),
    [
        (Cost(0, two_threads=1.9), 1, 1, 1),
        (Cost(0, two_threads=1.0), 1, 32, 1),  # threads do not help
        (Cost(0, two_threads=1.9, most=64), 100, 32, 1),  # many series: one core each
        (Cost(0, two_threads=1.9, most=64), 8, 32, 4),
        (Cost(0, two_threads=1.9, most=64), 10, 32, 3),
        (Cost(0, two_threads=1.9, most=64), 2, 2, 1),
        (Cost(0, two_threads=1.9, most=6), 1, 32, 6),
        (Cost(0, two_threads=1.7, most=128, alone=True), 1, 32, 32),  # a long job that is alone
        (Cost(0, two_threads=1.7, most=128, alone=True), 1, 128, 128),
    ],
)
def test_threads_for_what_there_is_to_do(cost, n_jobs, cores, threads):
    assert best_threads(cost, n_jobs, cores, None, {}) == threads


def test_they_are_the_best_that_there_are():
    for two, n_jobs, cores in itertools.product((1.1, 1.5, 1.9), (1, 3, 7, 40), (2, 8, 24)):
        cost = Cost(0, two_threads=two, most=64)

        def time(threads, cost=cost, n_jobs=n_jobs, cores=cores):
            return math.ceil(n_jobs / (cores // threads)) / cost.speed_up(threads)

        found = time(best_threads(cost, n_jobs, cores, None, {}))
        assert found <= 1.101 * min(time(t) for t in range(1, cores + 1))


def test_little_memory_means_fewer_jobs_with_more_threads_each():
    cost = Cost(1000, two_threads=1.9, most=64)
    assert best_threads(cost, 16, 16, None, {}) == 1
    assert best_threads(cost, 16, 16, 4 * planned_mb(cost, {}, 1), {}) == 4  # four fit at once
    thirsty = Cost(500, {}, {"one": 1000}, two_threads=1.9, most=64)
    assert best_threads(thirsty, 1, 16, 4000, {"one": 1.0}) == 3  # more would not fit
    assert best_threads(thirsty, 1, 16, 100, {"one": 1.0}) == 1


def test_a_cluster_s_job_wastes_less_than_half():
    assert efficient_threads(Cost(0, two_threads=1.0), 16) == 1
    assert efficient_threads(Cost(0, two_threads=2.0, most=64), 16) == 16
    cost = Cost(0, two_threads=1.6, most=64)
    most = efficient_threads(cost, 64)
    assert cost.speed_up(most) > most / 2 and cost.speed_up(most + 1) <= (most + 1) / 2


@pytest.mark.parametrize("step", COSTS)
def test_every_step_has_a_row_that_can_be_counted(step):
    plan, one = ResourcePlan(demo(), 8, 32_000), wildcards(step)
    threads = plan.threads(step)(one)
    need = plan.memory_of(step, one, threads)
    assert 1 <= threads <= 8 and 50 < need < 32_000
    assert plan.memory_of(step, one, 8) >= plan.memory_of(step, one, 1)
    assert 0 < plan.seconds_of(step, one, threads) <= plan.seconds_of(step, one, 1)
    resources = plan.resources(step, runtime=60)
    assert resources["mem_mb"](one, threads, 1) == need and resources["mem_mb"](one, threads, 3) == 4 * need


def test_larger_data_need_more():
    small, large = ResourcePlan(demo(), 2), ResourcePlan(demo(simulate={"image_width_px": 1920, "image_height_px": 1792}), 2)
    for step in ("correct_motion", "erase_xrays", "align_tilt_series", "correct_ctf"):
        data = [plan.memory_of(step, wildcards(step)) / SAFETY - COSTS[step].base_mb for plan in (small, large)]
        assert data[1] > 2 * data[0] > 0, step  # four times as many pixels; what every job needs without data does not grow
        seconds = [plan.seconds_of(step, wildcards(step)) - COSTS[step].start_s for plan in (small, large)]
        assert seconds[1] > 3 * seconds[0] > 0, step


def test_planned_memory_is_a_little_more_than_expected():
    assert 1000 * SAFETY <= planned_mb(Cost(1000), {}, 1) + 1e-6 < 1000 * SAFETY + 10.1


def test_a_job_of_a_cluster_uses_what_it_was_given():
    assert ResourcePlan(demo(), 5, where="node").threads_of("refine", wildcards("refine")) == 5
    assert ResourcePlan(demo(), 500, where="node").threads_of("import_reference", wildcards("import_reference")) <= 16


def test_one_job_per_gpu(monkeypatch):
    run = demo(device="cuda")
    plan = ResourcePlan(run, 32, 64_000, n_gpus=4)
    assert plan.resources("refine", 60)["gpu"] == 1 and plan.resources("report", 60)["gpu"] == 0
    assert plan.threads_of("match_template", wildcards("match_template")) == 4
    assert ResourcePlan(run, 4, 64_000, n_gpus=4).threads_of("refine", wildcards("refine")) == 1
    assert ResourcePlan(demo(device="cpu"), 32, 64_000).resources("refine", 60)["gpu"] == 0


def test_too_large_a_job_is_told_once(capsys):
    plan = ResourcePlan(demo(), 2, 150)
    for _ in range(2):
        plan.memory_of("correct_motion", wildcards("correct_motion"))
    said = capsys.readouterr().err
    assert said.count("warning: correct_motion is expected") == 1 and "Fix:" in said
