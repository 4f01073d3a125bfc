"""Around a peak: finer orientations, sub-voxel positions, and the same for the mirrored template."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.geometry import angular_distance_deg, local_rotations, random_rotations
from cryoet_core.picking.eigen import EigenTemplates, norm_matrix, normalised
from cryoet_core.picking.peaks import parabola_offset
from cryoet_core.picking.scores import CoarseGrid, FilteredTomogram, template_norms
from cryoet_core.picking.template import Template, rotated_rows
from cryoet_core.picking.transfer import MatchFilters

REACH = 2  # voxels that a peak may move
NORM_RANK = 96  # eigen-templates that tell how strongly a template is seen in an orientation; more cost time and change nothing
APART = 3.0  # steps of the refinement between two orientations that it starts from


@dataclass(frozen=True)
class Search:
    """What a search looks with and in; ``eigen`` holds the coefficients of ``rotations`` (m, 3, 3), ``step_deg`` apart.

    coarse : a grid twice as coarse for a hierarchical search, or None.
    """

    filtered: FilteredTomogram
    template: Template
    filters: MatchFilters
    eigen: EigenTemplates
    rotations: np.ndarray
    step_deg: float
    coarse: CoarseGrid | None = None


@dataclass(frozen=True)
class Pick:
    """position_px (z, y, x) float64 index; rotation (3, 3) reference -> tomogram; exact score."""

    position_px: np.ndarray
    rotation: np.ndarray
    score: float


class Neighbourhoods:
    """Views into a filtered tomogram: what the template's mask sees around a peak, at all ``spacing``-th positions within ``reach`` of them along each axis."""

    def __init__(self, filtered: FilteredTomogram, template: Template, reach: int = REACH, spacing: int = 1):
        self.xp = array_namespace(filtered.matched)
        self.matched, self.norm, self.half, self.reach, self.spacing = filtered.matched, filtered.norm, template.half, reach * spacing, spacing
        self.offsets = spacing * np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
        self.index = _gather_index(template, reach, spacing)

    def patches(self, peak):
        """(n_offsets, n_voxels) of the matched tomogram and (n_offsets,) norms around voxel ``peak`` (z, y, x).

        Outside the tomogram the values are 0 and the norm is infinite.
        """
        block = _block(self.matched, peak, self.half + self.reach, 0.0)
        norms = _block(self.norm, peak, self.reach, np.inf)[:: self.spacing, :: self.spacing, :: self.spacing]
        return block.ravel()[self.index], norms.reshape(-1)


