rule draw_held_out:
    """Draw the ids that no arm trains on."""
    input:
        records=HELD_OUT.population(),
    output:
        ids="results/{experiment}/held_out/ids.json",
    log:
        "logs/{experiment}/draw_held_out.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        records=lambda wildcards, input: shard_range(input.records),
        size=SETTINGS.held_out.records,
        seed=SETTINGS.held_out.seed,
        stage_version=STAGE_VERSIONS["dataset"],
    shell:
        """
        python scripts/hold_out.py draw \
            --records {params.records:q} \
            --size {params.size} \
            --seed {params.seed} \
            --out {output.ids:q} \
            2>{log:q}
        """


rule convert_held_out:
    """Write the held-out ids in one caption style."""
    input:
        ids="results/{experiment}/held_out/ids.json",
        records=HELD_OUT.records(),
        captions=lambda wildcards: HELD_OUT.captions(wildcards.style),
        original=WIRING.original(HELD_OUT.corpus),
    output:
        samples="results/{experiment}/held_out/{style}.json",
    log:
        "logs/{experiment}/convert_held_out/{style}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        records=lambda wildcards, input: shard_range(input.records),
        captions=lambda wildcards, input: range_flag("--captions", input.captions),
        original=lambda wildcards, input: range_flag("--original", input.original),
        image_root=lambda wildcards: HELD_OUT.image_root(),
        stage_version=STAGE_VERSIONS["dataset"],
    shell:
        """
        python scripts/hold_out.py convert \
            --ids {input.ids:q} \
            --records {params.records:q} \
            {params.captions} \
            {params.original} \
            --image-root {params.image_root:q} \
            --out {output.samples:q} \
            2>{log:q}
        """


rule split_instructions:
    """Hold instruction samples out of stage 2, whole pictures at a time."""
    input:
        source=WIRING.data_file(EXPERIMENT.instructions, EXPERIMENT.instructions.json_file),
    output:
        train="results/{experiment}/held_out/train/instructions.json",
        samples="results/{experiment}/held_out/instructions.json",
    log:
        "logs/{experiment}/split_instructions.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        size=SETTINGS.held_out.instructions,
        seed=SETTINGS.held_out.seed,
        stage_version=STAGE_VERSIONS["dataset"],
    shell:
        """
        python scripts/hold_out.py split \
            --source {input.source:q} \
            --size {params.size} \
            --seed {params.seed} \
            --train {output.train:q} \
            --out {output.samples:q} \
            2>{log:q}
        """
