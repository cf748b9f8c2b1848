rule build_gallery:
    """Pick records for the report: image, raw caption, new caption, fate."""
    input:
        records=lambda wildcards: [
            WIRING.arm_records(wildcards.arm, shard)
            for shard in WIRING.shards(EXPERIMENT.arms[wildcards.arm].corpus)
        ],
        captions=lambda wildcards: [
            path
            for shard in WIRING.shards(EXPERIMENT.arms[wildcards.arm].corpus)
            for path in WIRING.arm_captions(wildcards.arm, shard)
        ],
        kept="results/{experiment}/arms/{arm}/merged.jsonl",
        held_out=HELD_OUT.ids(),
        decisions=lambda wildcards: WIRING.decisions(wildcards.arm),
        similarity=lambda wildcards: WIRING.quality_similarity(wildcards.arm),
        truth=lambda wildcards: WIRING.truth(EXPERIMENT.arms[wildcards.arm].corpus),
    output:
        gallery="results/{experiment}/arms/{arm}/gallery.jsonl",
    log:
        "logs/{experiment}/build_gallery/{arm}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        records=lambda wildcards, input: shard_range(input.records),
        captions=lambda wildcards, input: range_flag("--captions", input.captions),
        decisions=lambda wildcards, input: shard_range(input.decisions),
        similarity=lambda wildcards, input: range_flag("--similarity", input.similarity),
        truth=lambda wildcards, input: range_flag("--truth", input.truth),
        held_out=lambda wildcards, input: range_flag("--held-out", input.held_out),
        size=SETTINGS.report.gallery_size,
        seed=SETTINGS.compare.seed,
        stage_version=STAGE_VERSIONS["report"],
    shell:
        """
        python scripts/build_gallery.py \
            --records {params.records:q} \
            {params.captions} \
            --kept {input.kept:q} \
            --decisions {params.decisions:q} \
            {params.similarity} \
            {params.truth} \
            {params.held_out} \
            --size {params.size} \
            --seed {params.seed} \
            --out {output.gallery:q} \
            2>{log:q}
        """
