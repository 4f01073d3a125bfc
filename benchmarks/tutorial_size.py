"""A run of any size judged step by step: what it cost, and how far it is from the simulator's truth.

    python benchmarks/tutorial_size.py RESULTS TRUTH [--before RESULTS_OF_ANOTHER_RUN] [--no-floors] [--mask-diameter-angst 350]

RESULTS is the folder of a finished run, or of one that is under way: what is not there yet is left out. TRUTH has a folder for each series, as the simulator
writes it (TS_01/truth or TS_01), and density.mrc; of a run with `simulate: true` it is RESULTS/simulate. Tables are Markdown.

Costs come from Snakemake's benchmark files. The floor of a step is the least work it cannot do without, timed here, on one core, at the run's sizes: FFTs by
SciPy, back-projection by plain straight-line interpolation, copies by NumPy. Nothing is assumed about the machine. Share of floor = floor / CPU time of the step.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import scipy.fft
from scipy.spatial.distance import cdist

from cryoet_core.ctf.recentre import defocus_at_tomogram_centre
from cryoet_core.errors import CryoetError
from cryoet_core.fsc import resolution_at
from cryoet_core.io.mrc import read_header, read_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_particles, read_tilt_series
from cryoet_core.picking.evaluate import match_picks_aligned
from cryoet_core.report import averages, evaluate
from cryoet_core.report.results import Results
from cryoet_core.resources import usage

TO_TOMOGRAMS = (
    "import_tilt_series", "correct_motion", "estimate_ctf", "decide_handedness", "exclude_views", "erase_xrays", "align_tilt_series", "correct_ctf",
    "preprocess_tilt_series", "reconstruct_tomogram",
)  # fmt: skip
STEPS = (*TO_TOMOGRAMS, "import_reference", "resize_reference", "match_template", "extract_subtomos", "initial_model", "reconstruct_particle", "refine", "postprocess", "relion_project", "report")
ANGST_TO_NM = 0.1


@dataclass(frozen=True)
class Run(Results):
    """A run and the folder of its truth."""

    truth_dir: str = ""

    @classmethod
    def found(cls, folder, truth_dir) -> Run:
        """The run of ``folder``: series are those imported; rounds those refined, coarse ones first."""
        folder = Path(folder)
        maps = sorted(folder.glob("refine/*/map.mrc"), key=lambda p: -read_header(p).pixel_size_angst)
        series = tuple(sorted(p.parent.name for p in folder.glob("import_tilt_series/*/summary.json")))
        return cls(str(folder), series, tuple(p.parent.name for p in maps), True, str(truth_dir))

    def truth_path(self, ts: str, name: str) -> Path:
        folder = Path(self.truth_dir) / ts
        return (folder / "truth" if (folder / "truth").is_dir() else folder) / name

    def truth(self, ts: str):
        return read_tilt_series(self.truth_path(ts, f"{ts}.star"))

    def truth_json(self, ts: str) -> dict:
        return read_summary(self.truth_path(ts, "truth.json"))

    def true_particles(self, ts: str):
        return read_particles(self.truth_path(ts, "particles.star"))

    @property
    def true_density(self):
        return read_mrc(Path(self.truth_dir) / "density.mrc")


# ---- cost -------------------------------------------------------------------------------------------------------
def bytes_on_disk(folder: Path) -> int:
    """What the files below a folder take, each once; links count nothing."""
    seen, total = set(), 0
    for path in folder.rglob("*"):
        status = path.lstat()
        if path.is_file() and not path.is_symlink() and status.st_ino not in seen:
            seen.add(status.st_ino)
            total += status.st_blocks * 512
    return total


def job_costs(folder: Path) -> dict[str, list[dict]]:
    """CPU s, wall s, peak MB of every job by step, as the jobs noted them; where they did not, as Snakemake sampled them, which misses what ends quickly."""
    noted = usage.last_of_jobs([e for e in usage.read(folder / "logs") if e.event != usage.STARTED])
    jobs: dict[str, list[dict]] = {}
    for path in sorted((folder / "benchmarks").rglob("*.tsv")):
        parts = path.relative_to(folder / "benchmarks").with_suffix("").parts
        event = noted.get(" ".join(parts))
        with open(path) as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                values = {name: _number(row.get(key)) for name, key in (("cpu", "cpu_time"), ("wall", "s"), ("peak", "max_rss"))}
                if event:
                    values = {"cpu": event.cpu_s, "wall": event.wall_s, "peak": event.peak_mb}
                jobs.setdefault(parts[0], []).append(values | {"job": path.stem})
    return jobs


def _number(text) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _total(jobs, key, combine=sum):
    values = [job[key] for job in jobs if job[key] is not None]
    return combine(values) if values else None


def costs(run: Run) -> dict[str, dict]:
    """CPU s, wall s (sums over jobs), peak MB (largest job), GB on disk of each step."""
    jobs, folder = job_costs(Path(run.folder)), Path(run.folder)
    steps = [s for s in STEPS if s in jobs] + [s for s in jobs if s not in STEPS]
    return {
        step: {
            "jobs": len(jobs[step]), "cpu": _total(jobs[step], "cpu"), "wall": _total(jobs[step], "wall"),
            "peak": _total(jobs[step], "peak", max), "disk": bytes_on_disk(folder / step) / 1e9 if (folder / step).is_dir() else 0.0,
        }
        for step in steps
    }  # fmt: skip


def disk_multiple(run: Run) -> float:
    """Everything up to the tomograms in units of views x pixels x 2 bytes x 3 (a stack and its halves in half precision)."""
    unit = 0
    for ts in run.series:
        table = run.table("import_tilt_series", ts)
        unit += len(table) * np.prod(table.image_size_px, dtype=np.int64) * 6
    used = sum(bytes_on_disk(Path(run.folder) / step) for step in TO_TOMOGRAMS if (Path(run.folder) / step).is_dir())
    return used / unit


# ---- floors -----------------------------------------------------------------------------------------------------
def cpu_seconds(work, repeats=3) -> float:
    """Least CPU time of a call, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@numba.njit(cache=True, fastmath=True)
