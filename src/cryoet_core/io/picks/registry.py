"""All formats of picks by name; reading and writing them in our tomogram's frame."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.picks import av3, coords, copick, cryolo, deepfinder, dynamo, eman2, imod, relion, stopgap, tloc
from cryoet_core.io.picks.grid import MOST_OUTSIDE, Axes, Grid, Tomogram
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import is_empty, read_bytes

ENOUGH_IN_ONE_VOXEL = 3  # picks that no specimen has there
ENOUGH_TO_JUDGE = 5  # picks from which their extent says something of the frame
SMALL_SHARE = 0.1  # of the tomogram, which good picks fill better
FLAT_VOXELS = 0.5  # standard deviation across a plane


@dataclass(frozen=True)
class PicksFormat:
    """read(path, grid) -> Picks; write(path, picks, grid, name, number). oriented, scored: what its writer keeps; unbinned: pixels are those of
    the tilt images."""

    name: str
    title: str
    extensions: tuple[str, ...]
    read: Callable
    write: Callable
    oriented: bool = True
    scored: bool = True
    unbinned: bool = False


FORMATS: dict[str, PicksFormat] = {f.name: f for f in (
    PicksFormat("relion5", "RELION 5 particles", (".star",), relion.read, relion.write_relion5, unbinned=True),
    PicksFormat("relion4", "RELION 4 particles", (".star",), relion.read, relion.write_relion4, unbinned=True),
    PicksFormat("eman2", "EMAN2 info", (".json",), eman2.read, eman2.write, oriented=False),
    PicksFormat("cbox", "crYOLO, TomoTwin boxes", (".cbox",), cryolo.read, cryolo.write, oriented=False),
    PicksFormat("coords", "x y z", (".coords",), coords.read, coords.write_coords, oriented=False, scored=False),
    PicksFormat("table", "table with a header", (".tsv", ".csv"), coords.read, coords.write_table),
    PicksFormat("tloc", "TomoTwin locations", (".tloc",), tloc.read, tloc.write, oriented=False),
    PicksFormat("deepfinder", "DeepFinder object list", (".xml",), deepfinder.read, deepfinder.write, scored=False),
    PicksFormat("dynamo", "Dynamo table", (".tbl",), dynamo.read, dynamo.write),
    PicksFormat("stopgap", "STOPGAP motive list", (".star",), stopgap.read, stopgap.write),
    PicksFormat("av3", "TOM, AV3, Artiatomi motive list", (".em",), av3.read, av3.write),
    PicksFormat("imod", "IMOD model", (".mod", ".fid"), imod.read, imod.write, oriented=False, scored=False),
    PicksFormat("imod_points", "text of IMOD's model2point", (".txt", ".pt"), imod.read_points, imod.write_points, oriented=False, scored=False),
    PicksFormat("copick", "copick picks", (".json",), copick.read, copick.write),
    PicksFormat("portal", "CryoET Data Portal points", (".ndjson",), copick.read_portal, copick.write_portal, scored=False),
)}


@dataclass(frozen=True)
class Source:
    """How a file of picks is to be understood; every field has a meaning of its own in config/match_template.py (picks_*)."""

    format: str = "auto"
    pixel_size_angst: float | None = None
    tomogram_size_px: tuple[int, int, int] | None = None
    axes: str = "xyz"
    shift_angst: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tomogram_number: int | None = None
    class_number: int | None = None
    min_score: float | None = None
    own_file: bool = True  # the file holds the picks of this tomogram alone (its name has {ts})


@dataclass(frozen=True)
class Reading:
    """Picks in our tomogram's frame, the format they had, how many were left out and why (for the summary and the log).

    unit: what the file's positions count in, and whether it says so, the user, or nobody.
    """

    picks: Picks
    format: str
    n_in_file: int
    unit: str = ""
    n_other_tomograms: int = 0
    n_below_score: int = 0
    n_other_classes: int = 0
    n_outside: int = 0
    warnings: tuple[str, ...] = ()


def _unknown(path, found: str) -> UserInputError:
    return UserInputError(
        "E-PICKS-01", "the format of these picks cannot be told", file=os.fspath(path), found=found, expected=", ".join(FORMATS),
        fix="set match_template.picks_format (tiltline convert picks: --from and --to)",
    )


def picks_format(name: str, path="") -> PicksFormat:
    """The format of a name. Raises UserInputError E-PICKS-01."""
    if name not in FORMATS:
        raise _unknown(path, f"format {name!r}")
    return FORMATS[name]


def exported_name(ts: str, form: str) -> str:
    """Name of the file that the picks of series `ts` are exported to in a format."""
    return f"{ts}_{form}{picks_format(form).extensions[0]}"


def detect_format(path) -> str:
    """Name of the format, by the file's ending and what it begins with. Raises UserInputError E-PICKS-01, E-FILE-01."""
    ending = Path(path).suffix.lower()
    data = read_bytes(path)
    if is_empty(data):
        return next((f.name for f in FORMATS.values() if ending in f.extensions), "coords")
    if ending == ".star":
        return _star_format(data)
    if ending == ".json":
        if b'"boxes_3d"' in data or b"'boxes_3d'" in data:
            return "eman2"
        if b'"points"' in data:
            return "copick"
        if any(f'"{key}"'.encode() in data for key in eman2.KEYS):
            return "eman2"
        raise _unknown(path, 'JSON without "boxes_3d" (EMAN2) and "points" (copick)')
    fits = [f.name for f in FORMATS.values() if ending in f.extensions]
    # a list of numbers in a .txt may be of anyone, and the half voxel depends on whom
    if len(fits) == 1 and ending != ".txt":
        return fits[0]
    if data[:8] == b"IMODV1.2":
        return "imod"
    raise _unknown(path, f"a file {ending}" if ending else "a file without an ending")


