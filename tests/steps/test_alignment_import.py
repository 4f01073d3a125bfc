"""align_tilt_series in mode import: files written by formula from a simulated series' true geometry, one for each program."""

import numpy as np
import pytest
from script_runner import run_script
from small_series import small_series

from cryoet_core.config import load_config
from cryoet_core.errors import UserInputError
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io.aretomo import read_aln
from cryoet_core.io.foreign_alignment import Images, read_foreign_alignment
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.workflow import Run

TILTS = np.arange(-45, 46, 6.0)
N, PIXEL, SIZE = len(TILTS), 14.0, (112, 105)  # (w, h): even and odd
OFFSET = 1.5


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The table of a series, and the geometry its images were projected with."""
    folder, rng = tmp_path_factory.mktemp("series"), np.random.default_rng(8)
    shifts, axis = rng.uniform(-80, 80, (N, 2)), 86.0 + rng.normal(0, 0.2, N)
    points, a = rng.uniform(-1, 1, (60, 3)) * [700, 700, 250], np.deg2rad(axis)
    views = np.zeros((N, SIZE[1], SIZE[0]), np.float32)
    y, x = (np.arange(n) - n // 2 for n in SIZE[::-1])
    for i, t in enumerate(np.deg2rad(TILTS + OFFSET)):
        across, along = points[:, 0] * np.cos(t) + points[:, 2] * np.sin(t), points[:, 1]
        u = (across * np.cos(a[i]) - along * np.sin(a[i]) + shifts[i, 0]) / PIXEL
        v = (across * np.sin(a[i]) + along * np.cos(a[i]) + shifts[i, 1]) / PIXEL
        rows, columns = (np.exp(-((g[None] - p[:, None]) ** 2) / 4) for g, p in ((y, v), (x, u)))
        views[i] = 100 - 20 * rows.T @ columns
    table, stacks = small_series(folder, TILTS, np.stack([views / 2, views / 2], axis=1), pixel=PIXEL, axis=85.0)
    series = read_tilt_series(table)
    dose = 3.0 * np.argsort(np.argsort(np.abs(TILTS), kind="stable"))
    write_tilt_series(series.with_columns(pre_exposure_e_per_a2=dose, exposure_e_per_a2=3.0), table)
    truth = TiltGeometry(0.0, TILTS + OFFSET, axis, shifts[:, 0], shifts[:, 1])
    return table, stacks[0], truth, dose


def write_imod(folder, truth, dose, rows):
    """A = R(-axis), d = -A (shift + half a pixel where the size is even)."""
    lines = []
    for i in rows:
        c, s = np.cos(np.deg2rad(truth.z_rot_deg[i])), np.sin(np.deg2rad(truth.z_rot_deg[i]))
        x, y = truth.x_shift_angst[i] / PIXEL + 0.5, truth.y_shift_angst[i] / PIXEL
        lines.append(f"{c:.7f} {s:.7f} {-s:.7f} {c:.7f} {-(c * x + s * y):.4f} {s * x - c * y:.4f}")
    (folder / "TS_01.xf").write_text("\n".join(lines) + "\n")
    (folder / "TS_01.tlt").write_text("".join(f"{truth.y_tilt_deg[i]:.4f}\n" for i in rows))
    (folder / "TS_01.rawtlt").write_text("".join(f"{TILTS[i]:.2f}\n" for i in rows))
    return folder


def write_aretomo(folder, truth, dose, rows):
    dark = [f"# DarkFrame = {i:4d} {i:4d} {TILTS[i]:8.2f}" for i in range(N) if i not in rows]
    lines = ["# AreTomo Alignment / Priims bprmMn", f"# RawSize = {SIZE[0]} {SIZE[1]} {N}", "# NumPatches = 0", *dark,
             f"# AlphaOffset = {OFFSET:.2f}", "# BetaOffset = 0.00", "# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT"]  # fmt: skip
    for i in rows:
        x, y = truth.shift_angst[i] / PIXEL
        lines.append(f"{i + 1:5d} {truth.z_rot_deg[i]:.5f} 1.0 {x:.4f} {y:.4f} 1 1 1 0 {truth.y_tilt_deg[i]:.2f}")
    (folder / "TS_01.aln").write_text("\n".join(lines) + "\n")
    return folder / "TS_01.aln"


def write_relion(folder, truth, dose, rows):
    (folder / "tomograms.star").write_text(
        "data_global\n\nloop_\n_rlnTomoName\n_rlnTomoHand\n_rlnTomoTiltSeriesStarFile\nTS_00 -1 nowhere.star\nTS_01 -1 tilt_series/TS_01.star\n")
    (folder / "tilt_series").mkdir()
    text = "data_TS_01\n\nloop_\n_rlnMicrographPreExposure\n_rlnTomoYTilt\n_rlnTomoZRot\n_rlnTomoXShiftAngst\n_rlnTomoYShiftAngst\n"
    for i in sorted(rows, key=lambda i: dose[i]):  # RELION's order is that of dose
        text += f"{dose[i]:g} {truth.y_tilt_deg[i]:.5f} {truth.z_rot_deg[i]:.5f} {truth.x_shift_angst[i]:.4f} {truth.y_shift_angst[i]:.4f}\n"
    (folder / "tilt_series" / "TS_01.star").write_text(text)
    return folder / "tomograms.star"


def write_warp(folder, truth, dose, rows):
    """Warp's tilts have the other sign and are listed the other way round; its centre is half the size, half a pixel off in y here."""
    rows = list(rows)[::-1]
    columns = {"Angles": -truth.y_tilt_deg + 0.4, "Dose": dose, "AxisAngle": truth.z_rot_deg, "AxisOffsetX": truth.x_shift_angst,
               "AxisOffsetY": truth.y_shift_angst - PIXEL / 2}  # fmt: skip
    body = "".join(f"<{name}>" + "\n".join(f"{values[i]:.6f}" for i in rows) + f"</{name}>\n" for name, values in columns.items())
    grid = "".join(f'<Node X="0" Y="0" Z="{z}" Value="2.0" />' for z in range(len(rows)))
    body = body.replace("<AxisOffsetX>", f'<GridMovementX Width="1" Height="1" Depth="{len(rows)}">{grid}</GridMovementX><AxisOffsetX>')
    offsets = "\n".join(f"{truth.x_shift_angst[i] + 2.0:.6f}" for i in rows)
    start, end = body.index("<AxisOffsetX>") + 13, body.index("</AxisOffsetX>")
    body = body[:start] + offsets + body[end:]
    (folder / "TS_01.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<TiltSeries AreAnglesInverted="True" LevelAngleX="0" LevelAngleY="-0.4" '
        f'ImageDimensionsAngstrom="{SIZE[0] * PIXEL}, {SIZE[1] * PIXEL}">\n{body}</TiltSeries>\n')
    return folder / "TS_01.xml"


