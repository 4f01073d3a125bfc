"""Picks of other programs, read and written: one module per family, all in one registry.

Every reader gives a :class:`Picks` in A from the centre of our tomogram with rotation matrices reference -> tomogram; where the
programs put their zero, how they count, and what their angles mean is written in the module of each, and in one table in docs/algorithms/import_picks.md.
"""

from __future__ import annotations

from cryoet_core.io.picks.grid import Axes, Grid, Tomogram
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.registry import (
           FORMATS,
           Reading,
           Source,
           detect_format,
           exported_name,
           picks_format,
           read_picks,
           write_picks,
)

__all__ = ["FORMATS", "Axes", "Grid", "Picks", "Reading", "Source", "Tomogram", "detect_format", "exported_name", "picks_format", "read_picks",
           "write_picks"]
