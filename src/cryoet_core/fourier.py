"""Fourier transforms with the image centre (index n//2) at the phase origin, crops, shifts and radial filters.

Half-complex transforms: the last axis is x with n//2 + 1 columns. Cropping keeps index n//2 on the same physical point, so
binning never introduces a half-pixel.
"""

from __future__ import annotations

import numpy as np

from cryoet_core.backend import array_namespace, fft_module


def _axes(ndim):
    return tuple(range(-ndim, 0))


def rfft_centred(x, ndim: int = 2):
    """Half-complex FFT over the last ``ndim`` axes, phases relative to index n//2. float32 in, complex64 out."""
    xp = array_namespace(x)
    fft = fft_module(xp)
    return fft.rfftn(fft.ifftshift(x, axes=_axes(ndim)), axes=_axes(ndim))


def irfft_centred(transform, shape, ndim: int = 2):
    """Inverse of :func:`rfft_centred`; ``shape`` is the real shape of the last ``ndim`` axes."""
    xp = array_namespace(transform)
    fft = fft_module(xp)
    return fft.fftshift(fft.irfftn(transform, s=tuple(shape), axes=_axes(ndim)), axes=_axes(ndim))


def frequency_grid(shape, pixel_size_angst: float = 1.0, xp=np):
    """Broadcastable frequencies in 1/A (cycles/px for pixel size 1), one array per axis, half-complex layout, float32."""
    fft = fft_module(xp)
    *full, last = shape
    grids = [fft.fftfreq(n, pixel_size_angst) for n in full] + [fft.rfftfreq(last, pixel_size_angst)]
    ndim = len(shape)
    return tuple(
        xp.asarray(g, dtype=xp.float32).reshape([-1 if axis == i else 1 for i in range(ndim)])
        for axis, g in enumerate(grids)
    )


def radial_frequency(shape, pixel_size_angst: float = 1.0, xp=np):
    """|k| in 1/A on the half-complex grid of ``shape``, float32."""
    return xp.sqrt(sum(g * g for g in frequency_grid(shape, pixel_size_angst, xp)))


def fourier_shift(images, shift_xy_px):
    """Move the content of images by +shift (x, y) pixels, sub-pixel, periodic.

    Parameters
    ----------
    images : (..., h, w) real. shift_xy_px : (..., 2), broadcast over the leading axes.
    """
    xp = array_namespace(images)
    fft = fft_module(xp)
    h, w = images.shape[-2:]
    ky, kx = frequency_grid((h, w), 1.0, xp)
    shift = xp.asarray(shift_xy_px, dtype=xp.float32)[..., None, None]
    phase = xp.exp(-2j * np.pi * (kx * shift[..., 0, :, :] + ky * shift[..., 1, :, :])).astype(xp.complex64)
    return fft.irfft2(fft.rfft2(images) * phase, s=(h, w)).astype(images.dtype)


