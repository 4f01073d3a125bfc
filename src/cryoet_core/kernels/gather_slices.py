"""Insertion of image transforms into a Fourier volume by gathering: every voxel reads the slices that pass within one voxel.

For the voxel at k (x, y, z; Fourier px) and image i, q = R_i k / pad; with |q_z| < 1 and |k / pad| <= radius_i ::

    data(k) += (1 - |q_z|) bilinear(slices_i; q_x, q_y),     weight(k) += (1 - |q_z|) bilinear(weights_i; q_x, q_y)

This is what RELION 5's reconstruct particle does (Fourier_backprojection.h, read). :func:`insert_slices` is the exact
adjoint of slicing; this is not: the bilinear reading smooths within the slice and the tent along its normal, in shares that
depend on its direction. It is here so that maps can be made equal to RELION's.

Sums are float64 in the order of the slices on every device: no atomics, independent of threads.
"""

from __future__ import annotations

from cryoet_core.backend import array_namespace, is_gpu_array
from cryoet_core.kernels import gather_slices_cpu, gather_slices_gpu
from cryoet_core.kernels.insert_slices import new_accumulator, split_accumulator
from cryoet_core.kernels.validation import dense, host, in_place


def gather_slices(slices, weights, rotations, n, *, radii_px, pad=1, out=None):
    """(data complex64, weight float32), each (N, N, N//2 + 1), N = n * pad, kz and ky centred, kx >= 0.

    Parameters
    ----------
    slices : complex64 (m, h, h//2 + 1), rfft2 layout, even h. weights : float32, the same shape.
    rotations : (m, 3, 3) volume to image, acting on (x, y, z).
    n : box of the volume before oversampling, px.
    radii_px : (m,) largest radius that each slice reaches, unpadded Fourier px, at most h//2 + 1; where column
        h//2 + 1 would be read, column h//2 - 1 of the same row stands in, as in RELION.
    pad : whole-number oversampling. out : accumulator of kernels.insert_slices; when given it is added to and returned.

    Raises
    ------
    ValueError when a shape or a radius does not fit.
    """
    slices = dense("slices", slices, 3, "complex64")
    weights = dense("weights", weights, 3)
    m, h, half = slices.shape
    if h % 2 or half != h // 2 + 1 or weights.shape != slices.shape:
        raise ValueError(
            f"slices and weights must both be (m, h, h//2 + 1) with even h, found {slices.shape}, {weights.shape}"
        )
    rotations, radii = host("rotations", rotations, (m, 3, 3)), host("radii_px", radii_px, (m,))
    if radii.max() > h // 2 + 1:
        raise ValueError(f"radii_px must not exceed {h // 2 + 1}, found {radii.max()}")
    accumulator = new_accumulator(n, pad, array_namespace(slices, weights)) if out is None else out
    box = int(n) * int(pad)
    in_place("out", accumulator, (box, box, box // 2 + 1, 4), "float64", slices)
    implementation = gather_slices_gpu if is_gpu_array(slices) else gather_slices_cpu
    implementation.gather_slices(slices, weights, rotations / float(pad), radii * pad, accumulator)
    return split_accumulator(accumulator) if out is None else accumulator
