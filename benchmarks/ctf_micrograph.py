"""A real micrograph: defocus by the library against an independent one-dimensional fit written here, and a picture.

    python benchmarks/ctf_micrograph.py MICROGRAPH.mrc --pixel 0.8538 --picture rings.png

The 1-D fit shares nothing with the library: own rotational average, background through a running mean of one ring, own CTF formula,
every defocus of the range tried, then golden-section search. It ignores astigmatism, as the mean of U and V does.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar

from cryoet_core.ctf.estimate import CtfSettings, estimate_ctf
from cryoet_core.io.mrc import read_mrc
from cryoet_core.metadata import TiltSeries


def hot_pixels_cut(image: np.ndarray) -> np.ndarray:
    """Values further than 8 robust sigma from the median are set to the median."""
    median = np.median(image)
    sigma = 1.4826 * np.median(np.abs(image - median))
    return np.where(np.abs(image - median) > 8 * sigma, median, image)


def radial_power(image: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequency (cycles/px) and mean power of half-overlapping windowed tiles, finely binned."""
    taper = np.outer(np.blackman(window), np.blackman(window))
    total = 0
    for y in range(0, image.shape[0] - window + 1, window // 2):
        for x in range(0, image.shape[1] - window + 1, window // 2):
            tile = image[y : y + window, x : x + window]
            total = total + np.abs(np.fft.fft2((tile - tile.mean()) * taper)) ** 2
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(window), np.fft.fftfreq(window)))
    bins = (f * window).round().astype(int).ravel()
    power = np.bincount(bins, total.ravel()) / np.bincount(bins)
    return np.arange(window // 2) / window, power[: window // 2]


def one_dimensional_fit(k, power, voltage_kv, cs_mm, amplitude, low_angst, high_angst, search):
    """(defocus in A, curve, model) that correlate best between the two resolutions."""
    volts = 1e3 * voltage_kv
    wave = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    inside = (k > 1 / low_angst) & (k < 1 / high_angst)
    kk = k[inside]

    def flat(values, z):
        """Values minus their mean over one ring around each radius; a ring is 1 / (wave z k) wide."""
        half = 0.5 / (wave * z * kk)
        sums = np.concatenate([[0], np.cumsum(values)])
        first = np.searchsorted(kk, kk - half)
        last = np.searchsorted(kk, kk + half)
        return values - (sums[last] - sums[first]) / np.maximum(last - first, 1)

    def pair(z):
        gamma = np.pi * wave * z * kk**2 - 0.5 * np.pi * cs_mm * 1e7 * wave**3 * kk**4 + np.arcsin(amplitude)
        return flat(np.log(power[inside]), z), flat(np.sin(gamma) ** 2, z)

    def misfit(z):
        a, b = pair(z)
        return -np.corrcoef(a, b)[0, 1]

    grid = np.arange(*search, 50.0)
    best = grid[np.argmin([misfit(z) for z in grid])]
    z = minimize_scalar(misfit, bounds=(best - 100, best + 100), method="bounded").x
    return z, kk, *pair(z), -misfit(z)


def library_fit(image, arguments):
    """The library's estimate of one untilted view."""
    tilts = pd.DataFrame({
        "tilt_id": [1], "image": ["none"], "nominal_tilt_deg": 0.0, "pre_exposure_e_per_a2": 0.0, "x_tilt_deg": 0.0,
        "y_tilt_deg": 0.0, "z_rot_deg": 0.0, "x_shift_angst": 0.0, "y_shift_angst": 0.0, "excluded": 0, "exclude_reason": "none",
    })
    series = TiltSeries("micrograph", arguments.voltage, arguments.cs, arguments.amplitude, arguments.pixel, arguments.pixel, -1,
                        image.shape[::-1], (0, 0, 0), tilts)
    settings = CtfSettings(arguments.window, (30.0, arguments.high), tuple(arguments.search))
    return estimate_ctf(series, [image], settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("micrograph")
    parser.add_argument("--pixel", type=float, required=True)
    parser.add_argument("--voltage", type=float, default=300.0)
    parser.add_argument("--cs", type=float, default=2.7)
    parser.add_argument("--amplitude", type=float, default=0.1)
    parser.add_argument("--high", type=float, default=4.5, help="finest resolution fitted, A")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--search", type=float, nargs=2, default=(5000.0, 50000.0))
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    image = hot_pixels_cut(read_mrc(arguments.micrograph)[0].squeeze().astype(np.float32))
    estimate = library_fit(image, arguments)
    u, v, angle = estimate.fit.defocus_u_v_angle
    k, power = radial_power(image, 1024)
    z, kk, curve, model, correlation = one_dimensional_fit(
        k / arguments.pixel, power, arguments.voltage, arguments.cs, arguments.amplitude, 30.0, arguments.high, arguments.search
    )
    mean = float(estimate.fit.defocus_angst[0])
    print(f"library: mean {mean / 10:.1f} nm (U {u[0] / 10:.1f}, V {v[0] / 10:.1f} nm, angle {angle[0]:.0f} deg), score {estimate.score[0]:.2f}, "
          f"fits to {estimate.resolution_angst[0]:.2f} A")
    print(f"independent 1-D fit: {z / 10:.1f} nm, correlation {correlation:.2f}; difference {abs(z - mean) / 10:.1f} nm (asked: at most 30)")
    if arguments.picture:
        draw(estimate, kk, curve, model, arguments.picture)


def draw(estimate, k, curve, model, path) -> None:
    """Left: measured half beside fitted half. Right: the 1-D curve and its model."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    left.imshow(estimate.pictures[0], cmap="gray", origin="lower")
    left.set(title="spectrum (left), fitted |CTF| (right)", xticks=[], yticks=[])
    right.plot(k, curve / curve.std(), label="rotational average")
    right.plot(k, model / model.std(), label="model of the 1-D fit")
    right.set(xlabel="1/A", ylabel="standard deviations")
    right.legend()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