WRITERS = {"imod": write_imod, "aretomo": write_aretomo, "relion": write_relion, "warp": write_warp}


def outputs(folder):
    names = {"table": "TS_01.star", "xf": "TS_01.xf", "tlt": "TS_01.tlt", "xtilt": "TS_01.xtilt", "aln": "TS_01.aln", "xml": "TS_01.xml",
             "gold": "gold.star", "summary": "summary.json"}  # fmt: skip
    return {key: folder / "out" / name for key, name in names.items()}


def run_import(simulated, folder, path, **config):
    files = outputs(folder)
    given = {"mode": "import", "alignment": "{ts}", **config}
    run_script("align_tilt_series", {"table": simulated[0], "stack": simulated[1]}, files, given, alignment=str(path))
    return files


def largest_error_px(found, truth):
    points = np.random.default_rng(0).uniform(-1, 1, (100, 3)) * [SIZE[0] * PIXEL / 2, SIZE[1] * PIXEL / 2, 300]
    return np.abs(found.project(points)[0] - truth.project(points)[0]).max() / PIXEL


@pytest.mark.parametrize("program", WRITERS)
def test_the_true_geometry_comes_in_to_a_thousandth_of_a_pixel(simulated, tmp_path, program, capsys):
    _, _, truth, dose = simulated
    files = run_import(simulated, tmp_path, WRITERS[program](tmp_path, truth, dose, range(N)))
    series = read_tilt_series(files["table"])
    assert largest_error_px(series.geometry, truth) < 1e-3
    np.testing.assert_allclose(series.geometry.y_tilt_deg, truth.y_tilt_deg, atol=1e-4)
    assert series.included.all() and "image" in series.tilts
    summary = read_summary(files["summary"])
    assert summary["method"] == "import" and summary["n_in_file"] == N and summary["notes"] == []
    assert summary["tilt_offset_deg"] == pytest.approx(OFFSET, abs=1e-3)
    # and out again, as every other program's file
    images = Images(SIZE, PIXEL, PIXEL)
    for key in ("xf", "aln", "xml"):
        assert largest_error_px(read_foreign_alignment(files[key], "TS_01", images).geometry, truth) < 1e-3
    assert "of 16 views" in capsys.readouterr().err


