"""Config of import_reference: the map of the particle to look for."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key


class ImportReference(StepModel):
    """Keys of the step; the file itself is data.reference."""

    version: ClassVar[int] = 1
    pixel_size_angst: float | None = key(None, unit="A", meaning="pixel size of the map; empty = from its header", gt=0)
    invert: bool = key(False, meaning="the map is dark on bright: turn its contrast round")
    centre: Literal["keep", "mass"] = key("keep", meaning="keep the map's centre, or move the centre of mass to index n//2")
