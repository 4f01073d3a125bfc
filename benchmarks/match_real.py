"""Template matching on a real tomogram: picks, score gap, mirrored template, another template as control, even against odd views, and a picture.

    python benchmarks/match_real.py RESULTS --series TS_254 --maps MAPS [--control 20S_proteasome_3j9i_10A.mrc] [--picture picks.png] [--halves views] [--parts template control]

RESULTS is the results folder of a run (config/empiar10499.yaml makes one): its match_template/<series>/, reconstruct_tomogram/<series>/<series>.mrc with _even
and _odd, its <series>.star, the views that it names, and resize_reference/reference.mrc are read. MAPS holds the control's map, a particle that is not expected in these cells in such
numbers. Nobody knows the true picks of a real tomogram. What can be measured: whether template and mirror image differ, whether
independent halves of the data agree, how many picks a template gives that should give few. --halves views: two tomograms from every second
view in the order of their tilts; noise: the tomograms of the counting noise split in two, each with all views.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from matplotlib.patches import Circle
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial.distance import cdist

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.config.reconstruct_tomogram import ReconstructTomogram
from cryoet_core.fourier import centre_crop_or_pad, fourier_crop
from cryoet_core.geometry import angular_distance_deg
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_header, read_mrc
from cryoet_core.metadata import read_particles, read_tilt_series
from cryoet_core.picking.match import match_template
from cryoet_core.report.figures import new_figure
from cryoet_core.tomogram.from_series import reconstruct_series

SAME_PLACE_ANGST = 60.0  # three voxels of 20 A: a fifth of a ribosome
PLANES = 6
BLUR_ANGST = (30.0, 16.0, 16.0)  # z, y, x, of the picture


def every_second_view(series, first: int):
    """The series with only every second of its included views, counted in the order of their tilts from the ``first``."""
    order = np.argsort(np.where(series.included, series.tilts["y_tilt_deg"], np.inf), kind="stable")[: series.included.sum()]
    excluded = np.ones(len(series.tilts), dtype=int)
    excluded[order[first::2]] = 0
    return series.with_columns(excluded=excluded)


def tomogram_and_series(results: Path, name: str, half: str):
    """half : "", "_even" or "_odd" for a tomogram of the run, "views_0" or "views_1" for one made here of every second view."""
    folder = results / "reconstruct_tomogram" / name
    series = read_tilt_series(folder / f"{name}.star")
    if not half.startswith("views"):
        return read_mrc(folder / f"{name}{half}.mrc")[0], series
    series = every_second_view(series, int(half[-1]))
    images = load_images(series.select(series.included))
    size = read_header(folder / f"{name}.mrc").shape[::-1]
    return reconstruct_series(series, images, size, ReconstructTomogram())[0], series


def search(results: Path, name: str, half: str, reference, pixel: float, **options):
    """(MatchResult, CPU seconds) of one tomogram; see tomogram_and_series."""
    tomogram, series = tomogram_and_series(results, name, half)
    start = time.process_time()
    result = match_template(tomogram, reference, pixel, series, MatchTemplate(**options), np.random.default_rng(0))
    return result, time.process_time() - start


def overlap(a, b) -> dict:
    """Picks of ``a`` that ``b`` has too, what chance would give, and the median angle between the two orientations."""
    distance = cdist(a.positions_angst, b.positions_angst)
    near = distance.min(axis=1) < SAME_PLACE_ANGST
    angle = angular_distance_deg(a.rotations[near], b.rotations[distance.argmin(axis=1)[near]])
    box = np.ptp(b.positions_angst, axis=0)
    chance = 1 - np.exp(-len(b) * 4 / 3 * np.pi * SAME_PLACE_ANGST**3 / np.prod(box))
    return {"share": float(near.mean()), "share_by_chance": float(chance), "n": int(near.sum()), "median_angle_deg": float(np.median(angle))}


def top(particles, n: int):
    """The ``n`` best picks."""
    return particles.select(np.arange(len(particles)) < n)


def picks_of_run(results: Path, name: str):
    """(particles, summary) of the run's match_template."""
    folder = results / "match_template" / name
    return read_particles(folder / "particles.star"), json.loads((folder / "summary.json").read_text())


def row(particles, s: dict) -> dict:
    """What the picks and the summary of a search say."""
    table = particles.table
    gap = (table["score"] - table["score_mirrored"]) / s["score_sigma"]
    mirror = np.array(s["control_scores"].get("mirror", []))
    threshold = np.inf if s["score_threshold"] is None else s["score_threshold"]
    return {
        "picks": len(table), "rule": s["threshold_rule"], "threshold": s["score_threshold"], "expected_false": s["expected_false"],
        "places_won_by_mirror_above_threshold": int((mirror >= threshold).sum()), "median_score": float(table["score"].median()) if len(table) else None,
        "median_mirrored": float(table["score_mirrored"].median()) if len(table) else None, "median_gap_sigma": float(gap.median()) if len(table) else None,
        "best_60_gap_sigma": float(gap[:60].mean()) if len(table) else None, "hand": s["hand"]["verdict"], "best_score_sigma": float(table["score_sigma"].max()) if len(table) else None,
    }


