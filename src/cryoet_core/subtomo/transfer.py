"""The contrast transfer of single particle images: CTF at the particle's own depth, dose weight, scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.ctf.model import Optics, ctf_2d, dose_weight
from cryoet_core.fourier import radial_frequency

DOSE_AT = ("start", "middle")


def image_dose(series, at: str = "start") -> np.ndarray:
    """Dose (e/A^2) that weights each view, (n_views,) float64.

    "start": dose before the image (RELION's rule, and what its programs recompute from the tables);
    "middle": half of the image's own exposure is added.
    """
    if at not in DOSE_AT:
        raise ValueError(f"dose_at must be one of {DOSE_AT}, got {at!r}")
    dose = series.tilts["pre_exposure_e_per_a2"].to_numpy(dtype=np.float64)
    if at == "middle" and "exposure_e_per_a2" in series.tilts:
        dose = dose + 0.5 * series.tilts["exposure_e_per_a2"].to_numpy(dtype=np.float64)
    return dose


@dataclass(frozen=True)
class ImageTransfer:
    """Contrast transfer of ``n`` single images; every array is (n,) float64.

    defocus_u_angst, defocus_v_angst : defocus at the particle's own depth (underfocus positive);
    dose_e_per_a2 : dose that weights the image; scale : ctf_scale of the view.
    ``flat`` True means c = 1 (images that were not premultiplied).
    """

    defocus_u_angst: np.ndarray
    defocus_v_angst: np.ndarray
    defocus_angle_deg: np.ndarray
    phase_shift_deg: np.ndarray
    dose_e_per_a2: np.ndarray
    scale: np.ndarray
    optics: Optics
    flat: bool = False

    @classmethod
    def of_views(cls, series, view, depth_angst, dose_at="start", flat=False) -> ImageTransfer:
        """Transfer of images of views ``view`` (n,) whose particle lies at depth ``depth_angst`` (n,) in A."""
        tilts = series.tilts

        def column(name, default=0.0):
            if name not in tilts:
                return np.full(len(view), default)
            return tilts[name].to_numpy(dtype=np.float64)[view]

        shift = series.handedness * np.asarray(depth_angst, dtype=np.float64)
        return cls(
            defocus_u_angst=column("defocus_u_angst") + shift,
            defocus_v_angst=column("defocus_v_angst") + shift,
            defocus_angle_deg=column("defocus_angle_deg"),
            phase_shift_deg=column("phase_shift_deg"),
            dose_e_per_a2=image_dose(series, dose_at)[view],
            scale=column("ctf_scale", 1.0),
            optics=series.optics,
            flat=flat,
        )

    def __len__(self) -> int:
        return len(self.scale)

    def evaluate(self, rows, shape, pixel_size_angst: float, xp=np):
        """c of images ``rows`` -> (m, h, w//2 + 1) float32, corner origin, half-complex layout of ``shape`` (h, w)."""
        half = (shape[0], shape[1] // 2 + 1)
        scale = np.atleast_1d(self.scale[rows])
        if self.flat:
            return xp.ones((len(scale),) + half, dtype=xp.float32)
        parts = (self.defocus_u_angst, self.defocus_v_angst, self.defocus_angle_deg)
        ctf = ctf_2d(
            shape,
            pixel_size_angst,
            *(xp.asarray(np.atleast_1d(p[rows])) for p in parts),
            self.optics,
            xp.asarray(np.atleast_1d(self.phase_shift_deg[rows])),
            xp=xp,
        )
        doses, index = np.unique(np.atleast_1d(self.dose_e_per_a2[rows]), return_inverse=True)
        k = radial_frequency(shape, pixel_size_angst, xp)
        weights = dose_weight(k, xp.asarray(doses)[:, None, None], self.optics.voltage_kv, xp=xp)
        ctf *= weights[xp.asarray(index)]
        ctf *= xp.asarray(scale, dtype=xp.float32)[:, None, None]
        return ctf


def used_frequencies(transfer: ImageTransfer, rows, box_px: int, pixel_size_angst: float, cutoff_fraction, xp=np):
    """(m, box, box//2 + 1) bool: inside the Nyquist circle and with a dose weight above ``cutoff_fraction``."""
    k = radial_frequency((box_px, box_px), pixel_size_angst, xp)
    circle = k <= 0.5 / pixel_size_angst * (1 + 1e-6)
    doses, index = np.unique(np.atleast_1d(transfer.dose_e_per_a2[rows]), return_inverse=True)
    weights = dose_weight(k, xp.asarray(doses)[:, None, None], transfer.optics.voltage_kv, xp=xp)
    return ((weights > cutoff_fraction) & circle)[xp.asarray(index)]
