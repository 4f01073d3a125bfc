"""What matching of a 1024 x 1024 x 350 tomogram costs, by diameter, step and voxel, before anything runs: the plan that the log states.

    python benchmarks/match_cost.py [--pixel 7.64] [--shape 350 1024 1024] [--particles 800]

Expected CPU minutes of one core for template and mirror image; in brackets the voxel of the search (A). Memory: the largest arrays held at once.
"""

from __future__ import annotations

import argparse

import numpy as np

from cryoet_core.picking.candidates import CANDIDATE_FACTOR
from cryoet_core.picking.plan import MatchPlan, effort, scoring_binning
from cryoet_core.picking.scores import HALF_PRECISION_FROM

DIAMETERS_ANGST = (100, 150, 200, 266, 313, 400, 600)
STEPS_DEG = (15.0, 12.85, 12.0, 10.0, 7.0, 5.0)
SCORING_BYTES = 3 * 2  # per voxel: bright tomogram, filtered tomogram and norm in half precision
SEARCH_BYTES = {False: 24, True: 18}  # bright and filtered tomogram, two score maps with orientations; in half precision where it is large
BASE_MB = 1300  # libraries, transforms of a tile


def memory_mb(diameter: float, step: float, shape, pixel: float) -> float:
    """Expected peak of a search at a given step."""
    scored = np.prod(shape) / scoring_binning(diameter, pixel, step) ** 3
    searched = effort(step, plan_of(diameter, step), shape, pixel, 1.0, 2).n_voxels
    return BASE_MB + (SCORING_BYTES * scored + SEARCH_BYTES[searched > HALF_PRECISION_FROM] * searched) / 2**20


def plan_of(diameter: float, step: float) -> MatchPlan:
    return MatchPlan(diameter, 0.0, step, diameter / 2, diameter / 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixel", type=float, default=7.64)
    parser.add_argument("--shape", type=int, nargs=3, default=(350, 1024, 1024))
    parser.add_argument("--particles", type=int, default=800)
    args = parser.parse_args()
    peaks = 2 * CANDIDATE_FACTOR * args.particles
    print("| diameter, A | " + " | ".join(f"{step:g} degrees" for step in STEPS_DEG) + " | memory at 15, 7 degrees |")
    print("|---" * (len(STEPS_DEG) + 2) + "|")
    for diameter in DIAMETERS_ANGST:
        row = []
        for step in STEPS_DEG:
            cost = effort(step, plan_of(diameter, step), args.shape, args.pixel, 1.0, 2)
            row.append(f"{cost.cpu_seconds(peaks) / 60:.0f} ({cost.pixel_size_angst:.1f})")
        memory = [f"{memory_mb(diameter, step, args.shape, args.pixel) / 1000:.1f}" for step in (15.0, 7.0)]
        print(f"| {diameter} | " + " | ".join(row) + f" | {', '.join(memory)} GB |")


if __name__ == "__main__":
    main()
