"""Eigen-templates: the few shapes whose sums give the template in every orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import half_complex_multiplicity
from cryoet_core.geometry import random_rotations
from cryoet_core.picking.template import Template, embed, rotated_rows

MAX_RANK = 1600
HELD_OUT = 200
FIRST_RANK = 400  # that is tried; then twice as many, until the energy is reached
TRAINING = 3.75  # rotations per eigen-template, that it is made from


@dataclass(frozen=True)
class EigenTemplates:
    """basis (rank, n_voxels) orthonormal; coefficients (m, rank) of templates divided by their norm |G T|.

    norm_matrix (rank, rank): |G sum c_k b_k|^2 = c N c. captured: fraction of the energy of held-out templates.
    """

    basis: object
    coefficients: object
    norm_matrix: object
    captured: float

    @property
    def rank(self) -> int:
        return int(self.basis.shape[0])


def eigen_basis(template: Template, rng, energy: float = 0.98, max_rank: int = MAX_RANK):
    """Orthonormal basis (rank, n_voxels) that holds ``energy`` of random rotations, and the energy of held-out ones.

    The rank is chosen on rotations that did not take part in making the basis; at most ``max_rank``.
    """
    rank = min(FIRST_RANK, max_rank)
    while True:
        basis, cumulative = _range_of_rotations(template, rng, rank)
        if cumulative[-1] >= energy or rank == max_rank:
            break
        rank = min(2 * rank, max_rank)
    rank = min(int(np.searchsorted(cumulative, energy)) + 1, len(basis))
    xp = array_namespace(basis)
    return xp.ascontiguousarray(basis[:rank]), float(cumulative[rank - 1])


def _range_of_rotations(template: Template, rng, rank: int):
    """(basis (rank, n_voxels), share of the energy of held-out rotations in its first 1, 2, ... rows).

    Randomised range finder with two power iterations (Halko, Martinsson & Tropp 2011).
    """
    n_training = int(TRAINING * rank)
    training = rotated_rows(template, random_rotations(n_training, rng))
    held_out = rotated_rows(template, random_rotations(HELD_OUT, rng))
    xp = array_namespace(training)
    start = xp.asarray(rng.standard_normal((n_training, min(rank + 20, n_training))), dtype=xp.float32)
    basis = training.T @ start
    for _ in range(2):
        basis = training.T @ (training @ xp.linalg.qr(basis)[0])
    basis = xp.linalg.qr(basis)[0]
    _, vectors = xp.linalg.eigh(((training @ basis).T @ (training @ basis)).astype(xp.float64))
    basis = (basis @ vectors[:, ::-1].astype(xp.float32)).T[:rank]
    held = (held_out @ basis.T) ** 2
    return basis, asnumpy(held.sum(axis=0, dtype=xp.float64).cumsum() / (held_out**2).sum(dtype=xp.float64))


def norm_matrix(basis, template: Template, filters):
    """Inner products of the filtered basis: N_kl = <G b_k, G b_l>, (rank, rank) float64."""
    xp = array_namespace(basis)
    fft, box = fft_module(xp), filters.box
    weight = filters.expect * xp.sqrt(half_complex_multiplicity((box,) * 3, xp) / box**3)
    used = xp.flatnonzero(weight.ravel() != 0)
    spectra = xp.empty((len(basis), 2 * used.size), dtype=xp.float32)
    for first in range(0, len(basis), 32):
        part = fft.rfftn(embed(basis[first : first + 32], template, box), axes=(1, 2, 3)) * weight
        part = part.reshape(len(part), -1)[:, used]
        spectra[first : first + 32, : used.size] = part.real
        spectra[first : first + 32, used.size :] = part.imag
    return (spectra @ spectra.T).astype(xp.float64)


def eigen_templates(
    template: Template, rotations, filters, rng, energy: float = 0.98, max_rank: int = MAX_RANK
) -> EigenTemplates:
    """Eigen-templates of ``template`` and the coefficients of all ``rotations`` (m, 3, 3)."""
    basis, captured = eigen_basis(template, rng, energy, max_rank)
    inner = norm_matrix(basis, template, filters)
    return EigenTemplates(basis, coefficients(basis, inner, template, rotations), inner, captured)


def coefficients(basis, inner, template: Template, rotations):
    """Coefficients (m, rank) float32 of rotated templates, divided by their norm |G T|."""
    xp = array_namespace(basis)
    result = xp.empty((len(rotations), len(basis)), dtype=xp.float32)
    for first in range(0, len(rotations), 1024):
        result[first : first + 1024] = rotated_rows(template, rotations[first : first + 1024]) @ basis.T
    return normalised(result, inner)


def normalised(coefficients, inner):
    """Coefficients (m, rank) divided by the norm |G T| that ``inner`` (the norm matrix) gives each row."""
    xp = array_namespace(coefficients)
    norms = xp.sqrt(((coefficients @ inner.astype(coefficients.dtype)) * coefficients).sum(axis=1, keepdims=True))
    return coefficients / norms
