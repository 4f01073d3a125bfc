"""The hand of a run: which sign the depth has in the defocus, decided once by all tilt series together.

All series of a run come from one microscope in one state, so they share the hand; a single series may be too poor in
rings to tell, or be misled by its own noise. Source of the idea: Warp's ts_defocus_hand, which averages over series.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from cryoet_core.ctf.fit import HandEvidence
from cryoet_core.metadata import TiltSeries


@dataclass(frozen=True)
class RunHand:
    """total : evidence of all series together. against : names of series whose own clear evidence disagrees with it."""

    total: HandEvidence
    against: tuple[str, ...]

    @property
    def decided(self) -> int:
        """+1, -1, or 0 where the run as a whole cannot tell."""
        return self.total.decided


def decide_run(evidence: dict[str, HandEvidence]) -> RunHand:
    """Sum the evidence of the series (name -> HandEvidence; series without rings are left out by the caller)."""
    parts = evidence.values()
    total = HandEvidence(
        float(sum(e.difference for e in parts)), sum(e.votes_plus for e in parts), sum(e.votes_minus for e in parts)
    )
    against = tuple(sorted(name for name, e in evidence.items() if total.decided and e.decided == -total.decided))
    return RunHand(total, against)


def turned_axis(series: TiltSeries) -> TiltSeries:
    """The tilt axis turned by 180 degrees and handedness -1: the same depth in the defocus, the mirrored tomogram.

    ``series`` must hold the fit with handedness +1. Before alignment the shifts are those of the raw image and stay.
    """
    axis = series.tilts["z_rot_deg"].to_numpy(np.float64)
    wrapped = -((-(axis + 180.0) + 180.0) % 360.0 - 180.0)  # (-180, 180]
    return dataclasses.replace(series.with_columns(z_rot_deg=wrapped), handedness=-1)


def choose_table(plus: TiltSeries, minus: TiltSeries, decided: int, given: int | None) -> TiltSeries:
    """The table to go on with: ``given`` (+1, -1) is obeyed as it is; else +1 decided by the data turns the axis."""
    if given is not None:
        return plus if given > 0 else minus
    return turned_axis(plus) if decided > 0 else minus
