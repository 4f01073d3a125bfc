"""A map from nothing: right structure, right hand, same bits for the same seed."""

import numpy as np
import pytest
from blob_phantom import chiral_blobs, simulate_series

from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.subtomo.evaluate import align_map_to, mirror
from cryoet_core.subtomo.initial_model import InitialModelSettings, initial_model

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


def test_schedule_grows_and_ends_at_the_final_resolution():
    schedule = InitialModelSettings(21.0, 24)
    count = schedule.n_finish(200)
    shells = [schedule.finish_shell(i, count) for i in range(count)]
    assert shells == sorted(shells) and shells[-1] == 12 and schedule.first_shell == 8
    forty = InitialModelSettings(21.0, 24, n_mini_batches=40)
    assert 2 * forty.n_explore(200) + forty.n_finish(200) == 40
