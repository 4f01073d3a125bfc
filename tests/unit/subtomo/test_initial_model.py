"""A map from nothing: right structure, right hand, same bits for the same seed."""

from dataclasses import replace

import numpy as np
import pytest
from blob_phantom import Blobs, chiral_blobs, simulate_series

import cryoet_core.subtomo.initial_model as steps
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.geometry import random_rotations
from cryoet_core.subtomo.evaluate import align_map_to, mirror, resample
from cryoet_core.subtomo.initial_model import InitialModelSettings, initial_model
from cryoet_core.subtomo.likelihood import FrequencyList
from cryoet_core.subtomo.mstep import Accumulator, Reference, insert_particles
from cryoet_core.subtomo.noise import score_excess

BOX, PIXEL = 16, 30.0


@pytest.fixture(scope="module")
def images():
    return [
        simulate_series(
            chiral_blobs(), 40, box=BOX, pixel_angst=PIXEL, tilts_deg=range(-60, 61, 10), noise_sigma=0.001,
            offset_sigma_px=0.4,
        ).images
    ]


def settings(**values):
    values = {"n_mini_batches": 20, "mask_diameter_angst": 300.0, "offset_sigma_angst": 15.0, **values}
    return InitialModelSettings(PIXEL, BOX, **values)


def test_structure_and_hand_are_found(images):
    truth = chiral_blobs().density(BOX, PIXEL)
    model = initial_model(images, settings(n_starts=2), np.random.default_rng(1))
    found, wrong = align_map_to(model.map, truth), align_map_to(model.map, mirror(truth))
    assert found.correlation > 0.9 and found.correlation > wrong.correlation + 0.03
    assert np.all(fourier_shell_correlation(found.map, truth)[1:6] > 0.7)
    assert np.linalg.norm(found.shift_px) < 1.0  # centred
    assert len(model.log_likelihood_starts) == 2
    assert model.history[-1]["log_likelihood_per_particle"] > model.history[0]["log_likelihood_per_particle"]


def test_the_same_seed_gives_the_same_bits(images):
    short, few = settings(n_starts=1, n_mini_batches=6), [images[0].take(np.arange(10))]
    maps = [initial_model(few, short, np.random.default_rng(s)).map for s in (3, 3, 4)]
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])


def test_binning_of_the_round_does_not_matter():
    """Images on 15 A pixels are cut to the box that 40 A need: the same map as from images on those pixels."""
    values = {"tilts_deg": range(-60, 61, 20), "noise_sigma": 0.001}
    fine = simulate_series(chiral_blobs(), 10, box=32, pixel_angst=15.0, **values).images
    cut = fine.cropped(28)
    coarse = FrequencyList.of_box(28)
    assert np.array_equal(cut.frequencies.kx, coarse.kx) and np.array_equal(cut.frequencies.ky, coarse.ky)
    few = {"n_starts": 1, "n_mini_batches": 6, "mask_diameter_angst": 300.0}
    maps = [
        initial_model([i], InitialModelSettings(p, b, pick_error_angst=10.0, **few), np.random.default_rng(3)).map
        for i, p, b in ((fine, 15.0, 32), (cut, 480 / 28, 28))
    ]
    a, b = (Reference.of_map(m).slices(np.eye(3)[None], FrequencyList.of_box(24))[0] for m in maps)
    assert np.abs(a - b).max() < 0.1 * np.abs(b).max()  # the masks' edges differ: 3 px
    assert abs(np.vdot(a, b)) > 0.995 * np.linalg.norm(a) * np.linalg.norm(b)


