"""What a GPU makes of tiltline, in nine minutes: tests on the device, then the speed of kernels, steps and matching.

    python benchmarks/gpu_check.py --out DIR [--wheels DIR] [--minutes 9] [--rehearse]

Needs Python, CuPy, NumPy, SciPy and Numba, and what tools/gpu_wheels.py collects of the rest: ``--wheels`` is a folder
of wheels that are unpacked and put on the path, without pip and without a network. Every part runs in processes of its
own under a time limit, the most telling first; what is found is written to DIR as it goes, and a part that fails,
crashes or is cut does not stop the others. ``--rehearse``: all of it on the CPU stand-in of the tests, at tiny sizes.

DIR holds results.jsonl (one line per finding), summary.md (to read; rewritten after each part) and log.txt (what the
processes printed). Exit status: 0 when nothing failed, 1 when something did, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda:0"
RESTART = 75  # exit status of a process whose device broke: the part goes on in a new one
RESERVE_S = 5.0  # kept for the summary
LOG_BYTES = 200_000  # of what one process printed
PYTOM = {12.85: "193 s on one GTX 1080 Ti", 7.0: "306 s on four GTX 1080 Ti", 3.0: "3801 s on four GTX 1080 Ti"}
MATCH_PX = (250, 478, 462)
REHEARSED_STEP = 60.0
STEP_TESTS = """test_ctf_correction test_reconstruction test_motion test_ctf test_alignment test_picking test_extraction
test_refine_script test_averaging test_curation test_exclusion test_defocus_after_alignment test_alignment_import
test_picks_import test_import""".split()  # what uses the device most comes first
TIMED_STEPS = """correct_motion estimate_ctf correct_ctf reconstruct_tomogram extract_subtomos refine
preprocess_tilt_series reconstruct_particle align_tilt_series initial_model""".split()
TWICE = "correct_motion correct_ctf reconstruct_tomogram extract_subtomos reconstruct_particle refine".split()


class Records:
    """results.jsonl: one finding per line, written at once, by any number of processes."""

    def __init__(self, path):
        self.path = Path(path)

    def write(self, part: str, case: str, event: str, **values) -> None:
        """event : start, progress, done, skipped, failed, cut or died."""
        line = json.dumps({"part": part, "case": case, "event": event, "time": round(time.time(), 3), **values})
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode() + b"\n")  # one call, so that lines of two processes do not mix
        finally:
            os.close(descriptor)

    def read(self, part: str | None = None) -> list[dict]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        found = [json.loads(line) for line in lines]
        return [r for r in found if part is None or r["part"] == part]

    def started(self, part: str) -> set[str]:
        return {r["case"] for r in self.read(part) if r["event"] == "start"}

    def unfinished(self, part: str) -> set[str]:
        """Cases that were begun and have no end."""
        return self.started(part) - {r["case"] for r in self.read(part) if r["event"] not in ("start", "progress")}


def device_alive() -> bool:
    """False after an error that every later call would meet again, such as an illegal address."""
    try:
        import cupy

        return int(cupy.arange(4).sum()) == 6
    except Exception:
        return False


def short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' / '.join(str(error).split(chr(10)))}"[:300]


def attempt(records: Records, part: str, case: str, function) -> None:
    """Run a case that no process before has begun; its error is a finding. A broken device ends the process."""
    if case in records.started(part):
        return
    records.write(part, case, "start")
    try:
        records.write(part, case, "done", **function())
    except Exception as error:
        records.write(part, case, "failed", error=short(error))
        traceback.print_exc()
        if not device_alive():
            sys.exit(RESTART)


# What runs in processes of its own, one function per part. Heavy imports are inside, so that the parent needs none.


def rates_of(records: Records):
    """Rates measured by the part "device", or None."""
    from floors import Rates

    measured = [r for r in records.read("device") if r["case"] == "rates" and r["event"] == "done"]
    return Rates.of(measured[-1]) if measured else None


def share(work, rates, seconds: float) -> dict:
    """Floor in ms and its share of ``seconds``, nothing when the rates are not known."""
    floor = work.floor(rates) if rates else None
    return {} if floor is None else {"floor_ms": 1e3 * floor, "share": floor / seconds}


def empty_pool():
    """CuPy's memory pool with everything that is not in use given back."""
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    return pool


