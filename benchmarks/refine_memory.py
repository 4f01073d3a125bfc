"""Peak memory of one iteration of refinement at the tutorial's size, beside what was planned.

    python benchmarks/refine_memory.py [PARTICLES [VIEWS [MEMORY_MB]]]

Two series of noise images (box 64, bin 4, 7.64 A/px) in MRC stacks of half precision, orientations known roughly. Asked: 1,600
particles within 4,096 MB. Prints the plan, the peak resident memory of this process, and the time. With MEMORY_MB small the
images go to scratch files, whose pages count as resident while they are in memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.config.refine import Refine
from cryoet_core.io.mrc import MrcStackWriter
from cryoet_core.metadata import Particles, TiltSeries, write_particles
from cryoet_core.subtomo.refine_run import refine_stacks
from cryoet_core.subtomo.stacks import read_stacks

BOX, PIXEL, BINNING = 64, 1.91, 4
ASKED_MB = 4096


def series(name, n_views):
    tilts = np.linspace(-60, 60, n_views)
    table = pd.DataFrame(
        {
            "tilt_id": np.arange(1, n_views + 1),
            "nominal_tilt_deg": tilts,
            "pre_exposure_e_per_a2": np.linspace(0, 50, n_views),
            "exposure_e_per_a2": 3.0,
            "defocus_u_angst": 30000.0,
            "defocus_v_angst": 29500.0,
            "defocus_angle_deg": 20.0,
            "phase_shift_deg": 0.0,
            "ctf_scale": np.cos(np.deg2rad(tilts)),
            "x_tilt_deg": 0.0,
            "y_tilt_deg": tilts,
            "z_rot_deg": -95.0,
            "x_shift_angst": 0.0,
            "y_shift_angst": 0.0,
            "excluded": 0,
            "exclude_reason": "none",
        }
    )
    return TiltSeries(name, 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, (4096, 4096), (4096, 4096, 1000), table)


def write_data(folder: Path, n_particles, n_views):
    """particles.star and one stack per series; returns the tilt series."""
    rng = np.random.default_rng(0)
    names, parts = ("TS_01", "TS_02"), []
    for name in names:
        n = n_particles // 2
        path = folder / f"{name}.mrcs"
        with MrcStackWriter(path, (BOX, BOX), PIXEL * BINNING, dtype="float16") as writer:
            for _ in range(n * n_views):
                writer.write(rng.standard_normal((BOX, BOX), dtype=np.float32))
        columns = dict(zip(("x_angst", "y_angst", "z_angst"), rng.uniform(-2500, 2500, (3, n)), strict=True))
        columns |= dict(zip(("rot_deg", "tilt_deg", "psi_deg"), rng.uniform(0, 180, (3, n)), strict=True))
        columns |= dict.fromkeys(("origin_x_angst", "origin_y_angst", "origin_z_angst"), 0.0)
        table = pd.DataFrame(columns).assign(
            tomo_name=name,
            particle_name=[f"{name}/{i + 1}" for i in range(n)],
            optics_group=1,
            image_name=[f"{i * n_views + 1:06d}@{path}" for i in range(n)],
            visible_frames="[" + ",".join(["1"] * n_views) + "]",
        )
        parts.append(table)
    optics = {"rlnOpticsGroup": 1, "rlnImagePixelSize": PIXEL * BINNING, "rlnCtfDataAreCtfPremultiplied": 1}
    optics |= {"rlnTomoSubtomogramBinning": float(BINNING), "rlnOpticsGroupName": "opticsGroup1"}
    particles = Particles(pd.concat(parts, ignore_index=True), pd.DataFrame([optics]), are_2d_stacks=True)
    write_particles(particles, folder / "particles.star")
    return {name: series(name, n_views) for name in names}


def main(n_particles=1600, n_views=41, memory_mb=4000):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tilt_series = write_data(folder, n_particles, n_views)
        stacks = read_stacks(folder / "particles.star", tilt_series)
        reference = np.random.default_rng(1).standard_normal((BOX,) * 3).astype(np.float32)
        config = Refine(start="given_poses", initial_lowpass_angst=30, max_iterations=1, memory_mb=memory_mb)
        start = time.monotonic()
        refine_stacks(
            stacks, reference, PIXEL * BINNING, config, 1, work_folder=folder / "run",
            plan_report=lambda plan: print(f"{plan.sentence()}; planned {plan.total_mb:.0f} MB in all", flush=True),
        )  # fmt: skip
        seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    verdict = "met" if peak <= ASKED_MB else "MISSED"
    print(f"{n_particles} particles, {n_views} views: peak {peak:.0f} MB, asked {ASKED_MB} MB: {verdict}; {seconds:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
