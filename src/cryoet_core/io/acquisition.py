"""From an mdoc to acquisition values: order, dose, tilt axis, pixel size, voltage, each with where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.mdoc import Mdoc, MdocSection


@dataclass(frozen=True)
class Given:
    """Values a user gave; None means "from the data". The fields are the keys of config section import_tilt_series."""

    voltage_kv: float | None = None
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    pixel_size_angst: float | None = None
    tilt_axis_deg: float | None = None
    initial_dose_e_per_a2: float | None = None
    dose_per_tilt_e_per_a2: float | None = None
    tomo5: bool | None = None
    duplicates: str = "latest"
    eer_super_resolution: int = 1


@dataclass(frozen=True)
class Sourced:
    """A value and the words that say where it came from."""

    value: float
    source: str


SAME_TILT_DEG = 0.1
PIXEL_RANGE_ANGST = (0.1, 50.0)
VOLTAGE_RANGE_KV = (60.0, 1250.0)
DOSE_RANGE_E_PER_A2 = (0.0, 1000.0)


def wrap_degrees(angle: float) -> float:
    """Angle in (-180, 180]."""
    return -((-angle + 180.0) % 360.0 - 180.0)


def missing_value(mdoc: Mdoc, what: str, found: str, config_key: str) -> UserInputError:
    """E-MDOC-08: the mdoc does not give this value; names the config key that can."""
    return UserInputError(
        "E-MDOC-08", f"the mdoc does not give the {what}", file=mdoc.path, field=found,
        fix=f"set import_tilt_series.{config_key} in the config",
    )


def check_range(value: float, low: float, high: float, path: str, field: str, unit: str) -> float:
    """The value itself. Raises UserInputError E-MDOC-09 where it is physically impossible (or not finite)."""
    if not low <= value <= high:
        raise UserInputError(
            "E-MDOC-09", "impossible value", file=path, field=field, found=f"{value:g}",
            expected=f"{low:g} to {high:g} {unit}", fix="correct this line of the mdoc, or give the value in the config",
        )
    return value


def first_number(mdoc: Mdoc, *names: str) -> float | None:
    """From the first image section that has it, else from the global keys."""
    for section in [*mdoc.images, mdoc.header]:
        value = section.number(*names)
        if value is not None:
            return value
    return None


def tilt_angles(mdoc: Mdoc) -> np.ndarray:
    """(n,) TiltAngle of every image section in file order. Raises UserInputError E-MDOC-06, E-MDOC-09."""
    angles = []
    for section in mdoc.images:
        angle = section.number("TiltAngle")
        field = f"[{section.kind} = {section.index}] TiltAngle"
        if angle is None:
            raise UserInputError(
                "E-MDOC-06", "a needed value is missing", file=mdoc.path, field=field, found="nothing",
                expected="degrees", fix="the mdoc may be cut: copy it again, or remove this section",
            )
        angles.append(check_range(angle, -90, 90, section.path, field, "degrees"))
    return np.array(angles, dtype=np.float64)


def check_is_tilt_series(mdoc: Mdoc, angles: np.ndarray) -> None:
    """Raises UserInputError E-MDOC-04 for a map, a montage or records at one angle."""
    if len(angles) >= 2 and np.ptp(angles) > SAME_TILT_DEG:
        return
    montage = mdoc.header.text("Montage") == "1" or any(s.text("PieceCoordinates") for s in mdoc.images)
    what = "the tiles of a montage" if montage else "one image" if len(angles) == 1 else "records at one angle"
    raise UserInputError(
        "E-MDOC-04", f"this mdoc describes {what}, not a tilt series", file=mdoc.path, field="[ZValue = n] TiltAngle",
        found=f"{len(angles)} sections, {angles.min():g} to {angles.max():g} degrees", expected="views at several angles",
        fix="give the mdoc of the tilt series; for one mdoc per movie set data.mdoc_series, so that they are joined",
    )


def acquisition_order(sections: list[MdocSection]) -> tuple[list[int], str, list[str]]:
    """Positions of the sections in the order they were recorded, what decided it, and warnings.

    By DateTime, ties by PriorRecordDose, then by section number; without all times by PriorRecordDose.
    """
    times = [section.time for section in sections]
    prior = [section.number("PriorRecordDose") for section in sections]
    doses = [p if p is not None else 0.0 for p in prior]
    positions = list(range(len(sections)))
    if all(t is not None for t in times):
        order = sorted(positions, key=lambda i: (times[i], doses[i], sections[i].index))
        warnings = []
        if any(times[a] == times[b] and doses[a] == doses[b] for a, b in pairwise(order)):
            warnings.append("some images have the same DateTime; the order of the sections decided")
        return order, "DateTime", warnings
    if all(p is not None for p in prior) and len(set(doses)) == len(doses):
        return sorted(positions, key=lambda i: doses[i]), "PriorRecordDose", ["DateTime missing in some sections"]
    return (sorted(positions, key=lambda i: sections[i].index), "section number",
            ["DateTime and PriorRecordDose missing in some sections: the order of the sections decided"])


def _dose_of_section(section: MdocSection, pixel_size_angst: float | None) -> Sourced | None:
    """ExposureDose, else the sum of FrameDosesAndNumber, else DoseRate * ExposureTime / pixel area; None if unknown."""
    def sane(dose: float, key: str) -> float:
        return check_range(dose, *DOSE_RANGE_E_PER_A2, section.path, f"[{section.kind} = {section.index}] {key}", "e/A^2")

    dose = section.number("ExposureDose")
    if dose:
        return Sourced(sane(dose, "ExposureDose"), "mdoc ExposureDose")
    pairs = section.numbers("FrameDosesAndNumber", "FrameDosesAndNumbers") or []
    total = sum(d * n for d, n in zip(pairs[0::2], pairs[1::2], strict=False))
    if total > 0:
        return Sourced(sane(total, "FrameDosesAndNumber"), "mdoc FrameDosesAndNumber")
    rate, seconds = section.number("DoseRate"), section.number("ExposureTime")
    pixel = section.number("PixelSpacing") or pixel_size_angst
    binning = section.number("Binning") or 1.0
    if rate and seconds and pixel:
        # DoseRate counts electrons per unbinned pixel and second
        check_range(pixel / binning, *PIXEL_RANGE_ANGST, section.path, f"[{section.kind} = {section.index}] PixelSpacing", "A")
        return Sourced(sane(rate * seconds / (pixel / binning) ** 2, "DoseRate"), "mdoc DoseRate x ExposureTime / pixel area")
    return None


def exposures(
    mdoc: Mdoc, ordered: list[MdocSection], given: float | None, pixel_size_angst: float | None
) -> tuple[np.ndarray, str]:
    """(n,) e/A^2 of each image in acquisition order, and the source. Raises UserInputError E-MDOC-08."""
    if given is not None:
        return np.full(len(ordered), float(given)), "config dose_per_tilt_e_per_a2"
    doses = [_dose_of_section(section, pixel_size_angst) for section in ordered]
    if all(dose is not None for dose in doses):
        return np.array([d.value for d in doses]), ", ".join(sorted({d.source for d in doses}))
    prior = [section.number("PriorRecordDose") for section in ordered]
    if len(prior) > 2 and all(p is not None for p in prior) and np.all(np.diff(prior) > 0):
        steps = np.diff(np.array(prior, dtype=np.float64))
        return np.append(steps, np.median(steps)), "mdoc differences of PriorRecordDose"
    section = ordered[[d is None for d in doses].index(True)]
    raise missing_value(mdoc, "dose", f"[{section.kind} = {section.index}] ExposureDose", "dose_per_tilt_e_per_a2")


def pre_exposures(
    ordered: list[MdocSection], exposure: np.ndarray, initial: float | None, dose_given: bool
) -> tuple[np.ndarray, str, list[str]]:
    """(n,) dose before each image in acquisition order, its source, and warnings.

    PriorRecordDose where every section has one and it rises; else (and always with a dose given in the config)
    the running sum of the doses. `initial` is the dose before the first image.
    """
    summed = np.concatenate([[0.0], np.cumsum(exposure)[:-1]])
    prior = np.array([np.nan if (p := s.number("PriorRecordDose")) is None else p for s in ordered])
    for section, value in zip(ordered, prior, strict=True):
        if not np.isnan(value):
            field = f"[{section.kind} = {section.index}] PriorRecordDose"
            check_range(value, *DOSE_RANGE_E_PER_A2, section.path, field, "e/A^2")
    usable = bool(np.all(np.isfinite(prior)) and np.all(np.diff(prior) > 0))
    if dose_given or not usable:
        return summed + (initial or 0.0), "running sum of the doses", []
    warnings = []
    if len(prior) > 1 and abs((prior[-1] - prior[0]) - summed[-1]) > 0.1 * max(summed[-1], 1e-9):
        warnings.append(
            f"PriorRecordDose of the last image ({prior[-1]:.4g}) and the sum of the doses ({summed[-1]:.4g}) "
            "differ by more than 10 %; PriorRecordDose was used"
        )
    start = prior[0] if initial is None else initial
    return prior - prior[0] + start, "mdoc PriorRecordDose", warnings


def tilt_axis(mdoc: Mdoc, given: float | None, tomo5: bool | None) -> tuple[Sourced, list[str]]:
    """Tilt-axis angle (deg, from image +y, counter-clockwise), its source, and warnings.

    The config's value wins (also 0); else the title's angle (Tomography 5: -angle - 90); else RotationAngle - 90.
    Raises UserInputError E-MDOC-08.
    """
    from_mdoc = _axis_of_mdoc(mdoc, tomo5)
    if given is None:
        if from_mdoc is None:
            raise missing_value(mdoc, "tilt axis", "title 'Tilt axis angle', RotationAngle", "tilt_axis_deg")
        return from_mdoc, []
    warnings = []
    if from_mdoc is not None and abs(wrap_degrees(from_mdoc.value - given)) > 10:
        warnings.append(
            f"the config's tilt axis ({given:g} deg) differs from that of the mdoc ({from_mdoc.value:g} deg, "
            f"{from_mdoc.source}) by more than 10 degrees; the config's value was used"
        )
    return Sourced(float(given), "config tilt_axis_deg"), warnings


def _axis_of_mdoc(mdoc: Mdoc, tomo5: bool | None) -> Sourced | None:
    if mdoc.title_axis is not None:
        angle, spelled_by_tomo5 = mdoc.title_axis
        if spelled_by_tomo5 if tomo5 is None else tomo5:
            check_range(angle, -360, 360, mdoc.path, "[T = TiltAxisAngle]", "degrees")
            return Sourced(wrap_degrees(-angle - 90.0), "mdoc title (Tomography 5)")
        return Sourced(check_range(angle, -360, 360, mdoc.path, "[T = Tilt axis angle]", "degrees"), "mdoc title")
    rotation = first_number(mdoc, "RotationAngle")
    if rotation is not None:
        check_range(rotation, -360, 360, mdoc.path, "RotationAngle", "degrees")
    return None if rotation is None else Sourced(wrap_degrees(rotation - 90.0), "mdoc RotationAngle - 90")


def voltage(mdoc: Mdoc, given: float | None) -> Sourced:
    """kV from the config, else from the mdoc. Raises UserInputError E-MDOC-08."""
    if given is not None:
        return Sourced(float(given), "config voltage_kv")
    value = first_number(mdoc, "Voltage")
    if value is None:
        raise missing_value(mdoc, "voltage", "Voltage", "voltage_kv")
    return Sourced(check_range(value, *VOLTAGE_RANGE_KV, mdoc.path, "Voltage", "kV"), "mdoc Voltage")


def pixel_size(mdoc: Mdoc, given: float | None, movie_shape: tuple[int, int]) -> tuple[Sourced, list[str]]:
    """Pixel size of the movies in A: config, else PixelSpacing, corrected where movies are finer than the record image.

    movie_shape: (h, w). Raises UserInputError E-MDOC-08.
    """
    if given is not None:
        return Sourced(float(given), "config pixel_size_angst"), []
    spacing = first_number(mdoc, "PixelSpacing")
    if not spacing:
        raise missing_value(mdoc, "pixel size", "PixelSpacing", "pixel_size_angst")
    check_range(spacing, *PIXEL_RANGE_ANGST, mdoc.path, "PixelSpacing", "A")
    size = mdoc.header.numbers("ImageSize")
    if not size or len(size) < 2 or size[0] <= 0:
        return Sourced(spacing, "mdoc PixelSpacing"), []
    wide, narrow = max(movie_shape), max(size[:2])
    ratio = wide / narrow
    if ratio in (0.25, 0.5, 2.0, 4.0):
        return Sourced(spacing / ratio, f"mdoc PixelSpacing / {ratio:g} (size of the movies against ImageSize)"), []
    warnings = []
    if abs(ratio - 1) > 0.05:
        warnings.append(f"movies ({wide} px) and ImageSize of the mdoc ({narrow:g} px) differ; PixelSpacing was used")
    return Sourced(spacing, "mdoc PixelSpacing"), warnings


@dataclass(frozen=True)
class Acquisition:
    """What an mdoc and the config together say about a series.

    sections, tilt_deg, exposure, pre_exposure (n,) in the order of recording, doses in e/A^2. sources: value -> where it came from.
    overridden: config key -> {"config", "mdoc"} where the config's value replaced a different one of the mdoc.
    """

    sections: list[MdocSection]
    tilt_deg: np.ndarray
    exposure: np.ndarray
    pre_exposure: np.ndarray
    voltage: Sourced
    pixel_size: Sourced
    tilt_axis: Sourced
    sources: dict[str, str]
    overridden: dict[str, dict]
    warnings: list[str]


def _stated(read) -> float | None:
    """What the mdoc says, or None where it does not or says something impossible: the config's value counts then."""
    try:
        return float(read())
    except UserInputError:
        return None


