"""Averaging from particle stacks as extraction writes them to refined tables: signs, units, columns."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from blob_phantom import chiral_blobs, simulate_series

from cryoet_core.config.refine import Refine
from cryoet_core.ctf.model import Optics
from cryoet_core.errors import DataQualityError
from cryoet_core.fourier import irfft_centred
from cryoet_core.geometry import (
    angular_distance_deg,
    euler_to_matrix,
    healpix_nested_order,
    matrix_to_euler,
    rotation_vector_to_matrix,
)
from cryoet_core.io.mrc import read_mrc
from cryoet_core.io.star import read_star, write_star
from cryoet_core.metadata import Particles, read_particles, write_particles
from cryoet_core.subtomo.evaluate import pose_errors
from cryoet_core.subtomo.iteration_files import (
    direction_histogram,
    model_blocks,
    optimiser_blocks,
    relion_directions,
    sampling_blocks,
)
from cryoet_core.subtomo.refine import RefineSettings
from cryoet_core.subtomo.refine_run import fsc_blocks, refine_stacks, refine_summary, series_images
from cryoet_core.subtomo.stacks import ImageTransfer, ParticleStacks, SeriesStack

BOX, PIXEL, N, TILTS = 20, 25.0, 24, tuple(range(-60, 61, 10))


@pytest.fixture(scope="module")
def truth():
    return simulate_series(
        chiral_blobs(), N, box=BOX, pixel_angst=PIXEL, tilts_deg=TILTS, noise_sigma=0.002, offset_sigma_px=0.8
    )


@pytest.fixture(scope="module")
def stacks(truth):
    """Real-space images with c = 1 (ImageTransfer flat), some views missing, poses 5 degrees wrong."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((*truth.clean.shape, 2)) * 0.02
    spectra = truth.images.frequencies.scatter((truth.clean + noise @ [1, 1j]).astype(np.complex64))
    images = irfft_centred(spectra, (BOX, BOX), 2).astype(np.float32)
    seen = np.ones((N, len(TILTS)), dtype=bool)
    seen[3, :4] = seen[7, -2:] = False
    particle, view = (a.astype(np.int64) for a in np.nonzero(seen))
    zeros = np.zeros(particle.size)
    transfer = ImageTransfer(zeros, zeros, zeros, zeros, zeros, zeros + 1, Optics(300.0, 2.7, 0.1), flat=True)
    stack = SeriesStack("TS_01", images[seen], particle, view, truth.images.view_rotations, transfer, PIXEL)
    turned = rotation_vector_to_matrix(rng.standard_normal((N, 3)) * 5) @ truth.rotations
    angles, place = matrix_to_euler(turned), rng.uniform(-400, 400, (N, 3))
    table = pd.DataFrame(
        {
            "tomo_name": "TS_01",
            "particle_name": [f"TS_01/{i}" for i in range(N)],
            **dict(zip(("x_angst", "y_angst", "z_angst"), place.T, strict=True)),
            **dict(zip(("rot_deg", "tilt_deg", "psi_deg"), angles.T, strict=True)),
        }
    )
    return ParticleStacks([stack], Particles(table, are_2d_stacks=True), PIXEL, BOX)


def test_stacks_become_the_coefficients_that_were_simulated(stacks, truth):
    images = series_images(stacks.series[0], 1e4)
    assert images.ctf.shape == truth.clean.shape
    assert np.all(images.ctf[3, :4] == 0) and np.all(images.ctf[3, 4:] == 1)
    seen = images.ctf[:, :, 0] > 0
    difference = np.linalg.norm((images.unmasked - truth.clean)[seen]) / np.linalg.norm(truth.clean[seen])
    assert difference < 0.6  # noise only
    assert np.all(images.unmasked[~seen] == 0)


