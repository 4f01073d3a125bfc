"""Every format that a user gives: how to make a whole file, and how the steps read it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import tifffile
import yaml
from eer_files import write_eer
from fault_campaign import FORMATS, file_format
from scipy.spatial.transform import Rotation

from cryoet_core.config import check_file, load_config
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.io import imod
from cryoet_core.io.acquisition import Given
from cryoet_core.io.aretomo import write_aln
from cryoet_core.io.defects import read_defects
from cryoet_core.io.foreign_alignment import Images, read_foreign_alignment
from cryoet_core.io.gain import read_gain
from cryoet_core.io.import_series import import_movies, import_stack
from cryoet_core.io.movies import open_movie
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.picks import FORMATS as PICKS
from cryoet_core.io.picks import Grid, Picks, Source, Tomogram, read_picks, write_picks
from cryoet_core.io.relion import write_relion_project
from cryoet_core.io.star import write_star
from cryoet_core.io.warp import write_warp_xml
from cryoet_core.metadata import Particles, TiltSeries
from cryoet_core.picking.reference import prepare_reference
from cryoet_core.subtomo.postprocess import read_mtf
from cryoet_core.tilt_series.exclude import read_selection_file, selection_from_file

__all__ = ["FORMATS"]  # those that are registered below

_RNG = np.random.default_rng(7)
_COUNTS = _RNG.poisson(3.0, (4, 24, 32)).astype(np.uint8)
_GIVEN = Given(pixel_size_angst=2.0, voltage_kv=300.0, tilt_axis_deg=85.0, dose_per_tilt_e_per_a2=3.0)
_HEADER = "PixelSpacing = 2.0\nVoltage = 300\nImageSize = 32 24\n[T = Tilt axis angle = 85.0, binning = 1]\n\n"
_SECTION = """[ZValue = {z}]
TiltAngle = {tilt}
ExposureDose = 3.0
PriorRecordDose = {prior}
SubFramePath = X:\\frames\\m{z}.mrc
NumSubFrames = 4
DateTime = 01-Jan-26  10:0{z}:00

