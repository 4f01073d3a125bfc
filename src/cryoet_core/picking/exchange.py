"""Picks of other programs -> our particle table, and our particles -> files of other programs."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cryoet_core.geometry import matrix_to_euler
from cryoet_core.io.picks import Picks, Reading, Source, Tomogram, read_picks, write_picks
from cryoet_core.metadata import Particles, TiltSeries
from cryoet_core.picking.match import particle_optics


@dataclass(frozen=True)
class Imported:
    """particles in the order of the file; summary for the report; warnings for the log."""

    particles: Particles
    summary: dict
    warnings: list[str]


def picks_source(config, series_name: str) -> Source:
    """How the config (config.match_template.MatchTemplate, picks_*) says that a file of picks is to be read."""
    return Source(
        format=config.picks_format, pixel_size_angst=config.picks_pixel_size_angst, tomogram_size_px=config.picks_tomogram_size_px,
        axes=config.picks_axes, shift_angst=config.picks_shift_angst, tomogram_number=config.picks_tomograms.get(series_name),
        class_number=config.picks_class, min_score=config.picks_min_score, own_file=config.picks is None or "{ts}" in config.picks,
    )


def import_picks(path, series: TiltSeries, shape, config) -> Imported:
    """Picks of a file as particles of the tomogram of `series`, whose array shape is (z, y, x).

    Orientations that the file does not have are 0, 0, 0 and said so. Raises UserInputError E-PICKS-*: see io.picks.read_picks.
    """
    reading = read_picks(path, Tomogram.of_series(series, shape), picks_source(config, series.name))
    warnings = list(reading.warnings)
    if reading.picks.rotations is None and len(reading.picks):
        warnings.insert(
            0, "the picks have no orientations: all angles are 0. Start the first round with refine.start: global, or "
            "with an initial model",
        )
    if reading.n_in_file and not len(reading.picks):
        warnings.append("no picks are left")
    particles = Particles(particle_table(reading.picks, series.name), particle_optics(series))
    return Imported(particles, _summary(reading, config, warnings), warnings)


def _summary(reading: Reading, config, warnings: list[str]) -> dict:
    score = reading.picks.score
    known = score is not None and len(score) > 0
    return {
        "n_picks": len(reading.picks), "diameter_angst": config.particle_diameter_angst,
        "best_score": float(score.max()) if known else None, "last_score": float(score.min()) if known else None,
        "hand": {"verdict": "imported"},
        "imported": {
            "format": reading.format, "unit": reading.unit, "n_in_file": reading.n_in_file,
            "n_other_tomograms": reading.n_other_tomograms,
            "n_other_classes": reading.n_other_classes, "n_below_score": reading.n_below_score, "n_outside": reading.n_outside,
            "oriented": reading.picks.rotations is not None, "scored": score is not None, "warnings": warnings,
        },
    }


def particle_table(picks: Picks, name: str) -> pd.DataFrame:
    """The columns that match_template's own picks have, as far as the file tells; pick_row is the pick's number in the file."""
    n = len(picks)
    angles = np.zeros((n, 3)) if picks.rotations is None else matrix_to_euler(picks.rotations).reshape(-1, 3)
    position = picks.positions_angst.reshape(-1, 3)
    table = pd.DataFrame({
        "tomo_name": [name] * n, "particle_name": [f"{name}/{i + 1}" for i in range(n)],
        "x_angst": position[:, 0], "y_angst": position[:, 1], "z_angst": position[:, 2],
        "rot_deg": angles[:, 0], "tilt_deg": angles[:, 1], "psi_deg": angles[:, 2],
        "origin_x_angst": 0.0, "origin_y_angst": 0.0, "origin_z_angst": 0.0, "optics_group": 1,
        "score": np.zeros(n) if picks.score is None else picks.score.astype(np.float64),
        "pick_row": np.arange(1, n + 1) if picks.row is None else picks.row,
    })
    return table if picks.class_number is None else table.assign(class_number=picks.class_number)


def particle_picks(particles: Particles) -> Picks:
    """Particles of one tomogram as picks to be written."""
    table = particles.table
    score = table["score"].to_numpy(np.float64) if "score" in table else None
    classes = table["class_number"].to_numpy(np.int64) if "class_number" in table else None
    return Picks(particles.positions_angst, particles.rotations, score, classes)


def series_number(name: str) -> int:
    """Number of a series where a format counts tomograms: the last digits of its name, else 1."""
    found = re.findall(r"\d+", name)
    return int(found[-1]) if found else 1


def export_picks(particles: Particles, series: TiltSeries, shape, formats, paths, numbers: dict[str, int] | None = None) -> list[str]:
    """Write the particles of one tomogram in each of `formats` to `paths`; returns what was lost, "imod: orientations", ...

    numbers: of the series, where a format counts tomograms; a series without one has the last digits of its name.
    """
    tomogram, picks = Tomogram.of_series(series, shape), particle_picks(particles)
    number = (numbers or {}).get(series.name, series_number(series.name))
    lost = []
    for form, path in zip(formats, paths, strict=True):
        lost += [f"{form}: {what}" for what in write_picks(path, picks, tomogram, form, number=number)]
    return lost
