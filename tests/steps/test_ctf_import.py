"""estimate_ctf.mode: import. The same values written as every program writes them, and put onto the views by key."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from script_runner import run_script

from cryoet_core.config.estimate_ctf import EstimateCtf
from cryoet_core.ctf.foreign import join_ctf, sections_of
from cryoet_core.errors import UserInputError
from cryoet_core.io.foreign_ctf import read_foreign_ctf
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.summary import read_summary
from cryoet_core.io.warp import write_warp_xml
from cryoet_core.metadata import TiltSeries, read_tilt_series, write_tilt_series

TILTS = np.arange(-30.0, 31.0, 10.0)
N = len(TILTS)
U = 30000.0 + 500.0 * np.arange(N)
V = U - 800.0
AXIS, PHASE = 130.0 - np.arange(N), 30.0  # degrees
SECTION = np.array([3, 2, 0, 1, 4, 5, 6])  # of the views, in the order of their tilts
SHAPE, PIXEL = (96, 128), 4.0


def table(movies=True, **columns):
    names = (
        {"movie": [f"frames/TS_01_{i:03d}.tif" for i in SECTION]}
        if movies
        else {"image": [f"{s + 1:06d}@stack.mrc" for s in SECTION]}
    )
    tilts = pd.DataFrame(
        {
            "tilt_id": SECTION + 1,
            **names,
            "nominal_tilt_deg": TILTS,
            "pre_exposure_e_per_a2": 3.0 * SECTION,
            "defocus_u_angst": U,
            "defocus_v_angst": V,
            "defocus_angle_deg": AXIS,
            "phase_shift_deg": PHASE,
            "x_tilt_deg": 0.0,
            "y_tilt_deg": TILTS,
            "z_rot_deg": 85.0,
            "x_shift_angst": 0.0,
            "y_shift_angst": 0.0,
            "excluded": 0,
            "exclude_reason": "none",
            **columns,
        }
    )
    return TiltSeries("TS_01", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, SHAPE[::-1], (0, 0, 0), tilts)


def ctffind(path, program="CTFFind version 4.1.8"):
    """Rows in the order of the stack's sections, numbered from 1; the phase shift in radians."""
    row = {s: i for i, s in enumerate(SECTION)}
    lines = [f"# Output from {program}", "# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; ..."]
    for s in range(N):
        i = row[s]
        lines.append(f"{s + 1:.6f} {U[i]:.4f} {V[i]:.4f} {AXIS[i]:.4f} {np.deg2rad(PHASE):.6f} 0.05 8.1")
    path.write_text("\n".join(lines) + "\n")


def aretomo(path):
    ctffind(path, "something")


def gctf(path):
    rows = [
        f"TS_01_{SECTION[i]:03d}.mrc {U[i]:.4f} {V[i]:.4f} {AXIS[i]:.4f} {PHASE:.4f}"
        for i in np.random.default_rng(1).permutation(N)
    ]
    labels = ["rlnMicrographName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift"]
    path.write_text(
        "data_\n\nloop_\n" + "".join(f"_{name} #{k}\n" for k, name in enumerate(labels, 1)) + "\n".join(rows) + "\n"
    )


def imod(path):
    """Version 3: astigmatism and phase shift (flags 1 + 4), nanometres, one row per view."""
    rows = [
        f"{i + 1} {i + 1} {TILTS[i]:.2f} {TILTS[i]:.2f} {U[i] / 10:.3f} {V[i] / 10:.3f} {AXIS[i]:.3f} {PHASE:.3f}"
        for i in range(N)
    ]
    path.write_text("\n".join(["5 0 0. 0. 0 3", *rows]) + "\n")


def imod_in_radians(path):
    """Flags 1 + 2 + 4 + 8 + 16: angles in radians, tilt angles of the other sign."""
    rows = [
        f"{i + 1} {i + 1} {-TILTS[i]:.2f} {-TILTS[i]:.2f} {U[i] / 10:.3f} {V[i] / 10:.3f} {np.deg2rad(AXIS[i]):.6f} "
        f"{np.deg2rad(PHASE):.6f}"
        for i in range(N)
    ]
    path.write_text("\n".join(["31 0 0. 0. 0 3", *rows]) + "\n")