"""


# ---- acquisition ----------------------------------------------------------------------------------------------------


@file_format("mdoc", "TS_1.mdoc", text=True)
def _mdoc(folder):
    for z in range(5):
        write_mrc(folder / f"m{z}.mrc", _COUNTS, 2.0, stack=True, dtype="uint8")
    sections = [_SECTION.format(z=z, tilt=3 * z - 6, prior=3.0 * z) for z in range(5)]
    (folder / "TS_1.mdoc").write_text(_HEADER + "".join(sections))

    def read(path):
        found = import_movies("TS_1", [path], str(folder), Given())
        return found.series, found.warnings

    return read


@file_format("MRC movie", "movie.mrc", text=False)
def _mrc_movie(folder):
    write_mrc(folder / "movie.mrc", _COUNTS, 2.0, stack=True, dtype="uint8")
    return lambda path: (list(open_movie(path)), [])


@file_format("TIFF movie", "movie.tif", text=False)
def _tiff_movie(folder):
    tifffile.imwrite(folder / "movie.tif", _COUNTS, compression="lzw", photometric="minisblack")
    return lambda path: (list(open_movie(path)), [])


@file_format("EER movie", "movie.eer", text=False)
def _eer_movie(folder):
    write_eer(folder / "movie.eer", np.random.default_rng(1).random((6, 24, 32)) < 0.05)
    return lambda path: (list(open_movie(path, eer_fractions=3)), [])


@file_format("gain (MRC)", "gain.mrc", text=False)
def _gain_mrc(folder):
    write_mrc(folder / "gain.mrc", _RNG.uniform(0.9, 1.1, (24, 32)).astype(np.float32), 2.0)
    return lambda path: (read_gain(path, (24, 32)), [])


@file_format("gain (TIFF)", "gain.gain", text=False)
def _gain_tiff(folder):
    tifffile.imwrite(folder / "gain.gain", _RNG.uniform(0.9, 1.1, (24, 32)).astype(np.float32))
    return lambda path: (read_gain(path, (24, 32)), [])


@file_format("defects (boxes)", "defects.txt", text=True)
def _boxes(folder):
    (folder / "defects.txt").write_text("# x y w h\n3 4 2 1\n10 11 1 1\n")
    return lambda path: (read_defects(path, (24, 32)), [])


@file_format("defects (SerialEM)", "defects.txt", text=True)
def _serialem(folder):
    text = "CameraSizeX 32\nCameraSizeY 24\nRotationAndFlip 0\nBadPixel 3 4\nBadColumns 10\n"
    (folder / "defects.txt").write_text(text)
    return lambda path: (read_defects(path, (24, 32)), [])


@file_format("tilt-series stack (MRC)", "TS_1.st", text=False)
def _stack(folder):
    read = _stack_and_tilts(folder, "TS_1.rawtlt", "\n".join(map(str, range(-8, 9, 4))) + "\n")
    return lambda path: (lambda found: ((found[0], read_mrc(path)[0]), found[1]))(read(path, folder / "TS_1.rawtlt"))


@file_format("tilt angles (.rawtlt)", "TS_1.rawtlt", text=True)
def _rawtlt(folder):
    read = _stack_and_tilts(folder, "TS_1.rawtlt", "\n".join(f"{a:.2f}" for a in range(-8, 9, 4)) + "\n")
    return lambda path: read(folder / "TS_1.st", path)


@file_format("tilt table (.tsv)", "TS_1_tilts.tsv", text=True)
def _tilt_table(folder):
    rows = [f"{z}\t{4 * z - 8}\t{3.0 * z}\t3.0" for z in range(5)]
    text = "\n".join(["section\ttilt_deg\tpre_exposure_e_per_a2\texposure_e_per_a2", *rows]) + "\n"
    read = _stack_and_tilts(folder, "TS_1_tilts.tsv", text)
    return lambda path: read(folder / "TS_1.st", path)


def _stack_and_tilts(folder, name, text):
    write_mrc(folder / "TS_1.st", _RNG.normal(100, 10, (5, 24, 32)).astype(np.float32), 10.0, stack=True)
    (folder / name).write_text(text)

    def read(stack, tilts):
        found = import_stack("TS_1", stack, tilts, _GIVEN)
        return found.series, found.warnings

    return read


# ---- alignments -----------------------------------------------------------------------------------------------------

_TILTS = np.arange(-40, 41, 8.0)


def _series():
    n, rng = len(_TILTS), np.random.default_rng(3)
    table = {
        "tilt_id": np.arange(1, n + 1),
        "movie": [f"frames/TS_1_{t:.1f}.tif" for t in _TILTS],
        "image": [f"{i + 1:06d}@a.mrc" for i in range(n)],
        "nominal_tilt_deg": _TILTS,
        "nominal_axis_deg": 85.0,
        "pre_exposure_e_per_a2": 3.0 * np.arange(n),
        "exposure_e_per_a2": 3.0,
        "defocus_u_angst": 30000.0,
        "defocus_v_angst": 29000.0,
        "defocus_angle_deg": 33.0,
        "phase_shift_deg": 0.0,
        "ctf_scale": 1.0,
        "x_tilt_deg": 0.0,
        "y_tilt_deg": _TILTS + 0.5,
        "z_rot_deg": 84.5,
        "x_shift_angst": rng.normal(0, 50, n),
        "y_shift_angst": rng.normal(0, 50, n),
        "excluded": 0,
        "exclude_reason": "none",
    }
    return TiltSeries("TS_1", 300.0, 2.7, 0.1, 2.5, 2.5, -1, (512, 480), (0, 0, 0), pd.DataFrame(table))


def _alignment(given):
    """A reader of the alignment at ``given``, whichever of its files is damaged."""
    series = _series()
    images = Images(series.image_size_px, series.pixel_size_angst, series.movie_pixel_size_angst)

    def read(path):
        found = read_foreign_alignment(given, "TS_1", images)
        return (found.geometry, found.used), list(found.notes)

    return read


@file_format("alignment (IMOD .xf)", "TS_1.xf", text=True)
def _xf(folder):
    return _imod_alignment(folder)


@file_format("alignment (IMOD .tlt)", "TS_1.tlt", text=True)
def _tlt(folder):
    return _imod_alignment(folder)


def _imod_alignment(folder):
    series = _series()
    geometry: TiltGeometry = series.geometry
    imod.write_xf(folder / "TS_1.xf", imod.geometry_to_xf(geometry, 2.5, series.image_size_px))
    imod.write_tlt(folder / "TS_1.tlt", geometry.y_tilt_deg)
    imod.write_tlt(folder / "TS_1.rawtlt", _TILTS)
    return _alignment(folder / "TS_1.xf")


@file_format("alignment (AreTomo .aln)", "TS_1.aln", text=True)
def _aln(folder):
    series = _series()
    write_aln(folder / "TS_1.aln", series.geometry, 2.5, series.image_size_px)
    return _alignment(folder / "TS_1.aln")


@file_format("alignment (Warp .xml)", "TS_1.xml", text=True)
def _warp(folder):
    write_warp_xml(folder / "TS_1.xml", _series())
    return _alignment(folder / "TS_1.xml")


@file_format("alignment (RELION 5)", "tilt_series/TS_1.star", text=True)
def _relion(folder):
    one = pd.DataFrame({"tomo_name": ["TS_1"], "x_angst": [0.0], "y_angst": 0.0, "z_angst": 0.0})
    write_relion_project(folder, [_series()], Particles(one))
    return _alignment(folder / "tomograms.star")


# ---- particles ------------------------------------------------------------------------------------------------------

_TOMOGRAM = Tomogram("TS_1", Grid((100, 90, 40), 8.0), Grid((400, 360, 160), 2.0))
_BINARY_PICKS = ("tloc", "av3", "imod")


def _register_picks(form):
    name = f"picks{PICKS[form].extensions[0]}"

    @file_format(f"picks ({form})", name, text=form not in _BINARY_PICKS)
    def _picks(folder):
        rng = np.random.default_rng(5)
        positions = _TOMOGRAM.grid.to_angst(rng.uniform(3, [97, 87, 37], (8, 3)))
        rotations = Rotation.random(8, rng=rng).as_matrix()
        picks = Picks(positions, rotations, rng.uniform(0, 1, 8), rng.integers(1, 3, 8))
        write_picks(folder / name, picks, _TOMOGRAM, form)

        def read(path):
            found = read_picks(path, _TOMOGRAM, Source(format=form))
            values = found.picks
            return (values.positions_angst, values.rotations, values.score), list(found.warnings)

        return read


for _form in PICKS:
    _register_picks(_form)


# ---- maps, masks, lists, the config ---------------------------------------------------------------------------------


@file_format("reference (MRC)", "map.mrc", text=False)
def _reference(folder):
    z, y, x = np.mgrid[-8:8, -8:8, -8:8]
    write_mrc(folder / "map.mrc", np.exp(-(x**2 + 2 * y**2 + z**2) / 16).astype(np.float32), 5.0)

    def read(path):
        volume, pixel = read_mrc(path)
        return (prepare_reference(volume), pixel), []

    return read


@file_format("MTF (STAR)", "mtf.star", text=True)
def _mtf(folder):
    k = np.linspace(0, 0.5, 11)
    table = pd.DataFrame({"rlnResolutionInversePixel": k, "rlnMtfValue": 1 - k})
    write_star(folder / "mtf.star", {"": table})
    return lambda path: (read_mtf(path, 1.0)(np.linspace(0, 0.5, 30)), [])


@file_format("list of bad views (YAML)", "bad.yaml", text=True)
def _bad_views(folder):
    text = "TS_1:\n  tilt_ids: [1, 2]\n  tilt_angles_deg: [-60.0, 57]\n  first_negative: 2\n"
    (folder / "bad.yaml").write_text(text + "TS_2:\n- {tilt_id: 3, reason: ice}\n- {tilt_id: 4}\n")

    def read(path):
        content = read_selection_file(path)
        return [selection_from_file(content, ts, path) for ts in ("TS_1", "TS_2")], []

    return read


@file_format("config (YAML)", "mine.yaml", text=True)
def _config(folder):
    config = {
        "results_dir": "results",
        "seed": 5,
        "device": "cpu",
        "data": {"mdoc": "frames/*.mdoc", "reference": "map.mrc", "tilt_series": ["TS_1", "TS_2"]},
        "exclude_views": {"tilt_ids": [1, 2], "tilt_angles_deg": [-60.0], "first_negative": 2, "dark": True},
        "match_template": {"n_sigma": 5.0, "max_particles": 100, "symmetry": "C1"},
        "averaging": [{"name": "bin4", "reference": "template", "refine": {"mask_diameter_angst": 300.0}}],
    }
    config["averaging"][0]["extract_subtomos"] = {"binning": 4, "box_px": 48}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))

    def read(path):
        check_file(path)  # as the rules do; Snakemake has loaded the values before
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return json.loads(load_config(values if isinstance(values, dict) else {"": values}).model_dump_json()), []

    return read
