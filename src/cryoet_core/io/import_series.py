"""Import of tilt series: movies with an mdoc, or a ready stack with tilt angles -> TiltSeries and its summary."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.io import acquisition
from cryoet_core.io.acquisition import Given, Sourced
from cryoet_core.io.images import image_name
from cryoet_core.io.imod import read_tlt
from cryoet_core.io.mdoc import Mdoc, MdocSection, read_mdocs
from cryoet_core.io.mrc import read_header
from cryoet_core.io.recordings import compare_counts, compare_sizes, orientation
from cryoet_core.metadata import TiltSeries

_DEFAULT_HANDEDNESS = -1
MISSING = "missing_movie"  # reasons in the table
BAD_SECTION = "bad_mdoc_section"
ONE_SIDED_DEG = (30.0, 5.0)  # smallest range of tilts on one side, and how far they may reach to the other
SAME_PIXEL = 0.05  # relative difference of two statements of one pixel size


@dataclass
class ImportResult:
    """series; sources: where each value came from; warnings: what a user should look at; overridden: config key ->
    {"config", "mdoc"} where the config's value replaced a different one of the mdoc; frames_lost: {"movie",
    "n_frames", "expected"} of each movie that has fewer frames than were recorded; n_bad_sections: of the mdoc, whose
    views are left out."""

    series: TiltSeries
    sources: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    overridden: dict[str, dict] = field(default_factory=dict)
    frames_lost: list[dict] = field(default_factory=list)
    n_bad_sections: int = 0

    def summary(self) -> dict:
        """Plain numbers for summary.json."""
        tilts = self.series.tilts
        return {
            "name": self.series.name,
            "n_tilts": len(tilts),
            "n_excluded": int((~self.series.included).sum()),
            "tilt_range_deg": [float(tilts["nominal_tilt_deg"].min()), float(tilts["nominal_tilt_deg"].max())],
            "tilt_axis_deg": float(tilts["nominal_axis_deg"].iloc[0]),
            "pixel_size_angst": self.series.pixel_size_angst,
            "voltage_kv": self.series.voltage_kv,
            "image_size_px": list(self.series.image_size_px),
            "total_dose_e_per_a2": float((tilts["pre_exposure_e_per_a2"] + tilts["exposure_e_per_a2"]).max()),
            "n_frames": sorted({int(n) for n in tilts["n_frames"]}) if "n_frames" in tilts else [],
            "missing_movies": tilts["movie"][tilts["exclude_reason"] == MISSING].tolist() if "movie" in tilts else [],
            "frames_lost": self.frames_lost,
            "n_bad_sections": self.n_bad_sections,
            "sources": self.sources,
            "overridden": self.overridden,
            "warnings": self.warnings,
        }


def _add_start_geometry(tilts: pd.DataFrame, axis_deg: float) -> pd.DataFrame:
    """Columns of a fresh import: nominal geometry, unknown defocus, nothing excluded."""
    nominal = tilts["nominal_tilt_deg"].to_numpy(np.float64)
    tilts = tilts.assign(
        nominal_axis_deg=float(axis_deg), defocus_u_angst=0.0, defocus_v_angst=0.0, defocus_angle_deg=0.0,
        ctf_scale=np.cos(np.deg2rad(nominal)), x_tilt_deg=0.0, y_tilt_deg=nominal, z_rot_deg=float(axis_deg),
        x_shift_angst=0.0, y_shift_angst=0.0,
    )
    if "excluded" not in tilts:
        tilts = tilts.assign(excluded=0, exclude_reason="none")
    return tilts.sort_values(["nominal_tilt_deg", "tilt_id"], kind="stable").reset_index(drop=True)


def _exclude_repeats(tilts: pd.DataFrame, keep: str, path: str) -> tuple[pd.DataFrame, list[str]]:
    """Of images at one angle (within 0.1 degrees) keep the latest or the first that can be read; the others are marked.

    Rows that are excluded already stay as they are. Raises UserInputError E-MDOC-11 with keep = "error".
    """
    gone = tilts["excluded"].to_numpy(np.int64)
    usable = (gone == 0) & (tilts["n_frames"].to_numpy() > 0)
    excluded, reasons = gone.copy(), tilts["exclude_reason"].tolist()
    angles = tilts["nominal_tilt_deg"].to_numpy()
    ids = tilts["tilt_id"].to_numpy()
    for row in np.flatnonzero(usable):
        alike = usable & (np.abs(angles - angles[row]) <= acquisition.SAME_TILT_DEG)
        better = alike & ((ids < ids[row]) if keep == "first" else (ids > ids[row]))
        if better.any():
            excluded[row] = 1
            reasons[row] = f"recorded before as tilt_id {ids[better].min()}" if keep == "first" else f"recorded again as tilt_id {ids[better].max()}"
    repeats = np.flatnonzero(excluded & ~gone)
    if keep == "error" and len(repeats):
        raise UserInputError(
            "E-MDOC-11", "a tilt was recorded twice", file=path, field="TiltAngle",
            found=", ".join(f"{angles[i]:g}" for i in repeats), expected="one image per angle",
            fix="remove a section, or set import_tilt_series.duplicates to latest or first",
        )
    warnings = [f"tilt_id {ids[i]} ({angles[i]:g} deg): {reasons[i]}" for i in repeats]
    return tilts.assign(excluded=excluded, exclude_reason=reasons), warnings


def _movie_paths(mdoc: Mdoc, movies_dir: str | os.PathLike | None) -> dict[int, Path]:
    """id of each image section -> path of its movie, which may not exist; sections without a movie of their own get a
    fault.

    Raises UserInputError E-FILE-02 (folder), E-MDOC-03, and E-MDOC-02 (missing), -05 (one movie for several images),
    -06 (no name) where that is so
    for half of the sections or more.
    """
    folder = Path(movies_dir) if movies_dir else Path(mdoc.path).parent
    if not folder.is_dir():
        raise UserInputError("E-FILE-02", "no such folder", file=str(folder), fix="check data.movies_dir in the config")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    paths = {}
    for section in mdoc.images:
        if section.movie_name is None:
            error = acquisition.missing_key(
                section, "SubFramePath", "the name of the movie", "if there are no movies, give the stack (data.stacks)"
            )
            section.fault = section.fault or str(error)
            acquisition.check_faults(mdoc, error)
            paths[id(section)] = folder / f"no_movie_is_named_in_section_{section.index}"
        else:
            paths[id(section)] = (
                acquisition.find_movie(section.movie_name, folder, mdoc, names) or folder / section.movie_name
            )
    _fault_shared_movies(mdoc, paths)
    missing = [path for section in mdoc.images if not _exists(path := paths[id(section)]) and section.movie_name]
    if missing and 2 * len(missing) >= len(mdoc.images):
        raise acquisition.movies_not_found(missing, len(mdoc.images), folder, mdoc, names)
    _tell_movies_without_section(mdoc, [path.name for path in paths.values() if path not in missing], names)
    return paths


def _exists(path: Path) -> bool:
    """Whether the file is there; a name that no file can have (too long) is not."""
    try:
        return path.exists()
    except OSError:
        return False


def _tell_movies_without_section(mdoc: Mdoc, named: list[str], present: list[str]) -> None:
    """Warn of movies that are called like those of the series and stand in no section: the mdoc may be cut."""
    start = re.match(r".*[^A-Za-z0-9]", os.path.commonprefix(named), re.DOTALL)
    if len(named) < 3 or start is None:
        return
    endings = {Path(name).suffix.lower() for name in named}
    others = [
        name
        for name in present
        if name.startswith(start[0]) and Path(name).suffix.lower() in endings and name not in named
    ]
    if others:
        mdoc.warnings.append(
            f"{len(others)} files are called like the movies of this series ({start[0]}..) and "
            f"stand in no section, the first {others[0]}: "
            f"{mdoc.path} may be cut, or their sections were removed"
        )


def _fault_shared_movies(mdoc: Mdoc, paths: dict[int, Path]) -> None:
    """Of sections that name one movie, a copy of another is dropped, and others get a fault: nobody knows whose movie
    it is."""
    owners: dict[Path, list[MdocSection]] = {}
    for section in mdoc.images:
        owners.setdefault(paths[id(section)], []).append(section)
    for path, sections in owners.items():
        first, *more = sections
        for section in [s for s in more if s.values == first.values]:
            mdoc.sections = [s for s in mdoc.sections if s is not section]
            mdoc.warnings.append(f"{mdoc.path}: {section.title} stands there twice, word for word: it counts once")
        if any(s.values != first.values for s in more):
            error = UserInputError(
                "E-MDOC-05",
                "one movie for several images",
                file=mdoc.path,
                field="SubFramePath",
                found=f"{path} in {', '.join(s.title for s in sections)}",
                expected="one movie each",
                fix="correct the mdoc",
            )
            for section in sections:
                section.fault = section.fault or str(error)
            acquisition.check_faults(mdoc, error)


def _is_eer(paths: list[Path]) -> bool:
    return any(path.suffix.lower() == ".eer" for path in paths)


def import_movies(
    name: str, mdoc_paths: str | os.PathLike | list, movies_dir: str | os.PathLike | None, given: Given, *,
    gain: str | None = None, defects: str | None = None,
) -> ImportResult:
    """Tilt series from movies and its mdoc (or mdocs): rows sorted by tilt, tilt_id = order of acquisition from 1.

    movies_dir None: the folder of the mdoc. gain, defects: files of the camera, whose sizes are compared with the
    movies'. The table has `movie`, no `image`. A view whose movie is missing or whose section is bad stays in the
    table, excluded; one without an angle cannot. Raises UserInputError E-MDOC-*, E-MOVIE-*, E-GAIN-*, E-DEF-*,
    E-FILE-*.
    """
    mdoc, notes = read_mdocs(mdoc_paths if isinstance(mdoc_paths, (list, tuple)) else [mdoc_paths])
    acquisition.find_faults(mdoc, given)
    acquisition.check_is_tilt_series(mdoc, acquisition.tilt_angles(mdoc))
    known_before = len(mdoc.warnings)
    path_of = _movie_paths(mdoc, movies_dir)
    sizes = compare_sizes(
        [path if _exists(path := path_of[id(section)]) else None for section in mdoc.images], mdoc,
        tilt_axis_given=given.tilt_axis_deg is not None, gain=gain, defects=defects,
    )
    found = acquisition.read_acquisition(mdoc, given, sizes.shape, sizes.confirmed)
    movie_of = {id(section): movie for section, movie in zip(mdoc.images, sizes.movies, strict=True)}
    counts = compare_counts([movie_of[id(section)] for section in found.sections], found.sections, found.exposure)
    paths = [path_of[id(section)] for section in found.sections]
    missing = [not _exists(path) for path in paths]
    reasons = [
        BAD_SECTION if section.fault else MISSING if gone else "none"
        for section, gone in zip(found.sections, missing, strict=True)
    ]
    tilts = pd.DataFrame({
        "tilt_id": found.tilt_id.astype(np.int64), "movie": [path.as_posix() for path in paths],
        "n_frames": counts.n_frames, "nominal_tilt_deg": found.tilt_deg,
        "pre_exposure_e_per_a2": found.pre_exposure, "exposure_e_per_a2": found.exposure * counts.share,
        "excluded": [int(reason != "none") for reason in reasons], "exclude_reason": reasons,
    })
    if counts.lost:
        tilts["n_frames_lost"] = np.where(counts.n_frames > 0, counts.expected - counts.n_frames, 0)
    gone = [f"movie {path} is missing: its view stays in the table, excluded as {MISSING}"
            for path, reason in zip(paths, reasons, strict=True) if reason == MISSING]
    tilts, last = _exclude_repeats(tilts, given.duplicates, mdoc.path)
    finer, notes_of_eer = _super_resolution(paths, given)
    table = _add_start_geometry(tilts, found.tilt_axis.value)
    series = _series(name, given, found.voltage, found.pixel_size, sizes.shape, table, finer)
    sources = found.sources if finer == 1 else found.sources | {
        "pixel_size": f"{found.pixel_size.source}, / {finer} (EER super-resolution)"}
    warnings = [
        *notes,
        *mdoc.warnings[known_before:],
        *gone,
        *sizes.warnings,
        *counts.warnings,
        *notes_of_eer,
        *found.warnings,
        *_pixel_of_headers(sizes.movies, found.pixel_size.value),
        *_one_sided(tilts),
        *last,
    ]
    n_bad = sum(bool(section.fault) for section in mdoc.images)
    return ImportResult(series.validate(mdoc.path), sources, warnings, found.overridden, counts.lost, n_bad)


def _one_sided(tilts: pd.DataFrame) -> list[str]:
    """A warning where all tilts have one sign: half of a bidirectional series that was recorded into two files."""
    low, high = float(tilts["nominal_tilt_deg"].min()), float(tilts["nominal_tilt_deg"].max())
    if high - low < ONE_SIDED_DEG[0] or not (low > -ONE_SIDED_DEG[1] or high < ONE_SIDED_DEG[1]):
        return []
    return [f"all tilts lie on one side ({low:g} to {high:g} degrees): if the other half of this series is in another "
            "file, join their mdocs with data.mdoc_series"]


def _pixel_of_headers(movies: list, pixel_size_angst: float) -> list[str]:
    """A warning where the movies' own headers (MRC) say another pixel size; 1 A stands for nothing known."""
    stated = [m.pixel_size_angst for m in movies if m and m.pixel_size_angst not in (0.0, 1.0)]
    if not stated or abs(np.median(stated) / pixel_size_angst - 1) <= SAME_PIXEL:
        return []
    return [f"the headers of the movies say {np.median(stated):g} A per pixel, {pixel_size_angst:g} A was used: check "
            "import_tilt_series.pixel_size_angst"]


