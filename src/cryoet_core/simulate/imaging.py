"""From a slab of molecules to the intensity that reaches the camera, one view at a time.

Weak-phase imaging: intensity / mean = 1 - 2 CTF * phase, so dense things are dark. Every large particle has the CTF of
its own depth; ice and small proteins, which fill the slab, have that of the slab's mid plane below each image point.
The work grid is larger than the camera, so nothing wraps round into the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoet_core.simulate import physics
from cryoet_core.simulate.acquisition import View
from cryoet_core.simulate.geometry import euler_matrix, mid_plane_depth, view_matrix
from cryoet_core.simulate.settings import SimulationSettings
from cryoet_core.simulate.specimen import Specimen
from cryoet_core.simulate.splat import gaussian_table, project_beads, splat_blobs, splat_discs

BATCH = 32

LEAFLET_ANGST, LEAFLET_SIGMA_ANGST = 18.0, 6.0
LEAFLET_V_ANGST = 40.0
"""A bilayer: heads 18 A from its middle; each leaflet's excess potential per area, with the proteins in it, V A^3 per A^2."""

GOLD_POTENTIAL_V = 24.0
"""Mean inner potential of gold over that of vitreous ice, V (28 - 4)."""

GOLD_AMPLITUDE_CONTRAST = 0.35
"""Most electrons that gold scatters miss the aperture: a bead of 100 A is black."""

PROFILE_STEP_ANGST = 1.0


def _even_fast_length(least: float) -> int:
    """The next even length that transforms fast."""
    return 2 * scipy.fft.next_fast_len(math.ceil(least / 2), real=True)


