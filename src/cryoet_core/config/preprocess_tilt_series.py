"""Config of preprocess_tilt_series: binning and grey values of the views that tomograms are made from."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key


class PreprocessTiltSeries(StepModel):
    """Keys of the step."""

    version: ClassVar[int] = 1
    binning: int = key(4, meaning="Fourier cropping by this whole number", ge=1, le=64)
    grey_values: Literal["none", "mean0", "mean0_std1"] = key(
        "mean0_std1", meaning="none; every view to mean 0; every view to mean 0 and standard deviation 1"
    )
    gold_diameter_angst: float | None = key(
        None, unit="A", meaning="erase gold beads of this diameter from the views before binning; empty = there are none", gt=0
    )
