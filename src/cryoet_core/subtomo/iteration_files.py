"""What every iteration of a refinement leaves: half maps, and RELION's data, model, optimiser and sampling tables.

Names and labels are those of RELION 5 auto-refine (run_itNNN_...), so that its display and scripts that read such files find
what they look for; every label that RELION insists on is there. Meanings that differ: rlnSigma2Noise is the mean over the views
and series of an optics group, of the un-multiplied images; rlnNrOfSignificantSamples counts the kept modes, not grid points; accuracies are the expected
errors from the curvature of the likelihood.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.geometry import healpix_directions, healpix_nested_order, matrix_to_euler
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.star import write_star
from cryoet_core.metadata import write_particles

DIRECTION_ORDER = 3  # HEALPix, 768 directions 7.3 degrees apart


def relion_directions(order: int = DIRECTION_ORDER):
    """(12 * 4**order, 2): rot in (-180, 180] and tilt of the directions, in RELION's (the nested) order, degrees."""
    angles = healpix_directions(order)[healpix_nested_order(order)]
    angles[:, 0] = np.where(angles[:, 0] > 180, angles[:, 0] - 360, angles[:, 0])
    return angles


def direction_histogram(rotations, order: int = DIRECTION_ORDER):
    """Share of particles in every one of :func:`relion_directions`: (12 * 4**order,) float64, sum 1."""
    angles = np.deg2rad(relion_directions(order))
    sin = np.sin(angles[:, 1])
    grid = np.stack([sin * np.cos(angles[:, 0]), sin * np.sin(angles[:, 0]), np.cos(angles[:, 1])], axis=1)
    rot, tilt, _ = np.deg2rad(matrix_to_euler(rotations)).T
    own = np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], axis=1)
    nearest = np.concatenate([np.argmax(own[i : i + 512] @ grid.T, axis=1) for i in range(0, len(own), 512)])
    return np.bincount(nearest, minlength=len(grid)) / len(own)


def _shells(n_shells, box_angst):
    shell = np.arange(n_shells)
    with np.errstate(divide="ignore"):
        angst = np.where(shell > 0, box_angst / np.maximum(shell, 1), 999.0)
    return {"rlnSpectralIndex": shell, "rlnResolution": shell / box_angst, "rlnAngstromResolution": angst}


def class_table(iteration, half: int, settings) -> pd.DataFrame:
    """data_model_class_1: FSC, signal and noise of the map of one half per shell."""
    fsc = np.array(iteration.fsc, dtype=float)
    fsc[0] = 1.0
    clipped = np.clip(fsc, 1e-3, 0.999)
    ssnr = settings.regularisation * clipped / (1 - clipped)
    weight = np.asarray(iteration.details.shell_weight[half], dtype=float)
    noise = 1 / np.maximum(weight, 1e-30)
    return pd.DataFrame(
        {
            **_shells(len(fsc), settings.box_angst),
            "rlnSsnrMap": ssnr,
            "rlnGoldStandardFsc": fsc,
            "rlnReferenceSigma2": np.where(weight > 0, noise, 0.0),
            "rlnReferenceTau2": np.where(weight > 0, ssnr * noise, 0.0),
        }
    )


def optics_members(table, series_names) -> list[list[int]]:
    """Rows of ``series_names`` in every optics group of the particle table (one group of all where it has no such column)."""
    if "optics_group" not in table:
        return [list(range(len(series_names)))]
    group = table.groupby("tomo_name")["optics_group"].first()
    present = sorted(set(table["optics_group"]))
    return [[i for i, name in enumerate(series_names) if group.get(name) == g] for g in present]


