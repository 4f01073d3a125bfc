# Chapter 7-8: CTF-corrected, then binned views; orientation stays that of the raw images.
rule correct_ctf:
    input:
        table=rules.align_tilt_series.output.table,
        stack=rules.erase_xrays.output.stack,
        even=rules.erase_xrays.output.even,
        odd=rules.erase_xrays.output.odd,
        gold=rules.align_tilt_series.output.gold,
    output:
        table=result("correct_ctf/{ts}/{ts}.star"),
        stack=result("correct_ctf/{ts}/{ts}.mrc"),
        even=result("correct_ctf/{ts}/{ts}_even.mrc"),
        odd=result("correct_ctf/{ts}/{ts}_odd.mrc"),
        summary=result("correct_ctf/{ts}/summary.json"),
    log:
        result("logs/correct_ctf/{ts}.log"),
    benchmark:
        result("benchmarks/correct_ctf/{ts}.tsv")
    threads: 1
    resources:
        gpu=step_gpu("correct_ctf"),
        mem_mb=step_memory_mb("correct_ctf", 4000),
        runtime=60,
    params:
        gold_diameter_angst=RUN.config.preprocess_tilt_series.gold_diameter_angst,
        **step_params("correct_ctf"),
    script:
        "../scripts/correct_ctf.py"


ALIGNED_STACK = {
    "aligned": result("preprocess_tilt_series/{ts}/{ts}_aligned.mrc"),
    "aligned_tlt": result("preprocess_tilt_series/{ts}/{ts}_aligned.tlt"),
}


rule preprocess_tilt_series:
    input:
        table=rules.correct_ctf.output.table,
        stack=rules.correct_ctf.output.stack,
        even=rules.correct_ctf.output.even,
        odd=rules.correct_ctf.output.odd,
    output:
        table=result("preprocess_tilt_series/{ts}/{ts}.star"),
        stack=result("preprocess_tilt_series/{ts}/{ts}.mrc"),
        even=result("preprocess_tilt_series/{ts}/{ts}_even.mrc"),
        odd=result("preprocess_tilt_series/{ts}/{ts}_odd.mrc"),
        summary=result("preprocess_tilt_series/{ts}/summary.json"),
        **(ALIGNED_STACK if RUN.config.preprocess_tilt_series.aligned_stack else {}),
    log:
        result("logs/preprocess_tilt_series/{ts}.log"),
    benchmark:
        result("benchmarks/preprocess_tilt_series/{ts}.tsv")
    threads: 1
    resources:
        gpu=step_gpu("preprocess_tilt_series"),
        mem_mb=step_memory_mb("preprocess_tilt_series", 4000),
        runtime=60,
    params:
        **step_params("preprocess_tilt_series"),
    script:
        "../scripts/preprocess_tilt_series.py"
