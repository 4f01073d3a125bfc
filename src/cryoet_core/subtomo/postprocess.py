"""Postprocessing of two half maps: mask, FSC corrected for the mask, B-factor, FSC-weighted sharpened map.

Sources: Rosenthal & Henderson 2003, J Mol Biol 333:721 (FSC 0.143, Guinier B-factor, C_ref weighting); Chen et al. 2013,
Ultramicroscopy 135:24 (phase randomisation). The choices follow RELION's postprocess.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from cryoet_core.backend import array_namespace, asnumpy, fft_module
from cryoet_core.errors import UserInputError
from cryoet_core.fourier import radial_average, radial_frequency, raised_cosine_window
from cryoet_core.fsc import CorrectedFsc, corrected_fsc, fourier_shell_correlation, resolution_at
from cryoet_core.io.star import find_block, read_star
from cryoet_core.masks import scaled_mask, soft_sphere
from cryoet_core.subtomo.local_resolution import LocalResolution, default_window_angst, local_resolution
from cryoet_core.subtomo.particle_mask import automatic_mask

GUINIER_FROM_ANGST = 10.0
_FSC_ZERO = 1e-4
_HIGHEST_MTF_FREQUENCY = 1.0  # cycles per camera pixel; curves of super-resolution go beyond 0.5
_LOWEST_MTF, _HIGHEST_MTF = 0.5, 2.0  # of the curve's largest value; measured ones pass 1 by a little


@dataclass(frozen=True)
class Sharpening:
    """B-factor that was applied (A^2, negative sharpens) and where it is from: "given", "fitted" or "none"."""

    bfactor_angst2: float
    source: str


@dataclass(frozen=True)
class PostprocessResult:
    """map, mask : (n, n, n) float32. fsc : curves over shells 0..n//2. guinier : 1/d^2, ln amplitude before and after.

    resolution_angst : at the threshold of the config, corrected FSC; resolution_half_angst : at 0.5;
    resolution_unmasked_angst : at the threshold without a mask. local : local resolution and the locally filtered, sharpened
    map, or None.
    """

    map: np.ndarray
    mask: np.ndarray
    fsc: CorrectedFsc
    resolution_angst: float
    resolution_half_angst: float
    resolution_unmasked_angst: float
    sharpening: Sharpening
    mask_source: str
    guinier: pd.DataFrame
    local: LocalResolution | None = None
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> dict:
        """Numbers for the report."""
        random_at_limit = float(np.max(self.fsc.randomised[self.fsc.randomised_from_shell + 2 :], initial=0.0))
        return {
            "resolution_angst": self.resolution_angst,
            "resolution_half_angst": self.resolution_half_angst,
            "resolution_unmasked_angst": self.resolution_unmasked_angst,
            "bfactor_angst2": self.sharpening.bfactor_angst2,
            "bfactor_source": self.sharpening.source,
            "mask_source": self.mask_source,
            "mask_fraction": float(self.mask.mean(dtype=np.float64)),
            "fsc_randomised_max": random_at_limit,
            "fsc_corrected": self.fsc.corrected,
            "fsc_unmasked": self.fsc.unmasked,
            "warnings": self.warnings,
            **self._local_numbers(),
        }

    def _local_numbers(self) -> dict:
        if self.local is None:
            return {}
        names = ("local_resolution_best_angst", "local_resolution_median_angst", "local_resolution_worst_angst")
        return dict(zip(names, self.local.quantiles(), strict=True)) | {"local_window_angst": self.local.window_angst}

    def summary_star(self, pixel_size_angst: float) -> dict:
        """RELION's data_general of a postprocess file; rlnRandomiseFrom (A) only where some phases were randomised."""
        start, length = self.fsc.randomised_from_shell, self.map.shape[0] * pixel_size_angst
        return {
            "rlnFinalResolution": float(self.resolution_angst),
            "rlnBfactorUsedForSharpening": float(self.sharpening.bfactor_angst2),
            **({"rlnRandomiseFrom": length / start} if start < len(self.fsc.unmasked) else {}),
        }


