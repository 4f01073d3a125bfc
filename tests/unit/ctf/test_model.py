import numpy as np
import pytest

from cryoet_core.ctf.model import Optics, ctf_1d, ctf_2d, dose_weight, electron_wavelength_angst
from cryoet_core.errors import UserInputError

OPTICS = Optics(300.0, 2.7, 0.1)


def test_wavelength():
    assert electron_wavelength_angst(300) == pytest.approx(0.0196876, abs=1e-6)
    assert electron_wavelength_angst(200) == pytest.approx(0.0250793, abs=1e-6)


def test_ctf_written_out_at_one_frequency():
    k, z = 0.05, 20000.0
    wavelength = electron_wavelength_angst(300)
    gamma = np.pi * wavelength * z * k**2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * k**4 + np.arcsin(0.1)
    assert ctf_1d(k, z, OPTICS) == pytest.approx(np.sin(gamma), abs=1e-6)


def test_positive_at_low_frequency_under_focus():
    assert ctf_1d(0.0, 30000.0, OPTICS) == pytest.approx(0.1, abs=1e-6)
    assert ctf_1d(0.01, 30000.0, OPTICS) > 0.1


def test_first_zero_of_the_image_is_where_gamma_is_pi():
    z = 30000.0
    k = np.linspace(0.01, 0.1, 20000)
    first = k[np.flatnonzero(np.diff(np.sign(ctf_1d(k, z, OPTICS))))[0]]
    assert first == pytest.approx(np.sqrt((np.pi - np.arcsin(0.1)) / (np.pi * 0.0196876 * z)), rel=2e-3)


def test_astigmatism_axis_is_from_x_counter_clockwise():
    """Along the axis of U the CTF is that of defocus U, across it that of V."""
    image = ctf_2d((64, 64), 4.0, 25000.0, 20000.0, 0.0, OPTICS)
    k = np.arange(1, 30) / (64 * 4.0)
    np.testing.assert_allclose(image[0, 1:30], ctf_1d(k, 25000.0, OPTICS), atol=1e-3)
    np.testing.assert_allclose(image[1:30, 0], ctf_1d(k, 20000.0, OPTICS), atol=1e-3)
    diagonal = ctf_2d((64, 64), 4.0, 25000.0, 20000.0, 45.0, OPTICS)
    i = np.arange(1, 20)
    np.testing.assert_allclose(diagonal[i, i], ctf_1d(np.sqrt(2) * i / 256.0, 25000.0, OPTICS), atol=1e-3)
    np.testing.assert_allclose(diagonal[-i, i], ctf_1d(np.sqrt(2) * i / 256.0, 20000.0, OPTICS), atol=1e-3)


def test_swapping_u_and_v_equals_turning_by_90_degrees():
    a = ctf_2d((32, 32), 3.0, 25000.0, 20000.0, 10.0, OPTICS)
    b = ctf_2d((32, 32), 3.0, 20000.0, 25000.0, 100.0, OPTICS)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_many_defoci_at_once():
    stack = ctf_2d((16, 18), 3.0, [20000.0, 30000.0], [20000.0, 30000.0], 0.0, OPTICS)
    assert stack.shape == (2, 16, 10) and stack.dtype == np.float32
    np.testing.assert_array_equal(stack[1], ctf_2d((16, 18), 3.0, 30000.0, 30000.0, 0.0, OPTICS))


def test_dose_weight_at_the_published_constants():
    expected = np.exp(-0.5 * 60 / (0.24499 * 0.1**-1.6649 + 2.8141))
    assert dose_weight(0.1, 60.0) == pytest.approx(expected, rel=1e-5)
    assert dose_weight(0.1, 60.0, 200.0) < dose_weight(0.1, 60.0, 300.0)
    assert dose_weight(0.0, 100.0) == pytest.approx(1.0, abs=1e-3)


def test_impossible_optics_are_refused():
    with pytest.raises(UserInputError, match="E-CTF-01: amplitude_contrast"):
        Optics(300, 2.7, 1.5)
