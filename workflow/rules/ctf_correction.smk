# Chapter 7-8: binned, then CTF-corrected views, then their grey values; orientation stays that of the raw images.
# Binning and erasing of gold are keys of preprocess_tilt_series and done in the one pass over the full views, before CTF correction.
FULL_SIZE = RUN.config.correct_ctf.full_size


rule correct_ctf:
    input:
        table=rules.align_tilt_series.output.table,
        stack=RAW_STACKS.stack,
        even=RAW_STACKS.even,
        odd=RAW_STACKS.odd,
        repairs=REPAIRS,
        gold=rules.align_tilt_series.output.gold,
    output:
        table=result("correct_ctf/{ts}/{ts}.star"),
        stack=stacks_of("correct_ctf", result("correct_ctf/{ts}/{ts}.mrc")),
        even=stacks_of("correct_ctf", result("correct_ctf/{ts}/{ts}_even.mrc")),
        odd=stacks_of("correct_ctf", result("correct_ctf/{ts}/{ts}_odd.mrc")),
        summary=result("correct_ctf/{ts}/summary.json"),
    log:
        result("logs/correct_ctf/{ts}.log"),
    benchmark:
        result("benchmarks/correct_ctf/{ts}.tsv")
    threads: threads_of("correct_ctf")
    resources:
        **resources_of("correct_ctf", runtime=60),
    params:
        binning=None if FULL_SIZE else RUN.config.preprocess_tilt_series.binning,
        gold_diameter_angst=RUN.config.preprocess_tilt_series.gold_diameter_angst,
        **step_params("correct_ctf"),
    script:
        "../scripts/correct_ctf.py"


# Views as correct_ctf writes them have mean 0 and standard deviation 1: only other grey values are written again.
GREY_VIEWS = {
    "stack": stacks_of("preprocess_tilt_series", result("preprocess_tilt_series/{ts}/{ts}.mrc")),
    "even": stacks_of("preprocess_tilt_series", result("preprocess_tilt_series/{ts}/{ts}_even.mrc")),
    "odd": stacks_of("preprocess_tilt_series", result("preprocess_tilt_series/{ts}/{ts}_odd.mrc")),
}
VIEWS_AGAIN = FULL_SIZE or RUN.config.preprocess_tilt_series.grey_values != "mean0_std1"
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
        summary=result("preprocess_tilt_series/{ts}/summary.json"),
        **(GREY_VIEWS if VIEWS_AGAIN else {}),
        **(ALIGNED_STACK if RUN.config.preprocess_tilt_series.aligned_stack else {}),
    log:
        result("logs/preprocess_tilt_series/{ts}.log"),
    benchmark:
        result("benchmarks/preprocess_tilt_series/{ts}.tsv")
    threads: threads_of("preprocess_tilt_series")
    resources:
        **resources_of("preprocess_tilt_series", runtime=60),
    params:
        **step_params("preprocess_tilt_series"),
    script:
        "../scripts/preprocess_tilt_series.py"
