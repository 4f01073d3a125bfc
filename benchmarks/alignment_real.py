"""What an alignment of a real tilt series is worth where no truth is known: residuals, held-out views, agreement of half the tilts.

    python benchmarks/alignment_real.py RUN/results/erase_xrays/TS_01/TS_01.star --x-tilt --modes projection_matching patch_tracking

The table is that of erase_xrays; its paths are taken from the folder this is started in. For the nominal geometry and every mode:
* median distance (raw px) of tracked patches from where the geometry puts them, mean over the views. Patches are tracked from that geometry, only
  their own positions are fitted;
* leave-one-out correlation of the views in one band, the same for all geometries;
* Fourier shell correlation of the tomograms from the even and from the odd tilts (beads filled), summed over tiles of 480 A: a whole tomogram of
  thickness T would only compare what is coarser than T times the tilt step;
* with ``--reference``, a map of particles that are there: best score of template matching and median of the best 50, in the middle of the tomogram of all views
  (beads filled, no CTF correction), with the standard deviation of the scores of all places;
* how far the other views move, rigid part removed, when a share of the views is withheld at random.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import scipy.fft

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.fourier import bin_images
from cryoet_core.io.images import load_images
from cryoet_core.io.mrc import read_mrc
from cryoet_core.metadata import read_tilt_series
from cryoet_core.picking.match import match_template
from cryoet_core.picking.reference import resize_reference
from cryoet_core.tilt_series import refine_alignment as refine
from cryoet_core.tilt_series.align import align_tilt_series
from cryoet_core.tilt_series.alignment_state import AlignmentSettings
from cryoet_core.tilt_series.bundle import BundleModel, solve_bundle
from cryoet_core.tilt_series.evaluate import geometry_error, specimen_grid
from cryoet_core.tilt_series.gold_fill import BeadEraser
from cryoet_core.tilt_series.patches import track_patches
from cryoet_core.tilt_series.plane import prepare_views
from cryoet_core.tilt_series.refine_alignment import Band
from cryoet_core.tilt_series.working_views import alignment_images, binned_view
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram
from cryoet_core.tomogram.undeform import undeformed_views

MODES = ("projection_matching", "patch_tracking", "combined")
TILE_ANGST = 480.0
BEST_PICKS = 50


def fit(images, geometry, pixel, settings, thickness_angst):
    """(mean of the views' median patch residual in raw px, of their leave-one-out correlation) in a given geometry."""
    field = min(images.shape[1:]) * pixel
    binning = max(1, round(settings.pixel_size_angst / pixel))
    highpass = float(np.clip(0.25 * field, 400, 1200))
    views = prepare_views(alignment_images([binned_view(i, binning) for i in images], pixel * binning, highpass, 4.0), pixel * binning, float(geometry.z_rot_deg.mean()))
    band = Band(highpass, max(settings.resolution_angst, 2.1 * views.pixel_size_angst))
    data, prior = refine.spectra_in_band(views, geometry, band, thickness_angst)
    tracks = track_patches(views, geometry, pixel, Band(highpass, max(40.0, band.high_angst)), thickness_angst)
    model = BundleModel(shifts=False, axis_order=None, offset=False, slab_sigma_angst=thickness_angst / 4)
    return float(np.nanmean(solve_bundle(tracks, geometry, pixel, model).view_residual_px)), float(refine.loo_correlation(data, prior).mean())


def tile_fsc(first, second, pixel):
    """(frequency (1/A), FSC) of volumes (z, y, x) summed over half-overlapping tiles with Hann windows."""
    n = 2 * round(TILE_ANGST / pixel / 2)
    window = np.hanning(n + 2)[1:-1]
    window = window[:, None, None] * window[:, None] * window
    k = [scipy.fft.fftfreq(n, pixel)] * 2 + [scipy.fft.rfftfreq(n, pixel)]
    ring = np.rint(np.sqrt(k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2) * n * pixel).astype(int).ravel()
    sums = np.zeros((3, ring.max() + 1))
    for corner in np.ndindex(*((s - n) // (n // 2) + 1 for s in first.shape)):
        cut = tuple(slice(c * (n // 2), c * (n // 2) + n) for c in corner)
        a, b = (scipy.fft.rfftn((v[cut] - v[cut].mean()) * window) for v in (first, second))
        for row, value in enumerate(((a * b.conj()).real, abs(a) ** 2, abs(b) ** 2)):
            sums[row] += np.bincount(ring, value.ravel(), ring.max() + 1)
    half = n // 2 + 1
    return np.arange(half) / (n * pixel), (sums[0] / np.sqrt(sums[1] * sums[2] + 1e-30))[:half]


def even_odd_fsc(images, geometry, pixel, depth_angst):
    """(frequency, FSC) of the tomograms from every second tilt, central three quarters of the field."""
    order = np.argsort(geometry.y_tilt_deg)
    edge = 2 * round(0.375 * min(images.shape[1:]))
    size = (edge, edge, 2 * round(depth_angst / pixel / 2))
    halves = [reconstruct_tomogram(images[rows], geometry.select(rows), pixel, size, super_sampling=1) for rows in (order[::2], order[1::2])]
    return tile_fsc(*halves, pixel)


def band_means(frequency, fsc):
    """Mean FSC in three bands of resolution, A."""
    limits = ((240, 100), (100, 60), (60, 44))
    return [float(fsc[(frequency >= 1 / low - 1e-9) & (frequency <= 1 / high)].mean()) for low, high in limits]


def match_scores(images, series, geometry, pixel, depth_angst, reference, step_deg):
    """(best score, median of the best 50, standard deviation of all scores) in the central half of the field; reference : map on the grid of ``images``."""
    edge = 2 * round(0.25 * min(images.shape[1:]))
    tomogram = reconstruct_tomogram(images, geometry, pixel, (edge, edge, 2 * round(depth_angst / pixel / 2)), super_sampling=1)
    seen = replace(series.with_geometry(geometry), pixel_size_angst=pixel, image_size_px=images.shape[:0:-1])
    config = MatchTemplate(max_particles=BEST_PICKS, n_sigma=3.0, background="none", ctf="none", angular_step_deg=step_deg)
    result = match_template(tomogram, reference, pixel, seen, config, np.random.default_rng(0))
    scores = result.particles.table["score"].to_numpy()
    return float(scores.max()), float(np.median(scores)), float(result.summary["score_sigma"])


def withheld(images, geometry, pixel, settings, included, whole, share, seeds, half_angst):
    """Rms moves (A) of the remaining views, rigid part removed, one per seed."""
    moves = []
    for seed in range(seeds):
        rows = np.flatnonzero(included)
        out = np.random.default_rng(seed).choice(rows, round(share * rows.size), replace=False)
        kept = included.copy()
        kept[out] = False
        found = align_tilt_series(images, geometry, pixel, settings, kept)
        compared = kept & whole.used & found.used
        moves.append(geometry_error(found.geometry, whole.geometry, specimen_grid((half_angst, half_angst, 800)), compared).rms_angst)
    return moves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="<series>.star of erase_xrays")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--pixel-angst", type=float, default=20.0, help="working pixel of the alignment")
    parser.add_argument("--x-tilt", action="store_true", help="level about x, too")
    parser.add_argument("--bead-angst", type=float, default=100.0, help="diameter of the beads filled before reconstruction")
    parser.add_argument("--depth-angst", type=float, default=2400.0, help="of the tomograms compared")
    parser.add_argument("--tomogram-binning", type=int, default=2)
    parser.add_argument("--reference", help="MRC map, bright")
    parser.add_argument("--step-deg", type=float, default=15.0, help="of the template's orientations; the best places are refined")
    parser.add_argument("--withhold", type=float, default=0.1)
    parser.add_argument("--local-deformation", action="store_true", help="also the tomogram with the local deformation, where one is found")
    parser.add_argument("--seeds", type=int, default=2, help="of the views withheld; 0 = not done")
    chosen = parser.parse_args()
    series = read_tilt_series(chosen.table)
    images, pixel, included = load_images(series), series.pixel_size_angst, series.included
    without_beads = BeadEraser(series, chosen.bead_angst)
    plain = bin_images(np.stack([without_beads(row, image) for row, image in enumerate(images)]), chosen.tomogram_binning)
    binned_angst = pixel * chosen.tomogram_binning
    reference = resize_reference(*read_mrc(chosen.reference), binned_angst)[0] if chosen.reference else None
    start = series.geometry.replace(x_shift_angst=0.0, y_shift_angst=0.0)
    half = 0.35 * min(images.shape[1:]) * pixel
    print("geometry; residual px; leave-one-out; FSC at 240-100, 100-60, 60-44 A; axis, offset; left out; moves of the rest, A; CPU s")
    rows, thickness = [("nominal", start, None, 0.0)], 2000.0
    for mode in chosen.modes:
        settings = AlignmentSettings(
            mode=mode, pixel_size_angst=chosen.pixel_angst, level_x=chosen.x_tilt, local_deformation=chosen.local_deformation
        )
        began = time.process_time()
        found = align_tilt_series(images, start, pixel, settings, included)
        rows.append((mode, found.geometry, found, time.process_time() - began))
        thickness = rows[1][2].thickness_angst
    for mode, geometry, found, seconds in rows:
        used = included if found is None else found.used
        settings = AlignmentSettings(mode=mode, pixel_size_angst=chosen.pixel_angst, level_x=chosen.x_tilt)
        residual, score = fit(images[used], geometry.select(used), pixel, settings, thickness)
        bands = band_means(*even_odd_fsc(plain[used], geometry.select(used), binned_angst, chosen.depth_angst))
        text = f"{mode}; {residual:.2f}; {score:.3f}; " + ", ".join(f"{b:.3f}" for b in bands)
        if found is not None:
            text += f"; {found.axis_change_deg:+.2f}, {found.tilt_offset_deg:+.2f}; {int((included & ~used).sum())}; "
            moves = withheld(images, start, pixel, settings, included, found, chosen.withhold, chosen.seeds, half)
            text += ", ".join(f"{m:.2f}" for m in moves) + f"; {seconds:.0f}"
        print(text, flush=True)
        if found is not None:
            print(f"    beads: {found.beads}; patches: {found.patches}")
        if reference is not None:
            best = match_scores(plain[used], series.select(used), geometry.select(used), binned_angst, chosen.depth_angst, reference, chosen.step_deg)
            print("    template: best score {:.4f}, median of the best 50 {:.4f}, sigma {:.4f}".format(*best), flush=True)
        if found is not None and chosen.local_deformation:
            if found.deformation is not None:
                flat = undeformed_views(plain[used], found.deformation.select(used), binned_angst)
                bands = band_means(*even_odd_fsc(flat, geometry.select(used), binned_angst, chosen.depth_angst))
                print("    with local deformation: FSC " + ", ".join(f"{b:.3f}" for b in bands), flush=True)


if __name__ == "__main__":
    main()
