"""A tomogram in voxels of one size, with all that a search there needs: template, matched filter, filtered tomogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.fourier import lowpass
from cryoet_core.metadata import TiltSeries
from cryoet_core.picking.binned import binned_map, binned_series
from cryoet_core.picking.plan import MatchPlan
from cryoet_core.picking.scores import FilteredTomogram, filter_tomogram
from cryoet_core.picking.template import Template, make_template
from cryoet_core.picking.transfer import MatchFilters, match_filters

MASK_EDGE_PX = 2.0


@dataclass(frozen=True)
class Scale:
    """What searches of a tomogram share in voxels ``binning`` times the tomogram's: template, filters, filtered tomogram."""

    binning: float
    template: Template
    filters: MatchFilters
    filtered: FilteredTomogram


def scale(bright, reference, series, binning: float, low_pass_angst: float, plan: MatchPlan, config, threads: int, report=None) -> Scale:
    """The filtered tomogram ``bright`` (z, y, x) and the ``reference``, of the pixel size of ``series``, in its voxels, ``binning`` times as large."""
    pixel, xp = series.pixel_size_angst * binning, namespace_of(bright)
    smooth = lowpass(xp.asarray(binned_map(reference, series.pixel_size_angst, binning)), low_pass_angst, pixel, 3)
    radius = 0.5 * plan.mask_diameter_angst / pixel
    template = make_template(smooth, radius, MASK_EDGE_PX)
    filters = filters_of(bright, template, binned_series(series, binning), low_pass_angst, plan, config, threads)
    filtered = filter_tomogram(bright, filters, radius, MASK_EDGE_PX, threads=threads if xp is np else 1, report=report)
    return Scale(binning, template, filters, filtered)


def namespace_of(volume):
    """NumPy or CuPy: where the blocks of a volume are, which may be made when they are asked for."""
    return array_namespace(volume[:1, :1, :1])


def filters_of(bright, template: Template, series: TiltSeries, low_pass_angst: float, plan: MatchPlan, config, threads: int) -> MatchFilters:
    """The matched filter of a bright tomogram of the pixel size of ``series``, on a box half as large again as the template's."""
    return match_filters(
        bright, series, 4 * int(np.ceil(0.75 * (template.half + 2))), plan.mask_diameter_angst, low_pass_angst, ctf=config.ctf,
        dose=config.dose_weighting, whitening=config.whitening, threads=threads if namespace_of(bright) is np else 1,
    )  # fmt: skip
