"""TiltSeries and Particles: tables with typed columns, and their STAR form (RELION 5 labels, ours start with tl).

Rows are joined by key (tilt_id, particle_name), never by position; excluded views stay in the table.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.local_deformation import N_TERMS, LocalDeformation
from cryoet_core.geometry.rotations import euler_to_matrix
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.star import find_block, read_star, write_star
from cryoet_core.io.table_labels import (
    PARTICLE_LABELS,
    TILT_LABELS,
    column_to_label,
    from_star,
    label_to_column,
    to_star,
)

__all__ = ["PARTICLE_LABELS", "TILT_LABELS", "Particles", "TiltSeries", "column_to_label", "label_to_column",
           "read_particles", "read_tilt_series", "series_from_tables", "tilt_star_table", "write_particles",
           "write_tilt_series"]

TILT_REQUIRED = ("tilt_id", "nominal_tilt_deg", "pre_exposure_e_per_a2", "x_tilt_deg", "y_tilt_deg", "z_rot_deg",
                 "x_shift_angst", "y_shift_angst", "excluded", "exclude_reason")
DEFORMATION_COLUMNS = tuple(f"deformation_{axis}{term}_angst" for term in range(N_TERMS) for axis in "xy")
GEOMETRY_COLUMNS = ("x_tilt_deg", "y_tilt_deg", "z_rot_deg", "x_shift_angst", "y_shift_angst")

# Smallest and largest value that can be meant; checked when a table is read and before it is written.
COLUMN_RANGES = {
    "tilt_id": (1, 1e6), "n_frames": (0, 1e6), "nominal_tilt_deg": (-90, 90), "nominal_axis_deg": (-360, 360),
    "pre_exposure_e_per_a2": (0, 1000), "exposure_e_per_a2": (0, 1000), "defocus_u_angst": (-5e5, 5e5),
    "defocus_v_angst": (-5e5, 5e5), "defocus_angle_deg": (-360, 360), "phase_shift_deg": (-360, 360),
    "x_tilt_deg": (-90, 90), "y_tilt_deg": (-120, 120), "z_rot_deg": (-360, 360),
    "x_shift_angst": (-1e5, 1e5), "y_shift_angst": (-1e5, 1e5), "excluded": (0, 1),
}
FIELD_RANGES = {
    "voltage_kv": (60, 1250), "spherical_aberration_mm": (0, 10), "amplitude_contrast": (0, 1),
    "pixel_size_angst": (0.1, 200), "movie_pixel_size_angst": (0.1, 50),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")


def _require(table: pd.DataFrame, columns: tuple[str, ...], where: str, labels: dict[str, str]) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise UserInputError(
            "E-TAB-01", "columns missing", file=where, field=", ".join(missing),
            found=", ".join(map(str, table.columns)) or "no columns",
            expected=", ".join(column_to_label(c, labels) for c in missing), fix="run the step before again",
        )


def _check_range(values, name: str, limits: tuple[float, float], where: str) -> None:
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    bad = ~((values >= limits[0]) & (values <= limits[1]))
    if bad.any():
        row = int(np.argmax(bad))
        raise UserInputError(
            "E-TAB-02", f"impossible value in row {row + 1}", file=where, field=name, found=f"{values[row]:g}",
            expected=f"{limits[0]:g} to {limits[1]:g}", fix="correct it where it came from (config, mdoc or table)",
        )


@dataclass
class TiltSeries:
    """One tilt series: constants and one row per tilt image (ALL views, sorted by nominal tilt angle).

    pixel_size_angst: of the images the table points at; handedness: +1/-1 (sign of depth in the defocus);
    image_size_px: (w, h) of those images; tomogram_size_px: (x, y, z) in movie pixels, even, 0 = unknown;
    tilts: columns of TILT_LABELS and any others. eer_super_resolution: pixels per camera pixel and axis at which the EER movies of the
    series are drawn (1, 2 or 4); movie_pixel_size_angst is that of these finer pixels. gold_file: where the places of gold beads are listed
    (gold.star), "" when nobody looked; gold_diameter_angst: of most beads, 0 when there are none.
    """

    name: str
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    pixel_size_angst: float
    movie_pixel_size_angst: float
    handedness: int
    image_size_px: tuple[int, int]
    tomogram_size_px: tuple[int, int, int]
    tilts: pd.DataFrame
    optics_group_name: str = ""
    eer_super_resolution: int = 1
    gold_file: str = ""
    gold_diameter_angst: float = 0.0

    def __len__(self) -> int:
        return len(self.tilts)

    @property
    def included(self) -> np.ndarray:
        """(n,) bool: views in use."""
        return self.tilts["excluded"].to_numpy(dtype=np.int64) == 0

    @property
    def geometry(self) -> TiltGeometry:
        """Geometry of all rows."""
        return TiltGeometry(*(self.tilts[c].to_numpy(dtype=np.float64) for c in GEOMETRY_COLUMNS))

    @property
    def optics(self):
        """ctf.model.Optics of this series."""
        from cryoet_core.ctf.model import Optics  # the ctf package imports this module

        return Optics(self.voltage_kv, self.spherical_aberration_mm, self.amplitude_contrast)

    def select(self, mask) -> TiltSeries:
        """The series with the rows of a boolean mask or of integer positions, in that order."""
        rows = np.asarray(mask)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return dataclasses.replace(self, tilts=self.tilts.iloc[rows].reset_index(drop=True))

    def with_columns(self, **columns) -> TiltSeries:
        """A copy with columns set (one value per row, or one for all)."""
        return dataclasses.replace(self, tilts=self.tilts.assign(**columns))

    def with_geometry(self, geometry: TiltGeometry) -> TiltSeries:
        """A copy with the five geometry columns of `geometry` (same rows)."""
        return self.with_columns(**{c: getattr(geometry, c) for c in GEOMETRY_COLUMNS})

    @property
    def local_deformation(self) -> LocalDeformation | None:
        """Local deformation of all rows, None when the table has none."""
        if not set(DEFORMATION_COLUMNS) <= set(self.tilts.columns):
            return None
        values = self.tilts[list(DEFORMATION_COLUMNS)].to_numpy(dtype=np.float64)
        return LocalDeformation(values.reshape(len(self), N_TERMS, 2)) if np.any(values) else None

    def with_local_deformation(self, deformation: LocalDeformation | None) -> TiltSeries:
        """A copy with `deformation` (same rows) in its table, or without any."""
        tilts = self.tilts.drop(columns=[c for c in DEFORMATION_COLUMNS if c in self.tilts])
        if deformation is not None:
            values = deformation.coefficients_angst.reshape(len(self), -1)
            tilts = tilts.assign(**dict(zip(DEFORMATION_COLUMNS, values.T, strict=True)))
        return dataclasses.replace(self, tilts=tilts)

    def validate(self, where: str = "") -> TiltSeries:
        """Return self. Raises UserInputError E-TAB-01 (columns), E-TAB-02 (ranges), E-TAB-04 (keys), E-NAME-01."""
        where = where or self.name
        _check_name(self.name, where)
        _require(self.tilts, TILT_REQUIRED, where, TILT_LABELS)
        for name, limits in FIELD_RANGES.items():
            _check_range(getattr(self, name), name, limits, where)
        if self.handedness not in (1, -1):
            raise UserInputError("E-TAB-02", "impossible value", file=where, field="handedness",
                                 found=str(self.handedness), expected="1 or -1", fix="set handedness in the config")
        if self.eer_super_resolution not in (1, 2, 4):
            raise UserInputError("E-TAB-02", "impossible value", file=where, field="eer_super_resolution",
                                 found=str(self.eer_super_resolution), expected="1, 2 or 4", fix="run import_tilt_series again")
        for column, limits in COLUMN_RANGES.items():
            if column in self.tilts.columns:
                _check_range(self.tilts[column], column, limits, where)
        _check_unique(self.tilts["tilt_id"], "tilt_id", where)
        if len(self.tilts) == 0:
            raise UserInputError("E-TS-01", "tilt series without views", file=where, fix="check the import")
        return self


def _check_name(name: str, where: str) -> None:
    if not _NAME.match(name):
        raise UserInputError(
            "E-NAME-01", "this name cannot be used for a tilt series", file=where, field="name", found=repr(name),
            expected="letters, digits, '_', '-' and '.', starting with a letter or digit",
            fix="rename it in the config",
        )


def _check_unique(values: pd.Series, name: str, where: str) -> None:
    twice = values[values.duplicated()]
    if len(twice):
        raise UserInputError(
            "E-TAB-04", "key given twice", file=where, field=name, found=str(twice.iloc[0]), expected="each once",
            fix="run the step that wrote this table again",
        )


def _global_row(series: TiltSeries, star_file: str) -> dict:
    return {
        "rlnTomoName": series.name,
        "rlnVoltage": float(series.voltage_kv),
        "rlnSphericalAberration": float(series.spherical_aberration_mm),
        "rlnAmplitudeContrast": float(series.amplitude_contrast),
        "rlnMicrographOriginalPixelSize": float(series.movie_pixel_size_angst),
        "rlnTomoTiltSeriesPixelSize": float(series.pixel_size_angst),
        "rlnTomoHand": float(series.handedness),
        "rlnTomoSizeX": int(series.tomogram_size_px[0]),
        "rlnTomoSizeY": int(series.tomogram_size_px[1]),
        "rlnTomoSizeZ": int(series.tomogram_size_px[2]),
        "rlnOpticsGroupName": series.optics_group_name or f"optics_{series.name}",
        "rlnTomoTiltSeriesStarFile": star_file,
        "tlImageSizeX": int(series.image_size_px[0]),
        "tlImageSizeY": int(series.image_size_px[1]),
        "tlEerSuperResolution": int(series.eer_super_resolution),
        **({"tlGoldFile": series.gold_file, "tlGoldDiameter": float(series.gold_diameter_angst)} if series.gold_file else {}),
    }


def series_from_tables(row: dict, tilts: pd.DataFrame) -> TiltSeries:
    """TiltSeries from a row of data_global (RELION labels) and a tilt table (RELION labels).

    Missing tomogram sizes are 0, a missing movie pixel size is that of the images.
    """
    pixel = float(row["rlnTomoTiltSeriesPixelSize"])
    return TiltSeries(
        name=str(row["rlnTomoName"]),
        voltage_kv=float(row["rlnVoltage"]),
        spherical_aberration_mm=float(row["rlnSphericalAberration"]),
        amplitude_contrast=float(row["rlnAmplitudeContrast"]),
        pixel_size_angst=pixel,
        movie_pixel_size_angst=float(row.get("rlnMicrographOriginalPixelSize", pixel)),
        handedness=int(round(float(row["rlnTomoHand"]))),
        image_size_px=(int(row.get("tlImageSizeX", 0)), int(row.get("tlImageSizeY", 0))),
        tomogram_size_px=tuple(int(row.get(f"rlnTomoSize{a}", 0)) for a in "XYZ"),
        tilts=from_star(tilts, TILT_LABELS),
        optics_group_name=str(row.get("rlnOpticsGroupName", "")),
        eer_super_resolution=int(row.get("tlEerSuperResolution", 1)),
        gold_file=str(row.get("tlGoldFile", "")),
        gold_diameter_angst=float(row.get("tlGoldDiameter", 0.0)),
    )


GLOBAL_REQUIRED = ("rlnTomoName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
                   "rlnTomoTiltSeriesPixelSize", "rlnTomoHand")


def tilt_star_table(series: TiltSeries) -> pd.DataFrame:
    """The tilt table with STAR labels, known columns first."""
    return to_star(series.tilts, TILT_LABELS)


def read_tilt_series(path: str | os.PathLike) -> TiltSeries:
    """Read `<ts>.star` (blocks data_global and data_<ts>). Raises UserInputError E-STAR-*, E-TAB-*."""
    where = os.fspath(path)
    blocks = read_star(path)
    table = find_block(blocks, "global", path)
    table = pd.DataFrame([table]) if isinstance(table, dict) else table
    _require(table, GLOBAL_REQUIRED, where, {})
    if len(table) != 1:
        raise UserInputError("E-TAB-05", "one tilt series per file", file=where, field="data_global",
                             found=f"{len(table)} rows", expected="1 row", fix="give the table of one series")
    row = table.iloc[0].to_dict()
    return series_from_tables(row, find_block(blocks, str(row["rlnTomoName"]), path)).validate(where)


def write_tilt_series(series: TiltSeries, path: str | os.PathLike) -> None:
    """Write `<ts>.star` atomically after checking it. Errors: see TiltSeries.validate."""
    series.validate(os.fspath(path))
    star_file = Path(path).name if Path(path).is_absolute() else Path(path).as_posix()
    rows = pd.DataFrame([_global_row(series, star_file)])
    write_star(path, {"global": rows, series.name: tilt_star_table(series)})


@dataclass
class Particles:
    """Particles of any number of tilt series.

    table: one row per particle (columns of PARTICLE_LABELS and any others); optics: RELION's data_optics, with
    RELION's labels as columns; are_2d_stacks: images are stacks of visible tilt images, not volumes.
    """

    table: pd.DataFrame
    optics: pd.DataFrame = field(default_factory=pd.DataFrame)
    are_2d_stacks: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def _columns(self, names: tuple[str, ...]) -> np.ndarray:
        """(n, len(names)) float64; an absent column is 0."""
        zeros = np.zeros(len(self.table))
        return np.stack([self.table[c].to_numpy(np.float64) if c in self.table else zeros for c in names], axis=1)

    @property
    def _subtomogram_rotations(self) -> np.ndarray | None:
        names = ("subtomogram_rot_deg", "subtomogram_tilt_deg", "subtomogram_psi_deg")
        return euler_to_matrix(*self._columns(names).T) if names[0] in self.table else None

    @property
    def rotations(self) -> np.ndarray:
        """(n, 3, 3): reference -> tomogram axes, A_subtomogram . A(rot, tilt, psi) (identity where not given)."""
        own = euler_to_matrix(*self._columns(("rot_deg", "tilt_deg", "psi_deg")).T)
        extra = self._subtomogram_rotations
        return own if extra is None else extra @ own

    @property
    def positions_angst(self) -> np.ndarray:
        """(n, 3) x, y, z in A, centred: coordinate - A_subtomogram . origin (RELION subtracts rlnOrigin*Angst)."""
        origin = self._columns(("origin_x_angst", "origin_y_angst", "origin_z_angst"))
        extra = self._subtomogram_rotations
        if extra is not None:
            origin = np.einsum("nij,nj->ni", extra, origin)
        return self._columns(("x_angst", "y_angst", "z_angst")) - origin

    def select(self, mask) -> Particles:
        """The rows of a boolean mask or of integer positions, in that order; same optics."""
        rows = np.asarray(mask)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return dataclasses.replace(self, table=self.table.iloc[rows].reset_index(drop=True))

    def with_columns(self, **columns) -> Particles:
        """A copy with columns set."""
        return dataclasses.replace(self, table=self.table.assign(**columns))

    def validate(self, where: str = "") -> Particles:
        """Return self. Raises UserInputError E-TAB-01, E-TAB-02 (not finite), E-TAB-04 (particle_name twice)."""
        _require(self.table, ("tomo_name", "x_angst", "y_angst", "z_angst"), where, PARTICLE_LABELS)
        for column, values in self.table.items():
            if values.dtype.kind == "f" and column in PARTICLE_LABELS:
                _check_range(values, str(column), (-1e30, 1e30), where)
        if "particle_name" in self.table:
            _check_unique(self.table["particle_name"], "particle_name", where)
        return self


def read_particles(path: str | os.PathLike) -> Particles:
    """Read particles.star (RELION 5; data_general and data_optics may be absent). Raises E-STAR-*, E-TAB-*."""
    blocks = read_star(path)
    table = find_block(blocks, "particles", path)
    table = pd.DataFrame([table]) if isinstance(table, dict) else table
    optics = blocks.get("optics", pd.DataFrame())
    optics = pd.DataFrame([optics]) if isinstance(optics, dict) else optics
    general = blocks.get("general", {})
    flag = general.get("rlnTomoSubTomosAre2DStacks", 0) if isinstance(general, dict) else 0
    return Particles(from_star(table, PARTICLE_LABELS), optics, bool(flag)).validate(os.fspath(path))


def write_particles(particles: Particles, path: str | os.PathLike) -> None:
    """Write particles.star: data_general, data_optics (where known), data_particles; atomically, after checking."""
    particles.validate(os.fspath(path))
    blocks: dict = {"general": {"rlnTomoSubTomosAre2DStacks": int(particles.are_2d_stacks)}}
    if len(particles.optics):
        blocks["optics"] = particles.optics
    blocks["particles"] = to_star(particles.table, PARTICLE_LABELS)
    write_star(path, blocks)
