"""The likelihood of a particle's premultiplied tilt images, given a pose of the reference: exact, as matrix products.

Model of one Fourier coefficient of view f (bright contrast):   x = c P(k) exp(-2 pi i k.u) + noise(sigma_f^2(|k|)),
stored as X = c x. P is the slice of the reference seen by the view, u the image of the 3-D shift. Expanding the Gaussian,

    log L = const + C - N,     C = Re sum conj(X / sigma^2 . e^{+2 pi i k.u}) P,     N = 1/2 sum c^2 / sigma^2 |P|^2 .

Everything that belongs to the particle stands on the image side, so P is shared by all particles of a tilt series: C is one
real matrix product (particles x shifts) x (orientations), N a second, small one. Unlike a single noise spectrum for
premultiplied data, sigma_f^2 |k| of the raw images is the exact weight of every view.
Source of the model: Zivanov et al. 2022, eLife 11:e83724 (premultiplied stacks), here with the noise per view.

``likelihood="relion"`` is RELION 5's model of the same images, for comparison: the premultiplied coefficients X have noise of one
radial spectrum S^2(|k|) for all views of a series, log L = -1/2 sum |X - c^2 P|^2 / S^2. It has the same form with X/sigma^2
replaced by c^2 X / S^2 and c^2/sigma^2 by c^4 / S^2, so both go through the same expectation step.

3D pseudo-subtomograms D = sum c x / sigma_f^2, W = sum c^2 / sigma_f^2 (inserted in Fourier space; both with the noise of every view where
extraction has whitened them) are the sufficient statistics of the same likelihood:  C = Re sum conj(D e^{...}) P,  N = 1/2 sum W |P|^2  with P the whole
transform of the turned reference, shared by all particles of the run. RELION's model of them is |D - W P|^2 / (S^2 M), M the multiplicity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cryoet_core.backend import array_namespace, asnumpy
from cryoet_core.fourier import rfft_centred

_LEAST_MULTIPLICITY = 0.01  # RELION's: voxels with less count as empty


@dataclass(frozen=True)
class FrequencyList:
    """Half of the Fourier coefficients of a square image or a cube, sorted by radius: a resolution limit is a prefix.

    box_px : size. points : (K, 3) int64, cycles per box along x, y, z (z = 0 of an image); one of each Hermitian pair, zero and the
    Nyquist rows, columns and planes (which have no partner of opposite sign) left out. shell : (K,) int64, rint of the radius.
    ndim : 2 (image) or 3 (cube).
    """

    box_px: int
    points: np.ndarray
    shell: np.ndarray
    ndim: int = 2

    @classmethod
    def of_box(cls, box_px: int, ndim: int = 2) -> FrequencyList:
        half = box_px // 2
        whole, positive = np.arange(-half + 1, half), np.arange(half)
        kz, ky, kx = np.meshgrid(whole if ndim == 3 else [0], whole, positive, indexing="ij")
        radius2 = kx**2 + ky**2 + kz**2
        keep = ((kx > 0) | (ky > 0) | ((ky == 0) & (kz > 0))) & (np.rint(np.sqrt(radius2)) <= half)
        order = np.lexsort((kz[keep], ky[keep], kx[keep], radius2[keep]))
        points = np.stack([kx[keep], ky[keep], kz[keep]], axis=1)[order].astype(np.int64)
        return cls(box_px, points, np.rint(np.sqrt(radius2[keep][order])).astype(np.int64), ndim)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def kx(self) -> np.ndarray:
        return self.points[:, 0]

    @property
    def ky(self) -> np.ndarray:
        return self.points[:, 1]

    @property
    def kz(self) -> np.ndarray:
        return self.points[:, 2]

    @property
    def radius(self) -> float:
        """Largest distance from zero, cycles per box."""
        return float(np.linalg.norm(self.points[-1]))

    def count(self, max_shell: int) -> int:
        """How many coefficients lie in shells up to ``max_shell`` (rint of the radius), inclusive."""
        return int(np.searchsorted(self.shell, max_shell, side="right"))

    def upto(self, max_shell: int) -> FrequencyList:
        n = self.count(max_shell)
        return replace(self, points=self.points[:n], shell=self.shell[:n])

    def _index(self, size: int, points):
        """Place of ``points`` in a flat half-complex transform of a box of ``size``."""
        kx, ky, kz = points.T
        return (((kz % size) * size if self.ndim == 3 else 0) + ky % size) * (size // 2 + 1) + kx

    def within(self, box_px: int) -> tuple[FrequencyList, np.ndarray]:
        """The list of a smaller box with the same frequency step, and where its coefficients stand in this one (int64)."""
        half = box_px // 2
        inside = np.flatnonzero((np.abs(self.points) < half).all(axis=1) & (self.shell <= half))
        return replace(self, box_px=box_px, points=self.points[inside], shell=self.shell[inside]), inside

    def gather(self, transform):
        """Coefficients of the list from half-complex transforms (..., [b,] b, b//2 + 1) -> (..., K).

        b is the box, or any smaller even size with the same frequency step that holds the whole list.
        """
        xp = array_namespace(transform)
        index = xp.asarray(self._index(transform.shape[-2], self.points))
        return xp.take(transform.reshape(*transform.shape[: -self.ndim], -1), index, axis=-1)

    def scatter(self, values):
        """Inverse of :meth:`gather`: (..., K) -> (..., [b,] b, b//2 + 1), zeros elsewhere, both mates of the plane kx = 0.

        b is the smallest even size that holds the list with room to spare, at most the box.
        """
        xp = array_namespace(values)
        n = min(self.box_px, 2 * (int(self.points.max()) + 1))
        shape = (*(n,) * (self.ndim - 1), n // 2 + 1)
        out = xp.zeros((*values.shape[:-1], int(np.prod(shape))), dtype=values.dtype)
        out[..., xp.asarray(self._index(n, self.points))] = values
        edge = np.flatnonzero(self.kx == 0)
        out[..., xp.asarray(self._index(n, -self.points[edge]))] = values[..., xp.asarray(edge)].conj()
        return out.reshape(*values.shape[:-1], *shape)

    @property
    def n_shells(self) -> int:
        return self.box_px // 2 + 1


@dataclass(frozen=True)
class SeriesImages:
    """The particles of one tilt series (or one half set of it) as Fourier coefficients; or the 3D sums of all particles of a run.

    A 3D pseudo-subtomogram is an image with one "view" whose coefficients fill space: X is D = sum c x, c^2 is W = sum c^2 over its tilt images,
    the rotation of the view is the identity (the sums are in tomogram axes). All that follows is the same for both.

    rows : (P,) int64, rows of the particle table.
    view_rotations : (F, 3, 3) float64, tomogram axes -> image axes (TiltGeometry.rotation).
    masked, unmasked : (P, F, K) complex64, premultiplied bright images X = c x; the first with the particle's circular
        mask (for the likelihood), the second without (for the reconstruction). Missing views are zero.
    ctf : (P, F, K) float32, c(k) = CTF x dose weight x scale; zero for missing views.
    amplitude : (P,) or None, strength of the particle against the reference (scale correction of its series); noise_factor :
        (P,) or None, variance of its noise against that of its series (norm correction). None = 1.
    strength_of : (P,) int64 or None, number of the tilt series of every particle, whose strength it shares; None where all are of one series.
    multiplicity : (P, F, K) float32 or None, how many samples were summed (3D, ``likelihood="relion"`` only): the noise of the model grows with it.
    mask_power : mean square of the mask over the image, the share of the noise that is left in ``masked``. Masked noise is
        correlated: its scalar product with a slice inside the mask has the variance of the *unmasked* noise, so spectra that
        are measured on masked images must be divided by this, or posteriors are too sharp by its inverse.
    """

    rows: np.ndarray
    view_rotations: np.ndarray
    masked: np.ndarray
    unmasked: np.ndarray
    ctf: np.ndarray
    frequencies: FrequencyList
    amplitude: np.ndarray | None = None
    noise_factor: np.ndarray | None = None
    mask_power: float = 1.0
    strength_of: np.ndarray | None = None
    multiplicity: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.rows.size)

    @property
    def is_3d(self) -> bool:
        return self.frequencies.ndim == 3

    def take(self, index) -> SeriesImages:
        """Some of the particles (index array or boolean mask over 0..P-1)."""
        fields = ("rows", "masked", "unmasked", "ctf", "amplitude", "noise_factor", "strength_of", "multiplicity")
        return replace(self, **{f: v[index] for f in fields if (v := getattr(self, f)) is not None})

    def inverse_multiplicity(self, rows=slice(None), n: int | None = None):
        """1 / multiplicity (p, F, n) of particles ``rows`` and the first ``n`` coefficients, 0 where nothing was summed; 1 for 2D."""
        if self.multiplicity is None:
            return np.float32(1)
        xp = array_namespace(self.multiplicity)
        part = self.multiplicity[rows][..., :n]
        return xp.where(part > _LEAST_MULTIPLICITY, 1 / xp.maximum(part, _LEAST_MULTIPLICITY), 0).astype(xp.float32)

    def cropped(self, box_px: int) -> SeriesImages:
        """The same images on ``box_px`` larger pixels: their transforms cut to a smaller box, values as they are."""
        if box_px >= self.frequencies.box_px:
            return self
        frequencies, inside = self.frequencies.within(box_px)
        xp = array_namespace(self.masked)
        names = ("masked", "unmasked", "ctf", "multiplicity")
        arrays = {name: xp.take(v, xp.asarray(inside), axis=-1) for name in names if (v := getattr(self, name)) is not None}
        return replace(self, frequencies=frequencies, **arrays)

    def factors(self):
        """(amplitude, noise_factor) as (P, 1, 1) float32 on the images' device."""
        xp = array_namespace(self.masked)
        one = np.ones(len(self))
        both = (one if v is None else v for v in (self.amplitude, self.noise_factor))
        return tuple(xp.asarray(v, dtype=xp.float32)[:, None, None] for v in both)

    @classmethod
    def from_images(cls, images, ctf, view_rotations, rows, mask=None) -> SeriesImages:
        """From real premultiplied images (P, F, n, n) and c(k) in half-complex layout (P, F, n, n//2 + 1)."""
        frequencies = FrequencyList.of_box(images.shape[-1])
        unmasked = frequencies.gather(rfft_centred(images, 2))
        masked = unmasked if mask is None else frequencies.gather(rfft_centred(masked_images(images, mask), 2))
        return cls(
            np.asarray(rows, dtype=np.int64),
            np.asarray(view_rotations, dtype=np.float64),
            masked,
            unmasked,
            frequencies.gather(ctf),
            frequencies,
            mask_power=1.0 if mask is None else mean_square(mask),
        )


def mean_square(mask) -> float:
    """Mean of the mask's square: the share of white noise that it leaves."""
    return float(asnumpy((mask * mask).mean()))


def masked_images(images, mask):
    """Images (..., n, n) times ``mask`` after subtraction of the mean outside it (the solvent becomes zero)."""
    xp = array_namespace(images)
    outside = 1 - mask
    total = xp.maximum(outside.sum(dtype=xp.float64), 1e-6)
    background = (images * outside).sum(axis=(-2, -1), keepdims=True, dtype=xp.float64) / total
    return ((images - background.astype(images.dtype)) * mask).astype(images.dtype)


def image_shifts(view_rotations, shifts_px):
    """Where 3-D shifts (..., 3) in tomogram axes move the images: (..., F, 3), the last component along the depth."""
    return np.einsum("fij,...j->...fi", np.asarray(view_rotations), np.asarray(shifts_px, dtype=np.float64))


def shift_phases(frequencies: FrequencyList, view_rotations, shifts_px, xp=np):
    """exp(+2 pi i k.u) for 3-D shifts (..., 3) px -> (..., F, K) complex64: multiply an image to undo its shift."""
    u = image_shifts(view_rotations, shifts_px) * (2 * np.pi / frequencies.box_px)
    angle = 0
    for axis in range(frequencies.ndim):
        k = xp.asarray(frequencies.points[:, axis], dtype=xp.float32)
        angle = angle + xp.asarray(u[..., axis : axis + 1], dtype=xp.float32) * k
    out = xp.empty(angle.shape, dtype=xp.complex64)
    out.real, out.imag = xp.cos(angle), xp.sin(angle)
    return out


@dataclass(frozen=True)
class WhitenedImages:
    """What the likelihood needs of some particles, up to a resolution: X/sigma^2 (centred) and c^2/sigma^2.

    data : (P, F, K) complex64; weight : (P, F, K) float32.
    """

    data: np.ndarray
    weight: np.ndarray
    view_rotations: np.ndarray
    frequencies: FrequencyList

    def take(self, index) -> WhitenedImages:
        return replace(self, data=self.data[index], weight=self.weight[index])


def whiten(
    images: SeriesImages, sigma2, max_shell: int, offsets_px=None, masked: bool = True, likelihood: str = "exact"
) -> WhitenedImages:
    """Divide by the noise spectra and undo the current offsets.

    Parameters
    ----------
    sigma2 : (F, n_shells) variance of the real (or imaginary) part of one coefficient: of the un-premultiplied images for the
        exact likelihood, of the premultiplied ones (all views alike) for ``likelihood="relion"``.
    max_shell : finest shell used. offsets_px : (P, 3) or None, 3-D offsets of the particles from the extraction centre.
    """
    xp = array_namespace(images.masked)
    frequencies = images.frequencies.upto(max_shell)
    n = len(frequencies)
    inverse = xp.asarray(1.0 / np.asarray(sigma2)[:, frequencies.shell], dtype=xp.float32)  # (F, K)
    source = images.masked if masked else images.unmasked
    data = source[..., :n] * inverse
    if offsets_px is not None:
        data *= shift_phases(frequencies, images.view_rotations, offsets_px, xp)
    amplitude, noise = images.factors()
    ctf2 = images.ctf[..., :n] ** 2
    data *= amplitude / noise
    weight = ctf2 * (inverse * (amplitude * amplitude / noise))
    if likelihood == "relion":
        ctf2 *= images.inverse_multiplicity(n=n)
        data *= ctf2
        weight *= ctf2
    return WhitenedImages(data, weight, images.view_rotations, frequencies)


def as_real(coefficients):
    """(..., F, K) complex64 -> (..., 2 F K) float32, real and imaginary parts interleaved, without a copy."""
    xp = array_namespace(coefficients)
    flat = xp.ascontiguousarray(coefficients).reshape(*coefficients.shape[:-2], -1)
    return flat.view(xp.float32)


def shifted_rows(data, phases):
    """(p, F, K) images and (T, F, K) phases -> (p * T, 2 F K) float32 rows of the matrix product."""
    return as_real(data[:, None] * phases[None]).reshape(data.shape[0] * phases.shape[0], -1)


def log_likelihoods(images: WhitenedImages, slices, phases):
    """C - N for all particles, shifts and orientations.

    Parameters
    ----------
    slices : (O, F, K) complex64 slices of the reference for every orientation and view.
    phases : (T, F, K) complex64 from :func:`shift_phases`.

    Returns
    -------
    (P, T, O) float32 log-likelihoods in nats, relative to "no particle".
    """
    cross = shifted_rows(images.data, phases) @ as_real(slices).T  # (P*T, O)
    norm = norm_terms(images.weight, slices)  # (P, O)
    scores = cross.reshape(images.data.shape[0], phases.shape[0], slices.shape[0])
    scores -= norm[:, None]
    return scores


def ball_log_likelihoods(
    reference, images: SeriesImages, sigma2, max_shell: int, offsets_px, likelihood: str = "exact"
):
    """(P,) log-likelihood in nats of every particle for the spherical average of a map, at its offset (P, 3) px.

    reference : mstep.Reference of the map. sigma2, max_shell, likelihood : as :func:`whiten`. A particle that is no
    likelier in its best pose than this shows nothing by which it could be turned: a gold bead, a blob, or noise.
    """
    xp = array_namespace(images.masked)
    white = whiten(images, sigma2, max_shell, offsets_px, likelihood=likelihood)
    ball = xp.broadcast_to(reference.spherical_slice(white.frequencies), (1, *white.data.shape[1:]))
    still = shift_phases(white.frequencies, white.view_rotations, np.zeros((1, 3)), xp)
    return asnumpy(log_likelihoods(white, xp.asarray(ball, dtype=xp.complex64), still))[:, 0, 0].astype(float)


def pose_log_likelihoods(
    reference, images: SeriesImages, sigma2, max_shell: int, rotations, offsets_px, likelihood: str = "exact"
):
    """(P,) log-likelihood in nats of every particle for a map in the particle's own pose, against no particle.

    Arguments as :func:`ball_log_likelihoods`; rotations : (P, 3, 3).
    """
    out = np.empty(len(images))
    for p in range(0, len(images), 16):
        rows = np.arange(p, min(p + 16, len(images)))
        white = whiten(images.take(rows), sigma2, max_shell, offsets_px[rows], likelihood=likelihood)
        slices = reference.view_slices(white.view_rotations, rotations[rows], white.frequencies)
        cross = (white.data * slices.conj()).real - 0.5 * white.weight * (slices.real**2 + slices.imag**2)
        out[rows] = asnumpy(cross.sum(axis=(1, 2), dtype=np.float64))
    return out


def norm_terms(weight, slices):
    """N = 1/2 sum c^2/sigma^2 |P|^2 -> (P, O) float32."""
    xp = array_namespace(weight)
    power = (slices.real**2 + slices.imag**2).reshape(slices.shape[0], -1)
    return xp.float32(0.5) * (weight.reshape(weight.shape[0], -1) @ power.T)


def log_sum_exp(values, axis):
    """log sum exp along ``axis`` (int or tuple), float64, safe for any range of nats."""
    xp = array_namespace(values)
    peak = values.max(axis=axis, keepdims=True)
    total = xp.exp(values - peak).sum(axis=axis, dtype=xp.float64)
    return xp.log(total) + peak.reshape(total.shape).astype(xp.float64)
