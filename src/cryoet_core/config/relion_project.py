"""Config of the RELION 5 view of a run."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key


class RelionProject(StepModel):
    """What RELION finds of the images."""

    version: ClassVar[int] = 1
    stacks: Literal["repaired", "linked"] = key(
        "repaired",
        meaning="RELION reads whole stacks and knows no list of repaired pixels (erase_xrays). repaired = a stack of full views for RELION, once for "
        "all rounds, a third of the space of correct_motion's; linked = links to the stack of correct_motion, X-ray hits and all. With "
        "erase_xrays.stack: true links are enough",
    )
