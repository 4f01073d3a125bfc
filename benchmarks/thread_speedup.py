"""How much faster a step is on several threads: the ``two_threads`` column of resources/costs.py.

    python benchmarks/thread_speedup.py RUN_DIR --configfile my.yaml [--rules match_template refine] [--threads 1 2 4]

RUN_DIR is the folder in which a run was started and has finished (for example ``.`` after ``make demo``); its results are linked into a scratch
folder, where one job of every rule is run again on 1, 2 (or more) threads. Results do not change with threads.

Two figures are printed. ``wall`` is the ratio of wall times, right on a machine that does nothing else. ``by CPU`` is right on a busy one, too: the
CPU time of the main thread, which the others do not share, and that of the others divided by their number, against the CPU time on one thread
(what the other threads do while the main one works is counted as if they waited, so it is a lower bound). On a machine of two cores nothing
beyond two is measured: more threads follow Amdahl's law in the table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from cryoet_core.parallel import available_cores
from cryoet_core.resources import usage
from cryoet_core.resources.costs import COSTS

ROOT = Path(__file__).resolve().parents[1]


def linked(run: Path, results: str, scratch: Path) -> None:
    """The run's folder in ``scratch``: results as hard links (Snakemake removes outputs before it makes them anew), all else as symbolic ones."""
    for entry in run.iterdir():
        if entry.name in (results.split("/")[0], ".snakemake"):
            shutil.copytree(entry, scratch / entry.name, copy_function=os.link)
        else:
            (scratch / entry.name).symlink_to(entry.resolve())


def one_job(scratch: Path, results: str, configfiles, rule: str, wildcard: str, threads: int) -> usage.Event:
    """Run one job again; what it used."""
    target = f"{results}/{rule}/{wildcard}/summary.json"
    logs = scratch / results / "logs"
    (logs / usage.NAME).unlink(missing_ok=True)  # a hard link: not to be written to
    (logs / "plan.json").unlink(missing_ok=True)
    for file in (logs / rule).glob("*.log"):
        file.unlink()
    command = [
        sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--workflow-profile", ROOT / "profiles/default", "--directory", scratch, "--cores", str(threads),
        "--set-threads", f"{rule}={threads}", "--allowed-rules", rule, "--quiet", "all", "--force", target, "--configfile", *configfiles,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    events = [e for e in usage.read(logs) if e.event == usage.DONE]
    if done.returncode or not events:
        sys.exit(f"{rule} failed:\n{done.stderr[-2000:]}")
    return events[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--configfile", nargs="+", required=True, type=lambda p: Path(p).resolve())
    parser.add_argument("--rules", nargs="*", help="default: all that may have more than one thread")
    parser.add_argument("--threads", nargs="*", type=int, default=sorted({1, *(n for n in (2, 4, 8, 16) if n <= available_cores())}))
    args = parser.parse_args()
    config = {}
    for path in args.configfile:
        config |= yaml.safe_load(path.read_text()) or {}
    results = config.get("results_dir", "results")
    finished = usage.last_of_jobs([e for e in usage.read(args.run / results / "logs") if e.event == usage.DONE])
    rules = args.rules or [rule for rule in COSTS if COSTS[rule].of != "run" and rule != "simulate" and rule != "relion_project"]
    print(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'rule':24s} {'threads':>7s} {'wall s':>8s} {'CPU s':>8s} {'main s':>8s} {'peak MB':>8s} {'wall':>6s} {'by CPU':>7s}")
    with tempfile.TemporaryDirectory(prefix="speedup-", dir=args.run.resolve().parent) as folder:
        scratch = Path(folder)
        linked(args.run.resolve(), results, scratch)
        for rule in rules:
            jobs = [job for job in finished if job.split(" ")[0] == rule]
            if not jobs:
                continue
            first = None
            for threads in args.threads:
                event = one_job(scratch, results, args.configfile, rule, jobs[0].split(" ")[1], threads)
                first = first or event
                start = COSTS[rule].start_s  # starting Python has no speed-up and a term of its own in the table
                by_cpu = (first.cpu_s - start) / max(0.1, event.main_s - start + (event.cpu_s - event.main_s) / event.threads)
                wall = (first.wall_s - start) / max(0.1, event.wall_s - start)
                print(
                    f"{rule:24s} {event.threads:7d} {event.wall_s:8.1f} {event.cpu_s:8.1f} {event.main_s:8.1f} {event.peak_mb:8.0f} {wall:6.2f} {by_cpu:7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
