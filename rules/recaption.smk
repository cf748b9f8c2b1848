rule caption_shard:
    """Caption one shard's images; an image captioned before comes from the store."""
    input:
        records=lambda wildcards: WIRING.kept_before_captioning(
            wildcards.corpus, wildcards.recipe, wildcards.shard
        ),
        model=lambda wildcards: WIRING.model_manifest(wildcards.captioner),
        preflight=ancient(PREFLIGHT.reports("model")),
    output:
        captions="results/{experiment}/corpus/{corpus}/recipes/{recipe}/captions/{captioner}/{shard}.jsonl",
        perf="results/{experiment}/perf/caption_shard/{corpus}.{recipe}.{captioner}.{shard}.json",
    log:
        "logs/{experiment}/caption_shard/{corpus}.{recipe}.{captioner}.{shard}.log",
    benchmark:
        "results/{experiment}/perf/caption_shard/{corpus}.{recipe}.{captioner}.{shard}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.gpu_threads
    resources:
        **GPUS,
        lease=LEASE,
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        model=lambda wildcards: EXPERIMENT.model_dir(wildcards.captioner),
        store=lambda wildcards: f"results/caption_store/{wildcards.captioner}",
        settings=as_json(SETTINGS.caption),
        stage_version=STAGE_VERSIONS["caption"],
    shell:
        """
        {resources.lease} python scripts/caption_shard.py \
            --records {input.records:q} \
            --image-root {params.image_root:q} \
            --model {params.model:q} \
            --captioner {wildcards.captioner:q} \
            --store {params.store:q} \
            --settings {params.settings:q} \
            --workers {threads} \
            --out {output.captions:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule choose_caption:
    """Keep of each record's candidate captions the one that fits its image best."""
    input:
        records=lambda wildcards: WIRING.kept_before_captioning(
            wildcards.corpus, wildcards.recipe, wildcards.shard
        ),
        captions="results/{experiment}/corpus/{corpus}/recipes/{recipe}/captions/{captioner}/{shard}.jsonl",
        model=lambda wildcards: WIRING.model_manifest(SETTINGS.similarity.model),
    output:
        captions="results/{experiment}/corpus/{corpus}/recipes/{recipe}/chosen/{captioner}/{shard}.jsonl",
        perf="results/{experiment}/perf/choose_caption/{corpus}.{recipe}.{captioner}.{shard}.json",
    log:
        "logs/{experiment}/choose_caption/{corpus}.{recipe}.{captioner}.{shard}.log",
    benchmark:
        "results/{experiment}/perf/choose_caption/{corpus}.{recipe}.{captioner}.{shard}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.gpu_threads
    resources:
        **GPUS,
        lease=LEASE,
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        model=lambda wildcards: EXPERIMENT.model_dir(SETTINGS.similarity.model),
        settings=as_json(SETTINGS.similarity, exclude={"threshold", "threshold_kind"}),
        stage_version=STAGE_VERSIONS["similarity"],
    shell:
        """
        {resources.lease} python scripts/choose_caption.py \
            --records {input.records:q} \
            --captions {input.captions:q} \
            --image-root {params.image_root:q} \
            --model {params.model:q} \
            --settings {params.settings:q} \
            --out {output.captions:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule score_similarity:
    """Score how well each record's old and new caption fit its image."""
    input:
        records=lambda wildcards: WIRING.kept_before_captioning(
            wildcards.corpus, wildcards.recipe, wildcards.shard
        ),
        captions=lambda wildcards: WIRING.new_captions(
            wildcards.corpus, wildcards.recipe, wildcards.captioner, wildcards.shard
        ),
        model=lambda wildcards: WIRING.model_manifest(SETTINGS.similarity.model),
    output:
        scores="results/{experiment}/corpus/{corpus}/recipes/{recipe}/similarity/{captioner}/{shard}.parquet",
        perf="results/{experiment}/perf/score_similarity/{corpus}.{recipe}.{captioner}.{shard}.json",
    log:
        "logs/{experiment}/score_similarity/{corpus}.{recipe}.{captioner}.{shard}.log",
    benchmark:
        "results/{experiment}/perf/score_similarity/{corpus}.{recipe}.{captioner}.{shard}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.gpu_threads
    resources:
        **GPUS,
        lease=LEASE,
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        model=lambda wildcards: EXPERIMENT.model_dir(SETTINGS.similarity.model),
        settings=as_json(SETTINGS.similarity, exclude={"threshold", "threshold_kind"}),
        stage_version=STAGE_VERSIONS["similarity"],
    shell:
        """
        {resources.lease} python scripts/score_similarity.py \
            --records {input.records:q} \
            --captions {input.captions:q} \
            --image-root {params.image_root:q} \
            --model {params.model:q} \
            --settings {params.settings:q} \
            --out {output.scores:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule choose_similarity_threshold:
    """Say below which similarity an original caption is replaced, over all shards."""
    input:
        scores=lambda wildcards: WIRING.similarity(
            wildcards.corpus, wildcards.recipe, wildcards.captioner
        ),
    output:
        threshold="results/{experiment}/corpus/{corpus}/recipes/{recipe}/similarity/{captioner}/threshold.json",
    log:
        "logs/{experiment}/choose_similarity_threshold/{corpus}.{recipe}.{captioner}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        scores=lambda wildcards, input: shard_range(input.scores),
        settings=as_json(SETTINGS.similarity, exclude={"batch_size", "dtype"}),
        stage_version=STAGE_VERSIONS["policy"],
    shell:
        """
        python scripts/choose_similarity_threshold.py \
            --similarity {params.scores:q} \
            --settings {params.settings:q} \
            --out {output.threshold:q} \
            2>{log:q}
        """


rule apply_caption_policy:
    """Give each record of an arm its caption: the original or the new one."""
    input:
        records=lambda wildcards: WIRING.arm_records(wildcards.arm, wildcards.shard),
        captions=lambda wildcards: WIRING.arm_captions(wildcards.arm, wildcards.shard),
        similarity=lambda wildcards: WIRING.arm_similarity(wildcards.arm, wildcards.shard),
        threshold=lambda wildcards: WIRING.arm_threshold(wildcards.arm),
    output:
        records="results/{experiment}/arms/{arm}/text/{shard}.jsonl",
        decisions="results/{experiment}/arms/{arm}/decisions/{shard}.jsonl",
    log:
        "logs/{experiment}/apply_caption_policy/{arm}.{shard}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        policy=lambda wildcards: WIRING.policy_flags(wildcards.arm),
        captions=lambda wildcards, input: (f"--captions {input.captions}" if input.captions else ""),
        similarity=lambda wildcards, input: (
            f"--similarity {input.similarity} --threshold {input.threshold}"
            if input.similarity
            else ""
        ),
        stage_version=STAGE_VERSIONS["policy"],
    shell:
        """
        python scripts/apply_caption_policy.py \
            --records {input.records:q} \
            {params.policy} \
            {params.captions} \
            {params.similarity} \
            --out {output.records:q} \
            --decisions {output.decisions:q} \
            2>{log:q}
        """
