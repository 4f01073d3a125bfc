"""Tilt images brought into the plane of the specimen, and the spectra that alignment works on.

A point (X, Y, Z) of the specimen lands in image i at G_i (X, Y) + g_i Z + s_i, with G_i, g_i the parts of TiltGeometry's
rotation. Sampling image i at G_i (X, Y) + s_i undoes rotation, cosine compression and shift at once ("cosine stretching"):
in the plane, views differ only by p_i Z, where p_i = G_i^-1 g_i lies along x and is close to tan(tilt).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from cryoet_core.backend import array_namespace, asnumpy, fft_module, ndimage_module
from cryoet_core.fourier import frequency_grid, radial_average, rfft_centred
from cryoet_core.kernels.sample_spline import sample_spline
from cryoet_core.masks import taper_window

FAITHFUL = 0.3  # cycles per pixel up to which interpolation keeps the power of an image


@dataclass(frozen=True)
class PlaneViews:
    """Images prepared for resampling: cubic-spline coefficients and their sampling.

    coefficients : (n, h, w) float32, spline coefficients of zero-mean images. pixel_size_angst : of these images.
    amplitude : (n, m) rms amplitude of each image at frequencies step * index, for whitening.
    plane_shape : (ny, nx) of the specimen plane, tilt axis along y.
    """

    coefficients: np.ndarray
    amplitude: np.ndarray
    pixel_size_angst: float
    plane_shape: tuple[int, int]

    def __len__(self) -> int:
        return self.coefficients.shape[0]

    def select(self, rows) -> PlaneViews:
        """Some of the views (index array or boolean mask)."""
        return replace(self, coefficients=self.coefficients[rows], amplitude=self.amplitude[rows])


def plane_shape_for(image_shape, axis_deg: float) -> tuple[int, int]:
    """(ny, nx) of a plane that holds an image of ``image_shape`` turned by the tilt-axis angle; even, quick to transform."""
    h, w = image_shape
    c, s = abs(np.cos(np.deg2rad(axis_deg))), abs(np.sin(np.deg2rad(axis_deg)))
    return tuple(_even_fast_length(c * a + s * b) for a, b in ((h, w), (w, h)))


def _even_fast_length(length: float) -> int:
    return 2 * scipy.fft.next_fast_len(int(np.ceil(length / 2)), real=True)


def prepare_views(images, pixel_size_angst: float, axis_deg: float) -> PlaneViews:
    """Spline-filter zero-mean ``images`` (n, h, w) once, so that every later resampling is a plain interpolation."""
    xp = array_namespace(images)
    ndimage = ndimage_module(xp)
    coefficients = xp.stack([ndimage.spline_filter(im, order=3, output=xp.float32, mode="mirror") for im in images])
    return PlaneViews(coefficients, _amplitude(images), pixel_size_angst, plane_shape_for(images.shape[1:], axis_deg))


def _amplitude(images) -> np.ndarray:
    """(n, m) rms of the transforms over shells, smoothed over three, float64."""
    shape = images.shape[1:]
    window = taper_window(shape, max(shape) / 16, array_namespace(images))
    rows = []
    for image in images:
        power = asnumpy(radial_average(abs(rfft_centred(image * window, 2)) ** 2, 2, shape))
        rows.append(np.sqrt(np.convolve(np.pad(power, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")))
    return np.array(rows) + 1e-20


def in_plane(geometry) -> np.ndarray:
    """(n, 2, 2): G, from plane coordinates (X, Y) to image axes (u, v)."""
    return geometry.rotation[:, :2, :2]


def parallax(geometry) -> np.ndarray:
    """(n,): how far a point moves along plane x per unit of height Z, in the plane of each view (about tan tilt)."""
    rotation = geometry.rotation
    return np.linalg.solve(rotation[:, :2, :2], rotation[:, :2, 2:])[:, 0, 0]


def common_motion(geometry, reference) -> np.ndarray:
    """(2, 2): the linear map of plane coordinates that keeps the views of ``geometry`` on average where those of ``reference`` were."""
    return np.mean(np.linalg.solve(in_plane(geometry), in_plane(reference)), axis=0)


def resample_to_plane(views: PlaneViews, geometry, edge_px: float = 8.0, warp=None):
    """Images seen in the specimen plane, faded to zero where a view has no data and at the plane's borders.

    warp : (2, 2), plane coordinates are mapped by it first (:func:`common_motion`).

    Returns
    -------
    (n, ny, nx) float32, index n//2 = specimen centre.
    """
    return array_namespace(views.coefficients).stack(list(_planes(views, geometry, edge_px, warp)))


def _planes(views: PlaneViews, geometry, edge_px: float, warp):
    """The planes of :func:`resample_to_plane`, one by one."""
    window = taper_window(views.plane_shape, edge_px, array_namespace(views.coefficients))
    matrices, shifts = in_plane(geometry) @ (np.eye(2) if warp is None else warp), geometry.shift_angst / views.pixel_size_angst
    for image, matrix, shift in zip(views.coefficients, matrices, shifts, strict=True):
        yield _resample_one(image, matrix, shift, views.plane_shape, edge_px) * window


def _resample_one(coefficients, matrix, shift_px, plane_shape, edge_px):
    xp = array_namespace(coefficients)
    h, w = coefficients.shape
    ny, nx = plane_shape
    index_matrix = matrix[::-1, ::-1]  # (row, column) = (v, u) from (Y, X)
    offset = np.array([h // 2, w // 2]) + shift_px[::-1] - index_matrix @ np.array([ny // 2, nx // 2])
    sampled = sample_spline(coefficients, index_matrix, offset, plane_shape)
    row = xp.arange(ny, dtype=xp.float32)[:, None]
    column = xp.arange(nx, dtype=xp.float32)[None, :]
    for axis, n in enumerate((h, w)):
        position = float(index_matrix[axis, 0]) * row + float(index_matrix[axis, 1]) * column + float(offset[axis])
        inside = xp.clip((xp.minimum(position, n - 1 - position) - 1) / edge_px, 0, 1)
        sampled *= inside
    return sampled


@dataclass(frozen=True)
class PlaneSpectra:
    """Whitened half-complex spectra of plane views.

    spectra : (n, ny, nx//2 + 1) complex64, mean square 1 (their own amplitude spectrum divided out).
    image_frequency : same shape float32, the frequency in 1/A at which each coefficient was recorded in its image.
    ky, kx : broadcastable plane frequencies in 1/A. parallax : (n,) see :func:`parallax`. slope : heights are displaced along
    (1, slope) of the plane; zero unless the plane was warped.
    """

    spectra: np.ndarray
    image_frequency: np.ndarray
    ky: np.ndarray
    kx: np.ndarray
    parallax: np.ndarray
    slope: float = 0.0


def plane_spectra(views: PlaneViews, geometry, edge_px: float = 8.0, max_frequency: float | None = None, warp=None) -> PlaneSpectra:
    """Resample, transform, whiten; columns and rows above ``max_frequency`` (1/A) of the plane are cut away."""
    xp = array_namespace(views.coefficients)
    warp = np.eye(2) if warp is None else np.asarray(warp)
    ky, kx = frequency_grid(views.plane_shape, views.pixel_size_angst, xp)
    limit = np.inf if max_frequency is None else max_frequency
    rows, columns = xp.abs(ky[:, 0]) <= limit, kx[0] <= limit
    transform = xp.stack([rfft_centred(plane, 2)[rows][:, columns] for plane in _planes(views, geometry, edge_px, warp)])
    ky, kx = ky[rows], kx[:, columns]
    frequency = _image_frequency(in_plane(geometry) @ warp, ky, kx)
    step = 1.0 / (max(views.coefficients.shape[1:]) * views.pixel_size_angst)
    whitened = _whiten(transform, frequency, views.amplitude, step, min(max_frequency or np.inf, FAITHFUL / views.pixel_size_angst))
    along = np.linalg.inv(warp)[:, 0]
    return PlaneSpectra(whitened, frequency, ky, kx, along[0] * parallax(geometry), float(along[1] / along[0]))


def _image_frequency(matrices, ky, kx):
    """|G^-T k|: a plane wave k of the plane is recorded at this frequency."""
    xp = array_namespace(ky)
    inverse = np.linalg.inv(matrices)
    columns = xp.asarray(inverse.astype(np.float32))[:, :, :, None, None]  # (n, 2 plane, 2 image, 1, 1)
    u = columns[:, 0, 0] * kx + columns[:, 1, 0] * ky
    v = columns[:, 0, 1] * kx + columns[:, 1, 1] * ky
    return xp.sqrt(u * u + v * v)


def _whiten(transform, frequency, amplitude, step, max_frequency):
    """Divide by each image's own amplitude; every view ends with mean square 1 at frequencies up to ``max_frequency``.

    Smooth in the geometry, so that likelihoods of neighbouring geometries can be compared. Near Nyquist interpolation loses noise: counted in, it
    raised the power of the signal's band by 13 %, and the model, which expects 1, took the slab for 6 % thinner than it was.
    """
    xp = array_namespace(transform)
    out = xp.empty_like(transform)
    for i in range(transform.shape[0]):
        table = xp.asarray(amplitude[i])
        level = xp.interp(frequency[i].ravel() / step, xp.arange(table.size, dtype=xp.float64), table).astype(xp.float32)
        flat = transform[i] / level.reshape(frequency[i].shape)
        held = xp.clip(10 * (1 - frequency[i] / max_frequency) + 0.5, 0, 1)
        power = xp.sum(held * (flat.real**2 + flat.imag**2), dtype=xp.float64) / xp.sum(held, dtype=xp.float64)
        out[i] = flat / xp.sqrt(power + 1e-30).astype(xp.float32)
    return out


def shift_spectra(data: PlaneSpectra, delta_angst):
    """Spectra of the same views sampled ``delta_angst`` (n, 2: x, y in the plane) further on."""
    xp = array_namespace(data.spectra)
    delta = xp.asarray(np.asarray(delta_angst, np.float32))[:, :, None, None]
    phase = xp.exp(2j * np.pi * (data.kx * delta[:, 0] + data.ky * delta[:, 1])).astype(xp.complex64)
    return replace(data, spectra=data.spectra * phase)


def correlate(cross_spectrum, shape):
    """Real correlation map (ny, nx), zero lag at index n//2, from a half-complex cross spectrum of a plane of ``shape``."""
    xp = array_namespace(cross_spectrum)
    fft = fft_module(xp)
    return fft.fftshift(fft.irfft2(cross_spectrum, s=shape), axes=(-2, -1))
