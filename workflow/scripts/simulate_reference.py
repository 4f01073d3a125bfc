"""What all simulated series share: gain reference, template map, true density."""

from cryoet_core.config.simulate import Simulate
from cryoet_core.simulate.series import write_common
from cryoet_core.step import step

with step(snakemake) as s:
    write_common(
        s.model(Simulate).settings(),
        int(snakemake.params.seed),
        s.output.gain,
        s.output.reference,
        s.output.density,
    )
