"""Config section import_tilt_series: acquisition metadata. An empty value is read from the data; a given one wins."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key


class ImportTiltSeries(StepModel):
    """What the mdoc (or the stack) does not say, or says wrongly."""

    version: ClassVar[int] = 4

    voltage_kv: float | None = key(
        None, unit="kV", meaning="acceleration voltage; empty = from the mdoc", ge=60, le=1250
    )
    spherical_aberration_mm: float = key(2.7, unit="mm", meaning="spherical aberration", ge=0, le=10)
    amplitude_contrast: float = key(0.1, meaning="fraction of amplitude contrast", ge=0, le=1)
    pixel_size_angst: float | None = key(
        None, unit="A", ge=0.1, le=50,
        meaning="pixel size of the movies or stack; empty = from the mdoc or file. Of EER movies that of the camera's pixels",
    )
    eer_super_resolution: Literal[1, 2, 4] = key(
        1,
        meaning="EER movies are drawn with this many pixels per camera pixel and axis (1 = 4096, 2 = 8192, 4 = 16384 pixels wide); the "
        "pixel size becomes as much smaller. No meaning for other formats",
    )
    tilt_axis_deg: float | None = key(
        None, unit="deg", ge=-360, le=360,
        meaning="tilt axis, from image +y counter-clockwise; empty = from the mdoc; a given value wins, also 0",
    )
    initial_dose_e_per_a2: float | None = key(
        None, unit="e/A^2", ge=0, le=1000,
        meaning="dose before the first image; empty = PriorRecordDose of the first image, else 0",
    )
    dose_per_tilt_e_per_a2: float | None = key(
        None, unit="e/A^2", ge=0, le=100, meaning="dose of each tilt image; empty = from the mdoc or tilt table"
    )
    duplicates: Literal["latest", "first", "error"] = key(
        "latest", meaning="which image of a tilt that was recorded again takes part; the others stay in the table, excluded"
    )
    tomo5: bool | None = key(
        None,
        meaning="the mdoc's axis title follows Tomography 5 (axis = -value - 90); empty = yes if it says TiltAxisAngle",
    )