@pytest.mark.parametrize("program", WRITERS)
def test_views_that_the_program_left_out_are_excluded(simulated, tmp_path, program):
    _, _, truth, dose = simulated
    rows = [i for i in range(N) if i not in (0, 6)]
    files = run_import(simulated, tmp_path, WRITERS[program](tmp_path, truth, dose, rows))
    series = read_tilt_series(files["table"])
    assert np.flatnonzero(~series.included).tolist() == [0, 6]
    assert set(series.tilts["exclude_reason"][[0, 6]]) == {"excluded_in_alignment" if program == "aretomo" else "not_in_alignment"}
    assert largest_error_px(series.geometry.select(rows), truth.select(rows)) < 1e-3
    assert [i for i, _ in read_aln(files["aln"], PIXEL).dark] == [0, 6]
    assert read_summary(files["summary"])["views"]["x_shift_angst"][6] is None


def test_an_alignment_of_binned_images(simulated, tmp_path):
    """AreTomo's on images binned twice: its pixels are 28 A, by the size in the file."""
    _, _, truth, dose = simulated
    path = write_aretomo(tmp_path, truth.replace(x_shift_angst=truth.x_shift_angst / 2, y_shift_angst=truth.y_shift_angst / 2), dose, range(N))
    path.write_text(path.read_text().replace("RawSize = 112 105", "RawSize = 56 52"))
    files = run_import(simulated, tmp_path, path)
    assert largest_error_px(read_tilt_series(files["table"]).geometry, truth) < 1e-3
    assert "56 x 52" in read_summary(files["summary"])["notes"][0]


@pytest.mark.parametrize("change, error", [
    (lambda p: p.write_text("".join(p.read_text().splitlines(True)[:-4])), "E-ALN-04.*12 angles.*16"),
    (lambda p: p.write_text("".join(f"{float(v) * 1.3:.2f}\n" for v in p.read_text().split())), "E-ALN-05"),
    (lambda p: p.write_text(p.read_text()[:20] + "x" + p.read_text()[21:]), "E-TLT-01"),
    (lambda p: p.unlink(), "E-FILE-01.*TS_01.tlt"),
])  # fmt: skip
def test_what_does_not_fit_stops_the_step(simulated, tmp_path, change, error, capsys):
    import re

    folder = write_imod(tmp_path, simulated[2], simulated[3], range(N))
    change(folder / "TS_01.tlt")
    with pytest.raises(SystemExit) as stopped:
        run_import(simulated, tmp_path, folder)
    assert stopped.value.code == 2 and not outputs(tmp_path)["table"].exists()
    assert re.search(error, capsys.readouterr().err)


def test_the_run_names_the_file_of_every_series(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mrc(tmp_path / "a.mrc", np.ones((4, 4, 4), np.float32), 1.0)
    write_mrc(tmp_path / "TS_01.mrc", np.zeros((2, 4, 4), np.float32), 1.0, stack=True)
    for name in ("TS_01.rawtlt", "TS_01.xf", "TS_01.tlt", "TS_02.xf"):
        (tmp_path / name).write_text("0\n1\n")
    data = {"stacks": "TS_0*.mrc", "reference": "a.mrc"}

    def run(pattern):
        return Run(load_config({"data": data, "align_tilt_series": {"mode": "import", "alignment": pattern}}))

    assert run("{dir}/{ts}.xf").alignment_files("TS_01") == ["TS_01.rawtlt", "TS_01.tlt", "TS_01.xf"]
    with pytest.raises(UserInputError, match="E-CFG-12.*other/TS_01.aln"):
        run("other/{ts}.aln")
    with pytest.raises(UserInputError, match="E-CFG-02.*align_tilt_series.alignment"):
        run("{series}.aln")
    with pytest.raises(UserInputError, match="mode import needs alignment"):
        load_config({"data": data, "align_tilt_series": {"mode": "import"}})
    assert Run(load_config({"data": data})).alignment_files("TS_01") == []
