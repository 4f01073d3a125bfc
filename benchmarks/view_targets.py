"""Which planted bad views exclude_views finds by itself, and how many good ones it loses, over many simulated series.

Each series: 41 views of 512 x 512 pixels, -60 to 60 degrees, of two textured layers 800 A apart, counted electrons through ice of random
thickness, shifts of up to 4 % of the field. Four views of every series are bad in one way: dark (grid bar over all of it), half
dark (40 to 80 % covered), another place (the stage jumped away), moved (half a field). Good series are judged as well. Criteria: the
defaults (dark, blocked), and with neighbour_outlier_sigma 6 and min_field_of_view 0.6. No motion and CTF here: they are the tables' own.

    python benchmarks/view_targets.py [--seeds 10]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from scipy import ndimage

from cryoet_core.config.exclude_views import ExcludeViews
from cryoet_core.errors import DataQualityError
from cryoet_core.metadata import TiltSeries
from cryoet_core.tilt_series.exclude import exclude_views, measure_views

SIZE, PIXEL = 512, 8.0
TILTS = np.arange(-60.0, 60.1, 3.0)
FAULTS = ("none", "dark", "half dark", "another place", "moved")


def texture(rng, size: int) -> np.ndarray:
    """Dark blobs of 100 to 400 A on grey, (size, size), contrast 1."""
    image = np.zeros((size, size))
    for sigma in (2.0, 4.0, 8.0):
        points = (rng.random((size, size)) < 0.02 / sigma**2).astype(float)
        image -= ndimage.gaussian_filter(points, sigma) * sigma**2
    return image / image.std()


def view(layers, tilt: float, axis: float, shift) -> np.ndarray:
    """The layers (h, w) at +-50 px seen at ``tilt``: across the axis compressed by the cosine, moved by height x sine; (SIZE, SIZE)."""
    t, a = np.deg2rad(tilt), np.deg2rad(axis)
    grid = np.arange(SIZE) - SIZE // 2
    x, y = grid[None, :] - shift[0], grid[:, None] - shift[1]
    across, along = x * np.cos(a) + y * np.sin(a), -x * np.sin(a) + y * np.cos(a)
    total = 0.0
    for layer, height in zip(layers, (50.0, -50.0), strict=True):
        place = (across - height * np.sin(t)) / np.cos(t)
        half = layer.shape[0] // 2
        total = total + ndimage.map_coordinates(layer, [along + half, place + half], order=1, mode="wrap")
    return total


def make_series(seed: int, fault: str):
    """(views, TiltSeries, rows that are bad)."""
    rng = np.random.default_rng([seed, FAULTS.index(fault)])
    axis, counts, ratio = rng.uniform(-180, 180), rng.uniform(5, 40), rng.uniform(0.2, 0.9)
    layers, other = [texture(rng, 1400) for _ in range(2)], [texture(rng, 1400) for _ in range(2)]
    bad = np.sort(rng.choice(np.delete(np.arange(TILTS.size), np.s_[17:24]), 4, replace=False)) if fault != "none" else np.zeros(0, int)
    views = []
    for i, tilt in enumerate(TILTS):
        shift = rng.uniform(-0.04, 0.04, 2) * SIZE
        if fault == "moved" and i in bad:
            shift = shift + rng.choice([-0.5, 0.5], 2) * SIZE * np.array([1, 0])
        image = view(other if fault == "another place" and i in bad else layers, tilt, axis, shift)
        expected = counts * np.exp(-ratio / np.cos(np.deg2rad(tilt + rng.normal(0, 2)))) * (1 + 0.05 * image)
        if fault in ("dark", "half dark") and i in bad:
            covered = rng.uniform(0.4, 0.8) if fault == "half dark" else 1.1
            expected[: int(covered * SIZE)] *= rng.uniform(0.05, 0.3)
        views.append(rng.poisson(np.maximum(expected, 0)).astype(np.float32))
    n = TILTS.size
    table = pd.DataFrame({
        "tilt_id": np.arange(1, n + 1), "nominal_tilt_deg": TILTS, "pre_exposure_e_per_a2": 0.0, "x_tilt_deg": 0.0, "y_tilt_deg": TILTS,
        "z_rot_deg": axis, "x_shift_angst": 0.0, "y_shift_angst": 0.0, "excluded": np.zeros(n, int), "exclude_reason": ["none"] * n,
    })
    return views, TiltSeries("TS", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, (SIZE, SIZE), (0, 0, 0), table), bad


def judge(views, series, bad, settings) -> tuple[int, int]:
    """(bad views missed, good views lost); a series that stops counts as all good ones lost."""
    statistics, thumbnails = measure_views(views)
    try:
        found = ~exclude_views(series, statistics, settings, thumbnails=thumbnails)[0].included
    except DataQualityError:
        found = np.ones(len(series), bool)
    truth = np.isin(np.arange(len(series)), bad)
    return int((truth & ~found).sum()), int((found & ~truth).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--faults", nargs="+", default=FAULTS, choices=FAULTS)
    chosen = parser.parse_args()
    every = {"defaults": ExcludeViews(), "all image criteria": ExcludeViews(neighbour_outlier_sigma=6.0, min_field_of_view=0.6)}
    for fault in chosen.faults:
        counts = {name: np.zeros(2, int) for name in every}
        n_bad, seconds = 0, 0.0
        for seed in range(chosen.seeds):
            views, series, bad = make_series(seed, fault)
            n_bad += len(bad)
            for name, settings in every.items():
                start = time.process_time()
                counts[name] += judge(views, series, bad, settings)
                seconds += (time.process_time() - start) / len(every)
        good = chosen.seeds * TILTS.size - n_bad
        print(f"{fault}: " + "; ".join(f"{name}: {n_bad - m} of {n_bad} bad found, {lost} of {good} good lost" for name, (m, lost) in counts.items())
              + f"; {seconds / chosen.seeds:.1f} CPU s per series", flush=True)


if __name__ == "__main__":
    main()
