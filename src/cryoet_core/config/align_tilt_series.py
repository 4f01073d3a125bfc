"""Config of align_tilt_series: markerless alignment by matching every view to what the others predict."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from cryoet_core.config.base import StepModel, key


class AlignTiltSeries(StepModel):
    """Keys of the step."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 6
    mode: Literal["projection_matching", "patch_tracking", "combined", "import", "skip"] = key(
        "projection_matching",
        meaning="whole views against their prediction; tracked patches and bundle adjustment; the first and then the second, "
        "taken only if held-out patches agree better; import: take the alignment of another program; or skip: keep the nominal geometry "
        "(shifts zero)",
    )
    alignment: str | None = key(
        None,
        meaning="mode import: file or folder of the alignment, with {ts} for the series' name and {dir} for the folder of its mdoc or stack: IMOD "
        "(.xf with its .tlt, or etomo's folder), AreTomo (.aln), RELION 5 (tomograms.star or the series' star), Warp or M (.xml)",
    )
    alignment_pixel_size_angst: float | None = key(
        None, unit="A", gt=0, le=200,
        meaning="mode import: pixel size of the images the alignment was made on, where its shifts are in pixels (IMOD, AreTomo); empty = from "
        "the image size the files state, else that of the images here",
    )
    alignment_tilts: Literal["same", "opposite"] = key(
        "same", meaning="mode import: opposite = the file's tilt angles have the other sign than the mdoc's (IMOD files of stacks that Warp wrote)"
    )
    pixel_size_angst: float = key(
        14.0, unit="A", meaning="views are binned by a whole number to about this pixel size, or the next larger", gt=0
    )
    resolution_angst: float = key(30.0, unit="A", meaning="finest detail used; coarser bands come first", gt=0)
    highpass_angst: float | None = key(
        None, unit="A", meaning="coarsest detail used; empty = a quarter of the field, 400 to 1200 A", gt=0
    )
    max_shift_angst: float | None = key(
        None, unit="A", meaning="largest shift between neighbouring views; empty = 0.3 of the field", gt=0
    )
    clip_sigma: float = key(4.0, unit="sigma", meaning="brighter and darker pixels (gold) are clipped to this", gt=1)
    thickness_angst: float | None = key(
        None, unit="A", meaning="thickness of the slab that predicts the views; empty = the most likely one", gt=0
    )
    tilt_axis: Literal["refine", "keep"] = key("refine", meaning="refine one tilt axis for the series, or keep the given one")
    axis_range_deg: float = key(8.0, unit="deg", meaning="the axis is searched this far to both sides", ge=0, le=90)
    tilt_offset: Literal["auto", "off"] | float = key(
        "auto", meaning="tilt-angle offset: auto = measure and correct (levels the specimen), off, or a value in degrees"
    )
    x_tilt: Literal["off", "auto"] = key(
        "off", meaning="auto = also level the specimen about x (thick or sloping specimens), kept as a tilt about x of all views"
    )
    update_px: float = key(0.2, unit="px", meaning="sweeps end when no shift changes by more (pixels of the binned views)", gt=0)
    max_sweeps: int = key(8, meaning="at most this many final sweeps", ge=3)

    local_deformation: Literal["off", "auto"] = key(
        "off",
        meaning="auto = also fit a smooth deformation of the specimen to tracked patches, kept when patches that were held out agree better; "
        "reconstruction and particle extraction then follow it (modes that compute an alignment; one that Warp or M "
        "found is always taken over)",
    )
    unaligned_views: Literal["exclude", "keep"] = key(
        "exclude",
        meaning="views that do not show what the others predict: exclude = no later step uses them (reason not_aligned), keep = used with "
        "shifts interpolated over the tilt angle",
    )
    export: list[Literal["imod", "aretomo", "warp", "relion"]] = key(
        ["imod", "aretomo", "warp", "relion"],
        meaning="files for other programs: imod (.xf, .tlt, .xtilt), aretomo (.aln), warp (.xml), relion (relion/tomograms.star of RELION 5)",
    )

    @field_validator("tilt_offset", "x_tilt", "local_deformation", mode="before")
    @classmethod
    def _yaml_off(cls, value):
        """YAML reads a bare off as false."""
        return {False: "off", True: "auto"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _import_needs_a_file(self):
        if self.mode == "import" and not self.alignment:
            raise ValueError("mode import needs alignment: the path of the alignment, with {ts} for the series' name")
        return self
