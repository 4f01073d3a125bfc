"""The script of align_tilt_series on a small series projected by hand, one dark view among them."""

import numpy as np
import pytest
from script_runner import run_script
from small_series import small_series

from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io import imod
from cryoet_core.io.aretomo import read_aln
from cryoet_core.io.relion import read_relion_tomograms
from cryoet_core.io.summary import read_summary
from cryoet_core.io.warp import read_warp_xml
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.tilt_series.evaluate import alignment_error

TILTS = np.arange(-45, 46, 6.0)


def landing(points, view, shifts, axis_deg, offset_deg, swelling_angst=0.0):
    """(m, 2) where specimen points (m, 3) are seen; they move outwards by ``swelling_angst`` (r / 1000 A)^2 at 45 degrees of tilt."""
    a, tilt = np.deg2rad(axis_deg), np.deg2rad(TILTS[view] + offset_deg)
    more = swelling_angst * abs(TILTS[view]) / 45 * np.hypot(points[:, 0], points[:, 1]) / 1000**2
    px, py = points[:, 0] * (1 + more), points[:, 1] * (1 + more)
    across = px * np.cos(tilt) + points[:, 2] * np.sin(tilt)
    return np.stack([across * np.cos(a) - py * np.sin(a), across * np.sin(a) + py * np.cos(a)], axis=1) + shifts[view]


