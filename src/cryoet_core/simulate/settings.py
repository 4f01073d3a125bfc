"""Every choice of a simulation with its default: the demo's data set. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SimulationSettings:
    """Specimen, microscope, tilt scheme, camera and faults. Units are in the names; see config/simulate.py."""

    # tilt scheme
    max_tilt_deg: float = 60.0
    tilt_step_deg: float = 4.0
    dose_per_tilt_e_per_a2: float = 3.4
    frames_per_tilt: int = 4
    # microscope
    image_width_px: int = 960
    image_height_px: int = 896
    pixel_size_angst: float = 3.5
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    handedness: int = -1
    b_factor_angst2: float = 80.0
    inelastic_mean_free_path_angst: float = 3000.0
    # defocus
    defocus_angst: float = 30000.0
    defocus_range_angst: float = 4000.0
    defocus_jitter_angst: float = 600.0
    astigmatism_angst: float = 650.0
    # geometry and its errors
    nominal_axis_deg: float = 85.0
    axis_error_deg: float = 1.0
    x_tilt_deg: float = 0.0
    tilt_offset_deg: float = 2.5
    tilt_jitter_deg: float = 0.02
    shift_fraction: float = 0.03
    drift_min_angst: float = 2.0
    drift_max_angst: float = 10.0
    # specimen
    specimen: str = "ribosome"
    n_particles: int = 100
    n_decoys: int = 60
    n_crowders: int = 1200
    thickness_angst: float = 900.0
    bead_sigma_angst: float = 2.5
    ice_structure_factor: float = 0.1
    # what a cell has besides; none in the demo
    n_vesicles: int = 0
    vesicle_radius_min_angst: float = 300.0
    vesicle_radius_max_angst: float = 900.0
    n_gold_beads: int = 0
    gold_diameter_angst: float = 100.0
    crowding_mg_per_ml: float = 0.0
    # how closely large images are computed
    defocus_step_angst: float = 400.0
    fast_counting: bool = False
    # camera and faults
    n_dead_pixels: int = 14
    n_hot_pixels: int = 10
    xrays_per_tilt: float = 3.0
    n_dark_views: int = 2
    # maps for the later steps
    density_box_px: int = 144
    reference_pixel_size_angst: float = 5.0
    reference_box_px: int = 80
    reference_bead_sigma_angst: float = 4.0

    @property
    def image_shape(self) -> tuple[int, int]:
        """(h, w) of a frame."""
        return self.image_height_px, self.image_width_px


def generator(seed: int, *identity) -> np.random.Generator:
    """Random numbers named by what they are for, e.g. (seed, "TS_01", "frames", 12): independent of any order."""
    digest = hashlib.sha256("/".join(str(part) for part in identity).encode()).digest()
    return np.random.default_rng([int(seed), *np.frombuffer(digest, dtype=np.uint32)])
