from dataclasses import replace

import numpy as np
import pytest

from cryoet_core.simulate.acquisition import View
from cryoet_core.simulate.molecules import Molecule
from cryoet_core.simulate.settings import SimulationSettings
from cryoet_core.simulate.specimen import Specimen


@pytest.fixture
def clean() -> SimulationSettings:
    """A perfect microscope: smooth thin ice, no envelope, no camera faults."""
    return replace(
        SimulationSettings(),
        image_width_px=128,
        image_height_px=96,
        pixel_size_angst=4.0,
        b_factor_angst2=0.0,
        inelastic_mean_free_path_angst=1e12,
        ice_structure_factor=0.0,
        n_dead_pixels=0,
        n_hot_pixels=0,
        xrays_per_tilt=0.0,
        n_dark_views=0,
        n_particles=0,
        n_decoys=0,
        n_crowders=0,
    )


@pytest.fixture
def view():
    """Makes a view: untilted, in focus, undamaged unless told."""

    def make(**changes) -> View:
        plain = View(
            tilt_id=1, nominal_tilt_deg=0.0, x_tilt_deg=0.0, y_tilt_deg=0.0, z_rot_deg=0.0,
            x_shift_angst=0.0, y_shift_angst=0.0, defocus_u_angst=0.0, defocus_v_angst=0.0, defocus_angle_deg=0.0,
            pre_exposure_e_per_a2=0.0, exposure_e_per_a2=0.0, brightness=1.0, dark=False,
            frame_shifts_angst=np.zeros((1, 2)),
        )
        return replace(plain, **changes)

    return make


@pytest.fixture
def beads_at():
    """Makes a specimen of single-bead molecules at the given positions (n, 3) A."""

    def make(positions, mass_da=2.0e4) -> Specimen:
        positions = np.atleast_2d(np.asarray(positions, float))
        n = len(positions)
        bead = Molecule("bead", np.zeros((1, 3), np.float32), np.array([mass_da], np.float32))
        none = np.empty((0, 3))
        return Specimen(
            (bead,), np.zeros(n, np.int64), positions, np.zeros((n, 3)), np.ones(n, bool), none, none[:, 0], none[:, 0]
        )

    return make
