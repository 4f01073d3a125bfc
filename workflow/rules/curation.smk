# Chapter 4-5: which views take part, and clean images.
rule exclude_views:
    input:
        table=result("decide_handedness/{ts}/{ts}.star"),
        stack=rules.correct_motion.output.stack,
        file=lambda w: RUN.view_list(w.ts),
    output:
        table=result("exclude_views/{ts}/{ts}.star"),
        summary=result("exclude_views/{ts}/summary.json"),
    log:
        result("logs/exclude_views/{ts}.log"),
    benchmark:
        result("benchmarks/exclude_views/{ts}.tsv")
    threads: threads_of("exclude_views")
    resources:
        **resources_of("exclude_views", runtime=30),
    params:
        **step_params("exclude_views"),
    script:
        "../scripts/exclude_views.py"


rule erase_xrays:
    input:
        table=rules.exclude_views.output.table,
        stack=rules.correct_motion.output.stack,
        even=rules.correct_motion.output.even,
        odd=rules.correct_motion.output.odd,
    output:
        table=result("erase_xrays/{ts}/{ts}.star"),
        stack=result("erase_xrays/{ts}/{ts}.mrc"),
        even=result("erase_xrays/{ts}/{ts}_even.mrc"),
        odd=result("erase_xrays/{ts}/{ts}_odd.mrc"),
        summary=result("erase_xrays/{ts}/summary.json"),
    log:
        result("logs/erase_xrays/{ts}.log"),
    benchmark:
        result("benchmarks/erase_xrays/{ts}.tsv")
    threads: threads_of("erase_xrays")
    resources:
        **resources_of("erase_xrays", runtime=60),
    params:
        **step_params("erase_xrays"),
    script:
        "../scripts/erase_xrays.py"
