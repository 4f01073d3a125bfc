"""Config of preprocess_tilt_series: binning and grey values of the views that tomograms are made from."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from cryoet_core.config.base import StepModel, key
from cryoet_core.config.gold import GoldDiameter, gold_key, possible_diameter


class PreprocessTiltSeries(StepModel):
    """Keys of the step."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 3
    binning: int = key(4, meaning="Fourier cropping by this whole number; done before CTF correction", ge=1, le=64)
    grey_values: Literal["none", "mean0", "mean0_std1", "mean_std", "range", "common_mean", "common_range"] = key(
        "mean0_std1", meaning="none; every view to mean 0; to mean 0 and standard deviation 1; to grey_mean and grey_std; its lowest and "
        "highest value to grey_range; every view to the mean of all; that, then one scaling of all to grey_range"
    )
    grey_mean: float = key(0.0, meaning="mean of every view for grey_values: mean_std")
    grey_std: float = key(1.0, meaning="standard deviation of every view for grey_values: mean_std", gt=0)
    grey_range: tuple[float, float] = key((0.0, 255.0), meaning="lowest and highest value for grey_values: range and common_range")
    aligned_stack: bool = key(
        False, meaning="also write <ts>_aligned.mrc: the views turned and shifted onto the tilt axis (IMOD's .ali), with <ts>_aligned.tlt; no step reads it"
    )
    gold_diameter_angst: GoldDiameter = gold_key("that tomograms are made from, before CTF correction")

    _possible_diameter = field_validator("gold_diameter_angst")(possible_diameter)
