"""The likelihood of 3D pseudo-subtomograms: against direct sums, against the 2D likelihood of the same images, and refinement from files."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from blob_phantom import chiral_blobs, simulate_series

from cryoet_core.config.refine import Refine
from cryoet_core.errors import UserInputError
from cryoet_core.fourier import irfft_centred, lowpass
from cryoet_core.fsc import fourier_shell_correlation
from cryoet_core.geometry import angular_distance_deg, matrix_to_euler, random_rotations, rotation_vector_to_matrix
from cryoet_core.io.mrc import write_mrc
from cryoet_core.masks import soft_disc
from cryoet_core.metadata import Particles, read_particles, write_particles
from cryoet_core.subtomo.evaluate import align_map_to, mirror, pose_errors
from cryoet_core.subtomo.extract import ExtractionSettings, crop_to_disc
from cryoet_core.subtomo.initial_model import InitialModelSettings, initial_model
from cryoet_core.subtomo.likelihood import FrequencyList, SeriesImages, log_likelihoods, shift_phases, whiten
from cryoet_core.subtomo.mstep import Accumulator, Reference, insert_particles
from cryoet_core.subtomo.noise import correction_sums, group_amplitude, initial_spectra, residual_sums, spectra
from cryoet_core.subtomo.poses import PosePrior, Poses, _expand
from cryoet_core.subtomo.refine_run import refine_stacks, volume_images
from cryoet_core.subtomo.stacks import particle_volumes, read_extracted
from cryoet_core.subtomo.volumes import sum_views, view_noise

BOX, PIXEL, N, TILTS = 20, 25.0, 20, tuple(range(-60, 61, 8))


@dataclasses.dataclass
class Pair:
    """The same particles as 2D images (boxes twice as large, faded to the disc, cropped) and as 3D sums in files."""

    flat: SeriesImages
    boxes: np.ndarray
    c: np.ndarray
    views: np.ndarray
    rotations: np.ndarray
    offsets_px: np.ndarray
    noise: np.ndarray  # (F, shells) variance of a pixel


def simulate(n=N, noise_sigma=0.002):
    big = simulate_series(
        chiral_blobs(), n, box=2 * BOX, pixel_angst=PIXEL, tilts_deg=TILTS, noise_sigma=noise_sigma, offset_sigma_px=0.8, seed=3
    )
    frequencies = big.images.frequencies
    boxes = irfft_centred(frequencies.scatter(big.images.unmasked), (2 * BOX,) * 2, 2).astype(np.float32)
    boxes = crop_to_disc(boxes, BOX // 2)
    c = frequencies.scatter(big.images.ctf.astype(np.complex64)).real
    inner = slice(BOX // 2, 3 * BOX // 2)
    mask = soft_disc((BOX, BOX), 160 / PIXEL, 3.0)
    flat = SeriesImages.from_images(boxes[..., inner, inner], c[..., ::2, ::2], big.images.view_rotations, np.arange(n), mask)
    noise = np.repeat(big.sigma2[:, :1] * 2 / (2 * BOX) ** 2, BOX // 2 + 1, axis=1)
    return Pair(flat, boxes, c, big.images.view_rotations, big.rotations, big.offsets_px, noise)


def sums_of(pair, p, noise=None):
    used = np.hypot(np.fft.fftfreq(2 * BOX)[:, None], np.fft.rfftfreq(2 * BOX)[None]) <= 0.5
    used = np.broadcast_to(used, pair.c[p].shape)
    return sum_views(pair.boxes[p], pair.c[p], used, pair.views, ExtractionSettings(1, 2 * BOX, BOX), noise)


def write_volumes(folder, pair, rotations, noise=None):
    """Files in RELION's layout and their table."""
    n, names = len(pair.flat), {"image_name": [], "ctf_image": []}
    for p in range(n):
        volume = sums_of(pair, p, noise)
        for column, ending, values in (
            ("image_name", "data", volume.data), ("ctf_image", "weights", np.concatenate([volume.weight, volume.multiplicity]))
        ):
            names[column].append(f"x/TS_01/{p + 1}_{ending}.mrc")
            write_mrc(folder / names[column][-1], values, PIXEL)
    angles = matrix_to_euler(rotations)
    columns = dict(zip(("rot_deg", "tilt_deg", "psi_deg"), angles.T, strict=True)) | dict.fromkeys(("x_angst", "y_angst", "z_angst"), np.zeros(n))
    table = pd.DataFrame(columns).assign(
        tomo_name="TS_01", particle_name=[f"TS_01/{i + 1}" for i in range(n)], optics_group=1, **names
    )
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "a", "rlnImagePixelSize": PIXEL, "rlnTomoSubtomogramBinning": 1.0}
    return Particles(table, pd.DataFrame([optics]), are_2d_stacks=False)


