"""Views of gold beads, ribosomes, vesicles, ice crystals and carbon: spheres in a slab, one exit wave, propagated and
counted. Shares no code with the library."""

import numpy as np

WAVELENGTH, RAD_PER_V_ANGST = 0.019687, 6.53e-4  # A, 300 kV
GOLD_POTENTIAL, GOLD_ABSORPTION = 18.0, 0.0048  # V above ice, 1/A
PROTEIN_POTENTIAL, PROTEIN_ABSORPTION = 2.5, 0.00005


def view_rows(tilt_deg, axis_deg):
    """(2, 3): how x, y, z of the specimen become u, v of the image; (3,) how they become depth."""
    t, a = np.deg2rad(tilt_deg), np.deg2rad(axis_deg)
    across, along = np.array([np.cos(t), 0, np.sin(t)]), np.array([0.0, 1.0, 0.0])
    return np.array([across * np.cos(a) - along * np.sin(a), across * np.sin(a) + along * np.cos(a)])


def chord(r, radius):
    return 2 * np.sqrt(np.clip(radius**2 - r**2, 0, None))


class Phantom:
    """A specimen of spheres: columns x, y, z, radius, potential (V above ice), absorption (1/A). Vesicles are a
    sphere less a smaller one.

    positions : (n, 3) of the beads, drawn where not given.
    """

    def __init__(
        self,
        rng,
        *,
        shape=(400, 440),
        pixel=5.0,
        thickness=1500.0,
        beads=0,
        diameters=(100.0,),
        ribosomes=60,
        vesicles=3,
        crystals=3,
        aggregates=2,
        dark_crystals=1,
        carbon=True,
        positions=None,
    ):
        self.shape, self.pixel, self.thickness, self.carbon, self.carbon_edge = shape, pixel, thickness, carbon, -0.42
        self.field = np.array([shape[1], shape[0]]) * pixel
        half = np.array([*(0.5 * self.field), 0.45 * thickness])

        def places(n, reach=1.1):
            return rng.uniform(-1, 1, (n, 3)) * half * [reach, reach, 1]

        self.beads = places(beads, 0.95) if positions is None else np.asarray(positions, float)
        beads = len(self.beads)
        self.bead_diameter = np.resize(diameters, beads) * (1 + 0.04 * rng.standard_normal(beads))
        rows = [
            np.column_stack(
                [self.beads, 0.5 * self.bead_diameter, np.full((beads, 2), [GOLD_POTENTIAL, GOLD_ABSORPTION])]
            )
        ]
        for centre in places(ribosomes):
            lobes = centre + rng.normal(0, 50, (9, 3))
            rows.append(
                np.column_stack(
                    [lobes, rng.uniform(30, 55, 9), np.full((9, 2), [PROTEIN_POTENTIAL, PROTEIN_ABSORPTION])]
                )
            )
        for centre in places(vesicles):
            outer = rng.uniform(120, 400)
            wall = np.array([[*centre, outer, 2.5, 0.00006], [*centre, outer - 45, -2.5, -0.00006]])
            rows.append(wall)
        rows.append(
            np.column_stack(
                [places(aggregates), rng.uniform(100, 250, aggregates), np.full((aggregates, 2), [4.0, 0.0001])]
            )
        )  # dense protein
        self.dark = np.column_stack([places(dark_crystals), rng.uniform(300, 450, dark_crystals)])
        rows.append(np.column_stack([self.dark, np.full((dark_crystals, 2), [4.0, 0.002])]))  # contamination
        self.spheres = np.concatenate(rows)
        self.crystals = np.column_stack([places(crystals), rng.uniform(60, 300, crystals)])

    def landing(self, points, tilt_deg, axis_deg, shift):
        """(n, 2) A from the view's centre."""
        return points @ view_rows(tilt_deg, axis_deg).T + shift

    def view(self, rng, tilt_deg, *, dose=3.0, defocus=30000.0, axis_deg=86.0, shift=(0.0, 0.0), mean_free_path=4000.0):
        """(h, w) float32 electrons of one view."""
        h, w = self.shape
        pad = 32
        y, x = (np.arange(n + 2 * pad) - pad - n // 2 for n in (h, w))
        phase = np.zeros((len(y), len(x)))
        absorbed = np.zeros_like(phase)
        for (u, v), radius, potential, absorption in zip(
            self.landing(self.spheres[:, :3], tilt_deg, axis_deg, shift), *self.spheres[:, 3:].T, strict=True
        ):
            box, r = self._window(x, y, u, v, radius)
            path = chord(r, radius)
            phase[box] += RAD_PER_V_ANGST * potential * path
            absorbed[box] += absorption * path
        for (u, v), radius in zip(
            self.landing(self.crystals[:, :3], tilt_deg, axis_deg, shift), self.crystals[:, 3], strict=True
        ):
            box, r = self._window(x, y, u, v, radius)
            absorbed[box] += rng.choice([0.0, 0.03, 0.2]) * (r < radius)  # Bragg contrast comes and goes
        along = 1 / np.cos(np.deg2rad(tilt_deg))
        if self.carbon:
            edge = (
                x[None] * self.pixel * np.cos(0.4) + y[:, None] * self.pixel * np.sin(0.4)
            ) < self.carbon_edge * self.field[0]
            phase += edge * (0.6 + 0.08 * rng.standard_normal(phase.shape)) * along
            absorbed += 0.12 * along * edge
        phase += 0.15 * np.sqrt(along) * rng.standard_normal(phase.shape) / self.pixel  # amorphous ice
        ky, kx = np.fft.fftfreq(len(y), self.pixel)[:, None], np.fft.fftfreq(len(x), self.pixel)[None]
        k2 = kx**2 + ky**2
        aberration = np.pi * WAVELENGTH * defocus * k2 - 0.5 * np.pi * 2.7e7 * WAVELENGTH**3 * k2**2
        wave = np.fft.fft2(np.exp(1j * phase - 0.5 * absorbed)) * np.exp(1j * aberration - 20 * k2)
        intensity = (np.abs(np.fft.ifft2(wave)) ** 2)[pad:-pad, pad:-pad]
        electrons = dose * self.pixel**2 * np.exp(-self.thickness * along / mean_free_path)
        return rng.poisson(electrons * intensity).astype(np.float32)

    def _window(self, x, y, u, v, radius):
        cx, cy, reach = u / self.pixel, v / self.pixel, radius / self.pixel + 1
        columns = slice(*np.searchsorted(x, [cx - reach, cx + reach]))
        rows = slice(*np.searchsorted(y, [cy - reach, cy + reach]))
        return (rows, columns), np.hypot(x[None, columns] - cx, y[rows, None] - cy) * self.pixel

    def seen(self, tilt_deg, axis_deg=86.0, shift=(0.0, 0.0), margin=80.0):
        """Which beads lie inside the view and not before contamination, and where all of them lie (n, 2)."""
        uv = self.landing(self.beads, tilt_deg, axis_deg, shift)
        shown = np.all(np.abs(uv) < 0.5 * self.field - margin, axis=1)
        for place, radius in zip(
            self.landing(self.dark[:, :3], tilt_deg, axis_deg, shift), self.dark[:, 3], strict=True
        ):
            shown &= np.linalg.norm(uv - place, axis=1) > radius + self.bead_diameter
        return shown, uv
