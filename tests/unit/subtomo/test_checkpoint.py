"""A killed refinement goes on to the same bits; a checkpoint of something else is refused with its reason."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from blob_phantom import chiral_blobs, simulate_series

from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.subtomo.checkpoint import Checkpoint, fingerprint, refinement_identity
from cryoet_core.subtomo.refine import RefineSettings, half_sets, refine

BOX, PIXEL, N = 16, 30.0, 12
SETTINGS = RefineSettings(
    PIXEL, BOX, start="given_poses", initial_lowpass_angst=120.0, mask_diameter_angst=320.0, offset_range_px=2.0,
    max_iterations=4,
)


@pytest.fixture(scope="module")
def inputs():
    parts = [
        simulate_series(
            chiral_blobs(), N // 2, box=BOX, pixel_angst=PIXEL, tilts_deg=range(-60, 61, 20), noise_sigma=0.01,
            offset_sigma_px=0.8, seed=seed, first_row=seed * N // 2,
        )
        for seed in (0, 1)
    ]
    rotations = np.concatenate([p.rotations for p in parts])
    return [p.images for p in parts], half_sets(range(N), 0), chiral_blobs().density(BOX, PIXEL), rotations


class Killed(Exception):
    pass


def run(inputs, checkpoint=None, stop_at=None, settings=SETTINGS):
    series, halves, reference, rotations = inputs

    def report(iteration):
        if iteration.number == stop_at:
            raise Killed

    return refine(series, halves, reference, settings, rotations, report, checkpoint)


def checkpoint_of(inputs, path, settings=SETTINGS):
    series, halves, reference, rotations = inputs
    return Checkpoint(path, refinement_identity(series, halves, reference, settings, rotations, 1))


def bits(refined):
    arrays = [v for v in refined.__dict__.values() if isinstance(v, np.ndarray)]
    return fingerprint(*arrays, [i.numbers() for i in refined.iterations])


@pytest.fixture(scope="module")
def whole(inputs):
    return run(inputs)


@pytest.mark.parametrize("stop_at", [2, 3])
def test_resumes_to_the_bit_after_any_iteration(inputs, whole, tmp_path, stop_at):
    checkpoint = checkpoint_of(inputs, tmp_path / "state.npz")
    with pytest.raises(Killed):
        run(inputs, checkpoint, stop_at)
    assert checkpoint.load()[0]["iterations"][-1]["number"] == stop_at - 1
    seen = []
    series, halves, reference, rotations = inputs
    resumed = refine(
        series, halves, np.zeros_like(reference), SETTINGS, rotations, lambda i: seen.append(i.number), checkpoint
    )
    assert seen == [i.number for i in whole.iterations[stop_at - 1 :]]  # nothing is done twice, nor from the reference
    assert bits(resumed) == bits(whole)


def test_killed_by_signal_9_and_resumed_to_the_bit(inputs, whole, tmp_path):
    """The process dies as a cluster kills it: no exception handler runs, the checkpoint is what is on disk."""
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "import test_checkpoint as t\n"
        "inputs = t.inputs.__wrapped__() if hasattr(t.inputs, '__wrapped__') else t.inputs.__pytest_wrapped__.obj()\n"
        "checkpoint = t.checkpoint_of(inputs, Path(sys.argv[1]))\n"
        "series, halves, reference, rotations = inputs\n"
        "die = lambda i: os.kill(os.getpid(), signal.SIGKILL) if i.number == 3 else None\n"
        "t.refine(series, halves, reference, t.SETTINGS, rotations, die, checkpoint)\n"
    )
    path = tmp_path / "state.npz"
    found = [os.path.dirname(__file__), *(p for p in sys.path if p.endswith("tests"))]
    done = subprocess.run([sys.executable, "-c", code, str(path), *found], timeout=300, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert bits(run(inputs, checkpoint_of(inputs, path))) == bits(whole)


def test_other_settings_images_or_reference_are_refused_by_name(inputs, tmp_path):
    path = tmp_path / "state.npz"
    with pytest.raises(Killed):
        run(inputs, checkpoint_of(inputs, path), 2)
    series, halves, reference, rotations = inputs
    other = dataclasses.replace(SETTINGS, regularisation=2.0)
    with pytest.raises(UserInputError, match=r"E-CKP-02.*regularisation"):
        checkpoint_of(inputs, path, other).load()
    changed = [dataclasses.replace(series[0], ctf=series[0].ctf * np.float32(0.99)), series[1]]
    for name, values in (
        ("particle images", (changed, halves, reference, rotations)),
        ("half sets", (series, 3 - halves, reference, rotations)),
        ("reference", (series, halves, reference * 2, rotations)),
        ("starting orientations", (series, halves, reference, rotations[::-1])),
    ):
        with pytest.raises(UserInputError, match=rf"E-CKP-02.*{name}"):
            checkpoint_of(values, path).load()


def test_damaged_files_are_refused_and_absent_ones_are_none(inputs, tmp_path):
    path = tmp_path / "state.npz"
    checkpoint = Checkpoint(path, {"a": 1})
    assert checkpoint.load() is None
    checkpoint.save({"x": [np.pi, float("inf")]}, {"array": np.arange(1000.0)})
    numbers, arrays = checkpoint.load()
    assert numbers["x"] == [np.pi, float("inf")] and np.array_equal(arrays["array"], np.arange(1000.0))
    whole = path.read_bytes()
    for damaged in (whole[:200], whole[: len(whole) // 2], b"", whole.replace(np.float64(7).tobytes(), np.float64(8).tobytes())):
        path.write_bytes(damaged)
        with pytest.raises(DataQualityError, match="E-CKP-01"):
            checkpoint.load()
    checkpoint.remove()
    assert checkpoint.load() is None
