"""Config of extract_subtomos: pseudo-subtomograms as 2D stacks (and 3D volumes on request)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from cryoet_core.config.base import StepModel, key
from cryoet_core.config.gold import GoldDiameter, gold_key, possible_diameter


class ExtractSubtomos(StepModel):
    """Keys of the step; as RELION 5's extraction, box sizes in binned pixels."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 4
    binning: int = key(8, meaning="binning of the particle images relative to the tilt images", ge=1)
    box_px: int = key(
        64, unit="px", meaning="box that is cut (binned pixels, even): room for signal spread by defocus", ge=8, multiple_of=2
    )
    crop_px: int = key(32, unit="px", meaning="box that is stored (binned pixels, even); half of box_px is usual", ge=8, multiple_of=2)
    max_dose_e_per_a2: float | None = key(
        None, unit="e/A^2", meaning="views with a larger dose before exposure are left out; empty = all views", gt=0
    )
    duplicate_distance_angst: float | None = key(
        None,
        unit="A",
        meaning="of particles of a tilt series closer than this only the best stays (one particle in both halves would fake the FSC); empty "
        "= a tenth of the stored box; 0 = keep all",
        ge=0,
    )
    rank_by: Literal["auto", "likelihood", "probability", "score"] = key(
        "auto", meaning="what makes a particle better; auto = the likelihood of the round before, else the picking score"
    )
    keep_best: int | None = key(None, meaning="only so many best particles enter the round; empty = all", ge=10)
    min_rank: float | None = key(None, meaning="only particles whose rank_by value is at least this; empty = all")
    drop_diffuse: bool = key(False, meaning="leave out particles that the round before marked as without a clear pose")
    min_views: int = key(1, meaning="particles seen in fewer views are dropped", ge=1)
    ctf_premultiply: bool = key(True, meaning="multiply by CTF, dose weight and ctf_scale of every image")
    dose_at: Literal["start", "middle"] = key(
        "start", meaning="dose that weights an image: before it (RELION) or at its middle"
    )
    cut_from_raw: bool = key(
        False, meaning="bin every particle's box on its own, as RELION, instead of every view once (slower)"
    )
    gold_diameter_angst: GoldDiameter = gold_key("that particles are cut from")
    float16: bool = key(False, meaning="store half-precision numbers (MRC mode 12)")
    volumes_3d: bool = key(
        False,
        meaning="average 3D pseudo-subtomograms (sums of the images in 3D Fourier space, two files a particle) instead of 2D stacks; the stacks "
        "are in images/particles_2d.star then",
    )
    whiten: bool = key(
        False, meaning="3D: every view counts by its own noise spectrum in the sums, as in the 2D likelihood; false = RELION's plain sums"
    )
    relion_files: bool = key(
        False, meaning="also write one 2D stack per particle, as RELION reads them, and particles_relion.star"
    )

    _possible_diameter = field_validator("gold_diameter_angst")(possible_diameter)
