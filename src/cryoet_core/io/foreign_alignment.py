"""Alignments that other programs made, in one form: IMOD (.xf, etomo folder), AreTomo (.aln), RELION 5 (STAR), Warp and M (.xml).

Only reading and conversion to our geometry happens here. Which view of a series a row belongs to is decided by key in
tilt_series.foreign, never by the row's number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.local_deformation import N_TERMS, LocalDeformation, monomials
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io import imod
from cryoet_core.io.aretomo import read_aln
from cryoet_core.io.etomo import find_xf, read_etomo
from cryoet_core.io.relion import find_in_project
from cryoet_core.io.star import find_block, read_star
from cryoet_core.io.warp import WarpField, centre_offset_angst, read_warp_xml

MAX_PIXEL_CHANGE = 0.05  # another calibration of the same pixels
_ROUNDING = 0.005  # sizes that differ by less than this share were rounded when images were binned
_LIMITS = {"x_tilt_deg": 90.0, "y_tilt_deg": 120.0, "z_rot_deg": 360.0, "x_shift_angst": 1e5, "y_shift_angst": 1e5, "nominal_deg": 90.0, "dose": 1e4}
_FIELD_STEPS = 13  # places along each side of the volume at which a local field is looked up
_STAR_NAMES = ("tomograms.star", "aligned_tilt_series.star", "tilt_series.star")
_RELION_NEEDED = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")


@dataclass(frozen=True)
class Images:
    """The images that our table points at: size (w, h) and pixel size; given_pixel_angst: of the images that the alignment was
    made on, where the user says it."""

    size_px: tuple[int, int]
    pixel_size_angst: float
    movie_pixel_size_angst: float
    given_pixel_angst: float | None = None


@dataclass(frozen=True)
class ForeignAlignment:
    """What a file says about the views of one series; arrays have one entry per row of the file.

    geometry : in A about our centre, the sign of tilts as in the file except for Warp, whose sign is turned. used : rows the program
    used. Keys, each None where the file has none: names (of movies or images, without folder and ending), nominal_deg (stage angles),
    dose (e/A^2 before the view). dark_deg : stage angles of views that the program left out. handedness : of the geometry as it stands
    here, or None. notes : what was not taken over, or was converted. n_stated : number of views that the file
    says it is of, used or not, or None. deformation : of every row, about our centre, beyond the geometry, or None.
    """

    program: str
    path: str
    geometry: TiltGeometry
    used: np.ndarray
    names: tuple[str, ...] | None = None
    nominal_deg: np.ndarray | None = None
    dose: np.ndarray | None = None
    dark_deg: tuple[float, ...] = ()
    handedness: int | None = None
    notes: tuple[str, ...] = ()
    n_stated: int | None = None
    deformation: LocalDeformation | None = None

    def __len__(self) -> int:
        return len(self.geometry)


def _other_images(path: str, found: str, images: Images) -> UserInputError:
    w, h = images.size_px
    return UserInputError(
        "E-ALN-06", "the alignment was made on images of another field of view", file=path, field="size (w x h)", found=found,
        expected=f"{w} x {h} pixels of {images.pixel_size_angst:g} A, or these binned",
        fix="give the alignment of these images; if only the pixel size differs, say that of its images in "
        "align_tilt_series.alignment_pixel_size_angst",
    )


def alignment_pixel_size(size: tuple[int, int] | None, images: Images, path: str, *, may_be_turned: bool = False) -> tuple[float, str]:
    """Pixel size (A) of the images that shifts in pixels count in, and a note where it is not ours ("" where it is).

    The given one wins; else it follows from the file's image size, which must be ours, or ours binned by a whole number up or down
    (sizes may be rounded); else it is ours. may_be_turned: the file may give height before width.
    Raises UserInputError E-ALN-06 when the fields of view differ.
    """
    ours, pixel = np.array(images.size_px, dtype=np.float64), images.pixel_size_angst
    given = images.given_pixel_angst
    if size is None:
        return given or pixel, f"shifts counted in pixels of {given:g} A (as given)" if given else ""
    theirs = np.array(size, dtype=np.float64)
    candidates = [theirs, theirs[::-1]] if may_be_turned else [theirs]
    candidates.sort(key=lambda candidate: not np.array_equal(candidate, ours))
    ratio = given / pixel if given else None
    for candidate in candidates:
        step = float(np.mean(ours / candidate))
        factor = ratio or (round(step) if step >= 1 else 1 / round(1 / step))
        slack = max(factor, 1.0) + _ROUNDING * ours  # sizes are cut or rounded when images are binned
        if np.all(np.abs(candidate * factor - ours) <= slack):
            same = np.array_equal(candidate, ours)
            return pixel * factor, "" if same else (
                f"images of {size[0]} x {size[1]}: shifts counted in pixels of {pixel * factor:.4g} A from the middle of the image")
    raise _other_images(path, f"{size[0]} x {size[1]}" + (f" pixels of {given:g} A" if given else ""), images)


def _same_calibration(theirs: float | None, ours: float, what: str) -> tuple[float, str]:
    """Factor for shifts in A when another size was believed for the same pixels, and a note."""
    if not theirs or not _ROUNDING < abs(ours / theirs - 1) <= MAX_PIXEL_CHANGE:
        return 1.0, ""
    return ours / theirs, f"{what} is {theirs:.4g} A in the file, {ours:.4g} A here: shifts are scaled"


def _scaled(geometry: TiltGeometry, factor: float, add_angst=(0.0, 0.0)) -> TiltGeometry:
    return geometry.replace(x_shift_angst=geometry.x_shift_angst * factor + add_angst[0],
                            y_shift_angst=geometry.y_shift_angst * factor + add_angst[1])


def from_etomo(path: str | os.PathLike, name: str, images: Images) -> ForeignAlignment:
    """IMOD. Binned images: what stays in place is the middle of the image (IMOD's centre), as in IMOD's own binning."""
    found = read_etomo(path, name)
    pixel, note = alignment_pixel_size(found.raw_size, images, found.files[-1] if found.raw_size else found.files[0], may_be_turned=True)
    about_middle = imod.xf_to_geometry(found.transforms, found.y_tilt_deg, pixel, (1, 1), found.x_tilt_deg)
    to_ours = -np.array([n // 2 - (n - 1) / 2 for n in images.size_px]) * images.pixel_size_angst
    notes = [*found.notes, *([note] if note else [])]
    if (stretch := _stretch(found.transforms)) > 1e-3:
        notes.append(f"magnification or shear up to {100 * stretch:.1f} % in the .xf is not taken over")
    return ForeignAlignment("IMOD", found.files[0], _scaled(about_middle, 1.0, to_ours), found.used, nominal_deg=found.nominal_deg,
                            notes=tuple(notes))


def _stretch(transforms: np.ndarray) -> float:
    return float(np.abs(np.linalg.svd(transforms[:, :, :2], compute_uv=False) - 1).max())


def from_aln(path: str | os.PathLike, images: Images) -> ForeignAlignment:
    """AreTomo 1.2, 1.3, 2 and 3. The rows are the views it aligned; dark frames are named by their angle."""
    where = os.fspath(path)
    size = read_aln(path, 1.0).raw_size
    pixel, note = alignment_pixel_size(size[:2] if size and min(size) > 0 else None, images, where)
    found = read_aln(path, pixel)
    notes = [note] if note else []
    if found.n_local:
        notes.append(f"the local alignment ({found.n_local} rows) is not taken over")
    if found.beta_offset_deg:
        notes.append(f"BetaOffset {found.beta_offset_deg:g} deg is not applied, as AreTomo does not either")
    alpha = found.alpha_offset_deg
    return ForeignAlignment(
        "AreTomo", where, found.geometry, np.ones(len(found.geometry), dtype=bool),
        nominal_deg=None if alpha is None else found.geometry.y_tilt_deg - alpha, dark_deg=tuple(tilt for _, tilt in found.dark),
        notes=tuple(notes), n_stated=size[2] if size else None,
    )


def from_warp(path: str | os.PathLike, images: Images) -> ForeignAlignment:
    """Warp and M. Raises UserInputError E-ALN-06 when the images' size in A is not ours."""
    where, found = os.fspath(path), read_warp_xml(path)
    factor, note = 1.0, ""
    if found.image_size_angst is not None:
        ours = np.array(images.size_px) * images.pixel_size_angst
        ratio = ours / np.array(found.image_size_angst)
        if np.ptp(ratio) > 2 * _ROUNDING or abs(ratio.mean() - 1) > MAX_PIXEL_CHANGE:
            raise _other_images(where, " x ".join(f"{v:.1f}" for v in found.image_size_angst) + " A", images)
        if abs(ratio.mean() - 1) > _ROUNDING:
            factor, note = float(ratio.mean()), f"the images are {1 / ratio.mean():.4g} times as large in A as here: shifts are scaled"
    offset = centre_offset_angst(images.size_px, images.pixel_size_angst)
    rigid = _checked(ForeignAlignment(
        "Warp", where, _scaled(found.geometry, factor, offset), found.used, dose=found.dose,
        handedness=found.handedness, names=_stems(found.movies) if found.movies else None,
        notes=(*found.notes, *([note] if note else [])),
    ))  # fmt: skip
    if found.field is None:
        return rigid
    deformation, said = _warp_deformation(found.field, factor, offset)
    return replace(rigid, deformation=deformation, notes=(said, *rigid.notes))


def _warp_deformation(field: WarpField, factor: float, offset_angst) -> tuple[LocalDeformation, str]:
    """Warp's local movement and deformation as a quadratic field over each image, fitted in the volume's central plane.

    Also a note of what that leaves. factor : of lengths in A. offset_angst (2,) : from Warp's centre to ours.
    """
    steps = np.linspace(-0.5, 0.5, _FIELD_STEPS)
    layers = 0.25 * np.array([0.0, -1.0, 1.0])  # of the volume's thickness; only the first is fitted
    z, y, x = np.meshgrid(layers, steps, steps, indexing="ij")
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3) * field.volume_angst
    rigid, further, inside = field.at(points)
    uv, further = rigid * factor + offset_angst, further * factor
    central = np.arange(len(points)) < _FIELD_STEPS**2
    coefficients, rest = [], []
    for here, moved, seen in zip(uv, further, inside, strict=True):
        chosen = central & seen if (central & seen).sum() >= 2 * N_TERMS else central
        coefficients.append(np.linalg.lstsq(monomials(here[chosen]), moved[chosen], rcond=None)[0])
        kept = seen if seen.any() else central
        rest.append(np.linalg.norm(moved - monomials(here) @ coefficients[-1], axis=1)[kept])
    rest = np.concatenate(rest)
    size, largest, rms = np.linalg.norm(further, axis=2)[inside].max(initial=0.0), rest.max(), np.sqrt(np.mean(rest**2))
    note = (
        f"local movement inside the images and deformation of the volume (up to {size:.1f} A) are taken over as a "
        f"quadratic field per view; what that cannot hold, and its change with depth, is {rms:.1f} A rms and "
        f"{largest:.1f} A at most"
    )
    return LocalDeformation(np.array(coefficients)), note


