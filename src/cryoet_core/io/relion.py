"""RELION 5 projects: write a view of tilt series, particles and maps that RELION reads as it is; read tomograms.star.

Labels as in RELION 5.0 (tomogram_set, particle_set, optimisation_set); only views in use are written, so that row
numbers in the tilt tables are RELION's frame indices. Paths are relative to the working directory of the run.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.io.atomic import atomic_path
from cryoet_core.io.images import COLUMNS, REPAIRS, image_name, image_names, split_image_name
from cryoet_core.io.mrc import read_header
from cryoet_core.io.star import find_block, read_star, write_star
from cryoet_core.metadata import (
    GLOBAL_REQUIRED,
    PARTICLE_LABELS,
    TILT_LABELS,
    Particles,
    TiltSeries,
    series_from_tables,
)

_TILT_COLUMNS = [c for c, label in TILT_LABELS.items() if label.startswith("rln")]
_TILT_NEEDED = ("image", "pre_exposure_e_per_a2", "defocus_u_angst", "defocus_v_angst", "defocus_angle_deg",
                "y_tilt_deg", "z_rot_deg", "x_shift_angst", "y_shift_angst")
_IMAGES = ("rlnMicrographName", "rlnMicrographNameEven", "rlnMicrographNameOdd")
_IMAGE_COLUMNS = ("image_name", "ctf_image", "visible_frames")
_IMAGE_OPTICS = ("rlnCtfDataAreCtfPremultiplied", "rlnImageDimensionality", "rlnTomoSubtomogramBinning",
                 "rlnImagePixelSize", "rlnImageSize")


def _optics_key(series: TiltSeries) -> tuple[float, ...]:
    return (float(series.voltage_kv), float(series.spherical_aberration_mm), float(series.amplitude_contrast),
            float(series.pixel_size_angst))


def _optics_groups(series_list: list[TiltSeries]) -> dict[str, int]:
    """Group (from 1) of every series: series with the same microscope constants and pixel size share one."""
    keys: dict[tuple, int] = {}
    return {s.name: keys.setdefault(_optics_key(s), len(keys) + 1) for s in series_list}


def _even(pixels: float) -> int:
    return int(2 * round(pixels / 2))


def with_own_stack(series: TiltSeries, stack: str | os.PathLike | None) -> TiltSeries:
    """The series as RELION is to read it, which knows no list of repaired pixels: its full views in ``stack``, made for RELION, and no halves.

    The same series where there is no such stack.
    """
    if stack is None:
        return series
    tilts = series.tilts.drop(columns=[*COLUMNS, REPAIRS], errors="ignore")
    return dataclasses.replace(series, tilts=tilts.assign(image=image_names(len(tilts), stack)))


def tomogram_row(series: TiltSeries, star_file: str, group_name: str) -> dict:
    """Row of data_global. Sizes are in pixels of the tilt images, even; a size of 0 (unknown) is the images' size."""
    scale = series.movie_pixel_size_angst / series.pixel_size_angst
    sizes = [_even(n * scale) for n in series.tomogram_size_px]
    sizes = [n or _even(default) for n, default in zip(sizes, (*series.image_size_px, min(series.image_size_px)),
                                                       strict=True)]
    return {
        "rlnTomoName": series.name, "rlnVoltage": float(series.voltage_kv),
        "rlnSphericalAberration": float(series.spherical_aberration_mm),
        "rlnAmplitudeContrast": float(series.amplitude_contrast),
        "rlnMicrographOriginalPixelSize": float(series.movie_pixel_size_angst),
        "rlnTomoHand": float(series.handedness), "rlnOpticsGroupName": group_name,
        "rlnTomoTiltSeriesPixelSize": float(series.pixel_size_angst), "rlnTomoTiltSeriesStarFile": star_file,
        "rlnTomoSizeX": sizes[0], "rlnTomoSizeY": sizes[1], "rlnTomoSizeZ": sizes[2],
    }


