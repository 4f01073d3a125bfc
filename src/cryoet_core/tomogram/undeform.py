"""Views as a specimen that did not deform would have given them, for back-projection.

Particles need no such image: they are cut where the deformation puts them. A tomogram does, and pays one more interpolation: by B-splines of degree
5, which lose 0.3 % of the amplitude at half of Nyquist at the worst fraction of a pixel.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import fftfreq, rfftfreq

from cryoet_core.backend import array_namespace, fft_module
from cryoet_core.geometry.local_deformation import LocalDeformation
from cryoet_core.kernels.warp_accumulate import spline_response, warp_accumulate

TABLE = 33  # nodes of the displacement per side; between them it is linear


def displacement_tables_px(deformation: LocalDeformation, shape, pixel_size_angst: float, n: int = TABLE) -> np.ndarray:
    """(views, 2, n, n): x, y displacement in px on a table whose corners lie on the corner pixels of views of ``shape`` (h, w)."""
    v, u = (np.linspace(-(length // 2), length - 1 - length // 2, n) * pixel_size_angst for length in shape)
    places = np.stack(np.meshgrid(u, v), axis=-1).reshape(1, -1, 2)
    moved = deformation.at(np.broadcast_to(places, (len(deformation), n * n, 2))) / pixel_size_angst
    return moved.transpose(0, 2, 1).reshape(-1, 2, n, n)


def undeformed_views(images, deformation: LocalDeformation, pixel_size_angst: float):
    """Views (n, h, w) float32 whose content is moved back by ``deformation`` of the same views; their means stay."""
    xp, shape = array_namespace(images), tuple(images.shape[1:])
    fft = fft_module(xp)
    rows, columns = (xp.asarray(spline_response(f(n)), dtype=xp.float32) for f, n in zip((fftfreq, rfftfreq), shape, strict=True))
    tables = displacement_tables_px(deformation, shape, pixel_size_angst)
    out = xp.empty(images.shape, dtype=xp.float32)
    for i, image in enumerate(images):
        mean = image.mean(dtype=xp.float64)
        spectrum = fft.rfft2((image - mean).astype(xp.float32)) / rows[:, None] / columns
        out[i] = warp_accumulate(fft.irfft2(spectrum, s=shape).astype(xp.float32), tables[i]) + mean.astype(xp.float32)
    return out