def _stems(names) -> tuple[str, ...] | None:
    """Names without folder, section and endings, in lower case; None unless they tell the rows apart."""
    stems = []
    for name in names:
        stem = str(name).replace("\\", "/").rpartition("/")[2].rpartition("@")[2]
        for ending in (".mdoc", ".tiff", ".tif", ".eer", ".mrcs", ".mrc", ".st"):
            stem = stem[: -len(ending)] if stem.lower().endswith(ending) else stem
        stems.append(stem.lower())
    return tuple(stems) if len(set(stems)) == len(stems) else None


def view_names(names) -> tuple[str, ...] | None:
    """Names of a table's movies in the form of ForeignAlignment.names."""
    return _stems(names)


def _relion_tables(path: Path, name: str) -> tuple[dict, pd.DataFrame, str]:
    """(row of data_global, or {}; tilt table; its file) of series `name`, from tomograms.star or the series' own file."""
    blocks = read_star(path)
    if "global" not in blocks:
        block = blocks.get(name) if name in blocks or len(blocks) > 1 else next(iter(blocks.values()))
        tilts = find_block(blocks, name, path) if block is None else block
        return {}, tilts if isinstance(tilts, pd.DataFrame) else pd.DataFrame([tilts]), str(path)
    table = blocks["global"]
    rows = [table] if isinstance(table, dict) else table.to_dict("records")
    row = next((r for r in rows if str(r.get("rlnTomoName")) == name), None)
    if row is None:
        raise UserInputError(
            "E-ALN-08", "this tilt series is not in the file", file=str(path), field=name,
            found=", ".join(str(r.get("rlnTomoName")) for r in rows[:10]), expected=name,
            fix="give the file that holds it, or rename the series (they are named after their mdoc or stack)",
        )
    if "rlnTomoTiltSeriesStarFile" not in row:
        tilts, star_file = find_block(blocks, name, path), path
    else:
        star_file = find_in_project(row["rlnTomoTiltSeriesStarFile"], path)
        tilts = find_block(read_star(star_file), name, star_file)
    return row, tilts if isinstance(tilts, pd.DataFrame) else pd.DataFrame([tilts]), str(star_file)


