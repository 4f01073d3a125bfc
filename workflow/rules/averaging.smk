# Averaging. Every round: extract the particles, (make an initial model,) refine, reconstruct, postprocess, RELION view.


def round_section(step):
    """params of an averaging rule, taken from the section of the wildcard's round."""
    return {
        "config": lambda wildcards: round_params(step, wildcards.round)["config"],
        "version": lambda wildcards: round_params(step, wildcards.round)["version"],
        "seed": lambda wildcards: round_params(step, wildcards.round)["seed"],
    }


def round_particles(wildcards):
    """Particles that enter a round: the matches of all series, or the refined particles of the round before."""
    before = previous_round(wildcards.round)
    if before is None:
        return expand(result("match_template/{ts}/particles.star"), ts=TILT_SERIES)
    return [result(f"refine/{before}/particles.star")]


def round_reference(wildcards):
    """First reference of a round's refinement."""
    kind = round_config(wildcards.round).reference
    if kind == "initial_model":
        return result("initial_model/{round}/initial_model.mrc")
    if kind == "previous":
        return result(f"refine/{previous_round(wildcards.round)}/map.mrc")
    return result("import_reference/reference.mrc")


def postprocess_files(wildcards):
    """Mask and MTF files that the config names: inputs, so that a new one reruns the step."""
    section = round_config(wildcards.round).postprocess
    return [path for path in (section.mask, section.mtf) if path]


def evidence_of_round(wildcards):
    """What the verdict on a round's average is made of besides its map: the summaries of the steps that led to it."""
    before = previous_round(wildcards.round)
    from_picks = round_config(wildcards.round).reference == "initial_model"
    return {
        "picks": expand(rules.match_template.output.summary, ts=TILT_SERIES),
        "initial_model": result(f"initial_model/{wildcards.round}/summary.json") if from_picks else [],
        "refine": result(f"refine/{wildcards.round}/summary.json"),
        "refined_halves": [result(f"refine/{wildcards.round}/half{half}.mrc") for half in (1, 2)],
        "template": rules.import_reference.output.reference if RUN.reference() else [],
        "previous": result(f"postprocess/{before}/summary.json") if before else [],
    }


# Geometry in the tomogram's frame; the image columns name the raw views, which are therefore inputs too, with the list of their repairs.
ALIGNED = expand(rules.reconstruct_tomogram.output.raw_table, ts=TILT_SERIES)
RAW_VIEWS = expand([RAW_STACKS.stack, *([REPAIRS] if REPAIRS else [])], ts=TILT_SERIES)
GOLD = expand(rules.align_tilt_series.output.gold, ts=TILT_SERIES)  # named in the tables


rule extract_subtomos:
    input:
        particles=round_particles,
        tilt_series=ALIGNED,
        stacks=RAW_VIEWS,
        gold=GOLD,
    output:
        particles=result("extract_subtomos/{round}/particles.star"),
        images=stacks_of("extract_subtomos", directory(result("extract_subtomos/{round}/images"))),
        summary=result("extract_subtomos/{round}/summary.json"),
    log:
        result("logs/extract_subtomos/{round}.log"),
    benchmark:
        result("benchmarks/extract_subtomos/{round}.tsv")
    threads: threads_of("extract_subtomos")
    resources:
        **resources_of("extract_subtomos", runtime=120),
    params:
        **round_section("extract_subtomos"),
    script:
        "../scripts/extract_subtomos.py"


rule initial_model:
    input:
        particles=rules.extract_subtomos.output.particles,
        images=rules.extract_subtomos.output.images,
        tilt_series=ALIGNED,
        tomograms=expand(rules.reconstruct_tomogram.output.table, ts=TILT_SERIES),  # their voxel: what the picks' error is
    output:
        map=result("initial_model/{round}/initial_model.mrc"),
        iterations=result("initial_model/{round}/iterations.json"),
        summary=result("initial_model/{round}/summary.json"),
    log:
        result("logs/initial_model/{round}.log"),
    benchmark:
        result("benchmarks/initial_model/{round}.tsv")
    threads: threads_of("initial_model")
    resources:
        **resources_of("initial_model", runtime=480),
    params:
        **round_section("initial_model"),
    script:
        "../scripts/initial_model.py"