def postprocess(half1, half2, pixel_size_angst: float, config, rng, *, mask=None, mtf=None) -> PostprocessResult:
    """Postprocess two unfiltered half maps.

    Parameters
    ----------
    half1, half2 : (n, n, n) bright maps. config : the section of postprocess. rng : for the random phases.
    mask : (n, n, n) or None: a sphere when ``mask_diameter_angst`` is given, else made from the map.
    mtf : callable k (1/A) -> MTF, or None.

    Raises
    ------
    UserInputError E-POST-01 when shapes differ, E-MASK-01 for a mask with other values than 0 to 1.
    """
    _check_shapes(half1, half2, mask)
    xp = array_namespace(half1, half2)
    n = half1.shape[0]
    warnings: list[str] = []
    mean = 0.5 * (half1 + half2)
    unmasked = asnumpy(fourier_shell_correlation(half1, half2))
    mask, source = _choose_mask(mean, unmasked, pixel_size_angst, config, mask, warnings)
    fsc = _with_zero_shell(corrected_fsc(half1, half2, mask, rng))
    resolution = resolution_at(fsc.corrected, pixel_size_angst, n, config.fsc_threshold)
    without = resolution_at(fsc.unmasked, pixel_size_angst, n, config.fsc_threshold)
    _judge(fsc, resolution, without, warnings)
    weight = fsc_weight(fsc.corrected)
    sharpening, guinier = _sharpening(mean, weight, resolution, pixel_size_angst, config, mtf)
    volume = sharpen(mean, pixel_size_angst, sharpening.bfactor_angst2, weight, resolution, mtf)
    local = None
    if config.local_resolution:
        window = config.local_window_angst or default_window_angst(resolution, pixel_size_angst, n)
        sharpened = sharpen(mean, pixel_size_angst, sharpening.bfactor_angst2, mtf=mtf)
        local = local_resolution(
            half1, half2, mask, pixel_size_angst, rng, window_angst=window, threshold=config.fsc_threshold, volume=sharpened
        )
    return PostprocessResult(
        map=asnumpy(volume).astype(np.float32),
        mask=asnumpy(xp.asarray(mask)).astype(np.float32),
        fsc=fsc,
        resolution_angst=resolution,
        resolution_half_angst=resolution_at(fsc.corrected, pixel_size_angst, n, 0.5),
        resolution_unmasked_angst=without,
        sharpening=sharpening,
        mask_source=source,
        guinier=guinier,
        local=local,
        warnings=warnings,
    )


def _check_shapes(half1, half2, mask):
    shapes = {tuple(a.shape) for a in (half1, half2, mask) if a is not None}
    if len(shapes) != 1 or len(set(shapes.copy().pop())) != 1:
        raise UserInputError(
            "E-POST-01",
            "half maps and mask must be cubes of one size",
            field="half1, half2, mask",
            found=", ".join(map(str, sorted(shapes))),
            fix="give a mask made from this map",
        )


def _with_zero_shell(fsc: CorrectedFsc) -> CorrectedFsc:
    """The curves with 1 in shell 0, where the correlation of two means is nothing but a sign."""
    names = ("unmasked", "masked", "randomised", "corrected")
    return replace(fsc, **{name: np.concatenate([[1.0], getattr(fsc, name)[1:]]) for name in names})


def _judge(fsc, resolution, without, warnings):
    if without < 0.98 * resolution:
        warnings.append("the FSC without a mask reaches further than with it: the mask cuts into the particle")
    at_limit = fsc.randomised[fsc.randomised_from_shell + 2 :]  # empty when no shell was good enough to be randomised
    if at_limit.size and at_limit.max() > 0.3:
        warnings.append("phase-randomised maps correlate above 0.3 inside the mask: the mask is too tight or too sharp")
    if not np.isfinite(resolution):
        warnings.append("the half maps do not correlate")


# ---- mask -------------------------------------------------------------------------------------------------------


def _choose_mask(volume, unmasked_fsc, pixel, config, given, warnings):
    """The mask and where it is from: "file", "sphere" or "map"."""
    n = volume.shape[0]
    edge = float(np.clip(n / 10, 2, 4)) if config.mask_edge_angst is None else config.mask_edge_angst / pixel
    dilate = float(np.clip(n / 24, 1, 2)) if config.mask_dilate_angst is None else config.mask_dilate_angst / pixel
    if given is not None:
        mask, changed = scaled_mask(given, "postprocess.mask")
        warnings += [changed] if changed else []
        return mask, "file"
    if config.mask_diameter_angst is not None:
        return _sphere(volume, config.mask_diameter_angst / (2 * pixel), edge), "sphere"
    reached = resolution_at(unmasked_fsc, pixel, n, 0.143)
    cutoff = config.mask_lowpass_angst or max(15.0, 3 * pixel, 1.5 * reached if np.isfinite(reached) else 8 * pixel)
    mask = automatic_mask(
        volume,
        pixel,
        lowpass_angst=cutoff,
        threshold=config.mask_threshold,
        dilate_px=dilate,
        edge_px=edge,
    )
    inside = float(mask.mean())
    if not 0.005 < inside < 0.5:
        warnings.append(f"the automatic mask fills {100 * inside:.1f} % of the box; a sphere is used instead")
        return _sphere(volume, n / 2 - edge - 1, edge), "sphere"
    return mask, "map"


