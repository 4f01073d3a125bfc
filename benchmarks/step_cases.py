"""The core of every step, without reading and writing files, at a size that is asked for, on a CPU or a GPU.

Each function takes a :class:`Size` and a device and returns a :class:`Case`: ``run()`` computes, ``work`` is the least
that it must do (floors.py), ``what`` says the size in words. The data are random structure seen through a CTF: enough
for every step to take the way that it takes with real data, and quickly made. Timed by bench_steps.py, gpu_check.py.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from floors import (
    Work,
    alignment,
    back_projection,
    binning,
    ctf,
    ctf_correction,
    expectation,
    extraction,
    lattice_points,
    matching,
    motion,
    one_pass,
    particle_reconstruction,
    postprocessing,
    xrays,
)
from match_speed import blob_template
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq

from cryoet_core.backend import array_namespace, to_device
from cryoet_core.geometry.so3 import so3_grid_for_step
from cryoet_core.metadata import Particles, TiltSeries

PIXEL, DEFOCUS, VOLTAGE, CS = 1.91, 30000.0, 300.0, 2.7
WAVELENGTH = 0.0196875
AXIS = -95.0


@dataclass(frozen=True)
class Size:
    """Sizes of the data. binning : of the views that are aligned, reconstructed and cut into particles.

    view_px : edge of a view; frames : of a movie; views : of the series; thickness_px : of the tomogram, binned;
    match_px : (z, y, x) searched; match_step_deg : of the search; particles, box_px : of averaging (the box as stored,
    cut twice as large); batches : of the initial model.
    """

    view_px: int
    frames: int
    views: int
    binning: int
    thickness_px: int
    match_px: tuple[int, int, int]
    match_step_deg: float
    particles: int
    box_px: int
    batches: int

    @property
    def shape(self):
        return self.view_px, self.view_px

    @property
    def binned(self):
        return self.view_px // self.binning, self.view_px // self.binning

    @property
    def pixel(self):
        """Of the binned views, A."""
        return PIXEL * self.binning


TUTORIAL = Size(4096, 8, 30, 4, 350, (250, 478, 462), 12.85, 800, 64, 12)
BENCH = Size(2048, 8, 21, 4, 128, (48, 96, 96), 24.0, 50, 32, 5)
TINY = Size(256, 3, 9, 2, 16, (24, 32, 32), 60.0, 12, 16, 5)


@dataclass(frozen=True)
class Case:
    """A computation that is ready: ``run()`` returns its result, ``what`` says the size of one call."""

    what: str
    run: object
    work: Work


def tilts_of(views: int) -> np.ndarray:
    return np.linspace(-60.0, 60.0, views)


def tilt_series(view_px: int, pixel: float, tilts, ctf_of: str = "raw") -> TiltSeries:
    """The table of a series with perfect alignment. ctf_of : "raw", or "flipped" for phase-flipped views."""
    n = len(tilts)
    table = pd.DataFrame(
        {
            "tilt_id": np.arange(1, n + 1),
            "nominal_tilt_deg": tilts,
            "nominal_axis_deg": AXIS,
            "pre_exposure_e_per_a2": np.linspace(0, 100, n),
            "exposure_e_per_a2": 3.0,
            "defocus_u_angst": DEFOCUS,
            "defocus_v_angst": DEFOCUS - 300,
            "defocus_angle_deg": 20.0,
            "phase_shift_deg": 0.0,
            "ctf_scale": np.cos(np.deg2rad(tilts)),
            "x_tilt_deg": 0.0,
            "y_tilt_deg": tilts,
            "z_rot_deg": AXIS,
            "x_shift_angst": 0.0,
            "y_shift_angst": 0.0,
            "excluded": 0,
            "exclude_reason": "none",
        }
    )
    return TiltSeries("TS_01", VOLTAGE, CS, 0.1, pixel, PIXEL, -1, (view_px, view_px), (0, 0, 0), table)


def view_of_blobs(view_px: int, pixel: float, tilt_deg: float, *, in_focus: bool = False) -> np.ndarray:
    """(view_px, view_px) float32, 100 counts a pixel: points in a slab of 600 A seen at a tilt, with CTF and noise.

    in_focus : blobs of 20 A without CTF, as alignment likes them where the pixels are too coarse for Thon rings.
    """
    rng = np.random.default_rng(0)  # the same points in every view
    field = view_px * pixel
    count = int(field**2 / 120**2)
    points = rng.uniform(-0.5, 0.5, (count * 9 // 4, 3)) * [1.5 * field, 1.5 * field, 600.0]
    tilt, axis = np.deg2rad(tilt_deg), np.deg2rad(AXIS)
    across = points[:, 0] * np.cos(tilt) + points[:, 2] * np.sin(tilt)
    u = across * np.cos(axis) - points[:, 1] * np.sin(axis)
    v = across * np.sin(axis) + points[:, 1] * np.cos(axis)
    column, row = (np.rint(a / pixel).astype(int) + view_px // 2 for a in (u, v))
    inside = (column >= 0) & (column < view_px) & (row >= 0) & (row < view_px)
    drawn = np.bincount(row[inside] * view_px + column[inside], minlength=view_px**2)
    k2 = (fftfreq(view_px, pixel)[:, None] ** 2 + rfftfreq(view_px, pixel)[None] ** 2).astype(np.float32)
    gamma = np.pi * WAVELENGTH * DEFOCUS * k2 - 0.5 * np.pi * CS * 1e7 * WAVELENGTH**3 * k2**2
    transfer = np.exp(-2 * (np.pi * 20.0) ** 2 * k2) if in_focus else np.sin(gamma + 0.1) * np.exp(-30.0 * k2)
    image = irfft2(rfft2(drawn.reshape(view_px, view_px).astype(np.float32)) * transfer, s=(view_px, view_px))
    noise = np.random.default_rng(int(10 * tilt_deg) + 1000).standard_normal(image.shape, dtype=np.float32)
    return (100 - 8 * image / image.std() + 10 * noise).astype(np.float32)


def halves_of(view) -> np.ndarray:
    """(3, h, w): a view and two halves of it."""
    part = np.random.default_rng(3).normal(0.5, 0.03, view.shape).astype(np.float32)
    return np.stack([view, view * part, view * (1 - part)])


def megapixel(shape) -> str:
    return " x ".join(map(str, shape))


def correct_motion(size: Size, device: str) -> Case:
    from cryoet_core.io.gain import Gain
    from cryoet_core.movies.correct import correct_movie

    rng = np.random.default_rng(1)
    expected = view_of_blobs(size.view_px, PIXEL, 0.0) / 70
    noise = rng.poisson(1.4, expected.shape).astype(np.int16)  # one draw of the noise, moved: sixteen would take longer
    frames = [
        np.clip(np.roll(expected, (i, 2 * i), (0, 1)) + np.roll(noise, 97 * i) - 1.4, 0, 255).astype(np.uint8)
        for i in range(size.frames)
    ]
    gain = Gain(np.ones(size.shape, np.float32), np.zeros(size.shape, bool))

    def run():
        movie = correct_movie(lambda: iter(frames), PIXEL, gain, exposure_e_per_a2=3.0, seed=1, device=device)
        return movie.even, movie.odd

    return Case(f"one movie, {size.frames} x {megapixel(size.shape)}", run, motion(size.shape, size.frames))


def estimate_ctf(size: Size, device: str) -> Case:
    from cryoet_core.ctf.estimate import CtfSettings, estimate_ctf

    series = tilt_series(size.view_px, PIXEL, [0.0])
    view = to_device(view_of_blobs(size.view_px, PIXEL, 0.0), device)
    settings = CtfSettings(window_px=min(512, size.view_px // 2))
    work = ctf(size.shape, settings.window_px)
    return Case(
        f"one view, {megapixel(size.shape)}", lambda: estimate_ctf(series, [view], settings).fit.defocus_angst, work
    )


def exclude_views(size: Size, device: str) -> Case:
    from cryoet_core.tilt_series.exclude import measure_views

    view = view_of_blobs(size.view_px, PIXEL, 0.0)
    return Case(f"one view, {megapixel(size.shape)}", lambda: measure_views([view])[1], one_pass(size.shape))


def erase_xrays(size: Size, device: str) -> Case:
    from cryoet_core.tilt_series.xrays import XraySettings, erase_view, find_xrays

    images = halves_of(view_of_blobs(size.view_px, PIXEL, 0.0))
    rng = np.random.default_rng(2)
    for row, column in rng.integers(4, size.view_px - 4, (size.view_px // 16, 2)):
        images[:2, row : row + 2, column] += 300

    def run():
        found = find_xrays([images], XraySettings())
        return erase_view(images, found.mask(0), [np.random.default_rng(i) for i in range(3)])

    return Case(f"one view with halves, {megapixel(size.shape)}", run, xrays(size.shape))


def align_tilt_series(size: Size, device: str) -> Case:
    from cryoet_core.config.align_tilt_series import AlignTiltSeries
    from cryoet_core.tilt_series.align import align_tilt_series
    from cryoet_core.tilt_series.alignment_state import settings_from_config

    tilts = tilts_of(size.views)
    pixel = max(size.pixel, 1800.0 / size.binned[0])  # a smaller field shows too little to align
    images = to_device(np.stack([view_of_blobs(size.binned[0], pixel, t, in_focus=True) for t in tilts]), device)
    geometry = tilt_series(size.binned[0], pixel, tilts).geometry
    settings = settings_from_config(AlignTiltSeries(pixel_size_angst=pixel, thickness_angst=600.0))

    def run():
        return align_tilt_series(images, geometry, pixel, settings).geometry.shift_angst

    what = f"{size.views} views of {megapixel(size.binned)}"
    return Case(what, run, alignment(size.views, size.binned, 600.0 / pixel))


def correct_ctf(size: Size, device: str) -> Case:
    from cryoet_core.tilt_series.ctf_correction import CtfCorrectionSettings, correct_views, view_ctfs

    series = tilt_series(size.view_px, PIXEL, [30.0])
    images, view = to_device(halves_of(view_of_blobs(size.view_px, PIXEL, 30.0)), device), view_ctfs(series)[0]
    settings = CtfCorrectionSettings()

    def run():
        return correct_views(images, view, PIXEL, series.optics, settings)

    return Case(f"one view with halves, {megapixel(size.shape)}", run, ctf_correction(size.shape))


def preprocess_tilt_series(size: Size, device: str) -> Case:
    from cryoet_core.tilt_series.preprocess import bin_views

    images = to_device(halves_of(view_of_blobs(size.view_px, PIXEL, 30.0)), device)
    what = f"one view with halves, {megapixel(size.shape)}, binning {size.binning}"
    return Case(what, lambda: bin_views(images, size.binning), binning(size.shape, size.binning))


def reconstruct_tomogram(size: Size, device: str) -> Case:
    from cryoet_core.tomogram.reconstruct import reconstruct_tomogram

    tilts, (height, width) = tilts_of(size.views), size.binned
    one = to_device(np.random.default_rng(2).standard_normal((1, height, width), dtype=np.float32), device)
    images = array_namespace(one).concatenate([one] * size.views)
    geometry = tilt_series(width, size.pixel, tilts).geometry
    box = (width, height, size.thickness_px)

    def run():
        return reconstruct_tomogram(images, geometry, size.pixel, box)

    work = back_projection(size.views, size.binned, math.prod(box))
    return Case(f"{size.views} views to {megapixel(box)}", run, work)


def search(shape, step_deg: float, device: str, report=None, **keys):
    """Template matching in noise of ``shape`` (z, y, x) with a template of 34 voxels.

    keys : of the config of match_template. report : as match_template takes it.
    """
    from cryoet_core.config.match_template import MatchTemplate
    from cryoet_core.picking.match import match_template

    pixel, box = 12.0, min(34, 2 * (min(shape) // 4))
    volume = to_device(np.random.default_rng(1).standard_normal(shape, dtype=np.float32), device)
    reference = to_device(blob_template(box, 0.7 * box), device)
    series = tilt_series(shape[1], pixel, tilts_of(41))
    config = MatchTemplate(particle_diameter_angst=0.7 * box * pixel, angular_step_deg=step_deg, **keys)
    rotations = len(so3_grid_for_step(step_deg))

    def run():
        import numba

        threads = numba.get_num_threads() if device == "cpu" else 1
        rng = np.random.default_rng(0)
        result = match_template(volume, reference, pixel, series, config, rng, report=report, threads=threads)
        return result.scores

    what = f"{megapixel(shape[::-1])}, template {box}, {step_deg:g} degrees, {rotations} rotations"
    return Case(what, run, matching(math.prod(shape), rotations))


def match_template(size: Size, device: str) -> Case:
    return search(size.match_px, size.match_step_deg, device, max_particles=size.particles, background="none")


def particles_in(series: TiltSeries, count: int) -> Particles:
    """Particles in the inner half of the field, halves known."""
    rng = np.random.default_rng(5)
    field = series.image_size_px[0] * series.pixel_size_angst
    columns = dict(zip(("x_angst", "y_angst"), 0.5 * field * rng.uniform(-0.5, 0.5, (2, count)), strict=True))
    columns |= {"z_angst": rng.uniform(-300, 300, count)}
    columns |= dict(zip(("rot_deg", "tilt_deg", "psi_deg"), rng.uniform(0, 180, (3, count)), strict=True))
    columns |= dict.fromkeys(("origin_x_angst", "origin_y_angst", "origin_z_angst"), 0.0)
    table = pd.DataFrame(columns).assign(
        tomo_name=series.name,
        particle_name=[f"TS_01/{i + 1}" for i in range(count)],
        random_subset=np.arange(count) % 2 + 1,
    )
    return Particles(table)


def _raw_views(size: Size, device: str, views: int):
    """(images, series): one view of noise for all, as large as the camera's."""
    tilts = tilts_of(views)
    one = to_device(np.random.default_rng(6).standard_normal((1, *size.shape), dtype=np.float32), device)
    return array_namespace(one).concatenate([one] * views), tilt_series(size.view_px, PIXEL, tilts)


