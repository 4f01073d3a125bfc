import numpy as np
import pytest

from cryoet_core.errors import UserInputError
from cryoet_core.simulate.geometry import euler_matrix, random_euler
from cryoet_core.simulate.molecules import chiral_molecule, decoy, density_map, ribosome
from cryoet_core.simulate.settings import SimulationSettings, generator
from cryoet_core.simulate.specimen import field_half_sizes, make_specimen
from cryoet_core.simulate.splat import gaussian_table, project_beads, splat_blobs


def test_ribosome_is_the_known_particle():
    molecule = ribosome()
    assert molecule.mass_da.sum() == pytest.approx(2.24e6, rel=0.01)
    assert 120 < molecule.radius_angst < 150
    centre = (molecule.xyz_angst * molecule.mass_da[:, None]).sum(0) / molecule.mass_da.sum()
    assert np.abs(centre).max() < 0.01


@pytest.mark.parametrize("pixel", [3.5, 5.0])
def test_density_map_conserves_potential_and_is_centred_on_half(pixel):
    molecule = chiral_molecule(seed=1)
    box = 64
    volume = density_map(molecule, pixel, box, bead_sigma_angst=4.0).astype(np.float64)
    assert volume.sum() * pixel**3 == pytest.approx(3.0 * molecule.mass_da.sum(), rel=1e-4)
    grid = (np.arange(box) - box // 2) * pixel
    for axis in range(3):
        along = volume.sum(axis=tuple(a for a in range(3) if a != axis))
        assert (along * grid).sum() / along.sum() == pytest.approx(0, abs=0.05)
    assert volume.min() >= 0


def test_density_axes_are_z_y_x():
    molecule = chiral_molecule(seed=1)
    volume = density_map(molecule, 4.0, 64, bead_sigma_angst=4.0).astype(np.float64)
    grid = (np.arange(64) - 32) * 4.0
    mass = molecule.mass_da / molecule.mass_da.sum()
    for name, axis in (("x", 2), ("y", 1), ("z", 0)):
        along = volume.sum(axis=tuple(a for a in range(3) if a != axis))
        third = (along * grid**3).sum() / along.sum()
        expected = (mass * molecule.xyz_angst[:, "xyz".index(name)].astype(np.float64) ** 3).sum()
        assert third == pytest.approx(expected, rel=0.02)  # a Gaussian has no third moment


def test_the_chiral_molecule_is_not_its_mirror_image():
    molecule = chiral_molecule(seed=0)
    volume = density_map(molecule, 6.0, 48, 6.0)
    mirror = density_map(molecule, 6.0, 48, 6.0, mirror=True)
    # index n//2 is the mirror plane; sub-pixel steps of 1/256 px leave a small difference
    assert np.abs(mirror[:, :, 1:] - volume[:, :, 1:][:, :, ::-1]).max() < 0.01 * volume.max()
    # best overlap over rotations, beads blurred by 10 A: a copy turned at random is found, the mirror image is not
    beads = molecule.xyz_angst[::4].astype(np.float64)
    rng = np.random.default_rng(2)
    own = _overlap(beads, beads)

    def best(other):
        return max(_overlap(beads, other @ euler_matrix(*e).T) for e in random_euler(2500, rng)) / own

    same, mirrored = best(beads @ euler_matrix(70, 50, 20).T), best(beads * [-1, 1, 1])
    assert same > 0.93
    assert mirrored < 0.85


def _overlap(one, two):
    square = (one**2).sum(1)[:, None] + (two**2).sum(1)[None] - 2 * one @ two.T
    return np.exp(-square / (4 * 10.0**2)).sum()


@pytest.mark.parametrize("shape", ["ring", "rod", "globule"])
def test_decoys_have_their_mass_and_protein_density(shape):
    molecule = decoy(shape, 2.0e6)
    assert molecule.mass_da.sum() == pytest.approx(2.0e6, rel=1e-5)
    assert 0.9 < len(molecule.mass_da) * 330 / 2.0e6 < 1.1  # beads of 330 Da fill the shape at 1.21 A^3/Da
    centre = np.linalg.norm(molecule.xyz_angst, axis=1).min()
    assert (centre > 30) == (shape == "ring")


def test_projection_conserves_mass_at_any_angle_and_offset():
    molecule = chiral_molecule(seed=3)
    rng = np.random.default_rng(0)
    matrices = np.linalg.qr(rng.standard_normal((5, 3, 3)))[0]
    images = np.zeros((5, 64, 72), np.float32)
    offsets = np.array([36.0, 32.0]) + rng.uniform(-1, 1, (5, 2))
    weights = molecule.potential_v_angst3
    project_beads(images, molecule.xyz_angst, weights, matrices, offsets, 4.0, gaussian_table(0.7))
    assert images.sum(axis=(1, 2)) == pytest.approx(np.full(5, weights.sum()), rel=1e-4)


def test_blobs_add_their_weight():
    image = np.zeros((40, 50), np.float32)
    splat_blobs(image, np.array([[20.3, 18.7]]), np.array([7.0]), np.array([3.0]))
    assert image.sum() == pytest.approx(7.0, rel=5e-3)
    assert np.unravel_index(image.argmax(), image.shape) == (19, 20)


def test_particles_do_not_overlap_and_stay_in_the_slab():
    settings = SimulationSettings(n_particles=40, n_decoys=24, n_crowders=100)
    specimen = make_specimen(settings, generator(1, "TS_01", "specimen"))
    inside = specimen.inside
    assert (inside & (specimen.kind == 0)).sum() == 40
    assert (inside & (specimen.kind > 0)).sum() == 24
    radius = np.array([specimen.species[k].radius_angst for k in specimen.kind])
    gap = np.linalg.norm(specimen.position[:, None] - specimen.position[None], axis=2) - radius[:, None] - radius[None]
    np.fill_diagonal(gap, 1)
    assert gap.min() > 0
    assert np.abs(specimen.position[:, 2]).max() < 0.5 * settings.thickness_angst
    half_x, half_y = field_half_sizes(settings)
    assert (half_x, half_y) == (448 * 3.5, 480 * 3.5)  # the axis lies along image x: tomogram x is image y
    beyond = (np.abs(specimen.position[:, 0]) > half_x) | (np.abs(specimen.position[:, 1]) > half_y)
    assert np.array_equal(beyond, ~inside)


def test_no_room_is_said():
    settings = SimulationSettings(image_width_px=256, image_height_px=256, n_particles=200, n_decoys=0, n_crowders=0)
    with pytest.raises(UserInputError, match="E-SIM-01"):
        make_specimen(settings, generator(1, "x"))
