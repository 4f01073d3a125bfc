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
SIZE_TOLERANCE = 0.05
SCALES = (1.0, 2.0, 1 / 2, 3.0, 1 / 3, 4.0, 1 / 4, 8.0, 1 / 8)  # binnings of cameras
TITLE_TOLERANCE_DEG = 2.0


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


def agreed_number(
    mdoc: Mdoc, name: str, limits: tuple[float, float], unit: str
) -> tuple[float | None, list[str]]:
    """What most image sections say (the first of them, where several values are as frequent), else the global keys;
    and warnings.

    Values within 1 % (degrees: 1) of each other are alike. Sections that say something else are named; unreadable and
    impossible ones do not count. None where nothing is said.

    Raises UserInputError E-MDOC-01, E-MDOC-09 where no section says anything possible.
    """
    def read(section: MdocSection, field: str) -> float | None:
        value = section.number(name)
        return None if value is None else check_range(value, *limits, section.path, field, unit)

    found, refused = [], []
    for section in mdoc.images:
        try:
            value = read(section, f"{section.title} {name}")
        except UserInputError as error:
            refused.append(error)
            continue
        found += [] if value is None else [(section.title, value)]
    try:
        general = read(mdoc.header, name)
    except UserInputError as error:
        refused.append(error)
        general = None
    if not found and general is None:
        if refused:
            raise refused[0]
        return None, []
    warnings = [f"not used: {error}" for error in refused]
    if not found:
        return general, warnings

    def alike(a: float, b: float) -> bool:
        return abs(a - b) <= (1.0 if unit == "degrees" else 0.01 * max(abs(a), abs(b)))

    value = max((v for _, v in found), key=lambda v: sum(alike(v, w) for _, w in found))
    others = [
        (title, v)
        for title, v in [*found, *([("global", general)] if general is not None else [])]
        if not alike(v, value)
    ]
    if others:
        told = ", ".join(f"{v:g} ({title})" for title, v in others[:3]) + (
            f" and {len(others) - 3} more" if len(others) > 3 else ""
        )
        warnings.append(
            f"{mdoc.path}: {name} is {value:g} in {sum(alike(v, value) for _, v in found)} of "
            f"{len(mdoc.images)} images, and {told}: "
            f"{value:g} was used"
        )
    return value, warnings


def find_faults(mdoc: Mdoc, given: Given) -> None:
    """Mark (``fault``) the image sections that cannot be trusted, and remove their bad values.

    A section is bad where its angle is missing, or its angle or its dose is unreadable or impossible. It costs its
    view and no other: its dose is taken as that of the others. Raises the first error (E-MDOC-01, -06, -09) where
    half of the sections or more are bad.
    """
    errors = {id(section): error for section in mdoc.images if (error := _fault(section, given))}
    for section in mdoc.images:
        if id(section) in errors:
            section.fault = section.fault or str(errors[id(section)])
    check_faults(mdoc, next(iter(errors.values()), None))


def check_faults(mdoc: Mdoc, error: UserInputError | None) -> None:
    """Raises ``error`` where half of the image sections or more have a fault."""
    if error is not None and 2 * sum(bool(section.fault) for section in mdoc.images) >= len(mdoc.images):
        raise error


def _fault(section: MdocSection, given: Given) -> UserInputError | None:
    """The first thing wrong with a section; all its bad values are removed."""
    errors = []
    limits = {"TiltAngle": (-90, 90, "degrees")}
    if given.dose_per_tilt_e_per_a2 is None:
        limits |= {key: (*DOSE_RANGE_E_PER_A2, "e/A^2") for key in ("ExposureDose", "PriorRecordDose")}
        limits |= {
            key: (0, 1e9, "") for key in ("FrameDosesAndNumber", "FrameDosesAndNumbers", "DoseRate", "ExposureTime")
        }
    for key, (low, high, unit) in limits.items():
        try:
            values = section.numbers(key) or []
            for value in values:
                check_range(value, low, high, section.path, f"{section.title} {key}", unit)
            if len(values) > 1 and key in ("TiltAngle", "ExposureDose", "PriorRecordDose"):
                raise UserInputError(
                    "E-MDOC-01",
                    "several values where one belongs",
                    file=section.path,
                    field=f"{section.title} {key}",
                    found=repr(section.text(key)),
                    expected="one number",
                    fix="correct this line of the mdoc",
                )
        except UserInputError as error:
            errors.append(error)
            section.discard(key)
    if section.text("TiltAngle") is None:
        errors.append(
            missing_key(section, "TiltAngle", "degrees", "the mdoc may be cut: copy it again, or remove this section")
        )
    return errors[0] if errors else None