def warp(path):
    write_warp_xml(path, table())


def warp_in_utf_16(path):
    warp(path)
    path.write_bytes(path.read_text().replace('encoding="utf-8"', 'encoding="utf-16"').encode("utf-16"))


def plain(path):
    rows = [f"{SECTION[i]}\t{(U[i] + V[i]) / 2e4:.7f}\t{(U[i] - V[i]) / 1e4:.7f}\t{AXIS[i]}\t{PHASE}" for i in range(N)]
    path.write_text(
        "\n".join(["# from Warp 2", "section\tdefocus_um\tdefocus_delta_um\tdefocus_angle_deg\tphase_shift_deg", *rows])
        + "\n"
    )


FORMATS = [
    (ctffind, "x.txt", "CTFFIND"),
    (aretomo, "TS_01_CTF.txt", "AreTomo"),
    (gctf, "x.star", "Gctf"),
    (imod, "x.defocus", "IMOD"),
    (imod_in_radians, "x.defocus", "IMOD"),
    (warp, "x.xml", "Warp"),
    (warp_in_utf_16, "x.xml", "Warp"),
    (plain, "x.tsv", "a table"),
]


@pytest.mark.parametrize(
    "write, name, program, movies",
    [
        (*form, movies)
        for form in FORMATS
        for movies in (True, False)
        if movies or form[0] is not gctf  # its rows are named after movies
    ],
)
def test_every_format_gives_the_same_values(tmp_path, write, name, program, movies):
    """Of movies ctffind's row k is the view of rank k in tilt, of a stack its section k; others have keys of their
    own."""
    write(tmp_path / name)
    series = table(movies)
    sections = SECTION if write in (ctffind, aretomo, plain) else sections_of(series)
    found = read_foreign_ctf(tmp_path / name)
    joined = join_ctf(found, series, sections)
    assert (
        found.program == program and not joined.missing.any() and joined.of_tomogram == (program in ("Warp", "a table"))
    )
    np.testing.assert_allclose(joined.defocus_u_angst, U, atol=0.1)
    np.testing.assert_allclose(joined.defocus_v_angst, V, atol=0.1)
    np.testing.assert_allclose(joined.angle_deg % 180, AXIS, atol=0.01)
    np.testing.assert_allclose(joined.phase_deg, PHASE, atol=0.01)
    u, v, axis = joined.fit(-1).defocus_u_v_angle
    assert np.allclose(u, U, atol=0.1) and np.allclose(v, V, atol=0.1) and np.allclose(axis, AXIS, atol=0.01)


def test_sections_of_a_stack_and_of_movies():
    assert sections_of(table(False)).tolist() == SECTION.tolist() and sections_of(table(True)).tolist() == list(
        range(N)
    )


def test_views_that_a_file_lacks_lie_between_their_neighbours(tmp_path):
    gctf(tmp_path / "x.star")
    text = (tmp_path / "x.star").read_text().splitlines()
    (tmp_path / "x.star").write_text("\n".join(line for line in text if f"TS_01_{SECTION[3]:03d}" not in line) + "\n")
    joined = join_ctf(read_foreign_ctf(tmp_path / "x.star"), table(), np.arange(N))
    assert joined.missing.tolist() == [False, False, False, True, False, False, False]
    assert (joined.defocus_u_angst + joined.defocus_v_angst)[3] == pytest.approx((U + V)[3], abs=0.1)


def test_ranges_of_views_in_a_defocus_file(tmp_path):
    """The first format of IMOD: a version number behind the first row; a row holds for the middle of its angles."""
    (tmp_path / "x.defocus").write_text("1 3 -30.0 -10.0 3000.0 2\n5 7 10.0 30.0 3400.0\n")
    joined = join_ctf(read_foreign_ctf(tmp_path / "x.defocus"), table(), np.arange(N))
    assert joined.defocus_u_angst.tolist() == [30000, 30000, 31000, 32000, 33000, 34000, 34000]


