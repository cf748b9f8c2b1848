rule validate_corpus:
    """Check every raw record; quarantine what is unfit, with line, id and reason."""
    input:
        corpus=lambda wildcards: WIRING.data_file(
            corpus_row(wildcards), corpus_row(wildcards).jsonl
        ),
    output:
        records="results/{experiment}/corpus/{corpus}/validated.jsonl",
        rejects="results/{experiment}/corpus/{corpus}/rejects.jsonl",
        report="results/{experiment}/corpus/{corpus}/validate.json",
        index="results/{experiment}/corpus/{corpus}/validated.index.json",
    log:
        "logs/{experiment}/validate_corpus/{corpus}.log",
    benchmark:
        "results/{experiment}/perf/validate_corpus/{corpus}.tsv"
    conda:
        "../envs/curate.yaml"
    threads: COMPUTE.cpu_threads
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        records=lambda wildcards: corpus_row(wildcards).records,
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        settings=as_json(SETTINGS.validate_corpus),
        stage_version=STAGE_VERSIONS["validate"],
    shell:
        """
        python scripts/validate_corpus.py \
            --corpus {input.corpus:q} \
            --image-root {params.image_root:q} \
            --expected-records {params.records} \
            --settings {params.settings:q} \
            --threads {threads} \
            --out {output.records:q} \
            --rejects {output.rejects:q} \
            --report {output.report:q} \
            --index {output.index:q} \
            2>{log:q}
        """


rule split_shard:
    """Cut one contiguous shard out of the validated records."""
    input:
        records="results/{experiment}/corpus/{corpus}/validated.jsonl",
        offsets="results/{experiment}/corpus/{corpus}/validated.index.json",
    output:
        records="results/{experiment}/corpus/{corpus}/shards/{shard}.jsonl",
    log:
        "logs/{experiment}/split_shard/{corpus}.{shard}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        shard_count=lambda wildcards: EXPERIMENT.shard_count(wildcards.corpus),
        shard_size=SETTINGS.curate.shard_size,
        stage_version=STAGE_VERSIONS["split"],
    shell:
        """
        python scripts/split_shard.py \
            --records {input.records:q} \
            --offsets {input.offsets:q} \
            --index $((10#{wildcards.shard})) \
            --count {params.shard_count} \
            --shard-size {params.shard_size} \
            --out {output.records:q} \
            2>{log:q}
        """


rule measure_shard:
    """Compute a recipe's statistics for one shard, whatever its thresholds."""
    input:
        records="results/{experiment}/corpus/{corpus}/shards/{shard}.jsonl",
        models=lambda wildcards: WIRING.operator_manifests(WIRING.operators(wildcards.recipe)),
    output:
        stats="results/{experiment}/corpus/{corpus}/recipes/{recipe}/stats/{shard}.parquet",
        perf="results/{experiment}/perf/measure_shard/{corpus}.{recipe}.{shard}.json",
    log:
        "logs/{experiment}/measure_shard/{corpus}.{recipe}.{shard}.log",
    benchmark:
        "results/{experiment}/perf/measure_shard/{corpus}.{recipe}.{shard}.tsv"
    conda:
        "../envs/curate.yaml"
    threads: measuring_threads
    resources:
        **MEASURING_GPUS,
        lease=measuring_lease,
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        operators=lambda wildcards: as_json(measurements(WIRING.operators(wildcards.recipe))),
        model_settings=measuring_settings,
        stage_version=STAGE_VERSIONS["measure"],
    shell:
        """
        {resources.lease} python scripts/measure_shard.py \
            --records {input.records:q} \
            --image-root {params.image_root:q} \
            --operators {params.operators:q} \
            {params.model_settings} \
            --out {output.stats:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule select_shard:
    """Apply a recipe's thresholds to stored statistics."""
    input:
        records="results/{experiment}/corpus/{corpus}/shards/{shard}.jsonl",
        stats="results/{experiment}/corpus/{corpus}/recipes/{recipe}/stats/{shard}.parquet",
    output:
        kept="results/{experiment}/corpus/{corpus}/recipes/{recipe}/kept/{shard}.jsonl",
        drops="results/{experiment}/corpus/{corpus}/recipes/{recipe}/drops/{shard}.jsonl",
        counts="results/{experiment}/corpus/{corpus}/recipes/{recipe}/counts/{shard}.json",
    log:
        "logs/{experiment}/select_shard/{corpus}.{recipe}.{shard}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        operators=lambda wildcards: as_json(WIRING.operators(wildcards.recipe)),
        stage_version=STAGE_VERSIONS["select"],
    shell:
        """
        python scripts/select_shard.py \
            --records {input.records:q} \
            --stats {input.stats:q} \
            --operators {params.operators:q} \
            --out {output.kept:q} \
            --drops {output.drops:q} \
            --counts {output.counts:q} \
            2>{log:q}
        """


use rule measure_shard as measure_arm_shard with:
    input:
        records="results/{experiment}/arms/{arm}/text/{shard}.jsonl",
        models=lambda wildcards: WIRING.operator_manifests(WIRING.post_operators(wildcards.arm)),
    output:
        stats="results/{experiment}/arms/{arm}/stats/{shard}.parquet",
        perf="results/{experiment}/perf/measure_arm_shard/{arm}.{shard}.json",
    log:
        "logs/{experiment}/measure_arm_shard/{arm}.{shard}.log",
    benchmark:
        "results/{experiment}/perf/measure_arm_shard/{arm}.{shard}.tsv"
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        operators=lambda wildcards: as_json(measurements(WIRING.post_operators(wildcards.arm))),
        model_settings=measuring_settings,
        stage_version=STAGE_VERSIONS["measure"],


use rule select_shard as select_arm_shard with:
    input:
        records="results/{experiment}/arms/{arm}/text/{shard}.jsonl",
        stats="results/{experiment}/arms/{arm}/stats/{shard}.parquet",
    output:
        kept="results/{experiment}/arms/{arm}/kept/{shard}.jsonl",
        drops="results/{experiment}/arms/{arm}/drops/{shard}.jsonl",
        counts="results/{experiment}/arms/{arm}/counts/{shard}.json",
    log:
        "logs/{experiment}/select_arm_shard/{arm}.{shard}.log",
    params:
        operators=lambda wildcards: as_json(WIRING.post_operators(wildcards.arm)),
        stage_version=STAGE_VERSIONS["select"],