def _super_resolution(paths: list[Path], given: Given) -> tuple[int, list[str]]:
    """Pixels per camera pixel at which the movies are drawn, and a warning where the config asks for what cannot be had."""
    if _is_eer(paths) or given.eer_super_resolution == 1:
        return given.eer_super_resolution if _is_eer(paths) else 1, []
    return 1, [f"eer_super_resolution: {given.eer_super_resolution} has no effect: the movies are not EER"]


def _series(
    name: str, given: Given, volts: Sourced, pixel: Sourced, shape: tuple[int, int], tilts: pd.DataFrame, finer: int = 1
) -> TiltSeries:
    """The series; shape (h, w) and pixel size are those of the camera, `finer` pixels of the table lie in one of them per axis."""
    return TiltSeries(
        name=name, voltage_kv=volts.value, spherical_aberration_mm=given.spherical_aberration_mm,
        amplitude_contrast=given.amplitude_contrast, pixel_size_angst=pixel.value / finer,
        movie_pixel_size_angst=pixel.value / finer, handedness=_DEFAULT_HANDEDNESS,
        image_size_px=(shape[1] * finer, shape[0] * finer), tomogram_size_px=(0, 0, 0), tilts=tilts, eer_super_resolution=finer,
    )


def _given(value: float | None, config_key: str, what: str, path: str) -> Sourced:
    if value is None:
        raise UserInputError(
            "E-STACK-01", f"a stack does not say its {what}", file=path, field=config_key, found="nothing",
            fix=f"set import_tilt_series.{config_key} in the config",
        )
    return Sourced(float(value), f"config {config_key}")