def test_refined_table_holds_the_true_poses(stacks, truth, tmp_path):
    config = Refine(start="given_poses", initial_lowpass_angst=100, mask_diameter_angst=350, max_iterations=4)
    reference = chiral_blobs().density(40, 12.5)  # another pixel size and grey scale
    refined, particles = refine_stacks(stacks, reference, 12.5, config, seed=1)
    write_particles(particles, tmp_path / "particles.star")
    back = read_particles(tmp_path / "particles.star")
    picked = stacks.particles.positions_angst
    errors = pose_errors(back.rotations, back.positions_angst, truth.rotations, picked + truth.offsets_px * PIXEL)
    start = np.median(angular_distance_deg(stacks.particles.rotations, truth.rotations))
    assert errors.median_angle_deg < 0.3 * start
    assert errors.median_position_angst < 3.0
    # position = coordinate - origin: the coordinates stay, the origin is minus the offset that was planted
    table = back.table
    assert np.allclose(table[["x_angst", "y_angst", "z_angst"]], picked, atol=1e-3)
    origin = table[["origin_x_angst", "origin_y_angst", "origin_z_angst"]].to_numpy()
    assert np.median(np.abs(origin + truth.offsets_px * PIXEL)) < 5.0
    assert set(table["random_subset"]) == {1, 2} and table["log_likelihood"].min() > 0
    assert refine_summary(refined, PIXEL)["n_diffuse"] == 0

    write_star(tmp_path / "fsc.star", fsc_blocks(refined.fsc, PIXEL, BOX, 50.0))
    fsc = read_star(tmp_path / "fsc.star")["fsc"]
    assert len(fsc) == BOX // 2 + 1 and fsc["rlnAngstromResolution"].iloc[-1] == pytest.approx(50.0)


def test_pre_orientations_are_respected(stacks):
    """rlnTomoSubtomogramRot/Tilt/Psi turn angles and origins; the refined pose in the tomogram is the same."""
    rng = np.random.default_rng(4)
    before = rotation_vector_to_matrix(rng.standard_normal((N, 3)) * 40)
    inner = matrix_to_euler(np.swapaxes(before, 1, 2) @ stacks.particles.rotations)
    names = ("subtomogram_rot_deg", "subtomogram_tilt_deg", "subtomogram_psi_deg")
    columns = dict(zip(names, matrix_to_euler(before).T, strict=True))
    columns |= dict(zip(("rot_deg", "tilt_deg", "psi_deg"), inner.T, strict=True))
    turned = ParticleStacks(stacks.series, stacks.particles.with_columns(**columns), PIXEL, BOX)
    config = Refine(start="given_poses", initial_lowpass_angst=100, max_iterations=1)
    reference = chiral_blobs().density(BOX, PIXEL)
    plain, other = (refine_stacks(s, reference, PIXEL, config, seed=1)[1] for s in (stacks, turned))
    assert np.median(angular_distance_deg(plain.rotations, other.rotations)) < 0.1
    assert np.allclose(plain.positions_angst, other.positions_angst, atol=1.0)


def test_too_few_particles_are_refused(stacks):
    with pytest.raises(DataQualityError, match="E-AVG-01"):
        refine_stacks(stacks.select(np.arange(4)), np.zeros((BOX,) * 3), PIXEL, Refine(), seed=1)


