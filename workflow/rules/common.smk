# What all rules share: the validated config, the list of series and rounds, and the shape of params and resources.
import os
import sys

from cryoet_core import holder
from cryoet_core.config import check_file, load_config
from cryoet_core.errors import CryoetError
from cryoet_core.left_out import notes_of, outcome
from cryoet_core.resources.of_snakemake import jobs_to_do, plan_of_run, write_run_plan
from cryoet_core.step import tell_jobs
from cryoet_core.workflow import Run


def refuse(error):
    """End before any job, with the error's sentence and exit code."""
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


try:
    for file in workflow.configfiles:
        check_file(file)
    RUN = Run(load_config(dict(config)))
    TILT_SERIES = RUN.tilt_series
    PLAN = plan_of_run(workflow, RUN)
    if workflow.is_main_process:
        for line in holder.take(RUN.config.results_dir, sys.argv[1:], with_guardian=PLAN.where == "machine"):
            print(line, file=sys.stderr)
except CryoetError as error:
    refuse(error)

tell_jobs(len(TILT_SERIES))
ROUNDS = RUN.rounds
SIMULATED = RUN.simulated
result = RUN.result
step_params = RUN.step_params
round_params = RUN.round_params
previous_round = RUN.previous_round
round_config = RUN.round_config
series_source = RUN.series_source
threads_of = PLAN.threads  # of a rule's jobs, and its gpu, mem_mb and runtime (minutes): docs/resources.md
resources_of = PLAN.resources


onstart:
    write_run_plan(workflow, PLAN, result("logs"))
    mark_stale_report(*jobs_to_do(workflow))


onerror:
    mark_stale_report()


def stacks_of(step, path, full_views=False):
    """Output of ``step`` that a finished run no longer needs: removed then with keep: results."""
    return temp(path) if RUN.is_removed(step, full_views) else path


wildcard_constraints:
    ts=r"[A-Za-z0-9][\w.-]*",
    round=r"[A-Za-z0-9][\w.-]*",