def missing_key(section: MdocSection, key: str, expected: str, fix: str) -> UserInputError:
    """E-MDOC-06: a section lacks what its view cannot do without."""
    return UserInputError(
        "E-MDOC-06",
        "a needed value is missing",
        file=section.path,
        field=f"{section.title} {key}",
        found="nothing",
        expected=expected,
        fix=fix,
    )


def tilt_angles(mdoc: Mdoc) -> np.ndarray:
    """(n,) TiltAngle of every image section in file order, degrees; NaN where a section with a ``fault`` has none."""
    return np.array(
        [np.nan if (angle := section.number("TiltAngle")) is None else angle for section in mdoc.images],
        dtype=np.float64,
    )


def check_is_tilt_series(mdoc: Mdoc, angles: np.ndarray) -> None:
    """Raises UserInputError E-MDOC-04 for a map, a montage or records at one angle."""
    angles = angles[np.isfinite(angles)]
    if len(angles) >= 2 and np.ptp(angles) > SAME_TILT_DEG:
        return
    montage = mdoc.header.text("Montage") == "1" or any(s.text("PieceCoordinates") for s in mdoc.images)
    what = "the tiles of a montage" if montage else "one image" if len(angles) == 1 else "records at one angle"
    raise UserInputError(
        "E-MDOC-04", f"this mdoc describes {what}, not a tilt series", file=mdoc.path, field="[ZValue = n] TiltAngle",
        found=f"{len(angles)} sections, {angles.min():g} to {angles.max():g} degrees", expected="views at several angles",
        fix="give the mdoc of the tilt series; for one mdoc per movie set data.mdoc_series, so that they are joined",
    )


def acquisition_order(
    sections: list[MdocSection], exposure: np.ndarray | None = None
) -> tuple[list[int], str, list[str]]:
    """Positions of the sections in the order they were recorded, what decided it, and warnings.

    By DateTime, ties by PriorRecordDose, then by section number; without all times by PriorRecordDose. Where DateTime
    and PriorRecordDose contradict each other, the one that the numbers of the sections agree with decides, or
    PriorRecordDose where it adds up with the doses. A clock that was put back is seen by its one step back in the
    order of the sections. exposure: (n,) e/A^2 of the sections, or None.
    """
    positions = list(range(len(sections)))
    by_section = sorted(positions, key=lambda i: (sections[i].part, sections[i].index))
    times = [section.time for section in sections]
    prior = [section.number("PriorRecordDose") for section in sections]
    doses = [p if p is not None else 0.0 for p in prior]
    by_dose = (
        sorted(positions, key=lambda i: doses[i])
        if all(p is not None for p in prior) and len(set(doses)) == len(doses)
        else None
    )
    if not all(t is not None for t in times):
        return _order_without_all_times(sections, by_section, by_dose)
    order = sorted(positions, key=lambda i: (times[i], doses[i], sections[i].part, sections[i].index))
    if by_dose is not None and by_dose != order:
        return _order_of_contradiction(order, by_dose, by_section, doses, exposure)
    if order != by_section and by_dose is None and (hours := _clock_put_back(sections, [times[i] for i in by_section])):
        return (
            by_section,
            "section number",
            [
                f"DateTime goes back by about {hours} h once, otherwise it rises with the number of the section: the "
                f"clock was changed "
                "while the series was recorded; the order of the sections decided"
            ],
        )
    warnings = []
    if any(times[a] == times[b] and doses[a] == doses[b] for a, b in pairwise(order)):
        warnings.append("some images have the same DateTime; the order of the sections decided")
    return order, "DateTime", warnings


