"""The check of a GPU machine: nothing is lost when a case fails, a process dies or time runs out; and what it times."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from devices import on_device

from cryoet_core import backend, kernels

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import floors  # noqa: E402
import gpu_check  # noqa: E402
import kernel_cases  # noqa: E402
import step_cases  # noqa: E402
from run_times import read_run_times  # noqa: E402


@pytest.fixture
def records(tmp_path):
    return gpu_check.Records(tmp_path / "results.jsonl")


@pytest.fixture
def check(records, tmp_path):
    """A check of one minute whose processes find the benchmarks."""
    environment = gpu_check.environment_of(tmp_path / "site", None, rehearse=True)
    return gpu_check.Check(records, tmp_path / "log.txt", tmp_path, environment, True, time.monotonic() + 60, 1.0)


def events(records, part):
    return [(r["case"], r["event"]) for r in records.read(part) if r["event"] != "start"]


def script(tmp_path, body):
    """A process that runs three cases; ``body`` is what the case "b" does."""
    path = tmp_path / "cases.py"
    path.write_text(
        "import os, signal, sys, time\nimport gpu_check\n"
        "records = gpu_check.Records(sys.argv[1])\n"
        f"def b():\n    {body}\n    return {{}}\n"
        "gpu_check.attempt(records, 'part', 'a', lambda: {'seconds': 1})\n"
        "gpu_check.attempt(records, 'part', 'b', b)\n"
        "gpu_check.attempt(records, 'part', 'c', lambda: {})\n"
    )
    return [sys.executable, path, tmp_path / "results.jsonl"]


def test_a_case_that_fails_does_not_stop_the_others(records, tmp_path, check):
    found = check.again_until_done("part", script(tmp_path, "1 / 0"), time.monotonic() + 30)
    assert found == "ran"
    assert events(records, "part") == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert "division by zero" in records.read("part")[3]["error"]


def test_a_process_that_dies_is_followed_by_another_for_the_rest(records, tmp_path, check):
    body = "os.kill(os.getpid(), signal.SIGKILL)"
    assert check.again_until_done("part", script(tmp_path, body), time.monotonic() + 30) == "ran"
    assert events(records, "part") == [("a", "done"), ("b", "died"), ("c", "done")]


def test_a_broken_device_ends_the_process_and_another_goes_on(records, tmp_path, check):
    body = "gpu_check.device_alive = lambda: False; raise RuntimeError('an illegal memory access')"
    assert check.again_until_done("part", script(tmp_path, body), time.monotonic() + 30) == "ran"
    assert events(records, "part") == [("a", "done"), ("b", "failed"), ("c", "done")]


def test_a_part_that_takes_too_long_is_killed_with_its_children_and_keeps_what_it_had(records, tmp_path, check):
    body = "import subprocess; subprocess.Popen(['sleep', '61.5']); time.sleep(60)"
    start = time.monotonic()
    assert check.again_until_done("part", script(tmp_path, body), start + 4) == "cut"
    assert time.monotonic() - start < 15
    assert events(records, "part") == [("a", "done")]
    assert records.unfinished("part") == {"b"}
    assert "- CUT b" in gpu_check.part_lines("part", records.read("part"))
    deadline = time.monotonic() + 5  # a killed process leaves when the machine comes to it
    while _asleep() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _asleep()


def _asleep():
    return [p for p in Path("/proc").glob("[0-9]*/cmdline") if _reads(p) == b"sleep\x0061.5\x00"]


def _reads(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_every_outcome_of_pytest_is_recorded_also_after_a_crash(records, tmp_path, check):
    (tmp_path / "test_four.py").write_text(
        "import os, signal, pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip\ndef test_left_out(): pass\n"
        "def test_crash(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def test_last(): pass\n"
    )
    assert check.tests("step tests", [tmp_path / "test_four.py"], time.monotonic() + 50, []) == "ran"
    found = {case.split("::")[-1]: event for case, event in events(records, "step tests: test_four")}
    outcomes = {"good": "done", "bad": "failed", "left_out": "skipped", "crash": "died", "last": "done"}
    assert found == {f"test_{name}": event for name, event in outcomes.items()}
    assert "| test_four | 2 | 1 | 1 | 1 |" in gpu_check.part_lines("step tests", records.read())


def test_a_search_that_is_cut_says_how_long_it_would_have_taken(records):
    records.write("matching 3", "hierarchical", "start")
    records.write("matching 3", "hierarchical", "progress", done=25, of=100, seconds=10.0)
    lines = gpu_check.part_lines("matching 3", records.read())
    assert any("25% after 10 s" in line and "extrapolated to 40 s" in line for line in lines)


def test_wheels_are_unpacked_without_pip(tmp_path):
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir(), site.mkdir()
    with zipfile.ZipFile(wheels / "some_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_package/__init__.py", "VALUE = 3")
        wheel.writestr("some_package-1.0.data/purelib/other_module.py", "from some_package import VALUE")
        wheel.writestr("some_package-1.0.data/scripts/tool", "#!python")
    assert gpu_check.unpack_wheels(wheels, site) == ["some_package-1.0-py3-none-any.whl"]
    printed = subprocess.run(
        [sys.executable, "-c", "import other_module; print(other_module.VALUE)"],
        env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert printed.stdout == "3\n"
    assert not (site / "tool").exists()


def test_the_check_runs_on_the_stand_in_and_writes_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "PARTS", [p for p in gpu_check.PARTS if p[0] in ("device", "kernels")])
    assert gpu_check.check(tmp_path / "out", None, 2.0, rehearse=True) == 0
    found = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    timed = {r["case"] for r in found if r["part"] == "kernels" and r["event"] == "done"}
    assert timed == {k.name for k in kernels.KERNELS}
    assert all(r["ms"] > 0 and r["share"] > 0 for r in found if r["part"] == "kernels" and r["event"] == "done")
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| kernels | ran |" in summary and "stand-in" in capsys.readouterr().out


@pytest.mark.skipif(backend.gpu_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_checks_nothing(tmp_path, capsys):
    assert gpu_check.check(tmp_path / "out", None, 1.0, rehearse=False) == 2
    assert "no CUDA device" in capsys.readouterr().out


def test_results_of_kernels_stay_on_the_device():
    with on_device("cuda source"):
        for case in kernel_cases.kernel_cases(kernel_cases.TINY, "cuda:0", (kernel_cases.poses,)):
            assert backend.is_gpu_array(case.run())


@pytest.mark.parametrize("name", step_cases.STEPS)
def test_every_step_runs_at_a_tiny_size(name):
    case = step_cases.STEPS[name](step_cases.TINY, "cpu")
    assert case.run() is not None
    assert case.work.floor(floors.Rates(1e9, 1e9, dict.fromkeys(floors.KINDS, 1e9))) > 0


def test_the_counts_behind_the_floors():
    assert floors.real_fft((4096, 4096)) == pytest.approx(2.5 * 2**24 * 24)
    assert floors.ctf((4096, 4096), 512).fft["tile"] == pytest.approx(floors.real_fft((512, 512), 225))
    assert floors.lattice_points(1.0) == 7
    assert floors.lattice_points(2.5) == 81
    assert floors.motion((8, 8), 4).fft["view"] == pytest.approx(floors.real_fft((8, 8), 6))
    work = floors.Work(bytes=100.0, flops=30.0, fft={"view": 20.0})
    rates = floors.Rates(10.0, 10.0, {"view": 4.0})
    assert work.floor(rates) == pytest.approx(10.0)
    assert work.floor(floors.Rates(100.0, 10.0, {"view": 4.0})) == pytest.approx(8.0)
    assert work.times(3).floor(rates) == pytest.approx(30.0)


def test_seconds_of_a_finished_run(tmp_path):
    header = "s\th:m:s\tmax_rss\tcpu_time\n"
    (tmp_path / "benchmarks" / "correct_ctf").mkdir(parents=True)
    (tmp_path / "benchmarks" / "report.tsv").write_text(header + "1.5\t0:00:01\tNA\tNA\n")
    (tmp_path / "benchmarks" / "correct_ctf" / "TS_01.tsv").write_text(header + "2.5\t0:00:02\t300.0\t2.0\n")
    found = {(r.rule, r.name): r for r in read_run_times(tmp_path)}
    assert found["correct_ctf", "TS_01"].seconds == 2.5
    assert found["correct_ctf", "TS_01"].peak_mb == 300.0
    assert math.isnan(found["report", ""].cpu_seconds)
    assert read_run_times(tmp_path / "nowhere") == []