@lru_cache(maxsize=16)
def _gather_index(template: Template, reach: int, spacing: int):
    """(n_offsets, n_voxels) linear indices into the block about a peak: one gather for all positions."""
    side = 2 * (template.half + reach * spacing) + 1
    strides = np.array([side * side, side, 1])
    inside = np.argwhere(asnumpy(template.inside)) @ strides
    offsets = spacing * np.stack(np.meshgrid(*[np.arange(2 * reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return array_namespace(template.mask).asarray((offsets @ strides)[:, None] + inside[None])


def _block(volume, centre, reach, fill):
    xp = array_namespace(volume)
    window, padding = [], []
    for c, n in zip(centre, volume.shape, strict=True):
        a, b = int(c) - reach, int(c) + reach + 1
        start = min(max(a, 0), n)
        stop = max(min(b, n), start)
        before = min(start - a, b - a) if a < 0 else 0
        window.append(slice(start, stop))
        padding.append((before, b - a - before - (stop - start)))
    return xp.pad(volume[tuple(window)].astype(xp.float32), padding, constant_values=fill)


def _approximate_norms(rows, eigen: EigenTemplates):
    """|G T| of rows (m, n_voxels) from the first NORM_RANK eigen-templates, scaled up by the energy these leave out."""
    c = rows @ eigen.basis[:NORM_RANK].T
    inner = ((c @ eigen.norm_matrix[:NORM_RANK, :NORM_RANK].astype(c.dtype)) * c).sum(axis=1)
    energy = (rows * rows).sum(axis=1) / (c * c).sum(axis=1)
    return (inner * energy) ** 0.5


def refine_peak(search: Search, starts, reach: int = REACH) -> Pick:
    """Best orientation on three ever finer local grids (down to step/8) and position within ``reach`` voxels.

    starts : of pairs (voxel (z, y, x), rotation (3, 3)); the one whose first grid fits best is followed.
    """
    template = search.template
    near = Neighbourhoods(search.filtered, template, reach)
    fits = []
    for peak, rotation in starts:
        seen = near.patches(peak)
        score, best = _best_rotation(search, seen, rotation, search.step_deg)
        fits.append((score, best, seen, peak))
    _, best, seen, peak = max(fits, key=lambda fit: fit[0])
    for size in (search.step_deg / 2, search.step_deg / 4):
        best = _best_rotation(search, seen, best, size)[1]
    row, (patches, norms) = rotated_rows(template, best[None]), seen
    line = asnumpy(row @ patches.T / (template_norms(row, template, search.filters)[:, None] * norms))[0]
    offset, score = _sub_voxel(line.reshape((2 * reach + 1,) * 3))
    return Pick(np.asarray(peak, dtype=np.float64) + offset - reach, best, score)


def _best_rotation(search: Search, seen, rotation, size_deg: float):
    """(score, rotation) of the best of the orientations within ``size_deg`` of ``rotation``, half of it apart, at any of the places ``seen`` (patches, norms)."""
    patches, norms = seen
    candidates = local_rotations(size_deg, size_deg / 2) @ rotation
    rows = rotated_rows(search.template, candidates)
    table = (rows / _approximate_norms(rows, search.eigen)[:, None]) @ patches.T / norms
    place = int(table.argmax())
    return float(table.reshape(-1)[place]), candidates[place // table.shape[1]]


def _sub_voxel(cube):
    """Position (z, y, x) of the maximum of a small cube, parabola per axis, and its value at the voxel."""
    top = np.array(np.unravel_index(int(np.argmax(cube)), cube.shape))
    offset = top.astype(np.float64)
    for axis in range(3):
        if 0 < top[axis] < cube.shape[axis] - 1:
            unit = np.eye(3, dtype=int)[axis]
            offset[axis] += parabola_offset(cube[tuple(top - unit)], cube[tuple(top)], cube[tuple(top + unit)])
    return offset, float(cube[tuple(top)])


def best_starts(search: Search, peak, reach: int, spacing: int = 1, most: int = 1) -> list:
    """Pairs (voxel (z, y, x), orientation of the grid) that fit best, within ``reach`` times ``spacing`` voxels of ``peak`` along each axis; best first, orientations apart."""
    eigen, near = search.eigen, Neighbourhoods(search.filtered, search.template, reach, spacing)
    patches, norms = near.patches(peak)
    scores = (eigen.coefficients @ (eigen.basis @ patches.T)) / norms
    places, highest = asnumpy(scores.argmax(axis=1)), asnumpy(scores.max(axis=1))
    chosen = []
    for i in np.argsort(-highest, kind="stable"):
        if (angular_distance_deg(search.rotations[chosen], search.rotations[i]) > APART * search.step_deg).all():
            chosen.append(int(i))
        if len(chosen) == most:
            break
    return [(np.asarray(peak) + near.offsets[places[i]], search.rotations[i]) for i in chosen]


def mirrored_search(search: Search) -> Search:
    """The search with the mirror image of the template.

    A mirrored template in the tomogram scores as the template does in the mirrored tomogram (x reversed, with the filters
    mirrored too), so nothing but views of the same arrays is needed.
    """
    filters = MatchFilters(_mirror_x(search.filters.whiten), _mirror_x(search.filters.expect), search.filters.box)
    inner = norm_matrix(search.eigen.basis, search.template, filters)
    c = normalised(search.eigen.coefficients, inner)
    coarse = search.coarse and replace(search.coarse, coefficients=normalised(search.coarse.coefficients, inner))
    field = FilteredTomogram(search.filtered.matched[:, :, ::-1], search.filtered.norm[:, :, ::-1])
    return replace(
        search, filtered=field, filters=filters, eigen=replace(search.eigen, coefficients=c, norm_matrix=inner),
        coarse=coarse,
    )


def mirror_similarity(search: Search, rng, n: int = 24) -> float:
    """How well the template fits its own mirror image, relative to itself: 1 = achiral at this resolution and sampling.

    Mean over ``n`` random orientations of best fits within the search's grid, filters included.
    """
    eigen = search.eigen
    xp = array_namespace(eigen.basis)
    rows = rotated_rows(search.template, random_rotations(n, rng))
    weighted = eigen.coefficients @ eigen.norm_matrix.astype(xp.float32)  # (m, rank)
    best = []
    for case in (rows, rows[:, _x_reversed(search.template)]):
        c = case @ eigen.basis.T
        c = c / xp.sqrt(((c @ eigen.norm_matrix.astype(xp.float32)) * c).sum(axis=1, keepdims=True))
        best.append(float((weighted @ c.T).max(axis=0).mean()))
    return best[1] / best[0]


def _x_reversed(template: Template):
    """Index of every voxel's mirror partner, x reversed: (n_voxels,)."""
    xp = array_namespace(template.mask)
    order = xp.zeros(template.inside.shape, dtype=xp.int64)
    order[template.inside] = xp.arange(template.n_voxels)
    return order[:, :, ::-1][template.inside]


def _mirror_x(filter_box):
    """G(-kx, ky, kz) of a real symmetric filter on the half-complex grid: G(kx, -ky, -kz)."""
    xp = array_namespace(filter_box)
    return xp.roll(filter_box[::-1, ::-1], (1, 1), axis=(0, 1))
