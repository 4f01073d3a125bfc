"""Compose the report: numbers of all steps, then one chapter after the other."""

from __future__ import annotations

from cryoet_core.fsc import resolution_at
from cryoet_core.io.atomic import write_text
from cryoet_core.report import averages, evaluate, movies, tilt_series, tomograms
from cryoet_core.report.page import Section, render
from cryoet_core.report.results import Results


def collect_numbers(results: Results) -> tuple[dict, dict]:
    """(numbers per series, alignment errors per series): what summary.json says of each tilt series."""
    numbers, alignments = {}, {}
    for ts in results.series:
        series = results.table("align_tilt_series", ts)
        numbers[ts] = {
            "views": len(series),
            "views_used": int(series.included.sum()),
            "picks": len(results.picks(ts).table),
            "tilt_axis_deg": float(series.tilts["z_rot_deg"].median()),
        }
        if results.simulated:
            numbers[ts] |= evaluate.motion_error(results, ts) | evaluate.defocus_error(results, ts)
            numbers[ts] |= evaluate.view_errors(results, ts)
            aligned, alignments[ts] = evaluate.alignment_errors(results, ts)
            numbers[ts] |= aligned | evaluate.pick_errors(results, ts, alignments[ts])
    return numbers, alignments


def round_numbers(results: Results, name: str, alignments: dict, mask_diameter_angst: float) -> tuple[dict, dict]:
    """(numbers, map comparison) of an averaging round; the comparison is empty without truth."""
    volume, pixel = results.volume("postprocess", name, "map.mrc")
    curves = averages.fsc_curves(results, name)
    corrected = next(v for k, v in curves.items() if k.endswith("FourierShellCorrelationCorrected"))
    numbers = {
        "particles": len(results.refined(name).table),
        "pixel_size_angst": pixel,
        "nyquist_angst": 2 * pixel,
        "resolution_fsc_0.143_angst": resolution_at(corrected, pixel, volume.shape[0], 0.143),
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


def build(results: Results, mask_diameters_angst: dict[str, float], page_path: str, version: str) -> dict:
    """Write the page and return all numbers.

    Parameters
    ----------
    mask_diameters_angst : diameter of the particle mask of every averaging round.
    """
    numbers, alignments = collect_numbers(results)
    sections = [
        movies.acquisition(results),
        movies.motion(results, numbers),
        movies.ctf(results, numbers),
        tilt_series.views(results, numbers),
        tilt_series.xrays(results),
        tilt_series.alignment(results, numbers, alignments),
        tomograms.tomograms(results),
        tomograms.picking(results, numbers),
    ]
    rounds = {}
    for name in results.rounds:
        rounds[name], comparison = round_numbers(results, name, alignments, mask_diameters_angst[name])
        sections.append(averages.averaging_round(results, name, rounds[name], comparison))
    seconds = results.seconds()
    sections.append(_times(seconds))
    sections.insert(0, _overview(results, numbers, rounds))
    write_text(page_path, render(f"tiltline {version}: movies to averages", sections))
    return {"series": numbers, "rounds": rounds}


def _overview(results: Results, numbers: dict, rounds: dict) -> Section:
    section = Section("Overview", "The run at a glance.")
    for name in rounds:
        averages.add_verdict(section, averages.verdict(results, name), f"{name}: ")
    keys = [k for k in next(iter(numbers.values()), {})]
    section.add_table(["", *results.series], [[k.replace("_", " "), *[n.get(k, "-") for n in numbers.values()]] for k in keys])
    if rounds:
        keys = list(dict.fromkeys(k for n in rounds.values() for k in n if k != "verdict"))
        section.add_table(["round", *rounds], [[k.replace("_", " "), *[n.get(k, "-") for n in rounds.values()]] for k in keys])
    if results.simulated:
        section.add_text("The data are simulated: lines with 'error', precision and recall compare with the known truth.")
    return section


def _times(seconds: dict) -> Section:
    section = Section("Run times", "Wall time of every step, summed over its jobs.")
    section.add_table(["step", "seconds"], [[k, round(v, 1)] for k, v in sorted(seconds.items(), key=lambda kv: -kv[1])])
    return section
