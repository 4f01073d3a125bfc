"""`tiltline convert picks` from end to end."""

import numpy as np
from typer.testing import CliRunner

from cryoet_core.cli import app
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.star import read_star


def run(*arguments):
    return CliRunner().invoke(app, ["convert", "picks", *map(str, arguments)])


def test_a_model_of_imod_becomes_coordinates_of_relion(tmp_path):
    """model2point's text: voxel (62, 25, 41) of a tomogram of 100 x 80 x 60 voxels of 10 A is 120, -150, 110 A from its centre."""
    write_mrc(tmp_path / "tomo.mrc", np.zeros((60, 80, 100), np.float32), 10.0)
    (tmp_path / "in.txt").write_text("62.5 25.5 41\n")
    outcome = run(tmp_path / "in.txt", tmp_path / "TS_01.star", "--from", "imod_points", "--format", "relion5", "--tomogram", tmp_path / "tomo.mrc")
    assert outcome.exit_code == 0 and "1 of 1 picks" in outcome.output
    table = read_star(tmp_path / "TS_01.star")["particles"]
    assert table["rlnTomoName"].tolist() == ["TS_01"]
    np.testing.assert_allclose(table[[f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"]], [[120, -150, 110]], atol=1e-6)
    # and on to RELION 4 in pixels of the tilt images: 4 times the index
    outcome = run(tmp_path / "TS_01.star", tmp_path / "r4.star", "--to", "relion4", "--size", 100, 80, 60, "--pixel-size", 10, "--unbinned-pixel-size", 2.5,
                  "--name", "TS_01")
    table = read_star(tmp_path / "r4.star")["particles"]
    np.testing.assert_allclose(table[[f"rlnCoordinate{a}" for a in "XYZ"]], [[248, 100, 164]], atol=1e-6)


def test_what_is_lost_and_what_is_wrong_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z,rot,tilt,psi\n1,2,3,10,20,30\n")
    outcome = run(tmp_path / "a.csv", tmp_path / "a.mod", "--to", "imod", "--size", 10, 10, 10, "--pixel-size", 5)
    assert outcome.exit_code == 0 and "imod holds no orientations" in outcome.output
    outcome = run(tmp_path / "a.csv", tmp_path / "b.mod", "--to", "imod")
    assert outcome.exit_code == 2 and "E-PICKS-10" in outcome.output and not (tmp_path / "b.mod").exists()
    outcome = run(tmp_path / "a.csv", tmp_path / "b.peet", "--to", "peet", "--size", 10, 10, 10, "--pixel-size", 5)
    assert outcome.exit_code == 2 and "E-PICKS-01" in outcome.output
    outcome = run(tmp_path / "absent.tbl", tmp_path / "b.mod", "--to", "imod", "--size", 10, 10, 10, "--pixel-size", 5)
    assert outcome.exit_code == 2 and "E-FILE-01" in outcome.output and "Traceback" not in outcome.output
