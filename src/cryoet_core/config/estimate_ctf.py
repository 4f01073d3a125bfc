"""Config section estimate_ctf: defocus of every view from its power spectrum. Names and defaults follow Warp."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from cryoet_core.config.base import StepModel, key


class EstimateCtf(StepModel):
    """Defocus per view, one astigmatism per series; the sign of depth is decided in decide_handedness."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 3

    mode: Literal["fit", "import"] = key(
        "fit",
        meaning="fit = from the power spectra; import = values of another program, see file; quality is measured all "
        "the same",
    )
    file: str | None = key(
        None,
        meaning="mode import: defocus of every view, as a path in which {ts} stands for the series and {dir} for the "
        "folder of its "
        "mdoc or stack: Warp's or M's .xml, the .txt of CTFFIND or AreTomo, Gctf's .star, IMOD's .defocus, or a "
        "tab-separated table",
    )
    window_px: int = key(512, unit="px", meaning="side of the tiles whose spectra are averaged", ge=64, le=4096)
    resolution_range_angst: tuple[float, float] = key(
        (30.0, 8.0), unit="A", meaning="coarsest and finest detail fitted; the finest is limited by the pixel size"
    )
    defocus_range_angst: tuple[float, float] = key(
        (5000.0, 80000.0), unit="A", meaning="smallest and largest underfocus searched"
    )
    fit_phase_shift: bool = key(False, meaning="fit a phase shift (phase plate): one per series, or slowly changing with dose where the data ask for it")
    defocus_angst: float | None = key(
        None, unit="A", meaning="take this defocus for every view and fit nothing (data without visible rings); empty = fit",
        ge=-100000, le=200000,
    )

    @field_validator("resolution_range_angst", "defocus_range_angst")
    @classmethod
    def _two_values(cls, value):
        if min(value) <= 0 or value[0] == value[1]:
            raise ValueError("needs two different positive numbers")
        return value

    @model_validator(mode="after")
    def _file_to_import(self):
        if (self.mode == "import") != (self.file is not None):
            raise ValueError("mode: import and file belong together")
        if self.mode == "import" and self.defocus_angst is not None:
            raise ValueError("mode: import and defocus_angst exclude each other")
        return self
