"""One alignment as the files of other programs: IMOD, AreTomo, Warp, RELION 5."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoet_core.io import imod
from cryoet_core.io.aretomo import write_aln
from cryoet_core.io.relion import with_own_stack, write_relion_tomograms
from cryoet_core.io.warp import write_warp_xml
from cryoet_core.metadata import TiltSeries


def write_alignment_files(series: TiltSeries, paths, relion_stack: str | None = None) -> None:
    """Write those of xf, tlt, xtilt (IMOD, all views), aln (AreTomo, excluded views as dark frames), xml (Warp) and relion (RELION's
    tomograms.star, views in use) that ``paths`` names; ``paths`` has a ``get`` like a dictionary's. relion_stack : see with_own_stack.

    Raises UserInputError E-RELION-01 when RELION's table cannot be filled.
    """
    geometry, pixel, size = series.geometry, series.pixel_size_angst, series.image_size_px
    # AreTomo knows no tilt about x; it is one rotation of the whole specimen, so without it the views stay consistent.
    level = geometry.replace(x_tilt_deg=0.0)
    # Warp knows one tilt about x for the series; only an .xtilt of another program can hold several.
    common = geometry.replace(x_tilt_deg=float(np.median(geometry.x_tilt_deg)))
    writers = {
        "xf": lambda path: imod.write_xf(path, imod.geometry_to_xf(geometry, pixel, size)),
        "tlt": lambda path: imod.write_tlt(path, geometry.y_tilt_deg),
        "xtilt": lambda path: imod.write_tlt(path, geometry.x_tilt_deg),
        "aln": lambda path: write_aln(path, level, pixel, size, series.included),
        "xml": lambda path: write_warp_xml(path, series.with_geometry(common)),
        "relion": lambda path: write_relion_tomograms(Path(path).parent, [with_own_stack(series, relion_stack)]),
    }
    for name, write in writers.items():
        path = paths.get(name)
        if path is not None:
            write(path)
