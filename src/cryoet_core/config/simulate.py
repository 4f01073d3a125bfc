"""Config section ``simulate``: the demo's data set. Defaults come from the simulator's own settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from cryoet_core.config.base import StepModel, key
from cryoet_core.simulate.settings import SimulationSettings

_D = SimulationSettings()


class Simulate(StepModel):
    """Movies of tilt series with known truth: a slab of macromolecules, a microscope and a counting camera."""

    version: ClassVar[int] = 1

    n_series: int = key(2, meaning="how many tilt series; they differ in content and errors", ge=1, le=99)

    max_tilt_deg: float = key(_D.max_tilt_deg, unit="deg", meaning="highest nominal tilt, both ways", ge=0, le=70)
    tilt_step_deg: float = key(_D.tilt_step_deg, unit="deg", meaning="step of the dose-symmetric scheme", gt=0)
    dose_per_tilt_e_per_a2: float = key(
        _D.dose_per_tilt_e_per_a2, unit="e/A^2", meaning="incident dose of each tilt", gt=0
    )
    frames_per_tilt: int = key(_D.frames_per_tilt, meaning="frames of each movie", ge=1)

    image_width_px: int = key(_D.image_width_px, unit="px", meaning="camera width", ge=32, multiple_of=2)
    image_height_px: int = key(_D.image_height_px, unit="px", meaning="camera height", ge=32, multiple_of=2)
    pixel_size_angst: float = key(_D.pixel_size_angst, unit="A", meaning="pixel size of the movies", gt=0)
    voltage_kv: float = key(_D.voltage_kv, unit="kV", meaning="acceleration voltage", gt=0)
    spherical_aberration_mm: float = key(_D.spherical_aberration_mm, unit="mm", meaning="spherical aberration", ge=0)
    amplitude_contrast: float = key(_D.amplitude_contrast, meaning="fraction of amplitude contrast", ge=0, le=1)
    handedness: Literal[-1, 1] = key(_D.handedness, meaning="sign of depth in the defocus; -1 = z towards the source")
    b_factor_angst2: float = key(
        _D.b_factor_angst2, unit="A^2", meaning="fall-off exp(-B k^2/4) of all contrast (coherence, camera)", ge=0
    )
    inelastic_mean_free_path_angst: float = key(
        _D.inelastic_mean_free_path_angst, unit="A", meaning="intensity falls as exp(-path in ice / this)", gt=0
    )

    defocus_angst: float = key(_D.defocus_angst, unit="A", meaning="mean underfocus over the series")
    defocus_range_angst: float = key(
        _D.defocus_range_angst, unit="A", meaning="full range of the series' target defocus", ge=0
    )
    defocus_jitter_angst: float = key(
        _D.defocus_jitter_angst, unit="A", meaning="standard deviation of defocus from tilt to tilt", ge=0
    )
    astigmatism_angst: float = key(
        _D.astigmatism_angst, unit="A", meaning="defocus U - V, slowly varying by a fifth", ge=0
    )

    nominal_axis_deg: float = key(_D.nominal_axis_deg, unit="deg", meaning="tilt axis written in the mdoc")
    axis_error_deg: float = key(_D.axis_error_deg, unit="deg", meaning="true tilt axis minus the mdoc's")
    x_tilt_deg: float = key(_D.x_tilt_deg, unit="deg", meaning="tilt of the slab about tomogram x", ge=-20, le=20)
    tilt_offset_deg: float = key(
        _D.tilt_offset_deg, unit="deg", meaning="size of the constant tilt error of a series, sign by chance, +-20 %"
    )
    tilt_jitter_deg: float = key(
        _D.tilt_jitter_deg, unit="deg", meaning="standard deviation of each tilt angle's error, at most 0.05", ge=0
    )
    shift_fraction: float = key(
        _D.shift_fraction, meaning="size of the stage shifts as a fraction of the field (limit 0.08)", ge=0, le=0.08
    )
    drift_min_angst: float = key(_D.drift_min_angst, unit="A", meaning="least movement over a movie", ge=0)
    drift_max_angst: float = key(_D.drift_max_angst, unit="A", meaning="largest movement over a movie", ge=0)

    specimen: Literal["ribosome", "chiral"] = key(
        _D.specimen, meaning="the molecule: 70S ribosome (PDB 4V5D) or a small synthetic chiral cluster"
    )
    n_particles: int = key(_D.n_particles, meaning="copies in the untilted field; the same density around it", ge=0)
    n_decoys: int = key(_D.n_decoys, meaning="rings, rods and globules of like mass in the untilted field", ge=0)
    n_crowders: int = key(_D.n_crowders, meaning="small proteins of 20 to 80 kDa in the untilted field", ge=0)
    thickness_angst: float = key(_D.thickness_angst, unit="A", meaning="thickness of the slab of ice", gt=0)
    bead_sigma_angst: float = key(_D.bead_sigma_angst, unit="A", meaning="Gaussian width of a residue's bead", gt=0)
    ice_structure_factor: float = key(
        _D.ice_structure_factor, meaning="S(k) of the ice's density noise; water 0.06 to 0.1; 0 = smooth ice", ge=0
    )

    n_vesicles: int = key(_D.n_vesicles, meaning="lipid vesicles in the untilted field; the same density around it", ge=0)
    vesicle_radius_min_angst: float = key(_D.vesicle_radius_min_angst, unit="A", meaning="radius of the smallest vesicles", gt=0)
    vesicle_radius_max_angst: float = key(
        _D.vesicle_radius_max_angst, unit="A", meaning="radius of the largest vesicles (at most what the slab holds)", gt=0
    )
    n_gold_beads: int = key(_D.n_gold_beads, meaning="gold beads in and on the slab, in the untilted field", ge=0)
    gold_diameter_angst: float = key(_D.gold_diameter_angst, unit="A", meaning="diameter of the gold beads", gt=0)
    crowding_mg_per_ml: float = key(
        _D.crowding_mg_per_ml, unit="mg/ml", meaning="proteins of 50 to 500 kDa and many shapes that fill the slab; cells have 100 to 300", ge=0, le=400
    )
    defocus_step_angst: float = key(
        _D.defocus_step_angst, unit="A", meaning="spacing of the defoci at which the background is computed; an object between two has their mean", gt=0
    )
    fast_counting: bool = key(
        _D.fast_counting, meaning="Poisson counts from tables (other random numbers, 20 times as fast) instead of NumPy's"
    )

    n_dead_pixels: int = key(_D.n_dead_pixels, meaning="pixels that count nothing (gain 0)", ge=0)
    n_hot_pixels: int = key(_D.n_hot_pixels, meaning="pixels with 25 to 90 extra counts in each frame", ge=0)
    xrays_per_tilt: float = key(_D.xrays_per_tilt, meaning="mean number of X-ray hits of 1 to 12 px per tilt", ge=0)
    n_dark_views: int = key(_D.n_dark_views, meaning="views at the ends that are mostly behind a grid bar", ge=0)

    density_box_px: int = key(
        _D.density_box_px, unit="px", meaning="box of the true density, movie pixels", ge=8, multiple_of=2
    )
    reference_pixel_size_angst: float = key(
        _D.reference_pixel_size_angst, unit="A", meaning="pixel size of the template map", gt=0
    )
    reference_box_px: int = key(
        _D.reference_box_px, unit="px", meaning="box of the template map", ge=8, multiple_of=2
    )
    reference_bead_sigma_angst: float = key(
        _D.reference_bead_sigma_angst, unit="A", meaning="Gaussian width of the template's beads", gt=0
    )

    @model_validator(mode="after")
    def _ordered(self):
        if self.drift_max_angst < self.drift_min_angst:
            raise ValueError("drift_max_angst is smaller than drift_min_angst")
        if self.vesicle_radius_max_angst < self.vesicle_radius_min_angst:
            raise ValueError("vesicle_radius_max_angst is smaller than vesicle_radius_min_angst")
        if self.n_dark_views > 2 * int(self.max_tilt_deg / self.tilt_step_deg):
            raise ValueError("more dark views than tilted views")
        return self

    def settings(self) -> SimulationSettings:
        """What the simulator takes: every key but the number of series."""
        return SimulationSettings(**self.model_dump(exclude={"n_series"}))