CUT_VIEWS = 11  # of the views that particles are cut from: all would take gigabytes


def extract_subtomos(size: Size, device: str) -> Case:
    from cryoet_core.subtomo.extract import ExtractionSettings, extract_stacks

    images, series = _raw_views(size, device, min(CUT_VIEWS, size.views))
    positions = particles_in(series, size.particles).positions_angst
    settings = ExtractionSettings(size.binning, 2 * size.box_px, size.box_px)

    def run():
        return extract_stacks(images, series, positions, settings).images

    cut = size.particles * len(series)
    work = extraction(len(series), size.shape, size.binning, cut, 2 * size.box_px)
    what = f"{size.particles} particles, {len(series)} views of {megapixel(size.shape)}, box {2 * size.box_px}"
    return Case(what, run, work)


def reconstruct_particle(size: Size, device: str) -> Case:
    from cryoet_core.subtomo.extract import ExtractionSettings
    from cryoet_core.subtomo.reconstruct import HalfSums, insert_series, reconstruct_maps

    images, series = _raw_views(size, device, min(CUT_VIEWS, size.views))
    particles = particles_in(series, size.particles)
    settings = ExtractionSettings(size.binning, 2 * size.box_px, size.box_px)

    def run():
        sums = HalfSums(settings)
        insert_series(sums, images, series, particles)
        return reconstruct_maps(sums).merged

    cut, box = size.particles * len(series), 2 * size.box_px
    binned = extraction(len(series), size.shape, size.binning, 0, box)
    inserted = particle_reconstruction(cut, box)
    fft = {kind: binned.fft.get(kind, 0) + inserted.fft.get(kind, 0) for kind in {*binned.fft, *inserted.fft}}
    work = Work(binned.bytes + inserted.bytes, inserted.flops, fft)
    what = f"{size.particles} particles, {len(series)} views of {megapixel(size.shape)}, box {box}"
    return Case(what, run, work)


