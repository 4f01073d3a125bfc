"""Config of erase_xrays: X-ray hits, hot and dead pixels. Names and defaults follow IMOD's ccderaser as the tutorial uses it."""

from __future__ import annotations

from typing import ClassVar

from cryoet_core.config.base import StepModel, key


class EraseXrays(StepModel):
    """Keys of the step; sigma = local standard deviation of the view."""

    version: ClassVar[int] = 3
    find_peaks: bool = key(True, meaning="false = leave the images as they are")
    peak_criterion_sigma: float = key(8.0, unit="sigma", meaning="height of a peak over the ring around it", ge=2)
    diff_criterion_sigma: float = key(
        6.0, unit="sigma", meaning="how far a single pixel, or the mean of 2 or 4, stands out of its surroundings", ge=2
    )
    grow_criterion_sigma: float = key(4.0, unit="sigma", meaning="pixels beside a peak that are erased too", ge=2)
    scan_criterion_sigma: float = key(3.0, unit="sigma", meaning="lowest peak that is looked at", ge=1)
    maximum_radius_px: float = key(4.2, unit="px", meaning="largest radius of an erased spot", ge=0.5, le=10)
    giant_criterion_sigma: float = key(
        12.0, unit="sigma", meaning="height of a peak in the search for larger spots; 0 = no such search", ge=0
    )
    extra_large_radius_px: float = key(8.0, unit="px", meaning="largest radius in that search", ge=1, le=20)
    big_diff_criterion_sigma: float = key(
        19.0, unit="sigma", meaning="steepness that a larger spot must have (spares gold beads)", ge=2
    )
    scan_size_px: int = key(100, unit="px", meaning="size of the window of the local mean and sigma", ge=20, le=500)
    recurrent_fraction: float = key(
        0.5, meaning="pixels that stand out in more than this fraction of views are defects and erased in all", gt=0, le=1
    )
    stack: bool = key(
        False,
        meaning="true = write full, even and odd stacks without the hits; false = write the list of repaired pixels, with which every later step "
        "reads the stacks of correct_motion",
    )