def tilt_table(series: TiltSeries) -> pd.DataFrame:
    """RELION's per-tilt table of the views in use (RELION labels only). Raises UserInputError E-RELION-01."""
    missing = [c for c in _TILT_NEEDED if c not in series.tilts]
    if missing or not series.included.any():
        raise UserInputError(
            "E-RELION-01", "this tilt series cannot be written for RELION", field=series.name,
            found="no views in use" if not missing else f"no {', '.join(missing)}",
            expected="views with images, doses, defoci and alignment", fix="run the steps up to alignment",
        )
    used = series.select(series.included).tilts
    columns = [c for c in _TILT_COLUMNS if c in used]
    table = used[columns].rename(columns=TILT_LABELS)
    if "rlnDefocusU" in table:
        table["rlnCtfAstigmatism"] = (table["rlnDefocusU"] - table["rlnDefocusV"]).abs()
    return table


def parse_visible_frames(text: str) -> np.ndarray:
    """"[1,0,1]" -> (n,) bool. Raises UserInputError E-RELION-02."""
    entries = text.strip().removeprefix("[").removesuffix("]").split(",")
    if not all(entry.strip() in ("0", "1") for entry in entries):
        raise UserInputError("E-RELION-02", "not a list of visible frames", field="rlnTomoVisibleFrames",
                             found=repr(text[:60]), expected="[1,0,1,...]", fix="extract the particles again")
    return np.array([entry.strip() == "1" for entry in entries])


def format_visible_frames(visible: np.ndarray) -> str:
    """(n,) bool -> "[1,0,1]"."""
    return "[" + ",".join("1" if v else "0" for v in np.asarray(visible)) + "]"


def _visible_in_view(text: str, series: TiltSeries) -> str:
    """Visible frames of the rows in the view; the list may be over all rows or over the rows in use already."""
    visible = parse_visible_frames(text)
    if len(visible) == len(series):
        if visible[~series.included].any():  # its image is in the particle's stack: dropping the row would shift all
            raise UserInputError("E-RELION-02", "particle images of excluded views", field=series.name,
                                 found="an excluded view is visible", fix="extract the particles again")
        visible = visible[series.included]
    if len(visible) != series.included.sum():
        raise UserInputError(
            "E-RELION-02", "visible frames and views differ in number", field=series.name, found=str(len(visible)),
            expected=f"{len(series)} (all views) or {int(series.included.sum())} (views in use)",
            fix="extract the particles again",
        )
    return format_visible_frames(visible)


def _has_own_images(table: pd.DataFrame) -> bool:
    """RELION needs one file per particle; several particles in one stack are ours only."""
    if "image_name" not in table or len(table) == 0:
        return False
    return bool(table["image_name"].is_unique and not table["image_name"].str.contains("@").any())


def _particle_table(particles: Particles, series: dict[str, TiltSeries], groups: dict[str, int]) -> pd.DataFrame:
    table = particles.table
    unknown = sorted(set(table["tomo_name"]) - set(series))
    if unknown:
        raise UserInputError("E-RELION-03", "particles of a tilt series that is not given", field="rlnTomoName",
                             found=unknown[0], expected=", ".join(sorted(series)), fix="give all tilt series")
    if not _has_own_images(table):
        table = table.drop(columns=[c for c in _IMAGE_COLUMNS if c in table])
    elif "visible_frames" in table:
        visible = [_visible_in_view(v, series[t])
                   for v, t in zip(table["visible_frames"], table["tomo_name"], strict=True)]
        table = table.assign(visible_frames=visible)
    if "particle_name" not in table:
        number = table.groupby("tomo_name", sort=False).cumcount() + 1
        table = table.assign(particle_name=[f"{t}/{n}" for t, n in zip(table["tomo_name"], number, strict=True)])
    absent = [c for c in ("origin_x_angst", "origin_y_angst", "origin_z_angst", "rot_deg", "tilt_deg", "psi_deg")
              if c not in table]
    table = table.assign(optics_group=[groups[t] for t in table["tomo_name"]], **dict.fromkeys(absent, 0.0))
    columns = [c for c in PARTICLE_LABELS if c in table] + [c for c in table if c.startswith("rln")]
    return table[columns].rename(columns=PARTICLE_LABELS)


