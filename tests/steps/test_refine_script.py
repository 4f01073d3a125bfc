"""The script of refinement: killed between iterations and started again, its files are those of an undisturbed run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from phantom_series import make_series
from script_runner import run_script

from cryoet_core.config.refine import Refine
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import Particles, write_particles, write_tilt_series
from cryoet_core.subtomo import refine_run

BOX, PIXEL, N, TILTS = 16, 20.0, 12, (-40.0, -20.0, 0.0, 20.0, 40.0)
CONFIG = Refine(
    start="given_poses", initial_lowpass_angst=90, mask_diameter_angst=250, max_iterations=3, offset_range_px=1
).model_dump()


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    series = make_series(TILTS, 85.0, (256, 256), PIXEL)
    write_tilt_series(series, "aligned/TS_01.star")
    write_mrc("x/TS_01.mrcs", rng.standard_normal((N * 5, BOX, BOX)).astype(np.float32), PIXEL, stack=True)
    columns = dict(zip(("x_angst", "y_angst", "z_angst"), rng.uniform(-500, 500, (3, N)), strict=True))
    columns |= dict(zip(("rot_deg", "tilt_deg", "psi_deg"), rng.uniform(0, 180, (3, N)), strict=True))
    table = pd.DataFrame(columns).assign(
        tomo_name="TS_01",
        particle_name=[f"TS_01/{i + 1}" for i in range(N)],
        optics_group=1,
        image_name=[f"{5 * i + 1:06d}@x/TS_01.mrcs" for i in range(N)],
        visible_frames="[1,1,1,1,1]",
    )
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "a", "rlnImagePixelSize": PIXEL, "rlnCtfDataAreCtfPremultiplied": 1}
    write_particles(Particles(table, pd.DataFrame([optics]), are_2d_stacks=True), "x/particles.star")
    write_mrc("reference.mrc", rng.standard_normal((BOX,) * 3).astype(np.float32), PIXEL)
    return {"particles": "x/particles.star", "images": "x", "tilt_series": ["aligned/TS_01.star"], "reference": "reference.mrc"}


def outputs(folder):
    names = {n: f"{folder}/{n}.mrc" for n in ("half1", "half2", "map")}
    names |= {"particles": f"{folder}/particles.star", "fsc": f"{folder}/fsc.star"}
    names |= {n: f"{folder}/{n}.json" for n in ("iterations", "summary")}
    return names | {"iteration_maps": f"{folder}/its"}


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def run_until_killed_at(number, inputs, monkeypatch):
    """The script dies in iteration ``number``, before that iteration's files are written."""
    original = refine_run.write_iteration

    def write(folder, iteration, *rest):
        if iteration.number == number:
            raise RuntimeError("the node failed")
        original(folder, iteration, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(refine_run, "write_iteration", write)
        with pytest.raises(SystemExit):
            run_script("refine", inputs, outputs("out"), CONFIG)


def test_a_job_that_died_goes_on_and_leaves_the_same_bytes(inputs, monkeypatch):
    run_script("refine", inputs, outputs("out"), CONFIG)
    whole = files("out")
    Path("out").rename("undisturbed")
    run_until_killed_at(3, inputs, monkeypatch)
    assert Path("out/.running/checkpoint.npz").exists() and not Path("out/its").exists()
    run_script("refine", inputs, outputs("out"), CONFIG)
    assert files("out") == whole
    n = read_summary("out/summary.json")["n_iterations"]
    assert len(list(Path("out/its").glob("run_it*_optimiser.star"))) == n >= 3
    assert not Path("out/.running").exists()


def test_a_config_edited_since_starts_anew_and_keeps_the_interrupted_run(inputs, monkeypatch, capsys):
    edited = CONFIG | {"regularisation": 2.0}
    run_script("refine", inputs, outputs("out"), edited)
    whole = files("out")
    Path("out").rename("undisturbed")
    run_until_killed_at(2, inputs, monkeypatch)
    run_script("refine", inputs, outputs("out"), edited)
    assert "starting anew: regularisation changed" in capsys.readouterr().err
    kept = Path("out/.interrupted")
    assert (kept / "checkpoint.npz").exists()
    assert {name: data for name, data in files("out").items() if name.parts[0] != kept.name} == whole
