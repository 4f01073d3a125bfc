"""Report chapters on the averages: initial model, refinement, resolution, one per round."""

from __future__ import annotations

import numpy as np

from cryoet_core.io.summary import read_summary
from cryoet_core.report.figures import MEASURED, OTHER, TRUE, fsc_plot, map_views, new_figure
from cryoet_core.report.page import Section
from cryoet_core.report.results import Results

FAILED = "the average failed: its two half maps do not correlate at any resolution. Do not interpret this map."
_RANDOMISED = "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"
_FSC_COLUMNS = {
    "rlnFourierShellCorrelationCorrected": ("corrected for the mask", "-"),
    "rlnFourierShellCorrelationUnmaskedMaps": ("half maps", "--"),
    "rlnFourierShellCorrelationMaskedMaps": ("masked", ":"),
    _RANDOMISED: ("masked, phases randomised", "-."),
}


def averaging_round(results: Results, name: str, numbers: dict, comparison: dict) -> Section:
    """Maps, FSC, progress and angles of one round. ``comparison`` holds what evaluate.compare_map made."""
    particles = results.refined(name)
    section = Section(f"Average: {name}", f"{len(particles.table)} particles, refined in two independent halves.")
    add_verdict(section, verdict(results, name))
    if not np.isfinite(numbers.get("resolution_fsc_0.143_angst", 0.0)):
        section.add_note(FAILED[0].upper() + FAILED[1:])
    final, pixel = results.volume("postprocess", name, "map.mrc")
    volumes, names = [final], ["average"]
    initial = results.path("initial_model", name, "initial_model.mrc")
    if initial.exists():
        volume, initial_pixel = results.volume("initial_model", name, "initial_model.mrc")
        if volume.shape == final.shape:
            volumes.insert(0, volume)
            names.insert(0, "initial model")
    if comparison:
        volumes.append(comparison["truth_in_frame"])
        names.append("truth")
    section.add_figure(map_views(volumes, names), f"Central sections and projections, {pixel:.2f} A/px, bright is dense.")
    caption = _caption(numbers)
    if _RANDOMISED not in fsc_curves(results, name):
        caption += " The half maps agree so far (above 0.8 everywhere) that no phases were randomised; the mask is not corrected for."
    section.add_figure(_fsc_figure(results, name, final.shape[0], pixel, comparison), caption)
    local = _local_figure(results, name)
    if local is not None:
        section.add_figure(local, _local_caption(results.summary("postprocess", name), pixel))
    section.add_figure(_progress_figure(results, name, particles), "Refinement: resolution and changes per iteration; view directions of the particles.")
    return section


def verdict(results: Results, name: str) -> dict | None:
    """The verdict on a round's average (subtomo.verdict) from postprocess' summary; None where there is none."""
    if not results.path("postprocess", name, "summary.json").exists():
        return None
    return results.summary("postprocess", name).get("verdict")


def add_verdict(section: Section, found: dict | None, label: str = "") -> None:
    """An objection as an alarm, "no objection" as a line of text."""
    if found is not None:
        (section.add_alarm if found["reasons"] else section.add_text)(label + found["sentence"])


def _caption(numbers: dict) -> str:
    text = "Fourier shell correlation of the two half maps; right: in the iterations of the refinement."
    if np.isfinite(numbers.get("resolution_fsc_0.143_angst", np.nan)):
        text += f" Resolution at 0.143: {numbers['resolution_fsc_0.143_angst']:.1f} A."
    if np.isfinite(numbers.get("resolution_truth_0.5_angst", np.nan)):
        text += (
            f" Against the true density FSC 0.5 at {numbers['resolution_truth_0.5_angst']:.1f} A; "
            f"the mirrored truth correlates {numbers['correlation_mirrored']:.3f} against {numbers['correlation_truth']:.3f}."
        )
    return text


def _local_caption(summary: dict, pixel_size_angst: float) -> str:
    text = "Local resolution (A) in the three central sections, and its distribution inside the mask."
    worst = summary.get("local_resolution_worst_angst")  # null where nothing was resolved
    if worst is not None and worst <= 2.02 * pixel_size_angst:
        text += " Everywhere it is that of the pixels (Nyquist): a smaller binning may show more."
    return text


