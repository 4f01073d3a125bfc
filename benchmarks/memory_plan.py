"""Planned against measured memory and time of the jobs of a finished run: is the table in resources/costs.py right for this size?

    python benchmarks/memory_plan.py RESULTS_DIR --configfile my.yaml [more.yaml ...]

Run it in the folder that the workflow was started in, with the run's own config files. Measured are the peaks that every job notes when it
ends (logs/jobs.tsv; for jobs without such a note Snakemake's benchmark files, which may miss a short peak). Planned is what the table says now, for
the threads that the job had. A rule is marked when its largest job differs from the plan by more than 30 %. ``last`` is what the row's factors would
have to be multiplied by, beside its base, to meet the peak.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import yaml
from snakemake.utils import update_config

from cryoet_core.config import load_config
from cryoet_core.resources import usage
from cryoet_core.resources.costs import COSTS
from cryoet_core.resources.plan import ResourcePlan, planned_mb
from cryoet_core.workflow import Run

LIMIT = 1.3


def run_of(configfiles, results_dir) -> Run:
    """The run as Snakemake sees it: later files win."""
    merged = {}
    for path in configfiles:
        update_config(merged, yaml.safe_load(Path(path).read_text()) or {})
    merged["results_dir"] = str(results_dir)
    return Run(load_config(merged))


def measured_jobs(results: Path) -> list[usage.Event]:
    """The last end of every job that is done, with benchmark files for those that noted nothing."""
    noted = usage.last_of_jobs([e for e in usage.read(results / "logs") if e.event != usage.STARTED])
    for path in sorted((results / "benchmarks").glob("**/*.tsv")):
        job = " ".join(path.relative_to(results / "benchmarks").with_suffix("").parts)
        row = next(csv.DictReader(path.open(), delimiter="\t"))
        if job not in noted and row["max_rss"] not in ("NA", "-"):
            mb = float(row["max_rss"]) * 2**20 / 1e6
            noted[job] = usage.Event(usage.DONE, job, 0.0, 1, float(row["s"]), float(row["cpu_time"]), 0.0, mb, 0.0)
    return list(noted.values())


def wildcards_of(job: str) -> SimpleNamespace:
    """The job's wildcards by the names that its rule's row needs."""
    rule, *values = job.split(" ")
    name = {"series": "ts", "round": "round"}.get(COSTS[rule].of)
    return SimpleNamespace(**({name: values[0]} if name and values else {}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="RESULTS_DIR")
    parser.add_argument("--configfile", nargs="+", required=True)
    args = parser.parse_args()
    plan = ResourcePlan(run_of(args.configfile, args.results), 1)
    worst: dict[str, tuple] = {}
    seconds: dict[str, list] = {}
    for event in measured_jobs(args.results):
        if event.rule not in COSTS:
            continue
        cost, sizes = COSTS[event.rule], plan.sizes_of(event.rule, wildcards_of(event.job))
        planned = planned_mb(cost, sizes, event.threads)
        seconds.setdefault(event.rule, []).append((event.cpu_s, cost.cpu_seconds(sizes)))
        if event.rule not in worst or event.peak_mb > worst[event.rule][1]:
            grows = cost.memory_mb(sizes, event.threads) - cost.base_mb
            factor = (event.peak_mb - cost.base_mb) / grows if grows > 1 else float("nan")
            worst[event.rule] = (event.threads, event.peak_mb, planned, factor)
    print(f"{'rule':24s} {'jobs':>5s} {'threads':>7s} {'peak MB':>8s} {'planned':>8s} {'ratio':>6s} {'last':>6s}   {'CPU s':>7s} {'planned':>8s} {'ratio':>6s}")
    marked = 0
    for rule in [rule for rule in COSTS if rule in worst]:
        threads, peak, planned, factor = worst[rule]
        cpu, expected = (sum(values) for values in zip(*seconds[rule], strict=True))
        off = not 1 / LIMIT <= planned / peak <= LIMIT
        marked += off
        print(
            f"{rule:24s} {len(seconds[rule]):5d} {threads:7d} {peak:8.0f} {planned:8.0f} {planned / peak:6.2f} {factor:6.2f}   {cpu:7.1f} {expected:8.1f} "
            f"{expected / max(cpu, 0.1):6.2f}{'  <- memory is off by more than 30 %' if off else ''}"
        )
    print(f"{marked} of {len(worst)} rules are off by more than 30 %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
