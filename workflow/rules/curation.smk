# Chapter 4-5: which views take part, and clean images.
rule exclude_views:
    input:
        table=result("decide_handedness/{ts}/{ts}.star"),
        stack=rules.correct_motion.output.stack,
        file=lambda w: RUN.view_list(w.ts),
    output:
        table=result("exclude_views/{ts}/{ts}.star"),
        thumbnails=result("exclude_views/{ts}/{ts}_thumbnails.mrc"),
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


ERASED_STACKS = {
    "stack": stacks_of("erase_xrays", result("erase_xrays/{ts}/{ts}.mrc"), full_views=True),
    "even": stacks_of("erase_xrays", result("erase_xrays/{ts}/{ts}_even.mrc")),
    "odd": stacks_of("erase_xrays", result("erase_xrays/{ts}/{ts}_odd.mrc")),
}


rule erase_xrays:
    input:
        table=rules.exclude_views.output.table,
        stack=rules.correct_motion.output.stack,
        even=rules.correct_motion.output.even,
        odd=rules.correct_motion.output.odd,
    output:
        table=result("erase_xrays/{ts}/{ts}.star"),
        repairs=result("erase_xrays/{ts}/{ts}_repairs.star"),
        strongest=result("erase_xrays/{ts}/{ts}_strongest.mrc"),
        summary=result("erase_xrays/{ts}/summary.json"),
        **(ERASED_STACKS if RUN.config.erase_xrays.stack else {}),
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


# Who reads the raw views names their table, their stacks and the list of pixels that are repaired while they are read.
RAW_STACKS = rules.erase_xrays.output if RUN.config.erase_xrays.stack else rules.correct_motion.output
REPAIRS = [] if RUN.config.erase_xrays.stack else rules.erase_xrays.output.repairs


# RELION knows no such list: its view of the run gets a stack of repaired full views, once for all rounds.
rule relion_stack:
    input:
        table=rules.erase_xrays.output.table,
        stack=RAW_STACKS.stack,
        repairs=REPAIRS,
    output:
        stack=result("relion/stacks/{ts}.mrcs"),
    log:
        result("logs/relion_stack/{ts}.log"),
    benchmark:
        result("benchmarks/relion_stack/{ts}.tsv")
    threads: threads_of("relion_stack")
    resources:
        **resources_of("relion_stack", runtime=30),
    script:
        "../scripts/relion_stack.py"


RELION_STACK = rules.relion_stack.output.stack if RUN.relion_reads == "relion_stack" else []
