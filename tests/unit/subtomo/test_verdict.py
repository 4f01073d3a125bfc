"""What speaks against an average: maps of known shape, and the numbers of runs whose truth is known."""

import numpy as np
import pytest
from blob_phantom import Blobs, chiral_blobs

from cryoet_core.geometry import euler_to_matrix, random_rotations
from cryoet_core.masks import centre_distance
from cryoet_core.subtomo.evaluate import mirror
from cryoet_core.subtomo.refine_run import share_of_one_direction
from cryoet_core.subtomo.verdict import MapFacts, map_facts, spherical_average, verdict

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


def test_facts_of_halves_that_contradict_each_other():
    facts = map_facts(body(), -0.8 * body(), PIXEL, DIAMETER)
    assert facts.resolution_angst == np.inf and facts.round_share == 0


@pytest.mark.parametrize("box", [28, 64])
def test_a_finer_grid_gives_the_same_facts(box):
    pixel = BOX * PIXEL / box
    facts = map_facts(*halves(chiral_blobs().density(box, pixel), 0.01), pixel, DIAMETER, body(), PIXEL)
    assert facts.like_template > 0.97
    assert facts.round_share == pytest.approx(map_facts(*halves(body(), 0.01), PIXEL, DIAMETER).round_share, abs=0.04)


# ---- verdicts on numbers that were measured (benchmarks/junk.py, the demo, EMPIAR-10499) --------------------------


def right_map(**changes):
    """Facts of 150 simulated ribosomes at 15.3 A per pixel."""
    facts = {"resolution_angst": 30.6, "diameter_angst": 350.0, "round_share": 0.57, "outside_ratio": 0.0}
    facts |= {"off_centre_angst": 2.3, "like_ball": 0.774, "like_template": 0.99, "like_mirror": 0.762}
    return MapFacts(**(facts | changes))


GOOD_PICKS = [{"n_picks": 150, "expected_false": 0.1}]
INITIAL = {"log_likelihood_per_particle": 192.7, "nats_per_particle_over_a_ball": 19.1}
REFINED = {"n_particles": 150, "n_diffuse": 3, "n_over_a_ball": 147, "share_of_one_direction": 0.113}


def reasons(facts=None, first_map="initial_model", picks=GOOD_PICKS, refine=REFINED, initial=INITIAL, previous=None):
    return verdict(facts or right_map(), first_map, picks, refine, initial, previous).reasons


def test_right_averages_have_no_objection():
    assert reasons() == []
    demo = right_map(resolution_angst=42.0, diameter_angst=320.0, round_share=0.555, like_ball=0.795, like_mirror=0.823)
    strong = {"log_likelihood_per_particle": 413.7, "nats_per_particle_over_a_ball": 59.5}
    assert reasons(demo, initial=strong) == []
    empiar = right_map(
        resolution_angst=21.8, round_share=0.377, outside_ratio=0.035, off_centre_angst=17.9, like_ball=0.618,
        like_template=0.861, like_mirror=0.71,
    )  # fmt: skip
    assert reasons(empiar, "template", [{"n_picks": 395, "expected_false": 9.2}], initial=None) == []


def test_junk_among_the_picks_alone_is_a_remark():
    junk = [{"n_picks": 552, "expected_false": 399.0}]
    found = verdict(right_map(), "initial_model", junk, REFINED, INITIAL)
    assert (
        found.reasons == []
        and found.sentence() == "no objection to this average (399 of 552 picks are expected to be false)"
    )


def test_junk_that_was_turned_like_the_template():
    (reason,) = reasons(first_map="template", picks=[{"n_picks": 552, "expected_false": 399.0}])
    assert reason.startswith("399 of 552 picks are expected to be false, and the first map was the template")
    assert reasons(first_map="template", picks=[{"n_picks": 552, "expected_false": None}]) == []  # not known: imported


def test_gold_at_two_thirds_of_the_picks():
    """gold_67: halves agree to Nyquist, 10,447 nats per particle, round by only 61 %: the missing wedge is in the map."""
    bead = right_map(round_share=0.606, outside_ratio=0.023, off_centre_angst=3.8, like_ball=0.778)
    bead = MapFacts(**(vars(bead) | {"like_template": 0.498, "like_mirror": 0.493}))
    refined = {"n_particles": 108, "n_diffuse": 36, "n_over_a_ball": 108, "share_of_one_direction": 0.657}
    initial = {"log_likelihood_per_particle": 959.4, "nats_per_particle_over_a_ball": 6.97}
    found = reasons(bead, refine=refined, initial=initial)
    assert [r[:40] for r in found] == [
        "66 % of the particles point the same way",
        "it is not like the template (correlation",
    ]
    no_template = MapFacts(**(vars(bead) | {"like_template": None, "like_mirror": None}))
    assert len(reasons(no_template, refine=refined, initial=initial)) == 1