def picture(tomogram, particles, pixel: float, path: str):
    """Planes of the tomogram with the picks within 60 A of each, as circles of 300 A."""
    smooth = gaussian_filter(tomogram, np.array(BLUR_ANGST) / pixel)
    low, high = np.quantile(smooth, [0.005, 0.995])
    place = particles.positions_angst / pixel + np.array(tomogram.shape)[::-1] // 2
    planes = np.quantile(place[:, 2], np.linspace(0.1, 0.9, PLANES)).round().astype(int)
    figure = new_figure(4 * PLANES, 16)
    axes = figure.subplots(2, PLANES // 2)
    for ax, z in zip(axes.flat, planes, strict=True):
        ax.imshow(zoom(smooth[z], max(1, round(pixel / 10)), order=1), cmap="gray", vmin=low, vmax=high, extent=(-0.5, smooth.shape[2] - 0.5, smooth.shape[1] - 0.5, -0.5))
        for x, y, _ in place[np.abs(place[:, 2] - z) * pixel <= 60]:
            ax.add_patch(Circle((x, y), 150 / pixel, fill=False, color="lime"))
        ax.set_title(f"z = {z}")
        ax.axis("off")
    figure.savefig(path, dpi=60)


def compare_halves(args, picks, reference, pixel: float, options: dict):
    """How many of ``picks`` each half finds again, and how many of their best the halves share."""
    n, halves, names = len(picks), {}, ("_even", "_odd") if args.halves == "noise" else ("views_0", "views_1")
    options = options | {"background": "none", "max_false_fraction": 1, "max_particles": n}
    for half in names:
        result, seconds = search(args.results, args.series, half, reference, pixel, **options)
        halves[half] = result.particles
        print(half.lstrip("_"), json.dumps(overlap(picks, halves[half])), f"{seconds:.0f} s CPU", flush=True)
    for k in (n // 4, n // 2, n):
        print(f"{names[0]} against {names[1]}, best {k} of each:", json.dumps(overlap(*(top(halves[half], k) for half in names))), flush=True)


def read_map(path: Path, pixel: float):
    """A map in voxels of ``pixel`` A, its box an even number of them."""
    volume, own_pixel = read_mrc(path)
    size = 2 * round(volume.shape[0] * own_pixel / pixel / 2)
    return fourier_crop(centre_crop_or_pad(volume, (round(size * pixel / own_pixel),) * 3, 3), (size,) * 3, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--series", default="TS_254")
    parser.add_argument("--maps", type=Path, help="folder of the control's map")
    parser.add_argument("--control", default="20S_proteasome_3j9i_10A.mrc")
    parser.add_argument("--control-diameter", type=float, default=160.0, help="A")
    parser.add_argument("--step", type=float, default=15.0, help="degrees, of the run")
    parser.add_argument("--control-step", type=float, default=23.0, help="degrees; with the smaller diameter as coarse in A as the template's 15, or the search would not be binned at 10 A/px and take hours")
    parser.add_argument("--slab", type=float, default=2400.0, help="A")
    parser.add_argument("--picture")
    parser.add_argument("--halves", choices=["views", "noise"], default="views")
    parser.add_argument("--parts", nargs="+", choices=["template", "halves", "control"], default=["template", "halves", "control"], help="template: the run's picks; halves: how many of them both find again")
    args = parser.parse_args()
    folder = args.results / "reconstruct_tomogram" / args.series
    reference, pixel = read_mrc(args.results / "resize_reference" / "reference.mrc")
    options = {"angular_step_deg": args.step, "slab_thickness_angst": args.slab}
    if {"template", "halves"} & {*args.parts}:
        particles, summary = picks_of_run(args.results, args.series)
    if "template" in args.parts:
        print("template", json.dumps(row(particles, summary), default=float), flush=True)
        if args.picture:
            picture(read_mrc(folder / f"{args.series}.mrc")[0], particles, pixel, args.picture)
    if "halves" in args.parts:
        compare_halves(args, particles, reference, pixel, options)
    if "control" in args.parts and args.maps:
        control = read_map(args.maps / args.control, pixel)
        own = {"particle_diameter_angst": args.control_diameter, "angular_step_deg": args.control_step, "max_particles": 400}
        result, seconds = search(args.results, args.series, "", control, pixel, **options | own)
        print("control", json.dumps(row(result.particles, result.summary), default=float), f"{seconds:.0f} s CPU", flush=True)


if __name__ == "__main__":
    main()
