"""Reconstruction of a TiltSeries as its table and config describe it."""

from __future__ import annotations

import dataclasses
from itertools import chain

import numpy as np

from cryoet_core.backend import array_namespace
from cryoet_core.ctf.treatment import refuse_corrected
from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.metadata import GEOMETRY_COLUMNS, TiltSeries
from cryoet_core.tilt_series.ctf_correction import CtfCorrectionSettings, correctable, recorded, view_ctfs
from cryoet_core.tilt_series.halves import iter_views
from cryoet_core.tomogram.blocks import BlockStatistics, assembled
from cryoet_core.tomogram.ctf_in_depth import CtfInDepth, automatic_step_angst
from cryoet_core.tomogram.iterative import IterativeOptions, solve_blocks, views_to_solve
from cryoet_core.tomogram.reconstruct import back_project_views, filter_views, scale_views
from cryoet_core.tomogram.size import moved_specimen, size_in_movie_pixels, tomogram_size
from cryoet_core.tomogram.undeform import undeformed_views
from cryoet_core.tomogram.view_filters import BACK_PROJECTED, FilterOptions

NOT_THE_SUM = 0.05  # of a full view's standard deviation by which it may differ from the sum of its halves


def automatic_thickness_angst(alignment: dict, name: str = "") -> float:
    """Thickness of a tomogram around the slab found by align_tilt_series (its summary): 1.5 times, and at least 400 A more.

    Raises UserInputError E-REC-05 when the alignment found none (it was skipped or imported).
    """
    slab = alignment.get("thickness_angst")
    if not slab:
        raise UserInputError(
            "E-REC-05", "the alignment knows no thickness of the specimen", file=name, field="reconstruct_tomogram.thickness", found="auto",
            expected="a number", fix="give thickness or thickness_angst",
        )
    return max(1.5 * float(slab), float(slab) + 400.0)


def placed_series(series: TiltSeries, config, alignment: dict | None = None):
    """The series with the tomogram's size and the config's shifts and tilt offset in its table.

    Returns
    -------
    (series, size_px): size_px is (x, y, z) in pixels of the series' images; the table stores it in movie pixels.
    Raises UserInputError E-REC-02 when the tomogram would be larger than any view can fill.
    """
    pixel = series.pixel_size_angst
    if config.thickness_angst is None and config.thickness == "auto":
        thickness = automatic_thickness_angst(alignment or {}, series.name) / pixel
    else:
        thickness = config.thickness if config.thickness_angst is None else config.thickness_angst / pixel
    size_px = tomogram_size(series.image_size_px, series.geometry.z_rot_deg, thickness, config.width)
    if thickness > 2 * max(series.image_size_px):
        raise UserInputError(
            "E-REC-02", "the tomogram is thicker than the views are wide", field="reconstruct_tomogram.thickness",
            found=f"{size_px[2]} px", expected=f"at most {2 * max(series.image_size_px)} px",
            fix="thickness counts pixels of the binned views; thickness_angst counts A",
        )
    shift = (config.shift_x_angst, 0.0, config.shift_z_angst)
    if any(shift) or config.tilt_offset_deg:
        geometry, depth = moved_specimen(series.geometry, shift, config.tilt_offset_deg)
        series = series.with_geometry(geometry)
        if (series.tilts["defocus_u_angst"] != 0).any():
            change = series.handedness * depth
            series = series.with_columns(
                defocus_u_angst=series.tilts["defocus_u_angst"] + change,
                defocus_v_angst=series.tilts["defocus_v_angst"] + change,
            )
    size = size_in_movie_pixels(size_px, pixel, series.movie_pixel_size_angst)
    return dataclasses.replace(series, tomogram_size_px=size), size_px


def raw_views_of(placed: TiltSeries, aligned: TiltSeries) -> TiltSeries:
    """The raw views of ``aligned`` in the frame of the tomogram: geometry, defocus and size of ``placed``, joined by tilt_id.

    Particles are picked in the tomogram's frame and cut from the raw views; this table is both.
    """
    moved = placed.tilts.set_index("tilt_id").loc[aligned.tilts["tilt_id"]]
    columns = (*GEOMETRY_COLUMNS, "defocus_u_angst", "defocus_v_angst")
    tilts = aligned.tilts.assign(**{c: moved[c].to_numpy() for c in columns if c in moved})
    return dataclasses.replace(aligned, tilts=tilts, tomogram_size_px=placed.tomogram_size_px)


