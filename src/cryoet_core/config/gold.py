"""The key of the steps that take gold beads out of views."""

from __future__ import annotations

from typing import Literal

from cryoet_core.config.base import key

GoldDiameter = float | Literal["auto"] | None
LARGEST_ANGST = 1000.0


def gold_key(views: str):
    """auto, a diameter in A, or nothing; to be checked by :func:`possible_diameter`."""
    return key(
        "auto",
        unit="A",
        meaning=f"gold beads are erased from the views {views}: auto = those that align_tilt_series found; a number = "
        "those, and whatever else in a view looks like a bead of this diameter; empty = they stay",
    )


def possible_diameter(value: GoldDiameter) -> GoldDiameter:
    """Validator of the key."""
    if isinstance(value, float) and not 0 < value <= LARGEST_ANGST:
        raise ValueError(f"a bead's diameter lies between 0 and {LARGEST_ANGST:.0f} A")
    return value