def _star_format(data: bytes) -> str:
    if b"data_stopgap_motivelist" in data:
        return "stopgap"
    if b"_cbox_format_version" in data or b"data_cryolo" in data:
        return "cbox"
    return "relion5" if b"_rlnCenteredCoordinateXAngst" in data else "relion4"


def _file_grid(tomogram: Tomogram, form: PicksFormat, source: Source, axes: Axes) -> Grid:
    """The voxels a file counts in, along its own axes."""
    base = tomogram.unbinned if form.unbinned and tomogram.unbinned is not None else tomogram.grid
    grid = axes.file_grid(base)
    if source.pixel_size_angst is not None:
        grid = dataclasses.replace(grid.scaled(source.pixel_size_angst), fixed=True)
    if source.tomogram_size_px is not None:
        grid = dataclasses.replace(grid, size_px=tuple(source.tomogram_size_px), centre_px=None)
    return grid


def _of_this_tomogram(picks: Picks, tomogram: Tomogram, source: Source, path) -> tuple[Picks, list[str]]:
    """The picks of one tomogram of a file that holds several. Raises UserInputError E-PICKS-07."""
    if picks.tomogram is None or not len(picks):
        return picks, []
    found = sorted(set(picks.tomogram.tolist()))
    if isinstance(found[0], str):
        # a file of one tomogram may call it otherwise; a file for all is obeyed to the letter
        if tomogram.name in found or not (source.own_file and len(found) == 1):
            warnings = [] if tomogram.name in found else [f"no picks of {tomogram.name} in {path}: it names {', '.join(found)[:200]}"]
            return picks.select(picks.tomogram == tomogram.name), warnings
        return picks, [f"{path} calls this tomogram {found[0]}"]
    if source.tomogram_number is not None:
        return picks.select(picks.tomogram == source.tomogram_number), []
    if len(found) == 1 and source.own_file:
        return picks, []
    raise UserInputError(
        "E-PICKS-07", "which tomogram of this file is meant?", file=os.fspath(path), field=tomogram.name,
        found=f"tomograms {', '.join(map(str, found))[:200]}", expected="the number of this one",
        fix=f"set match_template.picks_tomograms: {{{tomogram.name}: {found[0]}}} (tiltline convert picks: --tomogram-number)",
    )


