"""Extraction and reconstruction against RELION's own files of a small project.

    python benchmarks/relion_golden.py FOLDER

FOLDER holds frames/, tilt_series/, tomograms.star, particles_min.star, particles_true.star and what RELION 5 made of them:
Extract2D, Extract3D (relion_tomo_subtomo --bin 2 --b 64 --crop 32, with and without --stack2d) and Rec
(relion_tomo_reconstruct_particle --bin 2 --b 64 --crop 32 --sym C1 --SNR -1). Prints, per file: correlation, grey ratio
(least squares, ours / RELION), and the relative difference |ours - RELION| / |RELION|; asked is 1e-3.

Three settings: RELION's choices (cut_from_raw, insertion gather) must be equal; the same with RELION's rounded constants of the
dose weight shows that nothing else differs; the defaults (views binned once, insertion spread) differ on purpose. The two
ways of cutting are compared, shell by shell, with a third: the whole view, multiplied by its CTF before anything is cut.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np

from cryoet_core.fourier import centre_crop_or_pad, fourier_crop, frequency_grid
from cryoet_core.fsc import fourier_shell_correlation, resolution_at
from cryoet_core.io.images import load_named_images
from cryoet_core.io.mrc import read_mrc
from cryoet_core.io.star import find_block, read_star
from cryoet_core.metadata import read_particles, series_from_tables
from cryoet_core.subtomo import transfer
from cryoet_core.subtomo.extract import ExtractionSettings, crop_to_disc, extract_stacks
from cryoet_core.subtomo.likelihood import shift_phases
from cryoet_core.subtomo.mstep import Reference
from cryoet_core.subtomo.noise import correction_sums, group_amplitude, initial_spectra
from cryoet_core.subtomo.postprocess import fsc_weight, guinier_table
from cryoet_core.subtomo.reconstruct import HalfSums, insert_series, reconstruct_maps
from cryoet_core.subtomo.refine_run import volume_images
from cryoet_core.subtomo.stacks import particle_volumes
from cryoet_core.subtomo.volumes import extract_volumes

ASKED = 1e-3


def relion_dose_weight(k, dose, voltage_kv=300.0, *, xp=np):
    """The constants as RELION rounds them; the paper's are 0.24499, -1.6649 and 2.8141."""
    k = xp.maximum(xp.asarray(k, dtype=xp.float64), 1e-6)
    return xp.exp(-0.5 * dose / (0.245 * k**-1.665 + 2.81)).astype(xp.float32)


def read_project(folder: Path):
    """(TiltSeries, images) of the one series of a RELION project."""
    row = find_block(read_star(folder / "tomograms.star"), "global", folder)
    row = row if isinstance(row, dict) else row.iloc[0].to_dict()
    star = folder / row["rlnTomoTiltSeriesStarFile"]
    series = series_from_tables(row, find_block(read_star(star), str(row["rlnTomoName"]), star))
    n = len(series.tilts)
    series = series.with_columns(tilt_id=np.arange(1, n + 1), excluded=np.zeros(n, np.int64))
    images = load_named_images([str(folder / name) for name in series.tilts["image"]])
    return series, images


def compare(ours, theirs) -> tuple[float, float, float]:
    """Correlation, grey ratio (ours / theirs) and relative difference."""
    a, b = np.asarray(ours, np.float64).ravel(), np.asarray(theirs, np.float64).ravel()
    ratio = (a @ b) / (b @ b)
    correlation = np.corrcoef(a, b)[0, 1]
    return correlation, ratio, np.linalg.norm(a - b) / np.linalg.norm(b)


def show(name, ours, theirs, asked=None):
    if ours.shape != theirs.shape:
        print(f"{name:34s} shapes differ: {ours.shape} {theirs.shape}")
        return
    correlation, ratio, difference = compare(ours, theirs)
    verdict = "" if asked is None else ("  met" if difference <= asked else "  MISSED")
    print(
        f"{name:34s} correlation {correlation:.6f}  grey ratio {ratio:.5f}  relative difference {difference:.2e}{verdict}"
    )


def check_stacks(folder, series, images, cut_from_raw, asked):
    particles = read_particles(folder / "particles_min.star")
    settings = ExtractionSettings(binning=2, box_px=64, crop_px=32, cut_from_raw=cut_from_raw)
    stacks = extract_stacks(images, series, particles.positions_angst, settings)
    for path in sorted((folder / "Extract2D" / "Subtomograms" / series.name).glob("*_stack2d.mrcs")):
        row = int(path.name.split("_")[0]) - 1
        show(f"2D stack {path.name}", stacks.images[stacks.views.particle == row], read_mrc(path)[0], asked)
    table = read_particles(folder / "Extract2D" / "particles.star").table
    theirs = np.array([[int(v) for v in text.strip("[]").split(",")] for text in table["visible_frames"]], bool)
    print(f"visible views equal: {np.array_equal(theirs, stacks.views.visible)}")