def _stacks(size: Size):
    """Extracted particles of white noise, in a folder that goes with them."""
    from cryoet_core.io.mrc import MrcStackWriter
    from cryoet_core.metadata import write_particles
    from cryoet_core.subtomo.stacks import read_stacks

    folder = Path(tempfile.mkdtemp(prefix="particles_"))
    series, path = tilt_series(size.view_px, PIXEL, tilts_of(size.views)), folder / "TS_01.mrcs"
    rng = np.random.default_rng(0)
    with MrcStackWriter(path, (size.box_px, size.box_px), size.pixel, dtype="float16") as writer:
        for _ in range(size.particles * size.views):
            writer.write(rng.standard_normal((size.box_px, size.box_px), dtype=np.float32))
    particles = particles_in(series, size.particles)
    table = particles.table.assign(
        optics_group=1,
        image_name=[f"{i * size.views + 1:06d}@{path}" for i in range(size.particles)],
        visible_frames="[" + ",".join(["1"] * size.views) + "]",
    )
    optics = {"rlnOpticsGroup": 1, "rlnImagePixelSize": size.pixel, "rlnCtfDataAreCtfPremultiplied": 1}
    optics |= {"rlnTomoSubtomogramBinning": float(size.binning), "rlnOpticsGroupName": "opticsGroup1"}
    write_particles(Particles(table, pd.DataFrame([optics]), are_2d_stacks=True), folder / "particles.star")
    stacks = read_stacks(folder / "particles.star", {series.name: series})
    weakref.finalize(stacks, shutil.rmtree, folder, ignore_errors=True)  # images are read when they are asked for
    return stacks