def _stack_pixel_size(path: str, given: Given, in_header: float) -> Sourced:
    if given.pixel_size_angst is None and in_header > 0:
        return Sourced(in_header, "header of the stack")
    return _given(given.pixel_size_angst, "pixel_size_angst", "pixel size", path)


def _read_tilt_table(path: str) -> pd.DataFrame:
    """A tab-separated table with section, tilt_deg and, as far as known, prior_dose_e_per_a2, acquisition_order.

    Raises UserInputError E-TSV-01 (columns), E-TSV-02 (a value that is not a number).
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=path, fix="check data.tilts in the config") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserInputError("E-TSV-01", "not a tab-separated table", file=path, found=str(error).strip(),
                             expected="a header line and one row per view", fix="write it again") from error
    if "tilt_deg" not in table:
        raise UserInputError("E-TSV-01", "column missing", file=path, field="tilt_deg",
                             found=", ".join(table.columns), expected="tilt_deg", fix="name the columns in line 1")
    known = [c for c in ("section", "tilt_deg", "prior_dose_e_per_a2", "acquisition_order") if c in table]
    columns = {}
    for column in known:
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
        if not np.all(np.isfinite(values)):
            row = int(np.argmin(np.isfinite(values)))
            raise UserInputError("E-TSV-02", "value is not a number", file=path, field=f"{column}, row {row + 1}",
                                 found=repr(table[column].iloc[row]), expected="a number", fix="correct it")
        columns[column] = values
    return pd.DataFrame(columns)


def _read_tilts(path: str | os.PathLike) -> pd.DataFrame:
    where = os.fspath(path)
    if Path(path).suffix.lower() in (".tsv", ".txt", ".csv"):
        return _read_tilt_table(where)
    return pd.DataFrame({"tilt_deg": read_tlt(path)})


def _stack_order(table: pd.DataFrame) -> tuple[np.ndarray, str, list[str]]:
    """(n,) tilt_id from 1, its source, warnings: acquisition_order, else prior dose, else by |tilt| (a guess)."""
    for column in ("acquisition_order", "prior_dose_e_per_a2"):
        if column in table and table[column].is_unique:
            return _ranks(table[column].to_numpy()), f"table {column}", []
    size = table["tilt_deg"].abs().to_numpy() + 1e-6 * (table["tilt_deg"].to_numpy() < 0)
    warning = ("the order of acquisition is not given: taken as dose-symmetric (by |tilt|); "
               "give a table with acquisition_order if it was not")
    return _ranks(size), "guess: dose-symmetric", [warning]


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks


def _stack_dose(
    table: pd.DataFrame, tilt_id: np.ndarray, given: Given, path: str
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """(dose before, dose of) each view and their sources. Raises UserInputError E-STACK-01."""
    per_tilt, start = given.dose_per_tilt_e_per_a2, given.initial_dose_e_per_a2
    if per_tilt is None and "prior_dose_e_per_a2" in table and len(table) > 1:
        prior = table["prior_dose_e_per_a2"].to_numpy(np.float64)
        by_time = prior[np.argsort(tilt_id)]
        steps = np.append(np.diff(by_time), np.median(np.diff(by_time)))
        before = prior - by_time[0] + (by_time[0] if start is None else start)
        return before, np.maximum(steps, 0.0)[tilt_id - 1], {
            "pre_exposure": "table prior_dose_e_per_a2", "exposure": "differences of prior_dose_e_per_a2"}
    dose = _given(per_tilt, "dose_per_tilt_e_per_a2", "dose", path).value
    before = (start or 0.0) + dose * (tilt_id - 1.0)
    return before, np.full(len(table), dose), {
        "pre_exposure": "running sum of the doses", "exposure": "config dose_per_tilt_e_per_a2"}


def import_stack(
    name: str, stack_path: str | os.PathLike, tilts_path: str | os.PathLike, given: Given
) -> ImportResult:
    """Tilt series from a ready stack and a table (.tsv), a list of angles (.tlt, .rawtlt) or the stack's own mdoc.

    Rows without a `section` column belong to the sections in order. The table has `image`, no `movie`. Raises
    UserInputError E-STACK-01 (value that only the config can give), E-STACK-02 (counts), E-TSV-*, E-TLT-*; with an
    mdoc E-MDOC-*, E-MOVIE-07, -08.
    """
    where = os.fspath(stack_path)
    header = read_header(stack_path)
    if Path(tilts_path).suffix.lower() == ".mdoc":
        return _import_stack_of_mdoc(name, where, header, tilts_path, given)
    table = _read_tilts(tilts_path)
    sections = table["section"].to_numpy(np.int64) if "section" in table else np.arange(len(table))
    if len(table) != header.n_sections or sorted(sections) != list(range(header.n_sections)):
        raise UserInputError(
            "E-STACK-02", "stack and tilt angles do not belong together", file=os.fspath(tilts_path),
            field="views", found=f"{len(table)} angles", expected=f"{header.n_sections} (sections 0 to "
            f"{header.n_sections - 1} of {where})", fix="give the tilt file of this stack",
        )
    tilt_id, order_source, warnings = _stack_order(table)
    volts = _given(given.voltage_kv, "voltage_kv", "voltage", where)
    pixel = _stack_pixel_size(where, given, header.pixel_size_angst)
    axis = _given(given.tilt_axis_deg, "tilt_axis_deg", "tilt axis", where)
    before, dose, dose_sources = _stack_dose(table, tilt_id, given, where)
    tilts = pd.DataFrame({
        "tilt_id": tilt_id, "image": [image_name(int(s), Path(where).as_posix()) for s in sections],
        "nominal_tilt_deg": table["tilt_deg"].to_numpy(np.float64), "pre_exposure_e_per_a2": before,
        "exposure_e_per_a2": dose,
    })
    sources = {
        "tilts": Path(tilts_path).name, "order": order_source, **dose_sources, "voltage": volts.source,
        "pixel_size": pixel.source, "tilt_axis": axis.source, "spherical_aberration": "config",
        "amplitude_contrast": "config",
    }
    series = _series(name, given, volts, pixel, header.shape[1:], _add_start_geometry(tilts, axis.value))
    return ImportResult(series.validate(where), sources, [*warnings, *_one_sided(tilts)])


def _import_stack_of_mdoc(name: str, stack: str, header, mdoc_path: str | os.PathLike, given: Given) -> ImportResult:
    """A stack that SerialEM wrote: section n of the mdoc (ZValue) describes section n of the stack."""
    mdoc, notes = read_mdocs([mdoc_path])
    numbers = sorted(section.index for section in mdoc.images)
    if numbers != list(range(header.n_sections)):
        raise UserInputError(
            "E-STACK-02",
            "stack and mdoc do not belong together",
            file=mdoc.path,
            field="[ZValue = n]",
            found=f"{len(numbers)} sections, {numbers[0]} to {numbers[-1]}",
            expected=f"{header.n_sections} (sections 0 to {header.n_sections - 1} of {stack})",
            fix="give the mdoc of this stack, or its angles as a .tlt, .rawtlt or .tsv in data.tilts",
        )
    across = orientation(header.shape[1:], mdoc, given.tilt_axis_deg is not None)
    found = acquisition.read_acquisition(mdoc, given, header.shape[1:])
    tilts = pd.DataFrame(
        {
            "tilt_id": found.tilt_id.astype(np.int64),
            "image": [image_name(section.index, Path(stack).as_posix()) for section in found.sections],
            "nominal_tilt_deg": found.tilt_deg,
            "pre_exposure_e_per_a2": found.pre_exposure,
            "exposure_e_per_a2": found.exposure,
            "excluded": [int(bool(section.fault)) for section in found.sections],
            "exclude_reason": [BAD_SECTION if section.fault else "none" for section in found.sections],
        }
    )
    of_header = header.pixel_size_angst
    if of_header > 0 and of_header != 1.0 and abs(of_header / found.pixel_size.value - 1) > 0.01:
        notes.append(
            f"the header of the stack says {of_header:g} A per pixel, {found.pixel_size.source} "
            f"{found.pixel_size.value:g} A: the second was used"
        )
    series = _series(
        name,
        given,
        found.voltage,
        found.pixel_size,
        header.shape[1:],
        _add_start_geometry(tilts, found.tilt_axis.value),
    )
    n_bad = sum(bool(section.fault) for section in mdoc.images)
    return ImportResult(
        series.validate(stack),
        found.sources,
        [*notes, *across, *found.warnings, *_one_sided(tilts)],
        found.overridden,
        n_bad_sections=n_bad,
    )
