"""Bent views, drawn here from a formula, against those of a rigid specimen."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from synthetic_series import view_axes

from cryoet_core.geometry.local_deformation import LocalDeformation
from cryoet_core.geometry.tilt_geometry import TiltGeometry
from cryoet_core.metadata import TiltSeries
from cryoet_core.tomogram.from_series import reconstruct_series
from cryoet_core.tomogram.undeform import undeformed_views

PIXEL, SHAPE = 10.0, (96, 108)
TILTS = np.arange(-50, 51, 10.0)


def draw(blobs, share=0.0, sigma_angst=22.0):
    """View of blobs at x, y (2, m); with ``share`` the whole picture is bent: what a pixel shows lies where ``bend`` comes from."""
    v, u = ((np.arange(n) - n // 2) * PIXEL for n in SHAPE)
    seen = np.stack(np.meshgrid(u, v))
    source = seen.copy()
    for _ in range(30):
        source = seen - bend(*source, share)
    x, y = source.reshape(2, -1)
    square = (x[:, None] - blobs[0]) ** 2 + (y[:, None] - blobs[1]) ** 2
    return (5 - np.exp(-square / (2 * sigma_angst**2)).sum(axis=1)).reshape(SHAPE).astype(np.float32)


def bend(x, y, share):
    """Displacement in A, quadratic in the image: up to 30 A at the border."""
    x, y = x / 500, y / 500
    return share * np.array([30 * x * x - 10 * y + 4, 25 * x * y + 15 * x])


def coefficients(share):
    """The same in the order 1, u, v, u^2, u v, v^2 of 1000 A."""
    return share * np.array([[4, 0], [0, 30], [-20, 0], [120, 0], [0, 100], [0, 0]], dtype=float)


def views():
    """(rigid, deformed) views of one specimen."""
    rng = np.random.default_rng(2)
    points = rng.uniform(-1, 1, (120, 3)) * [480, 480, 80]
    rigid, deformed = [], []
    for axes, tilt in zip(view_axes(TILTS, 85.0), TILTS, strict=True):
        rigid.append(draw(axes @ points.T))
        deformed.append(draw(axes @ points.T, abs(tilt) / 50))
    return np.array(rigid), np.array(deformed)


def rms(a):
    return float(np.sqrt(np.mean(np.square(a))))


def test_views_come_back_to_those_of_a_rigid_specimen():
    rigid, deformed = views()
    deformation = LocalDeformation(np.array([coefficients(abs(t) / 50) for t in TILTS]))
    back = undeformed_views(deformed, deformation, PIXEL)
    inner = (slice(None), slice(10, -10), slice(10, -10))
    before, after = rms(deformed[inner] - rigid[inner]), rms(back[inner] - rigid[inner])
    assert after < 0.02 * before
    # nothing moves at zero tilt; the spline's own loss is below 1e-3
    np.testing.assert_allclose(back[len(TILTS) // 2], deformed[len(TILTS) // 2], atol=2e-3)


def test_tomogram_of_a_deformed_specimen_is_that_of_the_rigid_one():
    rigid, deformed = views()
    config = SimpleNamespace(
        method="wbp", sirt_iterations=10, sirt_alpha="auto", angular_weights="adjacent", radial_cutoff=0.35, radial_falloff=0.035,
        super_sampling=1, view_scaling="none",
    )  # fmt: skip
    zero = np.zeros(TILTS.size)
    table = pd.DataFrame({
        "tilt_id": np.arange(TILTS.size) + 1, "nominal_tilt_deg": TILTS, "pre_exposure_e_per_a2": zero, "excluded": [1] + [0] * (TILTS.size - 1),
        "exclude_reason": ["dark"] + ["none"] * (TILTS.size - 1),
    })  # fmt: skip
    series = TiltSeries("TS_01", 300.0, 2.7, 0.1, PIXEL, PIXEL, -1, SHAPE[::-1], (0, 0, 0), table)
    series = series.with_geometry(TiltGeometry.nominal(TILTS, 85.0))
    bent = series.with_local_deformation(LocalDeformation(np.array([coefficients(abs(t) / 50) for t in TILTS])))
    size = (64, 64, 24)
    truth, without, corrected = (
        reconstruct_series(s, images[1:], size, config)[0] for s, images in ((series, rigid), (series, deformed), (bent, deformed))
    )
    assert rms(corrected - truth) < 0.15 * rms(without - truth)
