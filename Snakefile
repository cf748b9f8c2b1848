from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/models.smk"
include: "rules/preflight.smk"
include: "rules/curate.smk"
include: "rules/steps.smk"
include: "rules/deduplicate.smk"
include: "rules/recaption.smk"
include: "rules/dataset.smk"
include: "rules/gallery.smk"
include: "rules/quality.smk"
include: "rules/held_out.smk"
include: "rules/train.smk"
include: "rules/merge.smk"
include: "rules/ocr.smk"
include: "rules/evaluate.smk"
include: "rules/majority.smk"
include: "rules/positive_control.smk"
include: "rules/compare.smk"
include: "rules/account.smk"


report: "rules/captions/workflow.rst"


onstart:
    SUPERVISION.start()
    PROGRESS.start(workflow)


onsuccess:
    SUPERVISION.finish()
    # The results are there: whatever goes wrong from here on, the run has succeeded.
    shell(
        "python scripts/build_leaderboard.py --results results --out results/leaderboard.tsv || true"
    )


onerror:
    SUPERVISION.finish()


rule all:
    """Everything an experiment produces: report, comparison, summaries."""
    default_target: True
    input:
        final_outputs(),
