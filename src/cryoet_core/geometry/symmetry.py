"""Point groups as rotation matrices, RELION's axis settings: Cn along z, Dn with a two-fold along x, I = I2 (two-folds on x, y, z)."""

from __future__ import annotations

import re

import numpy as np
from scipy.spatial.transform import Rotation

from cryoet_core.errors import UserInputError

_PATTERN = re.compile(r"^(C|D)([1-9][0-9]?)$|^(T|O|I)$")


def point_group(name: str) -> np.ndarray:
    """Operators of the point group ``name`` (C1, Cn, Dn, T, O, I) -> (n, 3, 3) float64, identity first.

    Raises UserInputError E-SYM-01 for an unknown name.
    """
    label = str(name).upper()
    if not _PATTERN.match(label):
        raise UserInputError(
            "E-SYM-01", "unknown point group", field="symmetry", found=name, expected="C1, Cn, Dn, T, O or I"
        )
    operators = Rotation.create_group(label).as_matrix()
    distance = np.linalg.norm(operators - np.eye(3), axis=(1, 2))
    return operators[np.argsort(distance, kind="stable")]
