"""The key of the steps that take gold beads out of views."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cryoet_core.config.base import key

GoldDiameter = Literal["auto"] | Annotated[float, Field(gt=0, le=1000)] | None


def gold_key(views: str):
    """auto, a diameter in A, or nothing."""
    return key(
        "auto", unit="A", meaning=f"gold beads are erased from the views {views}: auto = those that align_tilt_series found; a number = those, and whatever "
        "else in a view looks like a bead of this diameter; empty = they stay",
    )  # fmt: skip
