rule hash_shard:
    """Compute one shard's hashes for a deduplicator."""
    input:
        records=lambda wildcards: STEPS.records(wildcards.place, wildcards.step, wildcards.shard),
    output:
        hashes="results/{experiment}/{place}/steps/{step}/hashes/{shard}.parquet",
        perf="results/{experiment}/perf/hash_shard/{place}/{step}.{shard}.json",
    log:
        "logs/{experiment}/hash_shard/{place}/{step}.{shard}.log",
    conda:
        "../envs/curate.yaml"
    threads: COMPUTE.cpu_threads
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        operators=lambda wildcards: as_json(step_operators(wildcards)),
        stage_version=STAGE_VERSIONS["deduplicate"],
    shell:
        """
        python scripts/hash_shard.py \
            --records {input.records:q} \
            --image-root {params.image_root:q} \
            --operators {params.operators:q} \
            --threads {threads} \
            --out {output.hashes:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule decide_duplicates:
    """Decide over all shards which records repeat an earlier one."""
    input:
        hashes=lambda wildcards: STEPS.hashes(wildcards.place, wildcards.step),
    output:
        duplicates="results/{experiment}/{place}/steps/{step}/duplicates.parquet",
        report="results/{experiment}/{place}/steps/{step}/duplicates.json",
    log:
        "logs/{experiment}/decide_duplicates/{place}/{step}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        hashes=lambda wildcards, input: shard_range(input.hashes),
        operators=lambda wildcards: as_json(step_operators(wildcards)),
        stage_version=STAGE_VERSIONS["deduplicate"],
    shell:
        """
        python scripts/decide_duplicates.py \
            --hashes {params.hashes:q} \
            --operators {params.operators:q} \
            --out {output.duplicates:q} \
            --report {output.report:q} \
            2>{log:q}
        """


rule drop_duplicates:
    """Take the corpus's duplicates out of one shard."""
    input:
        records=lambda wildcards: STEPS.records(wildcards.place, wildcards.step, wildcards.shard),
        duplicates="results/{experiment}/{place}/steps/{step}/duplicates.parquet",
    output:
        kept="results/{experiment}/{place}/steps/{step}/kept/{shard}.jsonl",
        drops="results/{experiment}/{place}/steps/{step}/drops/{shard}.jsonl",
        counts="results/{experiment}/{place}/steps/{step}/counts/{shard}.json",
    log:
        "logs/{experiment}/drop_duplicates/{place}/{step}.{shard}.log",
    wildcard_constraints:
        step=r"\d{2}_deduplicator",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        operators=lambda wildcards: as_json(step_operators(wildcards)),
        stage_version=STAGE_VERSIONS["deduplicate"],
    shell:
        """
        python scripts/drop_duplicates.py \
            --records {input.records:q} \
            --duplicates {input.duplicates:q} \
            --operators {params.operators:q} \
            --out {output.kept:q} \
            --drops {output.drops:q} \
            --counts {output.counts:q} \
            2>{log:q}
        """
