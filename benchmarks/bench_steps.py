"""Seconds of every step beside the least that it could take on this machine, and beside other programs.

    python benchmarks/bench_steps.py [STEP ...]              the core of every step at a fixed size, on CPU cores
    python benchmarks/bench_steps.py --series RESULTS_DIR    a finished run: every job, per series and per round

The floor is the work that a step cannot avoid (floors.py: transforms, bytes, operations of its sizes) over the rates of
one CPU core, or of the GPU with --device cuda, measured in the same run; share = floor over what it took (processor
seconds on a CPU, wall seconds on a GPU). Ratios are comparable between machines, seconds are not. With --series the
jobs are those that Snakemake measured, files and the start of Python included. Programs that are missing are named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path

import floors
import numpy as np
from run_times import read_run_times
from step_cases import BENCH, PIXEL, STEPS, TINY, WITHOUT, halves_of, view_of_blobs

from cryoet_core import backend
from cryoet_core.config.estimate_ctf import EstimateCtf
from cryoet_core.config.refine import Refine
from cryoet_core.geometry.so3 import so3_grid_for_step

QUICK = 3.0  # processor seconds below which a step is run three times


def measure(run) -> tuple[float, float]:
    """(processor seconds, wall seconds): the least of three runs, of one when it takes long."""
    best = (math.inf, math.inf)
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
        if best[0] > QUICK:
            break
    return best


def bench_step(name: str, size, rates) -> float:
    """Print the row of a step; returns its processor seconds."""
    STEPS[name](TINY, "cpu").run()  # compiles
    case = STEPS[name](size, "cpu")
    cpu, wall = measure(case.run)
    floor = case.work.floor(rates)
    print(f"{name:24s} {cpu:8.2f} {wall:8.2f} {floor:8.3f} {floor / cpu:7.1%}  {case.what}", flush=True)
    return cpu


# Other programs. Each function gives (program, its processor seconds for the same data, ours) or says why it cannot.


def against_pytme(size):
    """The same volume, template and rotations: exhaustive search, one FFT per rotation, on one core."""
    if importlib.util.find_spec("tme") is None:
        return "cannot be imported"
    from match_speed import blob_template, pytme_scores
    from step_cases import tilt_series, tilts_of

    from cryoet_core.picking.match import unique_rotations
    from cryoet_core.picking.scores import filter_tomogram, score_map
    from cryoet_core.picking.template import make_template
    from cryoet_core.picking.transfer import match_filters

    shape = tuple(2 * n for n in size.match_px)
    volume = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    series = tilt_series(shape[1], 12.0, tilts_of(41))
    template, filters = make_template(blob_template(32, 22), 12.1), match_filters(volume, series, 44, 290.0, 29.0)
    filtered = filter_tomogram(volume, filters, 12.1)
    few, region = unique_rotations(30.0, "C1")[:24], tuple(slice(0, n) for n in shape)

    def ours(rotations):
        start = time.process_time()
        score_map(filtered, template, rotations, filters, region)
        return time.process_time() - start

    def theirs(rotations):
        return pytme_scores(volume, blob_template(32, 22), rotations, 1)[1]

    ours(few[:2]), theirs(few[:2])  # compiled, and the plans of their transforms made
    turns = [[f(few) - f(few[:4]) for f in (theirs, ours)] for _ in range(3)]
    return tuple(np.min(turns, axis=0))


def against_ccderaser(size):
    """The same stack of four views: all of IMOD's search and replacement, reading and writing included."""
    if shutil.which("ccderaser") is None:
        return "not on PATH"
    import resource

    from xray_targets import run_ccderaser

    from cryoet_core.tilt_series.xrays import XraySettings, fill, find_xrays

    views = np.stack([view_of_blobs(size.view_px, PIXEL, t) for t in (0.0, 1.0, 2.0, 3.0)])
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run_ccderaser(views)
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    start = time.process_time()
    found = find_xrays(views, XraySettings())
    for row, view in enumerate(views):
        fill(view, found.mask(row), np.random.default_rng(row))
    return theirs, time.process_time() - start


