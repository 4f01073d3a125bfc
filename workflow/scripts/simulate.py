"""Movies, mdoc and truth of one simulated tilt series."""

from pathlib import Path

from cryoet_core.config.simulate import Simulate
from cryoet_core.simulate.series import simulate_series
from cryoet_core.step import step

with step(snakemake) as s:
    facts = simulate_series(
        s.model(Simulate).settings(),
        s.wildcards.ts,
        int(snakemake.params.seed),
        Path(s.output.mdoc).parent.parent,
        progress=lambda views: s.progress(views, what="views"),
    )
    s.write_summary(facts)
