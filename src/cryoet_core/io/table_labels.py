"""Which column of our tables is which STAR label: RELION 5 labels, ours start with tl."""

from __future__ import annotations

import re

import pandas as pd

from cryoet_core.errors import UserInputError

TILT_LABELS = {
    "tilt_id": "tlTiltId",
    "movie": "rlnMicrographMovieName",
    "image": "rlnMicrographName",
    "image_even": "rlnMicrographNameEven",
    "image_odd": "rlnMicrographNameOdd",
    "n_frames": "rlnTomoTiltMovieFrameCount",
    "nominal_tilt_deg": "rlnTomoNominalStageTiltAngle",
    "nominal_axis_deg": "rlnTomoNominalTiltAxisAngle",
    "pre_exposure_e_per_a2": "rlnMicrographPreExposure",
    "exposure_e_per_a2": "tlExposure",
    "defocus_u_angst": "rlnDefocusU",
    "defocus_v_angst": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "phase_shift_deg": "rlnPhaseShift",
    "ctf_max_resolution_angst": "rlnCtfMaxResolution",
    "ctf_score": "rlnCtfFigureOfMerit",
    "ctf_scale": "rlnCtfScalefactor",
    "x_tilt_deg": "rlnTomoXTilt",
    "y_tilt_deg": "rlnTomoYTilt",
    "z_rot_deg": "rlnTomoZRot",
    "x_shift_angst": "rlnTomoXShiftAngst",
    "y_shift_angst": "rlnTomoYShiftAngst",
    "excluded": "tlExcluded",
    "exclude_reason": "tlExcludeReason",
}
PARTICLE_LABELS = {
    "tomo_name": "rlnTomoName",
    "particle_name": "rlnTomoParticleName",
    "x_angst": "rlnCenteredCoordinateXAngst",
    "y_angst": "rlnCenteredCoordinateYAngst",
    "z_angst": "rlnCenteredCoordinateZAngst",
    "rot_deg": "rlnAngleRot",
    "tilt_deg": "rlnAngleTilt",
    "psi_deg": "rlnAnglePsi",
    "origin_x_angst": "rlnOriginXAngst",
    "origin_y_angst": "rlnOriginYAngst",
    "origin_z_angst": "rlnOriginZAngst",
    "subtomogram_rot_deg": "rlnTomoSubtomogramRot",
    "subtomogram_tilt_deg": "rlnTomoSubtomogramTilt",
    "subtomogram_psi_deg": "rlnTomoSubtomogramPsi",
    "random_subset": "rlnRandomSubset",
    "optics_group": "rlnOpticsGroup",
    "image_name": "rlnImageName",
    "ctf_image": "rlnCtfImage",
    "visible_frames": "rlnTomoVisibleFrames",
    "score": "rlnLCCmax",
    "log_likelihood": "rlnLogLikeliContribution",
    "max_probability": "rlnMaxValueProbDistribution",
    "class_number": "rlnClassNumber",
}
_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*$")


def column_to_label(column: str, labels: dict[str, str]) -> str:
    """STAR label of a Python column: the table's own, else "peak_sigma" -> "tlPeakSigma" (rln labels as they are)."""
    if column in labels:
        return labels[column]
    if column.startswith("rln"):
        return column
    if not _SNAKE.match(column):
        raise UserInputError("E-TAB-03", "column names are lower case with underscores", field=column)
    words = column.split("_")
    return "tl" + "".join(f"_{w}" if w[0].isdigit() else w.capitalize() for w in words)


def label_to_column(label: str, labels: dict[str, str]) -> str:
    """Inverse of column_to_label; unknown labels of other programs stay as they are."""
    for column, known in labels.items():
        if known == label:
            return column
    if label.startswith("tl") and label[2:3].isupper():
        return re.sub(r"(?<!^)([A-Z])", r"_\1", label[2:]).lower()
    return label


def to_star(table: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    """The table with STAR labels as columns, known ones first in the order of `labels`."""
    known = [c for c in labels if c in table.columns]
    columns = known + [c for c in table.columns if c not in labels]
    return table[columns].rename(columns={c: column_to_label(c, labels) for c in columns})


def from_star(table: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    """The table with our column names."""
    return table.rename(columns={label: label_to_column(label, labels) for label in table.columns})