def finished(result):
    """``result`` once the device is done with it."""
    import cupy

    cupy.cuda.Device().synchronize()
    return result


def part_device(records: Records, rehearse: bool) -> None:
    import cupy

    def facts():
        found = cupy.cuda.runtime.getDeviceProperties(0)
        name = found["name"]
        versions = {"python": sys.version.split()[0]}
        for package in "numpy scipy numba pandas cupy pydantic snakemake imagecodecs tifffile".split():
            try:
                versions[package] = str(getattr(importlib.import_module(package), "__version__", "?"))
            except Exception as error:
                versions[package] = short(error)
        return {
            "name": name.decode() if isinstance(name, bytes) else str(name),
            "memory_gb": found["totalGlobalMem"] / 1e9,
            "free_gb": cupy.cuda.runtime.memGetInfo()[0] / 1e9,
            "multiprocessors": found["multiProcessorCount"],
            "capability": f"{found['major']}.{found['minor']}",
            "driver": cupy.cuda.runtime.driverGetVersion(),
            "runtime": cupy.cuda.runtime.runtimeGetVersion(),
            "cores": os.cpu_count(),
            "versions": versions,
        }

    def rates():
        import floors

        return floors.calibrate_gpu(tiny=rehearse).numbers()

    def transfer():
        import numpy as np
        from floors import gpu_seconds

        host = np.ones(1 << (12 if rehearse else 26), np.float32)
        there = gpu_seconds(lambda: cupy.asarray(host), 3)
        moved = cupy.asarray(host)
        back = gpu_seconds(lambda: cupy.asnumpy(moved), 3)
        return {"to_device_gb_per_s": host.nbytes / there / 1e9, "to_host_gb_per_s": host.nbytes / back / 1e9}

    attempt(records, "device", "facts", facts)
    attempt(records, "device", "rates", rates)
    attempt(records, "device", "transfer", transfer)


def kernel_size(rehearse: bool, size: str):
    import kernel_cases

    return kernel_cases.TINY if rehearse else getattr(kernel_cases, size)


def each_kernel(records: Records, part: str, size, measure) -> None:
    """``measure(case)`` of every kernel; a family whose data cannot be made is a finding."""
    import kernel_cases

    for family in kernel_cases.FAMILIES:
        try:
            for case in kernel_cases.kernel_cases(size, DEVICE, (family,)):
                attempt(records, part, case.name, lambda case=case: measure(case))
        except Exception as error:
            records.write(part, f"data of {family.__name__}", "failed", error=short(error))
            traceback.print_exc()
            if not device_alive():
                sys.exit(RESTART)


def part_kernels(records: Records, rehearse: bool) -> None:
    from floors import gpu_seconds

    rates = rates_of(records)

    def measure(case):
        pool = empty_pool()
        before, start = pool.total_bytes(), time.perf_counter()
        finished(case.run())
        first = time.perf_counter() - start
        seconds = gpu_seconds(case.run, 1 if first > 2 else 5)
        peak = (pool.total_bytes() - before) / 2**20
        return {
            "ms": 1e3 * seconds,
            "rate": case.amount / seconds,
            "unit": case.unit,
            "peak_mb": peak,
            **share(case.work, rates, seconds),
        }

    each_kernel(records, "kernels", kernel_size(rehearse, "TUTORIAL"), measure)


