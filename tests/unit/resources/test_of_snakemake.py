"""What a run has, asked of Snakemake's own settings: a workstation, a cluster, one job on a cluster's node; and its list of jobs."""

from types import SimpleNamespace

import pytest
from snakemake.settings.types import ResourceSettings
from snakemake_interface_executor_plugins.settings import ExecMode

from cryoet_core import backend
from cryoet_core.config import load_config
from cryoet_core.resources import machine
from cryoet_core.resources.of_snakemake import plan_of_run, write_run_plan
from cryoet_core.resources.timeline import RunPlan
from cryoet_core.workflow import Run


def workflow(mode=ExecMode.DEFAULT, **settings):
    """As much of Snakemake's workflow as is asked for, made as Snakemake makes it."""
    settings = ResourceSettings(**settings)
    limits = settings._parsed_resources
    limits["_cores"], limits["_nodes"] = settings.cores, settings.nodes
    return SimpleNamespace(resource_settings=settings, global_resources=limits, exec_mode=mode)


def run(device="auto"):
    return Run(load_config({"device": device, "data": {"simulate": True}, "averaging": [{"name": "one"}]}))


def test_a_workstation_s_memory_and_gpus_become_limits(monkeypatch):
    monkeypatch.setattr(machine, "memory_for_jobs_mb", lambda: 22_000)
    monkeypatch.setattr(backend, "n_gpus", lambda: 3)
    here = workflow(cores=8)
    plan = plan_of_run(here, run())
    assert (plan.where, plan.cores, plan.memory_mb, plan.n_gpus) == ("machine", 8, 22_000, 3)
    assert (here.global_resources["mem_mb"].value, here.global_resources["gpu"].value) == (22_000, 3)


def test_limits_of_the_user_stay():
    here = workflow(cores=8, resources={"mem_mb": 5000, "gpu": 1}, max_threads=2)
    plan = plan_of_run(here, run())
    assert (plan.cores, plan.memory_mb, plan.n_gpus) == (2, 5000, 1)
    assert (here.global_resources["mem_mb"].value, here.global_resources["gpu"].value) == (5000, 1)
    human = workflow(cores=8, resources={"mem": "5GB"})  # Snakemake turns it into mem_mb
    assert plan_of_run(human, run()).memory_mb == 5000


def test_jobs_beside_cores_are_still_a_workstation():
    assert plan_of_run(workflow(cores=8, nodes=4), run()).where == "machine"


@pytest.mark.parametrize("settings", [{"nodes": 50}, {"nodes": 50, "cores": 1, "default_resources": {"slurm_partition": "cpu"}}], ids=["run", "dry run"])
def test_a_cluster_has_no_memory_of_its_own_and_jobs_of_its_profile_s_threads(settings):
    there = workflow(max_threads=12, **settings)
    plan = plan_of_run(there, run())
    assert (plan.where, plan.cores, plan.memory_mb) == ("cluster", 12, None)
    assert "mem_mb" not in there.global_resources
    assert 1 <= plan.threads_of("match_template", {"ts": "TS_01"}) <= 12


def test_a_job_on_a_node_uses_the_cores_it_was_given(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert plan_of_run(workflow(ExecMode.REMOTE, cores=64), run()).threads_of("refine", {"round": "one"}) == 64
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    node = workflow(ExecMode.REMOTE, cores=64)
    plan = plan_of_run(node, run())
    assert (plan.where, plan.threads_of("refine", {"round": "one"})) == ("node", 6) and "mem_mb" not in node.global_resources


class FakeJob(SimpleNamespace):
    __hash__ = object.__hash__


def test_the_list_of_jobs_is_left_for_the_jobs(tmp_path):
    def job(rule, wildcards=(), **names):
        class Wildcards(list):
            pass

        values = Wildcards(wildcards)
        vars(values).update(names)
        return FakeJob(rule=SimpleNamespace(name=rule), wildcards=values, threads=2, resources={"mem_mb": 300, "gpu": 0})

    motion, ctf, everything = job("correct_motion", ["TS_01"], ts="TS_01"), job("estimate_ctf", ["TS_01"], ts="TS_01"), job("all")
    done = job("simulate", ["TS_01"], ts="TS_01")
    needs = {motion: {done}, ctf: {motion}, everything: {ctf}, done: set()}
    dag = SimpleNamespace(needrun_jobs=lambda: [motion, ctf, everything], dependencies=needs)
    here = workflow(cores=4, resources={"mem_mb": 5000, "gpu": 0})
    here.dag = dag
    write_run_plan(here, plan_of_run(here, run()), tmp_path / "logs")
    found = RunPlan.read(tmp_path / "logs")
    assert [(j.name, j.needs, j.threads, j.mem_mb) for j in found.jobs] == [("correct_motion TS_01", (), 2, 300), ("estimate_ctf TS_01", (0,), 2, 300)]
    assert (found.limits.cores, found.limits.mem_mb, found.limits.gpu) == (4, 5000, 0)
    assert all(j.seconds > 0 for j in found.jobs)