def from_relion(path: str | os.PathLike, name: str, images: Images) -> ForeignAlignment:
    """RELION 5. Raises UserInputError E-ALN-08 (series not in the file), E-RELION-04 (columns), E-STAR-*."""
    row, tilts, star_file = _relion_tables(Path(path), name)
    lacking = [label for label in _RELION_NEEDED if label not in tilts]
    if lacking:
        old = "rlnTomoProjX" in tilts
        raise UserInputError(
            "E-RELION-04", "columns missing", file=star_file, field="tilt table", found=", ".join(tilts.columns), expected=", ".join(lacking),
            fix="open it with RELION 5, which turns the matrices of RELION 4 into angles and shifts" if old else "align the series with RELION 5",
        )
    values = [tilts[c].to_numpy(np.float64) if c in tilts else np.zeros(len(tilts)) for c in ("rlnTomoXTilt", *_RELION_NEEDED)]
    original = row.get("rlnMicrographOriginalPixelSize")
    factor, note = _same_calibration(float(original) if original else None, images.movie_pixel_size_angst, "the pixel of the movies")
    names = next((s for c in ("rlnMicrographMovieName", "rlnMicrographName") if c in tilts and (s := _stems(tilts[c]))), None)
    optional = {key: tilts[c].to_numpy(np.float64) if c in tilts else None for key, c in
                (("nominal_deg", "rlnTomoNominalStageTiltAngle"), ("dose", "rlnMicrographPreExposure"))}
    used = tilts["tlExcluded"].to_numpy(np.int64) == 0 if "tlExcluded" in tilts else np.ones(len(tilts), dtype=bool)
    hand = {1.0: 1, -1.0: -1}.get(float(row.get("rlnTomoHand", 0)))
    return ForeignAlignment("RELION", star_file, _scaled(TiltGeometry(*values), factor), used, names=names, handedness=hand,
                            notes=(note,) if note else (), **optional)


