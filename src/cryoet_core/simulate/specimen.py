"""A crowded slab of ice: where every molecule sits and how it is turned, in tomogram axes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial import cKDTree

from cryoet_core.errors import UserInputError
from cryoet_core.simulate.geometry import random_euler
from cryoet_core.simulate.molecules import PROTEIN_ANGST3_PER_DA, Molecule, chiral_molecule, decoy, ribosome
from cryoet_core.simulate.physics import POTENTIAL_V_ANGST3_PER_DA
from cryoet_core.simulate.settings import SimulationSettings

DECOY_SHAPES = ("ring", "rod", "globule")
MEMBRANE_ANGST = 30.0
"""Nothing else comes closer to the middle of a bilayer."""

SUBUNIT_DA = 4.0e4
"""Proteins of the cytosol are clusters of globular subunits of about this mass."""

CYTOSOL_DA = 5.0e4, 5.0e5
DA_PER_ANGST3_OF_MG_PER_ML = 6.02214e-4

EDGE_ANGST = 150.0
"""Particles of the truth keep this distance from the border of the untilted field; the others start as far outside."""


@dataclass(frozen=True)
class Specimen:
    """Everything in the slab, A, centred tomogram axes (x, y, z).

    species: molecules; kind (n,) int64 index into them; position (n, 3); euler (n, 3) rot, tilt, psi deg; inside (n,)
    bool, True for those in the untilted field (the truth's list). crowder_*: small proteins, a Gaussian blob for one of
    a demo, a cluster of them for one of a cell. vesicles (n, 4): centre and radius of the bilayer's middle. gold (n, 3).
    """

    species: tuple[Molecule, ...]
    kind: np.ndarray
    position: np.ndarray
    euler: np.ndarray
    inside: np.ndarray
    crowder_position: np.ndarray
    crowder_potential: np.ndarray
    crowder_sigma: np.ndarray
    vesicles: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    gold: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))


def make_species(settings: SimulationSettings) -> tuple[Molecule, ...]:
    """The wanted molecule first, then the decoys, of 0.75 to 1 times its mass."""
    main = ribosome() if settings.specimen == "ribosome" else chiral_molecule()
    mass = float(main.mass_da.sum())
    if settings.n_decoys == 0:
        return (main,)
    return (main, *(decoy(s, mass * f) for s, f in zip(DECOY_SHAPES, (0.85, 0.75, 1.0), strict=True)))


def field_half_sizes(settings: SimulationSettings) -> tuple[float, float]:
    """Half extents (A) of the untilted field along tomogram x and y (the image's axes swapped when the axis lies)."""
    height, width = (0.5 * n * settings.pixel_size_angst for n in settings.image_shape)
    return (height, width) if abs(math.sin(math.radians(settings.nominal_axis_deg))) > 0.7071 else (width, height)


def outer_half_sizes(settings: SimulationSettings) -> tuple[float, float]:
    """Half extents of all that can enter the field at the highest tilt, with shifts."""
    half_x, half_y = field_half_sizes(settings)
    reach = 0.08 * 2 * max(half_x, half_y) + 300.0
    tilt = math.radians(min(72.0, settings.max_tilt_deg + abs(settings.tilt_offset_deg) + 1.0))
    return (half_x + reach + 0.5 * settings.thickness_angst * math.sin(tilt)) / math.cos(tilt), half_y + reach


def _place(radii, region, half_z, taken, rng, inset=0.9, tries=4000):
    """Random sequential placement: (n, 3) positions, no two spheres of ``radii`` overlapping, ``taken`` grows.

    ``region(rng)`` draws an (x, y); a centre is at least ``inset`` radii away from the slab's surfaces. Raises UserInputError E-SIM-01 when there is no room left.
    """
    placed = []
    for radius in radii:
        limit = max(0.0, half_z - inset * radius)
        for _ in range(tries):
            x, y = region(rng)
            point = np.array([x, y, rng.uniform(-limit, limit)])
            centres, others = taken
            if not len(others) or np.all(((centres - point) ** 2).sum(axis=1) > (others + radius) ** 2):
                taken[0] = np.vstack([centres, point])
                taken[1] = np.append(others, radius)
                placed.append(point)
                break
        else:
            raise UserInputError(
                "E-SIM-01", "the particles do not fit into the slab", field="simulate.n_particles", found=f"{len(radii)} particles",
                expected=f"about {len(placed)}", fix="fewer particles, decoys or vesicles, a larger image or a thicker slab",
            )  # fmt: skip
    return np.array(placed).reshape(-1, 3)


def make_specimen(settings: SimulationSettings, rng) -> Specimen:
    """Place particles and decoys, inside the field and, at the same density, where only high tilts see them."""
    species = make_species(settings)
    half_x, half_y = field_half_sizes(settings)
    outer_x, outer_y = outer_half_sizes(settings)
    edge = min(EDGE_ANGST, 0.25 * min(half_x, half_y))
    in_x, in_y = half_x - edge, half_y - edge

    def in_field(r):
        return r.uniform(-in_x, in_x), r.uniform(-in_y, in_y)

    def around(r):
        while True:
            x, y = r.uniform(-outer_x, outer_x), r.uniform(-outer_y, outer_y)
            if abs(x) > half_x + edge or abs(y) > half_y + edge:
                return x, y

    hole = (half_x + edge) * (half_y + edge)
    more = max(0.0, outer_x * outer_y - hole) / (half_x * half_y)
    half_z = 0.5 * settings.thickness_angst
    regions = (in_field, 1.0, True), (around, more, False)
    taken = [np.empty((0, 3)), np.empty(0)]
    vesicles, gold = [np.empty((0, 4))], [np.empty((0, 3))]
    for region, factor, _ in regions:
        radii = rng.uniform(*vesicle_radii(settings), round(settings.n_vesicles * factor))
        centres = _place(radii + MEMBRANE_ANGST, region, half_z, taken, rng, inset=1.0)
        vesicles.append(np.column_stack([centres, radii]))
    for region, factor, _ in regions:  # a bead may lie on the slab: its centre on the surface
        radii = np.full(round(settings.n_gold_beads * factor), 0.5 * settings.gold_diameter_angst)
        gold.append(_place(radii, region, half_z, taken, rng, inset=0.0))
    kinds, positions, inside = [], [], []
    for region, factor, is_inside in regions:
        n_main, n_decoy = round(settings.n_particles * factor), round(settings.n_decoys * factor)
        kind = np.concatenate([np.zeros(n_main, np.int64), 1 + np.arange(n_decoy) % max(1, len(species) - 1)])
        kind = rng.permutation(kind)
        radii = np.array([species[k].radius_angst for k in kind])
        positions.append(_place(radii, region, half_z, taken, rng))
        kinds.append(kind)
        inside.append(np.full(len(kind), is_inside))
    kind, position = np.concatenate(kinds), np.concatenate(positions)
    euler = random_euler(len(kind), rng)
    empty = np.empty((0, 3))
    bare = Specimen(
        species, kind, position, euler, np.concatenate(inside), empty, empty[:, 0], empty[:, 0],
        np.concatenate(vesicles), np.concatenate(gold),
    )
    return _with_cytosol(_with_crowders(bare, settings, rng), settings, rng)


def _with_crowders(specimen: Specimen, settings: SimulationSettings, rng) -> Specimen:
    """Add small proteins of 20 to 80 kDa everywhere a large one is not: the cytosol's grain, the same in all views."""
    half_x, half_y = field_half_sizes(settings)
    outer = np.array([*outer_half_sizes(settings), 0.5 * settings.thickness_angst - 30.0])
    n = round(settings.n_crowders * outer[0] * outer[1] / (half_x * half_y))
    points = rng.uniform(-1, 1, (n, 3)) * outer
    free = np.ones(n, dtype=bool)
    for kind, centre in zip(specimen.kind, specimen.position, strict=True):
        free &= ((points - centre) ** 2).sum(axis=1) > (0.8 * specimen.species[kind].radius_angst + 20) ** 2
    mass = np.exp(rng.uniform(math.log(2e4), math.log(8e4), n))
    radius = (mass * PROTEIN_ANGST3_PER_DA * 3 / (4 * math.pi)) ** (1 / 3)
    return replace(
        specimen,
        crowder_position=points[free],
        crowder_potential=(mass * POTENTIAL_V_ANGST3_PER_DA)[free],
        crowder_sigma=(0.5 * radius)[free],  # between the radius of gyration and the peak of a solid sphere
    )


def vesicle_radii(settings: SimulationSettings) -> tuple[float, float]:
    """Least and largest radius (A) of the vesicles, those that fit into the slab."""
    limit = 0.5 * settings.thickness_angst - MEMBRANE_ANGST
    return min(settings.vesicle_radius_min_angst, limit), min(settings.vesicle_radius_max_angst, limit)


def _clusters(masses, rng):
    """Subunits of proteins of ``masses`` (n,) Da: (offsets (n, m, 3) A, radii (n, m) A, zero where there is none).

    Each subunit touches a random earlier one: dimers, rods, bent and branched shapes.
    """
    count = np.maximum(1, np.rint(masses / SUBUNIT_DA)).astype(np.int64)
    radius = (masses / count * PROTEIN_ANGST3_PER_DA * 3 / (4 * math.pi)) ** (1 / 3)
    proteins = np.arange(len(masses))
    offsets = np.zeros((len(masses), int(count.max(initial=1)), 3))
    for unit in range(1, offsets.shape[1]):
        step = rng.standard_normal((len(masses), 3))
        step *= (1.4 * radius / np.linalg.norm(step, axis=1))[:, None]
        offsets[:, unit] = offsets[proteins, rng.integers(0, unit, len(masses))] + step
    present = np.arange(offsets.shape[1]) < count[:, None]
    return offsets, np.where(present, radius[:, None], 0.0)


def _with_cytosol(specimen: Specimen, settings: SimulationSettings, rng) -> Specimen:
    """Fill what is left of the slab with proteins of 50 to 500 kDa and many shapes, at a cell's density."""
    if not settings.crowding_mg_per_ml:
        return specimen
    outer = np.array([*outer_half_sizes(settings), 0.5 * settings.thickness_angst - 30.0])
    least, largest = CYTOSOL_DA
    mean_da = (largest - least) / math.log(largest / least)
    n = round(settings.crowding_mg_per_ml * DA_PER_ANGST3_OF_MG_PER_ML * 8 * outer.prod() / mean_da)
    masses = np.exp(rng.uniform(math.log(least), math.log(largest), n))
    offsets, radii = _clusters(masses, rng)
    points = (rng.uniform(-1, 1, (n, 1, 3)) * outer + offsets)[radii > 0]
    radii = radii[radii > 0]
    free = np.abs(points[:, 2]) < outer[2]
    obstacles = [(specimen.position[specimen.kind == k], 0.8 * m.radius_angst) for k, m in enumerate(specimen.species)]
    for centres, reach in [*obstacles, (specimen.gold, 0.5 * settings.gold_diameter_angst)]:
        if len(centres):
            free &= cKDTree(centres).query(points)[0] > reach + radii
    for *centre, radius in specimen.vesicles:
        from_middle = np.abs(np.linalg.norm(points - centre, axis=1) - radius)
        free &= from_middle > MEMBRANE_ANGST + radii
    points, radii = points[free], radii[free]
    potential = 4 / 3 * math.pi * radii**3 / PROTEIN_ANGST3_PER_DA * POTENTIAL_V_ANGST3_PER_DA
    return replace(
        specimen,
        crowder_position=np.concatenate([specimen.crowder_position, points]),
        crowder_potential=np.concatenate([specimen.crowder_potential, potential]),
        crowder_sigma=np.concatenate([specimen.crowder_sigma, 0.55 * radii]),
    )