def test_every_iteration_leaves_maps_and_relions_tables_and_a_killed_run_goes_on(stacks, truth, tmp_path):
    config = Refine(start="given_poses", initial_lowpass_angst=100, mask_diameter_angst=350, max_iterations=3)
    reference = chiral_blobs().density(BOX, PIXEL)

    def stop(iteration):
        if iteration.number == 2:
            raise KeyboardInterrupt

    whole, table = refine_stacks(stacks, reference, PIXEL, config, seed=1)
    folder = tmp_path / "running"
    with pytest.raises(KeyboardInterrupt):
        refine_stacks(stacks, reference, PIXEL, config, seed=1, report=stop, work_folder=folder, at="iterations")
    assert (folder / "checkpoint.npz").exists()
    resumed, again = refine_stacks(stacks, reference, PIXEL, config, seed=1, work_folder=folder, at="iterations")
    assert np.array_equal(resumed.half1, whole.half1) and np.array_equal(resumed.map, whole.map)
    pd.testing.assert_frame_equal(again.table, table.table)
    assert not (folder / "checkpoint.npz").exists()

    for number in range(1, len(whole.iterations) + 1):
        root = folder / f"run_it{number:03d}"
        optimiser = read_star(f"{root}_optimiser.star")["optimiser_general"]
        assert optimiser["rlnCurrentIteration"] == number
        assert optimiser["rlnModelStarFile"] == f"iterations/run_it{number:03d}_half1_model.star"
        model = read_star(f"{root}_half1_model.star")
        fsc = model["model_class_1"]["rlnGoldStandardFsc"].to_numpy()
        assert np.allclose(fsc[1:], whole.iterations[number - 1].fsc[1:], atol=1e-5)
        assert model["model_general"]["rlnNrOpticsGroups"] == 1
        directions = read_star(f"{root}_sampling.star")["sampling_directions"]
        share = model["model_pdf_orient_class_1"]["rlnOrientationDistribution"].to_numpy()
        assert share.sum() == pytest.approx(1, abs=1e-4) and len(share) == len(directions)
        assert read_mrc(f"{root}_half2_class001.mrc")[0].shape == (BOX,) * 3
    last = read_particles(f"{root}_data.star")
    assert np.allclose(angular_distance_deg(last.rotations, again.rotations), 0, atol=1e-3)
    assert (folder / f"run_it{number:03d}_data.star").read_text().count("_tlAngleChangeDeg") == 1
    # the histogram points where the particles are seen from
    peak = directions.iloc[int(np.argmax(share))]
    tilt = np.abs(last.table["tilt_deg"].to_numpy() - peak["rlnAngleTilt"])
    assert tilt.min() < 8


def test_direction_histogram_counts_the_nearest_direction():
    angles = np.array([[10.0, 90.0, 33.0], [10.0, 90.0, -140.0], [-170.0, 5.0, 0.0], [200.0, 120.0, 4.0]])
    share = direction_histogram(euler_to_matrix(*angles.T))
    grid = relion_directions(3)
    found = grid[np.flatnonzero(share)]
    assert sorted(share[share > 0]) == pytest.approx([0.25, 0.25, 0.5])
    found = found[np.argsort(found[:, 1])]
    for (rot, tilt), (true_rot, true_tilt) in zip(found, [(190, 5), (10, 90), (200, 120)], strict=True):
        turn = (rot - true_rot + 180) % 360 - 180
        assert abs(tilt - true_tilt) < 6 and abs(turn) * np.sin(np.deg2rad(true_tilt)) < 6


def test_relions_own_tables_have_the_labels_that_ours_have():
    """Labels of RELION 5.0.1's files of an iteration (its model, optimiser, sampling and data files)."""
    relion = {
        "rlnReferenceDimensionality", "rlnDataDimensionality", "rlnOriginalImageSize", "rlnCurrentResolution",
        "rlnCurrentImageSize", "rlnPaddingFactor", "rlnFourierSpaceInterpolator", "rlnMinRadiusNnInterpolation", "rlnPixelSize",
        "rlnSigmaPriorRotAngle", "rlnSigmaPriorTiltAngle", "rlnSigmaPriorPsiAngle", "rlnNrClasses", "rlnNrBodies", "rlnNrGroups",
        "rlnNrOpticsGroups", "rlnTau2FudgeFactor", "rlnNormCorrectionAverage", "rlnSigmaOffsetsAngst",
        "rlnOrientationalPriorMode", "rlnLogLikelihood", "rlnAveragePmax", "rlnReferenceImage", "rlnClassDistribution",
        "rlnAccuracyRotations", "rlnAccuracyTranslationsAngst", "rlnEstimatedResolution", "rlnSpectralIndex", "rlnResolution",
        "rlnAngstromResolution", "rlnSsnrMap", "rlnGoldStandardFsc", "rlnReferenceSigma2", "rlnReferenceTau2", "rlnGroupNumber",
        "rlnGroupName", "rlnGroupNrParticles", "rlnGroupScaleCorrection", "rlnSigma2Noise", "rlnOrientationDistribution",
    }  # fmt: skip
    details = SimpleNamespace(
        offset_sigma_px=1.0, scale=[1.0], sigma2=[np.ones((3, 5))], shell_weight=[np.ones(5)] * 2,
        rotations=np.eye(3)[None],
    )
    iteration = SimpleNamespace(
        details=details, resolution_angst=20.0, max_shell=4, log_likelihood=1.0, mean_max_probability=0.5,
        expected_angle_error_deg=1.0, expected_offset_error_angst=2.0, fsc=np.ones(5),
    )
    settings = RefineSettings(10.0, 8)
    blocks = model_blocks(iteration, 0, settings, ["TS_01"], pd.DataFrame({"tomo_name": ["TS_01"], "optics_group": [1]}), "a.mrc")
    assert {str(label) for block in blocks.values() for label in block} == relion


