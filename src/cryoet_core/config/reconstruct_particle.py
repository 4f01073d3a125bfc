"""Config of reconstruct_particle: the map at given poses, from images cut at the refined positions."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key
from cryoet_core.config.symmetry import PointGroup


class ReconstructParticle(StepModel):
    """Keys of the step; as RELION 5's reconstruct particle."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 2
    binning: int | None = key(None, meaning="binning of the map; empty = that of the extraction", ge=1)
    box_px: int | None = key(None, unit="px", meaning="box that is cut; empty = that of the extraction", ge=8)
    crop_px: int | None = key(None, unit="px", meaning="box of the map; empty = that of the extraction", ge=8)
    symmetry: PointGroup = key("C1", meaning="point group in RELION's setting: C1, Cn, Dn, T, O, I (= I2), I1 to I4")
    wiener_snr: float = key(
        0.0, meaning="SNR of the Wiener filter; 0 or negative = weights floored at 0.001 of the shell mean"
    )
    taper_px: float = key(10.0, unit="px", meaning="soft edge inside the sphere of the map's box", ge=0)
    cutoff_fraction: float = key(
        0.01, meaning="frequencies where an image's dose weight is smaller are not used", ge=0, lt=1
    )
    insertion: Literal["spread", "gather"] = key(
        "spread",
        meaning="spread: every pixel is shared among the voxels around it, the adjoint of slicing; gather: every voxel reads the slices near "
        "it, as RELION (with cut_from_raw: its maps)",
    )
    cut_from_raw: bool = key(False, meaning="bin every particle's box on its own, as RELION (slower)")
