"""Duplicates and subsets: the better one stays, counts add up, halves cannot share a particle."""

import numpy as np
import pandas as pd
import pytest

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.metadata import Particles
from cryoet_core.subtomo.selection import duplicates, select_particles


def particles(x, tomo="TS_01", **columns):
    table = pd.DataFrame({"tomo_name": tomo, "x_angst": np.asarray(x, float), "y_angst": 0.0, "z_angst": 0.0, **columns})
    return Particles(table)


def test_the_better_of_two_stays_and_other_series_do_not_count():
    chosen = select_particles(
        particles([0, 10, 500, 505], ["TS_01", "TS_01", "TS_01", "TS_02"], log_likelihood=[5.0, 9.0, 1.0, 2.0]),
        duplicate_distance_angst=30.0,
    )
    assert chosen.keep.tolist() == [False, True, True, True]
    assert chosen.duplicates == 1 and chosen.summary()["n_selected"] == 3


def test_a_chain_loses_only_the_neighbours_of_those_that_stay():
    # 0-20-40-60: the best (20) removes 0 and 40; 60 is near only to 40, which is gone, and stays.
    rank = np.array([1.0, 4.0, 3.0, 2.0])
    twice = duplicates(np.array([[0, 0, 0], [20, 0, 0], [40, 0, 0], [60.0, 0, 0]]), ["a"] * 4, rank, 25.0)
    assert twice.tolist() == [True, False, True, False]


def test_equal_ranks_keep_the_first_and_positions_include_origins():
    chosen = select_particles(particles([0, 100], origin_x_angst=[0.0, 95.0]), duplicate_distance_angst=10.0)
    assert chosen.keep.tolist() == [True, False]


def test_planted_duplicates_are_found_all_and_nothing_else():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(6) * 200.0] * 3), axis=-1).reshape(-1, 3)
    copies = grid[:40] + rng.normal(0, 8, (40, 3))
    everything = np.concatenate([grid, copies])
    order = rng.permutation(len(everything))
    table = pd.DataFrame(everything[order], columns=["x_angst", "y_angst", "z_angst"])
    rank = rng.uniform(0, 1, len(order))
    chosen = select_particles(
        Particles(table.assign(tomo_name="TS_01", score=rank)), duplicate_distance_angst=50.0
    )
    assert chosen.duplicates == 40
    kept = everything[order][chosen.keep]
    assert np.linalg.norm(kept[:, None] - kept[None], axis=2)[~np.eye(len(kept), dtype=bool)].min() > 50


def test_subsets_by_rank_number_and_diffuseness():
    table = particles([0, 100, 200, 300, 400], score=[1.0, 5, 2, 4, 3], diffuse=[0, 0, 1, 0, 0])
    rules = {"duplicate_distance_angst": 1.0}
    assert select_particles(table, keep_best=2, **rules).keep.tolist() == [False, True, False, True, False]
    assert select_particles(table, min_rank=2.5, **rules).keep.tolist() == [False, True, False, True, True]
    both = select_particles(table, drop_diffuse=True, keep_best=3, **rules)
    assert both.keep.tolist() == [False, True, False, True, True] and (both.diffuse, both.low) == (1, 1)
    assert select_particles(table, rank_by="score", **rules).keep.all()
    with pytest.raises(UserInputError, match=r"E-SEL-01.*likelihood"):
        select_particles(table, rank_by="likelihood", **rules)
    with pytest.raises(DataQualityError, match="E-SEL-02"):
        select_particles(table, min_rank=99.0, **rules)
