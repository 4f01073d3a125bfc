"""What an alignment of a tilt series is asked, what its stages pass on, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cryoet_core.geometry.local_deformation import N_TERMS, LocalDeformation
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.tilt_series.gold import Survey
from cryoet_core.tilt_series.refine_alignment import turned
from cryoet_core.tilt_series.slab_model import SlabPrior


@dataclass(frozen=True)
class AlignmentSettings:
    """How to align; see config/align_tilt_series.py for the meaning of each value. None = automatic."""

    mode: str = "projection_matching"
    pixel_size_angst: float = 14.0
    resolution_angst: float = 30.0
    highpass_angst: float | None = None
    max_shift_angst: float | None = None
    clip_sigma: float = 4.0
    refine_axis: bool = True
    axis_range_deg: float = 8.0
    refine_offset: bool = True
    level_x: bool = False
    thickness_angst: float | None = None
    update_px: float = 0.2
    max_sweeps: int = 8
    local_deformation: bool = False


@dataclass(frozen=True)
class Alignment:
    """Result for all n views; per-view arrays are NaN for views that took no part.

    geometry : TiltGeometry of all views. axis_change_deg, tilt_offset_deg : added to what was given; their errors are the
    likelihood's widths with only the shifts following, a lower bound (a wrong axis is mostly a turned specimen). thickness_angst : of the slab that predicts the views best. correlation : (n,) leave-one-out.
    shift_error_angst : (n,) standard error predicted by the model. history : one dict per stage. method : what the geometry comes from
    ("combined" may end as projection_matching). residual_px : (n,) median distance of tracked patches from where the geometry puts
    them, raw pixels, NaN without patch tracking. patches, beads : numbers of the patch tracking and of the beads followed, empty without. used : (n,) bool, views
    that shaped the result; an included view that is not used does not show what the others predict, and its shift is interpolated.
    deformation : local deformation of all n views (zero where not used), None when not asked for or not found. survey : of gold in the views used.
    """

    geometry: TiltGeometry
    axis_change_deg: float
    axis_error_deg: float
    tilt_offset_deg: float
    tilt_offset_error_deg: float
    x_tilt_deg: float
    thickness_angst: float
    correlation: np.ndarray
    shift_error_angst: np.ndarray
    signal_fraction: SlabPrior
    pixel_size_angst: float
    history: list = field(default_factory=list)
    method: str = "projection_matching"
    residual_px: np.ndarray | None = None
    patches: dict = field(default_factory=dict)
    beads: dict = field(default_factory=dict)
    used: np.ndarray | None = None
    deformation: LocalDeformation | None = None
    survey: Survey | None = None


@dataclass
class State:
    """What the stages of an alignment pass on: of the views that take part, those in use."""

    geometry: TiltGeometry
    thickness_angst: float
    thickness_known: bool = False
    axis_deg: float = 0.0
    axis_error_deg: float = np.nan
    offset_deg: float = 0.0
    offset_error_deg: float = np.nan
    x_tilt_deg: float = 0.0
    x_tilt_error_deg: float = np.nan
    history: list = field(default_factory=list)
    method: str = "projection_matching"
    residual_px: np.ndarray | None = None
    patches: dict = field(default_factory=dict)
    beads: dict = field(default_factory=dict)
    deformation: LocalDeformation | None = None

    def note(self, stage: str, update_angst: float = np.nan):
        """Append a stage to the history."""
        self.history.append({
            "stage": stage, "axis_change_deg": self.axis_deg, "tilt_offset_deg": self.offset_deg, "x_tilt_deg": self.x_tilt_deg,
            "thickness_angst": self.thickness_angst, "largest_update_angst": update_angst,
        })  # fmt: skip


def finished(geometry: TiltGeometry, included, state: State, correlation, error, prior, pixel_size_angst: float, used, survey) -> Alignment:
    """The result for all views of ``geometry`` (nominal) from the state of those ``included``; correlation, error (of the included ones), used : per
    included view; survey : of the used ones. ``state.geometry`` holds all included views, ``state.residual_px`` and ``state.deformation`` those used.
    """
    full = turned(geometry.replace(x_shift_angst=0.0, y_shift_angst=0.0), state.axis_deg, state.offset_deg, state.x_tilt_deg)
    shift = full.shift_angst
    shift[included] = state.geometry.shift_angst
    per_view = np.full((3, len(geometry)), np.nan)
    per_view[0, included], per_view[1, included] = correlation, error
    part_of_fit = np.zeros(len(geometry), bool)
    part_of_fit[included] = used
    if state.residual_px is not None:
        per_view[2, part_of_fit] = state.residual_px
    deformation = None
    if state.deformation is not None:
        coefficients = np.zeros((len(geometry), N_TERMS, 2))
        coefficients[part_of_fit] = state.deformation.coefficients_angst
        deformation = LocalDeformation(coefficients)
    return Alignment(
        geometry=full.replace(x_shift_angst=shift[:, 0], y_shift_angst=shift[:, 1]),
        axis_change_deg=state.axis_deg,
        axis_error_deg=state.axis_error_deg,
        tilt_offset_deg=state.offset_deg,
        tilt_offset_error_deg=state.offset_error_deg,
        x_tilt_deg=state.x_tilt_deg,
        thickness_angst=state.thickness_angst,
        correlation=per_view[0],
        shift_error_angst=per_view[1],
        signal_fraction=prior,
        pixel_size_angst=pixel_size_angst,
        history=state.history,
        method=state.method,
        residual_px=per_view[2],
        patches=state.patches,
        beads=state.beads,
        used=part_of_fit,
        deformation=deformation,
        survey=survey,
    )


def settings_from_config(config) -> AlignmentSettings:
    """Settings from config.align_tilt_series.AlignTiltSeries."""
    return AlignmentSettings(
        mode=config.mode,
        pixel_size_angst=config.pixel_size_angst,
        resolution_angst=config.resolution_angst,
        highpass_angst=config.highpass_angst,
        max_shift_angst=config.max_shift_angst,
        clip_sigma=config.clip_sigma,
        refine_axis=config.tilt_axis == "refine",
        axis_range_deg=config.axis_range_deg,
        refine_offset=config.tilt_offset == "auto",
        level_x=config.x_tilt == "auto",
        thickness_angst=config.thickness_angst,
        update_px=config.update_px,
        max_sweeps=config.max_sweeps,
        local_deformation=config.local_deformation == "auto",
    )
