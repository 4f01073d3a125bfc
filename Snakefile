# tiltline: cryo-electron tomography from movies to averages. One rule file per chapter of the tutorial.
from snakemake.utils import min_version

min_version("9.20")


# Without --configfile the demo runs. A user's file is never merged with the demo's: missing keys have their defaults.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/import.smk"
include: "workflow/rules/movies.smk"
include: "workflow/rules/curation.smk"
include: "workflow/rules/alignment.smk"
include: "workflow/rules/ctf_correction.smk"
include: "workflow/rules/reconstruction.smk"
include: "workflow/rules/picking.smk"
include: "workflow/rules/averaging.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.output,
        expand(result("relion/{round}/optimisation_set.star"), round=ROUNDS),
        expand(RELION_STACK, ts=TILT_SERIES),


onsuccess:
    holder.ended_well.set()
    mark_stale_report()
    notes = notes_of(RUN.config.results_dir, TILT_SERIES)
    if said := outcome(notes, len(TILT_SERIES), averaged=bool(ROUNDS) and os.path.exists(rules.report.output.summary)):
        print(said, file=sys.stderr)
    if RUN.keep_note():
        print(RUN.keep_note(), file=sys.stderr)
