"""The RELION 5 view of one averaging round: tables and maps that RELION opens as they are."""

from pathlib import Path

from cryoet_core.io.relion import write_relion_project
from cryoet_core.metadata import read_particles, read_tilt_series
from cryoet_core.step import step

with step(snakemake) as s:
    write_relion_project(
        Path(s.output.optimisation_set).parent,
        [read_tilt_series(path) for path in s.input.tilt_series],
        read_particles(s.input.particles),
        map=s.input.map,
        half1=s.input.half1,
        half2=s.input.half2,
        mask=s.input.mask,
    )
