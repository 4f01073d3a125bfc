"""Config section correct_motion: gain, frame alignment and even/odd sums of every movie. Names and defaults follow Warp."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from cryoet_core.config.base import StepModel, key

MAX_NODES = 20  # of the local motion along x or y: finer than any specimen moves

class CorrectMotion(StepModel):
    """Alignment of the frames of each tilt, of whole frames and (where there is dose enough) of their parts."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 5

    binning: int = key(1, meaning="Fourier binning of the sums; the pixel size becomes exactly this much larger", ge=1, le=16)
    resolution_range_angst: tuple[float, float] = key(
        (500.0, 10.0), unit="A", meaning="coarsest and finest detail used to align frames"
    )
    b_factor_angst2: float = key(
        -500.0, unit="A^2", meaning="damping of fine detail: amplitudes are weighted by exp(-|B|/4 k^2)", ge=-1e5, le=1e5
    )
    grid: list[int] | None = key(
        None,
        meaning="motion values in x, y and time; empty = one per frame in time (at most 16), and in x and y by the exposure, as in Warp: "
        "1 x 1, whole frames only, for a tilt of a few e/A^2. Local motion needs at least 2 in time, has at most 4, and is used only "
        "where frequencies that were not fitted agree",
    )
    max_shift_angst: float = key(100.0, unit="A", meaning="largest shift between any two frames", gt=0, le=2000)
    dose_weighting: bool = key(
        False,
        meaning="weight the frames inside a tilt by what its own dose leaves of each frequency (Grant & Grigorieff), noise kept white; later "
        "steps go on weighting whole views",
    )
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
    format: Literal["float16", "float32"] = key(
        "float16",
        meaning="number type of the stacks; float16 (MRC mode 12) takes half the space. Where its rounding would exceed 2 % of the noise of a pixel, or a "
        "value 65504, the stacks of that series become float32 by themselves and the log says so",
    )

    @field_validator("grid")
    @classmethod
    def _three_numbers(cls, value):
        if value is not None and (len(value) != 3 or min(value) < 1 or max(value[:2]) > MAX_NODES):
            raise ValueError(f"grid must be empty or [x, y, t] with whole numbers from 1, x and y to {MAX_NODES}")
        return value

    @field_validator("resolution_range_angst")
    @classmethod
    def _two_resolutions(cls, value):
        if min(value) <= 0 or value[0] == value[1]:
            raise ValueError("resolution_range_angst needs two different positive numbers")
        return (max(value), min(value))
