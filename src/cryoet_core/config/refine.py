"""Config of refine: gold-standard refinement of the particles' poses and the average."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key
from cryoet_core.config.symmetry import PointGroup


class Refine(StepModel):
    """Keys of the step; names and defaults as in RELION 5's auto-refine of the tutorial."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 5
    start: Literal["global", "given_poses"] = key(
        "global",
        meaning="global: search all orientations; given_poses: search only around the angles in the particle table "
        "(template matching, a previous round)",
    )
    initial_lowpass_angst: float = key(40.0, unit="A", meaning="low-pass of the first reference", gt=0)
    symmetry: PointGroup = key("C1", meaning="point group in RELION's setting: C1, Cn, Dn, T, O, I (= I2), I1 to I4")
    mask_diameter_angst: float = key(
        350.0, unit="A", meaning="diameter of the particle: soft circular mask of images and map", gt=0
    )
    angular_sampling_deg: float = key(
        7.5,
        unit="deg",
        meaning="first angular sampling: the search grid has twice this step, its best orientations are then refined "
        "continuously",
        gt=0.2,
        le=30,
    )
    offset_range_px: float = key(5.0, unit="px", meaning="3-D offsets searched around the present position", ge=0)
    offset_step_px: float = key(
        1.0, unit="px", meaning="finest step of the offset grid (coarser where the resolution allows it)", gt=0
    )
    local_search_from_deg: float = key(
        1.8,
        unit="deg",
        meaning="searches are local from this sampling on; the sampling halves while orientations change less than it",
        gt=0,
    )
    local_search_range_deg: float = key(
        15.0, unit="deg", meaning="half width of the first local search (start: given_poses)", gt=0, le=60
    )
    max_iterations: int = key(12, meaning="iterations at most; refinement stops when nothing improves", ge=1)
    join_halves_angst: float = key(
        40.0,
        unit="A",
        meaning="both halves share frequencies coarser than this, so that they keep one frame; never more than the first "
        "third of the shells, so that the FSC stays honest at large pixels",
        gt=0,
    )
    regularisation: float = key(1.0, meaning="factor on the signal-to-noise ratio of the Wiener filter", gt=0)
    likelihood: Literal["exact", "relion"] = key(
        "exact",
        meaning="noise model of the premultiplied images. exact: one spectrum per view of the un-multiplied images, so every "
        "view counts by what it knows; relion: one spectrum per series of the multiplied images, as RELION 5, to compare",
    )
    offset_sigma_angst: float | None = key(
        None,
        unit="A",
        meaning="width of the Gaussian prior of the offsets from the picked positions; empty: starts at half of offset_range_px, then "
        "estimated from the particles in every iteration",
        gt=0,
    )
    orientation_sigma_deg: float | None = key(
        None,
        unit="deg",
        meaning="width of a Gaussian prior around the orientations in the particle table (template matching), about each axis, in all "
        "iterations; empty: none",
        gt=0,
    )
    relax_symmetry: PointGroup = key(
        "C1",
        meaning="point group that the particle nearly has: orientations that it relates are tried against one another in every "
        "iteration, while the map has only `symmetry`",
    )
    norm_correction: bool = key(True, meaning="estimate the noise level of every particle")
    scale_correction: bool = key(True, meaning="estimate the signal's strength in every tilt series")
    memory_mb: int = key(
        4000,
        unit="MB",
        meaning="memory to plan with: it sets the tiles of the search; images that do not fit beside it are kept in scratch files (slower, "
        "the same numbers)",
        ge=500,
    )