def timed_step(make, size, rates) -> dict:
    """Least wall seconds of up to three runs of a step after a tiny one that compiles, and memory that it held."""
    from step_cases import TINY

    finished(make(TINY, DEVICE).run())
    case = make(size, DEVICE)
    pool = empty_pool()
    runs = []
    while len(runs) < 3 and sum(runs) < 4:
        start = time.perf_counter()
        finished(case.run())
        runs.append(time.perf_counter() - start)
    seconds = min(runs)
    found = {"seconds": seconds, "first": runs[0], "what": case.what, "peak_mb": pool.total_bytes() / 2**20}
    return {**found, **share(case.work, rates, seconds)}


def part_steps(records: Records, rehearse: bool) -> None:
    import step_cases

    rates, size = rates_of(records), step_cases.TINY if rehearse else step_cases.TUTORIAL
    for name in TIMED_STEPS:
        attempt(records, "steps", name, lambda name=name: timed_step(step_cases.STEPS[name], size, rates))
        empty_pool()


def part_matching(records: Records, rehearse: bool, step_deg: float) -> None:
    """A search like the published one: no control with a mirrored template, few peaks refined."""
    from step_cases import search

    part, rates = f"matching {step_deg:g}", rates_of(records)
    shape = (24, 32, 32) if rehearse else MATCH_PX
    step = REHEARSED_STEP if rehearse else step_deg

    def run(case_name, **keys):
        last = [0.0]

        def report(*found):
            numbers = [float(n) for n in found if isinstance(n, (int, float))][:2]
            if len(numbers) == 2 and time.perf_counter() - last[0] > 1:
                last[0] = time.perf_counter()
                records.write(part, case_name, "progress", of=numbers[1], done=numbers[0], seconds=last[0] - start)

        keys = {"background": "none", "max_particles": 100, **keys}
        if rehearse:
            keys |= {"max_particles": 2} | ({"method": "fft"} if step_deg < 10 else {})
        else:
            finished(search((24, 32, 32), 60.0, DEVICE, **{**keys, "max_particles": 2}).run())  # compiles
        case = search(shape, step, DEVICE, report, **keys)
        pool = empty_pool()
        start = time.perf_counter()
        finished(case.run())
        seconds = time.perf_counter() - start
        peak = pool.total_bytes() / 2**20
        return {"seconds": seconds, "what": case.what, "peak_mb": peak, **share(case.work, rates, seconds)}

    attempt(records, part, "hierarchical", lambda: run("hierarchical"))
    if step_deg > 10:
        attempt(records, part, "exhaustive", lambda: run("exhaustive", search="exhaustive"))


def parts_of(result):
    return list(result) if isinstance(result, tuple) else [result]


def same_bytes(first, second) -> dict:
    """Whether two results are the same, else the largest difference over the largest value."""
    import numpy as np

    from cryoet_core.backend import asnumpy

    pairs = [(asnumpy(a), asnumpy(b)) for a, b in zip(parts_of(first), parts_of(second), strict=True)]
    same = all(a.tobytes() == b.tobytes() for a, b in pairs)
    difference = 0.0 if same else max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs)
    return {"same": same, "difference": difference}


def part_races(records: Records, rehearse: bool) -> None:
    """Every kernel and the heavy steps twice: a result that moves is a race."""
    import step_cases

    def copied(result):
        return tuple(a.copy() for a in parts_of(result))

    size = kernel_size(rehearse, "MIDDLE")
    each_kernel(records, "races", size, lambda case: same_bytes(copied(case.run()), copied(case.run())))
    steps = step_cases.TINY if rehearse else step_cases.BENCH

    def twice(name):
        case = step_cases.STEPS[name](steps, DEVICE)
        return same_bytes(copied(case.run()), copied(case.run()))

    for name in TWICE:
        attempt(records, "races", name, lambda name=name: twice(name))
        empty_pool()


def part_memory_checked(records: Records, rehearse: bool) -> None:
    """Every kernel once at a tiny size: for a memory checker to look at."""

    def once(case):
        finished(case.run())
        return {}

    each_kernel(records, "memory checked", kernel_size(True, "TINY"), once)


