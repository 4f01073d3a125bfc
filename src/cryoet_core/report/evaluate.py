"""Errors against the simulator's ground truth: the numbers of the report and of results/summary.json."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cryoet_core.ctf.recentre import centre_depth
from cryoet_core.fsc import fourier_shell_correlation, resolution_at
from cryoet_core.masks import soft_sphere
from cryoet_core.picking.evaluate import match_picks
from cryoet_core.report.movies import motion_tracks
from cryoet_core.report.results import Results
from cryoet_core.subtomo.evaluate import align_map_to, correlation, match_particles, mirror, pose_errors, resample_map
from cryoet_core.tilt_series.evaluate import alignment_error

DECOYS = ("ring", "rod", "globule")
MAX_PICK_DISTANCE_ANGST = 100.0


def motion_error(results: Results, ts: str) -> dict:
    """rms difference of the frame tracks over all good views, px."""
    truth = results.truth_json(ts)
    dark = set(truth["dark_tilt_ids"])
    squared = []
    for tilt_id, track in motion_tracks(results, ts).items():
        if tilt_id not in dark:
            expected = np.asarray(truth["frame_shifts_px"][str(tilt_id)])
            difference = (track - track.mean(axis=0)) - (expected - expected.mean(axis=0))
            squared.append((difference**2).sum(axis=1))
    return {"motion_error_px_rms": float(np.sqrt(np.concatenate(squared).mean()))}


def defocus_error(results: Results, ts: str) -> dict:
    """Median absolute error of the mean defocus at the centre of the image, at tilts to 45 degrees and beyond, nm."""
    series, truth = results.table("decide_handedness", ts), results.truth(ts)
    dark = set(results.truth_json(ts)["dark_tilt_ids"])
    found = series.tilts.set_index("tilt_id")
    expected = truth.tilts.set_index("tilt_id").loc[found.index]
    good = ~found.index.isin(list(dark))
    mean = {n: (t["defocus_u_angst"] + t["defocus_v_angst"]).to_numpy() / 20 for n, t in (("f", found), ("e", expected))}
    shift = truth.handedness * centre_depth(truth.geometry) / 10  # the truth is that of the specimen's centre
    shift = pd.Series(shift, truth.tilts["tilt_id"]).loc[found.index].to_numpy()
    error = np.abs(mean["f"] - (mean["e"] - shift))
    low = good & (np.abs(found["nominal_tilt_deg"].to_numpy()) <= 45)
    high = good & ~low
    return {
        "defocus_error_nm_median": float(np.median(error[low])),
        "defocus_error_nm_median_beyond_45": float(np.median(error[high])) if high.any() else None,
    }


def view_errors(results: Results, ts: str) -> dict:
    """How many dark views were kept, how many good ones lost."""
    series = results.table("exclude_views", ts)
    dark = series.tilts["tilt_id"].isin(list(results.truth_json(ts)["dark_tilt_ids"])).to_numpy()
    return {
        "dark_views": int(dark.sum()),
        "dark_missed": int((dark & series.included).sum()),
        "good_lost": int((~dark & ~series.included).sum()),
    }


def alignment_errors(results: Results, ts: str):
    """Numbers of the alignment, and the error object that knows the rigid transform to the truth's frame."""
    series = results.table("align_tilt_series", ts)
    error = alignment_error(series, results.truth(ts))
    bin4 = 4 * series.movie_pixel_size_angst
    return {
        "alignment_error_angst_rms": float(error.rms_angst),
        "alignment_error_bin4_px_rms": float(error.rms_angst / bin4),
        "axis_error_deg": float(error.axis_deg),
        "tilt_offset_error_deg": float(error.tilt_offset_deg),
    }, error


def into_truth_frame(particles, error):
    """(positions_angst (n, 3), rotations (n, 3, 3)) in the truth's frame.

    ``error`` found X_here = R X_true + t when it compared the alignments; this is undone.
    """
    back = error.rotation.T
    return (particles.positions_angst - error.translation_angst) @ back.T, back @ particles.rotations


def true_species(results: Results, ts: str):
    """The true particles of the wanted species (all that are no decoys)."""
    truth = results.true_particles(ts)
    return truth.select(~truth.table["species"].isin(DECOYS).to_numpy())


def pick_errors(results: Results, ts: str, error) -> dict:
    """Precision and recall of the picks against the true particles of the wanted species (all that are no decoys)."""
    rotation = error.rotation.T
    shift = -rotation @ error.translation_angst
    truth = true_species(results, ts)
    match = match_picks(results.picks(ts), truth, MAX_PICK_DISTANCE_ANGST, rotation=rotation, shift_angst=shift)
    return {
        "precision": float(match.precision),
        "recall": float(match.recall),
        "pick_distance_angst_median": match.median_distance_angst,
        "pick_angle_error_deg_median": match.median_angle_deg,
    }


def particle_errors(results: Results, name: str, alignments: dict) -> dict:
    """Median pose errors of the refined particles of a round, all series, after the average's own rigid frame."""
    refined = results.refined(name)
    parts = []
    for ts in results.series:
        truth = true_species(results, ts)
        here = refined.select((refined.table["tomo_name"] == ts).to_numpy())
        positions, rotations = into_truth_frame(here, alignments[ts])
        index, true_index = match_particles(positions, truth.positions_angst, MAX_PICK_DISTANCE_ANGST)
        parts.append(
            (rotations[index], positions[index], truth.rotations[true_index], truth.positions_angst[true_index])
        )
    errors = pose_errors(*(np.concatenate(p) for p in zip(*parts, strict=True)))
    return {
        "matched_particles": len(errors.angle_deg),
        "pose_error_deg_median": errors.median_angle_deg,
        "position_error_angst_median": errors.median_position_angst,
        "poses_within_20_deg": float(np.mean(errors.angle_deg < 20)),
    }


def compare_map(volume, pixel_size_angst: float, truth, truth_pixel_angst: float, mask_diameter_angst: float) -> dict:
    """Compare an average with the true density: FSC, and the same with the mirrored density (the hand).

    Returns fsc_truth, fsc_mirrored (n//2 + 1,), resolution_truth_0.5_angst, correlation_truth, correlation_mirrored and
    truth_in_frame, the density at the average's pixel size, box and orientation.
    """
    box = volume.shape[0]
    mask = soft_sphere(volume.shape, mask_diameter_angst / 2 / pixel_size_angst, 3)
    resampled = resample_map(truth, truth_pixel_angst, box, pixel_size_angst)
    out = {}
    for label, density in (("truth", resampled), ("mirrored", mirror(resampled))):
        moved = align_map_to(density, volume).map
        out[f"fsc_{label}"] = fourier_shell_correlation(volume, moved, mask)
        out[f"correlation_{label}"] = correlation(volume * mask, moved * mask, mask)
        out.setdefault("truth_in_frame", moved)
    out["resolution_truth_0.5_angst"] = resolution_at(out["fsc_truth"], pixel_size_angst, box, 0.5)
    return out