def crop_spectrum(transform, shape, new_shape):
    """Cut (or zero-pad) a half-complex spectrum with corner origin from real ``shape`` to ``new_shape``.

    The term at the cropped Nyquist frequency of an even size is dropped: it has no partner of opposite sign and would
    otherwise shift the result.
    """
    xp = array_namespace(transform)
    ndim = len(shape)
    lead = transform.shape[: transform.ndim - ndim]
    half = tuple(new_shape[:-1]) + (new_shape[-1] // 2 + 1,)
    out = xp.zeros(lead + half, dtype=transform.dtype)
    keep = [(min(o, n) - 1) // 2 if o != n else None for o, n in zip(shape, new_shape, strict=True)]
    slices = [[(slice(None), slice(None))] for _ in shape]
    for axis, k in enumerate(keep):
        if k is None:
            continue
        positive = (slice(0, k + 1), slice(0, k + 1))
        negative = (slice(-k, None), slice(-k, None)) if k else None
        slices[axis] = [positive] if axis == ndim - 1 or negative is None else [positive, negative]
    for combination in _product(slices):
        source = (...,) + tuple(pair[0] for pair in combination)
        target = (...,) + tuple(pair[1] for pair in combination)
        out[target] = transform[source]
    return out


def _product(lists):
    if not lists:
        return [()]
    return [(head,) + tail for head in lists[0] for tail in _product(lists[1:])]


def fourier_resample(x, new_shape, ndim: int = 2):
    """Crop or zero-pad in Fourier space the last ``ndim`` axes to ``new_shape``; grey values keep their mean.

    Index n//2 stays on the same physical point; the new pixel size is exactly ``n_in / n_out`` times the old one.
    """
    shape = tuple(x.shape[-ndim:])
    new_shape = tuple(int(n) for n in new_shape)
    if shape == new_shape:
        return x.copy()
    spectrum = crop_spectrum(rfft_centred(x, ndim), shape, new_shape)
    scale = np.float32(np.prod(new_shape) / np.prod(shape))
    return (irfft_centred(spectrum, new_shape, ndim) * scale).astype(x.dtype)


def fourier_crop(x, new_shape, ndim: int = 2):
    """:func:`fourier_resample` to a smaller shape."""
    if any(n > o for o, n in zip(x.shape[-ndim:], new_shape, strict=True)):
        raise ValueError(f"cannot crop {x.shape[-ndim:]} to the larger {tuple(new_shape)}")
    return fourier_resample(x, new_shape, ndim)


def fourier_pad(x, new_shape, ndim: int = 2):
    """:func:`fourier_resample` to a larger shape (sinc interpolation)."""
    if any(n < o for o, n in zip(x.shape[-ndim:], new_shape, strict=True)):
        raise ValueError(f"cannot pad {x.shape[-ndim:]} to the smaller {tuple(new_shape)}")
    return fourier_resample(x, new_shape, ndim)


def centre_crop_or_pad(x, new_shape, ndim: int = 2, mode: str = "constant"):
    """Real-space crop or pad of the last ``ndim`` axes that keeps index n//2; ``mode`` as in numpy.pad (zeros by default)."""
    xp = array_namespace(x)
    window = [slice(None)] * (x.ndim - ndim)
    padding = [(0, 0)] * (x.ndim - ndim)
    for old, new in zip(x.shape[-ndim:], new_shape, strict=True):
        start = old // 2 - new // 2
        window.append(slice(max(0, start), max(0, start) + min(old, new - max(0, -start))))
        before = max(0, -start)
        padding.append((before, max(0, new - before - (window[-1].stop - window[-1].start))))
    return xp.pad(x[tuple(window)], padding, mode=mode)


def binned_shape(shape, binning: int):
    """Image shape after binning: every axis is first padded to a multiple of 2*binning, then divided."""
    return tuple(2 * (-(-n // (2 * binning))) for n in shape)


def bin_images(images, binning: int):
    """Fourier-crop images (..., h, w) by an integer factor; the pixel size becomes exactly ``binning`` times larger.

    Sizes that are not a multiple of ``2 * binning`` are padded with their edge pixels, the centre staying on index n//2.
    """
    if binning == 1:
        return images
    h, w = binned_shape(images.shape[-2:], binning)
    tall, wide = h * binning, w * binning
    if images.shape[-2:] != (tall, wide):
        images = centre_crop_or_pad(images, (tall, wide), 2, mode="edge")
    xp = array_namespace(images)
    fft = fft_module(xp)
    # lengths are even multiples: index 0 and the centre keep their places without a phase; x is cropped before y is transformed
    columns = fft.fft(fft.rfft(images, axis=-1)[..., : w // 2], axis=-2)
    kept = xp.zeros((*columns.shape[:-2], h, w // 2), columns.dtype)  # the new Nyquist terms have no partner: see crop_spectrum
    kept[..., : h // 2, :] = columns[..., : h // 2, :]
    kept[..., h // 2 + 1 :, :] = columns[..., tall - (h // 2 - 1) :, :]
    scale = np.float32(1 / binning**2)
    return (fft.irfft2(kept, s=(h, w)) * scale).astype(images.dtype)


def raised_cosine_window(k, cutoff: float, width: float, xp=np):
    """1 below ``cutoff - width/2``, 0 above ``cutoff + width/2``, half a cosine between."""
    t = xp.clip((k - (cutoff - width / 2)) / max(width, 1e-12), 0, 1)
    return (0.5 * (1 + xp.cos(np.pi * t))).astype(xp.float32)


def filter_real(x, window, ndim: int = 2):
    """Multiply the spectrum of the last ``ndim`` axes by ``window`` (half-complex layout, corner origin)."""
    xp = array_namespace(x)
    fft = fft_module(xp)
    shape = x.shape[-ndim:]
    return fft.irfftn(fft.rfftn(x, axes=_axes(ndim)) * window, s=shape, axes=_axes(ndim)).astype(x.dtype)


def lowpass(x, resolution_angst: float, pixel_size_angst: float, ndim: int = 3, edge_shells: float = 2.0):
    """Raised-cosine low-pass at ``resolution_angst``, ``edge_shells`` Fourier pixels wide."""
    xp = array_namespace(x)
    shape = x.shape[-ndim:]
    width = edge_shells / (max(shape) * pixel_size_angst)
    window = raised_cosine_window(radial_frequency(shape, pixel_size_angst, xp), 1 / resolution_angst, width, xp)
    return filter_real(x, window, ndim)


def highpass(x, resolution_angst: float, pixel_size_angst: float, ndim: int = 2):
    """Gaussian high-pass: 1 - exp(-k^2 / (2 k0^2)) with k0 = 1/resolution; the mean is removed."""
    xp = array_namespace(x)
    k = radial_frequency(x.shape[-ndim:], pixel_size_angst, xp)
    return filter_real(x, 1 - xp.exp(-((k * resolution_angst) ** 2) / 2), ndim)


def shell_index(shape, xp=np):
    """Shell number (int64) of every half-complex coefficient: round(|k| * n) with n the longest axis."""
    n = max(shape)
    return xp.rint(radial_frequency(shape, 1.0 / n, xp)).astype(xp.int64)


def half_complex_multiplicity(shape, xp=np):
    """How many coefficients of the full transform each half-complex one stands for (1 or 2), broadcastable, float32."""
    last = shape[-1]
    weight = xp.full(last // 2 + 1, 2.0, dtype=xp.float32)
    weight[0] = 1
    if last % 2 == 0:
        weight[-1] = 1
    return weight.reshape([1] * (len(shape) - 1) + [-1])


def shell_sum(values, shells, n_shells: int, weights=None):
    """Sum of real ``values`` (half-complex grid) over shells 0..n_shells-1 -> float64 (n_shells,)."""
    xp = array_namespace(values, shells)
    data = values if weights is None else values * weights
    data = xp.broadcast_to(data, shells.shape).ravel().astype(xp.float64)
    index = xp.minimum(shells.ravel(), n_shells)
    return xp.bincount(index, weights=data, minlength=n_shells + 1)[:n_shells]


def radial_average(values, ndim: int = 3, shape=None):
    """Mean of ``values`` (half-complex grid of real ``shape``) over shells -> float64 (n//2 + 1,)."""
    xp = array_namespace(values)
    shape = tuple(shape)
    shells = shell_index(shape, xp)
    n = max(shape) // 2 + 1
    weight = half_complex_multiplicity(shape, xp)
    ones = xp.ones(values.shape, dtype=xp.float32)
    count = shell_sum(ones, shells, n, weight)
    return shell_sum(values, shells, n, weight) / xp.maximum(count, 1)
