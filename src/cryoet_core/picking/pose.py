"""Poses of picks from the tomogram's own voxels, where peaks were scored in coarser ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.fft import next_fast_len

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.fourier import lowpass
from cryoet_core.parallel import each
from cryoet_core.picking.binned import RESOLUTION_PX
from cryoet_core.picking.eigen import eigen_templates
from cryoet_core.picking.local_search import NORM_RANK, REACH, Search, refine_peak
from cryoet_core.picking.plan import MatchPlan
from cryoet_core.picking.prepare import smooth_part
from cryoet_core.picking.scale import MASK_EDGE_PX, filters_of
from cryoet_core.picking.scores import FilteredTomogram
from cryoet_core.picking.template import make_template
from cryoet_core.picking.transfer import on_grid


def pose_in_tomogram(searchable, reference, series, picks, step_deg: float, plan: MatchPlan, config, rng, threads: int, report=None):
    """``picks`` with positions and orientations from the tomogram's own voxels, about which a cube each is filtered; scores stay those of the scoring.

    step_deg : of the refinement's first grid, a few times the error of the poses given.
    """
    pixel = series.pixel_size_angst
    low_pass = max(config.low_pass_angst or RESOLUTION_PX * pixel, 2 * pixel)
    template = make_template(lowpass(reference, low_pass, pixel, 3), 0.5 * plan.mask_diameter_angst / pixel, MASK_EDGE_PX)
    filters = filters_of(searchable, template, series, low_pass, plan, config, threads)
    eigen = eigen_templates(template, np.eye(3)[None], filters, rng, 1.0, NORM_RANK)
    side = next_fast_len(2 * (template.half + REACH) + filters.box, real=True)
    xp = array_namespace(template.fine)
    fft = fft_module(xp)
    transfer = on_grid(filters.whiten, (side,) * 3) * on_grid(filters.expect, (side,) * 3)

    def posed(pick):
        start = np.rint(pick.position_px).astype(int) - side // 2
        part = smooth_part(searchable, [(int(a), int(a) + side) for a in start], 0, filters.box // 2)
        matched = fft.irfftn(fft.rfftn(part) * transfer, s=part.shape)
        # the norm hardly changes over the few voxels that a pose moves
        field = FilteredTomogram(matched, xp.ones(part.shape, dtype=xp.float32))
        search = Search(field, template, filters, eigen, pick.rotation[None], step_deg)
        found = refine_peak(search, [((side // 2,) * 3, pick.rotation)])
        return replace(pick, position_px=found.position_px + start, rotation=found.rotation)

    return each(posed, picks, threads if xp is np else 1, report)
