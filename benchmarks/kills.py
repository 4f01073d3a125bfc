"""Small runs that are killed at random moments, and on disks that fill up: the same command finishes, and every file
is that of an undisturbed run.

    make kills                                        40 kills and ten sizes of disk, about an hour on two cores
    python benchmarks/kills.py --kills 4 --disks 0

Half of the kills hit the main process alone, half the whole run. After each the processes of the run are counted 5 s
later, and the same command is given again. At the end the files are compared (all but logs, run times and Snakemake's
own records), and temporary files are looked for. A full disk is a file system in memory of a size that holds a part
of the run; making it needs the rights to mount (unshare -rm), and the disks are left out, with a word, where a user
has none.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {
    "results_dir": "results",
    "seed": 5,
    "device": "cpu",
    "data": {"simulate": True},
    "simulate": {
        "n_series": 1,
        "max_tilt_deg": 48,
        "tilt_step_deg": 8,
        "dose_per_tilt_e_per_a2": 8,
        "frames_per_tilt": 2,
        "image_width_px": 384,
        "image_height_px": 352,
        "pixel_size_angst": 7.0,
        "n_particles": 16,
        "n_decoys": 5,
        "n_crowders": 100,
        "thickness_angst": 700,
        "n_dark_views": 0,
        "density_box_px": 64,
    },
    "estimate_ctf": {"defocus_angst": 30000},
    "align_tilt_series": {"pixel_size_angst": 21},
    "preprocess_tilt_series": {"binning": 3},
    "reconstruct_tomogram": {"thickness_angst": 900},
    "match_template": {
        "max_particles": 12,
        "n_sigma": 1.0,
        "background": "none",
        "angular_step_deg": 30,
        "slab_thickness_angst": 900,
    },
    "averaging": [
        {
            "name": "bin3",
            "reference": "template",
            "extract_subtomos": {"binning": 3, "box_px": 32, "crop_px": 20},
            "refine": {"initial_lowpass_angst": 60, "mask_diameter_angst": 320},
        }
    ],
}
DIFFERS = ("logs", "benchmarks", "run_times.tsv")  # say how long something took


def command(folder: Path, cores: int) -> list[str]:
    return [
        *(sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")),
        *("--workflow-profile", str(ROOT / "profiles/default"), "--directory", str(folder)),
        *("--configfile", str(folder / "small.yaml"), "--cores", str(cores), "--quiet", "all"),
    ]


def prepared(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


def run(folder: Path, cores: int) -> subprocess.CompletedProcess:
    return subprocess.run(command(folder, cores), capture_output=True, text=True)


def files(folder: Path) -> dict[str, str]:
    """sha256 of every result."""
    found = {}
    for path in sorted((folder / "results").rglob("*")):
        name = path.relative_to(folder / "results")
        if path.is_file() and name.parts[0] not in DIFFERS:
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files, scripts and locks that a finished run should not leave."""
    found = [p for p in (folder / "results").rglob("*") if ".tmp" in p.name or p.name == "scratch"]
    found += [*folder.glob(".snakemake/scripts/*"), *folder.glob(".snakemake/locks/*")]
    return [str(p.relative_to(folder)) for p in found + list(folder.glob(".snakemake/tiltline/*"))]


