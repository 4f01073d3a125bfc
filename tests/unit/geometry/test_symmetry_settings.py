"""Point groups in RELION's settings, against axes written down by hand and by symmetrising a map that has the group."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoet_core.config import load_config
from cryoet_core.errors import UserInputError
from cryoet_core.geometry import angular_distance_deg, point_group
from cryoet_core.geometry.so3 import so3_grid
from cryoet_core.geometry.symmetry import point_group_name
from cryoet_core.picking.match import unique_rotations
from cryoet_core.subtomo.search import asymmetric_unit

# (order, x, y, z) of generators, digits as RELION's manual and source give them
RELION = {
    "C4": [(4, 0, 0, 1)],
    "D3": [(3, 0, 0, 1), (2, 1, 0, 0)],
    "T": [(3, 0, 0, 1), (2, 0, 0.816496, 0.577350)],
    "O": [(3, 0.5773502, 0.5773502, 0.5773502), (4, 0, 0, 1)],
    "I": [(2, 0, 0, 1), (5, 0.525731114, 0, 0.850650807), (3, 0, 0.356822076, 0.934172364)],
    "I2": [(2, 0, 0, 1), (5, 0.525731114, 0, 0.850650807), (3, 0, 0.356822076, 0.934172364)],
    "I1": [(2, 1, 0, 0), (5, 0.850650807, 0, -0.525731114), (3, 0.934172364, 0.356822076, 0)],
    "I3": [(2, -0.525731114, 0, 0.850650807), (5, 0, 0, 1), (3, -0.491123478, 0.356822076, 0.794654475)],
    "I4": [
        (2, 0.525731114, 0, 0.850650807),
        (5, 0.894427193, 0, 0.447213591),
        (3, 0.491123478, 0.356822076, 0.794654475),
    ],
}
ORDERS = {"C4": 4, "D3": 6, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def turn(order, *axis):
    axis = np.array(axis) / np.linalg.norm(axis)
    return Rotation.from_rotvec(axis * 2 * np.pi / order).as_matrix()


def closure(generators):
    """All products of the generators, by trying every pair until none is new."""
    group, n = [np.eye(3)] + [turn(*g) for g in generators], 0
    while n < len(group):
        n = len(group)
        for a, b in itertools.product(list(group), repeat=2):
            if not any(np.abs(a @ b - known).max() < 1e-3 for known in group):
                group.append(a @ b)
    return np.array(group)


@pytest.mark.parametrize("name", RELION)
def test_operators_are_those_of_relions_generators(name):
    ours, theirs = point_group(name), closure(RELION[name])
    assert len(ours) == len(theirs) == ORDERS[name]
    assert np.allclose(ours[0], np.eye(3))
    distance = np.abs(ours[:, None] - theirs).max(axis=(2, 3))
    assert distance.min(axis=1).max() < 1e-6 and distance.min(axis=0).max() < 1e-6
    assert np.abs(ours @ ours.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12


@pytest.mark.parametrize("name", ["T", "O", "I", "I1", "I2", "I3", "I4"])
def test_averaging_over_the_group_keeps_a_map_that_has_it(name):
    """Blobs at the places that RELION's group gives one atom: the mean over our operators is the same map."""
    axis = np.arange(-30, 31, 3.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    atoms = np.array([[22.0, 6.0, 9.0]])

    def density(centres):
        return sum(np.exp(-((points - c) ** 2).sum(1) / 8) for c in centres)

    places = np.concatenate([atoms @ g.T for g in closure(RELION[name])])
    before = density(places)
    after = np.mean([density(places @ s.T) for s in point_group(name)], axis=0)
    assert np.abs(after - before).max() < 1e-3 * before.max()


def test_the_settings_differ_where_relions_do():
    def same(a, b):
        return np.abs(point_group(a)[:, None] - point_group(b)).max(axis=(2, 3)).min(axis=1).max() < 1e-6

    assert same("I", "I2")
    assert not any(same(a, b) for a, b in itertools.combinations(["I1", "I2", "I3", "I4"], 2))


@pytest.mark.parametrize("name", ["T", "I1", "I3"])
def test_search_grids_hold_one_of_each_set_of_mates(name):
    group, grid = point_group(name), so3_grid(2)
    unit = asymmetric_unit(grid, group)
    assert abs(len(unit) * len(group) / len(grid) - 1) < 0.35
    assert max(angular_distance_deg(unit, a, group).min() for a in grid[::400]) < 15
    picked = unique_rotations(15.0, name)
    assert max(angular_distance_deg(picked, a, group).min() for a in grid[::400]) < 15


@pytest.mark.parametrize(
    "given, name",
    [("c1", "C1"), ("C12", "C12"), (" d7 ", "D7"), ("t", "T"), ("o", "O"), ("i", "I"), ("i2", "I2"), ("I4", "I4")],
)
def test_accepted_forms(given, name):
    assert point_group_name(given) == name
    assert np.array_equal(point_group(given), point_group(name))


@pytest.mark.parametrize(
    "given",
    [
        "",
        "X9",
        "C",
        "C0",
        "C06",
        "C100",
        "D",
        "D0",
        "I0",
        "I5",
        "IH",
        "TD",
        "OH",
        "C4v",
        "C4\nC4",
        "C4\n4",
        "C²",
        "C٣",
        "4",
    ],
)
def test_refused_forms(given):
    with pytest.raises(UserInputError, match=r"E-SYM-01.*I1, I2, I3 or I4.*Fix:"):
        point_group(given)


KEYS = {
    "match_template.symmetry": lambda value: {"match_template": {"symmetry": value}},
    **{
        f"averaging.0.{step}.{key}": lambda value, step=step, key=key: {
            "averaging": [{"name": "a", step: {key: value}}]
        }
        for step, key in (
            ("refine", "symmetry"), ("refine", "relax_symmetry"), ("reconstruct_particle", "symmetry"),
            ("initial_model", "symmetry"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_the_config_refuses_what_is_no_point_group(key):
    with pytest.raises(UserInputError, match=rf"E-CFG-02: {key}: .*unknown point group.*C1 to C99.*found 'C06'"):
        load_config(KEYS[key]("C06"))


def test_the_config_keeps_the_name_as_relion_writes_it():
    config = load_config({"averaging": [{"name": "a", "refine": {"symmetry": "i1", "relax_symmetry": "c1"}}]})
    assert config.averaging[0].refine.symmetry == "I1" and config.averaging[0].refine.relax_symmetry == "C1"
