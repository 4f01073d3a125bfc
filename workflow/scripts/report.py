"""report: one page with the picture of every step, and all numbers in summary.json."""

from cryoet_core import __version__
from cryoet_core.left_out import notes_of, outcome, read_note
from cryoet_core.report.build import build, write_times
from cryoet_core.report.results import Results
from cryoet_core.step import step

with step(snakemake) as s:
    p = snakemake.params
    notes = notes_of(p.results_dir, p.series)
    shown = tuple(ts for ts in p.series if read_note(f"{p.results_dir}/match_template/{ts}/summary.json") is None)
    results = Results(p.results_dir, shown, tuple(p.rounds), p.simulated)
    numbers = build(results, dict(p.mask_diameters_angst), s.output.page, __version__, notes)
    for problem in numbers.get("not_made", []):
        s.log.warning("not shown: %s", problem)
    s.write_summary(numbers)
    write_times(s.output.times, results.seconds())
    s.log.info("%s", outcome(notes, len(p.series), averaged=bool(p.rounds)))