def refine(size: Size, device: str) -> Case:
    from cryoet_core.config.refine import Refine
    from cryoet_core.subtomo.refine_run import refine_stacks

    stacks = _stacks(size)
    config = Refine(max_iterations=1, mask_diameter_angst=0.8 * size.box_px * size.pixel)
    reference = blob_template(size.box_px, 0.7 * size.box_px)

    def run():
        moved = refine_stacks(stacks, reference, size.pixel, config, 1, lambda a: to_device(a, device))
        return moved[0].map

    orientations = len(so3_grid_for_step(2 * config.angular_sampling_deg))
    offsets = lattice_points(config.offset_range_px / (2 * config.offset_step_px))
    shells = size.box_px * size.pixel / config.initial_lowpass_angst
    work = expectation(size.particles * size.views, size.box_px, orientations, offsets, shells)
    what = f"one global iteration, {size.particles} particles, {size.views} views, box {size.box_px}"
    return Case(what, run, work)


def initial_model(size: Size, device: str) -> Case:
    from cryoet_core.config.initial_model import InitialModel
    from cryoet_core.subtomo.initial_model import InitialModelSettings, initial_model
    from cryoet_core.subtomo.refine_run import all_series_images, on_device

    stacks = _stacks(size)
    diameter = 0.8 * size.box_px * size.pixel
    keys = InitialModel(mask_diameter_angst=diameter, n_mini_batches=size.batches, n_starts=1).model_dump()
    settings = InitialModelSettings(pixel_size_angst=size.pixel, box_px=stacks.box, **keys)
    series = [on_device(i, lambda a: to_device(a, device)) for i in all_series_images(stacks, diameter)]

    def run():
        return initial_model(series, settings, np.random.default_rng(1)).map

    orientations, offsets = len(so3_grid_for_step(15.0)), lattice_points(2.5)
    images = size.batches * settings.batch_size(size.particles) * size.views
    work = expectation(images, size.box_px, orientations, offsets, settings.first_shell)
    return Case(f"{size.batches} mini-batches, {size.particles} particles, box {size.box_px}", run, work)


