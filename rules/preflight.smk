rule preflight_model:
    """Look at a node of captioning and answering before the first such job goes there."""
    input:
        models=PREFLIGHT.models("model"),
    output:
        report="results/{experiment}/preflight/model.json",
    log:
        "logs/{experiment}/preflight/model.log",
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.gpu_threads
    resources:
        **GPUS,
        launcher=f"{LEASE} python",
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(30),
    params:
        demands=PREFLIGHT.flags("model"),
        stage_version=STAGE_VERSIONS["preflight"],
    shell:
        """
        {resources.launcher} scripts/preflight.py \
            {params.demands} \
            --models {input.models:q} \
            --out {output.report:q} \
            2>{log:q}
        """


use rule preflight_model as preflight_train with:
    input:
        models=PREFLIGHT.models("train"),
    output:
        report="results/{experiment}/preflight/train.json",
    log:
        "logs/{experiment}/preflight/train.log",
    threads: LAUNCH.threads
    resources:
        **LAUNCH.resources(),
        launcher=lambda wildcards, threads: LAUNCH.command(threads),
        mem_mb=megabytes(LAUNCH.mem_mb),
        runtime=minutes(30),
    params:
        demands=PREFLIGHT.flags("train"),
        stage_version=STAGE_VERSIONS["preflight"],
