"""Compose the report: numbers of all steps, then one chapter after the other.

A result that cannot be shown costs its chapter or its number, never the page: what is wrong stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cryoet_core.errors import CryoetError, ResourceError
from cryoet_core.fsc import resolution_at
from cryoet_core.io.atomic import write_text
from cryoet_core.left_out import LeftOut
from cryoet_core.report import averages, evaluate, movies, tilt_series, tomograms
from cryoet_core.report.page import Section, render
from cryoet_core.report.results import Results

_RESOLUTION = "resolution_fsc_0.143_angst"


class Problems(list):
    """What could not be shown, each with its reason."""

    def attempt(self, what: str, make: Callable, otherwise):
        """make(), or ``otherwise`` with a remark. A lack of memory or disk ends the report: it would be made on
        another day."""
        try:
            return make()
        except (MemoryError, ResourceError):
            raise
        except Exception as error:  # whatever a strange result does to a figure
            self.append(f"{what}: {error if isinstance(error, CryoetError) else f'{type(error).__name__}: {error}'}")
            return otherwise

    def chapter(self, title: str, make: Callable) -> Section:
        """The chapter, or one that says why it is not there."""
        before = len(self)
        section = self.attempt(title, make, None)
        if section is None:
            section = Section(title)
            section.add_note(f"This chapter could not be made. {self[before]}")
        return section


def collect_numbers(results: Results, problems: Problems) -> tuple[dict, dict]:
    """(numbers per series, alignment errors per series): what summary.json says of each tilt series."""
    numbers, alignments = {}, {}
    for ts in results.series:
        numbers[ts] = problems.attempt(f"numbers of {ts}", lambda ts=ts: _series_numbers(results, ts), {})
        if results.simulated:
            numbers[ts] |= problems.attempt(
                f"errors of {ts}", lambda ts=ts: _series_errors(results, ts, alignments), {}
            )
    return numbers, alignments


def _series_numbers(results: Results, ts: str) -> dict:
    series = results.table("align_tilt_series", ts)
    return {
        "views": len(series),
        "views_used": int(series.included.sum()),
        "picks": len(results.picks(ts).table),
        "tilt_axis_deg": float(series.tilts["z_rot_deg"].median()),
    }


def _series_errors(results: Results, ts: str, alignments: dict) -> dict:
    """Errors against the simulator's truth; adds that of the alignment to ``alignments``."""
    errors = evaluate.motion_error(results, ts) | evaluate.defocus_error(results, ts)
    errors |= evaluate.view_errors(results, ts)
    aligned, alignments[ts] = evaluate.alignment_errors(results, ts)
    return errors | aligned | evaluate.pick_errors(results, ts, alignments[ts])


def round_numbers(results: Results, name: str, alignments: dict, mask_diameter_angst: float) -> tuple[dict, dict]:
    """(numbers, map comparison) of an averaging round; the comparison is empty without truth."""
    volume, pixel = results.volume("postprocess", name, "map.mrc")
    curves = averages.fsc_curves(results, name)
    corrected = next(v for k, v in curves.items() if k.endswith("FourierShellCorrelationCorrected"))
    numbers = {
        "particles": len(results.refined(name).table),
        "pixel_size_angst": pixel,
        "nyquist_angst": 2 * pixel,
        _RESOLUTION: resolution_at(corrected, pixel, volume.shape[0], 0.143),
    }
    verdict = averages.verdict(results, name)
    numbers |= {} if verdict is None else {"verdict": verdict["sentence"]}
    if not results.simulated:
        return numbers, {}
    numbers |= evaluate.particle_errors(results, name, alignments)
    density, density_pixel = results.true_density
    comparison = evaluate.compare_map(volume, pixel, density, density_pixel, mask_diameter_angst)
    numbers |= {k: v for k, v in comparison.items() if isinstance(v, float)}
    return numbers, comparison