def run_child(name: str, records: Records, rehearse: bool) -> None:
    kind, _, value = name.partition(" ")
    if kind == "matching":
        part_matching(records, rehearse, float(value))
    else:
        {
            "device": part_device,
            "kernels": part_kernels,
            "steps": part_steps,
            "races": part_races,
            "memory": part_memory_checked,
        }[kind](records, rehearse)


# The parent.


@dataclass
class Check:
    """One run of the check. end : when it must be over, in time.monotonic. scale : of the parts' limits."""

    records: Records
    log: Path
    scratch: Path
    environment: dict
    rehearse: bool
    end: float
    scale: float

    def left(self) -> float:
        return self.end - time.monotonic() - RESERVE_S

    def run(self, part: str, command, until: float, **environment) -> int | None:
        """Exit status of a process, None when it was killed at ``until``; what it printed goes to the log."""
        path = self.scratch / f"{time.monotonic_ns()}.txt"
        with open(path, "wb") as stream:
            process = subprocess.Popen(
                [str(c) for c in command],
                cwd=ROOT,
                env={**self.environment, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                status = process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                status = None
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)  # its children too
                except ProcessLookupError:
                    pass
                process.wait()
        printed = path.read_bytes()[-LOG_BYTES:]
        with open(self.log, "ab") as log:
            log.write(f"\n===== {part}: {' '.join(map(str, command))} -> {status}\n".encode() + printed)
        path.unlink()
        return status

    def again_until_done(self, part: str, command, until: float, **environment) -> str:
        """Run a process until it ends by itself; one whose device broke, or that died, is followed by another."""
        while True:
            before = len(self.records.started(part))
            status = self.run(part, command, until, **environment)
            if status is None:
                return "cut"
            if status == RESTART or status < 0:
                for case in self.records.unfinished(part):
                    self.records.write(part, case, "died", error=f"the process ended with status {status}")
                if len(self.records.started(part)) > before:
                    continue
            return "ran" if status == 0 else f"ended with status {status}"

    def own(self, part: str, until: float, prefix=(), name: str | None = None) -> str:
        """A part of this file in a process of its own."""
        command = [*prefix, sys.executable, __file__, "--part", name or part, "--out", self.records.path.parent]
        return self.again_until_done(part, command + (["--rehearse"] if self.rehearse else []), until)

    def tests(self, part: str, files, until: float, arguments) -> str:
        """pytest, one process per file so that a broken device spoils little, several at a time."""
        from concurrent.futures import ThreadPoolExecutor

        workers = 1 if self.rehearse else max(1, min(8, (os.cpu_count() or 2) // 2))
        base = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "pytest_records", "-p", "no:cacheprovider"]

        def run(file):
            if time.monotonic() > until:
                self.records.write(part, f"{file} (file)", "cut")
                return "cut"
            own = {"GPU_CHECK_RECORDS": str(self.records.path), "GPU_CHECK_PART": f"{part}: {Path(file).stem}"}
            own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            found = self.again_until_done(own["GPU_CHECK_PART"], [*base, file, *arguments], until, **own)
            if found == "cut":
                self.records.write(part, f"{file} (file)", "cut")
            elif found not in ("ran", "ended with status 1", "ended with status 5"):
                self.records.write(part, f"{file} (file)", "failed", error=f"pytest {found}, see log.txt")
            return found

        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(run, files))
        return "cut" if "cut" in found else "ran"

    def parity(self, until: float) -> str:
        files = [f"tests/parity/{n}.py" for n in ("test_kernels", "test_kernel_properties", "test_functions_on_device")]
        chosen = ["-m", "gpu"]
        if self.rehearse:
            files, chosen = files[:1], ["-k", "cuda and source and (aligned-0 or turned-0 or spline or warp)"]
        return self.tests("parity tests", files, until, chosen)

    def step_tests(self, until: float) -> str:
        there = sorted(p.stem for p in (ROOT / "tests/steps").glob("test_*.py"))
        order = [n for n in STEP_TESTS if n in there] + [n for n in there if n not in STEP_TESTS]
        if self.rehearse:
            order = ["test_exclusion"]
        device = "stand-in" if self.rehearse else "cuda"
        return self.tests("step tests", [f"tests/steps/{n}.py" for n in order], until, ["--device", device])

    def memory_checked(self, until: float) -> str:
        """The kernels under a memory checker, where there is one."""
        part = "memory checked"
        if shutil.which("compute-sanitizer") is None:
            self.records.write(part, "compute-sanitizer", "skipped", error="not on PATH")
            return "skipped"
        prefix = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"]
        found = self.own(part, until, prefix)
        if found == "ended with status 9":
            self.records.write(part, "compute-sanitizer", "failed", error="bad memory accesses, see log.txt")
        return found

    def demo(self, until: float) -> str:
        """The demo with device: cuda, its figures against truth, its seconds."""
        if not self.importable("snakemake"):
            self.records.write("demo", "snakemake", "skipped", error="snakemake cannot be imported")
            return "skipped"
        results = self.scratch / "results"
        command = [sys.executable, "-m", "snakemake", "--cores", os.cpu_count() or 1, "--quiet", "rules", "host"]
        command += ["--configfile", "config/config.yaml", "--config", f"results_dir={results}", "device=cuda"]
        self.records.write("demo", "run", "start")
        start = time.monotonic()
        status = self.run("demo", command + (["-n"] if self.rehearse else []), until)
        seconds = time.monotonic() - start
        jobs = subprocess.run(
            [sys.executable, "-c", "import sys, run_times; [print(j.rule, j.name, j.seconds, sep='\\t')"
             " for j in run_times.read_run_times(sys.argv[1])]", str(results)],
            env=self.environment, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        for line in jobs.splitlines():
            rule, name, spent = line.split("\t")
            self.records.write("demo", f"{rule} {name}".strip(), "done", seconds=float(spent))
        if status is None:
            self.records.write("demo", "run", "cut", seconds=seconds)
            return "cut"
        wrong = {"error": f"status {status}, see log.txt"} if status else {}
        self.records.write("demo", "run", "failed" if status else "done", seconds=seconds, **wrong)
        if status == 0 and not self.rehearse:
            checked = self.run("demo", [sys.executable, "tools/check_demo.py", results / "summary.json"], self.end)
            wrong = {"error": f"status {checked}, see log.txt"} if checked else {}
            self.records.write("demo", "figures against truth", "failed" if checked else "done", **wrong)
        return "ran"

    def importable(self, package: str) -> bool:
        """In the processes of the check, which see the unpacked wheels."""
        found = subprocess.run([sys.executable, "-c", f"import {package}"], env=self.environment, capture_output=True)
        return found.returncode == 0


# (part, seconds at most of nine minutes, what it runs); what a part leaves goes to the demo.
PARTS = (
    ("device", 25, None),
    ("parity tests", 75, Check.parity),
    ("step tests", 150, Check.step_tests),
    ("kernels", 50, None),
    ("steps", 80, None),
    ("matching 12.85", 25, None),
    ("matching 7", 30, None),
    ("matching 3", 40, None),
    ("races", 30, None),
    ("memory checked", 30, Check.memory_checked),
    ("demo", 540, Check.demo),
)


def unpack_wheels(folder: Path, site: Path) -> list[str]:
    """Unzip every wheel of ``folder`` into ``site``, what lies in a .data folder to the top; returns their names."""
    names = []
    for path in sorted(folder.glob("*.whl")):
        names.append(path.name)
        with zipfile.ZipFile(path) as wheel:
            for member in wheel.namelist():
                first, _, rest = member.partition("/")
                target = member
                if first.endswith(".data"):
                    kind, _, target = rest.partition("/")
                    if kind not in ("purelib", "platlib") or not target:
                        continue
                if not member.endswith("/"):
                    place = site / target
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(wheel.read(member))
    return names


def environment_of(site: Path, wheels: Path | None, rehearse: bool) -> dict:
    """Where the processes find code: the wheels, the library, the benchmarks; in a rehearsal the stand-in first."""
    paths = [ROOT / "tests/stand_in", ROOT / "tests"] if rehearse else []
    paths += [site, *([wheels] if wheels else []), ROOT / "src", ROOT / "benchmarks"]
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])]),
        "PYTHONUNBUFFERED": "1",
    }