def postprocess(size: Size, device: str) -> Case:
    from cryoet_core.config.postprocess import Postprocess
    from cryoet_core.subtomo.postprocess import postprocess

    rng, signal = np.random.default_rng(4), blob_template(size.box_px, 0.7 * size.box_px)
    signal /= signal.std()
    halves = [signal + rng.standard_normal(signal.shape, dtype=np.float32) for _ in range(2)]
    config = Postprocess()
    what = f"half maps of {megapixel(signal.shape)}"
    work = postprocessing(size.box_px)
    return Case(what, lambda: postprocess(*halves, size.pixel, config, np.random.default_rng(0)).map, work)


STEPS = {
    function.__name__: function
    for function in (
        correct_motion,
        estimate_ctf,
        exclude_views,
        erase_xrays,
        align_tilt_series,
        correct_ctf,
        preprocess_tilt_series,
        reconstruct_tomogram,
        match_template,
        extract_subtomos,
        initial_model,
        refine,
        reconstruct_particle,
        postprocess,
    )
}
WITHOUT = (
    "import_tilt_series, decide_handedness, import_reference, resize_reference, relion_project, report: "
    "tables and small maps"
)

__all__ = ["BENCH", "STEPS", "TINY", "TUTORIAL", "WITHOUT", "Case", "Size", "search"]