def _inside(picks: Picks, grid: Grid, path) -> tuple[Picks, int]:
    """The picks inside the tomogram and the number of others. Raises UserInputError E-PICKS-08 when these are many."""
    index = grid.to_index(picks.positions_angst).reshape(-1, 3)
    size = np.asarray(grid.size_px)
    inside = ((index >= -0.5) & (index <= size - 0.5)).all(axis=1)
    outside = int((~inside).sum())
    if outside > MOST_OUTSIDE * len(picks):
        low, high = index.min(axis=0), index.max(axis=0)
        ranges = ", ".join(f"{a} {lo:.0f} to {hi:.0f}" for a, lo, hi in zip("xyz", low, high, strict=True))
        raise UserInputError(
            "E-PICKS-08", "these picks do not fit the tomogram", file=os.fspath(path), field="positions",
            found=f"{outside} of {len(picks)} outside: voxels {ranges}", expected="0 to " + ", ".join(str(n - 1) for n in grid.size_px),
            fix="set match_template.picks_pixel_size_angst, picks_tomogram_size_px or picks_axes to those of the volume they were picked in",
        )
    return picks.select(inside), outside


def _extent_warnings(picks: Picks, grid: Grid, path) -> list[str]:
    """Doubts about picks that fill little of the tomogram: another frame puts them into a corner, plane or voxel."""
    n = len(picks)
    if n < ENOUGH_IN_ONE_VOXEL:
        return []
    index, size = grid.to_index(picks.positions_angst).reshape(-1, 3), np.asarray(grid.size_px)
    low, high = index.min(axis=0), index.max(axis=0)
    share = float(np.prod(np.minimum((high - low + 1) / size, 1)))
    flatness = np.linalg.svd(index - index.mean(axis=0), compute_uv=False)[-1] / np.sqrt(n)
    middle = (size - 1) / 2
    if (high - low <= 1).all():
        where = "in one voxel"
    elif n < ENOUGH_TO_JUDGE:
        return []
    elif ((high < middle) | (low > middle)).all():
        where = "in one corner"
    elif flatness < FLAT_VOXELS:
        where = "in a plane"
    elif share < SMALL_SHARE:
        where = f"in {100 * share:.2g} % of the tomogram"
    else:
        return []
    extent = zip("xyz", low, high, size, strict=True)
    ranges = ", ".join(f"{axis} {lo:.0f} to {hi:.0f} of {count}" for axis, lo, hi, count in extent)
    return [
        f"all {n} picks of {path} lie {where} (voxels {ranges}): is that the specimen, or do they belong to another "
        "volume? If so, set picks_pixel_size_angst, picks_tomogram_size_px or picks_axes"
    ]


def _repeated_warnings(picks: Picks, path) -> list[str]:
    """Picks at the very position of another one: a file that was joined with itself."""
    repeated = len(picks) - len(np.unique(picks.positions_angst.reshape(-1, 3), axis=0))
    if not repeated:
        return []
    return [f"{repeated} of {len(picks)} picks of {path} have the very position of another one: only one of each can be a particle"]


def _counted_in(picks: Picks, grid: Grid, source: Source) -> str:
    """What the positions of the file count in, and who says so."""
    if picks.unit and (source.pixel_size_angst is None or not picks.unit.startswith(("pixels", "voxels"))):
        return f"{picks.unit}, as the file says"
    who = "as given" if source.pixel_size_angst is not None else "assumed: the file does not say"
    return f"voxels of {grid.pixel_size_angst:.5g} A, {who}"