def alignment_kind(path: str | os.PathLike, name: str) -> tuple[str, Path]:
    """("imod" | "aretomo" | "relion" | "warp", the file) of a file or folder, by what the file begins with.

    Raises UserInputError E-FILE-01, E-ALN-03 (none of these formats), E-ALN-08 (folder without this series).
    """
    path = Path(path)
    if path.is_dir():
        known = [path / f"{name}.aln", path / f"{name}.xml", *(path / n for n in _STAR_NAMES), path / f"{name}.star"]
        if not any(path.glob("*.xf")) and (file := next((k for k in known if k.is_file()), None)):
            path = file
        else:
            return "imod", find_xf(path, name)
    if path.suffix in (".tlt", ".rawtlt", ".xtilt"):
        return "imod", find_xf(path, name)
    try:
        with path.open("rb") as file:
            start = file.read(4096).decode("utf-8-sig", errors="replace").lstrip()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserInputError("E-FILE-01", "no such file", file=str(path),
                             fix="check align_tilt_series.alignment in the config") from error
    lines = [line for line in start.splitlines() if line.strip()]
    if path.suffix.lower() == ".tomostar" or "_wrpMovieName" in start:
        raise UserInputError(
            "E-ALN-03", "a .tomostar is Warp's list of the images of a tilt series and holds no alignment",
            file=str(path), found="a .tomostar",
            expected=f"Warp's or M's XML file of this series ({name}.xml in its folder of processed tilt series)",
            fix=f"give the {name}.xml in align_tilt_series.alignment",
        )
    if start.startswith("<"):
        return "warp", path
    if "aretomo" in start[:200].lower() or any(line.split()[:2] == ["#", "SEC"] for line in lines):
        return "aretomo", path
    if any(line.startswith("data_") for line in lines):
        return "relion", path
    if path.suffix == ".xf" or (lines and len(lines[0].split()) == 6):
        return "imod", path
    raise UserInputError(
        "E-ALN-03", "this is not an alignment of a known program", file=str(path), found=repr(start[:40]),
        expected="IMOD (.xf, folder), AreTomo (.aln), RELION 5 (.star) or Warp (.xml)", fix="check align_tilt_series.alignment in the config",
    )


def read_foreign_alignment(path: str | os.PathLike, name: str, images: Images) -> ForeignAlignment:
    """The alignment of series `name` in a file or folder of any known program. Raises the errors of its reader and of alignment_kind."""
    kind, file = alignment_kind(path, name)
    if kind == "imod":
        return _checked(from_etomo(file, name, images))
    if kind == "aretomo":
        return _checked(from_aln(file, images))
    return _checked(from_warp(file, images) if kind == "warp" else from_relion(file, name, images))


def _checked(found: ForeignAlignment) -> ForeignAlignment:
    """The alignment itself. Raises UserInputError E-ALN-10 for values that no alignment has (or that are no numbers), E-ALN-04 for none."""
    if len(found) == 0:
        raise UserInputError("E-ALN-04", "an alignment without views", file=found.path, found="0 views", expected="those of the series",
                             fix="give the alignment of this series, whole")
    keys = {k: v for k in ("nominal_deg", "dose") if (v := getattr(found, k)) is not None}
    for name, values in {**{f: getattr(found.geometry, f) for f in _LIMITS if f not in ("nominal_deg", "dose")}, **keys}.items():
        bad = ~(np.abs(values) <= _LIMITS[name])
        if bad.any():
            row = int(np.argmax(bad))
            raise UserInputError(
                "E-ALN-10", "impossible value", file=found.path, field=f"{name}, view {row + 1} of the file", found=f"{values[row]:g}",
                expected=f"-{_LIMITS[name]:g} to {_LIMITS[name]:g}", fix="correct the file, or leave the view out of it",
            )
    return found
