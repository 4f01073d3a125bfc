"""A synthetic tomogram with ten copies of a chiral particle at known places and orientations, for the tests of matching."""

import numpy as np
import pandas as pd

from cryoet_core.geometry import random_rotations
from cryoet_core.kernels.forward_project import forward_project
from cryoet_core.kernels.rotate_volume import rotate_volume
from cryoet_core.metadata import TiltSeries
from cryoet_core.picking.prepare import searchable_tomogram
from cryoet_core.picking.scores import filter_tomogram
from cryoet_core.picking.template import make_template
from cryoet_core.picking.transfer import match_filters
from cryoet_core.tomogram.reconstruct import reconstruct_tomogram

PIXEL = 20.0


def make_series(tilts, axis=0.0, defocus=0.0):
    table = pd.DataFrame({
        "tilt_id": np.arange(len(tilts)) + 1, "pre_exposure_e_per_a2": 2.0 * np.arange(len(tilts)),
        "exposure_e_per_a2": 2.0, "defocus_u_angst": defocus, "defocus_v_angst": defocus, "defocus_angle_deg": 0.0,
        "ctf_scale": 1.0, "x_tilt_deg": 0.0, "y_tilt_deg": tilts, "z_rot_deg": axis, "x_shift_angst": 0.0,
        "y_shift_angst": 0.0, "excluded": 0,
    })
    return TiltSeries("TS", 300.0, 2.7, 0.1, PIXEL, PIXEL / 4, -1, (64, 64), (0, 0, 0), table)


def chiral_particle(n=20):
    """Six unequal blobs without symmetry, bright, about 12 px across."""
    z, y, x = np.indices((n, n, n)) - n // 2
    spots = [(4, 0, 0, 1.0), (-3, 3, 0, 0.8), (0, -4, 1, 0.9), (0, 2, 4, 0.7), (-2, -2, -4, 1.0), (2, 3, -3, 0.5)]
    volume = sum(w * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 1.3**2)) for a, b, c, w in spots)
    return volume.astype(np.float32)


def specimen(shape, rotations, positions, particle):
    """Copies of the particle, turned, with their centres at whole voxels (z, y, x)."""
    volume = np.zeros(shape, dtype=np.float32)
    half = particle.shape[0] // 2
    for copy, (z, y, x) in zip(rotate_volume(particle, rotations), positions, strict=True):
        volume[z - half : z + half, y - half : y + half, x - half : x + half] += copy
    return volume


def make_scene():
    """A dark tomogram from noisy projections of 10 particles, its series, positions and orientations."""
    rng = np.random.default_rng(7)
    particle = chiral_particle()
    positions = [(16, y, x) for y in (12, 32, 52) for x in (12, 32, 52)] + [(14, 42, 22)]
    positions = np.array(positions[:4] + positions[5:])
    rotations = random_rotations(len(positions), rng)
    density = specimen((32, 64, 64), rotations, positions, particle)
    series = make_series(np.arange(-60, 61, 5.0), axis=5.0)
    geometry = series.geometry
    images = -forward_project(density, geometry.rotation, np.zeros((len(geometry), 2)), (64, 64))
    images += rng.normal(0, 1.0, images.shape).astype(np.float32)
    return reconstruct_tomogram(images, geometry, PIXEL, (64, 64, 32)), series, positions, rotations


def setup(tomogram, series, **options):
    """(template, filters, filtered tomogram) of a search for the particle."""
    template = make_template(chiral_particle(), 7.5)
    bright = searchable_tomogram(tomogram, 12.0)[:, :, :]
    filters = match_filters(bright, series, 28, 150.0, 2 * PIXEL, **options)
    return template, filters, filter_tomogram(bright, filters, 7.5)
