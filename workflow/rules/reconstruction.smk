# Binned, CTF-corrected views -> tomograms.
HALF_TOMOGRAMS = RUN.config.reconstruct_tomogram.halves


rule reconstruct_tomogram:
    input:
        table=rules.preprocess_tilt_series.output.table,
        images=[getattr((rules.preprocess_tilt_series if VIEWS_AGAIN else rules.correct_ctf).output, name) for name in GREY_VIEWS],
        aligned=rules.align_tilt_series.output.table,
        alignment=rules.align_tilt_series.output.summary,
    output:
        table=result("reconstruct_tomogram/{ts}/{ts}.star"),
        raw_table=result("reconstruct_tomogram/{ts}/{ts}_raw.star"),
        tomogram=result("reconstruct_tomogram/{ts}/{ts}.mrc"),
        summary=result("reconstruct_tomogram/{ts}/summary.json"),
        **(
            {
                "even": result("reconstruct_tomogram/{ts}/{ts}_even.mrc"),
                "odd": result("reconstruct_tomogram/{ts}/{ts}_odd.mrc"),
            }
            if HALF_TOMOGRAMS
            else {}
        ),
    log:
        result("logs/reconstruct_tomogram/{ts}.log"),
    benchmark:
        result("benchmarks/reconstruct_tomogram/{ts}.tsv")
    threads: threads_of("reconstruct_tomogram")
    resources:
        **resources_of("reconstruct_tomogram", runtime=120),
    params:
        **step_params("reconstruct_tomogram"),
    script:
        "../scripts/reconstruct_tomogram.py"
