"""The RELION 5 view of one averaging round: tables and maps that RELION opens as they are."""

from pathlib import Path

from cryoet_core.io.images import REPAIRS
from cryoet_core.io.relion import with_own_stack, write_relion_project
from cryoet_core.metadata import read_particles, read_tilt_series
from cryoet_core.step import step

with step(snakemake) as s:
    series = [read_tilt_series(path) for path in s.usable(s.input.tilt_series)]
    stacks = s.usable(s.input.get("stacks") or []) or [None] * len(series)
    if not s.input.get("stacks") and any(REPAIRS in one.tilts for one in series):
        s.log.warning("RELION reads the stacks of correct_motion, in which pixels hit by X-rays are as recorded")
    write_relion_project(
        Path(s.output.optimisation_set).parent,
        [with_own_stack(*pair) for pair in zip(series, stacks, strict=True)],
        read_particles(s.input.particles),
        map=s.input.map,
        half1=s.input.half1,
        half2=s.input.half2,
        mask=s.input.mask,
    )
