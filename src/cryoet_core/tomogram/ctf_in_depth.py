"""3-D CTF correction: copies of a view, each corrected for the defocus of one depth, and the depths that each is used for.

A voxel at depth d of a view has defocus D + handedness d. The view is corrected as a whole at evenly spaced depths, and every voxel
takes what lies at its image point from the two copies next to its depth, interpolated linearly, in the pass of back-projection.
Idea: Jensen & Kornberg 2000 (defocus-gradient corrected back-projection); novaCTF (Turonova et al. 2017) does it in slabs of one defocus.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cryoet_core.ctf.treatment import correction_filter
from cryoet_core.fourier import radial_frequency
from cryoet_core.tilt_series.ctf_correction import (
    CtfCorrectionSettings,
    ViewCtf,
    correctable,
    ctf_copies,
    defocus_of_phase,
    delocalisation_px,
)

PHASE_STEP_RAD = 0.5  # between neighbouring copies at the highest frequency kept


@dataclasses.dataclass(frozen=True)
class CtfInDepth:
    """How to correct, and the CTF of every view that is used (raw orientation, at the centre of the tomogram)."""

    settings: CtfCorrectionSettings
    views: list[ViewCtf]
    optics: object
    depth_step_angst: float


def automatic_step_angst(pixel_size_angst: float, cutoff: float, optics) -> float:
    """Depth over which the CTF's phase turns by PHASE_STEP_RAD at ``cutoff`` (cycles/px)."""
    return defocus_of_phase(PHASE_STEP_RAD, pixel_size_angst, cutoff, optics)


def depth_windows(rotation, size_px, pixel_size_angst: float, step_angst: float) -> np.ndarray:
    """(K, 2) centre and half width (px) of the windows that cover every voxel of a tomogram ``size_px`` in one view."""
    reach = 0.5 * float(np.abs(rotation[2]) @ np.asarray(size_px, dtype=np.float64))
    step = step_angst / pixel_size_angst
    count = max(2, int(np.ceil(2 * reach / step)) + 1)
    centres = np.linspace(-reach, reach, count)
    return np.stack([centres, np.full(count, max(centres[1] - centres[0], 1e-6))], axis=1)


def in_frame(ctf: ViewCtf, z_rot_deg: float) -> ViewCtf:
    """The CTF of a view that was turned so that its tilt axis runs along y."""
    return dataclasses.replace(ctf, defocus_angle_deg=ctf.defocus_angle_deg - z_rot_deg)


def margin_px(ctf: CtfInDepth, pixel_size_angst: float, limit: int = 256) -> int:
    """How far views must be continued so that what the CTF carried across the border is not lost."""
    reach = max(delocalisation_px(pixel_size_angst, view, ctf.optics) for view in ctf.views)
    return int(min(limit, np.ceil(0.5 * reach) + 16))


def view_windows(ctf: CtfInDepth, view: int, rotation, size_px, pixel_size_angst: float) -> np.ndarray:
    """Depth windows of one view; one window without limits when its defocus was never measured."""
    if not correctable(ctf.views[view], ctf.settings):
        return np.array([[0.0, np.inf]])
    return depth_windows(rotation, size_px, pixel_size_angst, ctf.depth_step_angst)


def correction_filters(ctf: CtfInDepth, view: int, z_rot_deg: float, windows, shape, pixel_size_angst: float, xp=np):
    """Yield the correction (h, w//2 + 1) of every window of one view, in the frame."""
    if not np.isfinite(windows[0, 1]):
        yield xp.float32(1)
        return
    own = in_frame(ctf.views[view], z_rot_deg)
    k = radial_frequency(shape, pixel_size_angst, xp)
    steps = own.handedness * windows[:, 0] * pixel_size_angst
    for contrast in ctf_copies(shape, pixel_size_angst, own, ctf.optics, steps, xp):
        yield correction_filter(contrast, k, ctf.settings)
