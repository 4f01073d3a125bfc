# Chapter 1: import. Movies with an mdoc, or a ready stack with its tilt angles -> the table of a tilt series.


def camera_files():
    """Gain reference and defects, as far as there are any."""
    given = {"gain": RUN.gain_reference(), "defects": RUN.defects()}
    return {name: path for name, path in given.items() if path}


def tilt_series_files(wildcards):
    """Input of import_tilt_series: the mdoc, with the gain reference and the defects that must fit its movies; or the stack and its tilt angles."""
    source = series_source(wildcards.ts)
    if source["kind"] != "mdoc":
        return {name: source[name] for name in ("stack", "tilts")}
    return {"mdoc": source["mdoc"], **camera_files()}


rule import_tilt_series:
    input:
        unpack(tilt_series_files),
    output:
        table=result("import_tilt_series/{ts}/{ts}.star"),
        summary=result("import_tilt_series/{ts}/summary.json"),
    log:
        result("logs/import_tilt_series/{ts}.log"),
    benchmark:
        result("benchmarks/import_tilt_series/{ts}.tsv")
    threads: threads_of("import_tilt_series")
    resources:
        **resources_of("import_tilt_series", runtime=30),
    params:
        source=lambda wildcards: series_source(wildcards.ts),
        **step_params("import_tilt_series"),
    script:
        "../scripts/import_tilt_series.py"
