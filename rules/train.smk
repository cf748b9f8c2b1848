rule pretrain:
    """Stage 1: align projector and mining to the language model on captions."""
    input:
        **WIRING.base_manifests(),
        data=lambda wildcards: WIRING.train_data(wildcards.arm),
        held_out=list(HELD_OUT.sets("pretrain").values()),
        preflight=ancient(PREFLIGHT.reports("train")),
    output:
        projector="results/{experiment}/runs/{arm}/seed{seed}/pretrain/mm_projector.safetensors",
        telemetry="results/{experiment}/runs/{arm}/seed{seed}/pretrain/telemetry.jsonl",
        metrics=report(
            "results/{experiment}/runs/{arm}/seed{seed}/pretrain/metrics.json",
            caption="captions/training.rst",
            category="Training",
            labels={"arm": "{arm}", "seed": "{seed}", "stage": "pretrain", "result": "metrics"},
        ),
        gates=report(
            "results/{experiment}/runs/{arm}/seed{seed}/pretrain/gates.json",
            caption="captions/gates.rst",
            category="Training",
            labels={"arm": "{arm}", "seed": "{seed}", "stage": "pretrain", "result": "gates"},
        ),
        manifest="results/{experiment}/runs/{arm}/seed{seed}/pretrain/manifest.json",
        perf="results/{experiment}/perf/pretrain/{arm}.seed{seed}.json",
        updates="results/{experiment}/perf/pretrain/{arm}.seed{seed}.updates.jsonl",
    log:
        "logs/{experiment}/pretrain/{arm}.seed{seed}.log",
    benchmark:
        "results/{experiment}/perf/pretrain/{arm}.seed{seed}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: LAUNCH.threads
    resources:
        **LAUNCH.resources(),
        # No parameters: neither the number of ranks nor free settings change a result.
        launcher=lambda wildcards, threads: LAUNCH.command(threads),
        free_settings=free_settings(SETTINGS.train.pretrain),
        tracker=SETTINGS.train.tracker,
        mem_mb=megabytes(LAUNCH.mem_mb),
        runtime=minutes(COMPUTE.train_runtime_minutes),
    params:
        base=WIRING.base_flags(),
        image_root=lambda wildcards: WIRING.image_root(corpus_row(wildcards)),
        held_out=HELD_OUT.flags("pretrain"),
        settings=as_json(SETTINGS.train.pretrain, exclude=FREE_SETTINGS),
        folder=subpath(output.manifest, parent=True),
        seed=lambda wildcards: WIRING.train_seed(wildcards.arm, wildcards.seed),
        state="results/{experiment}/state/pretrain/{arm}.seed{seed}",
        log_dir="logs/{experiment}/tracking/{arm}.seed{seed}/pretrain",
        stage_version=STAGE_VERSIONS["train"],
    shell:
        """
        {resources.launcher} scripts/train_stage.py \
            --stage pretrain \
            --data {input.data:q} \
            --image-root {params.image_root:q} \
            {params.base} \
            {params.held_out} \
            --settings {params.settings:q} \
            --free-settings {resources.free_settings:q} \
            --seed {params.seed} \
            --state-dir {params.state:q} \
            --out-dir {params.folder:q} \
            --log-dir {params.log_dir:q} \
            --probe-cache resources/probes \
            --tracker {resources.tracker} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule finetune:
    """Stage 2: instruction tuning with LoRA, from stage 1's projector."""
    input:
        **WIRING.base_manifests(),
        data=HELD_OUT.instructions(),
        held_out=list(HELD_OUT.sets("finetune").values()),
        projector="results/{experiment}/runs/{arm}/seed{seed}/pretrain/mm_projector.safetensors",
        projector_manifest="results/{experiment}/runs/{arm}/seed{seed}/pretrain/manifest.json",
    output:
        adapter="results/{experiment}/runs/{arm}/seed{seed}/finetune/adapter_model.safetensors",
        adapter_config="results/{experiment}/runs/{arm}/seed{seed}/finetune/adapter_config.json",
        others="results/{experiment}/runs/{arm}/seed{seed}/finetune/non_lora_trainables.safetensors",
        config="results/{experiment}/runs/{arm}/seed{seed}/finetune/config.json",
        telemetry="results/{experiment}/runs/{arm}/seed{seed}/finetune/telemetry.jsonl",
        metrics=report(
            "results/{experiment}/runs/{arm}/seed{seed}/finetune/metrics.json",
            caption="captions/training.rst",
            category="Training",
            labels={"arm": "{arm}", "seed": "{seed}", "stage": "finetune", "result": "metrics"},
        ),
        gates=report(
            "results/{experiment}/runs/{arm}/seed{seed}/finetune/gates.json",
            caption="captions/gates.rst",
            category="Training",
            labels={"arm": "{arm}", "seed": "{seed}", "stage": "finetune", "result": "gates"},
        ),
        manifest="results/{experiment}/runs/{arm}/seed{seed}/finetune/manifest.json",
        perf="results/{experiment}/perf/finetune/{arm}.seed{seed}.json",
        updates="results/{experiment}/perf/finetune/{arm}.seed{seed}.updates.jsonl",
    log:
        "logs/{experiment}/finetune/{arm}.seed{seed}.log",
    benchmark:
        "results/{experiment}/perf/finetune/{arm}.seed{seed}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: LAUNCH.threads
    resources:
        **LAUNCH.resources(),
        # No parameters: neither the number of ranks nor free settings change a result.
        launcher=lambda wildcards, threads: LAUNCH.command(threads),
        free_settings=free_settings(SETTINGS.train.finetune),
        tracker=SETTINGS.train.tracker,
        mem_mb=megabytes(LAUNCH.mem_mb),
        runtime=minutes(COMPUTE.train_runtime_minutes),
    params:
        base=WIRING.base_flags(),
        image_root=lambda wildcards: WIRING.image_root(EXPERIMENT.instructions),
        held_out=HELD_OUT.flags("finetune"),
        settings=as_json(SETTINGS.train.finetune, exclude=FREE_SETTINGS),
        folder=subpath(output.manifest, parent=True),
        seed=lambda wildcards: WIRING.train_seed(wildcards.arm, wildcards.seed),
        state="results/{experiment}/state/finetune/{arm}.seed{seed}",
        finished_state="results/{experiment}/state/pretrain/{arm}.seed{seed}",
        log_dir="logs/{experiment}/tracking/{arm}.seed{seed}/finetune",
        stage_version=STAGE_VERSIONS["train"],
    shell:
        """
        {resources.launcher} scripts/train_stage.py \
            --stage finetune \
            --data {input.data:q} \
            --image-root {params.image_root:q} \
            {params.base} \
            {params.held_out} \
            --projector {input.projector:q} \
            --projector-manifest {input.projector_manifest:q} \
            --finished-state {params.finished_state:q} \
            --settings {params.settings:q} \
            --free-settings {resources.free_settings:q} \
            --seed {params.seed} \
            --state-dir {params.state:q} \
            --out-dir {params.folder:q} \
            --log-dir {params.log_dir:q} \
            --probe-cache resources/probes \
            --tracker {resources.tracker} \
            --perf {output.perf:q} \
            2>{log:q}
        """
