"""Errors of motion estimation on simulated movies against truth: 3 e/A^2 in six frames, drifts, contrast down to nothing.

    python benchmarks/motion_targets.py [--micrograph K2.mrc] [--local] [--relion FOLDER]

The specimen is a random image made finer than the camera's pixels and larger than its field, moved by whole fine pixels, cut and binned here:
nothing is shared with the library. The beam is uneven, and some rows and columns of the camera count wrongly. With --micrograph, counts of a real micrograph are thinned binomially into frames with a known drift.
With --local the content is also pushed outwards (doming, 3 px at the edge): the fine image is read at the places where the content of every
camera pixel comes from (scipy.ndimage), and the error is that of track and field together over the whole image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import map_coordinates, spline_filter

from cryoet_core.io.mrc import read_mrc
from cryoet_core.io.star import read_star
from cryoet_core.movies.correct import MotionSettings, correct_movie

SIZE, PIXEL, FRAMES, DOSE = 1024, 1.9, 6, 3.0
FINE = 2
RELION_STEP_PX = (-1.1, 0.7)  # x, y per frame of the movie of against_relion
MARGIN = 64  # px around the field that movement may bring in


def specimen(rng, rms: float, size: int = SIZE) -> np.ndarray:
    """Periodic relative contrast (2 size, 2 size) of given rms after binning, 1/f amplitudes through a CTF at 3 um."""
    n = FINE * size
    k = np.hypot(np.fft.fftfreq(n, PIXEL / FINE)[:, None], np.fft.rfftfreq(n, PIXEL / FINE)[None])
    ctf = np.sin(np.pi * 0.0196875 * 3e4 * k**2 - 0.5 * np.pi * 2.7e7 * 0.0196875**3 * k**4 + 0.1)
    amplitude = ctf * np.exp(-60 * k**2) / np.maximum(k, 1 / 500)
    image = irfft2(rfft2(rng.standard_normal((n, n))) * amplitude, s=(n, n))
    small = image.reshape(size, FINE, size, FINE).mean(axis=(1, 3))
    return rms * (image - image.mean()) / small.std()


def track(rng, drift_px: float) -> np.ndarray:
    """(FRAMES, 2) x, y in camera pixels, on the fine grid: fast at first, total length drift_px, some wobble."""
    t = 1 - np.exp(-np.arange(FRAMES) / 2.0)
    angle = rng.uniform(0, 2 * np.pi)
    path = drift_px * (t / t[-1])[:, None] * [np.cos(angle), np.sin(angle)] + rng.normal(0, 0.03 * drift_px, (FRAMES, 2))
    return np.rint(FINE * path) / FINE


def illumination() -> np.ndarray:
    """(SIZE, SIZE) what the camera makes of an even field: a beam off the middle, three bright rows and five dark columns at the border."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    beam = 1.1 - 0.5 * ((x - 0.2) ** 2 + (y + 0.1) ** 2)
    beam[-3:] *= 1.6
    beam[:, :5] *= 0.2
    return beam


def movie(rng, rms: float, movement) -> list[np.ndarray]:
    """Frames of Poisson counts: windows of a larger specimen, so that content comes in and leaves at the borders."""
    image, frames = specimen(rng, rms, SIZE + 2 * MARGIN) if rms > 0 else None, []
    electrons = DOSE / FRAMES * PIXEL**2 * illumination()
    for x, y in movement:
        seen = 0.0
        if image is not None:
            top, left = (FINE * MARGIN - int(round(FINE * d)) for d in (y, x))
            window = image[top : top + FINE * SIZE, left : left + FINE * SIZE]
            seen = window.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))
        frames.append(rng.poisson(electrons * np.clip(1 + seen, 0, None)).astype(np.float32))
    return frames


def rms_error(found, truth) -> float:
    """Root mean square of the vector error of the mean-free track."""
    difference = (found - found.mean(axis=0)) - (truth - truth.mean(axis=0))
    return float(np.sqrt((difference**2).sum(axis=1).mean()))


def simulated(repeats: int) -> None:
    print("contrast  drift px | error A rms (median, worst) | uncorrected A | model")
    for rms in (0.2, 0.08, 0.04, 0.02, 0.01, 0.0):
        for drift in (2.0, 10.0, 40.0):
            errors, raw, models = [], [], []
            for repeat in range(repeats):
                rng = np.random.default_rng([repeat, int(1000 * rms), int(drift)])
                truth = track(rng, drift) if rms > 0 else np.zeros((FRAMES, 2))
                frames = movie(rng, rms, truth)
                done = correct_movie(lambda frames=frames: iter(frames), PIXEL, seed=repeat).track
                errors.append(PIXEL * rms_error(done.movement_px, truth))
                raw.append(PIXEL * rms_error(np.zeros_like(truth), truth))
                models.append(done.model)
            worse = sum(e > r + 0.05 for e, r in zip(errors, raw, strict=True))
            print(f"{rms:8.2f} {drift:9.0f} | {np.median(errors):.3f}, {max(errors):.3f} | {np.median(raw):.1f} | {','.join(models)}"
                  f"{'  WORSE THAN UNCORRECTED: ' + str(worse) if worse else ''}", flush=True)
            if rms == 0:
                break


