"""Truth tables of a simulated series: TiltSeries, Particles and JSON."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cryoet_core.metadata import Particles, TiltSeries
from cryoet_core.simulate.acquisition import View, movie_name
from cryoet_core.simulate.detector import Camera
from cryoet_core.simulate.settings import SimulationSettings
from cryoet_core.simulate.specimen import Specimen, field_half_sizes


def tomogram_size_px(settings: SimulationSettings) -> tuple[int, int, int]:
    """(x, y, z) of the field and slab in movie pixels, even: x is across the tilt axis."""
    half_x, half_y = field_half_sizes(settings)
    sizes = 2 * half_x, 2 * half_y, 1.4 * settings.thickness_angst
    return tuple(2 * round(0.5 * s / settings.pixel_size_angst) for s in sizes)


def true_series(series: str, views: list[View], settings: SimulationSettings, frames_dir: str) -> TiltSeries:
    """The TiltSeries with the true geometry and defocus, sorted by nominal tilt; dark views are excluded."""
    rows = []
    for view in views:
        movie = movie_name(series, view.tilt_id, view.nominal_tilt_deg)
        rows.append(
            {
                "tilt_id": view.tilt_id,
                "movie": f"{frames_dir}/{movie}",
                "n_frames": settings.frames_per_tilt,
                "nominal_tilt_deg": view.nominal_tilt_deg,
                "nominal_axis_deg": settings.nominal_axis_deg,
                "pre_exposure_e_per_a2": view.pre_exposure_e_per_a2,
                "exposure_e_per_a2": view.exposure_e_per_a2,
                "defocus_u_angst": view.defocus_u_angst,
                "defocus_v_angst": view.defocus_v_angst,
                "defocus_angle_deg": view.defocus_angle_deg,
                "phase_shift_deg": 0.0,
                "ctf_scale": float(np.cos(np.radians(view.nominal_tilt_deg))),
                "x_tilt_deg": view.x_tilt_deg,
                "y_tilt_deg": view.y_tilt_deg,
                "z_rot_deg": view.z_rot_deg,
                "x_shift_angst": view.x_shift_angst,
                "y_shift_angst": view.y_shift_angst,
                "excluded": int(view.dark),
                "exclude_reason": "dark" if view.dark else "none",
            }
        )
    tilts = pd.DataFrame(rows).sort_values("nominal_tilt_deg", ignore_index=True)
    return TiltSeries(
        name=series,
        voltage_kv=settings.voltage_kv,
        spherical_aberration_mm=settings.spherical_aberration_mm,
        amplitude_contrast=settings.amplitude_contrast,
        pixel_size_angst=settings.pixel_size_angst,
        movie_pixel_size_angst=settings.pixel_size_angst,
        handedness=settings.handedness,
        image_size_px=(settings.image_width_px, settings.image_height_px),
        tomogram_size_px=tomogram_size_px(settings),
        tilts=tilts,
    )


def true_particles(series: str, specimen: Specimen, settings: SimulationSettings, inside: bool = True) -> Particles:
    """Large molecules of the untilted field (or, ``inside`` False, of its surroundings): positions, angles, tlSpecies."""
    chosen = np.flatnonzero(specimen.inside == inside)
    position, euler = specimen.position[chosen], specimen.euler[chosen]
    n = len(chosen)
    table = pd.DataFrame(
        {
            "tomo_name": series,
            "particle_name": [f"{series}/{i + 1}" for i in chosen],
            "x_angst": position[:, 0],
            "y_angst": position[:, 1],
            "z_angst": position[:, 2],
            "rot_deg": euler[:, 0],
            "tilt_deg": euler[:, 1],
            "psi_deg": euler[:, 2],
            "origin_x_angst": 0.0,
            "origin_y_angst": 0.0,
            "origin_z_angst": 0.0,
            "random_subset": 1 + np.arange(n) % 2,
            "optics_group": 1,
            "species": [specimen.species[k].name for k in specimen.kind[chosen]],
        }
    )
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [settings.voltage_kv],
            "rlnSphericalAberration": [settings.spherical_aberration_mm],
            "rlnAmplitudeContrast": [settings.amplitude_contrast],
            "rlnTomoTiltSeriesPixelSize": [settings.pixel_size_angst],
        }
    )
    return Particles(table=table, optics=optics, are_2d_stacks=False)


def _cell_facts(specimen: Specimen, settings: SimulationSettings) -> dict:
    """Vesicles and gold beads, also those beyond the untilted field; nothing where there are none."""
    half = np.array(field_half_sizes(settings))
    facts = {}
    for name, rows, columns in (
        ("vesicles", specimen.vesicles, ("x_angst", "y_angst", "z_angst", "radius_angst")),
        ("gold_beads", specimen.gold, ("x_angst", "y_angst", "z_angst")),
    ):
        if len(rows):
            facts[name] = [
                dict(zip(columns, row.tolist(), strict=True)) | {"in_field": bool((abs(row[:2]) < half).all())}
                for row in rows
            ]
    return facts | ({"gold_diameter_angst": settings.gold_diameter_angst} if len(specimen.gold) else {})


def true_facts(
    views: list[View], hits: dict, camera: Camera, specimen: Specimen, settings: SimulationSettings, seed: int
) -> dict:
    """What has no place in a table: frame shifts, X-rays, camera defects (indices y, x), dark views, hand, seed, vesicles
    and gold."""
    pixel = settings.pixel_size_angst
    return _cell_facts(specimen, settings) | {
        "seed": seed,
        "handedness": settings.handedness,
        "dark_tilt_ids": sorted(view.tilt_id for view in views if view.dark),
        "frame_shifts_px": {str(v.tilt_id): (v.frame_shifts_angst / pixel).tolist() for v in views},
        "xrays": {str(tilt_id): found for tilt_id, found in hits.items()},
        "dead_pixels_yx": np.argwhere(camera.gain == 0).tolist(),
        "hot_pixels_yx": np.argwhere(camera.hot > 0).tolist(),
        "tilt_axis_deg": views[0].z_rot_deg,
        "tilt_offset_deg": float(np.mean([v.y_tilt_deg - v.nominal_tilt_deg for v in views])),
    }
