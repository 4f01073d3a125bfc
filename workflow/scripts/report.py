"""report: one page with the picture of every step, and all numbers in summary.json."""

from cryoet_core import __version__
from cryoet_core.report.build import build
from cryoet_core.report.results import Results
from cryoet_core.step import step

with step(snakemake) as s:
    p = snakemake.params
    results = Results(p.results_dir, tuple(p.series), tuple(p.rounds), p.simulated)
    s.write_summary(build(results, dict(p.mask_diameters_angst), s.output.page, __version__))
