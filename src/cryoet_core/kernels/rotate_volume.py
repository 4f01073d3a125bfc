"""Rotation of a small volume about its centre by trilinear interpolation.

    out(X) = volume(R^-1 X),  X centred (x, y, z) px (index - n//2), zero outside the volume and beyond radius_px:

the content is rotated by R, a feature at p moves to R p.
"""

from __future__ import annotations

from cryoet_core.backend import is_gpu_array
from cryoet_core.kernels import rotate_volume_cpu, rotate_volume_gpu
from cryoet_core.kernels.validation import dense, host, output


def rotate_volume(volume, rotations, radius_px=None, out=None, box=None):
    """Rotated copies float32 (m, *box) on the device of ``volume``.

    Parameters
    ----------
    volume : (nz, ny, nx) real; X is centred on index n//2 of the volume and of the box.
        Upsample it beforehand where trilinear interpolation is not accurate enough.
    rotations : (m, 3, 3), acting on (x, y, z); out(X) = volume(R^T X), so s * R magnifies sampling by s.
    radius_px : voxels farther than this from the centre are set to zero and not computed; None for all.
    out : float32 (m, *box) to write into (overwritten), or None.
    box : shape of each copy, None for the volume's own.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    volume = dense("volume", volume, 3)
    rotations = host("rotations", rotations, (None, 3, 3))
    out = output(out, (len(rotations), *(volume.shape if box is None else box)), "float32", volume, zero=False)
    radius = float(sum(out.shape)) if radius_px is None else float(radius_px)
    implementation = rotate_volume_gpu if is_gpu_array(volume) else rotate_volume_cpu
    implementation.rotate_volume(volume, rotations, radius, out)
    return out
