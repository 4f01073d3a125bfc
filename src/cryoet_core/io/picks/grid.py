"""Where a position lies: voxel grids, their centres, and axes that other programs turned or mirrored.

Everything here is centred A (index n//2 is 0, as everywhere in this library) or a 0-based voxel index that is whole at the
middle of a voxel. The reader of every format turns what its program writes into one of the two.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np

from cryoet_core.errors import UserInputError

MOST_OUTSIDE = 0.2  # share of picks outside the tomogram from which the frame must be wrong
_AXES = re.compile(r"(-?[xyz])(-?[xyz])(-?[xyz])$")


@dataclass(frozen=True)
class Grid:
    """Voxels of a tomogram: size_px (x, y, z), pixel size, and the index of the centre (size//2 unless it is said).

    fixed: given by the user, so that a pixel size found in a file does not replace it.
    """

    size_px: tuple[int, int, int]
    pixel_size_angst: float
    centre_px: tuple[float, float, float] | None = None
    fixed: bool = False

    @property
    def centre(self) -> np.ndarray:
        """(3,) index of the origin of centred coordinates."""
        size = np.asarray(self.size_px, dtype=np.int64)
        return (size // 2).astype(np.float64) if self.centre_px is None else np.asarray(self.centre_px, dtype=np.float64)

    def to_angst(self, index) -> np.ndarray:
        """0-based voxel index (..., 3) x, y, z -> centred A."""
        return (np.asarray(index, dtype=np.float64) - self.centre) * self.pixel_size_angst

    def to_index(self, position_angst) -> np.ndarray:
        """Centred A (..., 3) -> 0-based voxel index."""
        return np.asarray(position_angst, dtype=np.float64) / self.pixel_size_angst + self.centre

    def whole_to_angst(self, fraction) -> np.ndarray:
        """Fractions (..., 3) of the volume's size, 0 at the first voxel and 1 behind the last -> centred A."""
        return self.to_angst(np.asarray(fraction, dtype=np.float64) * np.asarray(self.size_px))

    def holds(self, position_angst) -> bool:
        """Whether the volume holds nearly all of the positions (n, 3), centred A; see MOST_OUTSIDE."""
        index = self.to_index(position_angst)
        inside = ((index >= -0.5) & (index <= np.asarray(self.size_px) - 0.5)).all(axis=-1)
        return bool((~inside).sum() <= MOST_OUTSIDE * len(inside))

    def scaled(self, pixel_size_angst: float) -> Grid:
        """The same volume in other voxels; index 0 stays on its point, as when Fourier-cropped."""
        ratio = self.pixel_size_angst / pixel_size_angst
        size = tuple(max(1, int(round(n * ratio))) for n in self.size_px)
        return dataclasses.replace(self, size_px=size, pixel_size_angst=float(pixel_size_angst), centre_px=tuple(self.centre * ratio))

    def as_in_file(self, pixel_size_angst) -> Grid:
        """The grid with the pixel size that a file tells of itself, unless the user gave one or it tells nothing."""
        if self.fixed or pixel_size_angst is None or not np.isfinite(pixel_size_angst) or pixel_size_angst <= 0:
            return self
        if abs(pixel_size_angst / self.pixel_size_angst - 1) < 1e-3:  # the same, rounded
            return self
        return self.scaled(float(pixel_size_angst))

    def told(self, pixel_size_angst) -> tuple[Grid, str]:
        """(the grid as in as_in_file, what the file says that it counts in: "" where it says nothing)."""
        says = pixel_size_angst is not None and np.isfinite(pixel_size_angst) and pixel_size_angst > 0
        return self.as_in_file(pixel_size_angst), f"voxels of {pixel_size_angst:.5g} A" if says else ""


def are_fractions(index) -> bool:
    """Whether positions (n, 3) are fractions of a volume rather than voxels: all from 0 to 1, and not all whole."""
    index = np.asarray(index, dtype=np.float64)
    return bool(index.size and (index >= 0).all() and (index <= 1).all() and (index != np.rint(index)).any())


@dataclass(frozen=True)
class Tomogram:
    """The tomogram that picks belong to: its own voxels, and those of the tilt images (unbinned; None = the same)."""

    name: str
    grid: Grid
    unbinned: Grid | None = None

    @classmethod
    def of_series(cls, series, shape) -> Tomogram:
        """From the table of its tilt series and its array shape (z, y, x)."""
        grid = Grid(tuple(int(n) for n in shape[::-1]), float(series.pixel_size_angst))
        unbinned = grid.scaled(series.movie_pixel_size_angst)
        if all(n > 0 for n in series.tomogram_size_px):
            unbinned = Grid(tuple(series.tomogram_size_px), float(series.movie_pixel_size_angst))
        return cls(series.name, grid, unbinned)


@dataclass(frozen=True)
class Axes:
    """Which axis of a file is each axis of our tomogram: "xyz" the same; "xz-y" our y is its z, our z its y turned round.

    matrix (3, 3): ours = matrix . theirs. An axis that was turned round by reversing the order of its n voxels lands one voxel
    off the mirror image about n//2 where n is even, which `turned` adds.
    """

    matrix: np.ndarray

    @classmethod
    def parse(cls, text: str) -> Axes:
        """From "xyz", "xz-y", ... Raises UserInputError E-PICKS-09."""
        found = _AXES.match(text.strip().lower().replace(" ", "").replace(",", ""))
        letters = [part[-1] for part in found.groups()] if found else []
        if sorted(letters) != ["x", "y", "z"]:
            raise UserInputError(
                "E-PICKS-09", "this is no order of axes", field="picks_axes", found=repr(text), expected="xyz in some order, - before a turned one",
                fix="xyz when both volumes have the same axes; xz-y for an IMOD reconstruction that was not rotated about x",
            )
        matrix = np.zeros((3, 3))
        for row, part in enumerate(found.groups()):
            matrix[row, "xyz".index(part[-1])] = -1.0 if part.startswith("-") else 1.0
        return cls(matrix)

    @property
    def mirrors(self) -> bool:
        """True when the two volumes are mirror images: then orientations cannot be carried over."""
        return bool(np.linalg.det(self.matrix) < 0)

    def file_size(self, size_px) -> tuple[int, int, int]:
        """Size (x, y, z) of the file's volume, from ours."""
        return tuple(int(n) for n in np.abs(self.matrix.T) @ np.asarray(size_px))

    def file_grid(self, grid: Grid) -> Grid:
        """Our grid along the file's axes."""
        centre = tuple(float(c) for c in np.abs(self.matrix.T) @ grid.centre)
        return dataclasses.replace(grid, size_px=self.file_size(grid.size_px), centre_px=centre)

    def _turned(self, file_grid: Grid) -> np.ndarray:
        even = 1.0 - np.asarray(file_grid.size_px) % 2
        return np.minimum(self.matrix, 0.0) @ even * file_grid.pixel_size_angst

    def to_ours(self, position_angst, file_grid: Grid) -> np.ndarray:
        """Centred A (n, 3) along the file's axes -> ours."""
        return np.asarray(position_angst) @ self.matrix.T + self._turned(file_grid)

    def to_file(self, position_angst, file_grid: Grid) -> np.ndarray:
        """Inverse of to_ours."""
        return (np.asarray(position_angst) - self._turned(file_grid)) @ self.matrix
