"""Config section correct_motion: gain, frame alignment and even/odd sums of every movie. Names and defaults follow Warp."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from cryoet_core.config.base import StepModel, key


class CorrectMotion(StepModel):
    """Whole-frame alignment of the frames of each tilt."""

    version: ClassVar[int] = 2

    binning: int = key(1, meaning="Fourier binning of the sums; the pixel size becomes exactly this much larger", ge=1, le=16)
    resolution_range_angst: tuple[float, float] = key(
        (500.0, 10.0), unit="A", meaning="coarsest and finest detail used to align frames"
    )
    b_factor_angst2: float = key(
        -500.0, unit="A^2", meaning="damping of fine detail: amplitudes are weighted by exp(-|B|/4 k^2)", ge=-1e5, le=1e5
    )
    grid: list[int] | None = key(
        None,
        meaning="motion values in x, y and time; empty = 1 x 1 x one per frame (at most 16). Only 1 x 1 x n exists: inside "
        "one tilt of a few e/A^2 local motion cannot be measured",
    )
    max_shift_angst: float = key(100.0, unit="A", meaning="largest shift between any two frames", gt=0, le=2000)
    gain_orientation: Literal["auto", "given"] = key(
        "auto",
        meaning="auto = the counts decide how the reference lies and whether it multiplies, when they can, and else the four keys below; "
        "given = the four keys, with a warning when the counts contradict them",
    )
    gain_flip_x: bool = key(False, meaning="mirror the gain reference along x (first)")
    gain_flip_y: bool = key(False, meaning="mirror the gain reference along y (second)")
    gain_transpose: bool = key(False, meaning="exchange x and y of the gain reference (last)")
    gain_inverse: bool = key(False, meaning="the reference divides the counts instead of multiplying them")
    eer_exposure_per_fraction_e_per_a2: float | None = key(
        None, unit="e/A^2", gt=0, le=100, meaning="EER movies are summed into frames of about this exposure; empty = eer_fractions frames"
    )
    eer_fractions: int = key(16, meaning="EER movies are summed into this many frames", ge=1, le=1000)

    @field_validator("grid")
    @classmethod
    def _whole_frame_only(cls, value):
        if value is not None and (len(value) != 3 or value[0] != 1 or value[1] != 1 or value[2] < 1):
            raise ValueError("grid must be empty or [1, 1, n] with n >= 1")
        return value

    @field_validator("resolution_range_angst")
    @classmethod
    def _two_resolutions(cls, value):
        if min(value) <= 0 or value[0] == value[1]:
            raise ValueError("resolution_range_angst needs two different positive numbers")
        return (max(value), min(value))