def test_cytosol_turned_like_the_template():
    """template_all_cytosol: halves agree to 41 A, not like the template all the same."""
    facts = right_map(resolution_angst=41.0, round_share=0.011, off_centre_angst=54.0, like_ball=0.106)
    facts = MapFacts(**(vars(facts) | {"like_template": 0.339, "like_mirror": 0.338}))
    found = reasons(facts, "template", [{"n_picks": 60, "expected_false": 60.0}], initial=None)
    assert len(found) == 2 and "another molecule, or none" in found[1]


def test_the_mirror_image_of_a_template_with_a_hand():
    mirrored = {"like_template": 0.762, "like_mirror": 0.99}
    (reason,) = reasons(right_map(**mirrored, template_like_mirror=0.773))
    assert reason.startswith("it is the mirror image of the template (correlation 0.99, with the template 0.76)")
    assert reasons(right_map(**mirrored, template_like_mirror=0.97)) == []  # a template without a hand


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"resolution_angst": 130.0}, "its halves share nothing finer than 130 A in a sphere of 350 A"),
        ({"resolution_angst": np.inf}, "its halves share nothing in a sphere"),
        ({"round_share": 0.97}, "it is a ball (97 % of its density has no direction)"),
        ({"outside_ratio": 0.5}, "its density goes on beyond the sphere of 350 A (50 %"),
        ({"off_centre_angst": 90.0}, "it lies 90 A off the centre"),
    ],
)
def test_maps_that_are_no_particle(changes, said):
    (reason,) = reasons(right_map(**changes))
    assert said in reason


@pytest.mark.parametrize(
    "summaries, said",
    [
        ({"initial": {"log_likelihood_per_particle": -441.0}}, "worse than no particle at all (-441.0 nats"),
        ({"initial": {"nats_per_particle_over_a_ball": 0.4}}, "hardly likelier than a ball (0.4 nats"),
        ({"refine": REFINED | {"n_over_a_ball": 0, "n_particles": 32}}, "only 0 of 32 particles look more like"),
        ({"refine": REFINED | {"n_diffuse": 100}}, "100 of 150 particles have no clear orientation"),
    ],
)
def test_steps_that_lost_the_particle(summaries, said):
    (reason,) = reasons(**summaries)
    assert said in reason


def test_what_cannot_be_judged_is_said():
    facts = right_map(like_template=None, like_mirror=None, outside_ratio=None)
    found = verdict(facts, "initial_model", [{"n_picks": 9}], None, None)  # summaries of an older version, too
    assert found.reasons == [] and len(found.remarks) == 2
    assert "no template to compare with" in found.sentence()


def test_the_share_of_one_direction():
    everywhere = random_rotations(400, np.random.default_rng(0))
    assert share_of_one_direction(everywhere) < 0.12  # 0.06 and chance
    rot = np.linspace(0, 360, 50, endpoint=False)
    locked = euler_to_matrix(np.full(50, 30.0), np.full(50, 70.0), rot)  # turned about the beam only
    assert share_of_one_direction(locked) == 1
    upside_down = np.diag([1.0, -1.0, -1.0]) @ locked[:25]
    assert share_of_one_direction(np.concatenate([locked[25:], upside_down])) == 1  # the wedge knows no up
    assert share_of_one_direction(locked, "D7") < 0.3  # mates of a symmetric particle look everywhere


def test_a_mirrored_template_that_refinement_followed():
    """mirrored_template: a blur of wrong poses (10 % right) that is like its template; only the picking knows the hand."""
    blur = right_map(resolution_angst=39.0, round_share=0.857, like_ball=0.887, like_template=0.918, like_mirror=0.836)
    mirrored = [{"n_picks": 50, "expected_false": 0.1, "hand": {"verdict": "mirrored"}}] * 2
    (reason,) = reasons(blur, "template", mirrored, initial=None)
    assert reason.startswith("the mirrored template fits the tomograms better (2 of 2 series)")
    right = [{"n_picks": 50, "expected_false": 0.1, "hand": {"verdict": v}} for v in ("right", "undecided")]
    assert reasons(blur, "template", right, initial=None) == []
