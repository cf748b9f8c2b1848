rule caption_shard:
    """Caption one shard's images; an image captioned before comes from the store."""
    input:
        records=lambda wildcards: WIRING.kept_before_captioning(
            wildcards.corpus, wildcards.recipe, wildcards.shard
        ),
        model=lambda wildcards: WIRING.model_manifest(wildcards.captioner),
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
        gpu=COMPUTE.gpus,
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
        python scripts/caption_shard.py \
            --records {input.records:q} \
            --image-root {params.image_root:q} \
            --model {params.model:q} \
            --captioner {wildcards.captioner:q} \
            --store {params.store:q} \
            --settings {params.settings:q} \
            --out {output.captions:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule apply_caption_policy:
    """Give each record of an arm its caption: the original or the new one."""
    input:
        records=lambda wildcards: WIRING.arm_records(wildcards.arm, wildcards.shard),
        captions=lambda wildcards: WIRING.arm_captions(wildcards.arm, wildcards.shard),
    output:
        records="results/{experiment}/arms/{arm}/text/{shard}.jsonl",
    log:
        "logs/{experiment}/apply_caption_policy/{arm}.{shard}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        policy=lambda wildcards: EXPERIMENT.arms[wildcards.arm].caption_policy,
        captions=lambda wildcards, input: (
            f"--captions {input.captions} "
            f"--captioner {EXPERIMENT.arms[wildcards.arm].captioner}"
            if input.captions
            else ""
        ),
        stage_version=STAGE_VERSIONS["policy"],
    shell:
        """
        python scripts/apply_caption_policy.py \
            --records {input.records:q} \
            {params.captions} \
            --policy {params.policy:q} \
            --out {output.records:q} \
            2>{log:q}
        """