def fsc_curves(results: Results, name: str) -> dict[str, np.ndarray]:
    """Columns of postprocess' fsc.star as arrays; that of randomised phases only where they are random, absent where none are."""
    blocks = results.star("postprocess", name, "fsc.star")
    table = next(b for b in blocks.values() if hasattr(b, "columns"))
    curves = {str(c): table[c].to_numpy() for c in table.columns}
    start = next((float(b["rlnRandomiseFrom"]) for b in blocks.values() if not hasattr(b, "columns") and "rlnRandomiseFrom" in b), None)
    if start is None:
        curves.pop(_RANDOMISED, None)
    elif _RANDOMISED in curves:
        curves[_RANDOMISED] = np.where(curves["rlnAngstromResolution"] > 1.001 * start, np.nan, curves[_RANDOMISED])
    return curves


def _fsc_figure(results, name, box, pixel, comparison):
    found = fsc_curves(results, name)
    curves = {label: (found[column], style) for column, (label, style) in _FSC_COLUMNS.items() if column in found}
    figure = new_figure(11, 3.2)
    axes = figure.subplots(1, 3)
    fsc_plot(axes[0], curves, pixel, box)
    _iteration_fsc(axes[2], results, name)
    if comparison:
        fsc_plot(
            axes[1],
            {"with the truth": (comparison["fsc_truth"], "-"), "with the mirrored truth": (comparison["fsc_mirrored"], "--")},
            pixel,
            box,
        )
    else:
        axes[1].set_axis_off()
    return figure


def _iteration_fsc(ax, results, name):
    """FSC of the halves in the first, middle and last iteration of the refinement."""
    iterations = read_summary(results.path("refine", name, "iterations.json"))["iterations"]
    chosen = sorted({0, (len(iterations) - 1) // 2, len(iterations) - 1})
    styles = ("-", "--", ":")[-len(chosen) :][::-1]
    curves = {
        f"iteration {iterations[i]['number']}": (np.array([1.0, *iterations[i]["fsc"][1:]]), style)
        for i, style in zip(chosen, styles, strict=True)
    }
    pixel = results.summary("refine", name)["pixel_size_angst"]
    fsc_plot(ax, curves, pixel, 2 * (len(iterations[0]["fsc"]) - 1))


def _local_figure(results, name):
    """Central sections of the local resolution and its histogram; None where it was not computed."""
    if not results.path("postprocess", name, "local_resolution.mrc").exists():
        return None
    volume, _ = results.volume("postprocess", name, "local_resolution.mrc")
    inside = volume[volume > 0]
    if inside.size == 0:
        return None
    low, high = np.quantile(inside, [0.02, 0.98])
    limits = min(low, 0.95 * high), max(high, 1.05 * low)  # one value everywhere (Nyquist) gets a scale that can be read
    figure = new_figure(11, 2.6)
    axes = figure.subplots(1, 4)
    middle = [n // 2 for n in volume.shape]
    sections = (volume[middle[0]], volume[:, middle[1]], volume[:, :, middle[2]])
    for ax, section, label in zip(axes, sections, ("xy", "xz", "yz"), strict=False):
        shown = np.where(section > 0, section, np.nan)
        image = ax.imshow(shown, origin="lower", cmap="viridis_r", vmin=limits[0], vmax=limits[1])
        ax.set_title(label, fontsize=9, color=OTHER)
        ax.set_axis_off()
    figure.colorbar(image, ax=axes[2], fraction=0.05)
    axes[3].hist(inside, bins=np.linspace(min(limits[0], inside.min()), max(limits[1], inside.max()), 41), color=MEASURED)
    axes[3].set(xlabel="local resolution (A)", ylabel="voxels")
    return figure


def _progress_figure(results, name, particles):
    figure = new_figure(11, 2.8)
    axes = figure.subplots(1, 4)
    iterations = read_summary(results.path("refine", name, "iterations.json"))["iterations"]
    columns = (
        ("resolution_angst", "resolution (A)"),
        ("angle_change_deg", "angle change (deg)"),
        ("offset_change_angst", "offset change (A)"),
    )
    for ax, (key, label) in zip(axes, columns, strict=False):
        values = [np.nan if i[key] is None else i[key] for i in iterations]
        ax.plot([i["number"] for i in iterations], values, ".-", color=MEASURED)
        ax.set(xlabel="iteration", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[3].remove()
    polar = figure.add_subplot(1, 4, 4, projection="polar")
    direction = particles.rotations[:, 2, :]  # the tomogram's z axis seen from the particle
    upper = direction[:, 2] >= 0
    for rows, colour, label in ((upper, MEASURED, "upper"), (~upper, TRUE, "lower")):
        d = direction[rows]
        polar.plot(np.arctan2(d[:, 1], d[:, 0]), np.degrees(np.arccos(np.abs(d[:, 2]))), ".", color=colour, markersize=3, label=label)
    polar.set_title("view directions", fontsize=9, color=OTHER)
    polar.set_rlim(0, 90)
    return figure