def model_blocks(iteration, half: int, settings, series_names, table, map_name: str) -> dict:
    """RELION's model file of one half set (0 or 1); table : the particles' (tomo_name, optics_group)."""
    tomo_names, optics = table["tomo_name"].to_numpy(), optics_members(table, series_names)
    details = iteration.details
    finite = iteration.resolution_angst if np.isfinite(iteration.resolution_angst) else 999.0
    general = {
        "rlnReferenceDimensionality": 3,
        "rlnDataDimensionality": 2,
        "rlnOriginalImageSize": settings.box_px,
        "rlnCurrentResolution": finite,
        "rlnCurrentImageSize": int(min(settings.box_px, 2 * iteration.max_shell)),
        "rlnPaddingFactor": 2.0,
        "rlnFourierSpaceInterpolator": 1,
        "rlnMinRadiusNnInterpolation": 10,
        "rlnPixelSize": settings.pixel_size_angst,
        "rlnNrClasses": 1,
        "rlnNrBodies": 1,
        "rlnNrGroups": len(series_names),
        "rlnNrOpticsGroups": len(optics),
        "rlnTau2FudgeFactor": settings.regularisation,
        "rlnNormCorrectionAverage": 1.0,
        "rlnSigmaOffsetsAngst": details.offset_sigma_px * settings.pixel_size_angst,
        "rlnOrientationalPriorMode": 0,
        "rlnSigmaPriorRotAngle": 0.0,
        "rlnSigmaPriorTiltAngle": 0.0,
        "rlnSigmaPriorPsiAngle": 0.0,
        "rlnLogLikelihood": iteration.log_likelihood,
        "rlnAveragePmax": iteration.mean_max_probability,
    }
    classes = {
        "rlnReferenceImage": [map_name],
        "rlnClassDistribution": [1.0],
        "rlnAccuracyRotations": [iteration.expected_angle_error_deg],
        "rlnAccuracyTranslationsAngst": [iteration.expected_offset_error_angst],
        "rlnEstimatedResolution": [finite],
    }
    groups = {
        "rlnGroupNumber": np.arange(1, len(series_names) + 1),
        "rlnGroupName": list(series_names),
        "rlnGroupNrParticles": [int(np.sum(tomo_names == name)) for name in series_names],
        "rlnGroupScaleCorrection": [float(v) for v in details.scale],
    }
    blocks = {
        "model_general": general,
        "model_classes": pd.DataFrame(classes),
        "model_class_1": class_table(iteration, half, settings),
        "model_groups": pd.DataFrame(groups),
    }
    means = np.stack([sigma2.mean(axis=0) for sigma2 in details.sigma2])
    for number, members in enumerate(optics, 1):
        noise = {**_shells(means.shape[1], settings.box_angst), "rlnSigma2Noise": means[members].mean(axis=0)}
        blocks[f"model_optics_group_{number}"] = pd.DataFrame(noise)
    share = direction_histogram(details.rotations)
    blocks["model_pdf_orient_class_1"] = pd.DataFrame({"rlnOrientationDistribution": share})
    return blocks


# What RELION insists on and this refinement has no other value for.
_UNUSED = {
    "rlnAdaptiveOversampleOrder": 1,
    "rlnAdaptiveOversampleFraction": 0.999,
    "rlnWidthMaskEdge": 3,
    "rlnSolventMaskName": "None",
    "rlnSolventMask2Name": "None",
    "rlnTauSpectrumName": "None",
    "rlnMaximumCoarseImageSize": -1,
    "rlnHighresLimitExpectation": -1.0,
    "rlnIncrementImageSize": 10,
    "rlnDoMapEstimation": 1,
    "rlnAutoLocalSearchesHealpixOrder": 4,
    "rlnNumberOfIterWithoutResolutionGain": 0,
    "rlnNumberOfIterWithoutChangingAssignments": 0,
    "rlnDoSkipAlign": 0,
    "rlnHasConverged": 0,
    "rlnHasHighFscAtResolLimit": 0,
    "rlnHasLargeSizeIncreaseIterationsAgo": 0,
    "rlnDoIgnoreCtfUntilFirstPeak": 0,
    "rlnCtfDataArePhaseFlipped": 0,
    "rlnDoOnlyFlipCtfPhases": 0,
    "rlnRefsAreCtfCorrected": 1,
    "rlnFixSigmaNoiseEstimates": 0,
    "rlnFixSigmaOffsetEstimates": 0,
    "rlnMaxNumberOfPooledParticles": 1,
}


