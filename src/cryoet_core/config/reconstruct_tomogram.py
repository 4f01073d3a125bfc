"""Config of reconstruct_tomogram: filtered back-projection or iterative reconstruction of the binned views."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from cryoet_core.config.base import StepModel, key


class ReconstructTomogram(StepModel):
    """Keys of the step; names and defaults follow IMOD's tilt where it has the same parameter."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 5
    thickness: Literal["auto"] | int = key(
        350, unit="px", meaning="thickness in pixels of the binned views; auto = 1.5 x the slab that align_tilt_series found, and at least 40 nm more"
    )
    thickness_angst: float | None = key(None, unit="A", meaning="thickness in A; wins over thickness", gt=0)
    width: int | None = key(None, unit="px", meaning="size along x (across the tilt axis); empty = the whole view", ge=2)
    method: Literal["wbp", "sirt_like", "sirt", "sart"] = key(
        "sirt_like", meaning="wbp = ramp filter; sirt_like = a ramp that imitates SIRT; sirt and sart = iterative, all views or a subset at a time"
    )
    sirt_iterations: int = key(
        10, meaning="number of iterations of sirt and sart (passes over all views), or that sirt_like imitates; sart needs about a tenth", ge=1, le=1000
    )
    subset_size: int = key(5, meaning="views per update of sart", ge=1)
    relaxation: float = key(1.0, meaning="part of every correction of sirt and sart that is applied", gt=0, lt=2)
    padding: float = key(
        0.1, meaning="sirt and sart: thickness added above and below while solving, for matter outside the tomogram, as a part of the thickness",
        ge=0, le=2,
    )
    sign_constraint: Literal["none", "dark"] = key(
        "none", meaning="sirt and sart: dark = no density may be brighter than the mean of the views"
    )
    sirt_alpha: Literal["auto", "imod"] = key(
        "auto", meaning="SIRT-like filter: auto = what comes closest to SIRT in a slab of this thickness and these tilts, imod = IMOD's curve with its knee at 0.00195 cycles/px"
    )
    angular_weights: Literal["adjacent", "exact"] = key(
        "exact", meaning="of wbp: exact = weights with which re-projections have the views' grey values, at the ends of the "
        "tilt range too; adjacent = half the gap to the neighbouring tilts"
    )
    radial_cutoff: float = key(0.35, unit="cycles/px", meaning="frequency where the low-pass begins", gt=0, le=1)
    radial_falloff: float = key(0.035, unit="cycles/px", meaning="sigma of the Gaussian beyond the cutoff", ge=0)
    super_sampling: int = key(
        2, meaning="rows of the views are made finer while back-projecting: 1 = as they are, n = n + 1 times, which is at least as exact as x-z planes "
        "n times finer", ge=1, le=4
    )
    view_scaling: Literal["none", "sd", "mean"] = key(
        "none", meaning="grey values of the views: as they are, equal standard deviation, or divided by their mean"
    )
    shift_x_angst: float = key(0.0, unit="A", meaning="moves the content of the tomogram along x")
    shift_z_angst: float = key(0.0, unit="A", meaning="moves the content of the tomogram along z")
    tilt_offset_deg: float = key(0.0, unit="deg", meaning="added to every tilt angle (levels the specimen)")
    ctf_3d: Literal["none", "phase_flip", "multiply", "wiener"] = key(
        "none", meaning="3-D CTF correction: every voxel with the defocus of its own depth in each view, while back-projecting; needs "
        "correct_ctf.mode none"
    )
    ctf_3d_step_angst: float | None = key(
        None, unit="A", meaning="step in defocus between the corrected copies of a view, which are interpolated; empty = 0.5 rad of phase at the "
        "highest frequency kept", gt=0
    )
    ctf_3d_wiener_snr: float = key(10.0, meaning="signal-to-noise ratio at low frequency for ctf_3d wiener", gt=0)
    ctf_3d_wiener_falloff: float = key(1.0, meaning="how fast that ratio falls with frequency: exp(-100 falloff k), k in 1/A", ge=0)
    format: Literal["float32", "float16"] = key("float16", meaning="grey values in the files: MRC mode 2, or mode 12 at half the size")
    halves: bool = key(True, meaning="also reconstruct tomograms of the even and of the odd views")

    @model_validator(mode="after")
    def _consistent(self):
        if self.thickness != "auto" and self.thickness < 2:
            raise ValueError("thickness must be auto or at least 2 pixels")
        if self.ctf_3d != "none" and self.method in ("sirt", "sart"):
            raise ValueError("ctf_3d needs method wbp or sirt_like: it is done in their single pass of back-projection")
        return self
