"""Seconds per rotation of matching 256 x 256 x 136 voxels on one core: FFT route, eigen-templates, hierarchical search; and their agreement.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/match_speed.py [--small] [--rotations 40]

Process (CPU) and wall time are both printed: on a busy machine the former is the honest one. "Effective" for the hierarchical search is its
time over the number of rotations of the fine grid. With --pytme the same volume, template and orientations go through pyTME (score
FLCSphericalMask on one core, spline order 1, its fastest, and 3, its default) where it can be imported; it knows nothing of tilts here, so it does less.
"""

from __future__ import annotations

import argparse
import importlib.util
import time

import numpy as np
import pandas as pd
from scipy.fft import irfftn, rfftn
from scipy.ndimage import affine_transform

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.masks import soft_sphere
from cryoet_core.metadata import TiltSeries
from cryoet_core.picking.eigen import eigen_templates
from cryoet_core.picking.match import MatchPlan, coarse_grid, unique_rotations
from cryoet_core.picking.scores import filter_tomogram, score_map
from cryoet_core.picking.template import make_template
from cryoet_core.picking.transfer import match_filters

PIXEL = 12.0


def blob_template(box: int, diameter_px: float) -> np.ndarray:
    """Forty random blobs of 1.6 px in a ball."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((box,) * 3) - box // 2
    volume = np.zeros((box,) * 3)
    points = rng.normal(size=(40, 3))
    points *= (0.5 * diameter_px - 2) * rng.random((40, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    for a, b, c in points:
        volume += np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 1.6**2))
    return volume.astype(np.float32)


def series() -> TiltSeries:
    tilts = np.arange(-60, 61, 3.0)
    return TiltSeries("TS", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, (256, 256), (0, 0, 0), pd.DataFrame({
        "tilt_id": np.arange(len(tilts)) + 1, "pre_exposure_e_per_a2": 3.0 * np.arange(len(tilts)), "exposure_e_per_a2": 3.0,
        "defocus_u_angst": 30000.0, "defocus_v_angst": 30000.0, "defocus_angle_deg": 0.0, "ctf_scale": 1.0, "x_tilt_deg": 0.0,
        "y_tilt_deg": tilts, "z_rot_deg": 0.0, "x_shift_angst": 0.0, "y_shift_angst": 0.0, "excluded": 0,
    }))


def timed(label: str, n_rotations: int, voxels: int, function):
    cpu, wall = time.process_time(), time.perf_counter()
    result = function()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{label:34s} {cpu / n_rotations * 1e3:8.1f} ms CPU, {wall / n_rotations * 1e3:8.1f} ms wall per rotation, "
          f"{voxels * n_rotations / cpu / 1e6:7.0f} M voxel-rotations per CPU second", flush=True)
    return result


def straightforward(volume, template_volume, rotations):
    """What one would write first: spline rotation, whole transforms, running maximum with NumPy; returns the best scores."""
    transform = rfftn(volume)
    best, index = np.full(volume.shape, -np.inf, dtype=np.float32), np.zeros(volume.shape, dtype=np.int32)
    centre = template_volume.shape[0] // 2
    for number, rotation in enumerate(rotations):
        matrix = rotation.T[::-1, ::-1]
        turned = affine_transform(template_volume, matrix, centre - matrix @ np.full(3, centre), order=1)
        padded = np.zeros(volume.shape, dtype=np.float32)
        padded[: turned.shape[0], : turned.shape[1], : turned.shape[2]] = turned
        scores = irfftn(transform * rfftn(padded).conj(), s=volume.shape)
        better = scores > best
        best[better], index[better] = scores[better], number
    return best


def pytme_scores(volume, template_volume, rotations, order: int):
    """(highest score (z, y, x) of pyTME, CPU seconds), in this process."""
    from tme.analyzer import MaxScoreOverRotations
    from tme.backends import backend
    from tme.matching_data import MatchingData
    from tme.matching_exhaustive import MATCHING_EXHAUSTIVE_REGISTER, match_exhaustive

    backend.change_backend("numpyfftw")
    mask = soft_sphere(template_volume.shape, 12.1, 2.0)
    data = MatchingData(target=volume.copy(), template=template_volume.copy(), template_mask=mask, rotations=np.asarray(rotations, dtype=np.float32))
    setup, score = MATCHING_EXHAUSTIVE_REGISTER["FLCSphericalMask"]
    start = time.process_time()
    result = match_exhaustive(
        matching_data=data, matching_score=score, matching_setup=setup, callback_class=MaxScoreOverRotations,
        callback_class_args={"score_threshold": -1.0}, job_schedule=(1, 1), interpolation_order=order, backend_name="numpyfftw",
    )
    return np.asarray(result[0]), time.process_time() - start


def against_pytme(volume, template, filters, filtered, few, region):
    """CPU time per rotation of pyTME and of our FFT route in turns; setting up is taken out as the time of four rotations less."""
    if importlib.util.find_spec("tme") is None:
        print("pyTME: cannot be imported, skipped")
        return
    blob = blob_template(32, 22)
    pytme_scores(volume, blob, few[:2], 1)  # plans of its transforms are made once
    ours, theirs = [], {1: [], 3: []}
    for _ in range(2):
        for order, seconds in theirs.items():
            many, less = (pytme_scores(volume, blob, few[:n], order)[1] for n in (len(few), 4))
            seconds.append((many - less) / (len(few) - 4))
        start = time.process_time()
        score_map(filtered, template, few, filters, region)
        ours.append((time.process_time() - start) / len(few))
    for order, seconds in theirs.items():
        print(f"pyTME, spline order {order}: {1e3 * min(seconds):.1f} ms CPU per rotation; our FFT route in turns with it {1e3 * min(ours):.1f} ms, "
              f"{min(seconds) / min(ours):.2f} times as fast", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="128 x 128 x 68")
    parser.add_argument("--rotations", type=int, default=40)
    parser.add_argument("--step", type=float, default=12.0, help="degrees, of the eigen-template routes")
    parser.add_argument("--fft-only", action="store_true")
    parser.add_argument("--pytme", action="store_true", help="compare with pyTME where it can be imported")
    args = parser.parse_args()
    shape = (68, 128, 128) if args.small else (136, 256, 256)
    volume = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    template = make_template(blob_template(32, 22), 12.1)
    filters = match_filters(volume, series(), 44, 290.0, 29.0)
    filtered = filter_tomogram(volume, filters, 12.1)
    rotations = unique_rotations(args.step, "C1")
    region, voxels = tuple(slice(0, n) for n in shape), int(np.prod(shape))
    score_map(filtered, template, rotations[:2], filters, (slice(10, 12),) * 3)
    few = rotations[:: max(1, len(rotations) // args.rotations)][: args.rotations]
    exact = timed("one FFT per rotation", len(few), voxels, lambda: score_map(filtered, template, few, filters, region))
    timed("straightforward SciPy", max(1, len(few) // 2), voxels, lambda: straightforward(filtered.matched, blob_template(32, 22), few[: max(1, len(few) // 2)]))
    timed("one FFT per rotation, again", len(few), voxels, lambda: score_map(filtered, template, few, filters, region))
    if args.pytme:
        against_pytme(volume, template, filters, filtered, few, region)
    if args.fft_only:
        return
    start = time.process_time()
    eigen = eigen_templates(template, rotations, filters, np.random.default_rng(0), 0.95)
    print(f"eigen-templates: rank {eigen.rank}, {eigen.captured:.3f} of the energy, {time.process_time() - start:.1f} s CPU once per tomogram")
    plan = MatchPlan(264.0, 29.0, args.step, 132.0, 66.0)
    coarse = coarse_grid(template, eigen, rotations, plan, MatchTemplate())
    label = f"hierarchical, {len(rotations)} fine"
    timed(label, len(rotations), voxels, lambda: score_map(filtered, template, rotations, filters, region, eigen=eigen, coarse=coarse))
    same = eigen_templates(template, few, filters, np.random.default_rng(0), 0.95)
    low = score_map(filtered, template, few, filters, region, eigen=same)
    difference = low.score - exact.score
    print(f"low rank minus FFT: rms {difference.std() / exact.score.std():.3f} of the scores' standard deviation")
    part = (slice(40, 80), slice(60, 120), slice(60, 120)) if not args.small else (slice(20, 50),) * 3
    voxels = int(np.prod([p.stop - p.start for p in part]))
    timed("eigen-templates, exhaustive, a part", len(rotations), voxels, lambda: score_map(filtered, template, rotations, filters, part, eigen=eigen))


if __name__ == "__main__":
    main()
