"""A SerialEM-style mdoc of a simulated series: what the operator's files would say, not the truth."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryoet_core.simulate.acquisition import View, movie_name
from cryoet_core.simulate.settings import SimulationSettings

FIRST_RECORD = datetime(2025, 3, 14, 9, 26, 53)
"""A made-up date, always the same, so that equal settings give equal bytes."""


def _wrapped(angle_deg: float) -> float:
    return (angle_deg + 180) % 360 - 180


def _section(series: str, index: int, view: View, settings: SimulationSettings, mean_counts: float) -> list[str]:
    name = movie_name(series, view.tilt_id, view.nominal_tilt_deg)
    when = FIRST_RECORD + timedelta(seconds=41 * index)
    frames = settings.frames_per_tilt
    return [
        f"[ZValue = {index}]",
        f"TiltAngle = {view.nominal_tilt_deg:.4f}",
        "StagePosition = 112.417 -87.203",
        "StageZ = -12.5306",
        "Magnification = 42000",
        "Intensity = 0.113572",
        f"ExposureDose = {view.exposure_e_per_a2:g}",
        f"PriorRecordDose = {view.pre_exposure_e_per_a2:g}",
        f"DoseRate = {settings.dose_per_tilt_e_per_a2 * settings.pixel_size_angst**2 / 1.2:.4f}",
        f"PixelSpacing = {settings.pixel_size_angst:g}",
        "SpotSize = 8",
        f"TargetDefocus = {-1e-4 * settings.defocus_angst:g}",
        f"RotationAngle = {_wrapped(settings.nominal_axis_deg + 90):g}",
        "ExposureTime = 1.2",
        "Binning = 1",
        "CameraIndex = 1",
        "DividedBy2 = 0",
        "CountsPerElectron = 1",
        f"MinMaxMean = 0 127 {mean_counts:.3f}",
        rf"SubFramePath = D:\DATA\tiltline\{series}\frames\{name}",
        f"NumSubFrames = {frames}",
        f"FrameDosesAndNumber = {settings.dose_per_tilt_e_per_a2 / frames:.6g} {frames}",
        when.strftime("DateTime = %d-%b-%y  %H:%M:%S"),
        "",
    ]


def mdoc_text(series: str, views: list[View], settings: SimulationSettings, mean_counts: list[float]) -> str:
    """The mdoc of a series, sections in acquisition order; ``mean_counts`` per pixel of each summed view."""
    width, height = settings.image_width_px, settings.image_height_px
    lines = [
        f"PixelSpacing = {settings.pixel_size_angst:g}",
        f"Voltage = {settings.voltage_kv:g}",
        f"ImageFile = {series}.mrc",
        f"ImageSize = {width} {height}",
        "DataMode = 0",
        "",
        "[T = SerialEM: simulated by tiltline        14-Mar-25  09:20:11    ]",
        "",
        f"[T =     Tilt axis angle = {settings.nominal_axis_deg:.1f}, binning = 1  spot = 8  camera = 1]",
        "",
    ]
    for index, (view, mean) in enumerate(zip(views, mean_counts, strict=True)):
        lines += _section(series, index, view, settings, mean)
    return "\n".join(lines)