# The summary.


def table(header, rows) -> list[str]:
    if not rows:
        return []
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]


def number(value, form=".3g") -> str:
    return "-" if value is None else format(value, form)


def extrapolated(found: list[dict], case: str) -> str:
    """What the last progress of a case that was cut leads one to expect."""
    progress = [r for r in found if r["case"] == case and r["event"] == "progress" and r["done"]]
    if not progress:
        return "no progress reported"
    last = progress[-1]
    whole = last["seconds"] * last["of"] / last["done"]
    done = f"{last['done'] / last['of']:.0%} after {last['seconds']:.0f} s"
    return f"{done}, the whole extrapolated to {whole:.0f} s (what follows the search not counted)"


def part_lines(part: str, found: list[dict]) -> list[str]:
    """The section of one part."""
    done = [r for r in found if r["event"] == "done"]
    bad = [r for r in found if r["event"] in ("failed", "died")]
    lines = []
    if part == "device":
        for r in done:
            values = {k: v for k, v in r.items() if k not in ("part", "case", "event", "time")}
            lines.append(f"- {r['case']}: " + json.dumps(values))
    elif part in ("parity tests", "step tests"):
        tests = [r for r in found if r["event"] in ("done", "failed", "died", "skipped") and "(file)" not in r["case"]]
        by_file = Counter((r["part"].split(": ")[-1], r["event"]) for r in tests)
        files = dict.fromkeys(name for name, _ in by_file)
        columns = ("done", "failed", "died", "skipped")
        rows = [[name, *(by_file[name, event] for event in columns)] for name in files]
        lines += table(("file", "passed", "failed", "died", "skipped"), rows)
    elif part == "kernels":
        rows = [
            (r["case"], number(r["ms"]), f"{r['rate']:.3g} {r['unit']}", number(r.get("floor_ms")),
             number(r.get("share"), ".0%"), number(r["peak_mb"], ".0f"))
            for r in done
        ]  # fmt: skip
        lines += table(("kernel", "ms", "rate", "floor ms", "share", "memory MB"), rows)
    elif part == "steps" or part.startswith("matching"):
        rows = [
            (r["case"], r["what"], number(r["seconds"]), number(r.get("floor_ms")), number(r.get("share"), ".1%"),
             number(r["peak_mb"], ".0f"))
            for r in done
        ]  # fmt: skip
        lines += table(("step", "size", "s", "floor ms", "share", "memory MB"), rows)
        if part.startswith("matching"):
            lines.append(f"\npytom-match-pick, as published for this size and step: {PYTOM[float(part.split()[1])]}.")
    elif part == "races":
        same = [r["case"] for r in done if r["same"]]
        lines.append(f"same bytes twice: {', '.join(same) or 'none'}")
        moved = [r for r in done if not r["same"]]
        lines += [f"- {r['case']}: differs by {r['difference']:.1e} of the largest value" for r in moved]
    elif part == "demo":
        rows = [(r["case"], number(r.get("seconds"), ".1f")) for r in done if "seconds" in r]
        lines += table(("job", "s"), rows)
    else:
        lines.append(f"{len(done)} kernels ran")
    begun = {r["case"] for r in found if r["event"] == "start"}
    ended = {r["case"] for r in found if r["event"] not in ("start", "progress")}
    lines += ["", *(f"- FAILED {r['case']}: {r.get('error', '')}" for r in bad)]
    lines += [f"- skipped {r['case']}: {r['error']}" for r in found if r["event"] == "skipped" and "error" in r]
    for case in sorted(begun - ended):
        lines.append(f"- CUT {case}" + (f": {extrapolated(found, case)}" if part.startswith("matching") else ""))
    lines += [f"- CUT {r['case']}" for r in found if r["event"] == "cut"]
    return [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]


