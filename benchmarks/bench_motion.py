"""Seconds per tilt of motion correction with even and odd sums, against its FFT floor in the same run, on one core.

    OMP_NUM_THREADS=1 python benchmarks/bench_motion.py [--size 4096] [--frames 8]

Floor: one forward transform of every frame and two inverse ones (float32, scipy.fft, one thread).
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter

from cryoet_core.io.gain import Gain
from cryoet_core.movies.correct import correct_movie


def make_frames(size: int, count: int) -> list[np.ndarray]:
    """uint8 counts of a specimen that drifts by whole pixels."""
    rng = np.random.default_rng(1)
    image = gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 4, mode="wrap")
    image = 1.4 * (1 + 0.1 * image / image.std())
    return [rng.poisson(np.roll(image, (i, 2 * i), axis=(0, 1))).astype(np.uint8) for i in range(count)]


def cpu_seconds(*works, repeats: int) -> list[float]:
    """Least processor time of each of ``works``, run in turns, so that a busy machine hinders all alike."""
    best = [np.inf] * len(works)
    for _ in range(repeats):
        for i, work in enumerate(works):
            start = time.process_time()
            work()
            best[i] = min(best[i], time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    chosen = parser.parse_args()
    frames, shape = make_frames(chosen.size, chosen.frames), (chosen.size, chosen.size)
    gain = Gain(np.ones(shape, np.float32), np.zeros(shape, bool))

    def floor():
        for frame in frames:
            spectrum = rfft2(frame.astype(np.float32))
        irfft2(spectrum, s=shape), irfft2(spectrum, s=shape)

    def correct():
        return correct_movie(lambda: iter(frames), 1.5, gain, seed=1)

    correct()  # compile
    base, ours = cpu_seconds(floor, correct, repeats=chosen.repeats)
    print(f"{chosen.frames} frames of {chosen.size}^2: {ours:.2f} CPU s; FFT floor {base:.2f} CPU s; ratio {ours / base:.2f} (asked: at most 1.6)")
    if chosen.profile:
        profile = cProfile.Profile()
        profile.runcall(correct)
        pstats.Stats(profile).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main()
