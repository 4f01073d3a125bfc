"""A bad series costs itself, with one readable sentence; the others go on."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from cryoet_core.io.mrc import write_mrc
from cryoet_core.left_out import read_note
from cryoet_core.metadata import read_tilt_series

ROOT = Path(__file__).resolve().parents[2]
SECTION = """[ZValue = {z}]
TiltAngle = {tilt}
ExposureDose = 3.0
SubFramePath = X:\\frames\\{movie}
NumSubFrames = 2
DateTime = 01-Jan-26  10:0{z}:00
"""
HEADER = "PixelSpacing = 2.0\nVoltage = 300\n[T = Tilt axis angle = 85.0, binning = 1]\n"


def write_series(folder, name, movies):
    sections = [SECTION.format(z=i, tilt=t, movie=m) for i, (t, m) in enumerate(zip((-10, 0, 10), movies, strict=True))]
    (folder / f"{name}.mdoc").write_text(HEADER + "\n".join(sections))


def test_one_bad_series_does_not_stop_the_others(tmp_path):
    rng = np.random.default_rng(0)
    movies = [f"m{i}.mrc" for i in range(3)]
    for movie in movies:
        write_mrc(tmp_path / movie, rng.poisson(5, (2, 16, 16)).astype(np.uint8), 2.0, stack=True, dtype="uint8")
    write_mrc(tmp_path / "map.mrc", np.ones((8, 8, 8), np.float32), 2.0)
    write_series(tmp_path, "good", movies)
    write_series(tmp_path, "bad", [movies[0], "lost.mrc", "gone.mrc"])  # one lost movie would cost its view only
    config = {"data": {"mdoc": str(tmp_path / "*.mdoc"), "reference": str(tmp_path / "map.mrc")}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--workflow-profile", ROOT / "profiles/default",
               "--cores", "2", "--directory", tmp_path, "--configfile", tmp_path / "mine.yaml",
               "--until", "import_tilt_series"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert outcome.returncode == 0, outcome.stderr
    assert "left out: bad (" in outcome.stderr
    assert len(read_tilt_series(tmp_path / "results/import_tilt_series/good/good.star")) == 3
    note = read_note(tmp_path / "results/import_tilt_series/bad/bad.star")
    assert note.step == "import_tilt_series" and "E-MDOC" in note.reason
    log = (tmp_path / "results/logs/import_tilt_series/bad.log").read_text()
    assert "E-MDOC" in log and "lost.mrc" in log and "Fix:" in log
    assert "Traceback" not in log

    # once mended, the same command does that series alone
    write_series(tmp_path, "bad", movies)
    before = (tmp_path / "results/import_tilt_series/good/good.star").stat().st_mtime_ns
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert outcome.returncode == 0 and "left out" not in outcome.stderr
    assert len(read_tilt_series(tmp_path / "results/import_tilt_series/bad/bad.star")) == 3
    assert (tmp_path / "results/import_tilt_series/good/good.star").stat().st_mtime_ns == before
    assert not list(tmp_path.glob("results/**/*.tmp"))
