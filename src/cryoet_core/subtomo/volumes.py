"""3D pseudo-subtomograms: the premultiplied images of one particle summed in 3D Fourier space, in RELION's layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import irfft_centred, rfft_centred
from cryoet_core.kernels.insert_slices import insert_slices
from cryoet_core.subtomo.extract import (
    ExtractionSettings,
    ViewSource,
    check_ctf,
    find_views,
    premultiplied_boxes,
)
from cryoet_core.subtomo.transfer import ImageTransfer, used_frequencies


@dataclass
class PseudoSubtomogram:
    """Sums over the views of one particle, RELION's layout: nothing is divided by a weight.

    data : (n, n, n) float32, real space, particle on index n//2. weight : (n, n, n//2 + 1) float32 sum of c^2, corner
    origin (FFTW layout); multiplicity : the same with 1 instead of c^2.
    """

    data: np.ndarray
    weight: np.ndarray
    multiplicity: np.ndarray


def extract_volumes(images, series, positions_angst, settings: ExtractionSettings, *, cutoff_fraction=0.01):
    """3D pseudo-subtomograms, one particle after another: yields (row of ``positions_angst``, PseudoSubtomogram).

    The images are inserted into a grid of the stored box (crop_px): its coarser frequency step is the crop. Arguments and
    errors as :func:`extract_stacks`.
    """
    check_ctf(series, settings)
    border = settings.binning * settings.crop_px / 2
    views = find_views(
        series, positions_angst, images.shape[-2:], border, settings.max_dose_e_per_a2, settings.min_views
    )
    source = ViewSource(
        images, series.pixel_size_angst, settings.binning, settings.box_px, settings.cut_from_raw
    )
    rotations = series.geometry.rotation
    for particle in np.unique(views.particle):
        rows = slice(*np.searchsorted(views.particle, [particle, particle + 1]))
        boxes, c = premultiplied_boxes(series, source, views, settings, rows)
        transfer = ImageTransfer.of_views(series, views.view[rows], views.depth_angst[rows], settings.dose_at)
        pixel = series.pixel_size_angst * settings.binning
        used = used_frequencies(transfer, slice(None), settings.box_px, pixel, cutoff_fraction, array_namespace(c))
        yield int(particle), _sum_views(boxes, c, used, rotations[views.view[rows]], settings)


def _sum_views(boxes, c, used, rotations, settings: ExtractionSettings) -> PseudoSubtomogram:
    """Insert the transforms of the boxes of one particle into the grid of the stored box."""
    xp = array_namespace(boxes)
    n, box = settings.crop_px, settings.box_px
    scale = n / box
    spectra = rfft_centred(boxes, 2)
    # RELION's pixels carry the mass |u| |v| = scale^2; it counts the zero frequency and the pixel (Nyquist, 0) twice as
    # much as the adjoint of slicing does, and leaves out (0, Nyquist).
    mass = xp.where(used, np.float32(scale**2), np.float32(0))
    mass[:, box // 2] = 0
    mass[:, 0, 0] *= 2
    mass[:, 0, -1] *= 2
    data, weight = insert_slices(
        (spectra * mass).astype(xp.complex64), c * c * mass, rotations * scale, n, radius_px=box / 2
    )
    multiplicity, _ = insert_slices(
        mass.astype(xp.complex64), xp.zeros_like(c), rotations * scale, n, radius_px=box / 2
    )

    def corner(a):
        return xp.fft.ifftshift(a, axes=(0, 1))

    grey = np.float32(np.sqrt(n / settings.binning))
    volume = irfft_centred(corner(data), (n, n, n), 3) * grey
    return PseudoSubtomogram(
        *(asnumpy(a).astype(np.float32) for a in (volume, corner(weight), corner(multiplicity.real)))
    )