def against_mrcfile(size):
    """One view with halves written and read back."""
    if importlib.util.find_spec("mrcfile") is None:
        return "cannot be imported"
    import tempfile

    import mrcfile

    from cryoet_core.io.mrc import read_mrc, write_mrc

    images = halves_of(view_of_blobs(size.view_px, PIXEL, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.mrc"

        def theirs():
            with mrcfile.new(path, images, overwrite=True):
                pass
            with mrcfile.open(path) as file:
                return file.data.copy()

        def ours():
            write_mrc(path, images, PIXEL, stack=True)
            return read_mrc(path)[0]

        return floors.cpu_seconds(theirs), floors.cpu_seconds(ours)


PEERS = {
    "match_template": ("pyTME, 20 rotations", against_pytme),
    "erase_xrays": ("IMOD's ccderaser", against_ccderaser),
    "files": ("mrcfile, write and read", against_mrcfile),
}


def bench_peers(size, names):
    print("\nOther programs on the same data, processor seconds:")
    for step, (program, compare) in PEERS.items():
        if names and step not in names:
            continue
        found = compare(size)
        if isinstance(found, str):
            print(f"  {step:22s} {program}: SKIPPED, {found}")
        else:
            theirs, ours = found
            print(f"  {step:22s} {program}: {theirs:.2f} s, ours {ours:.2f} s, ratio {theirs / ours:.2f}", flush=True)


def bench(size, names) -> int:
    """Print the table of all steps; returns how many could not be run."""
    rates, start, failed = floors.calibrate_core(), time.process_time(), 0
    print(f"One core of this machine: {rates.sentence()}")
    print(f"{'step':24s} {'CPU s':>8s} {'wall s':>8s} {'floor s':>8s} {'share':>7s}")
    for name in names or STEPS:
        if name in PEERS and name not in STEPS:
            continue
        try:
            bench_step(name, size, rates)
        except Exception as error:  # the others are still worth knowing
            failed += 1
            print(f"{name:24s} FAILED: {type(error).__name__}: {error}", flush=True)
    print(f"not timed: {WITHOUT}")
    bench_peers(size, names)
    again = floors.calibrate_core()
    print(f"\nthe core at the end: {again.sentence()}")
    print(f"{time.process_time() - start:.0f} processor seconds in all")
    return failed


# A finished run.


def summary_of(folder: Path, step: str, name: str) -> dict:
    path = folder / step / name / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}


def series_work(results: Path, name: str) -> dict:
    """Least work of every step of one series, by rule, where the run's summaries tell the sizes."""
    taken, binned = summary_of(results, "import_tilt_series", name), summary_of(results, "preprocess_tilt_series", name)
    aligned, made = summary_of(results, "align_tilt_series", name), summary_of(results, "reconstruct_tomogram", name)
    found = summary_of(results, "match_template", name)
    work = {}
    if not taken:
        return work
    shape, views = tuple(taken["image_size_px"][::-1]), taken["n_tilts"]
    frames = max([1, *taken.get("n_frames", [])])
    work["correct_motion"] = floors.motion(shape, frames).times(views)
    work["estimate_ctf"] = floors.ctf(shape, EstimateCtf().window_px).times(views)
    work["exclude_views"] = floors.one_pass(shape, views)
    work["erase_xrays"] = floors.xrays(shape).times(views)
    work["correct_ctf"] = floors.ctf_correction(shape).times(views)
    if "binning" in binned:
        work["preprocess_tilt_series"] = floors.binning(shape, binned["binning"]).times(views)
    if aligned.get("working_pixel_size_angst"):
        pixel = aligned["working_pixel_size_angst"]
        small = tuple(n * taken["pixel_size_angst"] / pixel for n in shape)
        work["align_tilt_series"] = floors.alignment(views, small, aligned["thickness_angst"] / pixel)
    if "size_px" in made:
        voxels, images = math.prod(made["size_px"]), tuple(binned.get("image_size_px", made["size_px"][:2]))
        work["reconstruct_tomogram"] = floors.back_projection(made["n_views"], images, voxels)
        if "n_rotations" in found:
            searched = (
                voxels * (made["pixel_size_angst"] / found.get("search_pixel_angst", made["pixel_size_angst"])) ** 3
            )
            work["match_template"] = floors.matching(searched, found["n_rotations"], found.get("rank") or 200)
    return work


def round_work(results: Path, name: str, series: dict) -> dict:
    """Least work of every step of one averaging round. series : summaries of import_tilt_series by name."""
    cut = summary_of(results, "extract_subtomos", name)
    work = {}
    if not cut or not series:
        return work
    first = next(iter(series.values()))
    shape, views = tuple(first["image_size_px"][::-1]), sum(s["n_tilts"] for s in series.values())
    box, images = cut["box_px"], cut["n_images"]
    work["extract_subtomos"] = floors.extraction(views, shape, cut["binning"], images, 2 * box)
    work["reconstruct_particle"] = floors.particle_reconstruction(images, 2 * box)
    work["postprocess"] = floors.postprocessing(box)
    path, config = results / "refine" / name / "iterations.json", Refine()
    offsets = floors.lattice_points(config.offset_range_px / (2 * config.offset_step_px))
    iterations = json.loads(path.read_text())["iterations"] if path.exists() else []
    searches = [
        floors.expectation(images, box, len(so3_grid_for_step(2 * i["sampling_deg"])), offsets, i["max_shell"])
        for i in iterations
        if i.get("search") == "global"
    ]
    if searches:  # local searches do too little to be counted by a formula of sizes
        work["refine"] = floors.Work(sum(w.bytes for w in searches), sum(w.flops for w in searches))
    return work


def run_table(results: Path, device: str) -> None:
    """Seconds per series and step, and per round and step, of a finished run."""
    times = read_run_times(results)
    if not times:
        sys.exit(f"bench_steps: no benchmark files under {results / 'benchmarks'}")
    rates = calibrated(device)
    print(f"{'the GPU' if device == 'cuda' else 'One core of this machine'}: {rates.sentence()}")
    imported = {
        t.name: summary_of(results, "import_tilt_series", t.name) for t in times if t.rule == "import_tilt_series"
    }
    groups = defaultdict(list)
    for job in times:
        groups[job.name].append(job)
    for name, jobs in groups.items():
        kind = "series" if name in imported else "round" if name else "all series"
        work = series_work(results, name) if name in imported else round_work(results, name, imported)
        print(
            f"\n{kind} {name}\n{'step':24s} {'wall s':>8s} {'CPU s':>8s} {'peak MB':>8s} {'floor s':>8s} {'share':>7s}"
        )
        for job in jobs:
            floor = work[job.rule].floor(rates) if job.rule in work else math.nan
            share = floor / (job.seconds if device == "cuda" else job.cpu_seconds)
            known = f"{floor:8.3f} {share:7.1%}" if math.isfinite(share) else f"{'-':>8s} {'-':>7s}"
            print(f"{job.rule:24s} {job.seconds:8.1f} {job.cpu_seconds:8.1f} {job.peak_mb:8.0f} {known}")
        wall, cpu = (
            math.fsum(v for v in values if math.isfinite(v))
            for values in zip(*[(j.seconds, j.cpu_seconds) for j in jobs], strict=True)
        )
        print(f"{'together':24s} {wall:8.1f} {cpu:8.1f} {np.nanmax([j.peak_mb for j in jobs]):8.0f}")


def calibrated(device: str):
    """Rates of a CPU core, or of the GPU."""
    return floors.calibrate_gpu() if device == "cuda" else floors.calibrate_core()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "steps", nargs="*", metavar="STEP", help=f"one of {', '.join([*STEPS, *PEERS])}; all by default"
    )
    parser.add_argument("--series", type=Path, metavar="RESULTS_DIR", help="a finished run instead")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="whose floors, with --series")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: to try the script itself")
    chosen = parser.parse_args()
    wrong = [name for name in chosen.steps if name not in {*STEPS, *PEERS}]
    if wrong:
        parser.error(f"unknown step {', '.join(wrong)}")
    if chosen.series:
        device = chosen.device if chosen.device != "auto" else "cuda" if backend.gpu_available() else "cpu"
        run_table(chosen.series, device)
        return
    sys.exit(min(1, bench(TINY if chosen.tiny else BENCH, chosen.steps)))


if __name__ == "__main__":
    main()
