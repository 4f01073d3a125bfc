"""Config of reconstruct_tomogram: weighted or SIRT-like filtered back-projection of the binned views."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key


class ReconstructTomogram(StepModel):
    """Keys of the step; names and defaults follow IMOD's tilt where it has the same parameter."""

    version: ClassVar[int] = 2
    thickness: int = key(350, unit="px", meaning="thickness in pixels of the binned views", ge=2)
    thickness_angst: float | None = key(None, unit="A", meaning="thickness in A; wins over thickness", gt=0)
    width: int | None = key(None, unit="px", meaning="size along x (across the tilt axis); empty = the whole view", ge=2)
    method: Literal["wbp", "sirt_like"] = key("sirt_like", meaning="ramp filter, or a ramp that imitates SIRT")
    sirt_iterations: int = key(10, meaning="number of SIRT iterations that sirt_like imitates", ge=1)
    sirt_alpha: Literal["auto", "imod"] = key(
        "auto", meaning="knee of the SIRT-like filter: auto = 1/(thickness x angular range), imod = 0.00195 cycles/px"
    )
    angular_weights: Literal["adjacent", "exact"] = key(
        "adjacent", meaning="adjacent = half the gap to the neighbouring tilts; exact = overlap of all views (Harauz & van Heel)"
    )
    radial_cutoff: float = key(0.35, unit="cycles/px", meaning="frequency where the low-pass begins", gt=0, le=1)
    radial_falloff: float = key(0.035, unit="cycles/px", meaning="sigma of the Gaussian beyond the cutoff", ge=0)
    super_sampling: int = key(2, meaning="views and x-z grid are made this much finer while back-projecting", ge=1, le=4)
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
    halves: bool = key(True, meaning="also reconstruct tomograms of the even and of the odd views")