def test_directions_are_in_relions_order():
    """The first rows of a sampling file of RELION 5.0.1 at order 6."""
    relion = [(45.0, 89.403158), (45.703125, 88.806252), (44.296875, 88.806252), (45.0, 88.209215), (46.40625, 88.209215)]
    relion += [(47.109375, 87.611985), (45.703125, 87.611985), (46.40625, 87.014494), (43.59375, 88.209215)]
    assert np.allclose(relion_directions(6)[: len(relion)], relion, atol=1e-5)
    for order in range(4):
        assert sorted(healpix_nested_order(order)) == list(range(12 * 4**order))


def test_optimiser_and_sampling_hold_every_label_that_relion_insists_on():
    """The labels whose absence makes RELION 5.0.1 stop ("incorrect optimiser_general table"), from its source."""
    optimiser = (
        "OutputRootName ModelStarFile ModelStarFile2 ExperimentalDataStarFile OrientSamplingStarFile CurrentIteration "
        "NumberOfIterations DoSplitRandomHalves JoinHalvesUntilThisResolution AdaptiveOversampleOrder AdaptiveOversampleFraction "
        "RandomSeed ParticleDiameter WidthMaskEdge DoZeroMask DoSolventFlattening SolventMaskName SolventMask2Name "
        "TauSpectrumName MaximumCoarseImageSize HighresLimitExpectation IncrementImageSize DoMapEstimation DoAutoRefine "
        "AutoLocalSearchesHealpixOrder NumberOfIterWithoutResolutionGain BestResolutionThusFar "
        "NumberOfIterWithoutChangingAssignments DoSkipAlign OverallAccuracyRotations OverallAccuracyTranslationsAngst "
        "ChangesOptimalOrientations ChangesOptimalOffsets ChangesOptimalClasses SmallestChangesOrientations "
        "SmallestChangesOffsets SmallestChangesClasses HasConverged HasHighFscAtResolLimit HasLargeSizeIncreaseIterationsAgo "
        "DoCorrectNorm DoCorrectScale DoCorrectCtf DoIgnoreCtfUntilFirstPeak CtfDataArePhaseFlipped DoOnlyFlipCtfPhases "
        "RefsAreCtfCorrected FixSigmaNoiseEstimates FixSigmaOffsetEstimates MaxNumberOfPooledParticles"
    ).split()
    sampling = (
        "Is3DSampling Is3DTranslationalSampling PsiStep OffsetRange OffsetStep SamplingPerturbFactor HealpixOrder SymmetryGroup "
        "TiltAngleLimit"
    ).split()
    changes = SimpleNamespace(angle_change_deg=np.array([3.0, 4.0]), offset_change_px=np.array([1.0, 1.0]))
    iteration = SimpleNamespace(
        details=changes, resolution_angst=20.0, number=2, expected_angle_error_deg=1.0, expected_offset_error_angst=2.0,
        sampling_deg=7.5,
    )
    settings = RefineSettings(10.0, 8)
    block = optimiser_blocks(iteration, settings, "a/run_it002")["optimiser_general"]
    assert {f"rln{name}" for name in optimiser} <= set(block)
    assert block["rlnOutputRootName"] == "a/run" and block["rlnChangesOptimalOrientations"] == 3.5
    assert block["rlnChangesOptimalOffsets"] == pytest.approx(10.0 / np.sqrt(2))
    assert {f"rln{name}" for name in sampling} <= set(sampling_blocks(iteration, settings)["sampling_general"])
