"""gold.star: the beads of a series in the tomogram, which viewers of particles can open, and their places in every
view."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd

from cryoet_core.io.star import find_block, read_star, write_star
from cryoet_core.tilt_series.gold import Gold, no_gold

POSITIONS = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")


def write_gold(gold: Gold, series_name: str, path: str | os.PathLike) -> None:
    """Write data_kinds (diameters), data_particles (the beads) and data_views (places, A from the view's centre; bead
    0: only this view shows it)."""
    beads = pd.DataFrame(
        {
            "rlnTomoName": [series_name] * len(gold.position_angst),
            **dict(zip(POSITIONS, gold.position_angst.T, strict=True)),
            "tlBead": np.arange(1, len(gold.position_angst) + 1),
            "tlDiameterAngst": gold.bead_diameter_angst,
            "tlViews": gold.n_views,
        }
    )
    places = pd.DataFrame(
        {
            "tlTiltId": gold.tilt_id,
            "tlBead": gold.bead + 1,
            "tlXAngst": gold.xy_angst[:, 0],
            "tlYAngst": gold.xy_angst[:, 1],
            "tlDiameterAngst": gold.diameter_angst,
            "tlSeen": gold.seen.astype(np.int64),
        }
    )
    write_star(
        path, {"kinds": pd.DataFrame({"tlDiameterAngst": gold.diameters_angst}), "particles": beads, "views": places}
    )


def read_gold(path: str | os.PathLike | None) -> Gold:
    """Beads from gold.star; none for None. Raises UserInputError E-FILE-01, E-STAR-*."""
    if not path:
        return no_gold()
    blocks = read_star(path)
    kinds, beads, places = (find_block(blocks, name, path) for name in ("kinds", "particles", "views"))

    def column(table, name, kind=np.float64):
        return table[name].to_numpy(dtype=kind)

    return Gold(
        column(kinds, "tlDiameterAngst"),
        np.stack([column(beads, name) for name in POSITIONS], axis=1),
        column(beads, "tlDiameterAngst"),
        column(beads, "tlViews", np.int64),
        column(places, "tlTiltId", np.int64),
        column(places, "tlBead", np.int64) - 1,
        np.stack([column(places, name) for name in ("tlXAngst", "tlYAngst")], axis=1),
        column(places, "tlDiameterAngst"),
        column(places, "tlSeen") > 0,
    )
