"""3D pseudo-subtomograms: the premultiplied images of one particle summed in 3D Fourier space, in RELION's layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import irfft_centred, radial_frequency, rfft_centred
from cryoet_core.kernels.insert_slices import insert_slices
from cryoet_core.subtomo.extract import (
    ExtractionSettings,
    ViewSource,
    check_ctf,
    disc_window,
    find_views,
    premultiplied_boxes,
)
from cryoet_core.subtomo.likelihood import FrequencyList, mean_square
from cryoet_core.subtomo.noise import shell_sums, smooth_spectra
from cryoet_core.subtomo.transfer import ImageTransfer, used_frequencies


@dataclass
class PseudoSubtomogram:
    """Sums over the views of one particle, RELION's layout: nothing is divided by a weight.

    With noise spectra every view counts by 1 / variance: c x / sigma^2 and c^2 / sigma^2 are summed.

    data : (n, n, n) float32, real space, particle on index n//2. weight : (n, n, n//2 + 1) float32 sum of c^2, corner
    origin (FFTW layout); multiplicity : the same with 1 instead of c^2.
    """

    data: np.ndarray
    weight: np.ndarray
    multiplicity: np.ndarray


def extract_volumes(images, series, positions_angst, settings: ExtractionSettings, *, cutoff_fraction=0.01, noise=None):
    """3D pseudo-subtomograms, one particle after another: yields (row of ``positions_angst``, PseudoSubtomogram).

    The images are inserted into a grid of the stored box (crop_px): its coarser frequency step is the crop. Arguments and
    errors as :func:`extract_stacks`. noise : (n_views, crop_px//2 + 1) variance of a pixel of every view's images per shell of the stored box
    (:func:`view_noise`), by which the views are weighted; None: RELION's plain sums.
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
        own = None if noise is None else noise[views.view[rows]]
        yield int(particle), sum_views(boxes, c, used, rotations[views.view[rows]], settings, own)


def view_noise(images, transfer: ImageTransfer, view, n_views: int, pixel_size_angst: float, in_disc=True):
    """Variance of a pixel of the un-multiplied images of every view, per shell -> (n_views, n//2 + 1).

    images (m, n, n) premultiplied, as stored (``in_disc``: cut to their disc), of views ``view`` (m,). All power counts as noise, as in the first iteration of
    a refinement; shells and views without data take their neighbours' values.
    """
    n, sums = images.shape[-1], []
    frequencies = FrequencyList.of_box(n)
    left = mean_square(disc_window(n)) if in_disc else 1.0
    for f in range(n_views):
        rows = np.flatnonzero(view == f)
        power, weight = np.zeros(frequencies.n_shells), np.zeros(frequencies.n_shells)
        for part in np.array_split(rows, max(1, len(rows) // 256)) if rows.size else []:
            c2 = frequencies.gather(transfer.evaluate(part, (n, n), pixel_size_angst)) ** 2
            found = frequencies.gather(rfft_centred(images[part], 2))
            power += shell_sums((found.real**2 + found.imag**2)[:, None], frequencies)[0]
            weight += shell_sums(c2[:, None], frequencies)[0] * (n * n * left)
        sums.append((power, weight))
    return smooth_spectra(*(np.stack(a) for a in zip(*sums, strict=True)))


def sum_views(boxes, c, used, rotations, settings: ExtractionSettings, noise=None) -> PseudoSubtomogram:
    """Insert the transforms of the boxes of one particle into the grid of the stored box.

    boxes (m, box, box) premultiplied, c (m, box, box//2 + 1) what they were multiplied with, used (the same shape) bool, rotations (m, 3, 3)
    tomogram -> image, noise (m, crop_px//2 + 1) as in :func:`extract_volumes`.
    """
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
    turns = rotations * scale
    known = mass if noise is None else mass * _inverse_noise(noise, box, scale, xp)
    slices, weights = (spectra * known).astype(xp.complex64), c * c * known
    data, weight = insert_slices(slices, weights, turns, n, radius_px=box / 2)
    multiplicity, _ = insert_slices(mass.astype(xp.complex64), xp.zeros_like(c), turns, n, radius_px=box / 2)
    _relion_nyquist_edge(((data, slices), (weight, weights), (multiplicity, mass)), turns)

    def corner(a):
        return xp.fft.ifftshift(a, axes=(0, 1))

    grey = np.float32(np.sqrt(n / settings.binning))
    volume = irfft_centred(corner(data), (n, n, n), 3) * grey
    return PseudoSubtomogram(
        *(asnumpy(a).astype(np.float32) for a in (volume, corner(weight), corner(multiplicity.real)))
    )


def _inverse_noise(noise, box, scale, xp):
    """1 / noise (m, shells of the stored box) at the frequencies of a box ``1 / scale`` times as large -> (m, box, box//2 + 1)."""
    radius = asnumpy(radial_frequency((box, box))) * (box * scale)
    shells = np.arange(noise.shape[1])
    return xp.asarray(np.stack([np.interp(radius, shells, 1 / view) for view in noise]), dtype=xp.float32)


def _relion_nyquist_edge(sums, rotations):
    """Replace the coefficients of every grid (n, n, n//2 + 1), centred, where kx = 0 and ky or kz = -n/2, by RELION's.

    There -n/2 is its own mate, and the two programs differ: the adjoint of slicing folds +n/2 onto it, RELION leaves out
    what falls on +n/2 and adds what falls on -n/2 twice, at z and at -z. Nothing that averaging reads depends on it (only
    the two points of that edge on the Nyquist sphere do), but files are to be the same. Source: RELION 5's
    Fourier_backprojection.h, read and measured.

    sums : pairs of a grid and the values (m, h, h//2 + 1) that were inserted into it, already with their mass; column 0 of
    the values holds both mates. rotations : (m, 3, 3), scaled.
    """
    (grid, values), *_ = sums
    n, centre = grid.shape[0], grid.shape[0] // 2
    at, flip, share, near = _samples_near_edge(values.shape[1:], rotations, centre)
    low = np.floor(at).astype(np.int64)
    corners = []
    for dy, dz in ((0, 0), (0, 1), (1, 0), (1, 1)):
        y, z = low[:, 1] + dy, low[:, 2] + dz
        inside = (y >= -centre) & (y < centre) & (z >= -centre) & (z < centre)
        part = (share * (1 - at[:, 0]) * (1 - np.abs(at[:, 1] - y)) * (1 - np.abs(at[:, 2] - z)))[inside]
        y, z = y[inside], z[inside]
        corners.append((inside, part, y, z, *(np.where(a == -centre, a, -a) for a in (y, z))))
    for grid, values in sums:
        value = asnumpy(values)[near]
        value = np.where(flip, value.conj(), value).astype(np.complex128 if np.iscomplexobj(value) else np.float64)
        total = np.zeros((n, n), dtype=value.dtype)
        for inside, part, y, z, mate_y, mate_z in corners:
            added = value[inside] * part
            np.add.at(total, (z + centre, y + centre), added)
            np.add.at(total, (mate_z + centre, mate_y + centre), added.conj())
        xp = array_namespace(grid)
        grid[0, :, 0] = xp.asarray(total[0], dtype=grid.dtype)
        grid[:, 0, 0] = xp.asarray(total[:, 0], dtype=grid.dtype)


def _samples_near_edge(shape, rotations, centre):
    """Samples of slices (m, *shape) that reach the edge of the plane kx = 0.

    Positions (s, 3) with x in [0, 1); (s,) which were mirrored for that, so that their values are to be conjugated, and
    factors on their values; (m, *shape) bool, which they are.
    """
    h, half = shape
    q = np.fft.fftfreq(h, 1 / h)
    p = np.arange(half)
    at = np.einsum("mab,ahp->mhpb", rotations[:, :2], np.stack(np.broadcast_arrays(p[None, :], q[:, None])))
    flip = at[..., 0] < 0
    at = np.where(flip[..., None], -at, at)
    once = (p[None, :] > 0) | (q[:, None] >= 0)  # column 0 holds every pair twice
    near = (at[..., 0] < 1) & (np.abs(at[..., 1:]).max(axis=-1) > centre - 1) & once
    share = np.where(p == h / 2, 0.5, 1.0)  # the mass of that pixel was doubled for insert_slices, which halves it
    return at[near], flip[near], np.broadcast_to(share, near.shape)[near], near
