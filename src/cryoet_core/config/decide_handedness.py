"""Config section decide_handedness: the sign of depth in the defocus, one for all series of the run."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from cryoet_core.config.base import StepModel, key


class DecideHandedness(StepModel):
    """Both signs were fitted by estimate_ctf; here one is chosen."""

    version: ClassVar[int] = 1

    handedness: Literal["auto", "1", "-1"] = key(
        "auto",
        meaning="auto = all series together decide: if they say +1, the tilt axis of every series is turned by 180 degrees and "
        "-1 stored; if they cannot tell, -1. A given 1 or -1 is obeyed and nothing is turned",
    )

    @field_validator("handedness", mode="before")
    @classmethod
    def _as_text(cls, value):
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @property
    def given(self) -> int | None:
        """+1 or -1 where the user said so, else None."""
        return None if self.handedness == "auto" else int(self.handedness)