def _back_project(out, row, slope, start):
    """Add one row of a view to a slice (nz, nx) by straight-line interpolation: the inner loop of weighted back-projection."""
    for z in range(out.shape[0]):
        at = start + slope * z
        for x in range(out.shape[1]):
            position = at + x * np.float32(0.7)
            low = int(position)
            weight = position - low
            out[z, x] += row[low] + weight * (row[low + 1] - row[low])


def _copy_view(view, folder):
    """Write a view and read it back."""
    path = Path(folder) / "view"
    view.tofile(path)
    np.fromfile(path, view.dtype)


def floors(run: Run) -> tuple[dict[str, float], list[str]]:
    """(CPU s of the least work of each step, all series; what was counted)."""
    rng, units, totals = np.random.default_rng(0), {}, {}
    width, height = run.table("import_tilt_series", run.series[0]).image_size_px
    view = rng.standard_normal((height, width), dtype=np.float32)
    spectrum = scipy.fft.rfft2(view)
    units["rfft"] = cpu_seconds(lambda: scipy.fft.rfft2(view))
    units["irfft"] = cpu_seconds(lambda: scipy.fft.irfft2(spectrum, s=view.shape))
    tile = np.ascontiguousarray(view[:512, :512])
    units["tile"] = cpu_seconds(lambda: scipy.fft.rfft2(tile), 20)
    with tempfile.TemporaryDirectory(dir=run.folder) as folder:
        units["copy"] = cpu_seconds(lambda: _copy_view(view.astype(np.float16), folder))
    row, out = rng.standard_normal(2048).astype(np.float32), np.zeros((256, 1024), np.float32)
    units["update"] = cpu_seconds(lambda: _back_project(out, row, np.float32(0.5), np.float32(20)), 20) / out.size
    for ts in run.series:
        table = run.table("import_tilt_series", ts)
        views, frames = len(table), int(table.tilts["n_frames"].sum())
        tiles = views * max(1, 2 * height // 512 - 1) * max(1, 2 * width // 512 - 1)
        work = {
            "correct_motion": frames * units["rfft"] + 2 * views * units["irfft"],
            "estimate_ctf": tiles * units["tile"],
            "erase_xrays": views * units["copy"],
        }
        tomogram = run.path("reconstruct_tomogram", ts, f"{ts}.mrc")
        if tomogram.is_file():
            used = int(run.table("reconstruct_tomogram", ts).included.sum())
            halves = len([p for p in tomogram.parent.glob(f"{ts}*.mrc") if p.stem in (ts, f"{ts}_even", f"{ts}_odd")])
            work["correct_ctf"] = 3 * used * (units["rfft"] + units["irfft"])
            work["reconstruct_tomogram"] = halves * used * float(np.prod(read_header(tomogram).shape)) * units["update"]
        for step, seconds in work.items():
            totals[step] = totals.get(step, 0.0) + seconds
    notes = [
        f"calibration, CPU s on one core: FFT of a view of {width} x {height} {units['rfft']:.3f}, back {units['irfft']:.3f}; FFT of 512 x 512 {units['tile']:.5f}; "
        f"a view written and read in half precision {units['copy']:.3f}; 10^9 voxel updates {1e9 * units['update']:.2f}",
        "floors: correct_motion = an FFT per frame and two back per view; estimate_ctf = FFTs of half-overlapping tiles of 512; erase_xrays = a view written and "
        "read per view; correct_ctf = an FFT pair of the full view for each of the three stacks and view used; reconstruct_tomogram = voxels x views x tomograms",
    ]
    return totals, notes


# ---- errors -----------------------------------------------------------------------------------------------------
def defocus_error(run: Run, ts: str) -> dict:
    """Median |error| (nm) of the mean defocus at the tomogram's centre, by the found geometry, of the included views to 45 degrees."""
    found = defocus_at_tomogram_centre(run.table("align_tilt_series", ts))
    truth = run.truth(ts).tilts.set_index("tilt_id").loc[found.tilts["tilt_id"]]
    mean = [0.5 * (t["defocus_u_angst"] + t["defocus_v_angst"]).to_numpy(float) for t in (found.tilts, truth)]
    chosen = found.included & (np.abs(found.tilts["nominal_tilt_deg"].to_numpy(float)) <= 45)
    return {"defocus error at the tomogram's centre, nm": float(np.median(np.abs(mean[0] - mean[1])[chosen])) * ANGST_TO_NM}


def pick_errors(run: Run, ts: str) -> dict:
    """Precision, recall, F1 and median errors of the picks, after the rigid motion between the picks' frame and the truth's."""
    found, _, _ = match_picks_aligned(run.picks(ts), evaluate.true_species(run, ts), evaluate.MAX_PICK_DISTANCE_ANGST)
    both = found.precision + found.recall
    return {
        "picks": len(run.picks(ts)), "precision": found.precision, "recall": found.recall,
        "F1": 2 * found.precision * found.recall / both if both else 0.0, "pick angle error, deg": found.median_angle_deg,
        "pick distance, A": found.median_distance_angst,
    }  # fmt: skip


def gold_errors(run: Run, ts: str, error) -> dict:
    """How many of the true beads of the field the summaries of alignment or matching name (``gold_beads``: x, y, z _angst), within 50 A."""
    truth = [bead for bead in run.truth_json(ts).get("gold_beads", []) if bead["in_field"]]
    out = {}
    for step in ("erase_xrays", "align_tilt_series", "match_template"):
        path = run.path(step, ts, "summary.json")
        summary = read_summary(path) if path.is_file() else {}
        named = summary.get("gold_beads")
        if "gold" in summary:
            named = [dict(zip(("x_angst", "y_angst", "z_angst"), place, strict=True)) for place in summary["gold"]["position_angst"]]
        if not isinstance(named, list) or not truth or not all(isinstance(b, dict) and "z_angst" in b for b in named):
            continue
        true, found = (np.array([[b[f"{a}_angst"] for a in "xyz"] for b in beads]).reshape(-1, 3) for beads in (truth, named))
        near = cdist(error.found_from_true(true), found) < 50 if len(found) else np.zeros((len(true), 0), bool)
        out[f"gold in {step}: true beads found"] = f"{int(near.any(axis=1).sum())} of {len(true)}"
        out[f"gold in {step}: named, not in the field's truth"] = int((~near.any(axis=0)).sum())
    return out


def series_errors(run: Run, ts: str):
    """(errors of one series, its alignment error or None); a step that is not there yet is left out."""
    numbers, error = {}, None
    if run.path("correct_motion", ts, f"{ts}_motion.star").is_file():
        numbers["motion, px rms"] = evaluate.motion_error(run, ts)["motion_error_px_rms"]
    if run.path("exclude_views", ts, f"{ts}.star").is_file():
        views = evaluate.view_errors(run, ts)
        numbers |= {"dark views missed": views["dark_missed"], "good views left out": views["good_lost"]}
    if run.path("align_tilt_series", ts, f"{ts}.star").is_file():
        aligned, error = evaluate.alignment_errors(run, ts)
        numbers |= {
            "alignment, A rms": aligned["alignment_error_angst_rms"], "tilt axis error, deg": aligned["axis_error_deg"],
            "tilt offset error, deg": aligned["tilt_offset_error_deg"],
        }  # fmt: skip
        numbers |= defocus_error(run, ts)
        numbers |= gold_errors(run, ts, error)
    if run.path("match_template", ts, "particles.star").is_file():
        numbers |= pick_errors(run, ts)
    return numbers, error


def round_errors(run: Run, name: str, alignments: dict, mask_diameter_angst: float) -> dict:
    """Poses after refine, and the map against the true density and its mirror image."""
    numbers = {"particles": len(run.refined(name))}
    try:
        poses = evaluate.particle_errors(run, name, alignments)
        numbers |= {
            "true ones among them": poses["matched_particles"], "pose error, deg": poses["pose_error_deg_median"],
            "position error, A": poses["position_error_angst_median"], "poses within 20 deg": poses["poses_within_20_deg"],
        }  # fmt: skip
    except (ValueError, IndexError, CryoetError) as problem:
        numbers["pose error, deg"] = f"none: {problem}"
    if run.path("postprocess", name, "map.mrc").is_file():
        volume, pixel = run.volume("postprocess", name, "map.mrc")
        curves = averages.fsc_curves(run, name)
        own = next(v for k, v in curves.items() if k.endswith("FourierShellCorrelationCorrected"))
        truth = evaluate.compare_map(volume, pixel, *run.true_density, mask_diameter_angst)
        numbers |= {
            "Nyquist, A": 2 * pixel, "own resolution (0.143), A": resolution_at(own, pixel, volume.shape[0], 0.143),
            "resolution against truth (0.5), A": truth["resolution_truth_0.5_angst"], "FSC with truth at Nyquist": float(truth["fsc_truth"][-2]),
            "correlation with truth": truth["correlation_truth"], "with its mirror image": truth["correlation_mirrored"],
        }  # fmt: skip
    return numbers


def errors(run: Run, mask_diameter_angst: float) -> dict[str, dict]:
    """Errors of every series and every round."""
    table, alignments = {}, {}
    for ts in run.series:
        table[ts], alignments[ts] = series_errors(run, ts)
    for name in run.rounds:
        if all(alignments.values()):
            table[name] = round_errors(run, name, alignments, mask_diameter_angst)
    return table


# ---- tables -----------------------------------------------------------------------------------------------------
def text(value) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rounded(value: float) -> str:
    """Three digits, at most three of them behind the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def print_table(header, rows) -> None:
    rows = [[text(v) for v in row] for row in rows]
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    for row in (header, ["-" * w for w in widths], *rows):
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |")


def print_costs(runs: dict[str, Run], with_floors: bool) -> None:
    """One row per step; with two runs each figure as before -> now."""
    tables = {label: costs(run) for label, run in runs.items()}
    now = tables["now"]
    least, notes = floors(runs["now"]) if with_floors else ({}, [])
    steps = list(now) + [s for s in tables.get("before", {}) if s not in now]

    def cell(step, key, scale=1.0):
        values = [t[step][key] if step in t else None for t in tables.values()]
        return " -> ".join("-" if v is None else rounded(v * scale) for v in values)

    def share(step):
        cpu = now.get(step, {}).get("cpu")
        return f"{least[step] / cpu:.0%}" if step in least and cpu else "-"

    rows = [[s, now.get(s, {}).get("jobs"), cell(s, "cpu"), cell(s, "wall"), cell(s, "peak", 1e-3), cell(s, "disk"), share(s)] for s in steps]
    part = [s for s in steps if s in TO_TOMOGRAMS]
    for label, chosen in (("up to the tomograms", part), ("all", steps)):
        sums = [[_total([t[s] for s in chosen if s in t], key, max if key == "peak" else sum) for t in tables.values()] for key in ("cpu", "wall", "peak", "disk")]
        sums[2] = [None if v is None else v * 1e-3 for v in sums[2]]
        rows.append([label, None, *(" -> ".join("-" if v is None else rounded(v) for v in pair) for pair in sums), "-"])
    print_table(["step", "jobs", "CPU s", "wall s", "peak GB", "disk GB", "share of floor"], rows)
    multiples = " -> ".join(f"{disk_multiple(run):.2f}" for run in runs.values())
    print(f"\ndisk of everything up to the tomograms / (views x pixels x 2 bytes x 3): {multiples}")
    for note in notes:
        print(note)


def print_errors(runs: dict[str, Run], mask_diameter_angst: float) -> None:
    tables = {label: errors(run, mask_diameter_angst) for label, run in runs.items()}
    for names in (runs["now"].series, runs["now"].rounds):
        columns = [(name, label) for name in names for label in tables if name in tables[label]]
        keys = list(dict.fromkeys(k for name, label in columns for k in tables[label][name]))
        if keys:
            header = ["error", *(name if len(tables) == 1 else f"{name} {label}" for name, label in columns)]
            print()
            print_table(header, [[key, *(tables[label][name].get(key) for name, label in columns)] for key in keys])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("truth")
    parser.add_argument("--before", help="results of another run on the same data; its figures come first")
    parser.add_argument("--no-floors", action="store_true", help="do not time the floors (10 s of CPU)")
    parser.add_argument("--mask-diameter-angst", type=float, default=350.0, help="sphere in which maps are compared")
    chosen = parser.parse_args()
    given = ({"before": chosen.before} if chosen.before else {}) | {"now": chosen.results}
    runs = {label: Run.found(folder, chosen.truth) for label, folder in given.items()}
    if not runs["now"].series:
        parser.error(f"{chosen.results} holds no imported tilt series")
    print(f"{os.cpu_count()} cores; {', '.join(runs['now'].series)}; sums over jobs, the largest peak\n")
    print_costs(runs, not chosen.no_floors)
    print_errors(runs, chosen.mask_diameter_angst)


if __name__ == "__main__":
    main()
