"""What the scripts of tests/steps do not reach with --device: the same call on the CPU and on a device gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from blob_phantom import chiral_blobs, simulate_series
from devices import DEVICES, on_device
from matching_scene import PIXEL, chiral_particle, make_scene
from test_kernels import random_rotations, real, rng

from cryoet_core.config.match_template import MatchTemplate
from cryoet_core.geometry import TiltGeometry, rotation_vector_to_matrix
from cryoet_core.geometry.local_deformation import LocalDeformation
from cryoet_core.picking.background import phase_randomised
from cryoet_core.picking.binned import binned_volume
from cryoet_core.picking.eman import match_like_eman2
from cryoet_core.picking.local_search import Pick
from cryoet_core.picking.match import match_template
from cryoet_core.picking.plan import MatchPlan
from cryoet_core.picking.pose import pose_in_tomogram
from cryoet_core.picking.prepare import searchable_tomogram
from cryoet_core.subtomo.extract import ExtractionSettings
from cryoet_core.subtomo.refine import RefineSettings, half_sets, refine
from cryoet_core.subtomo.refine_run import on_device as images_on_device
from cryoet_core.subtomo.volumes import sum_views
from cryoet_core.tomogram.iterative import IterativeOptions, reconstruct_iteratively
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram
from cryoet_core.tomogram.undeform import undeformed_views
from cryoet_core.tomogram.view_filters import FilterOptions

TILTS = np.linspace(-60, 60, 9)
TILTED_ABOUT_X = TiltGeometry(2.0, TILTS, 85.0, 0.0, 0.0)
devices = pytest.mark.parametrize("device", DEVICES[1:])


def blobs(shape, seed=9):
    """Smooth random density with a very dark bead."""
    from scipy.ndimage import gaussian_filter

    volume = gaussian_filter(real(shape, seed), 1.5)
    volume[tuple(slice(n // 4, n // 4 + 4) for n in shape)] -= 40
    return volume.astype(np.float32)


def particle_sums(to):
    settings = ExtractionSettings(box_px=24, crop_px=16, binning=4)
    used = rng().random((9, 24, 13)) < 0.9
    noise = rng().uniform(1, 2, (9, 9))
    return sum_views(to.device(real((9, 24, 24))), to.device(real((9, 24, 13), 4)), to.device(used), random_rotations(9), settings, noise).data


def picked(to):
    found = match_like_eman2(to.device(blobs((40, 64, 64))), to.device(blobs((20, 20, 20), 3)), 14.0, n_sigma=3.0)
    return np.concatenate([found.sigma_map.ravel(), found.position_px.ravel()])


def picked_in_binned_voxels(to):
    """Places and scores of a search in the binned tomogram, refined in the tomogram."""
    tomogram, series, *_ = make_scene()
    config = MatchTemplate(angular_step_deg=32, edge_margin_angst=40, low_pass_angst=45, max_particles=6, max_false_fraction=1)
    found = match_template(to.device(tomogram), to.device(chiral_particle()), PIXEL, series, config, rng())
    assert found.summary["search_pixel_angst"] == 2.5 * PIXEL
    return np.c_[found.particles.positions_angst, 100 * found.particles.table[["score", "score_mirrored"]].to_numpy()]


def posed(to):
    """Poses that were 3 degrees and half a voxel off, from cubes of the tomogram."""
    tomogram, series, positions, rotations = make_scene()
    picks = [Pick(p + 0.5, rotation_vector_to_matrix([2, -2, 1]) @ r, 0.5) for p, r in zip(positions, rotations, strict=True)]
    searchable, plan = searchable_tomogram(to.device(tomogram), 12.0), MatchPlan(250.0, 45.0, 24.0, 125.0, 60.0)
    found = pose_in_tomogram(searchable, to.device(chiral_particle()), series, picks, 4.0, plan, MatchTemplate(), rng(), 1)
    return np.concatenate([np.r_[pick.position_px, 10 * pick.rotation.ravel()] for pick in found])


def refined(to, likelihood):
    """Map after two iterations from a low-passed truth."""
    data = simulate_series(chiral_blobs(), 12, box=16, pixel_angst=30.0, tilts_deg=range(-60, 61, 12), noise_sigma=0.002)
    settings = RefineSettings(
        30.0, 16, initial_lowpass_angst=100.0, mask_diameter_angst=320.0, offset_range_px=2.0, max_iterations=2, likelihood=likelihood
    )
    return refine([images_on_device(data.images, to.device)], half_sets(range(12), 0), to.device(chiral_blobs().density(16, 30.0)), settings).map


FUNCTIONS = {
    "wbp_x_tilt": lambda to: reconstruct_tomogram(to.device(real((9, 48, 48))), TILTED_ABOUT_X, 10.0, (48, 48, 16), FilterOptions("wbp")),
    "wbp_adjacent": lambda to: reconstruct_tomogram(
        to.device(real((9, 48, 48))), TiltGeometry.nominal(TILTS, 85.0), 10.0, (48, 48, 16), FilterOptions("wbp", angular_weights="adjacent")
    ),
    "sirt_like_imod": lambda to: reconstruct_tomogram(
        to.device(real((9, 48, 48))), TiltGeometry.nominal(TILTS, 85.0), 10.0, (48, 48, 16), FilterOptions(sirt_alpha="imod")
    ),
    "sirt_x_tilt": lambda to: reconstruct_iteratively(
        to.device(real((9, 32, 32))), TILTED_ABOUT_X, 10.0, (32, 32, 12), IterativeOptions(iterations=2)
    )[0],
    "undeformed_views": lambda to: undeformed_views(
        to.device(real((9, 48, 40))), LocalDeformation(rng().normal(size=(9, 6, 2)) * [[10.0], [0.01], [0.01], [1e-5], [1e-5], [1e-5]]), 10.0
    ),
    "searchable_tomogram": lambda to: searchable_tomogram(to.device(blobs((32, 48, 48))), 8.0)[:, :, :],
    "binned_volume": lambda to: binned_volume(to.device(blobs((21, 24, 30))), 2),
    "phase_randomised": lambda to: phase_randomised(to.device(blobs((20, 20, 20))), 16, rng()),
    "match_like_eman2": picked,
    "match_template_binned": picked_in_binned_voxels,
    "pose_in_tomogram": posed,
    "sum_views": particle_sums,
    "refine_exact": lambda to: refined(to, "exact"),
    "refine_relion": lambda to: refined(to, "relion"),
}


@devices
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_gives_the_same_on_a_device(name, device):
    with on_device("cpu") as to:
        expected = to.host(FUNCTIONS[name](to))
    with on_device(device) as to:
        found = to.host(FUNCTIONS[name](to))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.std(expected) > 0
