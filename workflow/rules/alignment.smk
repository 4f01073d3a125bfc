# Chapter 6: where every view looks at the specimen from.
ALIGNMENT_FILES = {
    "imod": {
        "xf": result("align_tilt_series/{ts}/{ts}.xf"),
        "tlt": result("align_tilt_series/{ts}/{ts}.tlt"),
        "xtilt": result("align_tilt_series/{ts}/{ts}.xtilt"),
    },
    "aretomo": {"aln": result("align_tilt_series/{ts}/{ts}.aln")},
    "warp": {"xml": result("align_tilt_series/{ts}/{ts}.xml")},
    "relion": {
        "relion": result("align_tilt_series/{ts}/relion/tomograms.star"),
        "relion_tilts": result("align_tilt_series/{ts}/relion/tilt_series/{ts}.star"),
    },
}


rule align_tilt_series:
    input:
        table=rules.erase_xrays.output.table,
        stack=RAW_STACKS.stack,
        repairs=REPAIRS,
        alignment=lambda wildcards: RUN.alignment_files(wildcards.ts),
    output:
        table=result("align_tilt_series/{ts}/{ts}.star"),
        summary=result("align_tilt_series/{ts}/summary.json"),
        gold=result("align_tilt_series/{ts}/gold.star"),
        **{
            name: path
            for program in RUN.config.align_tilt_series.export
            for name, path in ALIGNMENT_FILES[program].items()
        },
    log:
        result("logs/align_tilt_series/{ts}.log"),
    benchmark:
        result("benchmarks/align_tilt_series/{ts}.tsv")
    threads: threads_of("align_tilt_series")
    resources:
        **resources_of("align_tilt_series", runtime=120),
    params:
        alignment=lambda wildcards: RUN.alignment(wildcards.ts),
        relion_stack=str(RELION_STACK) if RELION_STACK else None,  # named in RELION's table, made when the run is complete
        **step_params("align_tilt_series"),
    script:
        "../scripts/align_tilt_series.py"
