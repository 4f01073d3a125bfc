"""Config of initial_model: a first map from the particles alone."""

from __future__ import annotations

from typing import ClassVar

from cryoet_core.config.base import StepModel, key
from cryoet_core.config.symmetry import PointGroup


class InitialModel(StepModel):
    """Keys of the step; names and defaults as in RELION 5's initial model of the tutorial where it has them."""

    uses_gpu: ClassVar[bool] = True

    version: ClassVar[int] = 6
    n_mini_batches: int | None = key(
        None, meaning="steps of the stochastic optimisation; empty = as many as show every particle about three times per stage (dim ones six times)", ge=5
    )
    mini_batch_size: int | None = key(
        None, meaning="particles of a mini-batch at the start; empty = automatic", ge=5
    )
    n_starts: int | None = key(
        None, meaning="random starts that compete; empty = 2, and 4 where the particles are too dim for these to be clear", ge=1
    )
    regularisation: float = key(4.0, meaning="factor on the signal-to-noise ratio of the map (as tau2_fudge)", gt=0)
    mask_diameter_angst: float = key(350.0, unit="A", meaning="diameter of the particle", gt=0)
    symmetry: PointGroup = key(
        "C1", meaning="point group applied to the final map, in RELION's setting: C1, Cn, Dn, T, O, I (= I2), I1 to I4"
    )
    start_resolution_angst: float | None = key(
        None, unit="A", meaning="resolution of the first stages; empty = mask_diameter_angst / 5.5", gt=0
    )
    final_resolution_angst: float | None = key(
        None, unit="A", meaning="resolution of the last mini-batches; empty = 40 A or the Nyquist limit", gt=0
    )
    offset_sigma_angst: float | None = key(
        None, unit="A", meaning="expected error of the picked positions; empty = half a voxel of the tomogram they were picked in", gt=0
    )