def processes(folder: Path) -> list[psutil.Process]:
    """Living processes that work in ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def kill_once(folder: Path, cores: int, after_s: float, whole: bool) -> tuple[bool, int]:
    """Start the run and kill it -> (whether it was still running, processes alive 5 s later)."""
    main = subprocess.Popen(
        command(folder, cores), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        main.wait(after_s)
        return False, 0
    except subprocess.TimeoutExpired:
        pass
    if whole:
        os.killpg(main.pid, signal.SIGKILL)
    else:
        main.kill()
    main.wait()
    end = time.monotonic() + 5
    while processes(folder) and time.monotonic() < end:
        time.sleep(0.1)
    return True, len(processes(folder))


def kills(folder: Path, count: int, cores: int, expected: dict, seconds: float, rng: random.Random) -> list[str]:
    """Kill runs until ``count`` were killed; a run that finished is judged and begins anew."""
    wrong, killed, finished = [], 0, 0
    prepared(folder)
    while killed < count:
        hit, alive = kill_once(folder, cores, rng.uniform(0.5, 0.6 * seconds), whole=killed % 2 == 1)
        killed += hit
        print(f"kill {killed} of {count}: {alive} processes alive after 5 s", flush=True)
        wrong += [f"kill {killed}: {alive} orphans"] * bool(alive)
        if not hit or killed == count:
            finished += 1
            wrong += judged(folder, cores, expected, f"run {finished}")
            shutil.rmtree(folder)
            prepared(folder)
    return wrong


def judged(folder: Path, cores: int, expected: dict, name: str) -> list[str]:
    """The same command once more: it finishes, with the files of the undisturbed run and nothing left over."""
    last = run(folder, cores)
    wrong = [f"{name}: exit {last.returncode}: {last.stderr[-1500:]}"] if last.returncode else []
    found = files(folder)
    wrong += [f"{name}: {key} is not the same" for key in expected if found.get(key) != expected[key]]
    wrong += [f"{name}: {key} was not in the undisturbed run" for key in found if key not in expected]
    wrong += [f"{name}: left over: {path}" for path in leftovers(folder)]
    print(f"{name}: {len(found)} files, {len(wrong)} faults", flush=True)
    return wrong


def can_mount() -> bool:
    return (
        subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
        if shutil.which("unshare")
        else False
    )


def full_disk(folder: Path, kilobytes: int, cores: int) -> tuple[int, str]:
    """A run in ``folder`` on a file system of this size, its files then copied back -> (exit code, what was said)."""
    quoted = " ".join(f"'{part}'" for part in command(folder, cores))
    disk = f"mount -t tmpfs -o size={kilobytes}k none {folder} && cp -a {folder}.kept/. {folder}/"
    script = f"{disk} && cd {folder} && {quoted}; code=$?; cp -a {folder}/. {folder}.kept/; exit $code"
    kept = Path(f"{folder}.kept")
    prepared(kept)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    shutil.rmtree(folder)
    kept.rename(folder)
    logs = "".join(p.read_text(errors="replace") for p in folder.glob("results/logs/**/*.log"))
    return done.returncode, done.stdout + done.stderr + logs


def disks(folder: Path, count: int, cores: int, expected: dict, total_kb: int) -> list[str]:
    """``count`` sizes between almost nothing and almost enough."""
    wrong = []
    for number in range(count):
        kilobytes = int(total_kb * (0.02 + 0.88 * number / max(1, count - 1)))
        prepared(folder)
        code, said = full_disk(folder, kilobytes, cores)
        print(f"disk of {kilobytes} kB: exit {code}, {'E-DISK' if 'E-DISK-' in said else 'not said'}", flush=True)
        if code == 0:
            wrong.append(f"disk of {kilobytes} kB: nothing was full")
        if "E-DISK-" not in said:
            wrong.append(f"disk of {kilobytes} kB: not said: {said[-1500:]}")
        if "E-BUG" in said or "Traceback" in said:
            wrong.append(f"disk of {kilobytes} kB: a traceback: {said[said.find('Traceback') :][:1500]}")
        wrong += judged(folder, cores, expected, f"disk of {kilobytes} kB")
        shutil.rmtree(folder)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--undisturbed", type=Path, help="folder of a finished run to compare with, made if it is not there"
    )
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tiltline-kills-")).resolve()
    calm = (given.undisturbed or work / "calm").resolve()
    try:
        prepared(calm)
        began = time.monotonic()
        first = run(calm, given.cores)
        if first.returncode:
            print(first.stderr[-3000:], file=sys.stderr)
            return 1
        seconds, expected = max(30.0, time.monotonic() - began), files(calm)
        print(f"undisturbed: {len(expected)} files", flush=True)
        wrong = kills(work / "killed", given.kills, given.cores, expected, seconds, random.Random(given.seed))
        if given.disks and can_mount():
            total = sum(p.stat().st_size for p in calm.rglob("*") if p.is_file()) // 1024
            wrong += disks(work / "disk", given.disks, given.cores, expected, total)
        elif given.disks:
            print("no right to mount: full disks are not tried (tests/unit/test_os_errors.py limits the size of files)")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n".join(wrong) or "all runs finished with the same files; no orphans, nothing left over")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
