# The report. INPUTS: tables, images, maps and summaries of all steps. OUTPUTS: report.html, summary.json, and run_times.tsv: what differs
# from run to run is in no other result.

from cryoet_core.report.stale import mark, out_of_date

REPORT_INPUTS = {
    "imported": expand(rules.import_tilt_series.output, ts=TILT_SERIES),
    # no stacks of views: what the report shows of them has been made small, so that they need not be kept for it
    "motion": expand([rules.correct_motion.output[k] for k in ("table", "motion", "summary")], ts=TILT_SERIES),
    "ctf": expand(rules.estimate_ctf.output, ts=TILT_SERIES),
    "hand": rules.decide_handedness.output,
    "views": expand(rules.exclude_views.output, ts=TILT_SERIES),
    "xrays": expand([rules.erase_xrays.output[k] for k in ("table", "repairs", "strongest", "summary")], ts=TILT_SERIES),
    "alignment": expand(rules.align_tilt_series.output, ts=TILT_SERIES),
    "tomograms": expand(rules.reconstruct_tomogram.output, ts=TILT_SERIES),
    "picks": expand(rules.match_template.output, ts=TILT_SERIES),
    "refined": expand(rules.refine.output, round=ROUNDS),
    "reconstructed": expand(rules.reconstruct_particle.output, round=ROUNDS),
    "maps": expand(rules.postprocess.output, round=ROUNDS),
}


rule report:
    input:
        **REPORT_INPUTS,
    output:
        page=result("report.html"),
        summary=result("summary.json"),
        times=result("run_times.tsv"),
    log:
        result("logs/report.log"),
    benchmark:
        result("benchmarks/report.tsv")
    threads: threads_of("report")
    resources:
        **resources_of("report", runtime=60),
    params:
        results_dir=RUN.config.results_dir,
        series=TILT_SERIES,
        rounds=ROUNDS,
        simulated=SIMULATED,
        mask_diameters_angst={name: round_config(name).refine.mask_diameter_angst for name in ROUNDS},
    script:
        "../scripts/report.py"


def mark_stale_report(*made_again):
    """Say on an old page which steps are newer, missing or ``made_again``; a page that is up to date says nothing."""
    page, inputs = rules.report.output.page, [path for group in REPORT_INPUTS.values() for path in group]
    newer, missing = out_of_date(page, inputs, RUN.config.results_dir)
    mark(page, newer, sorted({*missing, *made_again}))