@pytest.fixture(scope="module")
def pair():
    return simulate()


@pytest.fixture(scope="module")
def truth():
    return chiral_blobs().density(BOX, PIXEL)


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory):
    """Whitened volumes; poses in the table are off by 5 degrees per axis."""
    folder = tmp_path_factory.mktemp("volumes")
    turned = rotation_vector_to_matrix(np.random.default_rng(2).standard_normal((N, 3)) * 5) @ pair.rotations
    write_particles(write_volumes(folder, pair, turned, pair.noise), folder / "particles.star")
    return folder


@pytest.fixture(scope="module")
def solid(folder):
    """3D sums as the likelihood reads them."""
    return volume_images(particle_volumes(read_particles(folder / "particles.star"), folder), 320.0)


def test_space_list_holds_one_of_each_pair():
    frequencies = FrequencyList.of_box(12, 3)
    points = {tuple(int(v) for v in k) for k in frequencies.points}
    assert len(points) == len(frequencies) and not any((-a, -b, -c) in points for a, b, c in points)
    axis = np.arange(-5, 6)
    radius = np.sqrt((np.stack(np.meshgrid(axis, axis, axis)) ** 2).sum(axis=0))
    assert 2 * frequencies.count(4) == np.sum((radius > 0) & (np.rint(radius) <= 4))
    values = np.random.default_rng(0).standard_normal((2, len(frequencies))).astype(np.complex64) * (1 + 2j)
    small, n = frequencies.upto(3), frequencies.count(3)
    assert np.allclose(frequencies.gather(frequencies.scatter(values)), values)
    assert np.allclose(small.gather(small.scatter(values[:, :n])), values[:, :n])


def direct(images, p, spectrum, slices, ramp, likelihood):
    """Sums over coefficients in float64. Exact: a Re D* P / s^2 - a^2 W |P|^2 / 2 s^2; RELION: (|D|^2 - |D - a W P|^2) / 2 s^2 M."""
    n = slices.size
    x, w = images.masked[p, 0, :n].astype(complex), images.ctf[p, 0, :n].astype(float) ** 2
    a, s2 = images.amplitude[p], images.noise_factor[p] * spectrum[0, images.frequencies.shell[:n]]
    model = slices * ramp
    if likelihood == "exact":
        return np.sum((a * (x.conj() * model).real - 0.5 * a**2 * w * np.abs(model) ** 2) / s2)
    m = images.multiplicity[p, 0, :n].astype(float)
    seen = m > 0.01
    return 0.5 * np.sum((np.abs(x) ** 2 - np.abs(x - a * w * model) ** 2)[seen] / (s2 * m)[seen])


