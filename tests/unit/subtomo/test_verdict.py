"""What speaks against an average: maps of known shape, and the numbers of runs whose truth is known."""

import numpy as np
import pytest
from blob_phantom import Blobs, chiral_blobs

from cryoet_core.masks import centre_distance
from cryoet_core.subtomo.evaluate import mirror
from cryoet_core.subtomo.verdict import map_facts, spherical_average

BOX, PIXEL, DIAMETER = 28, 12.0, 240.0


def halves(density, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    scale = noise * density.max()
    return [density + scale * rng.standard_normal(density.shape).astype(np.float32) for _ in range(2)]


def body():
    return chiral_blobs().density(BOX, PIXEL)


def gold_bead(radius=50.0):
    edge = 1 + np.exp((centre_distance((BOX,) * 3) * PIXEL - radius) / 5.0)
    return (1 / edge).astype(np.float32)


def test_the_spherical_average_is_the_mean_at_every_distance():
    distance = centre_distance((BOX,) * 3)
    ramp = np.float32(3.0) - np.float32(0.1) * distance  # a round map is its own average
    off_centre = (distance > 1.5) & (distance < BOX // 2 - 2)
    assert np.allclose(spherical_average(ramp)[off_centre], ramp[off_centre], atol=0.02)
    lopsided = ramp + np.indices(ramp.shape)[2] - BOX // 2  # odd in x: averages out
    assert np.abs(spherical_average(lopsided) - ramp)[off_centre].max() < 0.05


def test_facts_of_the_particle_itself():
    facts = map_facts(*halves(body()), PIXEL, DIAMETER, chiral_blobs().density(40, 8.0), 8.0)
    assert facts.resolution_angst < 40
    assert facts.like_template > 0.98 > 0.9 > facts.like_mirror
    assert facts.off_centre_angst < 3 and abs(facts.outside_ratio) < 0.01
    assert 0.3 < facts.round_share < 0.8


def test_facts_of_the_mirror_image():
    facts = map_facts(*halves(body()), PIXEL, DIAMETER, mirror(body()), PIXEL)
    assert facts.like_mirror > 0.98 > facts.like_template + 0.05
    assert facts.template_like_mirror == pytest.approx(facts.like_template, abs=0.05)


def test_facts_of_a_gold_bead():
    facts = map_facts(*halves(gold_bead()), PIXEL, DIAMETER, body(), PIXEL)
    assert facts.round_share > 0.97 and facts.like_ball > 0.97
    assert facts.like_template < facts.like_ball - 0.05


def test_facts_do_not_depend_on_the_noise():
    clean, noisy = (map_facts(*halves(body(), noise), PIXEL, DIAMETER) for noise in (0.001, 0.2))
    assert noisy.round_share == pytest.approx(clean.round_share, abs=0.05)
    assert noisy.like_ball < clean.like_ball  # a correlation of the map itself does


def test_facts_of_a_membrane_go_on_outside_the_sphere():
    z = (np.arange(BOX) - BOX // 2) * PIXEL
    sheet = np.broadcast_to(np.exp(-(z**2) / (2 * 20.0**2))[:, None, None], (BOX,) * 3).astype(np.float32)
    facts = map_facts(*halves(sheet), PIXEL, DIAMETER)
    assert facts.outside_ratio > 0.5


def test_facts_of_a_particle_beside_the_centre():
    moved = Blobs(chiral_blobs().centres * 0.4 + [70.0, 0, 0], chiral_blobs().mass, 14.0).density(BOX, PIXEL)
    assert map_facts(*halves(moved), PIXEL, DIAMETER).off_centre_angst == pytest.approx(70, abs=6)


def test_facts_of_noise_that_shares_nothing():
    rng = np.random.default_rng(3)
    facts = map_facts(*rng.standard_normal((2, BOX, BOX, BOX)).astype(np.float32), PIXEL, DIAMETER)
    assert facts.resolution_angst > DIAMETER / 3


@pytest.mark.parametrize("box", [28, 64])
def test_a_finer_grid_gives_the_same_facts(box):
    pixel = BOX * PIXEL / box
    facts = map_facts(*halves(chiral_blobs().density(box, pixel), 0.01), pixel, DIAMETER, body(), PIXEL)
    assert facts.like_template > 0.97
    assert facts.round_share == pytest.approx(map_facts(*halves(body(), 0.01), PIXEL, DIAMETER).round_share, abs=0.04)
