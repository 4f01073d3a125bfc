"""One simulated tilt series, from settings to files."""

from __future__ import annotations

from pathlib import Path

from cryoet_core.io.atomic import write_text
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.summary import write_summary
from cryoet_core.metadata import write_particles, write_tilt_series
from cryoet_core.simulate.acquisition import movie_name, plan_views
from cryoet_core.simulate.detector import expose, make_camera
from cryoet_core.simulate.imaging import Microscope
from cryoet_core.simulate.mdoc import mdoc_text
from cryoet_core.simulate.molecules import density_map
from cryoet_core.simulate.settings import SimulationSettings, generator
from cryoet_core.simulate.specimen import make_species, make_specimen
from cryoet_core.simulate.truth import true_facts, true_particles, true_series


def simulate_series(settings: SimulationSettings, series: str, seed: int, folder, progress=iter) -> dict:
    """Write the movies, the mdoc and the truth of one series below ``folder``.

    Files: frames/<series>_<tilt_id>_<angle>.mrc (uint8 counts, not gain-corrected), frames/<series>.mdoc and
    truth/{<series>.star, particles.star, outside.star, truth.json}. The camera depends on ``seed`` alone, so all series of a run share
    its gain; everything else also on the series' name. ``progress`` wraps the list of views.

    Returns numbers for a summary. Raises UserInputError E-SIM-01 when the particles do not fit into the slab.
    """
    folder = Path(folder)
    frames_dir, truth_dir = folder / "frames", folder / "truth"
    specimen = make_specimen(settings, generator(seed, series, "specimen"))
    views = plan_views(settings, series, seed)
    camera = make_camera(settings, seed)
    microscope = Microscope(specimen, settings)
    hits, means = {}, []
    for view in progress(views):
        intensity = microscope.frames(view, generator(seed, series, "ice", view.tilt_id))
        rng = generator(seed, series, "counts", view.tilt_id)
        raw, hits[view.tilt_id] = expose(intensity, view, camera, settings, rng)
        name = movie_name(series, view.tilt_id, view.nominal_tilt_deg)
        write_mrc(frames_dir / name, raw, settings.pixel_size_angst, stack=True, dtype="uint8")
        means.append(float(raw.mean() * len(raw)))
    write_tilt_series(true_series(series, views, settings, str(frames_dir)), truth_dir / f"{series}.star")
    write_particles(true_particles(series, specimen, settings), truth_dir / "particles.star")
    write_particles(true_particles(series, specimen, settings, inside=False), truth_dir / "outside.star")
    write_summary(truth_dir / "truth.json", true_facts(views, hits, camera, specimen, settings, seed))
    write_text(frames_dir / f"{series}.mdoc", mdoc_text(series, views, settings, means))
    return {
        "n_views": len(views),
        "n_particles": int((specimen.inside & (specimen.kind == 0)).sum()),
        "n_decoys": int((specimen.inside & (specimen.kind > 0)).sum()),
        "n_outside_field": int((~specimen.inside).sum()),
        "n_crowders": len(specimen.crowder_position),
        "n_vesicles": len(specimen.vesicles),
        "n_gold_beads": len(specimen.gold),
        "n_xrays": sum(map(len, hits.values())),
        "dark_tilt_ids": [view.tilt_id for view in views if view.dark],
        "mean_counts_per_px": means,
    }


def write_common(settings: SimulationSettings, seed: int, gain_path, reference_path, density_path) -> None:
    """Write what all series of a run share: the gain reference, the template map and the true density (both bright).

    The template has another pixel size and softer beads than the truth, as a map from elsewhere would.
    """
    molecule = make_species(settings)[0]
    pixel = settings.pixel_size_angst
    density = density_map(molecule, pixel, settings.density_box_px, settings.bead_sigma_angst)
    write_mrc(density_path, density, pixel)
    reference = density_map(
        molecule, settings.reference_pixel_size_angst, settings.reference_box_px, settings.reference_bead_sigma_angst
    )
    write_mrc(reference_path, reference, settings.reference_pixel_size_angst)
    write_mrc(gain_path, make_camera(settings, seed).gain, pixel, stack=True)