def _sphere(volume, radius_px, edge_px):
    xp = array_namespace(volume)
    return soft_sphere(volume.shape, min(radius_px, volume.shape[0] / 2 - 1), edge_px, xp)


# ---- sharpening -------------------------------------------------------------------------------------------------


def fsc_weight(fsc) -> np.ndarray:
    """Figure of merit of the average, sqrt(2 FSC / (1 + FSC)), 0 from the first shell with FSC < 1e-4 on; (n//2+1,)."""
    fsc = np.asarray(fsc, dtype=np.float64)
    dead = np.flatnonzero(fsc[1:] < _FSC_ZERO)
    end = int(dead[0]) + 1 if dead.size else len(fsc)
    clipped = np.clip(fsc, 0, 1)
    weight = np.sqrt(2 * clipped / (1 + clipped))
    weight[end:] = 0
    weight[0] = weight[1] if len(weight) > 1 else 1
    return weight


def _on_grid(curve, shape, xp):
    """Linear interpolation of shell values (n//2 + 1,) on the half-complex grid; 0 beyond."""
    n = shape[0]
    radius = radial_frequency(shape, 1.0 / n, xp)
    return xp.interp(radius.ravel(), xp.arange(len(curve)), xp.asarray(curve), right=0.0).reshape(radius.shape)


def sharpen(volume, pixel_size_angst, bfactor_angst2=0.0, weight=None, resolution_angst=None, mtf=None):
    """volume / MTF . exp(-B k^2 / 4) . weight, low-passed at ``resolution_angst`` with an edge of two shells."""
    xp = array_namespace(volume)
    fft = fft_module(xp)
    n = volume.shape[0]
    k = radial_frequency(volume.shape, pixel_size_angst, xp)
    factor = xp.exp(-0.25 * bfactor_angst2 * k.astype(xp.float64) ** 2)
    if mtf is not None:
        factor /= xp.asarray(np.maximum(mtf(asnumpy(k)), 1e-3))
    if weight is not None:
        factor *= _on_grid(weight, volume.shape, xp)
    if resolution_angst is not None and np.isfinite(resolution_angst):
        factor *= raised_cosine_window(k, 1 / resolution_angst, 2 / (n * pixel_size_angst), xp)
    spectrum = fft.rfftn(volume) * factor.astype(xp.float32)
    return fft.irfftn(spectrum, s=volume.shape).astype(xp.float32)


def guinier_table(volume, pixel_size_angst, weight, mtf=None) -> pd.DataFrame:
    """Columns k2_per_angst2, log_amplitude, log_amplitude_weighted over shells 1..n//2 (NaN where nothing is left)."""
    xp = array_namespace(volume)
    n = volume.shape[0]
    amplitude = xp.sqrt(xp.abs(fft_module(xp).rfftn(volume)) ** 2)
    mean = asnumpy(radial_average(amplitude, 3, volume.shape)) / n**1.5
    k = np.arange(len(mean)) / (n * pixel_size_angst)
    if mtf is not None:
        mean = mean / np.maximum(mtf(k), 1e-3)
    with np.errstate(divide="ignore"):
        plain, weighted = (np.log(a) for a in (mean, mean * weight))
    columns = {"k2_per_angst2": k**2, "log_amplitude": plain, "log_amplitude_weighted": weighted}
    return pd.DataFrame({name: np.where(np.isfinite(v), v, np.nan)[1:] for name, v in columns.items()})


