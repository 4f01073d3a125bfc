"""What CTF correction multiplies spectra by, and what is left of the CTF afterwards: the one place that knows.

Every step that reads corrected images asks :func:`remaining_ctf` for the transfer they still carry, so that the CTF is never
applied twice: |CTF| after phase flipping, CTF^2 after multiplication, CTF^2 / (CTF^2 + 1/SNR) after the Wiener filter.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryoet_core.backend import array_namespace
from cryoet_core.errors import UserInputError

MODES = ("none", "phase_flip", "multiply", "wiener")
WIENER_COLUMNS = ("ctf_wiener_snr", "ctf_wiener_falloff")


@dataclass(frozen=True)
class CtfTreatment:
    """mode : one of MODES. wiener_snr, wiener_falloff : SNR = snr exp(-100 falloff k), k in 1/A, for mode wiener."""

    mode: str = "none"
    wiener_snr: float = 10.0
    wiener_falloff: float = 1.0

    def __post_init__(self):
        if self.mode not in MODES:
            raise UserInputError(
                "E-CTF-04", "unknown CTF correction", field="ctf_correction", found=self.mode, expected=", ".join(MODES),
                fix="run correct_ctf again",
            )  # fmt: skip


def correction_filter(ctf, k_per_angst, treatment):
    """What a spectrum is multiplied by. The sign at low frequency stays: protein dark.

    phase_flip: -1 where the CTF is negative. multiply: the CTF. wiener: c / (c^2 + 1/snr), snr = s0 exp(-100 falloff k).
    ``treatment``: a :class:`CtfTreatment` or anything with its fields. Returns float32 like ``ctf``.
    """
    xp = array_namespace(ctf)
    if treatment.mode == "none":
        return xp.ones_like(ctf)
    if treatment.mode == "phase_flip":
        return xp.where(ctf < 0, xp.float32(-1), xp.float32(1))
    if treatment.mode == "multiply":
        return ctf
    snr = treatment.wiener_snr * xp.exp(-100 * treatment.wiener_falloff * k_per_angst)
    return (ctf / (ctf * ctf + 1 / xp.maximum(snr, 1e-6))).astype(ctf.dtype)


def remaining_ctf(ctf, k_per_angst, treatment):
    """The transfer that corrected images still carry: CTF times :func:`correction_filter`."""
    return ctf * correction_filter(ctf, k_per_angst, treatment)


def treatment_of(row) -> CtfTreatment:
    """What correct_ctf recorded for one row of a tilt table; images without a record are not corrected."""
    recorded = {name.removeprefix("ctf_"): float(row[name]) for name in WIENER_COLUMNS if name in row}
    return CtfTreatment(str(row.get("ctf_correction", "none")), **recorded)


def refuse_corrected(series, step: str) -> None:
    """Raise UserInputError E-CTF-05 when images of ``series`` were CTF-corrected before: ``step`` applies the CTF itself."""
    if "ctf_correction" not in series.tilts:
        return
    found = sorted(set(series.tilts["ctf_correction"][series.included]) - {"none"})
    if found:
        raise UserInputError(
            "E-CTF-05", f"the images are CTF-corrected already, {step} would apply the CTF twice", file=series.name,
            field="ctf_correction", found=", ".join(map(str, found)), expected="none",
            fix="give this step the table of the raw views (align_tilt_series, or reconstruct_tomogram's _raw.star)",
        )  # fmt: skip
