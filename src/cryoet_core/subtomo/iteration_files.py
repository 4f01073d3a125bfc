"""What every iteration of a refinement leaves: half maps, and RELION's data, model, optimiser and sampling tables.

Names and labels are those of RELION 5 auto-refine (run_itNNN_...), so that its display and scripts that read such files find
what they look for. Meanings that differ: rlnSigma2Noise is the mean over the views of a series (one optics group per series)
of the un-multiplied images; rlnNrOfSignificantSamples counts the kept modes, not grid points; accuracies are the expected
errors from the curvature of the likelihood.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.geometry import healpix_directions, matrix_to_euler
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.star import write_star
from cryoet_core.metadata import write_particles

DIRECTION_ORDER = 3  # HEALPix, 768 directions 7.3 degrees apart


def direction_histogram(rotations, order: int = DIRECTION_ORDER):
    """Share of particles in every HEALPix direction (ring order) of their (rot, tilt): (12 * 4**order,) float64, sum 1."""
    angles = np.deg2rad(healpix_directions(order))
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


def model_blocks(iteration, half: int, settings, series_names, tomo_names, map_name: str) -> dict:
    """RELION's model file of one half set (0 or 1)."""
    details = iteration.details
    finite = iteration.resolution_angst if np.isfinite(iteration.resolution_angst) else 999.0
    general = {
        "rlnReferenceDimensionality": 3,
        "rlnDataDimensionality": 2,
        "rlnOriginalImageSize": settings.box_px,
        "rlnCurrentResolution": finite,
        "rlnCurrentImageSize": int(min(settings.box_px, 2 * iteration.max_shell)),
        "rlnPaddingFactor": 2.0,
        "rlnPixelSize": settings.pixel_size_angst,
        "rlnNrClasses": 1,
        "rlnNrBodies": 1,
        "rlnNrGroups": len(series_names),
        "rlnNrOpticsGroups": len(series_names),
        "rlnTau2FudgeFactor": settings.regularisation,
        "rlnNormCorrectionAverage": 1.0,
        "rlnSigmaOffsetsAngst": details.offset_sigma_px * settings.pixel_size_angst,
        "rlnOrientationalPriorMode": 0,
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
    for number, sigma2 in enumerate(details.sigma2, 1):
        noise = {**_shells(sigma2.shape[1], settings.box_angst), "rlnSigma2Noise": sigma2.mean(axis=0)}
        blocks[f"model_optics_group_{number}"] = pd.DataFrame(noise)
    share = direction_histogram(details.rotations)
    blocks["model_pdf_orient_class_1"] = pd.DataFrame({"rlnOrientationDistribution": share})
    return blocks


def optimiser_blocks(iteration, settings, root: str) -> dict:
    """RELION's optimiser file: where the other files are, what was asked, what changed."""
    changed = iteration.details
    return {
        "optimiser_general": {
            "rlnOutputRootName": root.rpartition("_it")[0],
            "rlnModelStarFile": f"{root}_half1_model.star",
            "rlnModelStarFile2": f"{root}_half2_model.star",
            "rlnExperimentalDataStarFile": f"{root}_data.star",
            "rlnOrientSamplingStarFile": f"{root}_sampling.star",
            "rlnCurrentIteration": iteration.number,
            "rlnNumberOfIterations": settings.max_iterations,
            "rlnDoSplitRandomHalves": 1,
            "rlnJoinHalvesUntilThisResolution": settings.join_halves_angst,
            "rlnParticleDiameter": settings.mask_diameter_angst,
            "rlnDoZeroMask": 1,
            "rlnDoSolventFlattening": 1,
            "rlnDoAutoRefine": 1,
            "rlnDoCorrectCtf": 1,
            "rlnDoCorrectNorm": int(getattr(settings, "norm_correction", False)),
            "rlnDoCorrectScale": int(getattr(settings, "scale_correction", False)),
            "rlnOverallAccuracyRotations": iteration.expected_angle_error_deg,
            "rlnOverallAccuracyTranslationsAngst": iteration.expected_offset_error_angst,
            "rlnChangesOptimalOrientations": float(changed.angle_change_deg.mean()),
            "rlnChangesOptimalOffsets": float(
                np.sqrt(np.mean(changed.offset_change_px**2) / 2) * settings.pixel_size_angst
            ),
            "rlnChangesOptimalClasses": 0.0,
        }
    }


def sampling_blocks(iteration, settings) -> dict:
    """RELION's sampling file; the directions are those of the histogram in the model file."""
    directions = healpix_directions(DIRECTION_ORDER)
    general = {
        "rlnIs3DSampling": 1,
        "rlnIs3DTranslationalSampling": 1,
        "rlnHealpixOrder": DIRECTION_ORDER,
        "rlnSymmetryGroup": settings.symmetry,
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
        blocks = model_blocks(iteration, half - 1, settings, series_names, tomo, f"{named}_half{half}_class001.mrc")
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
