"""What the microscope did, view by view: angles, shifts, defocus, drift, dark views. The truth of a tilt series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.simulate.settings import SimulationSettings, generator


@dataclass(frozen=True)
class View:
    """One tilt image in acquisition order. Angles deg, lengths A, doses e/A^2; see docs/conventions.md for signs."""

    tilt_id: int
    nominal_tilt_deg: float
    x_tilt_deg: float
    y_tilt_deg: float
    z_rot_deg: float
    x_shift_angst: float
    y_shift_angst: float
    defocus_u_angst: float
    defocus_v_angst: float
    defocus_angle_deg: float
    pre_exposure_e_per_a2: float
    exposure_e_per_a2: float
    brightness: float
    dark: bool
    frame_shifts_angst: np.ndarray  # (frames, 2) x, y: movement of the content about the mean frame


def dose_symmetric_tilts(max_tilt_deg: float, step_deg: float) -> list[float]:
    """Nominal angles in the order they are taken: 0, +s, -s, -2s, +2s, +3s, -3s, ... (Hagen 2017, groups of two)."""
    tilts = [0.0]
    for n in range(1, int(max_tilt_deg / step_deg + 1e-6) + 1):
        pair = [n * step_deg, -n * step_deg]
        tilts.extend(pair if n % 2 else pair[::-1])
    return tilts


def movie_name(series: str, tilt_id: int, nominal_tilt_deg: float) -> str:
    """File name of a movie, as SerialEM writes them: series, acquisition number, angle."""
    angle = round(nominal_tilt_deg, 1) + 0.0  # never "-0.0"
    return f"{series}_{tilt_id:03d}_{angle:.1f}.mrc"


def movie_names(series: str, settings: SimulationSettings) -> list[str]:
    """All movie file names of a series in acquisition order."""
    tilts = dose_symmetric_tilts(settings.max_tilt_deg, settings.tilt_step_deg)
    return [movie_name(series, i + 1, angle) for i, angle in enumerate(tilts)]


def frame_drift(n_frames: int, total_angst: float, rng) -> np.ndarray:
    """(frames, 2) positions of the content, mean zero: one direction, fast first and slowing down, with some jitter."""
    direction = rng.uniform(0, 2 * np.pi)
    time = np.arange(n_frames) / max(1, n_frames - 1)
    travelled = total_angst * (1 - np.exp(-2.5 * time)) / (1 - np.exp(-2.5))
    path = travelled[:, None] * np.array([np.cos(direction), np.sin(direction)])
    bend = 0.15 * total_angst * np.sin(np.pi * time)[:, None] * np.array([-np.sin(direction), np.cos(direction)])
    path = path + bend * rng.uniform(-1, 1) + rng.normal(0, 0.3, path.shape)
    return path - path.mean(axis=0)


def stage_shifts(n_views: int, field_angst: float, fraction: float, rng) -> np.ndarray:
    """(n, 2) shifts in A, acquisition order: a drifting stage plus the tracking error of each view, at most 8 %."""
    walk = np.cumsum(rng.normal(0, 0.25, (n_views, 2)), axis=0)
    shifts = fraction * field_angst * (walk - walk[0] + rng.normal(0, 0.8, (n_views, 2)))
    shifts[0] *= 0.2
    return np.clip(shifts, -0.08 * field_angst, 0.08 * field_angst)


def pick_dark(nominal: np.ndarray, n_dark: int, rng) -> np.ndarray:
    """(n,) bool: views blocked by the grid bar, always the outermost of either end."""
    low, high = np.argsort(nominal), np.argsort(-nominal)
    n_low = int(rng.integers(0, n_dark + 1))
    dark = np.zeros(len(nominal), dtype=bool)
    dark[low[:n_low]] = True
    dark[high[: n_dark - n_low]] = True
    return dark


def _defocus(settings: SimulationSettings, n: int, rng):
    """(n,) defocus U, V (A) and angle (deg): autofocus jitter per view, astigmatism that changes slowly."""
    order = np.linspace(0, 1, n)
    target = settings.defocus_angst + settings.defocus_range_angst * rng.uniform(-0.5, 0.5)
    mean = target + settings.defocus_jitter_angst * rng.normal(0, 1, n).clip(-2, 2)
    spread = settings.astigmatism_angst * (1 + 0.2 * np.sin(2 * np.pi * (order + rng.uniform())))
    angle = rng.uniform(0, 180) + 12 * np.sin(np.pi * (order + rng.uniform(0, 2)))
    return mean + 0.5 * spread, mean - 0.5 * spread, angle % 180


def plan_views(settings: SimulationSettings, series: str, seed: int) -> list[View]:
    """Draw the truth of every view of a series, in acquisition order."""
    rng = generator(seed, series, "views")
    tilts = np.array(dose_symmetric_tilts(settings.max_tilt_deg, settings.tilt_step_deg))
    n = len(tilts)
    sign = 1 if rng.uniform() < 0.5 else -1
    offset = settings.tilt_offset_deg * (1 + rng.uniform(-0.2, 0.2)) * sign
    readout = tilts + rng.normal(0, 0.003, n).round(4)
    true_tilt = readout + offset + rng.normal(0, settings.tilt_jitter_deg, n).clip(-0.05, 0.05)
    field = settings.pixel_size_angst * min(settings.image_shape)
    shifts = stage_shifts(n, field, settings.shift_fraction, rng)
    defocus_u, defocus_v, angle = _defocus(settings, n, rng)
    brightness = 1 + rng.normal(0, 0.01, n).clip(-0.03, 0.03)
    dark = pick_dark(tilts, settings.n_dark_views, rng)
    views = []
    for i in range(n):
        drift = rng.uniform(settings.drift_min_angst, settings.drift_max_angst)
        views.append(
            View(
                tilt_id=i + 1,
                nominal_tilt_deg=float(readout[i]),
                x_tilt_deg=settings.x_tilt_deg,
                y_tilt_deg=float(true_tilt[i]),
                z_rot_deg=settings.nominal_axis_deg + settings.axis_error_deg,
                x_shift_angst=float(shifts[i, 0]),
                y_shift_angst=float(shifts[i, 1]),
                defocus_u_angst=float(defocus_u[i]),
                defocus_v_angst=float(defocus_v[i]),
                defocus_angle_deg=float(angle[i]),
                pre_exposure_e_per_a2=i * settings.dose_per_tilt_e_per_a2,
                exposure_e_per_a2=settings.dose_per_tilt_e_per_a2,
                brightness=float(brightness[i]),
                dark=bool(dark[i]),
                frame_shifts_angst=frame_drift(settings.frames_per_tilt, drift, rng),
            )
        )
    return views
