"""Second-order expansion of the likelihood of images at poses: slices, their slopes and all sums in one pass, nothing stored in between.

For pose i of particle p and view f, with P the reference's transform read at M k and S_s its slopes along the tangents T_s k (trilinear, exactly those of
the interpolant; layout and matrices as in :func:`.sample_points.sample_turned`), d = data_p e^{2 pi i k.u / box}, w = weight_p, e = d - w P, sums over k:

    0       Re (d - w P / 2)* P                 value
    1-3     Re e* S_s                           gradient along the tangents
    4-6     k_a Im e* P                         gradient along the shift, in units of 2 pi / box
    7-12    w Re S_s* S_t      (s <= t)         Gauss-Newton curvature
    13-21   w k_a Im S_s* P    (s, a)
    22-27   w k_a k_b |P|^2    (a <= b)

Sums are float64 in one order on a CPU; on a GPU in segments of the list, so they do not depend on the number of threads.
"""

from __future__ import annotations

from cryoet_core.backend import array_namespace, is_gpu_array
from cryoet_core.kernels import expand_poses_cpu, expand_poses_gpu
from cryoet_core.kernels.validation import dense, host, transform_box

N_SUMS = 28


def expand_poses(volume_ft, matrices, tangents, points, data, weight, particle, shifts_px, box_px):
    """The sums above, float64 (m, F, 28), on the device of ``volume_ft``.

    Parameters
    ----------
    volume_ft : complex64 (N, N, N//2 + 1). matrices : (m, F, 3, 3); tangents : (m, F, 3, 3, 3), per unit of each parameter.
    points : (K, 3) whole numbers, cycles per box along x, y, z. data : (P, F, K) complex64, weight : (P, F, K) float32.
    particle : (m,) row of data of every pose. shifts_px : (m, F, 3) u. box_px : of the images.

    Raises
    ------
    ValueError when a shape does not fit.
    """
    volume_ft = dense("volume_ft", volume_ft, 3, "complex64")
    transform_box("volume_ft", volume_ft.shape)
    data, weight = dense("data", data, 3, "complex64"), dense("weight", weight, 3)
    n, views, k = data.shape
    m = len(matrices)
    if weight.shape != data.shape:
        raise ValueError(f"data and weight must have one shape, found {data.shape}, {weight.shape}")
    matrices, tangents = host("matrices", matrices, (m, views, 3, 3)), host("tangents", tangents, (m, views, 3, 3, 3))
    points, shifts = host("points", points, (k, 3)), host("shifts_px", shifts_px, (m, views, 3))
    rows = host("particle", particle, (m,)).astype("int64")
    if m and not 0 <= rows.min() <= rows.max() < n:
        raise ValueError(f"particle must lie in 0..{n - 1}")
    out = array_namespace(volume_ft).zeros((m, views, N_SUMS), "float64")
    if m:
        implementation = expand_poses_gpu if is_gpu_array(volume_ft) else expand_poses_cpu
        implementation.expand_poses(volume_ft, matrices, tangents, points, data, weight, rows, shifts, int(box_px), out)
    return out
