"""Config of exclude_views: which tilt images take no part from here on. They stay in the table, with the reason."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator

from cryoet_core.config.base import StepModel, key


class ExcludeViews(StepModel):
    """Keys of the step; all criteria given are applied together."""

    version: ClassVar[int] = 3
    tilt_ids: list[int] = key([], meaning="views to exclude in every series, by number of acquisition (tlTiltId)")
    tilt_angles_deg: list[float] = key(
        [], unit="deg", meaning="views to exclude in every series, by nominal tilt angle (the nearest within 0.5 deg)"
    )
    first_negative: int = key(0, meaning="exclude this many of the most negative tilts (7 in the tutorial)", ge=0)
    last_positive: int = key(0, meaning="exclude this many of the most positive tilts (4 in the tutorial)", ge=0)
    file: str | None = key(
        None, meaning="YAML file: series name -> list of {tilt_id, reason}, or any of tilt_ids, tilt_angles_deg, first_negative, "
        "last_positive; {ts} in its path stands for the series' name, and series without a file have no list"
    )
    dark: bool = key(True, meaning="find dark and blocked views by themselves")
    dark_tolerance: float = key(
        0.7, meaning="a view is dark if its mean/std is below this times that of the least tilted views", ge=0, le=1
    )
    min_intensity: float = key(
        0.5, meaning="a view is dark if its mean is below this times what the thickness law expects", ge=0, le=1
    )
    protected_tilt_deg: float = key(3.5, unit="deg", meaning="mean/std never removes views at smaller tilts", ge=0)
    max_ctf_resolution_angst: float | None = key(
        None, unit="A", gt=0, meaning="exclude views whose CTF was fitted, but only to a coarser resolution than this; empty = none"
    )
    ctf_outlier_sigma: float | None = key(
        None, unit="sigma", gt=0, meaning="exclude views whose CTF resolution is this many robust deviations worse than its trend over tilt"
    )
    max_motion_angst: float | None = key(
        None, unit="A", gt=0, meaning="exclude views whose frames moved more than this (rms about their mean position)"
    )
    neighbour_outlier_sigma: float | None = key(
        None, unit="sigma", gt=0, meaning="exclude views whose correlation with their neighbours in tilt is this many robust deviations below its trend"
    )
    min_field_of_view: float | None = key(
        None, ge=0, le=1, meaning="exclude views that share less than this part of the least tilted view's field"
    )
    max_blocked_fraction: float | None = key(
        0.25, ge=0, le=1, meaning="exclude views of which this much more is covered (below 0.6 of the expected intensity) than of the median view"
    )
    max_excluded_fraction: float = key(
        0.4, meaning="stop (E-TS-03) if the automatic criteria remove more of a series than this", ge=0, le=1
    )

    @field_validator("tilt_ids")
    @classmethod
    def _numbers_of_views(cls, values: list[int]) -> list[int]:
        if any(value < 0 for value in values):
            raise ValueError("views are numbered from 0")
        return values
