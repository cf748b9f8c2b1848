rule check_lora_model:
    """Refuse an adapter that is incomplete, untrained or made for another base."""
    input:
        **WIRING.base_manifests(),
        adapter="results/{experiment}/runs/{arm}/seed{seed}/finetune/adapter_model.safetensors",
        manifest="results/{experiment}/runs/{arm}/seed{seed}/finetune/manifest.json",
        projector="results/{experiment}/runs/{arm}/seed{seed}/pretrain/mm_projector.safetensors",
    output:
        report=report(
            "results/{experiment}/runs/{arm}/seed{seed}/check.json",
            caption="captions/gates.rst",
            category="Checkpoints",
            labels={"arm": "{arm}", "seed": "{seed}", "result": "adapter check"},
        ),
    log:
        "logs/{experiment}/check_lora_model/{arm}.seed{seed}.log",
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.cpu_threads
    resources:
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        base=WIRING.base_flags(),
        folder=subpath(input.adapter, parent=True),
        stage_version=STAGE_VERSIONS["merge"],
    shell:
        """
        python scripts/check_lora_model.py {params.folder:q} \
            {params.base} \
            --initial-projector {input.projector:q} \
            --report {output.report:q} \
            2>{log:q}
        """


rule merge_lora_weights:
    """Add the adapter to the weights: W + (alpha / r) B A, summed in float32."""
    input:
        **WIRING.base_manifests(),
        adapter="results/{experiment}/runs/{arm}/seed{seed}/finetune/adapter_model.safetensors",
        others="results/{experiment}/runs/{arm}/seed{seed}/finetune/non_lora_trainables.safetensors",
        check="results/{experiment}/runs/{arm}/seed{seed}/check.json",
    output:
        index="results/{experiment}/runs/{arm}/seed{seed}/merged/model.safetensors.index.json",
        config="results/{experiment}/runs/{arm}/seed{seed}/merged/config.json",
        manifest="results/{experiment}/runs/{arm}/seed{seed}/merged/manifest.json",
        report=report(
            "results/{experiment}/runs/{arm}/seed{seed}/merge_report.json",
            caption="captions/gates.rst",
            category="Checkpoints",
            labels={"arm": "{arm}", "seed": "{seed}", "result": "merge"},
        ),
    log:
        "logs/{experiment}/merge_lora_weights/{arm}.seed{seed}.log",
    benchmark:
        "results/{experiment}/perf/merge_lora_weights/{arm}.seed{seed}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.cpu_threads
    resources:
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        base=WIRING.base_flags(),
        adapter=subpath(input.adapter, parent=True),
        folder=subpath(output.index, parent=True),
        finished_state="results/{experiment}/state/finetune/{arm}.seed{seed}",
        settings=as_json(SETTINGS.merge, exclude={"parity_prompts", "parity_max_new_tokens"}),
        stage_version=STAGE_VERSIONS["merge"],
    shell:
        """
        python scripts/merge_lora_weights.py \
            --lora-path {params.adapter:q} \
            {params.base} \
            --output-path {params.folder:q} \
            --finished-state {params.finished_state:q} \
            --settings {params.settings:q} \
            --report {output.report:q} \
            2>{log:q}
        """


rule check_parity:
    """Refuse a merged model that does not answer as the unmerged one does."""
    input:
        **WIRING.base_manifests(),
        merged="results/{experiment}/runs/{arm}/seed{seed}/merged/manifest.json",
        adapter="results/{experiment}/runs/{arm}/seed{seed}/finetune/adapter_model.safetensors",
        questions=lambda wildcards: WIRING.questions(WIRING.parity_benchmark()),
    output:
        report=report(
            "results/{experiment}/runs/{arm}/seed{seed}/parity.json",
            caption="captions/gates.rst",
            category="Checkpoints",
            labels={"arm": "{arm}", "seed": "{seed}", "result": "parity"},
        ),
        perf="results/{experiment}/perf/check_parity/{arm}.seed{seed}.json",
    log:
        "logs/{experiment}/check_parity/{arm}.seed{seed}.log",
    benchmark:
        "results/{experiment}/perf/check_parity/{arm}.seed{seed}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.gpu_threads
    resources:
        **GPUS,
        lease=LEASE,
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        base=WIRING.base_flags(),
        merged=subpath(input.merged, parent=True),
        adapter=subpath(input.adapter, parent=True),
        image_root=lambda wildcards: WIRING.image_root(
            EXPERIMENT.benchmarks[WIRING.parity_benchmark()]
        ),
        settings=as_json(SETTINGS.merge),
        deployed_dtype=SETTINGS.evaluate.dtype,
        stage_version=STAGE_VERSIONS["merge"],
    shell:
        """
        {resources.lease} python scripts/check_parity.py \
            --merged {params.merged:q} \
            --adapter {params.adapter:q} \
            {params.base} \
            --images-root {params.image_root:q} \
            --questions {input.questions:q} \
            --settings {params.settings:q} \
            --deployed-dtype {params.deployed_dtype} \
            --out {output.report:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """
