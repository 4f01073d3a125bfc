# The reference, and the particles that look like it.
rule import_reference:
    input:
        map=RUN.reference() or [],  # none is needed when the picks are imported; the rule is not run then
    output:
        reference=result("import_reference/reference.mrc"),
        summary=result("import_reference/summary.json"),
    log:
        result("logs/import_reference.log"),
    benchmark:
        result("benchmarks/import_reference.tsv")
    threads: threads_of("import_reference")
    resources:
        **resources_of("import_reference", runtime=10),
    params:
        **step_params("import_reference"),
    script:
        "../scripts/import_reference.py"


rule resize_reference:
    input:
        reference=rules.import_reference.output.reference,
        # all series have the same binned pixel size; the first one's table tells it
        table=expand(rules.preprocess_tilt_series.output.table, ts=TILT_SERIES[0])[0],
    output:
        reference=result("resize_reference/reference.mrc"),
        mask=result("resize_reference/mask.mrc"),
        summary=result("resize_reference/summary.json"),
    log:
        result("logs/resize_reference.log"),
    benchmark:
        result("benchmarks/resize_reference.tsv")
    threads: threads_of("resize_reference")
    resources:
        **resources_of("resize_reference", runtime=10),
    params:
        **step_params("resize_reference"),
    script:
        "../scripts/resize_reference.py"


# With match_template.picks the particles come from another program's file: no template, no scores of voxels.
IMPORTED = RUN.config.match_template.picks is not None
MAPS = {
    "scores": result("match_template/{ts}/{ts}_scores.mrc"),
    "orientations": result("match_template/{ts}/{ts}_orientations.mrc"),
    "orientation_list": result("match_template/{ts}/{ts}_orientations.star"),
}


rule match_template:
    input:
        tomogram=rules.reconstruct_tomogram.output.tomogram,
        table=rules.reconstruct_tomogram.output.table,
        reference=[] if IMPORTED else rules.resize_reference.output.reference,
        picks=lambda wildcards: RUN.picks(wildcards.ts) or [],
        search_mask=lambda wildcards: RUN.search_mask(wildcards.ts) or [],
    output:
        particles=result("match_template/{ts}/particles.star"),
        summary=result("match_template/{ts}/summary.json"),
        exported=[result(f"match_template/{{ts}}/{name}") for name in RUN.exported_picks()],
        **({} if IMPORTED else MAPS),
    log:
        result("logs/match_template/{ts}.log"),
    benchmark:
        result("benchmarks/match_template/{ts}.tsv")
    threads: threads_of("match_template")
    resources:
        **resources_of("match_template", runtime=480),
    params:
        **step_params("match_template"),
    script:
        "../scripts/match_template.py"
