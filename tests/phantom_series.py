"""A tilt series of Gaussian blobs drawn from formulas written out here, sharing no code with the library."""

import numpy as np
import pandas as pd

from cryoet_core.metadata import TiltSeries

BLOBS_PX = np.array([[0, 0, 0], [5, 0, 0], [0, 6, 2], [-3, -4, 5], [2, -6, -4], [-6, 3, -2], [4, 4, -6]], float)
MASSES = np.array([1.0, 0.8, 1.2, 0.7, 1.1, 0.9, 0.6])
SIGMA_PX = 1.2


def view_matrix(tilt_deg, axis_deg):
    """Rz(axis) Ry(tilt), written out."""
    t, a = np.deg2rad(tilt_deg), np.deg2rad(axis_deg)
    ry = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return rz @ ry


def particle_matrix(rot, tilt, psi):
    """RELION's A(rot, tilt, psi), element by element."""
    f, t, p = np.deg2rad([rot, tilt, psi])
    cf, sf, ct, st, cp, sp = np.cos(f), np.sin(f), np.cos(t), np.sin(t), np.cos(p), np.sin(p)
    return np.array(
        [
            [cp * ct * cf - sp * sf, cp * ct * sf + sp * cf, -cp * st],
            [-sp * ct * cf - cp * sf, -sp * ct * sf + cp * cf, sp * st],
            [st * cf, st * sf, ct],
        ]
    )


def ctf_image(shape, pixel, defocus, voltage_kv=300.0, cs_mm=2.7, q0=0.1):
    """CTF on the full FFT grid of an image."""
    volts = voltage_kv * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    ky, kx = np.meshgrid(np.fft.fftfreq(shape[0], pixel), np.fft.fftfreq(shape[1], pixel), indexing="ij")
    k2 = kx**2 + ky**2
    gamma = np.pi * wavelength * defocus * k2 - 0.5 * np.pi * cs_mm * 1e7 * wavelength**3 * k2**2
    return np.sin(gamma + np.arctan(q0 / np.sqrt(1 - q0**2)))


def dose_image(shape, pixel, dose):
    """Amplitudes left after ``dose`` on the full FFT grid."""
    ky, kx = np.meshgrid(np.fft.fftfreq(shape[0], pixel), np.fft.fftfreq(shape[1], pixel), indexing="ij")
    k = np.maximum(np.hypot(kx, ky), 1e-9)
    return np.exp(-dose / (2 * (0.24499 * k**-1.6649 + 2.8141)))


def gaussians(shape, centres_xy, masses, sigma):
    """Sum of 2D Gaussians of integral ``masses`` at ``centres_xy`` (index coordinates)."""
    y, x = np.arange(shape[0]), np.arange(shape[1])
    image = np.zeros(shape)
    for (cx, cy), mass in zip(centres_xy, masses, strict=True):
        gx, gy = (np.exp(-((a - c) ** 2) / (2 * sigma**2)) for a, c in ((x, cx), (y, cy)))
        image += mass / (2 * np.pi * sigma**2) * gy[:, None] * gx[None, :]
    return image


def truth_map(n):
    """The blobs as a volume (n, n, n), index n//2 at the origin; grey values are densities per voxel."""
    axis = np.arange(n) - n // 2
    volume = np.zeros((n, n, n))
    for (bx, by, bz), mass in zip(BLOBS_PX, MASSES, strict=True):
        gz, gy, gx = (np.exp(-((axis - b) ** 2) / (2 * SIGMA_PX**2)) for b in (bz, by, bx))
        volume += mass * gz[:, None, None] * gy[None, :, None] * gx / (2 * np.pi * SIGMA_PX**2) ** 1.5
    return volume


def make_series(tilts, axis_deg, shape, pixel, *, handedness=-1, defocus=12000.0, shifts=None, dose_step=1.0):
    """TiltSeries without images; ``defocus`` and dose grow with the row so that views differ."""
    n = len(tilts)
    shifts = np.zeros((n, 2)) if shifts is None else np.asarray(shifts, float)
    table = pd.DataFrame(
        {
            "tilt_id": np.arange(1, n + 1),
            "nominal_tilt_deg": tilts,
            "pre_exposure_e_per_a2": dose_step * np.arange(n),
            "exposure_e_per_a2": float(dose_step),
            "defocus_u_angst": defocus + 100.0 * np.arange(n),
            "defocus_v_angst": defocus + 100.0 * np.arange(n),
            "defocus_angle_deg": 0.0,
            "phase_shift_deg": 0.0,
            "ctf_scale": np.cos(np.deg2rad(tilts)),
            "x_tilt_deg": 0.0,
            "y_tilt_deg": np.asarray(tilts, float),
            "z_rot_deg": float(axis_deg),
            "x_shift_angst": shifts[:, 0],
            "y_shift_angst": shifts[:, 1],
            "excluded": 0,
            "exclude_reason": "none",
        }
    )
    return TiltSeries(
        "TS_01", 300.0, 2.7, 0.1, pixel, pixel, handedness, (shape[1], shape[0]), (shape[1], shape[0], 64), table
    )


def draw_views(series, positions_angst, angles_deg, shape, *, with_ctf=True):
    """Images -CTF * projections of particles at ``positions_angst`` (m, 3), turned by ``angles_deg`` (m, 3)."""
    pixel, tilts = series.pixel_size_angst, series.tilts
    images = np.zeros((len(tilts),) + tuple(shape), np.float32)
    for f, row in tilts.iterrows():
        view = view_matrix(row["y_tilt_deg"], row["z_rot_deg"])
        for position, angles in zip(positions_angst, angles_deg, strict=True):
            u, v, depth = view @ position + [row["x_shift_angst"], row["y_shift_angst"], 0]
            blobs = (view @ particle_matrix(*angles) @ BLOBS_PX.T).T[:, :2]
            centres = blobs + [u / pixel + shape[1] // 2, v / pixel + shape[0] // 2]
            image = gaussians(shape, centres, MASSES, SIGMA_PX)
            if with_ctf:
                transfer = ctf_image(shape, pixel, row["defocus_u_angst"] + series.handedness * depth)
                transfer = transfer * dose_image(shape, pixel, row["pre_exposure_e_per_a2"]) * row["ctf_scale"]
                image = np.real(np.fft.ifft2(np.fft.fft2(image) * transfer))
            images[f] -= image
    return images