@pytest.mark.parametrize("likelihood", ["exact", "relion"])
def test_matrix_product_agrees_with_the_direct_sum(folder, pair, truth, likelihood):
    rng, reference = np.random.default_rng(1), Reference.of_map(truth)
    volumes = particle_volumes(read_particles(folder / "particles.star"), folder)
    images = volume_images(volumes, 320.0, likelihood=likelihood)
    images = dataclasses.replace(images, amplitude=rng.uniform(0.7, 1.4, N), noise_factor=rng.uniform(0.7, 1.4, N))
    orientations, shifts = random_rotations(5, rng), rng.uniform(-2, 2, (4, 3))
    orientations[0] = pair.rotations[0]
    spectrum = rng.uniform(0.7, 1.4, (1, BOX // 2 + 1)) * initial_spectra(images, likelihood).mean()
    frequencies = images.frequencies.upto(8)
    slices = reference.view_slices(images.view_rotations, orientations, frequencies)
    phases = shift_phases(frequencies, images.view_rotations, shifts)
    fast = log_likelihoods(whiten(images, spectrum, 8, likelihood=likelihood), slices, phases)
    worst = 0.0
    for p in range(3):
        for t in range(4):
            ramp = np.exp(-2j * np.pi / BOX * (frequencies.points @ shifts[t]))
            for o in range(5):
                expected = direct(images, p, spectrum, slices[o, 0].astype(complex), ramp, likelihood)
                worst = max(worst, abs(expected - fast[p, t, o]))
    assert np.ptp(fast) > 30
    assert worst < 1e-3


def test_3d_sums_say_the_same_as_the_images_that_were_summed(pair, solid, truth):
    """Over poses near the truth and far from it; the difference is the interpolation of the sums on their unpadded grid."""
    reference, rng = Reference.of_map(truth), np.random.default_rng(5)
    flat_noise = pair.noise * BOX**2 / 2
    solid_noise = np.full((1, BOX // 2 + 1), BOX**2 / 2)
    for p in range(4):
        near = rotation_vector_to_matrix(rng.standard_normal((30, 3)) * 12) @ pair.rotations[p]
        orientations = np.concatenate([pair.rotations[p][None], near, random_rotations(30, rng)])
        both = []
        for images, noise in ((pair.flat, flat_noise), (solid, solid_noise)):
            white = whiten(images, noise, 8, np.tile(pair.offsets_px[p], (N, 1))).take(slice(p, p + 1))
            slices = reference.view_slices(images.view_rotations, orientations, white.frequencies)
            still = shift_phases(white.frequencies, images.view_rotations, np.zeros((1, 3)))
            both.append(log_likelihoods(white, slices, still)[0, 0].astype(float))
        flat, volume = both
        assert np.ptp(flat) > 100 and abs(volume[0] / flat[0] - 1) < 0.1
        assert np.std(volume - flat) < 0.03 * np.ptp(flat)
        assert angular_distance_deg(orientations[flat.argmax()], orientations[volume.argmax()]) < 10


def test_views_are_weighted_by_their_noise(pair):
    """Equal noise divides the sums by it; a view of endless noise drops out."""
    plain, scaled = sums_of(pair, 0), sums_of(pair, 0, np.full_like(pair.noise, 4.0))
    for name in ("data", "weight"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name) / 4, rtol=1e-4, atol=1e-5 * np.abs(getattr(plain, name)).max())
    np.testing.assert_allclose(scaled.multiplicity, plain.multiplicity, rtol=1e-5)
    noise = np.ones_like(pair.noise)
    noise[3:] = 1e9
    few = dataclasses.replace(pair, boxes=pair.boxes[:, :3], c=pair.c[:, :3], views=pair.views[:3])
    np.testing.assert_allclose(sums_of(pair, 0, noise).data, sums_of(few, 0).data, atol=1e-5 * np.abs(plain.data).max())


def test_noise_of_every_view_is_found_in_premultiplied_images():
    pair = simulate(n=40, noise_sigma=0.03)  # far above the particles
    inner = slice(BOX // 2, 3 * BOX // 2)
    images = pair.boxes[..., inner, inner]

    class Transfer:
        def evaluate(self, rows, shape, pixel):
            return pair.c[..., ::2, ::2].reshape(-1, BOX, BOX // 2 + 1)[rows]

    view = np.tile(np.arange(len(TILTS)), 40)
    found = view_noise(images.reshape(-1, BOX, BOX), Transfer(), view, len(TILTS), PIXEL)
    ratio = found[:, 3:9] / pair.noise[:, 3:9]
    assert np.all(np.abs(ratio.mean(axis=1) - 1) < 0.15)  # the disc mixes in shells that the CTF passes better
    assert np.corrcoef(ratio.mean(axis=1) * pair.noise[:, 0], pair.noise[:, 0])[0, 1] > 0.98
    assert np.all(np.abs(ratio - 1) < 0.35)


def test_noise_spectrum_and_strength_are_those_of_whitened_images(truth, tmp_path):
    """The residuals of masked 3D sums give the variance that the likelihood assumes, and the particles' own strength."""
    pair = simulate(n=12, noise_sigma=0.004)
    solid = volume_images(particle_volumes(write_volumes(tmp_path, pair, pair.rotations, pair.noise), tmp_path), 320.0)
    slices = Reference.of_map(truth).view_slices(solid.view_rotations, pair.rotations, solid.frequencies)
    phases, rows = shift_phases(solid.frequencies, solid.view_rotations, pair.offsets_px), np.arange(12)
    found = spectra(*residual_sums(solid, rows, slices, phases))[0] / (BOX**2 / 2)
    assert np.all(np.abs(found[4:9] - 1) < 0.25) and np.all(found[1:4] > 0.75)  # below, the mask mixes in shells that the CTF passes better
    strength = group_amplitude([correction_sums(solid, rows, slices, phases, np.ones((1, BOX // 2 + 1)), 8)])
    assert abs(strength - 1) < 0.05


def test_derivatives_are_those_of_turning_and_moving_the_particle(pair, solid, truth):
    """Gradient against differences of the log posterior over a quarter of a degree and 0.02 px. The interpolant has kinks, so not to the last digit."""
    reference, rng = Reference.of_map(truth), np.random.default_rng(6)
    prior = PosePrior(np.zeros((N, 3)), 2.0)
    for images, noise in ((pair.flat, pair.noise * BOX**2 / 2), (solid, np.full((1, BOX // 2 + 1), BOX**2 / 2))):
        white = whiten(images, noise, 8)
        turned = rotation_vector_to_matrix(rng.standard_normal((N, 3)) * 6) @ pair.rotations
        poses = Poses(np.arange(N), turned, pair.offsets_px + 0.3, np.zeros(N))
        found = _expand(white, reference, poses, prior)
        slopes = np.empty((N, 6))
        for axis, step in enumerate([0.25] * 3 + [0.02] * 3):
            change, values = step * np.eye(6)[axis], []
            for sign in (1, -1):
                moved = dataclasses.replace(
                    poses, rotations=rotation_vector_to_matrix(sign * change[:3]) @ turned, shifts_px=poses.shifts_px + sign * change[3:]
                )
                values.append(_expand(white, reference, moved, prior).value)
            slopes[:, axis] = (values[0] - values[1]) / (2 * (np.deg2rad(step) if axis < 3 else step))
        for part, tolerance in ((slice(0, 3), 0.1), (slice(3, 6), 0.01)):
            assert np.linalg.norm(found.gradient[:, part] - slopes[:, part]) < tolerance * np.linalg.norm(slopes[:, part])
        assert np.all(np.linalg.eigvalsh(found.hessian) > 0)


def test_sums_at_the_true_poses_are_the_map(pair, solid, truth):
    """As good a map as that of the 2D images, at its grey scale also away from the centre."""
    fsc, slopes = [], []
    for images, noise in ((pair.flat, pair.noise * BOX**2 / 2), (solid, np.full((1, BOX // 2 + 1), BOX**2 / 2))):
        accumulator = Accumulator(BOX, spread=images.is_3d)
        insert_particles(accumulator, images, noise, np.arange(N), pair.rotations, pair.offsets_px, np.ones(N))
        volume = accumulator.sums().reconstruct(np.full(BOX // 2 + 1, 20.0))
        fsc.append(fourier_shell_correlation(volume, truth)[1:9])
        outer = np.hypot.reduce(np.meshgrid(*(np.arange(BOX) - BOX // 2,) * 3)) > 3
        slopes.append([np.sum(volume[part] * truth[part]) / np.sum(truth[part] ** 2) for part in (~outer, outer)])
    assert np.all(fsc[1] > 0.93) and np.all(fsc[1] > fsc[0] - 0.02)
    assert np.allclose(*slopes, atol=0.06)


def test_refinement_reads_volumes_and_finds_the_true_poses(folder, pair, truth, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    volumes = read_extracted("particles.star", [])
    config = Refine(start="given_poses", initial_lowpass_angst=100, mask_diameter_angst=320, max_iterations=3)
    start = np.median(angular_distance_deg(volumes.particles.rotations, pair.rotations))
    refined, particles = refine_stacks(volumes, lowpass(truth, 100.0, PIXEL) * 50, PIXEL, config, seed=1, work_folder=tmp_path / "its")
    errors = pose_errors(particles.rotations, particles.positions_angst, pair.rotations, pair.offsets_px * PIXEL)
    assert errors.median_angle_deg < 0.5 * start
    assert errors.median_position_angst < 3.0
    assert np.all(fourier_shell_correlation(refined.map, truth)[1:6] > 0.97)
    assert not refined.diffuse.any()
    assert (tmp_path / "its" / "run_it001_half1_model.star").exists()


def test_an_initial_model_is_made_from_the_sums(solid, truth):
    settings = InitialModelSettings(PIXEL, BOX, n_mini_batches=16, n_starts=2, mask_diameter_angst=320.0, offset_sigma_angst=25.0)
    model = initial_model([solid], settings, np.random.default_rng(0)).map
    found, other = (align_map_to(m, truth).correlation for m in (model, mirror(model)))
    assert found > 0.85 and found > other + 0.1


def test_strength_of_every_series_is_corrected_among_the_sums_of_a_run(pair, solid, truth):
    from cryoet_core.subtomo.refine import RefineSettings, _Group, _noise

    strong = np.where(np.arange(N) < N // 2, 1.0, 1.5).astype(np.float32)[:, None, None]
    images = dataclasses.replace(solid, masked=solid.masked * strong, strength_of=np.repeat([0, 1], N // 2))
    poses = Poses(np.arange(N), pair.rotations, pair.offsets_px, np.zeros(N))
    group = _Group(0, 0, images, poses)
    settings = RefineSettings(PIXEL, BOX, mask_diameter_angst=320.0)
    _noise([group], [np.ones((1, BOX // 2 + 1))], [Reference.of_map(truth)], settings, 8)
    first, second = group.images.amplitude[0], group.images.amplitude[-1]
    assert abs(second / first / 1.5 - 1) < 0.05


def test_a_volume_of_another_box_is_refused(folder):
    particles = read_particles(folder / "particles.star")
    names = particles.table["ctf_image"].tolist()
    names[2] = particles.table["image_name"].iloc[2]
    with pytest.raises(UserInputError, match="E-STK-04"):
        particle_volumes(particles.with_columns(ctf_image=names), folder).sums(2)
