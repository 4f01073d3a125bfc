"""The whole config: where the data are, one section per step, and the averaging rounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from cryoet_core.config.align_tilt_series import AlignTiltSeries
from cryoet_core.config.averaging import AveragingRound
from cryoet_core.config.base import StepModel, key
from cryoet_core.config.correct_ctf import CorrectCtf
from cryoet_core.config.correct_motion import CorrectMotion
from cryoet_core.config.decide_handedness import DecideHandedness
from cryoet_core.config.erase_xrays import EraseXrays
from cryoet_core.config.estimate_ctf import EstimateCtf
from cryoet_core.config.exclude_views import ExcludeViews
from cryoet_core.config.import_reference import ImportReference
from cryoet_core.config.import_tilt_series import ImportTiltSeries
from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.config.preprocess_tilt_series import PreprocessTiltSeries
from cryoet_core.config.reconstruct_tomogram import ReconstructTomogram
from cryoet_core.config.relion_project import RelionProject
from cryoet_core.config.resize_reference import ResizeReference
from cryoet_core.config.simulate import Simulate


class Data(StepModel):
    """Where the raw data are. Give one of: simulate, mdoc, stacks."""

    simulate: bool = key(False, meaning="make the data with the simulator (section simulate) instead of reading them")
    mdoc: str | None = key(None, meaning="glob of the tilt series' mdoc files; a series is named after its mdoc")
    mdoc_series: str | None = key(
        None, meaning="regular expression that finds the series' name in the name of an mdoc, for series in several mdocs (one per "
        "movie, or in parts), e.g. (TS_[0-9]+); empty = one mdoc per series"
    )
    movies_dir: str | None = key(None, meaning="folder of the movies; empty = the folder of each mdoc")
    gain_reference: str | None = key(None, meaning="gain reference of the movies; empty = movies are already corrected")
    defects: str | None = key(
        None,
        meaning="defects of the camera, as the raw movies lie: a map (MRC or TIFF, non-zero = defect), MotionCor's text file of boxes or SerialEM's list; "
        "empty = the gain's dead pixels and what the movies show",
    )
    stacks: str | None = key(None, meaning="glob of ready tilt-series stacks (.mrc, .st), instead of movies")
    tilts: str | None = key(
        None,
        meaning="tilt angles of ready stacks: path with {ts} and {dir}; empty = {dir}/{ts}_tilts.tsv, the stack's "
        "own mdoc, .rawtlt or .tlt",
    )
    reference: str | None = key(None, meaning="map of the particle for template matching (MRC)")
    tilt_series: list[str] = key([], meaning="names of the series to process; empty = all that are found")


class Config(StepModel):
    """The config file, one section per step; a missing key has its default."""

    results_dir: str = key("results", meaning="folder of all outputs")
    seed: int = key(2026, meaning="seed of everything random", ge=0, le=2**32 - 1)
    device: str = key("auto", meaning="auto, cpu, cuda or cuda:N; auto = a GPU when the machine that starts the run has one; on a cluster say cuda")
    keep: Literal["all", "results"] = key(
        "all",
        meaning="all = every file stays; results = stacks of views and of particles are removed as soon as nothing in the run needs them any more. "
        "An edit that needs them again then starts from the movies; postprocess, the RELION view and the report do not",
    )
    max_failed_series: float = key(
        0.2,
        meaning="share of the tilt series that may be left out because of what their data are (no Thon rings, too few views, missing movies, ...), named in log "
        "and report; one is always allowed beside others; with more the run stops",
        ge=0, le=1,
    )
    data: Data = key(Data(), meaning="where the raw data are")
    simulate: Simulate = key(Simulate(), meaning="the simulator")
    import_tilt_series: ImportTiltSeries = key(ImportTiltSeries(), meaning="acquisition metadata")
    correct_motion: CorrectMotion = key(CorrectMotion(), meaning="movies -> images")
    estimate_ctf: EstimateCtf = key(EstimateCtf(), meaning="defocus per tilt")
    decide_handedness: DecideHandedness = key(DecideHandedness(), meaning="the hand of the run")
    exclude_views: ExcludeViews = key(ExcludeViews(), meaning="bad views")
    erase_xrays: EraseXrays = key(EraseXrays(), meaning="X-ray hits and hot pixels")
    align_tilt_series: AlignTiltSeries = key(AlignTiltSeries(), meaning="markerless alignment")
    correct_ctf: CorrectCtf = key(CorrectCtf(), meaning="CTF correction of the views")
    preprocess_tilt_series: PreprocessTiltSeries = key(PreprocessTiltSeries(), meaning="binning and grey values")
    reconstruct_tomogram: ReconstructTomogram = key(ReconstructTomogram(), meaning="tomograms")
    import_reference: ImportReference = key(ImportReference(), meaning="the template's map")
    resize_reference: ResizeReference = key(ResizeReference(), meaning="the template at the tomogram's pixel size")
    match_template: MatchTemplate = key(MatchTemplate(), meaning="particle picking")
    relion_project: RelionProject = key(RelionProject(), meaning="the RELION 5 view of the run")
    averaging: list[AveragingRound] = key([], meaning="rounds of averaging, each starting from the one before")

    @field_validator("results_dir")
    @classmethod
    def _a_folder_of_its_own(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("results_dir is empty: name a folder, for example results")
        if name.startswith("~"):
            raise ValueError("'~' is not understood here: write the path out")
        path = Path(name).resolve()
        if path in (Path(path.anchor), Path.home().resolve()):
            raise ValueError("results_dir is the root or your home: name a folder of its own, for example results")
        if path.exists() and not path.is_dir():
            raise ValueError("results_dir is a file: name a folder")
        return name.rstrip("/")

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
            raise ValueError("device is auto, cpu, cuda or cuda:N")
        return name
