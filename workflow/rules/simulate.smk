# The demo's data: movies, mdoc, gain, template and truth, from beads.
from cryoet_core.simulate.acquisition import movie_names

_SIMULATED_MOVIES = movie_names("{ts}", RUN.config.simulate.settings())


def _simulate_params():
    # the number of series is no input of one series: adding one must not remake the others
    params = step_params("simulate")
    return {**params, "config": {k: v for k, v in params["config"].items() if k != "n_series"}}


rule simulate:
    output:
        movies=[result("simulate/{ts}/frames/" + name) for name in _SIMULATED_MOVIES],
        mdoc=result("simulate/{ts}/frames/{ts}.mdoc"),
        table=result("simulate/{ts}/truth/{ts}.star"),
        particles=result("simulate/{ts}/truth/particles.star"),
        outside=result("simulate/{ts}/truth/outside.star"),
        truth=result("simulate/{ts}/truth/truth.json"),
        summary=result("simulate/{ts}/summary.json"),
    log:
        result("logs/simulate/{ts}.log"),
    benchmark:
        result("benchmarks/simulate/{ts}.tsv")
    threads: threads_of("simulate")
    resources:
        **resources_of("simulate", runtime=30),
    params:
        **_simulate_params(),
    script:
        "../scripts/simulate.py"


rule simulate_reference:
    output:
        gain=result("simulate/gain.mrc"),
        reference=result("simulate/reference.mrc"),
        density=result("simulate/density.mrc"),
    log:
        result("logs/simulate_reference.log"),
    benchmark:
        result("benchmarks/simulate_reference.tsv")
    threads: threads_of("simulate_reference")
    resources:
        **resources_of("simulate_reference", runtime=10),
    params:
        **_simulate_params(),
    script:
        "../scripts/simulate_reference.py"