def test_a_particle_is_never_compared_with_a_map_of_its_own_half(images):
    """What the images of odd rows show does not reach the even half's sums until the step after next."""
    few = images[0].take(np.arange(12))
    changed = few.masked.copy()
    changed[1::2] *= -1
    whole = settings(n_starts=1, mini_batch_size=12)
    start = steps._random_start([few], [np.ones((few.masked.shape[1], BOX // 2 + 1))], whole, np.random.default_rng(2))
    sums = []
    for series in (few, replace(few, masked=changed, unmasked=changed)):
        model, _ = steps._grid_step([series], start, 0, 2, whole, np.random.default_rng(3))
        sums.append(model.sums)
    assert np.array_equal(sums[0][0].data, sums[1][0].data) and not np.array_equal(sums[0][1].data, sums[1][1].data)
    # from then on even rows meet the odd half's map
    again = [steps._grid_step([few], replace(start, halves=h), 1, 2, whole, np.random.default_rng(4))[0].sums[0].data for h in
             ((model.halves[0], start.volume), (start.volume, start.volume), (start.volume, model.halves[1]))]
    assert np.array_equal(again[0], again[1]) and not np.array_equal(again[0], again[2])


def test_moved_sums_are_those_of_the_moved_map(images):
    accumulator = Accumulator(BOX)
    turns = random_rotations(40, np.random.default_rng(0))
    spectra = np.ones((len(images[0].view_rotations), BOX // 2 + 1))
    insert_particles(accumulator, images[0], spectra, np.arange(40), turns, np.zeros((40, 3)), np.ones(40))
    sums, shift = accumulator.sums(), np.array([1.0, -0.5, 0.7])
    ball = np.linalg.norm(np.indices((BOX,) * 3) - BOX // 2, axis=0) < 4
    moved, expected = sums.moved(shift).reconstruct(max_shell=5), resample(sums.reconstruct(max_shell=5), np.eye(3), shift)
    assert np.corrcoef(moved[ball], expected[ball])[0, 1] > 0.99


def test_spherical_average_of_a_map():
    """Shell by shell the mean of slices in random directions, and real."""
    frequencies = FrequencyList.of_box(BOX).upto(5)
    reference = Reference.of_map(chiral_blobs().density(BOX, PIXEL))
    slices, ball = reference.slices(random_rotations(300, np.random.default_rng(2)), frequencies), reference.spherical_slice(frequencies)
    mean, average = (np.bincount(frequencies.shell, weights=v)[1:] / np.bincount(frequencies.shell)[1:] for v in (slices.real.mean(axis=0), ball))
    assert np.allclose(mean, average, atol=0.02 * ball.max())
    assert all(np.ptp(ball[frequencies.shell == s]) == 0 for s in range(1, 6))
    assert np.abs(slices - ball).max() > 0.2 * ball.max()  # the particle itself is no ball


def test_noise_that_views_share_is_noticed():
    """Independent noise of all views leaves the scores as they should be; a body beside the particle in all views does not."""
    beside = Blobs(np.array([[60.0, 40.0, 0.0]]), np.array([0.3]), 30.0)
    rng = np.random.default_rng(5)
    alone = simulate_series(Blobs(np.zeros((1, 3)), np.zeros(1), 30.0), 60, box=BOX, pixel_angst=PIXEL, tilts_deg=range(-60, 61, 3))
    common = simulate_series(beside, 60, box=BOX, pixel_angst=PIXEL, tilts_deg=range(-60, 61, 3), noise_sigma=0.001)
    reference = Reference.of_map(chiral_blobs().density(BOX, PIXEL))
    ratios = []
    for data in (alone, common):
        frequencies = data.images.frequencies
        tests = reference.view_slices(data.images.view_rotations, random_rotations(12, rng), frequencies)
        nothing, still = np.zeros_like(data.images.masked), np.ones_like(data.images.masked)
        power = np.abs(data.images.masked) ** 2
        shell = frequencies.shell
        total = [np.bincount(shell, weights=v.sum(axis=(0, 1))) for v in (power, 2 * data.images.ctf**2)]
        sigma2 = np.tile(total[0] / np.maximum(total[1], 1e-30) + 1e-12, (len(data.images.view_rotations), 1))
        ratios.append(score_excess(data.images, np.arange(60), nothing, still, tests, sigma2))
    assert np.all(ratios[0][1:] < 1.6)  # 60 particles: the mean square of 60 x 12 correlated scores
    assert np.all(ratios[1][1:4] > 4)


def test_schedule_grows_and_ends_at_the_final_resolution():
    schedule = InitialModelSettings(21.0, 24)
    count = schedule.n_finish(200)
    shells = [schedule.finish_shell(i, count) for i in range(count)]
    assert shells == sorted(shells) and shells[-1] == 12 and schedule.first_shell == 8
    forty = InitialModelSettings(21.0, 24, n_mini_batches=40)
    assert 2 * forty.n_explore(200) + forty.n_finish(200) == 40
