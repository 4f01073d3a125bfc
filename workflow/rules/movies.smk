# Chapter 2: movies -> aligned sums with even and odd halves, the CTF of every view, and the hand of the run.


def motion_input(wildcards):
    """The table and, for movies, the gain reference and the defects; for a ready stack the stack itself."""
    source = series_source(wildcards.ts)
    files = {"table": result("import_tilt_series/{ts}/{ts}.star").format(ts=wildcards.ts)}
    if source["kind"] == "stack":
        return files | {"ready_stack": source["stack"]}
    return files | camera_files()


rule correct_motion:
    input:
        unpack(motion_input),
    output:
        table=result("correct_motion/{ts}/{ts}.star"),
        stack=stacks_of("correct_motion", result("correct_motion/{ts}/{ts}.mrc"), full_views=True),
        even=stacks_of("correct_motion", result("correct_motion/{ts}/{ts}_even.mrc")),
        odd=stacks_of("correct_motion", result("correct_motion/{ts}/{ts}_odd.mrc")),
        motion=result("correct_motion/{ts}/{ts}_motion.star"),
        summary=result("correct_motion/{ts}/summary.json"),
    log:
        result("logs/correct_motion/{ts}.log"),
    benchmark:
        result("benchmarks/correct_motion/{ts}.tsv")
    threads: threads_of("correct_motion")
    resources:
        **resources_of("correct_motion", runtime=240),
    params:
        **step_params("correct_motion"),
    script:
        "../scripts/correct_motion.py"


def ctf_input(wildcards):
    """With mode import: the file of defocus values, and the imported table, whose sections its rows count."""
    path = RUN.ctf_file(wildcards.ts)
    return {"ctf": path, "imported": rules.import_tilt_series.output.table.format(ts=wildcards.ts)} if path else {}


rule estimate_ctf:
    input:
        unpack(ctf_input),
        table=rules.correct_motion.output.table,
        stack=rules.correct_motion.output.stack,
    output:
        plus=result("estimate_ctf/{ts}/{ts}_plus.star"),
        minus=result("estimate_ctf/{ts}/{ts}_minus.star"),
        spectra=result("estimate_ctf/{ts}/{ts}_spectra.mrc"),
        summary=result("estimate_ctf/{ts}/summary.json"),
    log:
        result("logs/estimate_ctf/{ts}.log"),
    benchmark:
        result("benchmarks/estimate_ctf/{ts}.tsv")
    threads: threads_of("estimate_ctf")
    resources:
        **resources_of("estimate_ctf", runtime=120),
    params:
        **step_params("estimate_ctf"),
    script:
        "../scripts/estimate_ctf.py"


# One job for all series: the hand belongs to the microscope, not to a series.
rule decide_handedness:
    input:
        plus=expand(rules.estimate_ctf.output.plus, ts=TILT_SERIES),
        minus=expand(rules.estimate_ctf.output.minus, ts=TILT_SERIES),
        summaries=expand(rules.estimate_ctf.output.summary, ts=TILT_SERIES),
    output:
        tables=expand(result("decide_handedness/{ts}/{ts}.star"), ts=TILT_SERIES),
        summary=result("decide_handedness/summary.json"),
    log:
        result("logs/decide_handedness.log"),
    benchmark:
        result("benchmarks/decide_handedness.tsv")
    threads: threads_of("decide_handedness")
    resources:
        **resources_of("decide_handedness", runtime=10),
    params:
        **step_params("decide_handedness"),
    script:
        "../scripts/decide_handedness.py"
