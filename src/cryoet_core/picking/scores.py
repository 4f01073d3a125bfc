"""Score map of template matching: the best local correlation over all orientations, by FFT or by eigen-templates.

For the whitened tomogram W, the filter G (what the tomogram keeps of a particle) and the rotated template T_r::

    score_r(x) = <T_r, G W>(x) / (|G T_r| |W|(x))        |W|(x): norm of W - mean under the mask about x

a correlation coefficient between -1 and 1 of the expected and the seen particle. The filter stays on the tomogram's side, so
templates of one orientation are the same for all tomograms and only the norm |G T_r| depends on the tilts.

Route "fft": one product and one inverse FFT per orientation (exact). Route "low_rank": templates are written as sums of K
eigen-templates; K correlations by FFT, then matrix products over voxels, so the number of FFTs does not grow with the
angular sampling. Sources: Roseman 2003 (local correlation); Uenohara & Kanade 1997 (eigen-templates).

A hierarchical search (low_rank only) scores a grid of orientations twice as coarse everywhere, and the fine one where a tile's best
FINE_SHARE of voxels are: a true peak is among them long before it is a pick. It is done tile by tile, with the same eigen-templates.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import half_complex_multiplicity
from cryoet_core.kernels.max_update import max_update
from cryoet_core.kernels.threads import spans
from cryoet_core.masks import soft_sphere
from cryoet_core.parallel import each
from cryoet_core.picking.eigen import EigenTemplates
from cryoet_core.picking.prepare import smooth_part
from cryoet_core.picking.template import Template, embed, rotated_rows
from cryoet_core.picking.transfer import MatchFilters, on_grid

COARSE_SHARE = 0.125  # of the orientations: a grid twice as coarse
FINE_SHARE = 0.04
SAMPLE_EVERY = 101  # voxels: where a hierarchical search measures what all orientations would have given
FEATURE_MB = 1536  # of eigen-template scores held at once, by all threads together
FILTER_TILE_PX = 256
FFT_TILE_PX = 288  # with its halo about 0.5 GB of transforms
FFT_TILES_AT_ONCE = 3
CPU_PRODUCT = (256, 2048)  # rotations x voxels whose scores stay in the cache
GPU_PRODUCT = (512, 1 << 20)
NO_SCORE = -1.0
HALF_PRECISION_FROM = 1 << 26  # voxels: rounding by 2e-4 is nothing beside the noise, and a large tomogram takes half the memory
LOWEST_VARIANCE = 0.25  # of the median local variance


@dataclass(frozen=True)
class FilteredTomogram:
    """``matched`` G W and ``norm`` |W|(x) under the mask, both (z, y, x) float32, or float16 where they are large; bright particles."""

    matched: object
    norm: object


@dataclass(frozen=True)
class ScoreMap:
    """Best score over orientations and its index, (z, y, x) float32 and integer; NO_SCORE where nothing was searched.

    sample : (k,) scores over all orientations at voxels taken without regard to their score, after a hierarchical search; else None.
    """

    score: object
    orientation: object
    sample: object = None


def _sphere_transform(shape, radius_px: float, edge_px: float, xp):
    """(conjugate transform of a soft sphere about voxel 0 of a periodic grid, its sum)."""
    half = int(np.ceil(radius_px + edge_px))
    sphere = soft_sphere((2 * half + 1,) * 3, radius_px, edge_px, xp)
    padded = xp.zeros(shape, dtype=xp.float32)
    padded[: 2 * half + 1, : 2 * half + 1, : 2 * half + 1] = sphere
    return fft_module(xp).rfftn(xp.roll(padded, (-half,) * 3, axis=(0, 1, 2))).conj(), float(sphere.sum())


def filter_tomogram(
    bright, filters: MatchFilters, radius_px: float, edge_px: float = 2.0, tile_px: int = FILTER_TILE_PX, threads: int = 1, report=None
) -> FilteredTomogram:
    """Whiten and match-filter a searchable tomogram (z, y, x; bright), and measure the local norm under a soft sphere.

    bright : array, or anything with ``shape`` that gives blocks by slices. Tiles of ``tile_px`` are filtered with a halo as wide as the
    filters reach, so the transforms never take the memory of a whole tomogram. report(done, total) counts tiles.
    """
    tiles = _tiles(tuple(slice(0, n) for n in bright.shape), tile_px)
    kept = np.float16 if np.prod(bright.shape) > HALF_PRECISION_FROM else np.float32
    matched = variance = None
    for number, (tile, part) in enumerate(_filtered_tiles(bright, tiles, filters, radius_px, edge_px, threads), 1):
        if matched is None:
            xp = array_namespace(part[0])
            matched, variance = xp.empty(bright.shape, dtype=kept), xp.empty(bright.shape, dtype=kept)
        window = tuple(slice(a, b) for a, b in tile)
        matched[window], variance[window] = part
        if report is not None:
            report(number, len(tiles))
    # ice without anything in it must not win by having no variance
    lowest = LOWEST_VARIANCE * float(np.median(asnumpy(variance[::2, ::2, ::2])))
    total = np.float32(soft_sphere(_sphere_box(radius_px, edge_px), radius_px, edge_px).sum())
    for plane in variance:
        plane[:] = xp.sqrt(total * xp.maximum(plane.astype(xp.float32), xp.float32(lowest)))
    return FilteredTomogram(matched, variance)


def _sphere_box(radius_px: float, edge_px: float):
    return (2 * int(np.ceil(radius_px + edge_px)) + 1,) * 3


def _filtered_tiles(bright, tiles, filters: MatchFilters, radius_px: float, edge_px: float, threads: int):
    """Yield (tile, (matched, local variance)) of every tile."""
    alone = len(tiles) == 1 and all(stop - start == n for (start, stop), n in zip(tiles[0], bright.shape, strict=True))
    halo = filters.box // 2 if alone else filters.box // 2 + _sphere_box(radius_px, edge_px)[0] // 2
    grid = None
    for tile in tiles:
        part = smooth_part(bright, tile, halo, filters.box // 2)
        shape = tuple(next_fast_len(n, real=axis == 2) for axis, n in enumerate(part.shape))
        if grid is None or grid.shape != shape:  # most tiles share it
            grid = _FilterGrid.of(filters, shape, radius_px, edge_px, array_namespace(part))
        yield tile, _filter_part(part, grid, halo, threads)


@dataclass(frozen=True)
class _FilterGrid:
    """Filters on the half-complex grid of ``shape``; sphere: the conjugate transform of the mask, total: its sum."""

    shape: tuple[int, int, int]
    whiten: object
    expect: object
    sphere: object
    total: float

    @classmethod
    def of(cls, filters: MatchFilters, shape, radius_px: float, edge_px: float, xp) -> _FilterGrid:
        return cls(shape, on_grid(filters.whiten, shape), on_grid(filters.expect, shape), *_sphere_transform(shape, radius_px, edge_px, xp))


def _filter_part(part, grid: _FilterGrid, halo: int, threads: int):
    """(matched filter's result, local variance of the whitened part) without the halo."""
    xp = array_namespace(part)
    fft, options = fft_module(xp), {"workers": threads} if xp is np else {}
    inner = tuple(slice(halo, n - halo) for n in part.shape)

    def under_sphere(values):
        spectrum = fft.rfftn(values, **options)
        spectrum *= grid.sphere
        return fft.irfftn(spectrum, s=grid.shape, overwrite_x=True, **options)[inner] / xp.float32(grid.total)

    spectrum = fft.rfftn(part, s=grid.shape, **options)
    spectrum *= grid.whiten
    white = fft.irfftn(spectrum, s=grid.shape, **options)
    spectrum *= grid.expect
    matched = fft.irfftn(spectrum, s=grid.shape, overwrite_x=True, **options)[inner].copy()
    del spectrum
    mean = under_sphere(white)
    white *= white
    return matched, xp.maximum(under_sphere(white) - mean * mean, 0)


def template_norms(rows, template: Template, filters: MatchFilters):
    """|G T| of every row (m, n_voxels) -> (m,) float32, by FFT of the filter's box."""
    xp = array_namespace(rows)
    norms = xp.empty(len(rows), dtype=xp.float32)
    box = filters.box
    power = filters.expect**2 * half_complex_multiplicity((box,) * 3, xp) / box**3
    fft = fft_module(xp)
    for first in range(0, len(rows), 64):
        spectrum = fft.rfftn(embed(rows[first : first + 64], template, box), axes=(1, 2, 3))
        norms[first : first + 64] = xp.sqrt(((spectrum.real**2 + spectrum.imag**2) * power).sum(axis=(1, 2, 3)))
    return norms


def _tiles(region, tile_px: int):
    """The searched ``region`` (three slices) cut into tiles: ((start, stop) along z, y, x) each."""
    spans = []
    for axis in range(3):
        start, stop = region[axis].start, region[axis].stop
        count = max(1, -(-(stop - start) // tile_px))
        edges = np.linspace(start, stop, count + 1).round().astype(int)
        spans.append([(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    return [(z, y, x) for z in spans[0] for y in spans[1] for x in spans[2]]


def _halo_spans(tile, shape, halo: int):
    """Per axis: (start, stop) of the data about a tile within the volume, and how many zeros must follow them.

    Where the halo leaves the volume on both sides, the zeros behind the end serve both, as the transform is periodic.
    """
    spans = []
    for (start, stop), n in zip(tile, shape, strict=True):
        below, above = max(halo - start, 0), max(stop + halo - n, 0)
        spans.append((start - halo + below, stop + halo - above, max(below, above)))
    return spans


class TileCorrelator:
    """Correlations of small boxes with one tile: ``correlate(small)`` gives <small, tile>(x) at the tile's voxels.

    A correlation is a convolution with the reversed box, so nothing is conjugated; what is not wanted of an axis is dropped as
    soon as it is transformed back.
    """

    def __init__(self, matched, tile, half: int):
        spans = _halo_spans(tile, matched.shape, half)
        part = matched[tuple(slice(a, b) for a, b, _ in spans)]
        self.xp = array_namespace(part)
        part = part.astype(self.xp.float32, copy=False)
        self.fft = fft_module(self.xp)
        self.size = tuple(stop - start for start, stop in tile)
        self.shape = tuple(next_fast_len(b - a + zeros, real=axis == 2) for axis, (a, b, zeros) in enumerate(spans))
        self.wanted = tuple(slice(t[0] - a + half, t[1] - a + half) for t, (a, _, _) in zip(tile, spans, strict=True))
        self.transform = self.fft.rfftn(part, s=self.shape)
        self.buffer = None

    def for_thread(self) -> TileCorrelator:
        """The same tile with a buffer of its own."""
        other = copy(self)
        other.buffer = None
        return other

    def _template_transform(self, small):
        """Half-complex transform of a small box at the corner of zeros, in the buffer: short transforms first."""
        if self.buffer is None:  # fresh memory for every orientation would cost as much as a transform
            self.buffer = self.xp.empty_like(self.transform)
        rows = self.fft.fft(self.fft.rfft(small, n=self.shape[2], axis=2), n=self.shape[1], axis=1)
        self.buffer[: len(rows)] = rows
        self.buffer[len(rows) :] = 0
        return self.fft.fft(self.buffer, axis=0, overwrite_x=True)

    def correlate(self, small):
        """``small`` (2*half+1,)*3 -> (z, y, x) of the tile."""
        z, y, x = self.wanted
        product = self._template_transform(small[::-1, ::-1, ::-1])
        product *= self.transform
        rows = self.fft.ifft(product, axis=0, overwrite_x=True)[z]
        rows = self.fft.ifft(rows, axis=1, overwrite_x=True)[:, y]
        return self.fft.irfft(rows, n=self.shape[2], axis=2)[:, :, x]


def _small_box(row, template: Template):
    xp = array_namespace(row)
    box = xp.zeros((2 * template.half + 1,) * 3, dtype=xp.float32)
    box[template.inside] = row
    return box


def _score_tile_fft(filtered, tile, template, rotations, filters, report):
    xp = array_namespace(filtered.matched)
    correlator = TileCorrelator(filtered.matched, tile, template.half)
    window = tuple(slice(a, b) for a, b in tile)
    inverse = xp.ascontiguousarray(1 / filtered.norm[window].astype(xp.float32))
    best = xp.full(correlator.size, NO_SCORE, dtype=xp.float32)
    index = xp.zeros(correlator.size, dtype=xp.int32)
    for first in range(0, len(rotations), 64):
        rows = rotated_rows(template, rotations[first : first + 64])
        rows /= template_norms(rows, template, filters)[:, None]
        for i, row in enumerate(rows):
            scores = xp.ascontiguousarray(correlator.correlate(_small_box(row, template)), dtype=xp.float32)
            max_update(scores, best, index, first + i, inverse)
        report(min(first + 64, len(rotations)) / len(rotations))
    return best, index


def _score_tile_low_rank(filtered, tile, template, eigen: EigenTemplates, coarse, report, threads: int = 1):
    xp = array_namespace(filtered.matched)
    correlator = TileCorrelator(filtered.matched, tile, template.half)
    window = tuple(slice(a, b) for a, b in tile)
    n_voxels = int(np.prod(correlator.size))
    features = xp.empty((eigen.rank, n_voxels), dtype=xp.float32)

    def correlate(part):
        own = correlator.for_thread()
        for i in range(*part):
            features[i] = own.correlate(_small_box(eigen.basis[i], template)).ravel()

    each(correlate, spans(0, eigen.rank, -(-eigen.rank // threads)), threads)
    norm = filtered.norm[window].astype(xp.float32).ravel()
    sample = None
    if coarse is None:
        best, index = _best_of(eigen.coefficients, features, report, threads)
    else:
        best, index = _best_of(coarse.coefficients, features, report, threads)
        index = xp.asarray(coarse.nearest, dtype=xp.int32)[index]
        n_fine = max(1, int(FINE_SHARE * n_voxels))
        fine = xp.sort(xp.argpartition(-(best / norm), n_fine - 1)[:n_fine])
        top, which = _best_of(eigen.coefficients, xp.ascontiguousarray(features[:, fine]), None, threads)
        # the coarse orientation is not on the fine grid: its score stays when it is the better one, with the nearest number
        better = top > best[fine]
        best[fine[better]], index[fine[better]] = top[better], which[better]
        sample = _best_of(eigen.coefficients, xp.ascontiguousarray(features[:, ::SAMPLE_EVERY]), None, threads)[0] / norm[::SAMPLE_EVERY]
    return (best / norm).reshape(correlator.size), index.reshape(correlator.size), sample


def _best_of(coefficients, features, report, threads: int = 1):
    """Largest product over the rows of ``coefficients`` (m, K) for every column of ``features`` (K, n), and its row."""
    xp = array_namespace(features)
    n_voxels = features.shape[1]
    best = xp.full(n_voxels, -np.inf, dtype=xp.float32)
    index = xp.zeros(n_voxels, dtype=xp.int32)
    n_rotations, chunk = CPU_PRODUCT if xp is np else GPU_PRODUCT

    def best_of_part(ends):
        part = slice(*ends)
        block = xp.ascontiguousarray(features[:, part])
        for first in range(0, len(coefficients), n_rotations):
            _keep_maximum(coefficients[first : first + n_rotations] @ block, first, best[part], index[part])

    each(best_of_part, spans(0, n_voxels, chunk), threads, report and (lambda done, total: report(0.9 * done / total)))
    return best, index


def _keep_maximum(scores, first, best, index):
    """Running maximum over the rows of ``scores``; the index is looked up only where the maximum rose."""
    xp = array_namespace(scores)
    highest = scores.max(axis=0)
    risen = xp.flatnonzero(highest > best)
    if risen.size:
        best[risen] = highest[risen]
        index[risen] = first + scores[:, risen].argmax(axis=0)


@dataclass(frozen=True)
class CoarseGrid:
    """A coarser grid of orientations: rotations (m, 3, 3), coefficients (m, rank) as in EigenTemplates, nearest (m,) number on the fine grid."""

    rotations: np.ndarray
    coefficients: object
    nearest: np.ndarray


def tile_side(rank: int | None) -> int:
    """Largest side of a tile (px): FFT_TILE_PX, or what keeps ``rank`` eigen-template scores within FEATURE_MB. Independent of the machine."""
    if rank is None:
        return FFT_TILE_PX
    return int(max(32, min(160, (FEATURE_MB * 2**20 / (4 * rank)) ** (1 / 3))))


def score_map(
    filtered: FilteredTomogram, template: Template, rotations, filters: MatchFilters, region, *,
    eigen: EigenTemplates | None = None, coarse: CoarseGrid | None = None, tile_px: int | None = None, threads: int = 1, report=None,
) -> ScoreMap:
    """Best score over ``rotations`` (m, 3, 3) at every voxel of ``region`` (three slices).

    eigen : eigen-templates with coefficients of the same rotations for the low-rank route, None for one FFT per rotation.
    coarse : with eigen, search hierarchically. tile_px : largest side of a tile; memory grows with its cube; None = :func:`tile_side`.
    threads : CPU threads, on tiles and, where no more tiles may be held at once, within them; the result does not depend on it.
    ``report(done, total)`` counts rotations times tiles.
    """
    xp = array_namespace(filtered.matched)
    score = xp.full(filtered.matched.shape, NO_SCORE, dtype=xp.float32)
    orientation = xp.zeros(filtered.matched.shape, dtype=xp.uint16 if len(rotations) < 1 << 16 else xp.int32)
    tiles = _tiles(region, tile_px or tile_side(None if eigen is None else eigen.rank))
    progress, samples = _TileProgress(report, len(tiles), len(rotations)), [None] * len(tiles)
    at_once = _tiles_at_once(tiles, None if eigen is None else eigen.rank, threads) if xp is np else 1

    def search(number):
        tile = tiles[number]
        if eigen is None:
            best, index = _score_tile_fft(filtered, tile, template, rotations, filters, progress.of(number))
        else:
            best, index, samples[number] = _score_tile_low_rank(filtered, tile, template, eigen, coarse, progress.of(number), max(1, threads // at_once) if xp is np else 1)
        window = tuple(slice(a, b) for a, b in tile)
        score[window], orientation[window] = best, index
        progress.of(number)(1)

    each(search, range(len(tiles)), at_once)
    return ScoreMap(score, orientation, None if samples[0] is None else xp.concatenate(samples))


def _tiles_at_once(tiles, rank: int | None, threads: int) -> int:
    """How many tiles may be searched at the same time."""
    if rank is None:
        return min(threads, FFT_TILES_AT_ONCE)
    tile_mb = 4 * rank * max(np.prod([stop - start for start, stop in tile]) for tile in tiles) / 2**20
    return max(1, min(threads, int(FEATURE_MB / tile_mb)))


class _TileProgress:
    """Adds up the shares done of all tiles, for report(done, total) in rotations."""

    def __init__(self, report, n_tiles: int, n_rotations: int):
        self.report, self.done, self.n_rotations = report, np.zeros(n_tiles), n_rotations

    def of(self, number: int):
        def progress(share):
            self.done[number] = share
            if self.report is not None:
                self.report(int(self.done.sum() * self.n_rotations), len(self.done) * self.n_rotations)

        return progress
