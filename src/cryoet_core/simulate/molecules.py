"""Macromolecules as beads: the 70S ribosome, decoys of other shapes, chiral clusters for tests, and their maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from cryoet_core.simulate.physics import POTENTIAL_V_ANGST3_PER_DA
from cryoet_core.simulate.splat import gaussian_table, splat_volume

PROTEIN_ANGST3_PER_DA = 1.21


@dataclass(frozen=True)
class Molecule:
    """Beads of one molecule: ``xyz_angst`` (n, 3) float32 about the centre of mass, ``mass_da`` (n,) float32."""

    name: str
    xyz_angst: np.ndarray
    mass_da: np.ndarray

    @property
    def radius_angst(self) -> float:
        """Radius that holds 98 % of the beads."""
        return float(np.quantile(np.linalg.norm(self.xyz_angst, axis=1), 0.98))

    @property
    def reach_angst(self) -> float:
        """Distance of the farthest bead."""
        return float(np.linalg.norm(self.xyz_angst, axis=1).max())

    @property
    def potential_v_angst3(self) -> np.ndarray:
        """(n,) integrated excess potential of each bead over ice, V A^3."""
        return (self.mass_da * POTENTIAL_V_ANGST3_PER_DA).astype(np.float32)


def _molecule(name, xyz, mass) -> Molecule:
    """Centre on the centre of mass and store as float32."""
    xyz = np.asarray(xyz, dtype=np.float64)
    mass = np.asarray(mass, dtype=np.float64)
    centre = (mass[:, None] * xyz).sum(axis=0) / mass.sum()
    return Molecule(name, (xyz - centre).astype(np.float32), mass.astype(np.float32))


def ribosome() -> Molecule:
    """The 70S ribosome of PDB 4V5D, one bead per residue (see data/README.md)."""
    with (files("cryoet_core.simulate") / "data" / "70S_4v5d_beads.npz").open("rb") as handle, np.load(handle) as data:
        return _molecule("ribosome", data["xyz"], data["mass"])


def chiral_molecule(seed: int = 0, n_beads: int = 400, radius_angst: float = 60.0, mass_da: float = 4.0e5) -> Molecule:
    """A one-handed cluster for tests, no symmetry: a thick staircase x, y, z (a right-handed screw) with a heavy end."""
    rng = np.random.default_rng([seed, 7041])
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1.0]])
    n_lobe = n_beads // 5
    along = np.sort(rng.uniform(0, 3, n_beads - n_lobe))
    step = np.minimum(along.astype(int), 2)
    stairs = corners[step] + (along - step)[:, None] * (corners[step + 1] - corners[step])
    lobe = corners[3] + 0.12 * rng.standard_normal((n_lobe, 3))
    xyz = 1.1 * radius_angst * (np.concatenate([stairs, lobe]) + 0.07 * rng.standard_normal((n_beads, 3)))
    return _molecule("chiral", xyz, np.full(n_beads, mass_da / n_beads))


def _filled(inside, half_sizes, bead_da, rng):
    """Beads filling the shape ``inside(points)`` at protein density: a cubic lattice, each point jittered."""
    spacing = (bead_da * PROTEIN_ANGST3_PER_DA) ** (1 / 3)
    axes = [np.arange(-half, half + spacing, spacing) for half in half_sizes]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points + rng.uniform(-0.4, 0.4, points.shape) * spacing
    return points[inside(points)]


def decoy(shape: str, mass_da: float, seed: int = 0, bead_da: float = 330.0) -> Molecule:
    """A protein body of another shape and the given mass: "ring", "rod" or "globule"."""
    rng = np.random.default_rng([seed, sum(map(ord, shape))])
    volume = mass_da * PROTEIN_ANGST3_PER_DA
    if shape == "globule":
        r = (volume * 3 / (4 * math.pi)) ** (1 / 3)
        points = _filled(lambda p: np.linalg.norm(p, axis=1) < r, (r, r, r), bead_da, rng)
    elif shape == "rod":
        r = (volume / (7 * math.pi)) ** (1 / 3)  # length 7 r
        points = _filled(lambda p: np.hypot(p[:, 0], p[:, 1]) < r, (r, r, 3.5 * r), bead_da, rng)
    elif shape == "ring":
        r = (volume / (0.75 * math.pi)) ** (1 / 3)  # hole of half the radius, height r

        def wall(p):
            return np.abs(np.hypot(p[:, 0], p[:, 1]) - 0.75 * r) < 0.25 * r

        points = _filled(wall, (r, r, 0.5 * r), bead_da, rng)
    else:
        raise ValueError(f"unknown decoy shape {shape!r}: expected ring, rod or globule")
    return _molecule(shape, points, np.full(len(points), mass_da / len(points)))


def density_map(
    molecule: Molecule, pixel_size_angst: float, box_px: int, bead_sigma_angst: float = 2.5, mirror: bool = False
) -> np.ndarray:
    """(box, box, box) float32 [z, y, x] excess potential in V, bright, the centre of mass on index box//2.

    ``mirror`` inverts the hand (x -> -x). The sum of the map times the voxel volume is the molecule's integrated
    potential, as long as the box holds it.
    """
    volume = np.zeros((box_px,) * 3, dtype=np.float32)
    flip = np.array([-1.0 if mirror else 1.0, 1.0, 1.0], dtype=np.float32)
    points = molecule.xyz_angst * flip / np.float32(pixel_size_angst) + np.float32(box_px // 2)
    table = gaussian_table(bead_sigma_angst / pixel_size_angst)
    splat_volume(volume, points, molecule.potential_v_angst3 / np.float32(pixel_size_angst**3), table)
    return volume