@pytest.mark.parametrize(
    "content, code",
    [
        ("", "E-CTF-06"),
        ("<html>not found</html>", "E-WARP-01"),
        ("a b c\n", "E-CTF-06"),
        ("1 2 3\n", "E-CTF-06"),
        ("1 3.0 2.9 40 0\n", "E-CTF-07"),
        ("1 1e9 1e9 40 0\n", "E-CTF-07"),
        ("1 nan 20000 40 0\n", "E-CTF-07"),
        ("section\tdefocus_x\n0\t1\n", "E-CTF-06"),
        ("section\tdefocus_um\n0\tx\n", "E-CTF-07"),
        ("section\tdefocus_um\n0\t\xe7\n", "E-CTF-07"),
        ("data_\n\nloop_\n_rlnA #1\n3\n", "E-CTF-06"),
    ],
)
def test_what_is_no_defocus_is_named(tmp_path, content, code):
    (tmp_path / "x.txt").write_text(content, encoding="latin-1")
    with pytest.raises(UserInputError, match=f"{code}.*x.txt") as stopped:
        read_foreign_ctf(tmp_path / "x.txt")
    assert stopped.value.fix


def test_values_of_another_series_are_refused(tmp_path):
    ctffind(tmp_path / "x.txt")
    with pytest.raises(UserInputError, match="E-CTF-08.*x.txt.*found 7 rows, expected the 5 views"):
        join_ctf(read_foreign_ctf(tmp_path / "x.txt"), table().select(np.arange(5)), np.arange(5))
    imod(tmp_path / "x.defocus")
    other = table(nominal_tilt_deg=TILTS + 30, y_tilt_deg=TILTS + 30)
    with pytest.raises(UserInputError, match="E-CTF-08.*-30 to 30 degrees.*0 to 60"):
        join_ctf(read_foreign_ctf(tmp_path / "x.defocus"), other, np.arange(N))


def test_the_step_takes_the_values_and_measures_their_quality(tmp_path, capsys):
    rng = np.random.default_rng(1)
    write_mrc(tmp_path / "stack.mrc", rng.poisson(30, (N, *SHAPE)).astype(np.float32), PIXEL, stack=True)
    imported = table(False)
    write_tilt_series(imported, tmp_path / "imported.star")
    images = [
        f"{i + 1:06d}@{tmp_path}/stack.mrc" for i in range(N)
    ]  # after motion correction the stack is in the order of the table
    write_tilt_series(table(image=images, defocus_u_angst=0.0, defocus_v_angst=0.0), tmp_path / "in.star")
    ctffind(tmp_path / "x.txt")
    out = {
        name: tmp_path / file
        for name, file in (("plus", "p.star"), ("minus", "m.star"), ("spectra", "s.mrc"), ("summary", "s.json"))
    }
    inputs = {"table": tmp_path / "in.star", "imported": tmp_path / "imported.star", "ctf": str(tmp_path / "x.txt")}
    run_script("estimate_ctf", inputs, out, {"window_px": 64, "mode": "import", "file": "{dir}/x.txt"})
    for hand, name in ((1, "plus"), (-1, "minus")):
        series = read_tilt_series(out[name])
        assert np.allclose(series.tilts["defocus_u_angst"], U, atol=0.1) and np.allclose(
            series.tilts["defocus_v_angst"], V, atol=0.1
        )
        assert np.allclose(series.tilts["defocus_angle_deg"], AXIS, atol=0.01) and series.handedness == hand
        assert (series.tilts["defocus_at"] == "image_centre").all() and np.allclose(
            series.tilts["phase_shift_deg"], PHASE, atol=0.01
        )
    summary = read_summary(out["summary"])
    assert summary["imported"] == {
        "program": "CTFFIND",
        "file": str(tmp_path / "x.txt"),
        "joined_by": "section",
        "n_missing": 0,
    }
    assert len(summary["score"]) == N and "defocus from CTFFIND" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config", [{"mode": "import"}, {"file": "a.txt"}, {"mode": "import", "file": "a.txt", "defocus_angst": 20000.0}]
)
def test_keys_that_do_not_belong_together(config):
    with pytest.raises(ValidationError):
        EstimateCtf(**config)
