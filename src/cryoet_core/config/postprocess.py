"""Config of postprocess: mask, corrected FSC, sharpening."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from cryoet_core.config.base import StepModel, key


class Postprocess(StepModel):
    """Keys of the step."""

    version: ClassVar[int] = 3
    mask: str | None = key(None, meaning="mask file (MRC, same box); empty = made from the map")
    mask_diameter_angst: float | None = key(
        None, unit="A", meaning="spherical mask of this diameter instead of a mask from the map", gt=0
    )
    mask_lowpass_angst: float | None = key(
        None, unit="A", meaning="the map is low-passed to this before thresholding; empty = automatic", gt=0
    )
    mask_threshold: float | None = key(None, meaning="grey value of the mask's surface; empty = automatic (Otsu)")
    mask_dilate_angst: float | None = key(
        None, unit="A", meaning="the mask is grown by this; empty = 1 to 2 pixels by box size", ge=0
    )
    mask_edge_angst: float | None = key(None, unit="A", meaning="soft edge of the mask; empty = 2 to 4 pixels by box size", gt=0)
    bfactor_angst2: float | None = key(
        None, unit="A^2", meaning="B-factor to apply (negative sharpens); empty = fitted if the map reaches 10 A, else 0"
    )
    mtf: str | None = key(None, meaning="STAR file of the detector's MTF; empty = none")
    mtf_pixel_size_angst: float | None = key(
        None, unit="A", meaning="pixel size of the camera the MTF is for; must be given with mtf", gt=0
    )
    local_resolution: bool = key(True, meaning="also compute the local resolution and a locally filtered map")
    local_window_angst: float | None = key(
        None, unit="A", meaning="full width of the window of the local resolution; empty = six times the resolution, at least 12 pixels", gt=0
    )
    fsc_threshold: float = key(0.143, meaning="FSC that defines the resolution", gt=0, lt=1)

    @model_validator(mode="after")
    def _mtf_with_its_pixel(self):
        if self.mtf and self.mtf_pixel_size_angst is None:
            raise ValueError("mtf needs mtf_pixel_size_angst: the curve is per camera pixel, and maps are binned")
        return self