def ctf_of_series(series: TiltSeries, config):
    """(CtfInDepth of the included views or None, the series with the treatment in its table).

    Raises UserInputError E-CTF-05 when 3-D correction is asked for and the views were corrected before; DataQualityError E-REC-07
    when no view has a measured defocus.
    """
    if config.ctf_3d == "none":
        return None, series
    refuse_corrected(series, "reconstruct_tomogram")
    settings = CtfCorrectionSettings(
        mode=config.ctf_3d, wiener_snr=config.ctf_3d_wiener_snr, wiener_falloff=config.ctf_3d_wiener_falloff
    )
    corrected = np.array([correctable(view, settings) for view in view_ctfs(series)])
    if not (corrected & series.included).any():
        raise DataQualityError(
            "E-REC-07", "no view has a measured defocus", file=series.name, field="reconstruct_tomogram.ctf_3d", found="defocus 0 in all views",
            expected="defocus from estimate_ctf", fix="run estimate_ctf, or set ctf_3d: none",
        )
    cutoff = config.radial_cutoff + config.radial_falloff
    step = config.ctf_3d_step_angst or automatic_step_angst(series.pixel_size_angst, cutoff, series.optics)
    used = series.select(series.included)
    return CtfInDepth(settings, view_ctfs(used), series.optics, step), recorded(series, settings, corrected)


def made_from_halves(series: TiltSeries, config) -> bool:
    """True when the full tomogram is the sum of the even and the odd one: the method is linear and every full view the sum of its halves.

    Pixels that were repaired with noise of their own in every image are the difference that NOT_THE_SUM allows.
    """
    if config.method not in BACK_PROJECTED or config.view_scaling != "none":
        return False
    views = iter_views(series.select(series.included))
    return all((full - even - odd).std(dtype=np.float64) <= NOT_THE_SUM * full.std(dtype=np.float64) for full, even, odd in views)


def tomogram_blocks(series: TiltSeries, views, size_px, config, ctf=None, report=None):
    """Yield the blocks (:class:`Block`) of k tomograms from an iterable of the included views, (k, h, w) each: the same view of k stacks.

    Where the table has a local deformation of the specimen, the views are brought back to a rigid one first. ctf : from :func:`ctf_of_series`,
    for 3-D CTF correction.
    """
    used, deformation = series.select(series.included), series.local_deformation
    if deformation is not None:
        bent = deformation.select(series.included)
        views = (undeformed_views(images, bent.select([i] * len(images)), series.pixel_size_angst) for i, images in enumerate(views))
    views = (scale_views(images, config.view_scaling) for images in views)
    first = next(views)
    views, xp = chain([first], views), array_namespace(first)
    options = FilterOptions(
        config.method, config.sirt_iterations, config.sirt_alpha, config.angular_weights, config.radial_cutoff,
        config.radial_falloff,
    )
    common = (views, used.geometry, series.pixel_size_angst, size_px)
    if config.method in BACK_PROJECTED:
        filtered = filter_views(*common, options, config.super_sampling, ctf)
        yield from back_project_views(filtered, size_px, report=report, xp=xp)
        return
    iterative = IterativeOptions(
        config.sirt_iterations, config.subset_size if config.method == "sart" else None, config.relaxation, config.padding,
        config.sign_constraint,
    )
    yield from solve_blocks(views_to_solve(*common, iterative, options), size_px, iterative, report=report, xp=xp)


def reconstruct_series(series: TiltSeries, images, size_px, config, ctf=None, report=None):
    """(tomogram (z, y, x), rms residual before every iteration or None) from ``images`` (n_included, h, w) of the included views.

    See :func:`tomogram_blocks`. Raises DataQualityError E-REC-03 when images and table differ.
    """
    if len(images) != int(series.included.sum()):
        raise DataQualityError(
            "E-REC-03", "images and table differ", file=series.name, field="views", found=f"{len(images)} images",
            expected=f"{int(series.included.sum())} included rows", fix="run the step before again",
        )
    statistics = BlockStatistics(int(size_px[2]))
    blocks = statistics.noted(tomogram_blocks(series, images[:, None], size_px, config, ctf, report))
    return assembled(blocks, size_px)[0], statistics.residual_rms


def tomogram_summary(series: TiltSeries, size_px, config, statistics: BlockStatistics) -> dict:
    """Numbers of the report: size, views, grey values (mean, sd, 0.1 and 99.9 percentiles of the central third in z), and of
    iterative methods the rms residual before every iteration."""
    return {
        "n_views": int(series.included.sum()),
        "size_px": list(size_px),
        "size_movie_px": list(series.tomogram_size_px),
        "pixel_size_angst": series.pixel_size_angst,
        "method": config.method,
        "ctf_3d": config.ctf_3d,
        "local_deformation": series.local_deformation is not None,
        "residual_rms": statistics.residual_rms,
        **statistics.grey_values(),
    }
