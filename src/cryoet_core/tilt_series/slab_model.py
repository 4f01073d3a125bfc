"""What every tilt image should look like, given the others: a slab of matter seen along known directions.

In the specimen plane (see plane.py) view i samples the transform V of the specimen on kz = kx p_i. Matter inside a slab of
thickness T makes V along kz correlated over about 1/T: for whitened spectra the covariance of views i and j at (kx, ky) is

    C_ij = sqrt(rho_i rho_j) K(kx, p_i - p_j) + (1 - rho_i) delta_ij ,

with rho the fraction of signal in the power and K the mean of cos(2 pi kx z dp) over the heights of the slab, weighted by the share of
the field (width L) that two views still have in common at height z, 1 - |z dp| / L: matter near the border enters and leaves. For a
wide field K is sinc(T kx dp). Without the share, views far apart are believed to agree at low frequency where they cannot, and the
likelihood is several times too sharp. That is exactly back-projection into the slab followed by re-projection, but
with the statistically best weights and at the price of one small matrix per column kx instead of a volume. From A = C^-1:

    prediction of view i from all others   F_i - (A F)_i / A_ii          (leave-one-out, variance 1 / A_ii)
    badness of the alignment               sum F^H (A - 1) F + log det C     (minus two log-likelihood ratio of
                                           "these views show one slab" to "these views have nothing in common")

The slab is level and centred on Z = 0, so the likelihood also levels the specimen (tilt-angle offset) and centres it.
Prediction of Gaussian processes: Rasmussen & Williams 2006, chapter 5.4.2. Slab support and its sinc: Crowther 1970.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.errors import DataQualityError
from cryoet_core.tilt_series.plane import PlaneSpectra


@dataclass(frozen=True)
class SlabPrior:
    """thickness_angst : of the slab. frequency, signal_fraction : (m,) rho over image frequency (1/A), linear between."""

    thickness_angst: float
    frequency: np.ndarray
    signal_fraction: np.ndarray

    def rho(self, frequency):
        """Signal fraction at image frequencies, 0 outside the table."""
        return np.interp(frequency, self.frequency, self.signal_fraction, left=0.0, right=0.0)


@dataclass(frozen=True)
class Precision:
    """A = C^-1 on a grid of columns kx and groups of rows |ky|.

    rows : list of index arrays into ky. matrices : per group (n_columns, n, n) float32. covariance : same, C.
    """

    rows: list
    matrices: list
    covariances: list
    log_determinant: float


def view_covariance(parallax, kx, thickness_angst, width_angst=np.inf):
    """(n_columns, n, n): coherence K of views whose parallaxes differ, of matter in a slab seen through a field ``width_angst`` wide."""
    i, j = np.triu_indices(len(parallax))  # the matrix is symmetric
    reach = 0.5 * thickness_angst * np.abs(parallax[i] - parallax[j])  # displacement at the faces of the slab
    kx = np.asarray(kx)[..., None]
    if not np.isfinite(width_angst):
        return _symmetric(np.sinc(2 * kx * reach), i, j)
    inner = np.minimum(reach, width_angst)
    share = np.where(reach > 0, inner / np.maximum(reach, 1e-12), 1.0)
    lost = inner / width_angst
    sinc = np.sinc(kx * inner)
    return _symmetric(share * sinc * (np.cos(np.pi * kx * inner) * (1 - lost) + 0.5 * lost * sinc), i, j)  # sinc(2 x) = sinc(x) cos(pi x)


def _symmetric(upper, i, j):
    """(..., n, n) from the elements (i, j) of the upper triangle (..., m)."""
    n = i[-1] + 1
    out = np.empty((*upper.shape[:-1], n, n))
    out[..., i, j] = upper
    out[..., j, i] = upper
    return out


def field_width(data: PlaneSpectra) -> float:
    """Width of the plane along x, A, from the spacing of its columns."""
    return float(1 / max(float(data.kx[0, 1] - data.kx[0, 0]), 1e-12)) if data.kx.shape[1] > 1 else np.inf


def column_weight(data: PlaneSpectra):
    """(n_columns,) float32: 1/2 for kx = 0, whose rows ky and -ky are the same measurement, 1 for all others."""
    xp = array_namespace(data.spectra)
    return xp.where(data.kx[0] == 0, 0.5, 1.0).astype(xp.float32)


def _row_groups(ky, n_row_groups: int, signed: bool):
    """Index arrays of rows that share one matrix: bands of |ky|, or of ky when its sign matters."""
    value = ky if signed else np.abs(ky)
    top = np.abs(ky).max() * (1 + 1e-9)
    edges = np.linspace(-top if signed else 0, top, n_row_groups * (2 if signed else 1) + 1)
    group = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    members = [np.flatnonzero(group == g) for g in range(len(edges) - 1)]
    return [m for m in members if m.size]


def precision(data: PlaneSpectra, prior: SlabPrior, n_row_groups: int = 12, signed: bool = False) -> Precision:
    """Invert C for every column and group of rows; views without signal at a frequency decouple by themselves.

    signed : tell ky from -ky, needed when heights are displaced aslant (``data.slope``).
    """
    xp = array_namespace(data.spectra)
    kx, ky = asnumpy(data.kx)[0].astype(np.float64), asnumpy(data.ky)[:, 0].astype(np.float64)
    frequency, width = asnumpy(data.image_frequency), field_width(data)
    weight = asnumpy(column_weight(data))
    support = None if data.slope else view_covariance(data.parallax, kx, prior.thickness_angst, width)
    rows, matrices, covariances, log_determinant = [], [], [], 0.0
    for members in _row_groups(ky, n_row_groups, signed):
        rho = np.mean(prior.rho(frequency[:, members, :]), axis=1).T  # (n_columns, n)
        some = np.flatnonzero(rho.any(axis=1))  # elsewhere there is no signal, and C is 1
        if data.slope:
            shared = view_covariance(data.parallax, kx[some] + data.slope * ky[members].mean(), prior.thickness_angst, width)
        else:
            shared = support[some]
        root = np.sqrt(rho[some])
        block = root[:, :, None] * shared * root[:, None, :]
        block[:, np.arange(rho.shape[1]), np.arange(rho.shape[1])] = 1.0
        log_determinant += members.size * float((weight[some] * np.linalg.slogdet(block)[1]).sum())
        c = np.tile(np.eye(rho.shape[1]), (len(rho), 1, 1))
        a = c.astype(np.float32)
        c[some], a[some] = block, np.linalg.inv(block)
        rows.append(xp.asarray(members))
        matrices.append(xp.asarray(a))
        covariances.append(c)
    return Precision(rows, matrices, covariances, log_determinant)


def weighted(data: PlaneSpectra, model: Precision):
    """A F and the diagonal of A, both (n, n_rows, n_columns)."""
    xp = array_namespace(data.spectra)
    product, diagonal = xp.zeros_like(data.spectra), xp.ones(data.spectra.shape, dtype=xp.float32)
    for rows, a in zip(model.rows, model.matrices, strict=True):
        block = data.spectra[:, rows].transpose(2, 0, 1)  # (n_columns, n, n_rows of the group)
        product[:, rows] = (a @ block).transpose(1, 2, 0)
        diagonal[:, rows] = xp.diagonal(a, axis1=1, axis2=2).T[:, None, :]
    return product, diagonal


def badness(data: PlaneSpectra, model: Precision, product=None) -> float:
    """sum F^H (A - 1) F + log det C. Views or frequencies that nothing predicts count 0, whatever their number."""
    xp = array_namespace(data.spectra)
    product = weighted(data, model)[0] if product is None else product
    q = xp.sum((data.spectra.conj() * (product - data.spectra)).real * column_weight(data), dtype=xp.float64)
    return float(q) + model.log_determinant


def leave_one_out(data: PlaneSpectra, model: Precision):
    """Prediction of every view from all others and the weight 1/variance of each coefficient."""
    product, diagonal = weighted(data, model)
    return data.spectra - product / diagonal, diagonal


def leave_one_out_correlation(data: PlaneSpectra, model: Precision) -> np.ndarray:
    """(n,) correlation coefficient of each view with its prediction, over the coefficients that have one."""
    xp = array_namespace(data.spectra)
    prediction, _ = leave_one_out(data, model)
    cross = xp.sum((prediction.conj() * data.spectra).real, axis=(1, 2), dtype=xp.float64)
    power = xp.sum(xp.abs(prediction) ** 2, axis=(1, 2), dtype=xp.float64)
    data_power = xp.sum(xp.abs(data.spectra) ** 2 * (xp.abs(prediction) > 0), axis=(1, 2), dtype=xp.float64)
    return asnumpy(cross / xp.sqrt(power * data_power + 1e-30))


def shift_gradient(data: PlaneSpectra, product) -> np.ndarray:
    """(n, 2): first derivatives of badness for in-plane x and y shifts of the views, from A F (see :func:`weighted`)."""
    xp = array_namespace(data.spectra)
    torque = 4 * np.pi * (data.spectra.conj() * product).imag * column_weight(data)
    return np.stack([asnumpy(xp.sum(torque * k, axis=(1, 2), dtype=xp.float64)) for k in (data.kx, data.ky)], axis=1)


def inverse_information(information) -> np.ndarray:
    """(2, n, n) inverses of Fisher matrices of shifts with the common shift, which nothing determines, pinned.

    Raises DataQualityError E-TS-06 where no view shows anything that another one does.
    """
    n = information.shape[1]
    if not (np.trace(information, axis1=1, axis2=2) > 0).all():
        raise DataQualityError(
            "E-TS-06", "the views show nothing in common, so nothing says how to align them", field="detail shared by neighbouring views",
            found="none above the noise", expected="a specimen in every view",
            fix="look at the views in the report: leave out empty ones (exclude_views), or leave this series out (data.tilt_series)",
        )  # fmt: skip
    inverses = []
    for matrix in information:
        pinned = matrix + np.trace(matrix) / n**2 * np.ones((n, n))
        inverses.append(np.linalg.inv(pinned + 1e-9 * np.trace(matrix) / n * np.eye(n)))
    return np.array(inverses)


def shift_step(data: PlaneSpectra, model: Precision):
    """One Fisher-scoring step of all in-plane shifts at once.

    Returns
    -------
    delta_angst (n, 2), standard_error_angst (n, 2), badness before the step. The common shift, which nothing determines, is zero.
    """
    product, _ = weighted(data, model)
    gradient = shift_gradient(data, product)
    inverse = inverse_information(fisher_information(data, model))
    delta = -np.einsum("aij,ja->ia", inverse, gradient)
    error = np.sqrt(np.maximum(2 * np.einsum("aii->ia", inverse), 0))
    return delta - delta.mean(axis=0), error, badness(data, model, product)


def fisher_information(data: PlaneSpectra, model: Precision) -> np.ndarray:
    """(2, n, n): expected second derivatives of Q for x and y shifts, 8 pi^2 k^2 (A o C - 1)."""
    kx, ky = asnumpy(data.kx)[0].astype(np.float64), asnumpy(data.ky)[:, 0].astype(np.float64)
    n, weight = data.spectra.shape[0], asnumpy(column_weight(data))
    information = np.zeros((2, n, n))
    for rows, a, c in zip(model.rows, model.matrices, model.covariances, strict=True):
        coupling = weight[:, None, None] * (asnumpy(a) * c - np.eye(n))
        members = asnumpy(rows)
        information[0] += members.size * np.einsum("c,cij->ij", kx**2, coupling)
        information[1] += np.sum(ky[members] ** 2) * coupling.sum(axis=0)
    return 8 * np.pi**2 * information


def estimate_signal_fraction(data: PlaneSpectra, thickness_angst, low, high, n_rings: int = 24, max_step: int = 2):
    """rho over image frequency from the coherence of neighbouring views: sum K Re(F_i* F_j) / sum K^2 per ring.

    Rings whose coherence is not significant get none, so that noise is never aligned to noise. Returns a :class:`SlabPrior` whose table is zero outside [low, high] (1/A).
    """
    xp = array_namespace(data.spectra)
    edges = np.linspace(low, high, n_rings + 1)
    top, bottom = np.zeros(n_rings + 2), np.full(n_rings + 2, 1e-12)
    kx, width = asnumpy(data.kx)[0].astype(np.float64), field_width(data)
    order = np.argsort(data.parallax)
    for step in range(1, max_step + 1):
        for i, j in zip(order[:-step], order[step:], strict=True):
            coupling = view_covariance(data.parallax[[i, j]], kx, thickness_angst, width)[:, 0, 1][None, :]
            product = asnumpy((data.spectra[i].conj() * data.spectra[j]).real)
            frequency = asnumpy(xp.maximum(data.image_frequency[i], data.image_frequency[j]))
            ring = np.searchsorted(edges, frequency.ravel(), side="right")
            top += np.bincount(ring, weights=(product * coupling).ravel(), minlength=n_rings + 2)
            bottom += np.bincount(ring, weights=np.broadcast_to(coupling**2, product.shape).ravel(), minlength=n_rings + 2)
    smooth = _significant(top[1:-1], bottom[1:-1])
    centres = np.concatenate([[low], 0.5 * (edges[1:] + edges[:-1]), [high]])
    return SlabPrior(thickness_angst, centres, np.concatenate([[0.0], smooth, [0.0]]))


def _significant(top, bottom, n_sigma: float = 4.0):
    """Smoothed ratio, shrunk to zero where it is below ``n_sigma`` standard errors (Re F_i* F_j has variance 1/2)."""

    def smooth(x):
        return np.convolve(np.pad(x, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")

    rho = smooth(top) / smooth(bottom)
    error = np.sqrt(0.5 * smooth(smooth(bottom))) / smooth(bottom)
    shrink = np.clip(1 - (n_sigma * error / np.maximum(rho, 1e-9)) ** 2, 0, 1)
    return np.clip(rho, 0.0, 0.95) * shrink