def project_blobs(rng, shifts, axis_deg=86.0, offset_deg=1.5, pixel=14.0, shape=(104, 112), swelling_angst=0.0, reach=1500.0, n_blobs=500):
    """Blobs in a 500 A slab, projected one by one: nothing of the library."""
    points = rng.uniform(-1, 1, (n_blobs, 3)) * [reach, reach, 250]
    v, u = ((np.arange(n) - n // 2) * pixel for n in shape)
    views = []
    for view in range(TILTS.size):
        x, y = landing(points, view, shifts, axis_deg, offset_deg, swelling_angst).T
        rows, columns = (np.exp(-((g[None] - p[:, None]) ** 2) / (2 * 20.0**2)) for g, p in ((v, y), (u, x)))
        views.append(100 - 20 * rows.T @ columns)
    return rng.poisson(np.maximum(views, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alignment")
    rng = np.random.default_rng(8)
    shifts = rng.uniform(-80, 80, (TILTS.size, 2))
    views = project_blobs(rng, shifts)
    views[0] = 2
    halves = np.stack([views / 2, views / 2], axis=1)
    table, stacks = small_series(folder, TILTS, halves, pixel=14.0, axis=85.0)
    series = read_tilt_series(table)
    series.tilts.loc[0, ["excluded", "exclude_reason"]] = [1, "dark"]
    write_tilt_series(series, table)
    names = {"table": "TS_01.star", "xf": "TS_01.xf", "tlt": "TS_01.tlt", "xtilt": "TS_01.xtilt", "aln": "TS_01.aln", "xml": "TS_01.xml",
             "gold": "gold.star", "summary": "summary.json"}  # fmt: skip
    files = {key: folder / "a" / name for key, name in names.items()}
    run_script("align_tilt_series", {"table": table, "stack": stacks[0]}, files, {})
    truth = series.with_geometry(TiltGeometry(0.0, TILTS + 1.5, 86.0, shifts[:, 0], shifts[:, 1]))
    return files, truth, table


def test_script_reaches_truth(aligned):
    files, truth, _ = aligned
    error = alignment_error(read_tilt_series(files["table"]), truth, slab_half_angst=250)
    assert error.rms_angst < 5
    assert abs(error.axis_deg) < 0.4
    assert np.isnan(error.per_view_angst[0]) and np.isfinite(error.per_view_angst[1:]).all()


def test_foreign_files_say_the_same(aligned):
    files, _, _ = aligned
    series = read_tilt_series(files["table"])
    geometry = series.geometry
    back = imod.xf_to_geometry(imod.read_xf(files["xf"]), imod.read_tlt(files["tlt"]), 14.0, series.image_size_px)
    np.testing.assert_allclose(back.shift_angst, geometry.shift_angst, atol=0.05)
    np.testing.assert_allclose(back.z_rot_deg, geometry.z_rot_deg, atol=1e-3)
    np.testing.assert_allclose(imod.read_tlt(files["xtilt"]), 0)
    assert np.abs(read_aln(files["aln"], 14.0).geometry.shift_angst).max() > 20


def test_summary_tells_what_was_found(aligned):
    summary = read_summary(aligned[0]["summary"])
    assert summary["aligned"] and abs(summary["tilt_axis_deg"] - 86) < 0.4
    assert summary["views"]["correlation"][0] is None
    assert summary["views"]["correlation"][8] > 0.2
    assert summary["weak_views"] == []


def test_skip_keeps_the_nominal_geometry(aligned, tmp_path):
    files, _, table = aligned
    out = {key: tmp_path / path.name for key, path in files.items()}
    run_script("align_tilt_series", {"table": table}, out, {"mode": "skip", "tilt_offset": 2.0})
    geometry = read_tilt_series(out["table"]).geometry
    np.testing.assert_allclose(geometry.y_tilt_deg, TILTS + 2.0)
    np.testing.assert_allclose(geometry.shift_angst, 0)
    summary = read_summary(out["summary"])
    assert summary.pop("gold")["n_beads"] == 0
    assert summary == {"aligned": False}


def test_patch_tracking_writes_residuals(aligned, tmp_path):
    files, truth, table = aligned
    out = {key: tmp_path / path.name for key, path in files.items()}
    run_script("align_tilt_series", {"table": table}, out, {"mode": "patch_tracking"})
    series = read_tilt_series(out["table"])
    residual = series.tilts["alignment_residual_px"].to_numpy(float)
    assert np.isnan(residual[0]) and np.all(residual[1:] < 2)
    error = alignment_error(series, truth, slab_half_angst=250)
    assert error.rms_angst < 10
    summary = read_summary(out["summary"])
    assert summary["method"] == "patch_tracking" and summary["patches"]["n_patches"] >= 6
    assert summary["views"]["residual_px"][0] is None


@pytest.fixture(scope="module")
def with_stranger(tmp_path_factory):
    """A series in whose eleventh view another place is seen; the run's table and files."""
    folder = tmp_path_factory.mktemp("stranger")
    rng = np.random.default_rng(21)
    shifts = rng.uniform(-80, 80, (TILTS.size, 2))
    views = project_blobs(rng, shifts)
    views[STRANGER] = np.roll(views[STRANGER][::-1, ::-1], 50, axis=0)
    table, stacks = small_series(folder, TILTS, np.stack([views / 2, views / 2], axis=1), pixel=14.0, axis=85.0)
    names = {"table": "a/TS_01.star", "aln": "a/TS_01.aln", "xml": "a/TS_01.xml", "relion": "a/relion/tomograms.star"}
    names |= {"gold": "a/gold.star", "summary": "a/summary.json"}
    files = {key: folder / name for key, name in names.items()}
    run_script("align_tilt_series", {"table": table, "stack": stacks[0]}, files, {})
    return files, table


STRANGER = 10


def test_view_that_could_not_be_aligned_is_excluded_with_a_reason(with_stranger):
    files, _ = with_stranger
    series = read_tilt_series(files["table"])
    assert np.flatnonzero(~series.included).tolist() == [STRANGER]
    assert series.tilts["exclude_reason"][STRANGER] == "not_aligned"
    left = read_summary(files["summary"])["views_left_out"]
    assert [(v["tilt_id"], v["code"]) for v in left] == [(series.tilts["tilt_id"][STRANGER], "not_aligned")]
    # and in every other program's file
    assert [row for row, _ in read_aln(files["aln"], 14.0).dark] == [STRANGER]
    assert read_warp_xml(files["xml"]).used.tolist() == series.included.tolist()
    relion = read_relion_tomograms(files["relion"])[0]
    assert len(relion) == len(series) - 1
    np.testing.assert_allclose(relion.geometry.shift_angst, series.geometry.select(series.included).shift_angst, atol=1e-3)


def test_unaligned_views_can_be_kept(with_stranger, tmp_path):
    _, table = with_stranger
    files = {"table": tmp_path / "TS_01.star", "gold": tmp_path / "gold.star", "summary": tmp_path / "summary.json"}
    run_script("align_tilt_series", {"table": table}, files, {"unaligned_views": "keep"})
    assert read_tilt_series(files["table"]).included.all()
    assert len(read_summary(files["summary"])["views_left_out"]) == 1
    assert not list(tmp_path.glob("*.xf"))


def test_local_deformation_is_not_seen_where_there_is_none(aligned, tmp_path):
    files, _, table = aligned
    out = {key: tmp_path / path.name for key, path in files.items()}
    run_script("align_tilt_series", {"table": table}, out, {"local_deformation": "auto"})
    series, summary = read_tilt_series(out["table"]), read_summary(out["summary"])
    assert series.local_deformation is None and summary["local_deformation"] is None
    assert summary["patches"]["n_patches"] >= 6 and not summary["patches"]["deformation_accepted"]
    assert np.all(series.tilts["alignment_residual_px"][1:] < 2)
    np.testing.assert_allclose(series.geometry.shift_angst, read_tilt_series(files["table"]).geometry.shift_angst, atol=1e-6)


def test_local_deformation_of_a_bent_series_brings_blobs_where_they_were_seen(tmp_path):
    """Swelling by 60 A at the border at the highest tilt: the table must say where specimen points went."""
    rng = np.random.default_rng(13)
    shifts = rng.uniform(-60, 60, (TILTS.size, 2))
    views = project_blobs(rng, shifts, swelling_angst=60.0, shape=(160, 168), reach=1900.0, n_blobs=900)
    table, stacks = small_series(tmp_path, TILTS, np.stack([views / 2, views / 2], axis=1), pixel=14.0, axis=85.0)
    files = {"table": tmp_path / "a/TS_01.star", "gold": tmp_path / "a/gold.star", "summary": tmp_path / "a/summary.json"}
    run_script("align_tilt_series", {"table": table, "stack": stacks[0]}, files, {"local_deformation": "auto"})
    series = read_tilt_series(files["table"])
    assert read_summary(files["summary"])["patches"]["deformation_accepted"]
    points = rng.uniform(-700, 700, (60, 3)) * [1, 1, 0.2]
    seen = np.array([landing(points, i, shifts, 86.0, 1.5, 60.0) for i in range(TILTS.size)])
    rigid, bent = (spread(series.geometry, d, seen) for d in (None, series.local_deformation))
    assert bent < 0.7 * rigid


def spread(geometry, deformation, seen):
    """Rms distance (A) between where points were seen and where the best fixed position of each would be seen."""
    rows = geometry.rotation[:, :2].reshape(-1, 3)
    best = np.zeros((seen.shape[1], 3))
    for _ in range(4):
        uv = geometry.project(best)[0]
        away = seen - uv - (0 if deformation is None else deformation.at(uv))
        best += np.linalg.lstsq(rows, away.transpose(0, 2, 1).reshape(len(rows), -1), rcond=None)[0].T
    return float(np.sqrt((away**2).sum(axis=2).mean()))