def _order_of_contradiction(order, by_dose, by_section, doses, exposure) -> tuple[list[int], str, list[str]]:
    """DateTime (``order``) and PriorRecordDose say different things: the one that a third source agrees with."""
    dose_is_consistent = by_dose == by_section or (order != by_section and _adds_up(by_dose, doses, exposure))
    used, other = ("PriorRecordDose", "DateTime") if dose_is_consistent else ("DateTime", "PriorRecordDose")
    at = next(k for k, (a, b) in enumerate(zip(order, by_dose, strict=True)) if a != b)
    by_number = dose_is_consistent == (by_dose == by_section)
    why = "agrees with the numbers of the sections" if by_number else "adds up with the doses"
    warning = (
        f"DateTime and PriorRecordDose contradict each other about the order of recording (first at image {at + 1}): "
        f"{used} was used, which {why}; {other} was not (a clock that was changed, or a dose that was set back, in the "
        "middle of a series)"
    )
    return (by_dose if dose_is_consistent else order), used, [warning]


def _adds_up(by_dose: list[int], doses: list[float], exposure: np.ndarray | None) -> bool:
    """Whether the steps of PriorRecordDose are the doses of the images between them, within 10 %."""
    if exposure is None:
        return False
    steps = np.diff(np.array(doses)[by_dose])
    return bool(np.all(np.abs(steps - exposure[by_dose][:-1]) <= 0.1 * exposure[by_dose][:-1] + 0.01))


def _clock_put_back(sections: list[MdocSection], times: list) -> int | None:
    """Hours by which a clock went back while the sections were recorded in the order of ``times``; None where it did
    not.

    1 h: the end of summer time; 12 h: a clock of 12 hours without AM and PM; 24 h: a date that did not change at
    midnight. There must be one such step only, and with the hours put back it must not be longer than the longest
    other one by half.
    """
    if len(times) < 4 or len({section.part for section in sections}) > 1:
        return None
    steps = np.array([(b - a).total_seconds() for a, b in pairwise(times)])
    back = np.flatnonzero(steps < 0)
    if len(back) != 1:
        return None
    longest = float(steps.max())
    return next((hours for hours in (1, 12, 24) if 0 < steps[back[0]] + 3600 * hours <= 1.5 * longest), None)


