"""3-D CTF correction against beads simulated by the benchmark, which shares no projection, rotation or CTF code with the library."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from cryoet_core.errors import ResourceError
from cryoet_core.geometry import TiltGeometry
from cryoet_core.tilt_series.ctf_correction import CtfCorrectionSettings, view_ctfs
from cryoet_core.tomogram.blocks import assembled
from cryoet_core.tomogram.ctf_in_depth import CtfInDepth, automatic_step_angst, depth_windows
from cryoet_core.tomogram.reconstruct import back_project_views, filter_views
from cryoet_core.tomogram.view_filters import FilterOptions

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "ctf_in_depth_targets.py"


@pytest.fixture(scope="module")
def beads():
    spec = importlib.util.spec_from_file_location("ctf_in_depth_targets", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def by_kind(lines):
    """{kind: (correlation, in the outer third)} with kinds none, per view, 3-D, exact."""
    kinds = ("none", "per view", "3-D", "exact")
    return {kind: line[1:3] for line in lines for kind in kinds if kind in line[0]}


@pytest.mark.parametrize("mode", ["phase_flip", "multiply"])
def test_slab_of_300_nm_gets_the_phases_of_every_depth(beads, mode):
    found = by_kind(beads.measure(beads.Scene(size=48, count=14), modes=[mode]))
    assert found["3-D"][0] > 0.5
    assert found["3-D"][0] > 1.3 * max(found["none"][0], 0.1)
    assert found["3-D"][1] > 1.2 * found["per view"][1]  # where the middle plane's defocus is most wrong
    if mode == "phase_flip":
        assert found["3-D"][0] > found["exact"][0] - 0.02


def test_both_hands_and_a_tilt_about_x(beads):
    scene = beads.Scene(size=56, thickness_angst=2000.0, count=8, hand=1, axis=-3.0, x_tilt=2.0)
    found = by_kind(beads.measure(scene))
    assert found["3-D"][0] > max(found["exact"][0] - 0.03, 0.5)
    wrong = beads.by_wrong_hand(dataclasses.replace(scene, x_tilt=0.0))
    assert wrong < found["per view"][0]  # worse than no depth at all


def test_windows_reach_every_voxel_and_add_up_to_one():
    rotation = TiltGeometry.nominal([50.0], 85.0).rotation[0]
    windows = depth_windows(rotation, (60, 70, 40), 10.0, 130.0)
    corners = np.array(np.meshgrid([-30, 29], [-35, 34], [-20, 19])).reshape(3, -1)
    depths = np.append(rotation[2] @ corners, np.linspace(-20, 20, 9))
    shares = np.maximum(1 - np.abs(depths[:, None] - windows[:, 0]) / windows[:, 1], 0)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    assert windows[0, 1] <= 13.0


def test_automatic_step_is_finer_for_finer_pixels(beads):
    optics = beads.make_series([0.0], (8, 8), beads.Scene()).optics
    coarse, fine = (automatic_step_angst(p, 0.4, optics) for p in (8.0, 4.0))
    assert coarse == pytest.approx(4 * fine)
    turned = np.pi * optics.wavelength_angst * fine * (0.4 / 4.0) ** 2
    assert turned == pytest.approx(0.5)


@pytest.fixture(scope="module")
def noise(beads):
    """Views of noise, and how to correct them; view 4 has no measured defocus."""
    series = beads.make_series(np.arange(-60.0, 61, 3), (40, 48), beads.Scene(size=32, thickness_angst=600.0))
    ctfs = view_ctfs(series)
    ctfs[4] = dataclasses.replace(ctfs[4], defocus_u_angst=0.0, defocus_v_angst=0.0)
    images = np.random.default_rng(0).standard_normal((41, 40, 48)).astype(np.float32)
    return images, series.geometry, CtfInDepth(CtfCorrectionSettings(), ctfs, series.optics, 200.0)


def test_views_without_defocus_are_left_as_they_are(noise):
    images, geometry, ctf = noise
    views = filter_views(images, geometry, 3.0, (32, 32, 200), FilterOptions(), ctf=ctf)
    assert (views.view == 4).sum() == 1 and (views.view == 5).sum() > 2
    assert np.isinf(views.windows[views.view == 4, 1]).all()


def test_slabs_and_a_scratch_file_do_not_change_the_result(noise):
    images, geometry, ctf = noise
    size = (32, 32, 40)
    views = filter_views(images, geometry, 3.0, size, FilterOptions(), 2, ctf)
    spilled = filter_views(images, geometry, 3.0, size, FilterOptions(), 2, ctf, scratch_mb=0.1)
    assert isinstance(spilled.images, np.memmap) and not isinstance(views.images, np.memmap)
    whole, parts = (assembled(back_project_views(v, size, memory_mb=mb), size) for v, mb in ((views, 512), (spilled, 0.1)))
    np.testing.assert_allclose(parts, whole, atol=1e-5 * np.abs(whole).max())


def test_a_full_disk_is_reported_before_anything_is_written(noise, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    images, geometry, ctf = noise
    with pytest.raises(ResourceError, match="E-DISK-02.*free in .*expected .* for this step"):
        filter_views(images, geometry, 3.0, (32, 32, 40), FilterOptions(), 2, ctf, scratch_mb=0.1)
