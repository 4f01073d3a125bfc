"""Picks between a file and our particle table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cryoet_core.errors import UserInputError

_PER_PICK = ("positions_angst", "rotations", "score", "class_number", "tomogram", "row")
ROTATION_TOLERANCE = 0.01  # of every element: files hold few digits


@dataclass(frozen=True)
class Picks:
    """n picks: what a file says, in our terms; what it does not say is None.

    positions_angst: (n, 3) x, y, z in A from the tomogram's centre (index n//2). rotations: (n, 3, 3), reference -> tomogram,
    x_tomogram = position + rotation . x_reference. score: (n,). class_number: (n,) int. tomogram: (n,) names (str) or
    numbers (int) as the file has them. row: (n,) number of the pick in the file, from 1. unit: what the file says
    that it counts in ("A", "pixels of 2.5 A"), "" where it does not say. notes: what a reader assumed or converted.
    """

    positions_angst: np.ndarray
    rotations: np.ndarray | None = None
    score: np.ndarray | None = None
    class_number: np.ndarray | None = None
    tomogram: np.ndarray | None = None
    row: np.ndarray | None = None
    unit: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def none(cls) -> Picks:
        """No pick at all."""
        return cls(np.zeros((0, 3)))

    def __len__(self) -> int:
        return len(self.positions_angst)

    def select(self, mask) -> Picks:
        """The picks of a boolean mask or of integer positions."""
        known = {name: value for name in _PER_PICK if (value := getattr(self, name)) is not None}
        return replace(self, **{name: value[mask] for name, value in known.items()})

    def numbered(self) -> Picks:
        """With `row` counted from 1 where it is not known."""
        return self if self.row is not None else replace(self, row=np.arange(1, len(self) + 1))


def checked_rotations(matrices, path, what: str = "pick") -> np.ndarray:
    """(n, 3, 3) made exactly orthonormal. Raises UserInputError E-PICKS-06 for what is no rotation."""
    matrices = np.asarray(matrices, dtype=np.float64).reshape(-1, 3, 3)
    if not len(matrices):
        return matrices
    finite = np.isfinite(matrices).all(axis=(1, 2))
    u, _, vt = np.linalg.svd(np.where(finite[:, None, None], matrices, 0.0))
    nearest = u @ vt
    bad = ~finite | (np.abs(nearest - matrices).max(axis=(1, 2)) > ROTATION_TOLERANCE) | (np.linalg.det(nearest) < 0)
    if bad.any():
        first = int(np.argmax(bad))
        raise UserInputError(
            "E-PICKS-06", "this matrix is not a rotation", file=str(path), field=f"{what} {first + 1}",
            found=np.array2string(matrices[first], precision=3).replace("\n", ""), expected="orthogonal rows, determinant +1",
            fix="write the file again with the program that made it",
        )
    return nearest
