"""The plan's side to Snakemake: how many cores, how much memory and how many GPUs a run has, and its list of jobs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from snakemake_interface_executor_plugins.settings import ExecMode

from cryoet_core.resources import machine
from cryoet_core.resources.plan import ResourcePlan
from cryoet_core.resources.timeline import Job, Limits, RunPlan
from cryoet_core.resources.usage import job_name

CLUSTER_CORES = 16  # of a cluster's node, unless the profile says max-threads


def plan_of_run(workflow, run) -> ResourcePlan:
    """The plan of what this Snakemake has. On one machine its memory and GPUs become limits of the run, unless the user gave such limits.

    workflow : Snakemake's. run : workflow.Run.
    """
    cores, limits = workflow.global_resources["_cores"].value, workflow.global_resources
    if workflow.exec_mode != ExecMode.DEFAULT:
        given = os.environ.get("SLURM_CPUS_PER_TASK", "")
        return ResourcePlan(run, min(cores or 1, int(given)) if given.isdigit() else cores or 1, where="node")
    if _is_cluster(workflow):
        return ResourcePlan(run, workflow.resource_settings.max_threads or CLUSTER_CORES, where="cluster")
    if "mem_mb" not in limits:
        limits["mem_mb"] = machine.memory_for_jobs_mb()
    if "gpu" not in limits:
        limits["gpu"] = machine.n_gpus(run.config.device)
    most = workflow.resource_settings.max_threads or cores
    return ResourcePlan(run, min(cores, most), limits["mem_mb"].value, limits["gpu"].value)


def _is_cluster(workflow) -> bool:
    """The executor is not known while rules are read. A cluster's run has jobs, but no cores; a dry run is given one core."""
    settings = workflow.resource_settings
    of_slurm = any(name.startswith("slurm_") for name in settings.default_resources or ())
    return settings.nodes is not None and (settings.cores is None or of_slurm)


def jobs_to_do(workflow) -> list[str]:
    """Names ("refine bin4") of this run's jobs after which it makes the report again; empty when it does not."""
    jobs = list(workflow.dag.needrun_jobs())
    if not any(job.rule.name == "report" for job in jobs):
        return []
    return sorted({job_name(job.rule.name, job.wildcards) for job in jobs if job.rule.name not in ("report", "all")})


def write_run_plan(workflow, plan: ResourcePlan, logs: str) -> None:
    """Leave the list of jobs of this run in the folder of the logs, for the jobs' estimates of the time left."""
    dag = workflow.dag
    jobs = list(dag.needrun_jobs())
    jobs = [job for job in jobs if job.rule.name in plan.costs]
    number = {job: i for i, job in enumerate(jobs)}
    limits = {"cores": plan.cores, "mem_mb": plan.memory_mb, "gpu": plan.n_gpus} if plan.where == "machine" else {}
    listed = [
        Job(
            job_name(job.rule.name, job.wildcards), job.threads, int(job.resources.get("mem_mb", 0)), int(job.resources.get("gpu", 0)),
            plan.seconds_of(job.rule.name, job.wildcards, job.threads), tuple(sorted(number[d] for d in dag.dependencies[job] if d in number)),
        )
        for job in jobs
    ]  # fmt: skip
    RunPlan(time.time(), Limits(**limits), listed).write(Path(logs))