def _overridden(mdoc: Mdoc, given: Given, ordered: list[MdocSection], movie_shape) -> dict[str, dict]:
    stated = {
        "voltage_kv": lambda: voltage(mdoc, None).value,
        "pixel_size_angst": lambda: pixel_size(mdoc, None, movie_shape)[0].value,
        "tilt_axis_deg": lambda: tilt_axis(mdoc, None, given.tomo5)[0].value,
        "dose_per_tilt_e_per_a2": lambda: np.median(exposures(mdoc, ordered, None, given.pixel_size_angst)[0]),
    }
    out = {}
    for key, read in stated.items():
        config = getattr(given, key)
        found = None if config is None else _stated(read)
        if found is not None and abs(found - config) > 1e-6 * max(abs(found), abs(config)):
            out[key] = {"config": float(config), "mdoc": found}
    return out


def read_acquisition(mdoc: Mdoc, given: Given, movie_shape: tuple[int, int] = (0, 0)) -> Acquisition:
    """Order, angles, doses, optics and axis. movie_shape (h, w) tells binned records from super-resolution movies.

    Raises UserInputError E-MDOC-01, -04, -06, -08, -09, each with file, section and field.
    """
    angles = tilt_angles(mdoc)
    check_is_tilt_series(mdoc, angles)
    order, order_source, warnings = acquisition_order(mdoc.images)
    sections = [mdoc.images[i] for i in order]
    volts = voltage(mdoc, given.voltage_kv)
    pixel, notes = pixel_size(mdoc, given.pixel_size_angst, movie_shape)
    axis, more = tilt_axis(mdoc, given.tilt_axis_deg, given.tomo5)
    dose, dose_source = exposures(mdoc, sections, given.dose_per_tilt_e_per_a2, pixel.value)
    dose_given = given.dose_per_tilt_e_per_a2 is not None
    before, before_source, last = pre_exposures(sections, dose, given.initial_dose_e_per_a2, dose_given)
    sources = {
        "tilts": f"mdoc {Path(mdoc.path).name}", "order": f"mdoc {order_source}", "pre_exposure": before_source,
        "exposure": dose_source, "voltage": volts.source, "pixel_size": pixel.source, "tilt_axis": axis.source,
        "spherical_aberration": "config", "amplitude_contrast": "config",
    }
    overridden = _overridden(mdoc, given, sections, movie_shape)
    return Acquisition(
        sections, angles[order], dose, before, volts, pixel, axis, sources, overridden, warnings + notes + more + last
    )


