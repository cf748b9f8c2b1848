# Recipes with mappers or deduplicators: one folder a step, see docs/recipes.md.


wildcard_constraints:
    place=STEPS.places,
    step=r"\d{2}_[a-z]+",


ruleorder: join_steps > select_shard
ruleorder: join_steps > select_arm_shard


use rule measure_shard as measure_step_shard with:
    input:
        records=lambda wildcards: STEPS.records(wildcards.place, wildcards.step, wildcards.shard),
        models=lambda wildcards: WIRING.operator_manifests(step_operators(wildcards)),
    output:
        stats="results/{experiment}/{place}/steps/{step}/stats/{shard}.parquet",
        perf="results/{experiment}/perf/measure_step_shard/{place}/{step}.{shard}.json",
    log:
        "logs/{experiment}/measure_step_shard/{place}/{step}.{shard}.log",
    benchmark:
        "results/{experiment}/perf/measure_step_shard/{place}/{step}.{shard}.tsv"
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        operators=lambda wildcards: as_json(measurements(step_operators(wildcards))),
        model_settings=measuring_settings,
        stage_version=STAGE_VERSIONS["measure"],


use rule select_shard as select_step_shard with:
    input:
        records=lambda wildcards: STEPS.records(wildcards.place, wildcards.step, wildcards.shard),
        stats="results/{experiment}/{place}/steps/{step}/stats/{shard}.parquet",
    output:
        kept="results/{experiment}/{place}/steps/{step}/kept/{shard}.jsonl",
        drops="results/{experiment}/{place}/steps/{step}/drops/{shard}.jsonl",
        counts="results/{experiment}/{place}/steps/{step}/counts/{shard}.json",
    log:
        "logs/{experiment}/select_step_shard/{place}/{step}.{shard}.log",
    wildcard_constraints:
        step=r"\d{2}_filter",
    params:
        operators=lambda wildcards: as_json(step_operators(wildcards)),
        stage_version=STAGE_VERSIONS["select"],


rule map_shard:
    """Apply a step of mappers to one shard's texts."""
    input:
        records=lambda wildcards: STEPS.records(wildcards.place, wildcards.step, wildcards.shard),
        models=lambda wildcards: WIRING.operator_manifests(step_operators(wildcards)),
    output:
        kept="results/{experiment}/{place}/steps/{step}/kept/{shard}.jsonl",
        changes="results/{experiment}/{place}/steps/{step}/changes/{shard}.jsonl",
        counts="results/{experiment}/{place}/steps/{step}/counts/{shard}.json",
        perf="results/{experiment}/perf/map_shard/{place}/{step}.{shard}.json",
    log:
        "logs/{experiment}/map_shard/{place}/{step}.{shard}.log",
    wildcard_constraints:
        step=r"\d{2}_mapper",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        **MEASURING_GPUS,
        lease=measuring_lease,
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        operators=lambda wildcards: as_json(step_operators(wildcards)),
        stage_version=STAGE_VERSIONS["map"],
    shell:
        """
        {resources.lease} python scripts/map_shard.py \
            --records {input.records:q} \
            --image-root {params.image_root:q} \
            --operators {params.operators:q} \
            --out {output.kept:q} \
            --changes {output.changes:q} \
            --counts {output.counts:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule join_steps:
    """Put a recipe's steps together, as a recipe of filters alone would have left them."""
    input:
        records=lambda wildcards: STEPS.last(wildcards.place, wildcards.shard),
        counts=lambda wildcards: STEPS.counts(wildcards.place, wildcards.shard),
        drops=lambda wildcards: STEPS.drops(wildcards.place, wildcards.shard),
    output:
        kept="results/{experiment}/{place}/kept/{shard}.jsonl",
        drops="results/{experiment}/{place}/drops/{shard}.jsonl",
        counts="results/{experiment}/{place}/counts/{shard}.json",
    log:
        "logs/{experiment}/join_steps/{place}.{shard}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        stage_version=STAGE_VERSIONS["select"],
    shell:
        """
        python scripts/join_steps.py \
            --records {input.records:q} \
            --step-counts {input.counts:q} \
            --step-drops {input.drops:q} \
            --out {output.kept:q} \
            --drops {output.drops:q} \
            --counts {output.counts:q} \
            2>{log:q}
        """
