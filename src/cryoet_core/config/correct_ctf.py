"""Config of correct_ctf: CTF correction of the views along the defocus gradient of the tilted specimen."""

from __future__ import annotations

from typing import ClassVar, Literal

from cryoet_core.config.base import StepModel, key


class CorrectCtf(StepModel):
    """Keys of the step."""

    version: ClassVar[int] = 3
    mode: Literal["phase_flip", "multiply", "wiener", "none"] = key(
        "phase_flip", meaning="turn wrong phases; multiply by the CTF; divide by it where there is signal; or leave as is"
    )
    defocus_tolerance_angst: float = key(
        500.0, unit="A", meaning="step between the defocus values that are blended across a view", gt=0
    )
    wiener_snr: float = key(10.0, meaning="signal-to-noise ratio at low frequency for mode wiener", gt=0)
    wiener_falloff: float = key(1.0, meaning="how fast that ratio falls with frequency: exp(-100 falloff k), k in 1/A", ge=0)
    max_tiles: int = key(64, meaning="at most this many defocus values per view", ge=1)