class Microscope:
    """Images one specimen under the settings; keeps what all views share (grids, rotations, envelopes).

    The work grid has ``margin`` extra pixels on every side; its index (margin + n//2) is the camera's centre n//2.
    """

    def __init__(self, specimen: Specimen, settings: SimulationSettings):
        self.specimen, self.settings = specimen, settings
        self.pixel = settings.pixel_size_angst
        self.lens = physics.Lens(
            settings.voltage_kv, settings.spherical_aberration_mm, settings.amplitude_contrast
        )
        height, width = settings.image_shape
        self.shape = (_even_fast_length(height + 48), _even_fast_length(width + 48))
        self.first = tuple(s // 2 - n // 2 for s, n in zip(self.shape, (height, width), strict=True))
        self.rotations = np.array([euler_matrix(*e) for e in specimen.euler]).reshape(-1, 3, 3)
        self.rad_per_v_angst = physics.phase_per_potential(settings.voltage_kv)
        delocalised = self._delocalisation()
        reach = max(m.reach_angst for m in specimen.species) + 4 * settings.bead_sigma_angst
        self.patch = _even_fast_length(2 * (reach + delocalised) / self.pixel)
        self.table = gaussian_table(settings.bead_sigma_angst / self.pixel)
        self.membranes = [vesicle_profile(radius) for radius in specimen.vesicles[:, 3]]

    def _delocalisation(self) -> float:
        """How far (A) the CTF spreads detail at 1/10 A: lambda z k at the strongest defocus."""
        k = min(0.1, 0.5 / self.pixel)
        reach = 0.5 * self.pixel * max(self.settings.image_shape)
        defocus = self.settings.defocus_angst + self.settings.defocus_range_angst + reach
        return physics.wavelength_angst(self.settings.voltage_kv) * defocus * k

    def camera(self, field: np.ndarray) -> np.ndarray:
        """Cut the camera's frame (h, w) out of a work-grid image."""
        height, width = self.settings.image_shape
        y, x = self.first
        return field[y : y + height, x : x + width]

    def optics(self, shape, view: View, dose: float):
        """(base, slope, envelope, damage) of a view on an rfft2 grid of ``shape``; see physics.aberration_terms."""
        base, slope = physics.aberration_terms(
            shape, self.pixel, self.lens, view.defocus_u_angst, view.defocus_v_angst, view.defocus_angle_deg
        )
        ky, kx = physics.frequencies_per_angst(shape, self.pixel)
        damage = physics.damage_attenuation(np.hypot(ky, kx), dose, self.settings.voltage_kv).astype(np.float32)
        return base, slope, physics.envelope(shape, self.pixel, self.settings.b_factor_angst2), damage

    def positions(self, points: np.ndarray, view: View):
        """Where tomogram points (n, 3) A land: ((n, 2) x, y index on the work grid, (n,) depth A)."""
        turned = points @ view_matrix(view.x_tilt_deg, view.y_tilt_deg, view.z_rot_deg).T
        shift = np.array([view.x_shift_angst, view.y_shift_angst])
        centre = np.array([self.shape[1] // 2, self.shape[0] // 2])
        return (turned[:, :2] + shift) / self.pixel + centre, turned[:, 2]

    def contrast(self, view: View, rng) -> np.ndarray:
        """CTF * phase over the work grid, float32 (positive where the image is dark)."""
        dose = view.pre_exposure_e_per_a2 + 0.5 * view.exposure_e_per_a2
        field = self._background(view, dose, rng)
        self._add_particles(field, view, dose)
        self._add_gold(field, view)
        return field

    def _background(self, view: View, dose: float, rng) -> np.ndarray:
        """Ice, membranes and small proteins under the local defocus: a few defocus copies blended along the gradient.

        An object between two copies has their weighted mean: of copies 400 A apart it is at most 2 % off at 1/8 A.
        """
        base, slope, env, damage = self.optics(self.shape, view, dose)
        transform = scipy.fft.rfft2(self._crowders(view)) * damage
        transform += self._ice(view, rng)
        step = self.settings.defocus_step_angst
        defocus = self.settings.handedness * self._plane_depth(view)
        first = math.floor(defocus.min() / step)
        last = math.ceil(defocus.max() / step)
        field = np.zeros(self.shape, np.float32)
        for level in range(first, last + 1):
            weight = 1 - np.abs(defocus / np.float32(step) - np.float32(level))
            rows = np.flatnonzero((weight > 0).any(axis=1))
            if not len(rows):
                continue
            copy = physics.apply_ctf(transform, base, slope, level * step, env)
            part = slice(rows[0], rows[-1] + 1)
            field[part] += np.maximum(weight[part], 0) * self.rows_back(copy, part)
        return field

    def rows_back(self, transform: np.ndarray, rows: slice) -> np.ndarray:
        """``rows`` of the inverse transform, float32; overwrites ``transform``."""
        height, width = self.shape
        columns = scipy.fft.ifft(transform, axis=0, norm="forward", overwrite_x=True)
        part = scipy.fft.irfft(columns[rows], n=width, axis=1, norm="forward", overwrite_x=True)
        part *= np.float32(1 / (height * width))
        return part

    def _plane_depth(self, view: View) -> np.ndarray:
        """Depth (A) of the mid plane under every pixel of the work grid, float32."""
        v = (np.arange(self.shape[0]) - self.shape[0] // 2)[:, None] * self.pixel - view.y_shift_angst
        u = (np.arange(self.shape[1]) - self.shape[1] // 2)[None, :] * self.pixel - view.x_shift_angst
        turned = view_matrix(view.x_tilt_deg, view.y_tilt_deg, view.z_rot_deg)
        return mid_plane_depth(turned, u, v).astype(np.float32)

    def _crowders(self, view: View) -> np.ndarray:
        """Phase (rad) of the small proteins and of the membranes, projected."""
        image = np.zeros(self.shape, np.float32)
        points, _ = self.positions(self.specimen.crowder_position, view)
        weights = self.specimen.crowder_potential * (self.rad_per_v_angst / self.pixel**2)
        splat_blobs(image, points, weights, self.specimen.crowder_sigma / self.pixel)
        points, _ = self.positions(self.specimen.vesicles[:, :3], view)
        for point, profile in zip(points, self.membranes, strict=True):
            splat_discs(image, point, profile * np.float32(self.rad_per_v_angst), self.pixel / PROFILE_STEP_ANGST)
        return image

    def path_angst(self, view: View) -> float:
        """Length of the beam's way through the slab."""
        normal = view_matrix(view.x_tilt_deg, view.y_tilt_deg, view.z_rot_deg)[2, 2]
        return self.settings.thickness_angst / normal

    def _ice(self, view: View, rng) -> np.ndarray:
        """Transform of the ice's phase: white at these frequencies, new in every view (water moves under the beam)."""
        density = physics.ice_phase_psd(
            self.path_angst(view), self.settings.ice_structure_factor, self.settings.voltage_kv
        )
        noise = rng.standard_normal(self.shape, dtype=np.float32)
        noise *= np.float32(math.sqrt(density) / self.pixel)
        return scipy.fft.rfft2(noise, overwrite_x=True)

    def _add_particles(self, field: np.ndarray, view: View, dose: float) -> None:
        """Project every large molecule that touches the field, each through the CTF of its own depth."""
        size, half = self.patch, self.patch // 2
        points, depth = self.positions(self.specimen.position, view)
        near = np.floor(points + 0.5)
        touches = np.all((near > -half) & (near < np.array(self.shape[::-1]) + half), axis=1)
        base, slope, env, damage = self.optics((size, size), view, dose)
        env = env * damage
        turn = view_matrix(view.x_tilt_deg, view.y_tilt_deg, view.z_rot_deg)
        for kind, molecule in enumerate(self.specimen.species):
            members = np.flatnonzero(touches & (self.specimen.kind == kind))
            weights = molecule.potential_v_angst3 * np.float32(self.rad_per_v_angst / self.pixel**2)
            for start in range(0, len(members), BATCH):
                who = members[start : start + BATCH]
                images = np.zeros((len(who), size, size), np.float32)
                project_beads(
                    images, molecule.xyz_angst, weights, turn @ self.rotations[who], points[who] - near[who] + half,
                    self.pixel, self.table,
                )
                transforms = scipy.fft.rfft2(images)
                for i, particle in enumerate(who):
                    dz = self.settings.handedness * depth[particle]
                    transforms[i] = physics.apply_ctf(transforms[i], base, slope, dz, env)
                _add_patches(field, scipy.fft.irfft2(transforms, s=(size, size)), near[who].astype(np.int64) - half)

    def _add_gold(self, field: np.ndarray, view: View) -> None:
        """Solid spheres of gold, each through the CTF of its own depth with the amplitude contrast of gold; no damage."""
        if not len(self.specimen.gold):
            return
        size, half = self.patch, self.patch // 2
        points, depth = self.positions(self.specimen.gold, view)
        near = np.floor(points + 0.5)
        touches = np.all((near > -half) & (near < np.array(self.shape[::-1]) + half), axis=1)
        base, slope, env, _ = self.optics((size, size), view, 0.0)
        base += np.float32(math.asin(GOLD_AMPLITUDE_CONTRAST) - math.asin(self.lens.amplitude_contrast))
        ky, kx = physics.frequencies_per_angst((size, size), self.pixel)
        sphere = physics.sphere_transform(np.hypot(ky, kx), 0.5 * self.settings.gold_diameter_angst)
        sphere = sphere * (GOLD_POTENTIAL_V * self.rad_per_v_angst / self.pixel**2)
        for bead in np.flatnonzero(touches):
            x, y = (points[bead] - near[bead] + half) * self.pixel
            transform = (sphere * np.exp(-2j * np.pi * (ky * y + kx * x))).astype(np.complex64)
            transform = physics.apply_ctf(transform, base, slope, self.settings.handedness * depth[bead], env)
            patch = scipy.fft.irfft2(transform, s=(size, size))
            _add_patches(field, patch[None], near[bead][None].astype(np.int64) - half)

    def frames(self, view: View, rng) -> Frames:
        """Expected intensity of every frame relative to the incident beam, made when asked for."""
        relative = np.maximum(1 - 2 * self.contrast(view, rng), np.float32(0.05))
        passed = math.exp(-self.path_angst(view) / self.settings.inelastic_mean_free_path_angst)
        return Frames(self, scipy.fft.rfft2(relative * np.float32(passed)), view.frame_shifts_angst)


@dataclass(frozen=True)
class Frames:
    """A sequence of frames (h, w) float32, one in memory at a time.

    The content of frame f lies ``shifts_angst[f]`` away from its place in the mean frame, whose ``transform`` is given.
    """

    microscope: Microscope
    transform: np.ndarray
    shifts_angst: np.ndarray

    def __len__(self) -> int:
        return len(self.shifts_angst)

    def __getitem__(self, frame: int) -> np.ndarray:
        dx, dy = self.shifts_angst[frame]
        scope = self.microscope
        ky, kx = physics.frequencies_per_angst(scope.shape, scope.pixel)
        moved = self.transform * np.exp(-2j * np.pi * ky * dy).astype(np.complex64)
        moved *= np.exp(-2j * np.pi * kx * dx).astype(np.complex64)
        (y, x), (height, width) = scope.first, scope.settings.image_shape
        return scope.rows_back(moved, slice(y, y + height))[:, x : x + width]


def vesicle_profile(radius_angst: float) -> np.ndarray:
    """Projected potential (V A) of a spherical bilayer at 0, 1, 2, ... A from its centre, float32.

    Two leaflets of Gaussian section about ``radius_angst``, summed along the beam in steps of 1 A.
    """
    end = radius_angst + LEAFLET_ANGST + 5 * LEAFLET_SIGMA_ANGST
    across = np.arange(0.0, end + 1, PROFILE_STEP_ANGST)[:, None]
    along = np.arange(0.5, end + 1)[None, :]
    from_middle = np.abs(np.hypot(across, along) - radius_angst) - LEAFLET_ANGST
    height = LEAFLET_V_ANGST / (math.sqrt(2 * math.pi) * LEAFLET_SIGMA_ANGST)
    return (2 * height * np.exp(-0.5 * (from_middle / LEAFLET_SIGMA_ANGST) ** 2)).sum(axis=1).astype(np.float32)


def _add_patches(field: np.ndarray, patches: np.ndarray, corners: np.ndarray) -> None:
    """Add square patches (n, p, p) at index corners (n, 2) (x, y), clipped to the field."""
    height, width = field.shape
    size = patches.shape[1]
    for patch, (x, y) in zip(patches, corners, strict=True):
        y0, y1, x0, x1 = max(0, y), min(height, y + size), max(0, x), min(width, x + size)
        if y0 < y1 and x0 < x1:
            field[y0:y1, x0:x1] += patch[y0 - y : y1 - y, x0 - x : x1 - x]