def find_movie(name: str, folder: Path, mdoc: Mdoc, names: list[str]) -> Path | None:
    """Path of a movie by its base name in `folder` (whose file names are `names`), or None.

    Raises UserInputError E-MDOC-03 (several that differ in case).
    """
    if name in names:
        return folder / name
    same = [n for n in names if n.lower() == name.lower()]
    if len(same) == 1:
        return folder / same[0]
    if same:
        raise UserInputError(
            "E-MDOC-03", "several files fit one movie of the mdoc", file=mdoc.path, field=f"SubFramePath {name}",
            found=", ".join(same), expected="one file", fix=f"remove the wrong one from {folder}",
        )
    return None


def movies_not_found(missing: list[Path], n_movies: int, folder: Path, mdoc: Mdoc, names: list[str]) -> UserInputError:
    """E-MDOC-02: half of the movies of a series or more are not in `folder`; names them, and the nearest names that are there."""
    import difflib

    nearest = difflib.get_close_matches(missing[0].name, names, n=3, cutoff=0.0)
    listed = ", ".join(path.name for path in missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return UserInputError(
        "E-MDOC-02", f"{len(missing)} of {n_movies} movies of the mdoc not found", file=mdoc.path, field="SubFramePath",
        found=f"in {folder}: {', '.join(nearest) if nearest else 'no files'}", expected=listed,
        fix="set data.movies_dir to the folder of the movies, or remove the sections whose movies do not exist; fewer than half "
        "may be missing and cost only their views",
    )