def _optics_table(particles: Particles, series_list: list[TiltSeries], groups: dict[str, int]) -> pd.DataFrame:
    first = {group: next(s for s in series_list if groups[s.name] == group) for group in sorted(set(groups.values()))}
    table = pd.DataFrame([
        {"rlnOpticsGroup": group, "rlnOpticsGroupName": f"opticsGroup{group}", "rlnVoltage": float(s.voltage_kv),
         "rlnSphericalAberration": float(s.spherical_aberration_mm),
         "rlnAmplitudeContrast": float(s.amplitude_contrast),
         "rlnTomoTiltSeriesPixelSize": float(s.pixel_size_angst)}
        for group, s in first.items()
    ])
    if _has_own_images(particles.table) and len(particles.optics):
        for label in _IMAGE_OPTICS:
            if label in particles.optics:
                table[label] = particles.optics[label].iloc[0]
    return table


def _copy_map(source: str | os.PathLike, target: Path) -> str:
    """Copy an MRC file (checked) into the view and return its name there."""
    read_header(source)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target.as_posix()


def _with_stacks_linked(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The tilt table with every "n@stack.mrc" named through a link `folder`/<stack>.mrcs: RELION refuses sections of a .mrc file."""
    links: dict[str, str] = {}
    table = table.copy()
    for label in _IMAGES:
        if label in table:
            parts = [split_image_name(str(name)) for name in table[label]]
            table[label] = [
                image_name(section, _link(path, folder, links)) if "@" in name and path.endswith(".mrc") else name
                for name, (section, path) in zip(table[label], parts, strict=True)
            ]
    return table


def _link(path: str, folder: Path, links: dict[str, str]) -> str:
    """Make the relative link <stem>.mrcs to `path` in `folder`, once; its name."""
    if path not in links:
        link = folder / f"{Path(path).stem}.mrcs"
        folder.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(path, folder))
        links[path] = link.as_posix()
    return links[path]


def write_relion_tomograms(folder: str | os.PathLike, series_list: list[TiltSeries]) -> None:
    """Write tomograms.star and tilt_series/<name>.star into `folder`: what RELION 5 needs of an alignment.

    The stacks of the views are linked as tilt_series/<name>.mrcs. Raises UserInputError E-RELION-01 (tilt table).
    """
    folder, groups, rows = Path(folder), _optics_groups(series_list), []
    for series in series_list:
        star_file = folder / "tilt_series" / f"{series.name}.star"
        write_star(star_file, {series.name: _with_stacks_linked(tilt_table(series), star_file.parent)})
        rows.append(tomogram_row(series, star_file.as_posix(), f"opticsGroup{groups[series.name]}"))
    write_star(folder / "tomograms.star", {"global": pd.DataFrame(rows)})


def write_relion_project(
    folder: str | os.PathLike, series_list: list[TiltSeries], particles: Particles,
    map: str | os.PathLike | None = None, half1: str | os.PathLike | None = None,
    half2: str | os.PathLike | None = None, mask: str | os.PathLike | None = None,
) -> None:
    """Write the RELION 5 view of one averaging round into `folder`.

    tomograms.star, tilt_series/<name>.star with links to the stacks, particles.star, optimisation_set.star (written last), and copies of
    the MRC files map.mrc, half1.mrc, half2.mrc, mask.mrc that are given. Particle images are named only where
    every particle has a file of its own, as RELION wants; else RELION's extract job makes them.

    Raises UserInputError E-RELION-01 (tilt table), E-RELION-02 (visible frames), E-RELION-03 (unknown series).
    """
    folder = Path(folder)
    groups = _optics_groups(series_list)
    write_relion_tomograms(folder, series_list)
    two_d = particles.are_2d_stacks and _has_own_images(particles.table)
    write_star(folder / "particles.star", {
        "general": {"rlnTomoSubTomosAre2DStacks": int(two_d)},
        "optics": _optics_table(particles, series_list, groups),
        "particles": _particle_table(particles, {s.name: s for s in series_list}, groups),
    })
    optimisation = {"rlnTomoParticlesFile": (folder / "particles.star").as_posix(),
                    "rlnTomoTomogramsFile": (folder / "tomograms.star").as_posix()}
    for label, name, source in (("", "map", map), ("rlnTomoReferenceMap1File", "half1", half1),
                                ("rlnTomoReferenceMap2File", "half2", half2),
                                ("rlnTomoReferenceMaskFile", "mask", mask)):
        if source is not None:
            path = _copy_map(source, folder / f"{name}.mrc")
            optimisation |= {label: path} if label else {}
    write_star(folder / "optimisation_set.star", {"": optimisation})


def _in_root(name: str, root: Path) -> str:
    section, path = split_image_name(name)
    full = (root / path).as_posix()
    return f"{section + 1:06d}@{full}" if "@" in name else full


def _completed(tilts: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Columns that our tables need and RELION's may lack: keys by dose, nominal values, x tilt, exclusion."""
    dose = tilts["rlnMicrographPreExposure"].to_numpy(np.float64)
    tilt_id = np.empty(len(tilts), dtype=np.int64)
    tilt_id[np.argsort(dose, kind="stable")] = np.arange(1, len(tilts) + 1)
    zeros = np.zeros(len(tilts))
    defaults = {"tlTiltId": tilt_id, "rlnTomoNominalStageTiltAngle": tilts.get("rlnTomoYTilt"),
                "rlnTomoXTilt": zeros, "rlnTomoYTilt": tilts.get("rlnTomoNominalStageTiltAngle"),
                "rlnTomoZRot": tilts.get("rlnTomoNominalTiltAxisAngle"),
                "rlnTomoXShiftAngst": zeros, "rlnTomoYShiftAngst": zeros, "rlnCtfScalefactor": zeros + 1,
                "tlExcluded": np.zeros(len(tilts), dtype=np.int64), "tlExcludeReason": "none"}
    missing = {k: v for k, v in defaults.items() if k not in tilts and v is not None}
    for column in _IMAGES:
        if column in tilts:
            missing[column] = [_in_root(name, root) for name in tilts[column]]
    return tilts.assign(**missing)


def read_relion_tomograms(path: str | os.PathLike, root: str | os.PathLike = ".") -> list[TiltSeries]:
    """Tilt series of a RELION 5 tomograms.star; rows keep RELION's order (its frame index).

    root: RELION's project folder, to which the paths in the files refer. tilt_id is the order of dose.
    Raises UserInputError E-STAR-*, E-TAB-*, E-RELION-04 (columns of data_global).
    """
    table = find_block(read_star(path), "global", path)
    rows = [table] if isinstance(table, dict) else table.to_dict("records")
    result = []
    for row in rows:
        lacking = [label for label in (*GLOBAL_REQUIRED, "rlnTomoTiltSeriesStarFile") if label not in row]
        if lacking:
            raise UserInputError("E-RELION-04", "columns missing", file=os.fspath(path), field="data_global",
                                 found=", ".join(row), expected=", ".join(lacking), fix="write it with RELION 5")
        star_file = Path(root) / row["rlnTomoTiltSeriesStarFile"]
        tilts = find_block(read_star(star_file), str(row["rlnTomoName"]), star_file)
        tilts = pd.DataFrame([tilts]) if isinstance(tilts, dict) else tilts
        if "rlnMicrographPreExposure" not in tilts:
            raise UserInputError("E-RELION-04", "columns missing", file=str(star_file), field="tilt table",
                                 found=", ".join(tilts.columns), expected="rlnMicrographPreExposure",
                                 fix="write it with RELION 5")
        series = series_from_tables(row, _completed(tilts, Path(root)))
        result.append(_with_image_size(series).validate(str(star_file)))
    return result


def find_in_project(name: str, near: str | os.PathLike) -> Path:
    """A file that a RELION file `near` names relative to its project's folder: the working directory, or a folder above `near`.

    Raises UserInputError E-FILE-01.
    """
    roots = [Path(), *Path(near).absolute().parents]
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise UserInputError("E-FILE-01", "no such file", file=name, field=f"named in {os.fspath(near)}",
                         fix="keep RELION's files where they are, under the folder of its project")


def _with_image_size(series: TiltSeries) -> TiltSeries:
    """Set image_size_px from the first image where it can be read."""
    if "image" in series.tilts and len(series.tilts):
        image = Path(split_image_name(series.tilts["image"].iloc[0])[1])
        if image.is_file():
            series.image_size_px = read_header(image).shape[:0:-1]
    return series
