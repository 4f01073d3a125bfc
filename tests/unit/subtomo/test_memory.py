"""The memory plan: what it counts, that scratch files and lazy stacks change nothing, that halves are views."""

import dataclasses

import numpy as np
from blob_phantom import chiral_blobs, simulate_series

from cryoet_core.io.mrc import write_mrc
from cryoet_core.subtomo.likelihood import FrequencyList
from cryoet_core.subtomo.memory import Scratch, contiguous, plan_memory, search_tile_mb
from cryoet_core.subtomo.refine import RefineSettings, _groups, half_sets, refine
from cryoet_core.subtomo.stacks import StackFiles


def test_tutorial_fits_four_gigabytes_and_more_goes_to_disk():
    n = len(FrequencyList.of_box(64))
    plan = plan_memory([(800, 41), (800, 41)], 64, n, 4000, 2)
    assert plan.data_mb == np.prod([1600, 41, n, 20]) / 2**20
    assert plan.total_mb < 4096 and not plan.on_disk
    assert plan_memory([(8000, 41)], 64, n, 4000, 2).on_disk
    assert plan_memory([(8000, 41)], 64, n, 16000, 2).on_disk is False
    assert "scratch" in plan_memory([(8000, 41)], 64, n, 4000, 2).sentence()
    assert search_tile_mb(4000) == 500 and search_tile_mb(100) == 64 and search_tile_mb(1e6) == 600


def test_particles_of_a_half_are_viewed_not_copied():
    images = simulate_series(chiral_blobs(), 8, box=16, pixel_angst=30.0, tilts_deg=(-40, 0, 40)).images
    halves = np.array([1, 1, 1, 2, 2, 2, 2, 2])
    groups = _groups([images], halves, None)
    assert [len(g.images) for g in groups] == [3, 5]
    assert all(np.shares_memory(g.images.unmasked, images.unmasked) for g in groups)
    mixed = _groups([images], np.array([1, 2] * 4), None)
    assert np.array_equal(mixed[1].images.rows, [1, 3, 5, 7])
    assert contiguous(np.array([3, 4, 5])) == slice(3, 6) and contiguous(np.array([3, 5])).tolist() == [3, 5]
    assert len(contiguous(np.zeros(0, int))) == 0


def test_scratch_files_give_the_same_bits(tmp_path):
    part = simulate_series(
        chiral_blobs(), 10, box=16, pixel_angst=30.0, tilts_deg=range(-60, 61, 30), noise_sigma=0.01, offset_sigma_px=0.5
    )
    scratch, moved = Scratch(tmp_path / "scratch"), {}
    for name in ("masked", "unmasked", "ctf"):
        values = getattr(part.images, name)
        moved[name] = scratch.zeros(values.shape, values.dtype)
        moved[name][:] = values
    assert isinstance(moved["ctf"], np.memmap) and len(list((tmp_path / "scratch").iterdir())) == 3
    settings = RefineSettings(30.0, 16, start="given_poses", initial_lowpass_angst=120.0, max_iterations=2)
    results = [
        refine([images], half_sets(range(10), 0), chiral_blobs().density(16, 30.0), settings, part.rotations)
        for images in (part.images, dataclasses.replace(part.images, **moved))
    ]
    scratch.close()
    assert not (tmp_path / "scratch").exists()
    assert np.array_equal(results[0].map, results[1].map)
    assert np.array_equal(results[0].rotations, results[1].rotations)


def test_stacks_on_disk_read_what_is_asked_for(tmp_path):
    images = np.random.default_rng(0).standard_normal((7, 8, 8)).astype(np.float32)
    for number, part in enumerate((images[:4], images[4:])):
        write_mrc(tmp_path / f"{number}.mrcs", part, 2.0, stack=True)
    paths = [tmp_path / "0.mrcs", tmp_path / "1.mrcs"]
    files = StackFiles(paths, [0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2], 8)
    assert np.array_equal(files[:], images) and np.array_equal(np.asarray(files), images)
    assert np.array_equal(files[2:6], images[2:6]) and np.array_equal(files[np.array([5, 0, 3])], images[[5, 0, 3]])
    assert np.array_equal(files[np.arange(7) % 2 == 0], images[::2])
