"""Particle stacks: transfer of single images, frequency crops, selection, and what is read back from files."""

import numpy as np
import pandas as pd
import pytest
from phantom_series import ctf_image, dose_image, make_series, view_matrix

from cryoet_core.errors import UserInputError
from cryoet_core.fourier import fourier_crop, rfft_centred
from cryoet_core.io.relion import format_visible_frames as format_visible
from cryoet_core.metadata import Particles
from cryoet_core.subtomo.stacks import (
    ParticleStacks,
    SeriesStack,
    crop_half,
    parse_visible,
)
from cryoet_core.subtomo.transfer import ImageTransfer, image_dose


def make_stack(rng, n_particles=4, n_views=3, box=16, first=0):
    series = make_series(np.linspace(-40, 40, n_views), 80.0, (64, 64), 5.0)
    particle = first + np.repeat(np.arange(n_particles), n_views).astype(np.int64)
    view = np.tile(np.arange(n_views), n_particles).astype(np.int64)
    depth = rng.uniform(-200, 200, len(view))
    transfer = ImageTransfer.of_views(series, view, depth)
    images = rng.standard_normal((len(view), box, box)).astype(np.float32)
    return SeriesStack("TS_01", images, particle, view, series.geometry.rotation, transfer, 5.0), series, depth


def test_transfer_is_ctf_of_the_own_depth_times_dose_times_scale(rng):
    stack, series, depth = make_stack(rng)
    c = stack.ctf(slice(2, 8))
    assert c.shape == (6, 16, 9) and c.dtype == np.float32
    for i, row in zip(range(2, 8), c, strict=True):
        tilt = series.tilts.iloc[stack.view[i]]
        expected = ctf_image((16, 16), 5.0, tilt["defocus_u_angst"] - depth[i]) * tilt["ctf_scale"]
        expected = expected * dose_image((16, 16), 5.0, tilt["pre_exposure_e_per_a2"])
        np.testing.assert_allclose(row, expected[:, :9], atol=2e-4)


def test_handedness_is_the_sign_of_depth(rng):
    series = make_series([0.0], 0.0, (64, 64), 5.0, handedness=1)
    transfer = ImageTransfer.of_views(series, np.array([0]), np.array([150.0]))
    assert transfer.defocus_u_angst[0] == pytest.approx(12150)


def test_astigmatism_follows_the_axis_of_u(rng):
    series = make_series([0.0], 0.0, (64, 64), 5.0).with_columns(
        defocus_u_angst=20000.0, defocus_v_angst=15000.0, defocus_angle_deg=90.0
    )
    c = ImageTransfer.of_views(series, np.array([0]), np.array([0.0])).evaluate(slice(None), (32, 32), 5.0)[0]
    along_y, along_x = ctf_image((32, 32), 5.0, 20000.0)[:, 0], ctf_image((32, 32), 5.0, 15000.0)[0]
    np.testing.assert_allclose(c[:16, 0], along_y[:16], atol=1e-3)
    np.testing.assert_allclose(c[0, :16], along_x[:16], atol=1e-3)


def test_dose_at_start_or_middle():
    series = make_series([0.0, 3.0], 0.0, (64, 64), 5.0, dose_step=3.0)
    assert image_dose(series).tolist() == [0, 3]
    assert image_dose(series, "middle").tolist() == [1.5, 4.5]
    with pytest.raises(ValueError, match="dose_at"):
        image_dose(series, "end")


def test_smaller_box_keeps_frequencies_and_values(rng):
    stack, _, _ = make_stack(rng, box=24)
    small = stack.transform(slice(0, 3), box=12)
    resampled = rfft_centred(fourier_crop(stack.images[:3], (12, 12)), 2) * (24 / 12) ** 2
    inner = (slice(None), [0, 1, 2, 3, 4, 5, -5, -4, -3, -2, -1], slice(0, 6))
    np.testing.assert_allclose(small[inner], resampled[inner], atol=1e-3)
    full = stack.ctf(slice(0, 3))
    np.testing.assert_allclose(stack.ctf(slice(0, 3), box=12), crop_half(full, 12), atol=1e-5)
    with pytest.raises(ValueError, match="cannot keep"):
        crop_half(full, 26)


def test_select_renumbers_particles(rng):
    first, _, _ = make_stack(rng, n_particles=3)
    second, _, _ = make_stack(rng, n_particles=3, first=3)
    particles = Particles(pd.DataFrame({"x_angst": np.arange(6.0), "tomo_name": "TS_01"}))
    stacks = ParticleStacks([first, second], particles, 5.0, 16)
    assert stacks.n_particles == 6 and stacks.n_images == 18
    part = stacks.select([1, 4, 5])
    assert part.particles.table["x_angst"].tolist() == [1, 4, 5]
    assert part.series[0].particle.tolist() == [0, 0, 0]
    assert part.series[1].particle.tolist() == [1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(part.series[1].images, second.images[3:])
    np.testing.assert_allclose(part.series[1].ctf(), second.ctf()[3:])
    assert len(stacks.select(np.arange(6) < 3).series) == 1


def test_visible_frames_text():
    assert format_visible([True, False, True]) == "[1,0,1]"
    assert parse_visible("[1,0,1]", 3).tolist() == [True, False, True]
    with pytest.raises(UserInputError, match="E-STK-02"):
        parse_visible("[1,0,1]", 4)


def test_projection_theorem_in_the_conventions_of_the_stack(rng):
    """E[X] = c^2 S with S at (R A)^T (kx, ky, 0): a centred image's transform is real for a symmetric density."""
    stack, _, _ = make_stack(rng)
    stack.images[0] = 0
    stack.images[0, 8, 8] = 1  # a point on index box//2
    np.testing.assert_allclose(stack.transform(slice(0, 1))[0], 1, atol=1e-6)
    matrix = view_matrix(-40.0, 80.0)
    np.testing.assert_allclose(stack.view_rotations[0], matrix, atol=1e-12)