def check_volumes(folder, series, images, cut_from_raw, asked):
    particles = read_particles(folder / "particles_min.star")
    settings = ExtractionSettings(binning=2, box_px=64, crop_px=32, cut_from_raw=cut_from_raw)
    volumes = extract_volumes(images, series, particles.positions_angst[:4], settings)
    for row, volume in volumes:
        base = folder / "Extract3D" / "Subtomograms" / series.name
        show(f"3D data {row + 1}", volume.data, read_mrc(base / f"{row + 1}_data.mrc")[0], asked)
        weights, multiplicity = np.split(read_mrc(base / f"{row + 1}_weights.mrc")[0], 2)
        show(f"3D weights {row + 1}", volume.weight, weights, asked)
        show(f"3D multiplicity {row + 1}", volume.multiplicity, multiplicity, asked)


def check_reading(folder):
    """Strength of the true map at the true poses in RELION's own 3D files as the 3D likelihood reads them: 1 in the same grey scale."""
    true, truth, shown = read_particles(folder / "particles_true.star"), read_mrc(folder / "truth_bin2.mrc")[0], np.arange(4)
    volumes = particle_volumes(read_particles(folder / "Extract3D" / "particles.star").select(shown), folder)
    images = volume_images(volumes, 1e4)
    slices = Reference.of_map(truth.astype(np.float32)).view_slices(images.view_rotations, true.rotations[shown], images.frequencies)
    moved = (true.positions_angst[shown] - volumes.particles.positions_angst) / volumes.pixel_size_angst
    phases = shift_phases(images.frequencies, images.view_rotations, moved)
    sums = correction_sums(images, shown, slices, phases, initial_spectra(images), 12)
    print(f"true map in RELION's 3D files, as read for refinement: strength {group_amplitude([sums]):.3f}")


def check_reconstruction(folder, series, images, cut_from_raw, asked):
    particles = read_particles(folder / "particles_true.star")
    settings = ExtractionSettings(binning=2, box_px=64, crop_px=32, cut_from_raw=cut_from_raw)
    sums = HalfSums(settings, insertion="gather" if cut_from_raw else "spread")
    insert_series(sums, images, series, particles)
    maps = reconstruct_maps(sums)
    for name in ("half1", "half2", "merged"):
        show(f"{name}.mrc", getattr(maps, name), read_mrc(folder / "Rec" / f"{name}.mrc")[0], asked)


