rule merge_arm:
    """Join an arm's shards, match its ids, and account for every record."""
    input:
        shards=lambda wildcards: WIRING.arm_kept(wildcards.arm),
        matched=lambda wildcards: WIRING.matched(wildcards.arm),
        sized=lambda wildcards: WIRING.sized(wildcards.arm),
        held_out=HELD_OUT.ids(),
        validate_report=lambda wildcards: (
            f"results/{wildcards.experiment}/corpus/"
            f"{EXPERIMENT.arms[wildcards.arm].corpus}/validate.json"
        ),
        pre_counts=lambda wildcards: WIRING.pre_counts(wildcards.arm),
        post_counts=lambda wildcards: WIRING.post_counts(wildcards.arm),
    output:
        records="results/{experiment}/arms/{arm}/merged.jsonl",
        funnel=report(
            "results/{experiment}/arms/{arm}/funnel.json",
            caption="captions/funnel.rst",
            category="Curation",
            labels={"arm": "{arm}", "result": "funnel, counts"},
        ),
        manifest="results/{experiment}/arms/{arm}/merged.manifest.json",
    log:
        "logs/{experiment}/merge_arm/{arm}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        matched=lambda wildcards, input: (f"--match-ids {input.matched}" if input.matched else ""),
        held_out=lambda wildcards, input: (f"--held-out {input.held_out}" if input.held_out else ""),
        budget=lambda wildcards: WIRING.budget_flags(wildcards.arm),
        shards=lambda wildcards, input: shard_range(input.shards),
        pre_counts=lambda wildcards, input: range_flag("--pre-counts", input.pre_counts),
        post_counts=lambda wildcards, input: range_flag("--post-counts", input.post_counts),
        stage_version=STAGE_VERSIONS["dataset"],
    shell:
        """
        python scripts/merge_arm.py \
            --arm {wildcards.arm:q} \
            --shards {params.shards:q} \
            {params.matched} \
            {params.held_out} \
            {params.budget} \
            --validate-report {input.validate_report:q} \
            {params.pre_counts} \
            {params.post_counts} \
            --out {output.records:q} \
            --funnel {output.funnel:q} \
            --manifest {output.manifest:q} \
            2>{log:q}
        """


rule gather_funnel:
    """Gather every record an arm lost, with statistic, value and bound; draw the funnel."""
    input:
        funnel="results/{experiment}/arms/{arm}/funnel.json",
        rejects=lambda wildcards: (
            f"results/{wildcards.experiment}/corpus/"
            f"{EXPERIMENT.arms[wildcards.arm].corpus}/rejects.jsonl"
        ),
        pre_drops=lambda wildcards: WIRING.pre_drops(wildcards.arm),
        post_drops=lambda wildcards: WIRING.post_drops(wildcards.arm),
        shards=lambda wildcards: WIRING.arm_kept(wildcards.arm),
        merged="results/{experiment}/arms/{arm}/merged.jsonl",
        matched=lambda wildcards: WIRING.matched(wildcards.arm),
        held_out=HELD_OUT.ids(),
    output:
        table=report(
            "results/{experiment}/arms/{arm}/funnel.parquet",
            caption="captions/drops.rst",
            category="Curation",
            labels={"arm": "{arm}", "result": "lost records"},
        ),
        svg=report(
            "results/{experiment}/arms/{arm}/funnel.svg",
            caption="captions/funnel.rst",
            category="Curation",
            labels={"arm": "{arm}", "result": "funnel, SVG"},
        ),
        png=report(
            "results/{experiment}/arms/{arm}/funnel.png",
            caption="captions/funnel.rst",
            category="Curation",
            labels={"arm": "{arm}", "result": "funnel, PNG"},
        ),
    log:
        "logs/{experiment}/gather_funnel/{arm}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        matched=lambda wildcards, input: (f"--match-ids {input.matched}" if input.matched else ""),
        held_out=lambda wildcards, input: (f"--held-out {input.held_out}" if input.held_out else ""),
        shards=lambda wildcards, input: shard_range(input.shards),
        pre_drops=lambda wildcards, input: range_flag("--pre-drops", input.pre_drops),
        post_drops=lambda wildcards, input: range_flag("--post-drops", input.post_drops),
        stage_version=STAGE_VERSIONS["funnel"],
    shell:
        """
        python scripts/gather_funnel.py \
            --funnel {input.funnel:q} \
            --rejects {input.rejects:q} \
            {params.pre_drops} \
            {params.post_drops} \
            --shards {params.shards:q} \
            --merged {input.merged:q} \
            {params.matched} \
            {params.held_out} \
            --out {output.table:q} \
            --svg {output.svg:q} \
            --png {output.png:q} \
            2>{log:q}
        """


rule convert_llava:
    """Write an arm's training set as LLaVA JSON, each id with its own question."""
    input:
        records="results/{experiment}/arms/{arm}/merged.jsonl",
        original=lambda wildcards: WIRING.original(EXPERIMENT.arms[wildcards.arm].corpus),
    output:
        dataset="results/{experiment}/arms/{arm}/train.json",
        manifest="results/{experiment}/arms/{arm}/train.manifest.json",
    log:
        "logs/{experiment}/convert_llava/{arm}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        original=lambda wildcards, input: range_flag("--original", input.original),
        stage_version=STAGE_VERSIONS["dataset"],
    shell:
        """
        python scripts/convert_llava.py \
            --records {input.records:q} \
            {params.original} \
            --image-root {params.image_root:q} \
            --out {output.dataset:q} \
            --manifest {output.manifest:q} \
            2>{log:q}
        """