def build(results: Results, mask_diameters_angst: dict[str, float], page_path: str, version: str, left_out: list[LeftOut] = ()) -> dict:
    """Write the page and return all numbers.

    Parameters
    ----------
    mask_diameters_angst : diameter of the particle mask of every averaging round. left_out : series that are not in the averages.

    Returns
    -------
    series, rounds : numbers of each. Only where there is such: left_out : series, the step that refused it and why; not_made : what could not be
    shown and why.
    """
    problems = Problems()
    numbers, alignments = collect_numbers(results, problems)
    chapters = {
        "Acquisition": lambda: movies.acquisition(results),
        "Motion": lambda: movies.motion(results, numbers),
        "CTF": lambda: movies.ctf(results, numbers),
        "Views": lambda: tilt_series.views(results, numbers),
        "X-rays": lambda: tilt_series.xrays(results),
        "Alignment": lambda: tilt_series.alignment(results, numbers, alignments),
        "Tomograms": lambda: tomograms.tomograms(results),
        "Particles": lambda: tomograms.picking(results, numbers),
    }
    sections = [problems.chapter(title, make) for title, make in chapters.items()]
    rounds = {}
    for name in results.rounds:
        diameter = mask_diameters_angst[name]
        rounds[name], comparison = problems.attempt(
            f"numbers of {name}", lambda n=name, d=diameter: round_numbers(results, n, alignments, d), ({}, {})
        )
        sections.append(
            problems.chapter(
                f"Average: {name}", lambda n=name, c=comparison: averages.averaging_round(results, n, rounds[n], c)
            )
        )
    sections.insert(0, _overview(results, numbers, rounds, problems, left_out))
    write_text(page_path, render(f"tiltline {version}: movies to averages", sections))
    told = {"left_out": {note.series: {"step": note.step, "reason": note.reason} for note in left_out}, "not_made": list(problems)}
    return {"series": numbers, "rounds": rounds} | {name: value for name, value in told.items() if value}


def failed_rounds(rounds: dict) -> list[str]:
    """Rounds whose half maps do not correlate: their map is no average."""
    return [name for name, numbers in rounds.items() if not math.isfinite(numbers.get(_RESOLUTION, 0.0))]


def _overview(results: Results, numbers: dict, rounds: dict, problems: Problems, left_out: list[LeftOut]) -> Section:
    section = Section("Overview", "The run at a glance.")
    if left_out:
        section.add_note(f"{len(left_out)} tilt series are not in the averages.")
        section.add_table(["left out", "by", "because"], [[note.series, note.step, ("bad", note.reason)] for note in left_out])
    for name in rounds:
        if "verdict" in rounds[name]:
            averages.add_verdict(section, averages.verdict(results, name), f"{name}: ")
    for name in failed_rounds(rounds):
        section.add_note(f"{name}: {averages.FAILED}")
    for problem in problems:
        section.add_note(f"Not shown: {problem}")
    keys = list(dict.fromkeys(k for n in numbers.values() for k in n))
    section.add_table(
        ["", *results.series], [[k.replace("_", " "), *[n.get(k, "-") for n in numbers.values()]] for k in keys]
    )
    if rounds:
        keys = list(dict.fromkeys(k for n in rounds.values() for k in n if k != "verdict"))
        section.add_table(
            ["round", *rounds], [[k.replace("_", " "), *[n.get(k, "-") for n in rounds.values()]] for k in keys]
        )
    if results.simulated:
        section.add_text(
            "The data are simulated: lines with 'error', precision and recall compare with the known truth."
        )
    return section


def write_times(path, seconds: dict[str, float]) -> None:
    """Wall time of every step as a table of its own: it differs from run to run, and the page does not."""
    rows = [f"{step}\t{value:.1f}" for step, value in sorted(seconds.items(), key=lambda kv: (-kv[1], kv[0]))]
    write_text(path, "\n".join(["step\tseconds", *rows]) + "\n")
