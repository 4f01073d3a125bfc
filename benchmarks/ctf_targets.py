"""Errors of estimate_ctf on simulated tilt series against truth, over many seeds.

Each series: 41 views of 1024 x 1024, -60 to 60 degrees, white noise for the counts and a sheet of random structure whose spectral
signal-to-noise ratio is that of a 3 e/A^2 view of a crowded specimen (0.3 at 25 A, 0.03 at 10 A, untilted). The CTF is
applied here, by a formula of this file, in slabs of equal defocus blended across the tilted plane.

    python benchmarks/ctf_targets.py --seeds 50 --processes 2
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
from scipy.fft import irfft2, rfft2

from cryoet_core.ctf.estimate import CtfSettings, estimate_ctf
from cryoet_core.metadata import TiltSeries

SIZE = 1024
TILTS = np.arange(-60.0, 60.1, 3.0)
WAVELENGTH, CS = 0.0196875, 2.7e7
THICKNESS_OVER_PATH = 0.4


@dataclasses.dataclass(frozen=True)
class Case:
    """The truth of one simulated series; angles in degrees, defocus in A."""

    seed: int
    pixel: float
    axis: float
    mean_defocus: float
    astigmatism: float
    astigmatism_angle: float
    stage_offset: float
    defocus: np.ndarray
    phase: float = 0.0
    x_tilt: float = 0.0


def make_case(seed: int, phase: float = 0.0, offset_deg: float = 2.0, x_tilt_deg: float = 0.0) -> Case:
    """Random truth: 1 to 6 um, astigmatism 0 to 150 nm, 60 nm of jitter, a slow drift, a stage offset."""
    rng = np.random.default_rng([seed, 1])
    mean = rng.uniform(1e4, 6e4)
    drift = rng.uniform(-800, 800) * TILTS / 60
    return Case(seed, rng.choice([1.9, 2.6, 3.4]), rng.uniform(-180, 180), mean, rng.uniform(0, 1500), rng.uniform(0, 180),
                rng.normal(0, offset_deg), mean + drift + rng.normal(0, 600, len(TILTS)), phase,
                x_tilt_deg * np.random.default_rng([seed, 4]).standard_normal())


def _contrast(k2, phi, z, case: Case):
    stretch = 0.5 * case.astigmatism * np.cos(2 * (phi - np.deg2rad(case.astigmatism_angle)))
    gamma = np.pi * WAVELENGTH * (z + stretch) * k2 - 0.5 * np.pi * CS * WAVELENGTH**3 * k2**2
    return -np.sin(gamma + np.arcsin(0.1) + np.deg2rad(case.phase)).astype(np.float32)


def view(case: Case, index: int) -> np.ndarray:
    """One view (h, w): structure through a CTF that follows the tilted plane, plus white noise of variance 1."""
    rng = np.random.default_rng([case.seed, 2, index])
    ky, kx = np.fft.fftfreq(SIZE, case.pixel)[:, None], np.fft.rfftfreq(SIZE, case.pixel)[None]
    k2, phi = (kx**2 + ky**2).astype(np.float32), np.arctan2(ky, kx).astype(np.float32)
    tilt = np.deg2rad(TILTS[index])
    power = 0.46 * np.exp(-274 * k2) / np.cos(tilt) * np.exp(-THICKNESS_OVER_PATH * (1 / np.cos(tilt) - 1))
    structure = rfft2(rng.standard_normal((SIZE, SIZE), dtype=np.float32)) * np.sqrt(power)
    # the axis lies at `axis` from +y, counter-clockwise; the plane's normal is turned about x, then by tilt and offset about the axis
    axis = np.deg2rad(case.axis)
    c = (np.arange(SIZE) - SIZE // 2) * case.pixel
    across = c[None, :] * np.cos(axis) + c[:, None] * np.sin(axis)
    along = c[:, None] * np.cos(axis) - c[None, :] * np.sin(axis)
    a, b = np.deg2rad(case.x_tilt), tilt + np.deg2rad(case.stage_offset)
    depth = -(np.cos(a) * np.sin(b) * across - np.sin(a) * along) / (np.cos(a) * np.cos(b))
    z = case.defocus[index] - depth
    levels = np.linspace(z.min() - 1, z.max() + 1, max(2, int(np.ceil(np.ptp(z) / 400)) + 1))
    place = (z - levels[0]) / (levels[1] - levels[0])
    total = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    for i, level in enumerate(levels):
        share = np.clip(1 - np.abs(place - i), 0, 1).astype(np.float32)
        total += share * irfft2(structure * _contrast(k2, phi, level, case), s=(SIZE, SIZE))
    return total + 60.0


def table(case: Case) -> TiltSeries:
    """The series as it would come from correct_motion: nominal angles, nominal axis, true optics."""
    n = len(TILTS)
    order = np.argsort(np.argsort(np.abs(TILTS), kind="stable"))
    tilts = pd.DataFrame({
        "tilt_id": order + 1, "image": "none", "nominal_tilt_deg": TILTS, "pre_exposure_e_per_a2": 3.0 * order, "x_tilt_deg": 0.0,
        "y_tilt_deg": TILTS, "z_rot_deg": case.axis, "x_shift_angst": 0.0, "y_shift_angst": 0.0,
        "excluded": np.zeros(n, int), "exclude_reason": ["none"] * n,
    })
    return TiltSeries("TS", 300.0, 2.7, 0.1, case.pixel, case.pixel, -1, (SIZE, SIZE), (0, 0, 0), tilts)


def measure(seed: int, phase: float = 0.0, remove: int = 0, offset_deg: float = 2.0, x_tilt_deg: float = 0.0) -> dict:
    """Errors of one seed: defocus in nm per view, astigmatism, hand, and the change when ``remove`` views are taken away."""
    case = make_case(seed, phase, offset_deg, x_tilt_deg)
    series, images = table(case), [view(case, i) for i in range(len(TILTS))]
    settings = CtfSettings(fit_phase_shift=bool(phase))
    start = time.process_time()
    estimate = estimate_ctf(series, images, settings)
    seconds = time.process_time() - start
    fit, found = estimate.with_hand(-1).fit, estimate.inclination
    u, v, angle = fit.defocus_u_v_angle
    scaled = (fit.defocus_angst - case.defocus)[~estimate.restrained] / fit.error_angst[~estimate.restrained]
    error = np.abs(fit.defocus_angst - case.defocus) / 10
    out = {
        "seed": seed, "pixel": case.pixel, "defocus_um": case.mean_defocus / 1e4, "astigmatism_nm": case.astigmatism / 10,
        "offset_deg": case.stage_offset, "offset_found_deg": found.y_deg, "offset_sd_deg": found.y_error_deg, "x_tilt_deg": case.x_tilt,
        "x_tilt_found_deg": found.x_deg, "x_tilt_sd_deg": found.x_error_deg, "inclined": int(found.used),
        "to_30_nm": float(np.median(error[np.abs(TILTS) <= 30])), "at_60_nm": float(np.median(error[np.abs(TILTS) >= 54])),
        "max_nm": float(error.max()), "restrained": int(estimate.restrained.sum()), "hand": estimate.evidence.decided,
        "hand_ll": estimate.evidence.difference, "astigmatism_error_nm": abs(float(np.mean(u - v)) - case.astigmatism) / 10,
        "angle_error_deg": float(np.abs((angle - case.astigmatism_angle + 90) % 180 - 90).max()),
        "phase_error_deg": float(np.abs((fit.phase_deg - phase + 90) % 180 - 90).max()), "phase_sd_deg": fit.phase_error_deg,
        "error_over_predicted": float(np.sqrt(np.median(scaled**2) / 0.455)), "orders": fit.orders, "cpu_s": seconds,
    }
    if remove:
        gone = np.random.default_rng([seed, 3]).choice(len(TILTS), remove, replace=False)
        rest = np.setdiff1d(np.arange(len(TILTS)), gone)
        part = dataclasses.replace(series, tilts=series.tilts.iloc[rest].reset_index(drop=True))
        again = estimate_ctf(part, [images[i] for i in rest], settings).with_hand(-1).fit
        moved = np.abs(again.defocus_angst - fit.defocus_angst[rest]) / 10
        out |= {"moved_median_nm": float(np.median(moved)), "moved_max_nm": float(moved.max())}
    return out


def _job(arguments):
    return measure(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--phase", type=float, default=0.0, help="phase shift in degrees; fitted when not 0")
    parser.add_argument("--remove", type=int, default=11, help="views taken away for the second estimate; 0 = none")
    parser.add_argument("--offset", type=float, default=2.0, help="standard deviation of the stage offset in degrees")
    parser.add_argument("--x-tilt", type=float, default=0.0, help="standard deviation of the tilt about x in degrees")
    chosen = parser.parse_args()
    jobs = [(seed, chosen.phase, chosen.remove, chosen.offset, chosen.x_tilt) for seed in range(chosen.first, chosen.first + chosen.seeds)]
    rows = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        for row in pool.map(_job, jobs):
            rows.append(row)
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    found = pd.DataFrame(rows)
    print(f"\n{len(found)} series; asked / measured")
    print(f"median defocus error to 30 deg: 20 / {found['to_30_nm'].median():.1f} nm (worst series {found['to_30_nm'].max():.1f})")
    print(f"median defocus error at 54 to 60 deg: 60 / {found['at_60_nm'].median():.1f} nm (worst {found['at_60_nm'].max():.1f})")
    print(f"hand right (-1): {(found['hand'] == -1).sum()}, undecided {(found['hand'] == 0).sum()}, wrong {(found['hand'] == 1).sum()}"
          f"; sign of the evidence right: {(found['hand_ll'] < 0).sum()}")
    if "moved_max_nm" in found:
        print(f"moved by removing {chosen.remove} views: median {found['moved_median_nm'].median():.2f}, largest {found['moved_max_nm'].max():.1f} nm; "
              f"series with every view below 10 nm: {(found['moved_max_nm'] < 10).sum()}")
    astigmatic = found[found["astigmatism_nm"] >= 50]
    if len(astigmatic):
        print(f"astigmatism >= 50 nm: error median {astigmatic['astigmatism_error_nm'].median():.1f} nm, "
              f"{astigmatic['angle_error_deg'].median():.1f} deg")
    if chosen.phase:
        print(f"phase shift error: median {found['phase_error_deg'].median():.1f}, worst {found['phase_error_deg'].max():.1f} deg")
    scaled = (found["offset_found_deg"] - found["offset_deg"]) / found["offset_sd_deg"]
    print(f"stage offset by inclination: error over its predicted standard deviation {np.sqrt((scaled**2).mean()):.2f}; used in {found['inclined'].sum()}")
    print(f"defocus error over its predicted standard deviation: {found['error_over_predicted'].median():.2f} (median of series, robust)")
    print(f"{found['cpu_s'].median():.1f} CPU s per series")


if __name__ == "__main__":
    main()
