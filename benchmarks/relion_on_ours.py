"""RELION 5 run on the project view of a simulated run of ours: does it read it, does it find the same, how long does each take.

    python benchmarks/relion_on_ours.py RESULTS --round bin4 [--particles 30] [--bin FOLDER_OF_RELION] [--parts tomogram extract local global]

RESULTS is the folder of a simulated run (make demo leaves results); started where that run was. Parts whose program is not installed are skipped.
* tomogram: relion_tomo_reconstruct_tomogram from our alignment, correlated with our tomogram (its filter differs) where it lies and where it fits best;
* extract: relion_tomo_subtomo's 2D stacks against ours with cut_from_raw;
* local, global: relion_refine --cpu and ours. The same boxes, orientations that are wrong by 4 degrees about every axis, the reference those
  give (low-pass 45 A), one thread, one map of all particles. local: from the given orientations, four iterations; RELION's grid of 3.75 refined to
  1.9 degrees, prior of 4 degrees; ours is continuous. global: 15 degrees refined to 7.5, offsets to 3 px in steps of 2 refined to 1, nothing
  known of the orientations, one iteration. Seconds are CPU time of whole programs over their iterations; the maps are compared with the truth.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from scipy.fft import irfftn, rfftn
from scipy.spatial.transform import Rotation

from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.config.refine import Refine
from cryoet_core.fourier import lowpass
from cryoet_core.geometry import matrix_to_euler
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.relion import write_relion_project
from cryoet_core.metadata import Particles, read_particles, read_tilt_series, write_particles
from cryoet_core.report.evaluate import compare_map
from cryoet_core.subtomo.evaluate import pose_errors
from cryoet_core.subtomo.extraction_run import ExtractionRun
from cryoet_core.subtomo.likelihood import SeriesImages
from cryoet_core.subtomo.mstep import Accumulator, insert_particles
from cryoet_core.subtomo.noise import initial_spectra
from cryoet_core.subtomo.refine_run import all_series_images, refine_stacks
from cryoet_core.subtomo.stacks import read_stacks

DIAMETER, WRONG_DEG, LOWPASS = 320.0, 4.0, 45.0
CASES = {
    "global": (1, ["--healpix_order", "2"]),
    "local": (4, ["--healpix_order", "4", "--sigma_ang", "4"]),
}
COMMON = (
    "--K 1 --ctf --flatten_solvent --zero_mask --oversampling 1 --offset_range 3 --offset_step 2 --norm --scale --pad 2 --tau2_fudge 1 --pool 10 --j 1 "
    "--cpu --dont_combine_weights_via_disc --sym C1"
).split()


def extracted(results: Path, name: str, count: int, box: tuple[int, int, int], work: Path):
    """(particles' STAR file of ours, that for RELION's optimisation set, tilt series): ``count`` refined particles with wrong orientations."""
    particles = read_particles(results / "refine" / name / "particles.star")
    paths = sorted(results.glob("reconstruct_tomogram/*/*_raw.star"))
    chosen = np.sort(np.random.default_rng(0).permutation(len(particles))[:count])
    particles = particles.select(np.isin(np.arange(len(particles)), chosen))
    turn = Rotation.from_rotvec(np.deg2rad(WRONG_DEG) * np.random.default_rng(1).standard_normal((len(particles), 3))).as_matrix()
    truth = particles.rotations
    angles = matrix_to_euler(turn @ truth)
    config = ExtractSubtomos(binning=box[0], box_px=box[1], crop_px=box[2], relion_files=True, cut_from_raw=True, duplicate_distance_angst=0)
    extraction = ExtractionRun(config, work / "images")
    particles = particles.with_columns(**dict(zip(("rot_deg", "tilt_deg", "psi_deg"), angles.T, strict=True)))
    series = [read_tilt_series(path) for path in paths]
    for one in series:
        extraction.add_series(one, particles, partial(load_images, one))
    write_particles(extraction.table(), work / "particles.star")
    write_relion_project(work / "relion", series, extraction.relion_table())
    return truth, paths


def tomograms(program: str, view: Path, results: Path):
    """Print how RELION's tomograms from our alignment agree with ours."""
    paths = sorted(results.glob("reconstruct_tomogram/*/*_raw.star"))
    for path in paths:
        ours, pixel = read_mrc(path.with_name(path.name.replace("_raw.star", ".mrc")))
        series = read_tilt_series(path)
        raw = [str(round(n * pixel / series.pixel_size_angst)) for n in ours.shape]
        size = [program, "--t", f"{view}/tomograms.star", "--tn", series.name, "--o", f"{view}/Tomo/", "--binned_angpix", str(pixel)]
        run([*size, "--w", raw[2], "--h", raw[1], "--d", raw[0]])
        theirs, _ = read_mrc(view / "Tomo" / "tomograms" / f"rec_{series.name}.mrc")
        a, b = (rfftn(v - v.mean()) / v.std() / v.size**0.5 for v in (theirs, ours))
        both = irfftn(a * b.conj(), s=ours.shape)
        peak = [int((i + n // 2) % n - n // 2) for i, n in zip(np.unravel_index(both.argmax(), both.shape), both.shape, strict=True)]
        print(f"  {series.name}: correlation {both[0, 0, 0]:.3f}, best {both.max():.3f} at {peak[::-1]} voxels", flush=True)


def stacks_of_relion(program: str, view: Path, work: Path, box):
    """Print how far the 2D stacks that RELION extracts are from ours."""
    binning, box_px, crop = (str(v) for v in box)
    run([program, "--t", f"{view}/tomograms.star", "--p", f"{view}/particles.star", "--o", f"{work}/Extract/", "--b", box_px, "--crop", crop, "--bin", binning, "--stack2d"])
    theirs = read_particles(work / "Extract" / "particles.star").table
    pairs = read_particles(view / "particles.star").table.merge(theirs, on="particle_name", suffixes=("", "_relion"))
    apart = []
    for name, other in zip(pairs["image_name"], pairs["image_name_relion"], strict=True):
        ours, relions = read_mrc(name)[0], read_mrc(other)[0]
        apart.append(np.linalg.norm(ours - relions) / np.linalg.norm(relions))
    print(f"  {len(pairs)} of {len(theirs)} particles, relative difference of their stacks: median {np.median(apart):.1e}, largest {np.max(apart):.1e}", flush=True)


def run(command):
    """Run a program of RELION; its last words where it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} stopped:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def first_map(images: list[SeriesImages], rotations, box: int, pixel: float):
    """The map that the given orientations give, low-passed."""
    sums = Accumulator(box)
    for one in images:
        n = len(one)
        insert_particles(sums, one, initial_spectra(one, "exact"), np.arange(n), rotations[one.rows], np.zeros((n, 3)), np.ones(n))
    return lowpass(sums.sums().reconstruct(np.full(box // 2 + 1, 5.0)), LOWPASS, pixel)


def ours(stacks, reference, case: str):
    """(CPU seconds per iteration, map, orientations)."""
    iterations = CASES[case][0]
    config = Refine(
        start="global" if case == "global" else "given_poses", max_iterations=iterations, mask_diameter_angst=DIAMETER,
        initial_lowpass_angst=LOWPASS, offset_range_px=3.0, angular_sampling_deg=7.5,
    )
    start = time.process_time()
    refined, particles = refine_stacks(stacks, reference, stacks.pixel_size_angst, config, 0)
    done = len(refined.iterations)
    return (time.process_time() - start) / done, refined.map, particles.rotations


def relion(program: str, work: Path, case: str):
    """(CPU seconds per iteration, map, orientations)."""
    iterations, options = CASES[case]
    out = work / f"relion_{case}"
    out.mkdir()
    files = ["--o", f"{out}/run", "--ios", str(work / "relion" / "optimisation_set.star"), "--ref", str(work / "reference.mrc")]
    values = ["--iter", str(iterations), "--particle_diameter", str(DIAMETER), "--ini_high", str(LOWPASS)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run([program, *files, *values, *options, *COMMON])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: Particles = read_particles(out / f"run_it{iterations:03d}_data.star")
    return seconds / iterations, read_mrc(out / f"run_it{iterations:03d}_class001.mrc")[0], found.rotations


def line(name, seconds, volume, rotations, truth, density, pixel):
    compared = compare_map(volume, pixel, *density, DIAMETER)
    still = np.zeros((len(truth), 3))
    errors = pose_errors(rotations, still, truth, still)
    fsc = " ".join(f"{v:.2f}" for v in compared["fsc_truth"][1:])
    print(
        f"  {name:7s} {seconds:8.1f} s per iteration, {compared['resolution_truth_0.5_angst']:.1f} A against truth (0.5), median {errors.median_angle_deg:.2f} deg, "
        f"{np.mean(errors.angle_deg > 15):.0%} wrong\n          FSC with the truth: {fsc}", flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--round", default="bin4")
    parser.add_argument("--particles", type=int, default=30)
    parser.add_argument("--box", type=int, nargs=3, default=(4, 48, 32), metavar=("BINNING", "BOX", "CROP"))
    parser.add_argument("--parts", nargs="+", choices=["tomogram", "extract", *CASES], default=["tomogram", "extract", *CASES])
    parser.add_argument("--bin", help="folder of RELION's programs, if they are not on PATH")
    args = parser.parse_args()

    def installed(name):
        path = shutil.which(name, path=args.bin)
        if not path:
            print(f"  {name} is not installed: SKIPPED")
        return path

    with tempfile.TemporaryDirectory(dir=args.results) as folder:
        work = Path(folder).relative_to(Path.cwd()) if Path(folder).is_absolute() else Path(folder)
        truth, paths = extracted(args.results, args.round, args.particles, args.box, work)
        stacks = read_stacks(work / "particles.star", paths)
        pixel = stacks.pixel_size_angst
        reference = first_map(all_series_images(stacks, DIAMETER), stacks.particles.rotations, stacks.box, pixel)
        write_mrc(work / "reference.mrc", reference, pixel)
        density = read_mrc(args.results / "simulate" / "density.mrc")
        print(f"{len(truth)} particles, box {stacks.box} px of {pixel:.2f} A, {stacks.n_images / len(truth):.0f} images each", flush=True)
        for part in args.parts:
            print(part, flush=True)
            if part == "tomogram":
                if program := installed("relion_tomo_reconstruct_tomogram"):
                    tomograms(program, work / "relion", args.results)
            elif part == "extract":
                if program := installed("relion_tomo_subtomo"):
                    stacks_of_relion(program, work / "relion", work, args.box)
            else:
                mine = ours(stacks, reference, part)
                line("ours", *mine, truth, density, pixel)
                if program := installed("relion_refine"):
                    theirs = relion(program, work, part)
                    line("RELION", *theirs, truth, density, pixel)
                    print(f"  ours is {theirs[0] / mine[0]:.1f} times as fast", flush=True)


if __name__ == "__main__":
    main()
