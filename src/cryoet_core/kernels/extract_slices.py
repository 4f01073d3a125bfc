"""Central slices, single points and turned lists of points of a Fourier volume, by trilinear interpolation.

The volume transform has shape (N, N, N//2 + 1): kz and ky centred (zero at N//2), kx >= 0 (zero at index 0); it may
be oversampled, N = n * pad. For the image whose axes are the rows of R (R maps volume to image coordinates)::

    S(kx, ky) = F(pad * R^T (kx, ky, 0))          conj F(-k) where the x component is negative; 0 beyond radius_px

A slice has the layout of rfft2: (size, size//2 + 1), rows in fftfreq order, zero frequency at [0, 0].
"""

from __future__ import annotations

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import extract_slices_cpu, extract_slices_gpu
from cryoet_core.kernels.validation import dense, host, output, transform_box


def extract_slices(volume_ft, rotations, radius_px, size=None, pad=1, out=None):
    """Central slices complex64 (m, size, size//2 + 1) on the device of ``volume_ft``.

    Parameters
    ----------
    volume_ft : complex64 (N, N, N//2 + 1), layout above.
    rotations : (m, 3, 3) volume to image, acting on (x, y, z); a scale in them scales k.
    radius_px : largest radius sampled, Fourier px of the slice (not oversampled).
    size : box of the image, px; N // pad when None.
    pad : oversampling of the volume transform.
    out : complex64 (m, size, size//2 + 1) to write into (overwritten), or None.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    volume_ft = dense("volume_ft", volume_ft, 3, "complex64")
    n = transform_box("volume_ft", volume_ft.shape)
    rotations = host("rotations", rotations, (None, 3, 3))
    size = n // pad if size is None else int(size)
    shape = (len(rotations), size, size // 2 + 1)
    out = output(out, shape, "complex64", volume_ft, zero=False)
    implementation = extract_slices_gpu if is_gpu_array(volume_ft) else extract_slices_cpu
    implementation.extract_slices(volume_ft, rotations, float(radius_px), float(pad), out)
    return out


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
    implementation = extract_slices_gpu if is_gpu_array(volume_ft) else extract_slices_cpu
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
    implementation = extract_slices_gpu if is_gpu_array(volume_ft) else extract_slices_cpu
    implementation.sample_turned(volume_ft, matrices, points, out)
    return out
