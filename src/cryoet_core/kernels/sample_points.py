"""A Fourier volume read at single points and at turned lists of points, by trilinear interpolation.

The volume transform has shape (N, N, N//2 + 1): kz and ky centred (zero at N//2), kx >= 0 (zero at index 0); it may be oversampled. Where the x
component of a point is negative the value is conj F(-k); outside the stored transform it is zero.
"""

from __future__ import annotations

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import sample_points_cpu, sample_points_gpu
from cryoet_core.kernels.validation import dense, host, output, transform_box


def extract_points(volume_ft, coords, pad=1):
    """Values complex64 (m,) at ``coords`` (m, 3) = (kx, ky, kz) in Fourier px of the box N // pad.

    Outside the stored transform the value is zero. Same device as ``volume_ft``; coords are real (float32).

    Raises
    ------
    ValueError when a shape does not fit.
    """
    volume_ft = dense("volume_ft", volume_ft, 3, "complex64")
    transform_box("volume_ft", volume_ft.shape)
    coords = dense("coords", coords, 2)
    if coords.shape[1] != 3:
        raise ValueError(f"coords must be (m, 3), found {coords.shape}")
    out = output(None, (len(coords),), "complex64", volume_ft, zero=False)
    implementation = sample_points_gpu if is_gpu_array(volume_ft) else sample_points_cpu
    implementation.extract_points(volume_ft, coords, float(pad), out)
    return out


def sample_turned(volume_ft, matrices, points):
    """Values complex64 (m, K) at ``matrices`` (m, 3, 3) times ``points`` (K, 3), on the device of ``volume_ft``.

    The products are (kx, ky, kz) in voxels of the stored transform: an oversampling is in the matrices. Points in the plane kz = 0 make
    a slice, points in space the turned transform itself.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    volume_ft = dense("volume_ft", volume_ft, 3, "complex64")
    transform_box("volume_ft", volume_ft.shape)
    matrices, points = host("matrices", matrices, (None, 3, 3)), host("points", points, (None, 3))
    out = output(None, (len(matrices), len(points)), "complex64", volume_ft, zero=False)
    implementation = sample_points_gpu if is_gpu_array(volume_ft) else sample_points_cpu
    implementation.sample_turned(volume_ft, matrices, points, out)
    return out
