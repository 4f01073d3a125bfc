"""Extraction of all tilt series of a round: image files, the particle table that names them, and the numbers to report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import CryoetError, DataQualityError
from cryoet_core.io.images import image_name
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.relion import format_visible_frames
from cryoet_core.metadata import Particles
from cryoet_core.subtomo.extract import ExtractionSettings, extract_stacks
from cryoet_core.subtomo.selection import select_particles
from cryoet_core.subtomo.transfer import ImageTransfer
from cryoet_core.subtomo.volumes import extract_volumes, view_noise

ORIGINS = ("origin_x_angst", "origin_y_angst", "origin_z_angst")


def extraction_settings(config) -> ExtractionSettings:
    """Settings from the config section of extract_subtomos."""
    names = (
        "binning", "box_px", "crop_px", "max_dose_e_per_a2", "min_views", "ctf_premultiply", "dose_at", "cut_from_raw",
    )
    return ExtractionSettings(**{name: getattr(config, name) for name in names})


def reconstruction_settings(config, extraction) -> ExtractionSettings:
    """Settings of reconstruct_particle; what its section leaves empty is that of the round's extraction."""
    own = {name: getattr(config, name) for name in ("binning", "box_px", "crop_px")}
    filled = {name: getattr(extraction, name) if value is None else value for name, value in own.items()}
    return ExtractionSettings(
        **filled,
        max_dose_e_per_a2=extraction.max_dose_e_per_a2,
        ctf_premultiply=extraction.ctf_premultiply,
        dose_at=extraction.dose_at,
        cut_from_raw=config.cut_from_raw,
    )


def chosen_particles(particles: Particles, config, pixel_size_angst: float):
    """(Particles, Selection): those that enter the round by the rules of the config section of extract_subtomos.

    pixel_size_angst : of the unbinned views.
    """
    distance = config.duplicate_distance_angst
    if distance is None:
        distance = 0.1 * config.crop_px * config.binning * pixel_size_angst
    rules = {name: getattr(config, name) for name in ("rank_by", "keep_best", "min_rank", "drop_diffuse")}
    selection = select_particles(particles, duplicate_distance_angst=distance, **rules)
    return particles.select(selection.keep), selection


def merge_particles(parts) -> Particles:
    """One table of several, in order; columns that some lack are 0 (numbers) or "none" there."""
    tables = [part.table for part in parts if len(part)]
    if not tables:
        raise DataQualityError(
            "E-EXT-05", "there are no particles to average", found="0 particles", fix="look at match_template's summary"
        )
    table = pd.concat(tables, ignore_index=True)
    numeric = table.select_dtypes("number").columns
    table[numeric] = table[numeric].fillna(0)
    return Particles(table.fillna("none"))


def with_names(table: pd.DataFrame) -> pd.DataFrame:
    """RELION's particle names "<series>/<n>" (n from 1 in every series) where the table has none."""
    if "particle_name" in table:
        return table
    number = table.groupby("tomo_name", sort=False).cumcount() + 1
    return table.assign(particle_name=[f"{t}/{n}" for t, n in zip(table["tomo_name"], number, strict=True)])


