"""Point groups as rotation matrices, in RELION's axis settings.

    Cn           n-fold along z
    Dn           n-fold along z, a two-fold along x
    T            three-folds along z and three more directions (not two-folds along x, y and z)
    O            four-folds along x, y and z
    I, I2        two-folds along x, y and z, five-folds in the xz plane at 31.7 degrees from z (Crowther's setting)
    I1           as I2 turned by 90 degrees about z: five-folds in the xz plane at 58.3 degrees from z
    I3           a five-fold along z, a two-fold in the xz plane at -31.7 degrees from z
    I4           as I3 turned by 180 degrees about z: a two-fold in the xz plane at +31.7 degrees from z

Source: the generators of RELION's symmetry groups (src/symmetries.cpp).
"""

from __future__ import annotations

import re

import numpy as np
from scipy.spatial.transform import Rotation

from cryoet_core.errors import UserInputError

EXPECTED = "C1 to C99, D1 to D99, T, O, I, I1, I2, I3 or I4 (RELION's settings; I is I2)"
_NAME = re.compile(r"(?:[CD][1-9][0-9]?|T|O|I[1-4]?)\Z", re.ASCII)
_X, _Y, _Z = np.eye(3)
_GOLDEN = (1 + np.sqrt(5)) / 2
# (order, axis) of rotations that make up the whole group
_GENERATORS = {
    "T": ((3, _Z), (2, (0, np.sqrt(2), 1))),
    "I1": ((2, _X), (3, (1, 1, 1)), (5, (_GOLDEN, 0, -1))),
    "I2": ((2, _X), (3, (1, 1, 1)), (5, (1, 0, _GOLDEN))),
    "I3": ((5, _Z), (2, (-1, 0, _GOLDEN))),
    "I4": ((5, _Z), (2, (1, 0, _GOLDEN))),
}


def point_group_name(name: str) -> str:
    """The name as RELION writes it: capitals, no blanks around. Raises UserInputError E-SYM-01 for any other name."""
    label = str(name).strip().upper()
    if not _NAME.match(label):
        raise UserInputError(
            "E-SYM-01", "unknown point group", field="symmetry", found=repr(name), expected=EXPECTED,
            fix="name the point group of the particle; C1 where it has none",
        )  # fmt: skip
    return label


def point_group(name: str) -> np.ndarray:
    """Operators of the point group ``name`` (see above; in any case) -> (n, 3, 3) float64, identity first.

    Raises UserInputError E-SYM-01 for an unknown name.
    """
    label = point_group_name(name)
    if label[0] in "CDO":  # SciPy has these in RELION's setting
        operators = Rotation.create_group(label).as_matrix()
    else:
        operators = _generated(_GENERATORS["I2" if label == "I" else label])
    distance = np.linalg.norm(operators - np.eye(3), axis=(1, 2))
    return operators[np.argsort(distance, kind="stable")]


def _generated(generators) -> np.ndarray:
    """The group (n, 3, 3) that rotations (order, axis) generate: products are added until none is new."""
    group = [np.eye(3)]
    turns = [_turn(order, axis) for order, axis in generators]
    for operator in group:  # grows while it is walked through
        for turn in turns:
            product = turn @ operator
            if not any(np.abs(product - known).max() < 1e-6 for known in group):
                group.append(product)
    return np.array(group)


def _turn(order: int, axis) -> np.ndarray:
    axis = np.asarray(axis, dtype=np.float64)
    return Rotation.from_rotvec(2 * np.pi / order * axis / np.linalg.norm(axis)).as_matrix()
