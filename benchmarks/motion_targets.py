"""Errors of motion estimation on simulated movies against truth: 3 e/A^2 in six frames, drifts, contrast down to nothing.

    python benchmarks/motion_targets.py [--micrograph K2.mrc]

The specimen is a periodic random image made finer than the camera's pixels, moved by whole fine pixels, cut and binned here: nothing is shared
with the library. With --micrograph, counts of a real micrograph are thinned binomially into frames with a known drift.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.fft import irfft2, rfft2

from cryoet_core.io.mrc import read_mrc
from cryoet_core.movies.correct import correct_movie

SIZE, PIXEL, FRAMES, DOSE = 1024, 1.9, 6, 3.0
FINE = 2


def specimen(rng, rms: float) -> np.ndarray:
    """Periodic relative contrast (2 SIZE, 2 SIZE) of given rms after binning, 1/f amplitudes through a CTF at 3 um."""
    n = FINE * SIZE
    k = np.hypot(np.fft.fftfreq(n, PIXEL / FINE)[:, None], np.fft.rfftfreq(n, PIXEL / FINE)[None])
    ctf = np.sin(np.pi * 0.0196875 * 3e4 * k**2 - 0.5 * np.pi * 2.7e7 * 0.0196875**3 * k**4 + 0.1)
    amplitude = ctf * np.exp(-60 * k**2) / np.maximum(k, 1 / 500)
    image = irfft2(rfft2(rng.standard_normal((n, n))) * amplitude, s=(n, n))
    small = image.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))
    return rms * (image - image.mean()) / small.std()


def track(rng, drift_px: float) -> np.ndarray:
    """(FRAMES, 2) x, y in camera pixels, on the fine grid: fast at first, total length drift_px, some wobble."""
    t = 1 - np.exp(-np.arange(FRAMES) / 2.0)
    angle = rng.uniform(0, 2 * np.pi)
    path = drift_px * (t / t[-1])[:, None] * [np.cos(angle), np.sin(angle)] + rng.normal(0, 0.03 * drift_px, (FRAMES, 2))
    return np.rint(FINE * path) / FINE


def movie(rng, rms: float, movement) -> list[np.ndarray]:
    """Frames of Poisson counts."""
    image, frames = specimen(rng, rms) if rms > 0 else None, []
    electrons = DOSE / FRAMES * PIXEL**2
    for x, y in movement:
        if image is None:
            frames.append(rng.poisson(electrons, (SIZE, SIZE)).astype(np.float32))
            continue
        moved = np.roll(image, (int(round(FINE * y)), int(round(FINE * x))), axis=(0, 1))
        small = moved.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))
        frames.append(rng.poisson(electrons * np.clip(1 + small, 0, None)).astype(np.float32))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micrograph")
    parser.add_argument("--pixel", type=float, default=0.8538)
    parser.add_argument("--dose", type=float, default=47.6, help="e/A^2 of the micrograph")
    chosen = parser.parse_args()
    if chosen.micrograph:
        semi_real(chosen.micrograph, chosen.pixel, chosen.dose)
    if chosen.repeats:
        simulated(chosen.repeats)


if __name__ == "__main__":
    main()
