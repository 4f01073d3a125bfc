"""One search of a tomogram: score map, its peaks refined. The controls are searches of the same kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.parallel import each
from cryoet_core.picking.eigen import FIRST_RANK, coefficients, eigen_templates
from cryoet_core.picking.local_search import REACH, Pick, Search, best_starts, mirrored_search, refine_peak
from cryoet_core.picking.peaks import local_maxima, robust_statistics
from cryoet_core.picking.scores import NO_SCORE, score_map
from cryoet_core.picking.template import make_template

FINE_STARTS = 3  # poses of the whole grid that a peak of a binned search is refined from, besides its own: that is often another, at a place some voxels away
FAR_AHEAD = 3.0  # sigma of the score map: refinement does not turn that round


@dataclass(frozen=True)
class FineScale:
    """The tomogram itself, where the search ran in a binned one: what scores and poses are taken from in the end.

    search : of the pass's own frame (x reversed for the mirror image), its step_deg that of the refinement. binning : of the search. shape (z, y, x),
    level as of Pass, both of the unbinned tomogram.
    """

    search: Search
    binning: float
    shape: tuple[int, int, int]
    level: tuple[float, float]


@dataclass(frozen=True)
class Pass:
    """search and its result in its own frame: score, orientation (z, y, x), NO_SCORE where nothing was searched.

    level : median and robust sigma of the score over all orientations. mirrored : the frame is the tomogram with x reversed, where the template is its own mirror image.
    fine : where the search ran in the binned tomogram; else the frame is the tomogram's but for ``mirrored``.
    """

    search: Search
    score: np.ndarray
    orientation: np.ndarray
    level: tuple[float, float]
    mirrored: bool = False
    fine: FineScale | None = None

    @property
    def binning(self) -> float:
        return 1 if self.fine is None else self.fine.binning

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the tomogram."""
        return self.score.shape if self.fine is None else self.fine.shape

    @property
    def refined_level(self) -> tuple[float, float]:
        """Median and robust sigma of the score on the scale that picks are scored on."""
        return self.level if self.fine is None else self.fine.level

    def own(self, position):
        """Positions (..., 3) z, y, x of the tomogram's frame in the pass's own."""
        return x_reversed(rescaled(position, self.shape, self.score.shape, 1 / self.binning), self.score.shape, self.mirrored)

    def in_tomogram(self, position):
        """Positions (..., 3) z, y, x of the pass's own frame in the tomogram's."""
        return rescaled(x_reversed(position, self.score.shape, self.mirrored), self.score.shape, self.shape, self.binning)

    def in_fine(self, position):
        """Positions (..., 3) z, y, x of the pass's own frame in that of its fine search."""
        return x_reversed(self.in_tomogram(position), self.shape, self.mirrored)

    def best_near(self, position, reach: int):
        """(score, own voxel (z, y, x)) of the best voxel within ``reach`` own voxels along the axes of a position of the tomogram's frame."""
        centre = np.rint(self.own(position)).astype(int)
        start = np.maximum(centre - reach, 0)
        block = self.score[tuple(slice(a, c + reach + 1) for a, c in zip(start, centre, strict=True))]
        if block.size == 0:
            return NO_SCORE, centre
        place = np.unravel_index(int(np.argmax(block)), block.shape)
        return float(block[place]), start + np.array(place)

    def refined(self, peak, rotation) -> Pick:
        """Pick in the tomogram's frame from an own voxel (z, y, x) and an orientation of the grid."""
        pick = refine_peak(self.search, [(peak, rotation)])
        if self.fine is None:
            return replace(pick, position_px=self.in_tomogram(pick.position_px))
        fine = self.fine.search
        place, peak = (np.rint(self.in_fine(own)).astype(int) for own in (pick.position_px, peak))
        pick = refine_peak(fine, [(place, pick.rotation), *best_starts(fine, peak, REACH, max(1, round(self.binning)), FINE_STARTS)])
        return replace(pick, position_px=x_reversed(pick.position_px, self.shape, self.mirrored))