rule refine:
    input:
        particles=rules.extract_subtomos.output.particles,
        images=rules.extract_subtomos.output.images,
        tilt_series=ALIGNED,
        reference=round_reference,
    output:
        half1=result("refine/{round}/half1.mrc"),
        half2=result("refine/{round}/half2.mrc"),
        map=result("refine/{round}/map.mrc"),
        particles=result("refine/{round}/particles.star"),
        fsc=result("refine/{round}/fsc.star"),
        iterations=result("refine/{round}/iterations.json"),
        iteration_maps=directory(result("refine/{round}/iterations")),
        summary=result("refine/{round}/summary.json"),
    log:
        result("logs/refine/{round}.log"),
    benchmark:
        result("benchmarks/refine/{round}.tsv")
    threads: threads_of("refine")
    resources:
        **resources_of("refine", runtime=1440),
    params:
        **round_section("refine"),
    script:
        "../scripts/refine.py"


rule reconstruct_particle:
    input:
        particles=rules.refine.output.particles,
        tilt_series=ALIGNED,
        stacks=RAW_VIEWS,
        gold=GOLD,
    output:
        half1=result("reconstruct_particle/{round}/half1.mrc"),
        half2=result("reconstruct_particle/{round}/half2.mrc"),
        map=result("reconstruct_particle/{round}/map.mrc"),
        summary=result("reconstruct_particle/{round}/summary.json"),
    log:
        result("logs/reconstruct_particle/{round}.log"),
    benchmark:
        result("benchmarks/reconstruct_particle/{round}.tsv")
    threads: threads_of("reconstruct_particle")
    resources:
        **resources_of("reconstruct_particle", runtime=240),
    params:
        **round_section("reconstruct_particle"),
        extraction=lambda wildcards: round_params("extract_subtomos", wildcards.round)["config"],
    script:
        "../scripts/reconstruct_particle.py"


rule postprocess:
    input:
        unpack(evidence_of_round),
        half1=rules.reconstruct_particle.output.half1,
        half2=rules.reconstruct_particle.output.half2,
        files=postprocess_files,
    output:
        map=result("postprocess/{round}/map.mrc"),
        mask=result("postprocess/{round}/mask.mrc"),
        local_resolution=result("postprocess/{round}/local_resolution.mrc"),
        local_map=result("postprocess/{round}/map_local.mrc"),
        fsc=result("postprocess/{round}/fsc.star"),
        summary=result("postprocess/{round}/summary.json"),
    log:
        result("logs/postprocess/{round}.log"),
    benchmark:
        result("benchmarks/postprocess/{round}.tsv")
    threads: threads_of("postprocess")
    resources:
        **resources_of("postprocess", runtime=60),
    params:
        **round_section("postprocess"),
        mask_diameter_angst=lambda wildcards: round_config(wildcards.round).refine.mask_diameter_angst,
        first_map=lambda wildcards: round_config(wildcards.round).reference,
    script:
        "../scripts/postprocess.py"


rule relion_project:
    input:
        particles=rules.refine.output.particles,
        tilt_series=ALIGNED,
        map=rules.postprocess.output.map,
        half1=rules.reconstruct_particle.output.half1,
        half2=rules.reconstruct_particle.output.half2,
        mask=rules.postprocess.output.mask,
        stacks=expand(RELION_STACK, ts=TILT_SERIES),
    output:
        optimisation_set=result("relion/{round}/optimisation_set.star"),
        particles=result("relion/{round}/particles.star"),
        tomograms=result("relion/{round}/tomograms.star"),
        map=result("relion/{round}/map.mrc"),
        half1=result("relion/{round}/half1.mrc"),
        half2=result("relion/{round}/half2.mrc"),
        mask=result("relion/{round}/mask.mrc"),
    log:
        result("logs/relion_project/{round}.log"),
    benchmark:
        result("benchmarks/relion_project/{round}.tsv")
    threads: threads_of("relion_project")
    resources:
        **resources_of("relion_project", runtime=30),
    script:
        "../scripts/relion_project.py"