def fit_bfactor(guinier: pd.DataFrame, resolution_angst: float, from_angst: float = GUINIER_FROM_ANGST) -> float:
    """B (A^2) from the slope of the weighted Guinier plot between ``from_angst`` and the resolution: B = 4 slope.

    Raises ValueError when fewer than three shells lie between.
    """
    k2 = guinier["k2_per_angst2"].to_numpy()
    y = guinier["log_amplitude_weighted"].to_numpy()
    use = (k2 >= from_angst**-2) & (k2 <= resolution_angst**-2) & np.isfinite(y)
    if use.sum() < 3:
        raise ValueError(f"only {int(use.sum())} shells between {from_angst} and {resolution_angst:.2f} A")
    return 4.0 * float(np.polyfit(k2[use], y[use], 1)[0])


def _sharpening(mean, weight, resolution, pixel, config, mtf):
    guinier = guinier_table(mean, pixel, weight, mtf)
    if config.bfactor_angst2 is not None:
        return Sharpening(float(config.bfactor_angst2), "given"), guinier
    k2 = guinier["k2_per_angst2"].to_numpy()
    shells = int(((k2 >= GUINIER_FROM_ANGST**-2) & (k2 <= resolution**-2)).sum()) if np.isfinite(resolution) else 0
    if resolution < GUINIER_FROM_ANGST and shells >= 5:
        return Sharpening(fit_bfactor(guinier, resolution), "fitted"), guinier
    return Sharpening(0.0, "none"), guinier


def read_mtf(path, pixel_size_angst: float):
    """MTF of a detector from a STAR file (rlnResolutionInversePixel, rlnMtfValue) as a function of k in 1/A.

    ``pixel_size_angst``: pixel size of the movies that the MTF was measured for. Raises UserInputError E-POST-02.
    """
    blocks = read_star(path)
    table = find_block(blocks, next(iter(blocks)), path)
    names = ("rlnResolutionInversePixel", "rlnMtfValue")
    if not all(name in table for name in names):
        raise _not_an_mtf(path, "columns", ", ".join(table) or "none", ", ".join(names))
    frequency, value = (_mtf_column(table, name, path) for name in names)
    rising = len(frequency) >= 2 and bool((np.diff(frequency) > 0).all())
    if not rising or frequency[0] < 0 or frequency[-1] > _HIGHEST_MTF_FREQUENCY:
        ends = f", {frequency.min():g} to {frequency.max():g}" if len(frequency) else ""
        expected = "two or more, rising, from 0 to 0.5 cycles per camera pixel"
        raise _not_an_mtf(path, names[0], f"{len(frequency)} values{ends}", expected)
    if not ((value >= 0) & (value <= _HIGHEST_MTF)).all() or value.max() < _LOWEST_MTF:
        raise _not_an_mtf(path, names[1], f"{value.min():g} to {value.max():g}", "from 0 to 1, near 1 at frequency 0")
    return lambda k: np.interp(np.asarray(k) * pixel_size_angst, frequency, value)


def _mtf_column(table, name: str, path) -> np.ndarray:
    try:
        values = np.atleast_1d(np.asarray(table[name], dtype=np.float64))
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        bad = next((v for v in np.atleast_1d(np.asarray(table[name], dtype=object)) if not _finite(v)), "nothing")
        raise _not_an_mtf(path, name, repr(bad)[:60], "finite numbers")
    return values


def _finite(word) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except (TypeError, ValueError, OverflowError):
        return False


def _not_an_mtf(path, field, found, expected) -> UserInputError:
    return UserInputError(
        "E-POST-02", "not an MTF file", file=path, field=field, found=found, expected=expected,
        fix="give the STAR file of the detector's MTF as RELION's website has it, or leave postprocess.mtf empty",
    )  # fmt: skip


def fsc_table(result: PostprocessResult, pixel_size_angst: float) -> pd.DataFrame:
    """The curves in RELION's labels, one row per shell."""
    n = result.map.shape[0]
    shell = np.arange(len(result.fsc.corrected))
    k = np.maximum(shell, 1e-3) / (n * pixel_size_angst)
    return pd.DataFrame(
        {
            "rlnSpectralIndex": shell,
            "rlnResolution": shell / (n * pixel_size_angst),
            "rlnAngstromResolution": np.minimum(1 / k, 999.0),
            "rlnFourierShellCorrelationCorrected": result.fsc.corrected,
            "rlnFourierShellCorrelationUnmaskedMaps": result.fsc.unmasked,
            "rlnFourierShellCorrelationMaskedMaps": result.fsc.masked,
            "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": result.fsc.randomised,
        }
    )