def rescaled(position, shape, new_shape, factor: float):
    """Positions (..., 3) z, y, x of a volume in one whose voxels are 1 / ``factor`` times as large, the centres (n//2) at the same point."""
    return (np.asarray(position, dtype=np.float64) - np.array(shape) // 2) * factor + np.array(new_shape) // 2


def x_reversed(position, shape, reverse: bool):
    """Positions (..., 3) z, y, x of a volume with x reversed, if ``reverse``; float64."""
    position = np.array(position, dtype=np.float64)
    if reverse:
        position[..., 2] = shape[2] - 1 - position[..., 2]
    return position


def run_pass(search: Search, region, allowed, use_eigen: bool, *, mirrored: bool = False, threads: int = 1, report=None) -> Pass:
    """Search ``region`` (three slices) and forget what is not ``allowed`` (bool (z, y, x) or None), both in the tomogram's frame."""
    if mirrored:
        nx = search.filtered.matched.shape[2]
        region = (*region[:2], slice(nx - region[2].stop, nx - region[2].start))
        allowed = None if allowed is None else allowed[:, :, ::-1]
    found = score_map(
        search.filtered, search.template, search.rotations, search.filters, region,
        eigen=search.eigen if use_eigen else None, coarse=search.coarse, threads=threads, report=report,
    )
    score = asnumpy(found.score)
    if allowed is not None:
        score[~allowed] = NO_SCORE
    level = robust_statistics(score[score > NO_SCORE] if found.sample is None else asnumpy(found.sample))
    return Pass(search, score, asnumpy(found.orientation), level, mirrored)


def mirror_pass(search: Search, region, allowed, use_eigen: bool, threads: int = 1, report=None) -> Pass:
    """The same search with the mirror image of the template."""
    return run_pass(mirrored_search(search), region, allowed, use_eigen, mirrored=True, threads=threads, report=report)


def with_template(search: Search, volume, radius_px: float, edge_px: float, energy: float, rng) -> Search:
    """The same search for another bright map ``volume`` (n, n, n) of its voxel size."""
    template = make_template(volume, radius_px, edge_px)
    eigen = eigen_templates(template, search.rotations, search.filters, rng, energy, max(search.eigen.rank, FIRST_RANK))
    coarse = search.coarse and replace(
        search.coarse, coefficients=coefficients(eigen.basis, eigen.norm_matrix, template, search.coarse.rotations)
    )
    return replace(search, template=template, eigen=eigen, coarse=coarse)


def random_phase_pass(search: Search, noise, radius_px: float, edge_px: float, energy: float, rng, **options) -> Pass:
    """The same search with ``noise``, a map as from background.phase_randomised; options as of run_pass."""
    return run_pass(with_template(search, noise, radius_px, edge_px, energy, rng), **options)


def mirrored_scores(real: Pass, positions, reach: int, threads: int = 1, report=None) -> np.ndarray:
    """Refined scores (n,) of the mirrored template at its best places within ``reach`` voxels of the search of positions (n, 3; z, y, x) of the tomogram, where it was not searched."""
    fine = real.fine and replace(real.fine, search=mirrored_search(real.fine.search))
    turned = replace(real, search=mirrored_search(real.search), mirrored=not real.mirrored, fine=fine)

    def score(position):
        return turned.refined(*best_starts(turned.search, np.rint(turned.own(position)).astype(int), reach)[0]).score

    return np.array(each(score, positions, _cpu_threads(real, threads), report))


def contested_peaks(control: Pass, real: Pass, radius_px: int, most: int):
    """The best peaks of a control that the template does not beat by far within ``radius_px``: (voxels (k, 3) of the control's frame, scores (k,)).

    A particle is also a peak of its mirror image. Left in, such peaks would be all that are refined where particles are many, and
    nothing would be known of the false picks.
    """
    peaks = local_maxima(control.score, radius_px, NO_SCORE)
    kept = []
    for peak in peaks:
        place = control.in_tomogram(peak)
        if real.best_near(place, radius_px)[0] < control.score[tuple(peak)] + FAR_AHEAD * real.level[1]:
            kept.append(peak)
        if len(kept) == most:
            break
    kept = np.array(kept, dtype=np.int64).reshape(-1, 3)
    return kept, control.score[tuple(kept.T)]


def found_peaks(found: Pass, radius_px: int, lowest: float, most: int) -> np.ndarray:
    """Voxels (k, 3) of the pass's own frame that are its best peaks at or above ``lowest``, at most ``most``, best first."""
    return local_maxima(found.score, radius_px, np.nextafter(np.float32(lowest), np.float32(-2)))[:most]


def refine_at(found: Pass, peaks, threads: int = 1, report=None) -> list[Pick]:
    """Refined picks at voxels ``peaks`` (k, 3) of the pass's own frame; positions in the tomogram's frame, in the same order. report(done, total): progress."""
    return each(lambda peak: found.refined(peak, found.search.rotations[found.orientation[tuple(peak)]]), peaks, _cpu_threads(found, threads), report)


def _cpu_threads(found: Pass, threads: int) -> int:
    """``threads`` where the pass is on a CPU, else one."""
    return threads if array_namespace(found.search.filtered.matched) is np else 1