def write_summary(out: Path, records: Records, ends: dict, rehearse: bool) -> None:
    """summary.md of all that is known so far. ends : (how it ended, seconds) of every part that was begun."""
    everything = records.read()
    title = "Rehearsal on the CPU stand-in: no figure here says anything of a GPU" if rehearse else "GPU check"
    overview = []
    sections = []
    for part, (end, seconds) in ends.items():
        found = [r for r in everything if r["part"] == part or r["part"].startswith(f"{part}: ")]
        counts = Counter(r["event"] for r in found)
        failures = counts["failed"] + counts["died"]
        overview.append((part, end, f"{seconds:.0f}", counts["done"], failures))
        sections += ["", f"## {part}", "", *part_lines(part, found)]
    lines = [f"# {title}", "", *table(("part", "how it ended", "s", "done", "failed"), overview), *sections]
    temporary = out / "summary.md.part"
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(out / "summary.md")


def check(out: Path, wheels: Path | None, minutes: float, rehearse: bool) -> int:
    """Run all parts; returns the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    records = Records(out / "results.jsonl")
    for path in (records.path, out / "log.txt", out / "summary.md"):
        path.unlink(missing_ok=True)
    begin, ends = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="gpu_check_", ignore_cleanup_errors=True) as place:
        site = Path(place) / "site"
        site.mkdir()
        if wheels:
            print(f"gpu_check: {len(unpack_wheels(wheels, site))} wheels unpacked", flush=True)
        environment = environment_of(site, wheels, rehearse)
        end = begin + 60 * minutes
        run = Check(records, out / "log.txt", Path(place), environment, rehearse, end, minutes / 9)
        seen = "from cryoet_core.backend import gpu_available as g; import sys; sys.exit(0 if g() else 3)"
        status = run.run("is there a GPU", [sys.executable, "-c", seen], begin + 60)
        if status == 3:
            print("gpu_check: no CUDA device (or no CuPy), nothing to check")
            return 2
        if status != 0:
            print(f"gpu_check: the library cannot be imported here: see {out / 'log.txt'}")
            return 1
        for part, limit, function in PARTS:
            start = time.monotonic()
            seconds = min(limit * max(run.scale, 1 if rehearse else 0), run.left())
            if seconds < 3:
                ends[part] = ("not begun: no time was left", 0.0)
                continue
            until = start + seconds
            ends[part] = ("runs", 0.0)
            found = function(run, until) if function else run.own(part, until)
            ends[part] = (found, time.monotonic() - start)
            write_summary(out, records, ends, rehearse)
            print(f"gpu_check: {part}: {found}, {time.monotonic() - start:.0f} s", flush=True)
    write_summary(out, records, ends, rehearse)
    print((out / "summary.md").read_text(encoding="utf-8"))
    bad = [r for r in records.read() if r["event"] in ("failed", "died")]
    broken = [part for part, (found, _) in ends.items() if found.startswith("ended")]
    return int(bool(bad or broken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl, summary.md and log.txt")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of packages that are missing here")
    parser.add_argument("--minutes", type=float, default=9.0, help="all parts together take at most this long")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU stand-in, at tiny sizes")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        run_child(chosen.part, Records(chosen.out / "results.jsonl"), chosen.rehearse)
        return
    sys.exit(check(chosen.out.resolve(), chosen.wheels and chosen.wheels.resolve(), chosen.minutes, chosen.rehearse))


if __name__ == "__main__":
    main()
