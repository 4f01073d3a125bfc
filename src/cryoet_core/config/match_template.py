"""Config of match_template: which particles, how finely searched, which of them kept."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from cryoet_core.config.base import StepModel, key
from cryoet_core.config.symmetry import PointGroup
from cryoet_core.errors import UserInputError
from cryoet_core.io.picks.grid import Axes

PicksFormatName = Literal[
    "relion5", "relion4", "eman2", "cbox", "coords", "table", "tloc", "deepfinder", "dynamo", "stopgap", "av3", "imod", "imod_points", "copick", "portal"
]


class MatchTemplate(StepModel):
    """Keys of the step; max_particles, n_sigma, min_distance_angst, symmetry as in the tutorial's picker."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 7
    preset: Literal["tiltline", "eman2"] = key(
        "tiltline",
        meaning="eman2 = as the tutorial's picker e2spt_tempmatch: 30 degrees, no wedge, no CTF, regions above n_sigma (6), for comparison; of the other "
        "keys it heeds max_particles, n_sigma, min_distance_angst, erase_gold, and any edge_margin_angst above 0",
    )
    max_particles: int = key(800, meaning="at most this many particles per tomogram", ge=1)
    n_sigma: float | None = key(
        None, ge=0,
        meaning="a pick's score is at least this many robust standard deviations above the median score of the map (the tutorial's rule, for "
        "EMAN2's score: on ours 6 keeps many false picks in a large tomogram); given alone it decides alone; empty = decided automatically (see max_false_fraction)",
    )
    max_false_fraction: float | None = key(
        None, gt=0, le=1,
        meaning="expected share of false picks, from the competition with the background; candidates that fit the mirrored reference nearly as well are "
        "left out before where the data tell the two apart clearly; empty, and neither n_sigma nor max_false_picks given = the cut-off with the best expected F1 "
        "(harmonic mean of precision and recall) that expects at most 0.2; 1 = max_particles alone",
    )
    max_false_picks: float | None = key(
        None, gt=0, meaning="expected number of false picks per tomogram, instead of max_false_fraction"
    )
    background: Literal["auto", "mirror", "random_phase", "both", "none"] = key(
        "auto",
        meaning="what the false picks are measured with, searched like the reference: its mirror image, the reference with random phases, or the "
        "worse of both; auto = mirror, random phases for a reference that looks like its mirror image; none = n_sigma alone (half the time)",
    )
    min_distance_angst: float | None = key(
        None, unit="A", meaning="smallest distance of two particles; empty or -1 = half the particle diameter"
    )
    particle_diameter_angst: float | None = key(None, unit="A", meaning="empty = measured from the reference", gt=0)
    symmetry: PointGroup = key(
        "C1", meaning="point group of the reference in RELION's setting: C1, Cn, Dn, T, O, I (= I2), I1 to I4"
    )
    angular_step_deg: float | None = key(
        None, unit="deg", gt=0, le=60,
        meaning="step of the first search over orientations; the peaks are refined to an eighth of it and finer; empty = the coarsest from 15 on that "
        "sees enough of the particle; the tomogram is searched in voxels as coarse as the step, and its peaks are scored and refined in finer ones",
    )
    low_pass_angst: float | None = key(None, unit="A", meaning="finest detail that is searched and scored; empty = 2.4 voxels of each", gt=0)
    whitening: bool = key(True, meaning="give all frequencies of the tomogram equal noise power")
    ctf: Literal["auto", "phase_flip", "multiply", "none", "ignore"] = key(
        "auto", meaning="how correct_ctf treated the views (none = not at all); auto = from the table; ignore = expect no CTF"
    )
    dose_weighting: bool = key(True, meaning="expect less high-resolution signal in the later views")
    erase_gold: bool = key(True, meaning="take gold beads (very dark voxels) out of the tomogram, no picks beside them")
    slab_thickness_angst: float | Literal["auto"] | None = key(
        None, unit="A",
        meaning="search only this slab about the tomogram's central plane; auto = find the specimen's slab; empty = everywhere",
    )
    search_mask: str | None = key(
        None, meaning="MRC file on the tomogram's grid, 1 where particles may lie, 0 elsewhere; path with {ts}, or one file for all series"
    )
    exclude_membranes: bool = key(False, meaning="no picks on membranes: thin sheets larger than two particles")
    exclude_carbon: bool = key(False, meaning="no picks on carbon film and large contamination: regions of far more texture than the rest")
    edge_margin_angst: float | None = key(
        None, unit="A", meaning="no picks this close to the tomogram's border; empty = a quarter of the particle diameter", ge=0
    )
    min_view_share: float = key(
        0.5, ge=0, le=1,
        meaning="no picks that fewer than this share of the views hold with edge_margin_angst around them: with most views missing a particle looks different from what is searched for",
    )
    method: Literal["auto", "fft", "low_rank"] = key(
        "auto", meaning="one FFT per orientation, or eigen-templates and matrix products (much cheaper); auto = FFT only where there are few orientations"
    )
    search: Literal["hierarchical", "exhaustive"] = key(
        "hierarchical",
        meaning="hierarchical = twice the angular step everywhere, the full one where the score is among the best 4 % of a region (low_rank "
        "only, about four times faster); exhaustive = every orientation everywhere",
    )
    picks: str | None = key(
        None, meaning="particles picked by another program, taken instead of matching: path with {ts}, or one file with all series; empty = match"
    )
    picks_format: Literal["auto", PicksFormatName] = key("auto", meaning="what wrote the picks; auto = by the file's ending and what is in it")
    picks_pixel_size_angst: float | None = key(
        None, unit="A", gt=0,
        meaning="voxel of the tomogram they were picked in; empty = what the file says, else this run's tomogram (RELION: the tilt images)",
    )
    picks_tomogram_size_px: tuple[int, int, int] | None = key(
        None, unit="px", meaning="x, y, z of the tomogram they were picked in, if it is not this one in other voxels: the two centres are put together"
    )
    picks_axes: str = key(
        "xyz", meaning="which axes of that tomogram are x, y and z of this one, - for a reversed one; xz-y = an IMOD reconstruction before trimvol -rx"
    )
    picks_shift_angst: tuple[float, float, float] = key(
        (0.0, 0.0, 0.0), unit="A", meaning="added to all positions, along the file's axes: for programs that are a voxel off"
    )
    picks_tomograms: dict[str, int] = key(
        {}, meaning="number of each series in a file that numbers its tomograms (Dynamo, STOPGAP, AV3, DeepFinder), e.g. {TS_01: 1}"
    )
    picks_class: int | None = key(None, meaning="take this class only (EMAN2 type, DeepFinder label, IMOD object, ...); empty = all")
    picks_min_score: float | None = key(None, meaning="take picks with at least this score (crYOLO confidence, ...); empty = all")
    export_picks: list[PicksFormatName] = key([], meaning="formats of other programs that the picks are also written in, beside particles.star")

    @field_validator("slab_thickness_angst")
    @classmethod
    def _slab(cls, value):
        if isinstance(value, float) and value <= 0:
            raise ValueError("a thickness above 0, or auto")
        return value

    @field_validator("picks_axes")
    @classmethod
    def _axes(cls, value: str) -> str:
        try:
            Axes.parse(value)
        except UserInputError as error:
            raise ValueError(f"{error.message}: expected {error.expected}") from None
        return value