def doming(points, size: int, frames: int, amplitude: float) -> np.ndarray:
    """(frames, points, 2) px: outwards from the middle, fast at first, mean over frames 0; amplitude from first to last frame at the edge."""
    t = 1 - np.exp(-np.arange(frames) / 2.0)
    t = t / t[-1] - (t / t[-1]).mean()
    r = (points - (size - 1) / 2) / ((size - 1) / 2)
    return amplitude * t[:, None, None] * (r * (1.3 - 0.3 * (r**2).sum(axis=-1, keepdims=True)))[None]


def domed_movie(rng, rms: float, size: int, frames: int, dose: float, amplitude: float, path) -> list[np.ndarray]:
    """Poisson frames whose content at r lies at r + path + doming(r); noise only for rms 0."""
    electrons = dose / frames * PIXEL**2
    if rms == 0:
        return [rng.poisson(electrons, (size, size)).astype(np.float32) for _ in range(frames)]
    fine = spline_filter(specimen(rng, rms, size).astype(np.float32), order=3, mode="grid-wrap", output=np.float32)
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    pixels, out = np.stack([x.ravel(), y.ravel()], axis=1), []
    for f in range(frames):
        source = pixels - path[f]
        for _ in range(4):  # the place whose content has moved to this pixel
            source = pixels - path[f] - doming(source, size, frames, amplitude)[f]
        image = map_coordinates(fine, FINE * source.T[::-1] + 0.5, order=3, prefilter=False, mode="grid-wrap").reshape(size, size)
        out.append(rng.poisson(electrons * np.clip(1 + image, 0, None)).astype(np.float32))
    return out


def field_error(track, truth, points) -> float:
    """Rms over frames and points of the vector error of track and local field, A."""
    found = track.movement_px[:, None] + (0 if track.local is None else track.local.at(points))
    return float(PIXEL * np.sqrt(((found - truth) ** 2).sum(axis=2).mean()))


def local_motion(repeats: int, sizes) -> None:
    print("\nlocal motion: size dose frames grid contrast | error of track + field, A rms (median, worst) | whole frames only | accepted | gain, sd | expected error, A\n"
          "(field alone, vector, median)")
    cases = [(2048, 30.0, 8, None, 3.0, c) for c in (0.2, 0.08, 0.04, 0.02, 0.01, 0.0)]
    cases += [(1024, 3.0, 6, (3, 3), 3.0, c) for c in (0.2, 0.08, 0.04, 0.02, 0.01, 0.0)] + [(1024, 3.0, 6, (3, 3), 0.0, c) for c in (0.2, 0.08, 0.02)]
    for size, dose, frames, grid, amplitude, rms in cases:
        if size not in sizes:
            continue
        rows = []
        for repeat in range(repeats):
            rng = np.random.default_rng([repeat, size, int(1000 * rms)])
            t, angle = 1 - np.exp(-np.arange(frames) / 2.0), rng.uniform(0, 2 * np.pi)
            path = 8.0 * (t - t.mean())[:, None] * [np.cos(angle), np.sin(angle)] * (rms > 0)
            movie_frames = domed_movie(rng, rms, size, frames, dose, amplitude, path)
            steps = np.linspace(0, size - 1, 21)
            points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
            truth = (path[:, None] + doming(points, size, frames, amplitude)) * (rms > 0)
            local, whole = (
                correct_movie(lambda frames=movie_frames: iter(frames), PIXEL, settings=MotionSettings(grid_xy=g), exposure_e_per_a2=dose, seed=repeat).track
                for g in (grid, (1, 1))
            )
            expected = np.nan if local.local is None else 2**0.5 * PIXEL * local.local.predicted_error_px
            rows.append((field_error(local, truth, points), field_error(whole, truth, points), local.local is not None, local.local_gain, expected))
        errors, whole, accepted, gains, expected = map(np.array, zip(*rows, strict=True))
        worse = int((errors > whole + 0.05).sum())
        print(f"{size} {dose:4.0f} {frames} {grid or 'auto'} {amplitude:.0f} px {rms:5.2f} | {np.median(errors):.3f}, {errors.max():.3f} | {np.median(whole):.3f} | "
              f"{accepted.sum()} of {repeats} | {gains.min():.1f} to {gains.max():.1f} | {np.nanmedian(expected) if accepted.any() else np.nan:.3f}"
              f"{f'  WORSE THAN WHOLE FRAMES: {worse}' if worse else ''}", flush=True)


