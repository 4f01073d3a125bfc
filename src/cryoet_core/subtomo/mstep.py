"""Maps from poses and slices from maps: the maximisation step and the reference of the expectation step.

A reference is a padded transform from which central slices are read by linear interpolation; a reconstruction is the
adjoint: weighted slices are added to a padded grid and divided by their summed weight. Both undo the interpolation's
envelope sinc^2 in real space. Sources: RELION's projector and back-projector (Scheres 2012, J Struct Biol 180:519).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.fourier import centre_crop_or_pad, irfft_centred, rfft_centred, shell_sum
from cryoet_core.geometry import so3_grid
from cryoet_core.kernels.insert_slices import insert_turned, new_accumulator, split_accumulator
from cryoet_core.kernels.sample_points import sample_turned
from cryoet_core.masks import soft_sphere
from cryoet_core.subtomo.likelihood import FrequencyList, shift_phases

PAD = 2
_TURNS = np.array([[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]], float)  # e x
_WEIGHT_FLOOR = 1e-3  # of the shell's mean weight (RELION's)


def gridding_envelope(box_px: int, pad: int = PAD, xp=np):
    """sinc^2(r / (pad * box)) on the grid of a box: what linear interpolation in Fourier space does to a map, float32."""
    axis = (xp.arange(box_px, dtype=xp.float32) - box_px // 2) / (pad * box_px)
    r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    return (xp.sinc(xp.sqrt(r2)) ** 2).astype(xp.float32)


def trilinear_envelope(box_px: int, xp=np):
    """sinc^2(x / box) sinc^2(y / box) sinc^2(z / box): what sharing samples among the eight nearest voxels of an unpadded grid does to a map, float32."""
    axis = xp.sinc((xp.arange(box_px, dtype=xp.float32) - box_px // 2) / box_px) ** 2
    return (axis[:, None, None] * axis[None, :, None] * axis[None, None, :]).astype(xp.float32)


@dataclass(frozen=True)
class Reference:
    """A map ready to be sliced. transform : (N, N, N//2 + 1) complex64 in the kernel's layout, N = pad * box."""

    transform: np.ndarray
    box_px: int
    pad: int = PAD

    @classmethod
    def of_map(cls, volume, pad: int = PAD) -> Reference:
        """From a real map (n, n, n), bright protein, solvent about zero."""
        xp = array_namespace(volume)
        box = volume.shape[0]
        corrected = volume.astype(xp.float32) / gridding_envelope(box, pad, xp)
        padded = centre_crop_or_pad(corrected, (pad * box,) * 3, 3)
        transform = fft_module(xp).fftshift(rfft_centred(padded, 3), axes=(0, 1)).astype(xp.complex64)
        return cls(xp.ascontiguousarray(transform), box, pad)

    def slices(self, rotations, frequencies: FrequencyList):
        """The transform at ``R^T k`` for rotations (..., 3, 3), reference -> image, and the frequencies k -> (..., K) complex64."""
        rotations = np.asarray(rotations, dtype=np.float64)
        matrices = self.pad * np.swapaxes(rotations, -1, -2).reshape(-1, 3, 3)
        return sample_turned(self.transform, matrices, frequencies.points).reshape(*rotations.shape[:-2], -1)

    def view_slices(self, view_rotations, orientations, frequencies: FrequencyList):
        """Slices for every orientation (..., 3, 3) and view (F, 3, 3) -> (..., F, K).

        Of 3-D frequencies, with the one view that a volume has, they are the whole turned transform.
        """
        combined = np.asarray(view_rotations) @ np.asarray(orientations)[..., None, :, :]
        return self.slices(combined, frequencies)

    def turning(self, view_rotations, orientations):
        """What takes frequencies k to the transform's voxels, (V A)^T, for orientations (M, 3, 3): (M, F, 3, 3); and its derivatives as the
        particle turns about x, y, z of the tomogram, per rad: (M, F, 3, 3, 3)."""
        views = np.asarray(view_rotations)
        matrices = self.pad * np.einsum("mji,fkj->mfik", orientations, views)
        tangents = -self.pad * np.einsum("mji,sjl,fkl->mfsik", orientations, _TURNS, views)  # A^T exp(-[t]) V^T along t
        return matrices, tangents


    def spherical_slice(self, frequencies: FrequencyList):
        """What a slice has on average over all directions: (K,) float32, the mean of the transform over every shell."""
        xp = array_namespace(self.transform)
        samples = asnumpy(self.slices(so3_grid(1)[::5], frequencies)).real.mean(axis=0)
        count = np.maximum(np.bincount(frequencies.shell), 1)
        profile = np.bincount(frequencies.shell, weights=samples) / count
        return xp.asarray(profile[frequencies.shell], dtype=xp.float32)


@dataclass(frozen=True)
class Sums:
    """Weighted slices summed on the padded grid: data (sum X/sigma^2) and weight (sum c^2/sigma^2), kernel layout.

    data : (N, N, N//2 + 1) complex64, weight : the same shape, float32; N = pad * box. spread : data and weight were 3D sums, each image's
    samples spread over the voxels of an unpadded grid; this envelope is undone too.
    """

    data: np.ndarray
    weight: np.ndarray
    box_px: int
    pad: int = PAD
    spread: bool = False

    def __add__(self, other: Sums) -> Sums:
        return replace(self, data=self.data + other.data, weight=self.weight + other.weight)

    def __mul__(self, factor: float) -> Sums:
        return replace(self, data=self.data * np.float32(factor), weight=self.weight * np.float32(factor))

    def moved(self, shift_px) -> Sums:
        """The sums of the map that has at index n//2 what this one has at ``shift_px`` (x, y, z) from there."""
        xp = array_namespace(self.data)
        n = self.pad * self.box_px
        axis = xp.arange(n) - n // 2
        x, y, z = (2 * np.pi / n * float(v) for v in shift_px)
        angle = z * axis[:, None, None] + y * axis[None, :, None] + x * xp.arange(n // 2 + 1)[None, None, :]
        return replace(self, data=(self.data * xp.exp(1j * angle)).astype(xp.complex64))

    def shells(self):
        """Shell of the unpadded box for every element, (N, N, N//2 + 1) int64."""
        xp = array_namespace(self.data)
        n = self.pad * self.box_px
        full = (xp.arange(n) - n // 2) ** 2
        radius2 = full[:, None, None] + full[None, :, None] + (xp.arange(n // 2 + 1) ** 2)[None, None, :]
        return xp.rint(xp.sqrt(radius2) / self.pad).astype(xp.int64)

    def shell_weight(self):
        """Mean weight of every shell 0 .. n//2 over all its elements, float64 (n//2 + 1,)."""
        xp = array_namespace(self.data)
        shells, n = self.shells(), self.box_px // 2 + 1
        count = shell_sum(xp.ones_like(self.weight), shells, n)
        return shell_sum(self.weight, shells, n) / xp.maximum(count, 1)

    def reconstruct(self, ssnr=None, max_shell: int | None = None):
        """The map (n, n, n) float32.

        ssnr : (n//2 + 1,) spectral signal-to-noise ratio of the map, or None for no regularisation (weights below 0.001 of
            their shell's mean are raised to that). Wiener: data / (weight + mean weight of the shell / ssnr).
        max_shell : the last shell kept; default the Nyquist shell.
        """
        xp = array_namespace(self.data)
        n, size = self.box_px, self.pad * self.box_px
        shells, mean = self.shells(), self.shell_weight()
        last = n // 2 if max_shell is None else max_shell
        share = _WEIGHT_FLOOR if ssnr is None else 1 / xp.maximum(xp.asarray(ssnr), 1e-6)
        extra = (mean * share)[xp.minimum(shells, n // 2)].astype(xp.float32)
        total = xp.maximum(self.weight, extra) if ssnr is None else self.weight + extra
        usable = (shells <= last) & (total > 0)
        transform = xp.where(usable, self.data / xp.where(usable, total, 1), 0).astype(xp.complex64)
        padded = irfft_centred(fft_module(xp).ifftshift(transform, axes=(0, 1)), (size,) * 3, 3)
        envelope = gridding_envelope(n, self.pad, xp)
        if self.spread:  # turned every way, the unpadded grid's envelope is round; beyond the ball of the box it is left alone
            envelope = envelope * xp.maximum(gridding_envelope(n, 1, xp), np.float32(np.sinc(0.5) ** 2))
        return (centre_crop_or_pad(padded, (n,) * 3, 3) / envelope).astype(xp.float32)


class Accumulator:
    """Collects slices or volumes of any number of particles; :meth:`sums` gives what was collected."""

    def __init__(self, box_px: int, pad: int = PAD, xp=np, spread: bool = False):
        self.box_px, self.pad, self.spread = box_px, pad, spread
        self._grid = new_accumulator(box_px, pad, xp)

    def insert(self, data, weight, rotations, frequencies: FrequencyList):
        """Add slices (or volumes): data (R, K) complex64, weight (R, K) float32; rotations (R, 3, 3), reference -> image."""
        matrices = self.pad * np.swapaxes(np.asarray(rotations), 1, 2)
        insert_turned(data, weight, matrices, frequencies.points, self.pad * self.box_px, out=self._grid)

    def sums(self) -> Sums:
        return Sums(*split_accumulator(self._grid), self.box_px, self.pad, self.spread)


def insert_particles(accumulator, images, sigma2, rows, rotations, offsets_px, weights, symmetry=None):
    """Add particles at given poses.

    images : SeriesImages. rows : (M,) index into its particles; rotations (M, 3, 3); offsets_px (M, 3) 3-D; weights (M,)
    posterior weights of these poses. symmetry : (n, 3, 3) operators or None.
    """
    xp = array_namespace(images.unmasked)
    frequencies = images.frequencies
    inverse = xp.asarray(1.0 / np.asarray(sigma2)[:, frequencies.shell], dtype=xp.float32)
    operators = np.eye(3)[None] if symmetry is None else np.asarray(symmetry)
    amplitude, noise = images.factors()
    n_views, step = len(images.view_rotations), 32
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        index = rows[part]
        share = xp.asarray(weights[part], dtype=xp.float32)[:, None, None] * amplitude[index] / noise[index]
        factor = share * inverse
        data = images.unmasked[index] * factor
        data *= shift_phases(frequencies, images.view_rotations, offsets_px[part], xp)
        weight = images.ctf[index] ** 2 * (factor * amplitude[index])
        for operator in operators:
            views = np.einsum("fij,mjk->mfik", images.view_rotations, rotations[part] @ operator)
            accumulator.insert(
                data.reshape(len(index) * n_views, -1),
                weight.reshape(len(index) * n_views, -1),
                views.reshape(-1, 3, 3),
                frequencies,
            )


def ssnr_from_fsc(fsc, joined: bool = False, regularisation: float = 1.0):
    """Spectral signal-to-noise ratio of a half map, or of the joined map, from the FSC of the halves.

    joined: FSC' = 2 FSC / (1 + FSC), the correlation the average of both halves would have with another like it.
    """
    fsc = np.clip(np.asarray(fsc, dtype=np.float64), 1e-3, 0.999)
    if joined:
        fsc = 2 * fsc / (1 + fsc)
    ratio = regularisation * fsc / (1 - fsc)
    ratio[0] = ratio[1]
    return ratio


def join_low_resolution(first: Sums, second: Sums, last_shell: int):
    """Both halves get the mean of their sums in shells up to ``last_shell`` so that their frames stay together."""
    if last_shell < 1:
        return first, second
    xp = array_namespace(first.data)
    low = first.shells() <= last_shell
    data, weight = (first.data + second.data) / 2, (first.weight + second.weight) / 2
    return tuple(
        replace(half, data=xp.where(low, data, half.data), weight=xp.where(low, weight, half.weight))
        for half in (first, second)
    )


def solvent_mask(box_px: int, diameter_angst: float, pixel_size_angst: float, xp=np):
    """Soft ball of the particle's diameter (edge of 3 px, or what the box leaves), zeros outside."""
    radius = min(diameter_angst / (2 * pixel_size_angst), box_px / 2 - 1)
    return soft_sphere((box_px,) * 3, radius, min(3.0, max(1.0, box_px / 2 - radius)), xp)


def recentre(volume, mask):
    """Shift (3,) x, y, z in px of the centre of mass of the positive density inside ``mask`` from index n//2."""
    values = np.clip(asnumpy(volume * mask), 0, None).astype(np.float64)
    total = values.sum()
    if total <= 0:
        return np.zeros(3)
    n = values.shape[0]
    axis = np.arange(n) - n // 2
    return np.array([(values.sum(axis=tuple(a for a in range(3) if a != ax)) * axis).sum() for ax in (2, 1, 0)]) / total

