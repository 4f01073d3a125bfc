"""Pseudo-subtomogram extraction: views cut around every particle, as 2D stacks or as sums in 3D Fourier space.

As RELION 5 does it: the particles are cut from the raw tilt images (neither CTF-corrected nor rotated), every image is
shifted by its sub-pixel rest, multiplied by minus its own CTF, dose weight and scale (so the particle becomes bright),
and cut to a soft disc. Source: Zivanov et al. 2022, eLife 11:e83724; behaviour and grey scale checked against the files
of RELION 5.0.1 (benchmarks/relion_golden.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module, tile_size
from cryoet_core.ctf.treatment import refuse_corrected
from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.fourier import bin_images, frequency_grid
from cryoet_core.masks import centre_distance
from cryoet_core.subtomo.stacks import crop_half
from cryoet_core.subtomo.transfer import ImageTransfer

DISC_EDGE_PX = 5.0


@dataclass(frozen=True)
class ExtractionSettings:
    """How particles are cut.

    binning : integer factor.
    box_px, crop_px : box that is cut (so that signal spread by defocus is kept) and box that is stored; binned pixels,
        even.
    max_dose_e_per_a2 : views whose dose before exposure is larger are left out (None: none).
    min_views : particles seen in fewer views are dropped.
    cut_from_raw : cut a box ``binning`` times larger from the unbinned view and bin that (RELION's order, slower),
        instead of binning the view once.
    """

    binning: int
    box_px: int
    crop_px: int
    max_dose_e_per_a2: float | None = None
    min_views: int = 1
    ctf_premultiply: bool = True
    invert_contrast: bool = True
    circle_crop: bool = True
    dose_at: str = "start"
    cut_from_raw: bool = False

    def __post_init__(self):
        for name in ("box_px", "crop_px"):
            if getattr(self, name) % 2 or getattr(self, name) < 8:
                raise UserInputError(
                    "E-EXT-01", "box sizes are even and at least 8", field=name, found=getattr(self, name)
                )
        if self.crop_px > self.box_px:
            raise UserInputError(
                "E-EXT-02",
                "the stored box is larger than the box that is cut",
                field="crop_px",
                found=self.crop_px,
                expected=f"at most box_px = {self.box_px}",
            )

    @property
    def margin_px(self) -> int:
        """Binned pixels removed on every side between the cut and the stored box."""
        return (self.box_px - self.crop_px) // 2


@dataclass(frozen=True)
class ParticleViews:
    """The (particle, view) pairs that are cut, in the order particle, then row of the tilt-series table.

    particle, view : (n,) int64. uv_angst : (n, 2) position in the raw view, relative to its centre. depth_angst : (n,).
    visible : (n_particles, n_views) bool, all False for dropped particles.
    """

    particle: np.ndarray
    view: np.ndarray
    uv_angst: np.ndarray
    depth_angst: np.ndarray
    visible: np.ndarray

    def __len__(self) -> int:
        return len(self.particle)


def find_views(series, positions_angst, image_shape, border_px, max_dose_e_per_a2=None, min_views=1) -> ParticleViews:
    """Where every particle is seen.

    A view counts when it is not excluded, its dose before exposure is at most ``max_dose_e_per_a2`` and the particle is
    further than ``border_px`` (unbinned pixels) from every edge of the image.

    Parameters
    ----------
    positions_angst : (m, 3) centred tomogram coordinates of the refined particles. image_shape : (h, w) of the views.
    Where the table has a local deformation of the specimen, particles are looked for there.
    """
    uv, depth = series.geometry.project(positions_angst)  # (n_views, m, 2), (n_views, m)
    if series.local_deformation is not None:
        uv = uv + series.local_deformation.at(uv)
    h, w = image_shape
    x = uv[..., 0] / series.pixel_size_angst + w // 2
    y = uv[..., 1] / series.pixel_size_angst + h // 2
    inside = (x > border_px) & (x < w - border_px) & (y > border_px) & (y < h - border_px)
    usable = np.asarray(series.included, dtype=bool).copy()
    if max_dose_e_per_a2 is not None and max_dose_e_per_a2 > 0:
        usable &= series.tilts["pre_exposure_e_per_a2"].to_numpy(dtype=float) <= max_dose_e_per_a2
    visible = (inside & usable[:, None]).T
    visible[visible.sum(axis=1) < max(1, min_views)] = False
    particle, view = (np.asarray(a, dtype=np.int64) for a in np.nonzero(visible))
    return ParticleViews(particle, view, uv[view, particle], depth[view, particle], visible)


def cut_boxes(images, view, corner_xy, size: int):
    """Squares of ``size`` px with lower corner ``corner_xy`` (n, 2) of images (v, h, w); outside = nearest pixel."""
    xp = array_namespace(images)
    h, w = images.shape[-2:]
    offset = np.arange(size)
    columns = np.clip(corner_xy[:, :1] + offset, 0, w - 1)
    rows = np.clip(corner_xy[:, 1:] + offset, 0, h - 1)
    return images[xp.asarray(view)[:, None, None], xp.asarray(rows)[:, :, None], xp.asarray(columns)[:, None, :]]


def crop_to_disc(images, margin_px: float, edge_px: float = DISC_EDGE_PX):
    """Subtract the mean outside the disc of radius n//2 - margin about index n//2, and fade to 0 inside its edge.

    images (..., n, n); the raised cosine lies within ``edge_px`` inside the disc. Source: RELION's cropCircle.
    """
    xp = array_namespace(images)
    n = images.shape[-1]
    radius = n // 2 - margin_px
    distance = centre_distance((n, n), xp)
    outside = (distance > radius).astype(xp.float32)
    count = float(outside.sum())
    mean = xp.einsum("...ij,ij->...", images.astype(xp.float64), outside.astype(xp.float64)) / max(count, 1.0)
    return (images - mean[..., None, None].astype(xp.float32)) * disc_window(n, margin_px, edge_px, xp)


def disc_window(n: int, margin_px: float = 0.0, edge_px: float = DISC_EDGE_PX, xp=np):
    """What :func:`crop_to_disc` multiplies images of ``n`` px with, (n, n) float32."""
    t = xp.clip((n // 2 - margin_px - centre_distance((n, n), xp)) / edge_px, 0, 1)
    return (0.5 - 0.5 * xp.cos(np.pi * t)).astype(xp.float32)


def _phase_shift(shape, move_xy_px, xp):
    """exp(-2 pi i k.move) on the half-complex grid of ``shape`` for moves (n, 2) px: content moves by +move."""
    ky, kx = frequency_grid(shape, 1.0, xp)
    move = xp.asarray(move_xy_px, dtype=xp.float64)[:, :, None, None]
    return xp.exp(-2j * np.pi * (kx * move[:, 0] + ky * move[:, 1])).astype(xp.complex64)


def _bin_views(images, binning: int):
    """Bin view by view, so that only one view, padded, and its transform are in memory besides the result, (n, h, w)."""
    if binning == 1 and hasattr(images, "dtype"):
        return images
    binned = [image if binning == 1 else bin_images(image, binning) for image in images]
    return array_namespace(binned[0]).stack(binned)


class ViewSource:
    """Tilt images ready for cutting: binned once, or raw when every box is binned on its own.

    ``spectra(views, rows)`` gives half-complex transforms (corner origin, unnormalised) of boxes in binned pixels with
    the particle on index box//2 after :func:`scipy.fft.irfft2`, grey values as in the raw view.
    """

    def __init__(self, images, pixel_size_angst: float, binning: int, box_px: int, from_raw: bool, disc_first=False):
        self.binning, self.box_px, self.from_raw, self.disc_first = binning, box_px, from_raw, disc_first
        self.images = _bin_views(images, 1 if from_raw else binning)
        self.pixel_size_angst = pixel_size_angst if from_raw else pixel_size_angst * binning

    def spectra(self, views: ParticleViews, rows):
        """(m, box, box//2 + 1) complex64 for the pairs ``rows`` of ``views``."""
        xp = array_namespace(self.images)
        fft = fft_module(xp)
        size = self.box_px * self.binning if self.from_raw else self.box_px
        h, w = self.images.shape[-2:]
        centre = views.uv_angst[rows] / self.pixel_size_angst + np.array([w // 2, h // 2])
        corner = np.floor(centre + 0.5).astype(np.int64) - size // 2
        boxes = cut_boxes(self.images, views.view[rows], corner, size)
        if self.disc_first:
            boxes = crop_to_disc(boxes, 0.0, DISC_EDGE_PX / (1 if self.from_raw else self.binning))
        spectrum = fft.rfft2(boxes)
        rest = corner + size // 2 - centre
        if self.from_raw and self.binning > 1:
            spectrum = crop_half(spectrum, self.box_px) * np.float32(1.0 / self.binning**2)
            rest = rest / self.binning
        return spectrum * _phase_shift((self.box_px, self.box_px), rest, xp)


@dataclass
class ExtractedStacks:
    """2D stacks of one tilt series: images (n, crop, crop) float32 in the order of ``views``."""

    images: np.ndarray
    views: ParticleViews
    pixel_size_angst: float


def check_ctf(series, settings):
    """Raise DataQualityError E-EXT-03 when CTF weights are wanted and no view has a defocus, UserInputError E-CTF-05 when
    the views were CTF-corrected before."""
    if settings.ctf_premultiply:
        refuse_corrected(series, "premultiplication")
    if settings.ctf_premultiply and not np.any(series.tilts["defocus_u_angst"].to_numpy(float)[series.included]):
        raise DataQualityError(
            "E-EXT-03",
            "the defocus of this tilt series is not known",
            field=f"{series.name}: rlnDefocusU",
            found="0 in every view",
            fix="run estimate_ctf, give defocus values, or set ctf_premultiply: false",
        )


def premultiplied_boxes(series, source: ViewSource, views: ParticleViews, settings: ExtractionSettings, rows):
    """Real boxes (m, box, box), particle bright, times c, cut to the disc; and their c (m, box, box//2 + 1).

    Grey scale: that of the raw view averaged over binned pixels.
    """
    xp = array_namespace(source.images)
    shape = (settings.box_px, settings.box_px)
    pixel = series.pixel_size_angst * settings.binning
    transfer = ImageTransfer.of_views(
        series, views.view[rows], views.depth_angst[rows], settings.dose_at, flat=not settings.ctf_premultiply
    )
    c = transfer.evaluate(slice(None), shape, pixel, xp)
    sign = np.float32(-1.0 if settings.invert_contrast else 1.0)
    boxes = fft_module(xp).irfft2(source.spectra(views, rows) * (sign * c), s=shape)
    if settings.circle_crop:
        boxes = crop_to_disc(boxes, settings.margin_px)
    return boxes, c


def extract_stacks(images, series, positions_angst, settings: ExtractionSettings, *, budget_mb=256.0, progress=None):
    """2D stacks of all particles of one tilt series.

    Parameters
    ----------
    images : (n_views, h, w) raw views, rows as in ``series.tilts`` (numpy or CuPy), an array or io.images.Views, which are read one by one unless
    ``cut_from_raw``. positions_angst : (m, 3).
    progress : callable(done, total) or None.

    Returns
    -------
    ExtractedStacks; the images are divided once more by the binning, as RELION does, so that their grey scale does not
    depend on it.

    Raises
    ------
    DataQualityError E-EXT-03 when the CTF is unknown, E-EXT-04 when no particle is seen in enough views.
    """
    check_ctf(series, settings)
    border = settings.binning * settings.crop_px / 2
    views = find_views(
        series, positions_angst, images.shape[-2:], border, settings.max_dose_e_per_a2, settings.min_views
    )
    if len(views) == 0:
        raise DataQualityError(
            "E-EXT-04",
            "no particle is inside enough views",
            field=series.name,
            found=f"{len(positions_angst)} particles, {int(np.sum(series.included))} views",
            fix="a smaller crop_px, a larger max_dose_e_per_a2 or a smaller min_views",
        )
    source = ViewSource(
        images, series.pixel_size_angst, settings.binning, settings.box_px, settings.cut_from_raw
    )
    keep = slice(settings.margin_px, settings.margin_px + settings.crop_px)
    out = np.empty((len(views), settings.crop_px, settings.crop_px), dtype=np.float32)
    for rows in batches(len(views), settings, budget_mb):
        boxes, _ = premultiplied_boxes(series, source, views, settings, rows)
        out[rows] = asnumpy(boxes[:, keep, keep]) * np.float32(1.0 / settings.binning)
        if progress:
            progress(rows.stop, len(views))
    return ExtractedStacks(out, views, series.pixel_size_angst * settings.binning)


def batches(n: int, settings: ExtractionSettings, budget_mb: float):
    """Slices of the pairs that fit ``budget_mb`` together (about ten box-sized arrays per image are alive at once)."""
    size = settings.box_px * (settings.binning if settings.cut_from_raw else 1)
    step = tile_size(n, 4 * 3 * size**2 + 40 * settings.box_px**2, budget_mb)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