def semi_real(path: str, pixel: float, dose: float) -> None:
    """Thin real counts into frames that look at shifted windows of the micrograph; shifts are known exactly in its pixels."""
    counts = read_mrc(path)[0].squeeze().astype(np.float64)
    unit = np.median(counts) / (dose * pixel**2)  # grey values per electron
    electrons = counts / unit
    ceiling = np.median(electrons) + 8 * np.sqrt(np.median(electrons))
    electrons = np.rint(np.where(electrons > ceiling, np.median(electrons), electrons)).astype(np.int64)
    rng = np.random.default_rng(1)
    print("\nreal counts thinned into 6 frames: total e/A^2, drift in pixels of the micrograph | error rms of the vector in its pixels (A, model, error of one\n"
          "coordinate that the library expects)")
    for total, drift in ((DOSE, 12), (12.0, 12), (24.0, 4), (dose, 4), (dose, 12), (dose, 30)):
        errors, share = [], total / FRAMES / dose * (1 - 1e-9)
        for _ in range(3):
            t = 1 - np.exp(-np.arange(FRAMES) / 2.0)
            angle = rng.uniform(0, 2 * np.pi)
            truth = np.rint(drift * (t / t[-1])[:, None] * [np.cos(angle), np.sin(angle)]).astype(int)
            margin, left, frames = drift + 2, electrons.copy(), []
            for i, (x, y) in enumerate(truth):
                drawn = rng.binomial(left, share / (1 - i * share))  # every electron falls into one frame at most
                left -= drawn
                view = drawn[margin - y : electrons.shape[0] - margin - y, margin - x : electrons.shape[1] - margin - x]
                h, w = (n // 2 * 2 for n in view.shape)
                frames.append(view[:h, :w].reshape(h // 2, 2, w // 2, 2).sum(axis=(1, 3)).astype(np.float32))
            done = correct_movie(lambda frames=frames: iter(frames), 2 * pixel, seed=3).track
            errors.append((2 * rms_error(done.movement_px, truth / 2), done.model, 2 * done.predicted_error_px))
        print(f"{total:5.1f} {drift:4d} | " + ", ".join(f"{e:.3f} ({pixel * e:.2f} A, {model}, {own:.2f})" for e, model, own in errors))


def against_relion(folder: str) -> None:
    """The movie of a RELION project whose content moves by a known constant step, by RELION's own motion correction and by ours.

    mov/m1.mrcs and MotionCorr/m1.star; a shift in the STAR file is what RELION applies to a frame, minus the content's movement.
    """
    star = read_star(Path(folder) / "MotionCorr/m1.star")
    pixel = float(star["general"]["rlnMicrographOriginalPixelSize"])
    theirs = -star["global_shift"][["rlnMicrographShiftX", "rlnMicrographShiftY"]].to_numpy(float)
    frames = read_mrc(Path(folder) / "mov/m1.mrcs")[0]
    truth = np.arange(len(frames))[:, None] * RELION_STEP_PX
    ours = correct_movie(lambda: iter(frames), pixel, seed=1).track
    print(f"RELION's movie, {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]}: error rms A: RELION {pixel * rms_error(theirs, truth):.2f}, "
          f"ours {pixel * rms_error(ours.movement_px, truth):.2f} ({ours.model}), uncorrected {pixel * rms_error(0 * truth, truth):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micrograph")
    parser.add_argument("--relion", help="folder of a RELION project with mov/ and MotionCorr/")
    parser.add_argument("--local", action="store_true", help="local motion only")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048], help="image sizes of --local: 1024 at 3 e/A^2, 2048 at 30 e/A^2")
    parser.add_argument("--pixel", type=float, default=0.8538)
    parser.add_argument("--dose", type=float, default=47.6, help="e/A^2 of the micrograph")
    chosen = parser.parse_args()
    if chosen.relion:
        against_relion(chosen.relion)
    if chosen.micrograph:
        semi_real(chosen.micrograph, chosen.pixel, chosen.dose)
    if chosen.local:
        local_motion(chosen.repeats, chosen.sizes)
    elif chosen.repeats:
        simulated(chosen.repeats)


if __name__ == "__main__":
    main()