class ExtractionRun:
    """Extracts one tilt series after another into ``folder`` and collects the table.

    Files: <folder>/<series>.mrcs with all visible images of all particles; on request <folder>/<series>/<n>_stack2d.mrcs
    (``relion_files``) and <n>_data.mrc, <n>_weights.mrc (``volumes_3d``).
    """

    def __init__(self, config, folder: Path):
        self.config, self.folder = config, Path(folder)
        self.settings = extraction_settings(config)
        self.warnings: list[str] = []
        self._parts: list[pd.DataFrame] = []
        self._optics: list[dict] = []
        self._counts: dict[str, dict] = {}

    def add_series(self, series, particles: Particles, load_views) -> None:
        """Extract the particles of ``series``; ``load_views()`` gives its raw views (n_views, h, w).

        A series that cannot be used is left out with a warning, so that the others go on.
        """
        table = with_names(particles.table)
        rows = np.flatnonzero(table["tomo_name"].to_numpy() == series.name)
        if rows.size == 0:
            self.warnings.append(f"{series.name}: no particles")
            return
        positions = particles.positions_angst[rows]
        views = load_views()
        try:
            stacks = extract_stacks(views, series, positions, self.settings)
        except CryoetError as error:
            self.warnings.append(f"{series.name} left out: {error}")
            return
        seen = stacks.views.visible.any(axis=1)
        part = self._table(series, table.iloc[rows[seen]], positions[seen], stacks)
        self._write_images(series, part, stacks, views, positions)
        self._parts.append(part)
        self._counts[series.name] = {
            "particles": int(seen.sum()), "dropped": int((~seen).sum()), "images": len(stacks.views)
        }

    def _table(self, series, table, positions, stacks) -> pd.DataFrame:
        """Rows of the particles that are seen: refined positions, no origins, names of their images."""
        counts = stacks.views.visible.sum(axis=1)
        counts = counts[counts > 0]
        first = np.cumsum(counts) - counts
        stack = self.folder / f"{series.name}.mrcs"
        seen = stacks.views.visible[stacks.views.visible.any(axis=1)]
        columns = dict(zip(("x_angst", "y_angst", "z_angst"), positions.T, strict=True))
        columns |= dict.fromkeys(ORIGINS, 0.0)
        columns |= {
            "optics_group": self._optics_group(series),
            "image_name": [image_name(int(i), stack) for i in first],
            "visible_frames": [format_visible_frames(v) for v in seen],
        }
        return table.drop(columns="ctf_image", errors="ignore").assign(**columns).reset_index(drop=True)

    def _optics_group(self, series) -> int:
        pixel = series.pixel_size_angst * self.settings.binning
        row = {
            "rlnVoltage": float(series.voltage_kv),
            "rlnSphericalAberration": float(series.spherical_aberration_mm),
            "rlnAmplitudeContrast": float(series.amplitude_contrast),
            "rlnTomoTiltSeriesPixelSize": float(series.pixel_size_angst),
            "rlnCtfDataAreCtfPremultiplied": int(self.settings.ctf_premultiply),
            "rlnImageDimensionality": 2,
            "rlnTomoSubtomogramBinning": float(self.settings.binning),
            "rlnImagePixelSize": float(pixel),
            "rlnImageSize": int(self.settings.crop_px),
            "tlDoseAt": self.settings.dose_at,
        }
        if row not in self._optics:
            self._optics.append(row)
        return self._optics.index(row) + 1

    def _write_images(self, series, part, stacks, views, positions):
        dtype = "float16" if self.config.float16 else "float32"
        pixel = stacks.pixel_size_angst
        write_mrc(self.folder / f"{series.name}.mrcs", stacks.images, pixel, stack=True, dtype=dtype)
        numbers = [name.rpartition("/")[2] for name in part["particle_name"]]
        own = self.folder / series.name
        order = np.unique(stacks.views.particle)
        if self.config.relion_files:
            for number, row in zip(numbers, order, strict=True):
                images = stacks.images[stacks.views.particle == row]
                write_mrc(own / f"{number}_stack2d.mrcs", images, pixel, stack=True, dtype=dtype)
        if self.config.volumes_3d:
            number_of = dict(zip(order, numbers, strict=True))
            noise = self._view_noise(series, stacks) if self.config.whiten else None
            for row, volume in extract_volumes(views, series, positions, self.settings, noise=noise):
                base = own / number_of[row]
                write_mrc(f"{base}_data.mrc", volume.data, pixel, dtype=dtype)
                weights = np.concatenate([volume.weight, volume.multiplicity])
                write_mrc(f"{base}_weights.mrc", weights, 1.0 / pixel, dtype=dtype)

    def _view_noise(self, series, stacks):
        """Noise of every view, from the stacks of the series."""
        shown = stacks.views
        transfer = ImageTransfer.of_views(
            series, shown.view, shown.depth_angst, self.settings.dose_at, flat=not self.settings.ctf_premultiply
        )
        n_views = shown.visible.shape[1]
        return view_noise(stacks.images, transfer, shown.view, n_views, stacks.pixel_size_angst, self.settings.circle_crop)

    def optics(self, dimensions: int = 2) -> pd.DataFrame:
        """RELION's data_optics of the extracted images."""
        table = pd.DataFrame(self._optics).assign(rlnImageDimensionality=dimensions)
        group = np.arange(1, len(table) + 1)
        return table.assign(rlnOpticsGroup=group, rlnOpticsGroupName=[f"opticsGroup{g}" for g in group])

    def chosen_table(self) -> Particles:
        """What averaging reads: the 3D sums where they were asked for, else the 2D stacks."""
        return self.volume_table() if self.config.volumes_3d else self.table()

    def table(self) -> Particles:
        """All extracted particles with their 2D stacks. Raises DataQualityError E-EXT-05 when there are none."""
        if not self._parts:
            raise DataQualityError(
                "E-EXT-05",
                "no particle could be extracted",
                found="; ".join(self.warnings) or "no tilt series",
                fix="see the warnings of each tilt series",
            )
        merged = merge_particles([Particles(part) for part in self._parts])
        return Particles(merged.table, self.optics(), are_2d_stacks=True)

    def _own_files(self, ending: str):
        return [
            (self.folder / tomo / f"{name.rpartition('/')[2]}{ending}").as_posix()
            for tomo, name in zip(self.table().table["tomo_name"], self.table().table["particle_name"], strict=True)
        ]

    def relion_table(self) -> Particles:
        """The same particles, each with its own 2D stack file (needs ``relion_files``)."""
        return self.table().with_columns(image_name=self._own_files("_stack2d.mrcs"))

    def volume_table(self) -> Particles:
        """The same particles with their 3D files (needs ``volumes_3d``)."""
        table = self.table().table.drop(columns="visible_frames")
        table = table.assign(image_name=self._own_files("_data.mrc"), ctf_image=self._own_files("_weights.mrc"))
        return Particles(table, self.optics(3), are_2d_stacks=False)

    def summary(self) -> dict:
        """Numbers for the report."""
        images = sum(c["images"] for c in self._counts.values())
        particles = sum(c["particles"] for c in self._counts.values())
        return {
            "n_particles": particles,
            "n_dropped": sum(c["dropped"] for c in self._counts.values()),
            "n_images": images,
            "views_per_particle": images / max(particles, 1),
            "binning": self.settings.binning,
            "box_px": self.settings.crop_px,
            "pixel_size_angst": float(self._optics[0]["rlnImagePixelSize"]) if self._optics else None,
            "series": self._counts,
            "warnings": self.warnings,
        }