def _order_without_all_times(sections, by_section, by_dose) -> tuple[list[int], str, list[str]]:
    """Some images have no time: by PriorRecordDose; else by section, where the times that are there agree with it or
    most are missing.

    Else the few without a time come last, with a fault: their place is not known.
    """
    if by_dose is not None:
        return by_dose, "PriorRecordDose", ["DateTime missing in some sections"]
    timed = [i for i in by_section if sections[i].time is not None]
    by_time = sorted(timed, key=lambda i: sections[i].time)  # stable: ties in the order of sections
    if by_time == timed or 2 * len(timed) <= len(sections):
        return (
            by_section,
            "section number",
            ["DateTime and PriorRecordDose missing in some sections: the order of the sections decided"],
        )
    lost = [i for i in by_section if sections[i].time is None]
    for i in lost:
        sections[i].fault = (
            sections[i].fault or "when it was recorded is not known: neither DateTime nor PriorRecordDose"
        )
    return by_time + lost, "DateTime", []


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
    known = [dose.value for section, dose in zip(ordered, doses, strict=True) if dose is not None and not section.fault]
    if known:  # a section that costs its view was exposed like the others
        usual = Sourced(float(np.median(known)), "median of the others")
        doses = [
            usual if dose is None and section.fault else dose for section, dose in zip(ordered, doses, strict=True)
        ]
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

    PriorRecordDose where every section has one and it rises; else (and always with a dose given in the config) the
    running sum of the doses, with those of images whose sections are missing between others. `initial` is the dose
    before the first image.
    """
    skipped, notes = _skipped_sections(ordered)
    typical = float(np.median(exposure)) if len(exposure) else 0.0
    summed = np.concatenate([[0.0], np.cumsum(exposure)[:-1]]) + skipped * typical
    prior = np.array([np.nan if (p := s.number("PriorRecordDose")) is None else p for s in ordered])
    for section, value in zip(ordered, prior, strict=True):
        if not np.isnan(value):
            field = f"[{section.kind} = {section.index}] PriorRecordDose"
            check_range(value, *DOSE_RANGE_E_PER_A2, section.path, field, "e/A^2")
    prior = _filled(prior, ordered)
    usable = bool(np.all(np.isfinite(prior)) and np.all(np.diff(prior) > 0))
    if dose_given or not usable:
        if not dose_given and len(prior) > 1 and np.all(np.isfinite(prior)) and np.ptp(prior) > 0:
            at = int(np.argmax(np.diff(prior) <= 0)) + 1
            notes.append(
                f"PriorRecordDose does not rise with the order of recording ({prior[at - 1]:.4g}, then "
                f"{prior[at]:.4g} in {ordered[at].title}): the running sum of the doses was used"
            )
        first = ordered[0]
        if initial is None and first.kind == "ZValue" and 0 < first.index == min(s.index for s in ordered):
            notes.append(
                f"the first image recorded is {first.title}: if the mdoc lost the images before it (SerialEM counts from "
                "0), give their dose in import_tilt_series.initial_dose_e_per_a2; it was taken as 0"
            )
        return summed + (initial or 0.0), "running sum of the doses", notes
    warnings = []
    if len(prior) > 1 and abs((prior[-1] - prior[0]) - summed[-1]) > 0.1 * max(summed[-1], 1e-9):
        warnings.append(
            f"PriorRecordDose of the last image ({prior[-1]:.4g}) and the sum of the doses ({summed[-1]:.4g}) "
            "differ by more than 10 %; PriorRecordDose was used"
        )
    start = prior[0] if initial is None else initial
    return prior - prior[0] + start, "mdoc PriorRecordDose", warnings


def _skipped_sections(ordered: list[MdocSection]) -> tuple[np.ndarray, list[str]]:
    """(n,) number of sections missing before each one, and a warning: known where the numbers of the sections rise in
    the order of recording."""
    numbers = np.array([section.index for section in ordered])
    none = np.zeros(len(ordered))
    if len(numbers) < 2 or len({section.part for section in ordered}) > 1 or np.any(np.diff(numbers) < 1):
        return none, []
    gaps = np.concatenate([[0], np.cumsum(np.diff(numbers) - 1)])
    if not 0 < gaps[-1] <= len(numbers):
        return none, []
    return gaps.astype(np.float64), [
        f"{gaps[-1]} sections are missing between the others (after {ordered[int(np.argmax(gaps > 0)) - 1].title}): "
        "where doses are summed, those images count with the usual dose"
    ]


def _filled(prior: np.ndarray, ordered: list[MdocSection]) -> np.ndarray:
    """`prior` with what sections with a fault do not say taken from their neighbours: only their own views, which are
    left out, use it."""
    gone = np.array([bool(section.fault) for section in ordered]) & np.isnan(prior)
    known = np.flatnonzero(~np.isnan(prior))
    if not gone.any() or len(known) < 2:
        return prior
    step = (prior[known[-1]] - prior[known[0]]) / max(known[-1] - known[0], 1)
    filled = np.interp(np.arange(len(prior)), known, prior[known])
    beyond = np.arange(len(prior)) - known[-1]
    filled = np.where(beyond > 0, prior[known[-1]] + beyond * step, filled)
    before = known[0] - np.arange(len(prior))
    filled = np.where(before > 0, np.maximum(prior[known[0]] - before * step, 0.0), filled)
    return np.where(gone, filled, prior)


def tilt_axis(mdoc: Mdoc, given: float | None, tomo5: bool | None) -> tuple[Sourced, list[str]]:
    """Tilt-axis angle (deg, from image +y, counter-clockwise), its source, and warnings.

    The config's value wins (also 0); else the title's angle (Tomography 5: -angle - 90); else RotationAngle - 90.
    Raises UserInputError E-MDOC-08.
    """
    from_mdoc, warnings = _axis_of_mdoc(mdoc, tomo5)
    if given is None:
        if from_mdoc is None:
            raise missing_value(mdoc, "tilt axis", "title 'Tilt axis angle', RotationAngle", "tilt_axis_deg")
        return from_mdoc, warnings
    warnings = []
    if from_mdoc is not None and abs(wrap_degrees(from_mdoc.value - given)) > 10:
        warnings.append(
            f"the config's tilt axis ({given:g} deg) differs from that of the mdoc ({from_mdoc.value:g} deg, "
            f"{from_mdoc.source}) by more than 10 degrees; the config's value was used"
        )
    return Sourced(float(given), "config tilt_axis_deg"), warnings


def _axis_of_mdoc(mdoc: Mdoc, tomo5: bool | None) -> tuple[Sourced | None, list[str]]:
    """The title's axis; else that of RotationAngle. Where SerialEM gives both and they differ by more than 2 degrees,
    that is said."""
    if mdoc.title_axis is not None:
        angle, spelled_by_tomo5 = mdoc.title_axis
        if spelled_by_tomo5 if tomo5 is None else tomo5:
            check_range(angle, -360, 360, mdoc.path, "[T = TiltAxisAngle]", "degrees")
            return Sourced(wrap_degrees(-angle - 90.0), "mdoc title (Tomography 5)"), []
        title = Sourced(check_range(angle, -360, 360, mdoc.path, "[T = Tilt axis angle]", "degrees"), "mdoc title")
        return title, _title_against_rotation(mdoc, title.value)
    rotation, warnings = agreed_number(mdoc, "RotationAngle", (-360, 360), "degrees")
    return (None if rotation is None else Sourced(wrap_degrees(rotation - 90.0), "mdoc RotationAngle - 90")), warnings


def _title_against_rotation(mdoc: Mdoc, title: float) -> list[str]:
    try:
        rotation, warnings = agreed_number(mdoc, "RotationAngle", (-360, 360), "degrees")
    except UserInputError:
        return []
    if rotation is not None and abs(wrap_degrees(rotation - 90.0 - title)) > TITLE_TOLERANCE_DEG:
        warnings.append(
            f"{mdoc.path}: the title's tilt axis ({title:g} degrees) and RotationAngle - 90 "
            f"({wrap_degrees(rotation - 90.0):g}) differ: the "
            "title's was used; set import_tilt_series.tilt_axis_deg if it is wrong"
        )
    return warnings


def voltage(mdoc: Mdoc, given: float | None) -> tuple[Sourced, list[str]]:
    """kV from the config, else from the mdoc (most sections), and warnings. Raises UserInputError E-MDOC-08."""
    if given is not None:
        return Sourced(float(given), "config voltage_kv"), []
    value, warnings = agreed_number(mdoc, "Voltage", VOLTAGE_RANGE_KV, "kV")
    if value is None:
        raise missing_value(mdoc, "voltage", "Voltage", "voltage_kv")
    return Sourced(value, "mdoc Voltage"), warnings


def pixel_size(
    mdoc: Mdoc, given: float | None, movie_shape: tuple[int, int], size_confirmed: bool = False
) -> tuple[Sourced, list[str]]:
    """Pixel size of the movies in A: config, else PixelSpacing (most sections), corrected where movies are finer than
    the record image.

    movie_shape: (h, w), (0, 0) where not known. size_confirmed: the gain reference agrees with it, so that a
    different ImageSize stands alone. Raises UserInputError E-MDOC-08, E-MOVIE-07 (the sizes of both do not fit).
    """
    fit = size_fit(movie_shape, stated_size(mdoc))
    if given is not None:
        return Sourced(float(given), "config pixel_size_angst"), [] if fit else [
            _sizes_differ(mdoc, movie_shape)[1] + "the config's pixel size was used"
        ]
    spacing, warnings = agreed_number(mdoc, "PixelSpacing", PIXEL_RANGE_ANGST, "A")
    if not spacing:
        raise missing_value(mdoc, "pixel size", "PixelSpacing", "pixel_size_angst")
    if fit is None and not size_confirmed:
        raise _sizes_differ(mdoc, movie_shape)[0]
    if fit is None:
        told = (
            _sizes_differ(mdoc, movie_shape)[1]
            + "the gain reference agrees with the movies; PixelSpacing was taken as theirs, check it"
        )
        return Sourced(spacing, "mdoc PixelSpacing"), [*warnings, told]
    if fit.scale == 1:
        return Sourced(spacing, "mdoc PixelSpacing"), warnings
    return Sourced(
        spacing / fit.scale, f"mdoc PixelSpacing / {fit.scale:g} (size of the movies against ImageSize)"
    ), warnings


def _sizes_differ(mdoc: Mdoc, movie_shape: tuple[int, int]) -> tuple[UserInputError, str]:
    w, h = stated_size(mdoc)
    found, expected = (
        f"{movie_shape[1]} x {movie_shape[0]}",
        f"{w} x {h} (ImageSize of {Path(mdoc.path).name}), or that times 2, 3, 4, 8",
    )
    return UserInputError(
        "E-MOVIE-07",
        "the movies are not of the size that the mdoc says",
        file=mdoc.path,
        field="size (w x h)",
        found=found,
        expected=expected,
        fix="give the movies that belong to this mdoc; if they do, say their pixel size in "
        "import_tilt_series.pixel_size_angst",
    ), f"movies ({found}) and ImageSize of the mdoc ({w} x {h}) do not fit each other: "


@dataclass(frozen=True)
class SizeFit:
    """How frames fit the images that an mdoc describes: `scale` frame pixels per image pixel and axis; x and y
    exchanged or not; `error` is the relative difference that is left."""

    scale: float = 1.0
    transposed: bool = False
    error: float = 0.0


def stated_size(mdoc: Mdoc) -> tuple[int, int] | None:
    """(w, h) of the images that the mdoc describes: ImageSize, in front or of the first section that has it; None
    where it does not say."""
    for section in [mdoc.header, *mdoc.images]:
        try:
            size = section.numbers("ImageSize")
        except UserInputError:
            continue
        if size and len(size) >= 2 and all(1 <= n < 1e6 for n in size[:2]):
            return int(size[0]), int(size[1])
    return None


def size_fit(shape: tuple[int, int], stated: tuple[int, int] | None) -> SizeFit | None:
    """How frames of ``shape`` (h, w) fit images of ``stated`` (w, h) pixels; None where they do not, and as they are
    where one is not known.

    Frames may be 2, 3, 4 or 8 times finer or coarser on both axes, and 5 % larger or smaller (SerialEM trims images).
    The best fit counts, of equally good ones that which is not transposed.
    """
    if stated is None or min(shape) <= 0:
        return SizeFit()
    fits = [
        SizeFit(scale, transposed, max(abs(n / (scale * m) - 1) for n, m in zip(shape, size, strict=True)))
        for transposed, size in ((False, stated[::-1]), (True, stated)) for scale in SCALES
    ]
    best = min(fits, key=lambda fit: fit.error)
    return best if best.error <= SIZE_TOLERANCE else None


@dataclass(frozen=True)
class Acquisition:
    """What an mdoc and the config together say about a series.

    sections, tilt_deg, exposure, pre_exposure (n,) in the order of recording, doses in e/A^2; tilt_id (n,) its number
    from 1, with gaps where sections without an angle were left out (a section with a ``fault`` and an angle is among
    them). sources: value -> where it came from. overridden: config key -> {"config", "mdoc"} where the config's value
    replaced a different one of the mdoc.
    """

    sections: list[MdocSection]
    tilt_id: np.ndarray
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
        "voltage_kv": lambda: voltage(mdoc, None)[0].value,
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


def read_acquisition(
    mdoc: Mdoc, given: Given, movie_shape: tuple[int, int] = (0, 0), size_confirmed: bool = False
) -> Acquisition:
    """Order, angles, doses, optics and axis. movie_shape (h, w) tells binned records from super-resolution movies;
    size_confirmed: :func:`pixel_size`.

    Raises UserInputError E-MDOC-01, -04, -06, -08, -09, each with file, section and field, and E-MOVIE-07.
    """
    find_faults(mdoc, given)
    angles = tilt_angles(mdoc)
    check_is_tilt_series(mdoc, angles)
    volts, of_voltage = voltage(mdoc, given.voltage_kv)
    pixel, notes = pixel_size(mdoc, given.pixel_size_angst, movie_shape, size_confirmed)
    order, order_source, warnings = acquisition_order(mdoc.images, _exposure_or_none(mdoc, given, pixel.value))
    sections = [mdoc.images[i] for i in order]
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
    keep = np.flatnonzero(np.isfinite(angles[order]))
    return Acquisition(
        [sections[i] for i in keep],
        keep + 1,
        angles[order][keep],
        dose[keep],
        before[keep],
        volts,
        pixel,
        axis,
        sources,
        overridden,
        [f"the view of {s.title} is left out: {s.fault}" for s in sections if s.fault]
        + warnings
        + notes
        + of_voltage
        + more
        + last,
    )


def _exposure_or_none(mdoc: Mdoc, given: Given, pixel_size_angst: float) -> np.ndarray | None:
    """Doses of the sections in file order as they are stated, where all are; only to see which order they agree
    with."""
    try:
        stated = [_dose_of_section(section, pixel_size_angst) for section in mdoc.images]
    except UserInputError:
        return None
    if given.dose_per_tilt_e_per_a2 is not None:
        return np.full(len(stated), given.dose_per_tilt_e_per_a2)
    return None if any(dose is None for dose in stated) else np.array([dose.value for dose in stated])


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