def _into_our_axes(picks: Picks, axes: Axes, grid: Grid, shift_angst) -> tuple[Picks, list[str]]:
    position = picks.positions_angst.reshape(-1, 3) + np.asarray(shift_angst, dtype=np.float64)
    rotations, warnings = picks.rotations, []
    if axes.mirrors and rotations is not None:
        rotations, warnings = None, ["picks_axes mirrors the volume: the orientations in the file are those of mirror images and are dropped"]
    elif rotations is not None:
        rotations = axes.matrix @ rotations
    return dataclasses.replace(picks, positions_angst=axes.to_ours(position, grid), rotations=rotations), warnings


def _chosen(picks: Picks, source: Source) -> tuple[Picks, int, int, list[str]]:
    """(picks of the wanted class and score, number of other classes, number below the score, warnings)."""
    ignored, n = [], len(picks)
    if source.class_number is not None:
        if picks.class_number is None:
            ignored.append("the file has no classes: picks_class is not obeyed")
        else:
            picks = picks.select(picks.class_number == source.class_number)
    others, n = n - len(picks), len(picks)
    if source.min_score is not None:
        if picks.score is None:
            ignored.append("the file has no scores: picks_min_score is not obeyed")
        else:
            picks = picks.select(picks.score >= source.min_score)
    return picks, others, n - len(picks), ignored


def read_picks(path, tomogram: Tomogram, source: Source = Source()) -> Reading:
    """Picks of a file in the frame of `tomogram`, in the order of the file.

    Raises UserInputError E-FILE-01, E-STAR-*, E-PICKS-01 to E-PICKS-13; every format's module says which.
    """
    form = picks_format(detect_format(path) if source.format == "auto" else source.format, path)
    axes = Axes.parse(source.axes)
    grid = _file_grid(tomogram, form, source, axes)
    everything = (Picks.none() if is_empty(read_bytes(path)) else form.read(path, grid)).numbered()
    if not len(everything):
        return Reading(everything, form.name, 0, warnings=(f"{path} holds no picks",))
    picks, warnings = _of_this_tomogram(everything, tomogram, source, path)
    others = len(everything) - len(picks)
    picks, other_classes, below, ignored = _chosen(picks, source)
    picks, more = _into_our_axes(picks, axes, grid, source.shift_angst)
    picks, outside = _inside(picks, tomogram.grid, path)
    if outside:
        more.append(f"{outside} picks lie outside the tomogram and are left out")
    more += _extent_warnings(picks, tomogram.grid, path) + _repeated_warnings(picks, path)
    warnings = (*everything.notes, *warnings, *ignored, *more)
    unit = _counted_in(everything, grid, source)
    return Reading(picks, form.name, len(everything), unit, others, below, other_classes, outside, warnings)


def write_picks(path, picks: Picks, tomogram: Tomogram, form: str, *, axes: str = "xyz", pixel_size_angst: float | None = None, number: int = 1) -> list[str]:
    """Write picks of `tomogram` in a format; returns what is lost in it. Raises UserInputError E-PICKS-01, E-PICKS-09, E-PICKS-12.

    axes, pixel_size_angst: of the volume the file is for (see Source); pixel_size_angst None = our tomogram's, or the tilt images' where the
    format counts in those.
    """
    chosen = picks_format(form, path)
    turned = Axes.parse(axes)
    grid = _file_grid(tomogram, chosen, Source(pixel_size_angst=pixel_size_angst), turned)
    rotations = None if picks.rotations is None or turned.mirrors else turned.matrix.T @ picks.rotations
    there = dataclasses.replace(picks, positions_angst=turned.to_file(picks.positions_angst.reshape(-1, 3), grid), rotations=rotations)
    chosen.write(path, there, grid, tomogram.name, number)
    lost = ["orientations"] if picks.rotations is not None and (rotations is None or not chosen.oriented) else []
    return lost + ["scores"] * (picks.score is not None and not chosen.scored)
