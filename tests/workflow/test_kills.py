"""A killed run leaves no jobs, and the same command goes on; a living one is not disturbed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cryoet_core import guardian, holder
from cryoet_core.errors import CryoetError

ROOT = Path(__file__).resolve().parents[2]
SLOW = """import os, time
from pathlib import Path
for output in map(Path, snakemake.output):
    output.parent.mkdir(parents=True, exist_ok=True)
    half = output.with_name(f".{output.stem}.{os.getpid()}-0123abcd.tmp")
    half.write_text("half")
    while not Path("go").exists():
        time.sleep(0.05)
    half.rename(output)
    output.write_text(snakemake.rule)
"""


def command(*more):
    return [sys.executable, "-m", "snakemake", "--cores", "2", "--until", "simulate", "--quiet", "all", *more]


@pytest.fixture
def folder(tmp_path):
    """The workflow with scripts that wait for a file "go"."""
    for name in ("Snakefile", "workflow", "config", "profiles"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for script in (tmp_path / "workflow/scripts").glob("*.py"):
        script.write_text(SLOW)
    return tmp_path


def started(folder, wait=60):
    """A run in its own session whose jobs write."""
    run = subprocess.Popen(
        command(), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + wait
    while time.monotonic() < end and len(list(folder.glob("results/simulate/*/**/.*.tmp"))) < 2:
        time.sleep(0.1)
    assert list(folder.glob("results/simulate/*/**/.*.tmp")), "no job has begun"
    return run


def jobs_in(folder):
    """Living processes of runs in ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = (
                process.cwd() == str(folder)
                or guardian.MARK in process.environ()
                and str(folder) in " ".join(process.cmdline())
            )
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_killed_run_leaves_no_jobs_and_the_same_command_goes_on(folder):
    run = started(folder)
    assert len(jobs_in(folder)) >= 3  # main and two scripts
    run.kill()
    run.wait()
    end = time.monotonic() + 5
    while jobs_in(folder) and time.monotonic() < end:
        time.sleep(0.1)
    assert jobs_in(folder) == []
    assert list(folder.glob(".snakemake/locks/*.lock")) and list(folder.glob("results/**/.*.tmp"))
    (folder / "go").touch()
    again = subprocess.run(command(), cwd=folder, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr[-2000:]
    assert f"An earlier run was killed: process {run.pid} of " in again.stderr and socket.gethostname() in again.stderr
    assert list(folder.glob("results/**/.*.tmp")) == [] and list(folder.glob(".snakemake/locks/*.lock")) == []
    assert list(folder.glob(".snakemake/tiltline/*")) == [] and list(folder.glob(".snakemake/scripts/*")) == []
    assert len(list(folder.glob("results/simulate/*/summary.json"))) == 2


def test_a_living_run_refuses_a_second_one_and_says_who_it_is(folder):
    run = started(folder)
    try:
        second = subprocess.run(command(), cwd=folder, capture_output=True, text=True, timeout=60)
        assert second.returncode == 3
        assert (
            "E-LOCK-01: results: another run works on these results: found process " in second.stderr
            and str(run.pid) in second.stderr
        )
        assert "Traceback" not in second.stderr
        look = subprocess.run(command("-n"), cwd=folder, capture_output=True, text=True, timeout=60)
        assert look.returncode == 0, look.stderr
    finally:
        (folder / "go").touch()
        assert run.wait(60) == 0


def test_a_number_of_a_process_that_was_used_again_is_not_the_holder(folder):
    (folder / ".snakemake/tiltline").mkdir(parents=True)
    (folder / ".snakemake/locks").mkdir()
    (folder / ".snakemake/locks/0.output.lock").write_text("results/simulate/TS_01/summary.json\n")
    record = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time() - 3600,
        "user": "someone",
        "command": "snakemake",
        "results": str(folder / "results"),
        "token": "0" * 16,
    }
    (folder / ".snakemake/tiltline/other.json").write_text(json.dumps(record))
    (folder / "go").touch()
    run = subprocess.run(command(), cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and "of someone on" in run.stderr, run.stderr[-2000:]


def test_nolock_leaves_the_living_alone_and_the_dead_are_cleared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(holder, "_hold", lambda results, with_guardian: None)
    ended = []
    monkeypatch.setattr(holder.guardian, "end_all", lambda token: ended.append(token) or 0)
    started, results = psutil.Process(os.getppid()).create_time(), str(tmp_path / "results")
    living = holder.Holder(socket.gethostname(), os.getppid(), started, "a", "x", results, "living")
    elsewhere = holder.Holder("another-host", 7, 0.0, "b", "y", str(tmp_path / "other"), "elsewhere")
    dead = holder.Holder(socket.gethostname(), 2**22 + 7, 0.0, "c", "z", results, "dead")
    (tmp_path / ".snakemake/tiltline").mkdir(parents=True)
    for record in (living, elsewhere, dead):
        record.file.write_text(json.dumps(vars(record)))
    with pytest.raises(CryoetError, match=f"E-LOCK-01.*process {os.getppid()} of a on "):
        holder.take("results", ["--cores", "1"])
    assert ended == []
    (said,) = holder.take("results", ["--nolock"])
    assert ended == ["dead"] and " of c on " in said and living.file.exists() and not dead.file.exists()
    assert holder.take("results", ["--unlock"]) == [] and not living.file.exists() and not elsewhere.file.exists()


def test_results_that_cannot_be_written(tmp_path, monkeypatch):
    """A loop of links, a file in the way, a closed folder: said before anything runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    for name, code in (("loop/results", "E-FILE-05"), ("file/results", "E-FILE-06"), ("/proc/results", "E-FILE-0")):
        with pytest.raises(CryoetError, match=code) as caught:
            holder.take(name, ["--cores", "1"])
        assert name.split("/")[1 if name.startswith("/") else 0] in str(caught.value) and caught.value.exit_code == 2
    assert holder.take("loop/results", ["-n"]) == [] and not (tmp_path / ".snakemake").exists()


def can_mount():
    return shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


FULL = """from pathlib import Path
try:
    with open("all", "ab") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
except OSError:
    pass
for output in map(Path, snakemake.output):
    output.parent.mkdir(parents=True, exist_ok=True)
    output.touch()
"""


@pytest.mark.skipif(not can_mount(), reason="no right to mount a small disk")
@pytest.mark.parametrize("kilobytes", [100, 4000])
def test_a_disk_that_is_too_full_for_snakemake_itself(folder, kilobytes):
    """100 kB: said before it begins. 4 MB: the first job fills the disk, so that Snakemake cannot note that it is
    done."""
    for script in (folder / "workflow/scripts").glob("*.py"):
        script.write_text(FULL)
    disk = folder / "disk"
    disk.mkdir()
    words = " ".join(command("-s", str(folder / "Snakefile"), "--configfile", str(folder / "config/config.yaml")))
    script = f"mount -t tmpfs -o size={kilobytes}k none {disk} && cd {disk} && exec {words}"
    run = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 3, run.stderr[-2000:]
    assert (
        "E-DISK-02: .snakemake: no space left" in run.stderr
        and "free in .snakemake, expected 1 MB for this step" in run.stderr
    )
    assert "E-BUG" not in run.stderr
