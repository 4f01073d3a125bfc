"""Signs and numbers of the imaging, against values worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from cryoet_core.simulate import physics
from cryoet_core.simulate.geometry import euler_matrix, mid_plane_depth, random_euler, view_matrix
from cryoet_core.simulate.imaging import Microscope
from cryoet_core.simulate.molecules import Molecule


# ---- geometry ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("angles", "point", "expected"),
    [
        ((0, 30, 0), (0, 0, 100), (50, 0, 86.6025)),  # positive tilt moves +z to +u
        ((0, 30, 0), (100, 0, 0), (86.6025, 0, -50)),
        ((0, 30, 90), (0, 0, 100), (0, 50, 86.6025)),  # then the axis turns counter-clockwise: +u becomes +v
        ((30, 0, 0), (0, 0, 100), (0, -50, 86.6025)),  # right-handed about x: z goes to -y
        ((0, 0, 85), (0, 100, 0), (-99.6195, 8.7156, 0)),  # tomogram y is the tilt axis
        ((0, -45, 30), (0, 0, 100), (-61.2372, -35.3553, 70.7107)),
    ],
)
def test_axes_point_where_the_convention_says(angles, point, expected):
    assert view_matrix(*angles) @ np.array(point) == pytest.approx(np.array(expected), abs=1e-3)


def test_geometry_agrees_with_the_library():
    from cryoet_core.geometry.rotations import euler_to_matrix
    from cryoet_core.geometry.tilt_geometry import TiltGeometry

    euler = random_euler(5, np.random.default_rng(0))
    for row in euler:
        assert euler_matrix(*row) == pytest.approx(np.asarray(euler_to_matrix(*row)).reshape(3, 3), abs=1e-12)
    library = TiltGeometry(*(np.array([v], float) for v in (3, -41, 86, 0, 0)))
    assert view_matrix(3, -41, 86) == pytest.approx(library.rotation[0], abs=1e-12)


def test_mid_plane_depth_at_45_degrees():
    assert mid_plane_depth(view_matrix(0, 45, 0), 100.0, 37.0) == pytest.approx(-100.0)
    assert mid_plane_depth(view_matrix(0, 45, 90), 37.0, 100.0) == pytest.approx(-100.0)


@pytest.mark.parametrize(("y_tilt", "z_rot", "uv"), [(30, 0, (50, 0)), (-30, 0, (-50, 0)), (30, 90, (0, 50))])
def test_a_bead_appears_at_its_place_and_is_dark(clean, view, beads_at, y_tilt, z_rot, uv):
    settings = replace(clean, amplitude_contrast=1.0)  # in focus and pure amplitude: CTF = 1
    microscope = Microscope(beads_at([0, 0, 100], mass_da=2000), settings)
    shift = (12.0, -8.0)
    look = view(y_tilt_deg=y_tilt, z_rot_deg=z_rot, x_shift_angst=shift[0], y_shift_angst=shift[1])
    image = microscope.frames(look, np.random.default_rng(0))[0]
    dark = 1.0 - image.astype(np.float64)
    assert dark.max() > 0.05
    y, x = np.mgrid[:96, :128]
    near = (np.abs(x - (64 + (uv[0] + shift[0]) / 4)) < 6) & (np.abs(y - (48 + (uv[1] + shift[1]) / 4)) < 6)
    weight = dark * near
    assert ((weight * x).sum() / weight.sum() - 64) * 4 == pytest.approx(uv[0] + shift[0], abs=0.1)
    assert ((weight * y).sum() / weight.sum() - 48) * 4 == pytest.approx(uv[1] + shift[1], abs=0.1)


def test_a_turned_molecule_is_its_beads_turned(clean, view, beads_at):
    """x_tomogram = position + A . x_molecule: one molecule of three beads looks like three beads put there by hand."""
    xyz = np.array([[60, 0, 0], [0, 40, 10], [-60, -40, -10]], np.float32)
    euler, position = np.array([[37.0, 64.0, -118.0]]), np.array([[20.0, -15.0, 30.0]])
    settings = replace(clean, amplitude_contrast=1.0)
    look = view(y_tilt_deg=-35.0, z_rot_deg=86.0, x_shift_angst=9.0, frame_shifts_angst=np.array([[0.0, 0.0]]))
    apart = beads_at(position + xyz @ euler_matrix(*euler[0]).T, mass_da=2000)
    whole = replace(
        beads_at(position), species=(Molecule("three", xyz, np.full(3, 2000, np.float32)),), euler=euler
    )  # fmt: skip
    images = [Microscope(s, settings).frames(look, np.random.default_rng(0))[0] for s in (apart, whole)]
    contrast = 1 - images[0].min()
    assert contrast > 0.05
    assert np.abs(images[0] - images[1]).max() < 0.03 * contrast


def test_contrast_is_twice_the_phase(clean, view, beads_at):
    """A bead of m Da: the missing intensity, integrated, is 2 * 3.0 m * 6.526e-4 at 300 kV."""
    microscope = Microscope(beads_at([0, 0, 0], mass_da=1000.0), replace(clean, amplitude_contrast=1.0))
    image = microscope.frames(view(), np.random.default_rng(0))[0].astype(np.float64)
    assert (1 - image).sum() * 16 == pytest.approx(2 * 3000 * 6.526e-4, rel=0.01)


def test_underfocus_makes_protein_dark(clean, view, beads_at):
    positions = np.array([[x, y, 0] for x in (-80, 0, 80) for y in (-60, 0, 60)])
    microscope = Microscope(beads_at(positions), clean)
    image = microscope.frames(view(defocus_u_angst=20000, defocus_v_angst=20000), np.random.default_rng(0))[0]
    at = [image[round(48 + y / 4), round(64 + x / 4)] for x, y, _ in positions]
    assert np.mean(at) < image.mean() - 3 * image.std() / 3


# ---- optics -----------------------------------------------------------------------------------------------------
def test_wavelength_and_interaction_constant():
    assert physics.wavelength_angst(300) == pytest.approx(0.0196875, rel=1e-4)
    assert physics.wavelength_angst(200) == pytest.approx(0.0250793, rel=1e-4)
    assert physics.phase_per_potential(300) == pytest.approx(6.526e-4, rel=1e-3)


def test_ctf_terms_with_astigmatism_by_hand():
    """256 px of 2 A at 300 kV, Cs 2.7 mm, Q 0.1; U 20000 along +45 degrees (x and y both growing), V 19000."""
    base, slope = physics.aberration_terms((256, 256), 2.0, physics.Lens(300, 2.7, 0.1), 20000, 19000, 45)
    k2 = 2 * (16 / 512) ** 2  # index (16, 16): 0.044194 1/A, on the diagonal
    expected = np.pi * 0.0196875 * 20000 * k2 - 0.5 * np.pi * 2.7e7 * 0.0196875**3 * k2**2 + np.arcsin(0.1)
    assert base[16, 16] == pytest.approx(expected, abs=1e-3)
    expected = np.pi * 0.0196875 * 19000 * k2 - 0.5 * np.pi * 2.7e7 * 0.0196875**3 * k2**2 + np.arcsin(0.1)
    assert base[-16, 16] == pytest.approx(expected, abs=1e-3)  # ky < 0: the other diagonal
    assert slope[16, 16] == pytest.approx(np.pi * 0.0196875 * k2, rel=1e-4)


def test_damage_matches_the_published_critical_dose():
    # Nc(0.1/A) = 0.24499 * 46.23 + 2.8141 = 14.14 e/A^2: amplitude 1/e at twice that
    assert physics.damage_attenuation(0.1, 2 * 14.14, 300) == pytest.approx(np.exp(-1), rel=2e-3)
    assert physics.damage_attenuation(0.1, 2 * 14.14 * 0.8, 200) == pytest.approx(np.exp(-1), rel=2e-3)
    assert physics.damage_attenuation(0.0, 100, 300) == 1


def _first_zeros(defocus, n=3):
    """k of the first zeros by bisection-free search on a fine grid: sin(gamma) changes sign."""
    k = np.linspace(1e-4, 0.12, 400000)
    lam = 12.2643247 / np.sqrt(3e5 * (1 + 0.978466e-6 * 3e5))
    gamma = np.pi * lam * defocus * k**2 - 0.5 * np.pi * 2.7e7 * lam**3 * k**4 + np.arcsin(0.1)
    return k[np.flatnonzero(np.diff(np.sign(np.sin(gamma))))][:n]


def _rotational_average(image, pixel):
    power = np.abs(np.fft.rfft2(image - image.mean())) ** 2
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None]
    shell = np.rint(np.hypot(fy, fx) * image.shape[0]).astype(int)
    total = np.bincount(shell.ravel(), power.ravel())
    return total / np.maximum(1, np.bincount(shell.ravel())), np.arange(len(total)) / (image.shape[0] * pixel)


def test_thon_rings_have_their_zeros_where_theory_says(clean, view, beads_at):
    settings = replace(clean, image_width_px=512, image_height_px=512, ice_structure_factor=0.1)
    microscope = Microscope(beads_at(np.empty((0, 3))), settings)
    look = view(defocus_u_angst=30000, defocus_v_angst=30000)
    image = microscope.contrast(look, np.random.default_rng(1))
    image = image[: min(image.shape), : min(image.shape)]
    power, k = _rotational_average(image, 4.0)
    for zero in _first_zeros(30000):
        near = np.abs(k - zero) < 0.003
        assert k[near][power[near].argmin()] == pytest.approx(zero, abs=0.0009)
        assert power[near].min() < 0.2 * power[(k > 0.03) & (k < 0.1)].mean()


@pytest.mark.parametrize("hand", [-1, 1])
def test_depth_changes_defocus_by_the_hand(clean, view, beads_at, hand):
    """A bead 3000 A up, imaged at 30000 A: its CTF is that of 30000 + hand * 3000."""
    settings = replace(clean, handedness=hand, image_width_px=256, image_height_px=256)
    microscope = Microscope(beads_at([0, 0, 3000]), settings)
    look = view(defocus_u_angst=30000, defocus_v_angst=30000)
    image = microscope.contrast(look, np.random.default_rng(0))
    image = image[image.shape[0] // 2 - 128 :, image.shape[1] // 2 - 128 :][:256, :256]
    line = np.fft.rfft2(np.fft.ifftshift(image)).real[0]
    zero = _first_zeros(30000 + hand * 3000, 1)[0] * 256 * 4.0
    low, high = int(zero - 2), int(zero + 3)
    assert line[low] > 0 > line[high]


def test_ice_defocus_grows_where_the_slab_goes_down(clean, view, beads_at):
    """45 degrees about y: at u = +600 A the slab is 600 A lower, hence (hand -1) 600 A further under focus."""
    settings = replace(clean, image_width_px=640, image_height_px=256, ice_structure_factor=0.1)
    microscope = Microscope(beads_at(np.empty((0, 3))), settings)
    look = view(y_tilt_deg=45.0, defocus_u_angst=12000, defocus_v_angst=12000)
    image = microscope.camera(microscope.contrast(look, np.random.default_rng(2)))
    lam, k = 0.0196875, np.hypot(np.fft.fftfreq(256, 4.0)[:, None], np.fft.rfftfreq(256, 4.0)[None])
    band = (k > 0.03) & (k < 0.11)
    found = []
    for centre in (170, 470):  # u = -600 and +600 A
        power = np.abs(np.fft.rfft2(image[:, centre - 128 : centre + 128] * np.hanning(256)[None]))[band] ** 2
        trial = np.arange(10000, 14001, 100)
        gamma = np.pi * lam * trial[:, None] * k[band] ** 2 - 0.5 * np.pi * 2.7e7 * lam**3 * k[band] ** 4 + 0.1
        found.append(trial[np.argmax([np.corrcoef(power, np.sin(g) ** 2)[0, 1] for g in gamma])])
    assert found[0] == pytest.approx(11400, abs=250)
    assert found[1] == pytest.approx(12600, abs=250)


def test_frames_move_the_content_by_the_drift(clean, view, beads_at):
    settings = replace(clean, amplitude_contrast=1.0, bead_sigma_angst=7.0)  # well sampled: no ringing
    microscope = Microscope(beads_at([0, 0, 0]), settings)
    shifts = np.array([[-6.0, 2.0], [0.0, 0.0], [6.0, -2.0]])
    frames = 1 - np.array(list(microscope.frames(view(frame_shifts_angst=shifts), np.random.default_rng(0))), np.float64)
    y, x = np.mgrid[:96, :128]
    for frame, (dx, dy) in zip(frames, shifts, strict=True):
        frame = frame * ((np.abs(x - 64) < 12) & (np.abs(y - 48) < 12))
        assert ((frame * x).sum() / frame.sum() - 64) * 4 == pytest.approx(dx, abs=0.05)
        assert ((frame * y).sum() / frame.sum() - 48) * 4 == pytest.approx(dy, abs=0.05)