def cut_from_multiplied_views(images, series, views, rows, settings):
    """Images (len(rows), crop, crop) cut last: the whole view times -c, binned, the particle moved to the centre, the same disc."""
    h, w = images.shape[1:]
    ky, kx = frequency_grid((h, w))
    b, box, margin = settings.binning, settings.box_px, settings.margin_px
    own = transfer.ImageTransfer.of_views(series, views.view, views.depth_angst)
    out = []
    for i in rows:
        u = views.uv_angst[i] / series.pixel_size_angst
        spectrum = np.fft.rfft2(images[views.view[i]] - images[views.view[i]].mean())
        spectrum *= -own.evaluate(slice(i, i + 1), (h, w), series.pixel_size_angst)[0]
        moved = np.fft.irfft2(spectrum * np.exp(2j * np.pi * (kx * u[0] + ky * u[1])), s=(h, w)).astype(np.float32)
        out.append(centre_crop_or_pad(fourier_crop(moved, (h // b, w // b)), (box, box)))
    keep = slice(margin, margin + settings.crop_px)
    return crop_to_disc(np.array(out), margin)[:, keep, keep] / b


def shell_differences(a, b):
    """Relative difference of image transforms in every shell."""
    n = a.shape[-1]
    shells = np.rint(np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)) * n).astype(int)
    fa, fb = np.fft.rfft2(a), np.fft.rfft2(b)
    parts = [[(np.abs(v) ** 2)[:, shells == i].sum() for v in (fa - fb, fb)] for i in range(n // 2 + 1)]
    return np.array([np.sqrt(d / p) for d, p in parts])


def check_cutting(folder, series, images):
    positions = read_particles(folder / "particles_min.star").positions_angst
    for binning, box, crop in ((2, 64, 32), (4, 48, 24)):
        cut = {}
        for raw in (False, True):
            settings = ExtractionSettings(binning, box, crop, cut_from_raw=raw)
            stacks = extract_stacks(images, series, positions, settings)
            rows = np.arange(0, len(stacks.views), 7)
            cut[raw] = stacks.images[rows]
        whole = cut_from_multiplied_views(images, series, stacks.views, rows, settings)
        rows = (("once, whole", cut[False], whole), ("raw, whole", cut[True], whole), ("once, raw", cut[False], cut[True]))
        for name, a, b in rows:
            print(f"bin {binning}, {name:12s}", " ".join(f"{v:.3f}" for v in shell_differences(a, b)))


def check_truth(folder, series, images):
    """FSC of our maps with the phantom's true map, and of RELION's."""
    truth = read_mrc(folder / "truth_bin2.mrc")[0]
    particles = read_particles(folder / "particles_true.star")
    maps = {"RELION": read_mrc(folder / "Rec" / "merged.mrc")[0]}
    for raw in (True, False):
        for insertion in ("gather", "spread"):
            sums = HalfSums(ExtractionSettings(2, 64, 32, cut_from_raw=raw), insertion=insertion)
            insert_series(sums, images, series, particles)
            maps[f"{'raw' if raw else 'once'}, {insertion}"] = reconstruct_maps(sums).merged
    for name, volume in maps.items():
        fsc = fourier_shell_correlation(volume, truth)
        print(f"{name:14s} correlation {compare(volume, truth)[0]:.4f}  FSC", " ".join(f"{v:.3f}" for v in fsc[1:]))


def half_plane_fsc(a, b):
    """FSC over the stored half of the transforms, each coefficient once, as RELION sums: the plane kx = 0 counts double."""
    fa, fb = np.fft.rfftn(a), np.fft.rfftn(b)
    n = a.shape[0]
    k = np.fft.fftfreq(n, 1 / n)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(n // 2 + 1) ** 2)).astype(int)
    inside = shell <= n // 2
    cross, one, two = (
        np.bincount(shell[inside], v[inside]) for v in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)
    )
    return cross / np.sqrt(one * two)


def check_postprocess(folder):
    """FSC and Guinier plot of RELION's own half maps against its postprocess file."""
    half1, half2 = (read_mrc(folder / "Rec" / f"half{h}.mrc")[0] for h in (1, 2))
    blocks = read_star(folder / "PostProcess" / "pp.star")
    theirs = blocks["fsc"]["rlnFourierShellCorrelationUnmaskedMaps"].to_numpy()
    ours = fourier_shell_correlation(half1, half2)
    counted = half_plane_fsc(half1, half2)
    print(f"FSC without a mask: largest difference {np.abs(ours - theirs)[1:].max():.1e}")
    print(f"the same, plane kx = 0 counted twice: {np.abs(counted - theirs)[1:].max():.1e} (asked 1e-3)")
    guinier = guinier_table(0.5 * (half1 + half2), 8.0, fsc_weight(theirs))
    for mine, label in (("log_amplitude", "rlnLogAmplitudesOriginal"), ("log_amplitude_weighted", "rlnLogAmplitudesWeighted")):
        n = min(len(guinier), len(blocks["guinier"]) - 1)
        difference = guinier[mine].to_numpy()[: n - 1] - blocks["guinier"][label].to_numpy()[1:n]
        difference = difference[np.isfinite(difference)]
        print(f"Guinier plot, {label}: offset {np.median(difference):+.4f}, spread {np.std(difference):.1e}")
    final = blocks["general"]["rlnFinalResolution"]
    last = int(np.flatnonzero(ours[1:] < 0.143)[0])
    print(f"resolution, last shell above 0.143: {32 * 8.0 / last:.3f} A, RELION {final} A; interpolated {resolution_at(ours, 8.0, 32):.2f} A")


def main(folder):
    folder = Path(folder)
    series, images = read_project(folder)
    checks = (check_stacks, check_volumes, check_reconstruction)
    print(f"RELION's choices: cut_from_raw: true, insertion: gather (asked: relative difference <= {ASKED:g})")
    for check in checks:
        check(folder, series, images, True, ASKED)
    print("the same with RELION's rounded constants of the dose weight")
    with mock.patch.object(transfer, "dose_weight", relion_dose_weight):
        for check in checks:
            check(folder, series, images, True, 1e-5)
    check_reading(folder)
    print("the defaults: views binned once, insertion: spread")
    for check in checks:
        check(folder, series, images, False, None)
    print("relative difference per shell; whole: images cut from the whole multiplied view")
    check_cutting(folder, series, images)
    print("postprocess of RELION's half maps")
    check_postprocess(folder)
    print("maps against the true map of the phantom")
    check_truth(folder, series, images)


if __name__ == "__main__":
    main(sys.argv[1])