def optimiser_blocks(iteration, settings, root: str, seed: int = 0) -> dict:
    """RELION's optimiser file: where the other files are, what was asked, what changed."""
    changed, pixel = iteration.details, settings.pixel_size_angst
    resolution = iteration.resolution_angst
    turned = float(changed.angle_change_deg.mean())
    moved = float(np.sqrt(np.mean(changed.offset_change_px**2) / 2) * pixel)
    own = {
        "rlnOutputRootName": root.rpartition("_it")[0],
        "rlnModelStarFile": f"{root}_half1_model.star",
        "rlnModelStarFile2": f"{root}_half2_model.star",
        "rlnExperimentalDataStarFile": f"{root}_data.star",
        "rlnOrientSamplingStarFile": f"{root}_sampling.star",
        "rlnCurrentIteration": iteration.number,
        "rlnNumberOfIterations": settings.max_iterations,
        "rlnDoSplitRandomHalves": 1,
        "rlnJoinHalvesUntilThisResolution": settings.join_halves_angst,
        "rlnRandomSeed": seed,
        "rlnParticleDiameter": settings.mask_diameter_angst,
        "rlnDoZeroMask": 1,
        "rlnDoSolventFlattening": 1,
        "rlnDoAutoRefine": 1,
        "rlnBestResolutionThusFar": 1 / resolution if np.isfinite(resolution) else 0.0,
        "rlnDoCorrectCtf": 1,
        "rlnDoCorrectNorm": int(settings.norm_correction),
        "rlnDoCorrectScale": int(settings.scale_correction),
        "rlnOverallAccuracyRotations": iteration.expected_angle_error_deg,
        "rlnOverallAccuracyTranslationsAngst": iteration.expected_offset_error_angst,
        "rlnChangesOptimalOrientations": turned,
        "rlnChangesOptimalOffsets": moved,
        "rlnChangesOptimalClasses": 0.0,
        "rlnSmallestChangesOrientations": turned,
        "rlnSmallestChangesOffsets": moved,
        "rlnSmallestChangesClasses": 0,
    }
    return {"optimiser_general": own | _UNUSED}


def sampling_blocks(iteration, settings) -> dict:
    """RELION's sampling file; the directions are those of the histogram in the model file."""
    directions = relion_directions()
    general = {
        "rlnIs3DSampling": 1,
        "rlnIs3DTranslationalSampling": 1,
        "rlnHealpixOrder": DIRECTION_ORDER,
        "rlnSymmetryGroup": settings.symmetry,
        "rlnTiltAngleLimit": -91.0,
        "rlnSamplingPerturbInstance": 0.0,
        "rlnSamplingPerturbFactor": 0.0,
        "rlnPsiStep": iteration.sampling_deg,
        "rlnOffsetRange": settings.offset_range_px * settings.pixel_size_angst,
        "rlnOffsetStep": settings.offset_step_px * settings.pixel_size_angst,
    }
    table = pd.DataFrame({"rlnAngleRot": directions[:, 0], "rlnAngleTilt": directions[:, 1]})
    return {"sampling_general": general, "sampling_directions": table}


def write_iteration(folder, iteration, settings, particles, series_names, at=None) -> None:
    """Write run_itNNN_half{1,2}_class001.mrc and _data, _half{1,2}_model, _sampling and _optimiser.star (last).

    particles : metadata.Particles with the poses of this iteration. series_names : in the order of the refinement's series.
    at : the folder that the files will lie in, as named inside them; default ``folder``.
    """
    root = f"{Path(folder).as_posix()}/run_it{iteration.number:03d}"
    named = f"{Path(at or folder).as_posix()}/run_it{iteration.number:03d}"
    details, pixel = iteration.details, settings.pixel_size_angst
    tomo = particles.table["tomo_name"].to_numpy()
    number = {name: i for i, name in enumerate(series_names, 1)}
    for half in (1, 2):
        write_mrc(f"{root}_half{half}_class001.mrc", getattr(iteration, f"half{half}"), pixel)
        blocks = model_blocks(iteration, half - 1, settings, series_names, particles.table, f"{named}_half{half}_class001.mrc")
        write_star(f"{root}_half{half}_model.star", blocks)
    table = particles.with_columns(
        class_number=1,
        rlnGroupNumber=[number[t] for t in tomo],
        rlnNormCorrection=np.sqrt(details.noise_factor),
        rlnNrOfSignificantSamples=details.n_poses,
        angle_change_deg=details.angle_change_deg,
        offset_change_angst=details.offset_change_px * pixel,
    )
    write_particles(table, f"{root}_data.star")
    write_star(f"{root}_sampling.star", sampling_blocks(iteration, settings))
    write_star(f"{root}_optimiser.star", optimiser_blocks(iteration, settings, named))
