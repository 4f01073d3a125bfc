"""IMOD and AreTomo alignment files against our geometry, point by point."""

import numpy as np
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.aretomo import read_aln, write_aln
from cryoet_core.io.imod import (
    geometry_to_xf,
    read_tlt,
    read_xf,
    write_tlt,
    write_xf,
    xf_to_geometry,
)

PIXEL = 2.5


@pytest.fixture
def geometry():
    rng = np.random.default_rng(5)
    tilts = np.arange(-60, 61, 20.0)
    n = len(tilts)
    return TiltGeometry(np.zeros(n), tilts, 84.0 + rng.normal(0, 0.5, n), rng.normal(0, 40, n), rng.normal(0, 40, n))


def _imod_projection(xf, tilt_deg, point_px, size):
    """Raw pixel index (x, y) where IMOD sees a tomogram point (px, about its centre): tilt about y, then undo .xf.

    IMOD turns about (n - 1)/2 everywhere: aligned = A (raw - c) + d + c.
    """
    centre = (np.array(size) - 1) / 2
    t = np.deg2rad(tilt_deg)
    x, y, z = point_px
    aligned = np.array([x * np.cos(t) + z * np.sin(t), y])
    return np.linalg.solve(xf[:, :2], aligned - xf[:, 2]) + centre


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (64, 49)])
def test_imod_sees_every_point_where_we_see_it(geometry, size):
    transforms = geometry_to_xf(geometry, PIXEL, size)
    points = np.random.default_rng(0).uniform(-20, 20, (6, 3))
    uv, _ = geometry.project(points * PIXEL)
    ours = uv / PIXEL + np.array(size) // 2
    for i, tilt in enumerate(geometry.y_tilt_deg):
        theirs = [_imod_projection(transforms[i], tilt, p, size) for p in points]
        np.testing.assert_allclose(ours[i], theirs, atol=1e-9)


def test_xf_by_hand():
    """Axis along image x (z_rot 90 turns +y to -x): the content is turned back by 90 degrees; shift (2, 3) px."""
    geometry = TiltGeometry([0.0], [10.0], [90.0], [2 * PIXEL], [3 * PIXEL])
    odd = geometry_to_xf(geometry, PIXEL, (5, 5))[0]
    np.testing.assert_allclose(odd, [[0, 1, -3], [-1, 0, 2]], atol=1e-12)
    even = geometry_to_xf(geometry, PIXEL, (4, 4))[0]
    np.testing.assert_allclose(even, [[0, 1, -3.5], [-1, 0, 2.5]], atol=1e-12)


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_xf_round_trip_through_files(tmp_path, geometry, size):
    write_xf(tmp_path / "a.xf", geometry_to_xf(geometry, PIXEL, size))
    write_tlt(tmp_path / "a.tlt", geometry.y_tilt_deg)
    back = xf_to_geometry(read_xf(tmp_path / "a.xf"), read_tlt(tmp_path / "a.tlt"), PIXEL, size)
    np.testing.assert_allclose(back.y_tilt_deg, geometry.y_tilt_deg)
    np.testing.assert_allclose(back.z_rot_deg, geometry.z_rot_deg, atol=1e-4)
    np.testing.assert_allclose(back.x_shift_angst, geometry.x_shift_angst, atol=2e-3 * PIXEL)
    np.testing.assert_allclose(back.y_shift_angst, geometry.y_shift_angst, atol=2e-3 * PIXEL)


def test_aln_round_trip(tmp_path, geometry):
    used = np.array([False] + [True] * (len(geometry) - 1))
    write_aln(tmp_path / "a.aln", geometry, PIXEL, (64, 48), used)
    back = read_aln(tmp_path / "a.aln", PIXEL)
    assert back.raw_size == (64, 48, 7) and back.dark == ((0, -60.0),)
    assert back.sections.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(back.geometry.x_shift_angst, geometry.x_shift_angst[1:], atol=1e-3 * PIXEL)
    np.testing.assert_allclose(back.geometry.y_shift_angst, geometry.y_shift_angst[1:], atol=1e-3 * PIXEL)
    np.testing.assert_allclose(back.geometry.z_rot_deg, geometry.z_rot_deg[1:], atol=1e-4)


def test_aln_of_a_newer_version(tmp_path):
    (tmp_path / "a.aln").write_text(
        "# AreTomo Alignment / Priims bprmMn\n# RawSize = 40 30 4\n# NumPatches = 1\n# DarkFrame =  1  0  -66.00\n"
        "# AlphaOffset =     1.50\n# BetaOffset =     0.00\n# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT\n"
        "  1  -12.5  1.0  4.0  -2.0  1 1 1 0  -61.5\n# Local Alignment\n  0 0 1.0 2.0 3.0 4.0 1.0\n")
    alignment = read_aln(tmp_path / "a.aln", 2.0)
    assert alignment.alpha_offset_deg == 1.5 and alignment.n_local == 1 and len(alignment.geometry) == 1
    g = alignment.geometry
    assert (g.z_rot_deg[0], g.y_tilt_deg[0], g.x_shift_angst[0], g.y_shift_angst[0]) == (-12.5, -61.5, 8.0, -4.0)


def test_errors(tmp_path, geometry):
    (tmp_path / "a.tlt").write_text("1.0\nx\n")
    with pytest.raises(UserInputError, match="E-TLT-01.*line 2"):
        read_tlt(tmp_path / "a.tlt")
    (tmp_path / "b.tlt").write_text("1.0\n1.5e24\n")
    with pytest.raises(UserInputError, match="E-TLT-02"):
        read_tlt(tmp_path / "b.tlt")
    with pytest.raises(UserInputError, match="E-XF-01"):
        read_xf(tmp_path / "b.tlt")
    transforms = geometry_to_xf(geometry, PIXEL, (64, 64))
    with pytest.raises(UserInputError, match="E-XF-02"):
        xf_to_geometry(transforms[1:], geometry.y_tilt_deg, PIXEL, (64, 64))
    transforms[2, 0, 0] += 0.5
    with pytest.raises(UserInputError, match="E-XF-03.*view 3"):
        xf_to_geometry(transforms, geometry.y_tilt_deg, PIXEL, (64, 64))
    with pytest.raises(UserInputError, match="E-ALN-01"):
        read_aln(tmp_path / "b.tlt", 1.0)
    tilted = TiltGeometry([1.0], [0.0], [0.0], [0.0], [0.0])
    with pytest.raises(UserInputError, match="E-ALN-02"):
        write_aln(tmp_path / "c.aln", tilted, 1.0, (4, 4))
