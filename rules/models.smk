REMOTE = [name for name, row in EXPERIMENT.models.items() if row.source == "modelscope"]
LOCAL = [name for name in EXPERIMENT.models if name not in REMOTE]


rule build_demo_world:
    """Draw a known-answer world: corpus, instruction data, questions."""
    output:
        corpus="resources/worlds/{world}/corpus.jsonl",
        original="resources/worlds/{world}/original.json",
        sft="resources/worlds/{world}/sft.json",
        questions="resources/worlds/{world}/textvqa/llava_textvqa_val_v051_ocr.jsonl",
        annotations="resources/worlds/{world}/textvqa/TextVQA_0.5.1_val.json",
        mmbench="resources/worlds/{world}/mmbench/mmbench_dev_20230712.tsv",
        pope="resources/worlds/{world}/pope/llava_pope_test.jsonl",
        pope_labels=expand(
            "resources/worlds/{{world}}/pope/coco/coco_pope_{category}.json",
            category=("random", "popular", "adversarial"),
        ),
        truth="resources/worlds/{world}/truth.jsonl",
        bad_lines="resources/worlds/{world}/bad_lines.json",
        summary="resources/worlds/{world}/world.json",
    log:
        "logs/build_demo_world/{world}.log",
    conda:
        "../envs/curate.yaml"
    threads: COMPUTE.cpu_threads
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        folder=subpath(output.summary, parent=True),
        settings=lambda wildcards: as_json(SETTINGS.worlds[wildcards.world]),
        stage_version=STAGE_VERSIONS["world"],
    shell:
        """
        python scripts/build_demo_world.py \
            --out {params.folder:q} \
            --settings {params.settings:q} \
            2>{log:q}
        """


rule fetch_model:
    """Fetch a model from ModelScope at the revision of its row."""
    output:
        manifest="resources/models/{model}/manifest.json",
    log:
        "logs/fetch_model/{model}.log",
    wildcard_constraints:
        model="|".join(REMOTE) or NO_RECIPE,
    retries: 2
    conda:
        "../envs/vlm.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        folder=subpath(output.manifest, parent=True),
        location=lambda wildcards: EXPERIMENT.models[wildcards.model].location,
        revision=lambda wildcards: EXPERIMENT.models[wildcards.model].revision,
        stage_version=STAGE_VERSIONS["models"],
    shell:
        """
        python scripts/fetch_model.py \
            --model-id {params.location:q} \
            --revision {params.revision:q} \
            --out {params.folder:q} \
            2>{log:q}
        """


rule register_local_model:
    """Hash a model folder that is on this machine, so that a change in it is noticed."""
    input:
        files=lambda wildcards: WIRING.local_model_files(wildcards.model),
    output:
        manifest="resources/models/{model}/manifest.json",
    log:
        "logs/register_local_model/{model}.log",
    wildcard_constraints:
        model="|".join(LOCAL) or NO_RECIPE,
    conda:
        "../envs/vlm.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        folder=lambda wildcards: EXPERIMENT.models[wildcards.model].location,
        stage_version=STAGE_VERSIONS["models"],
    shell:
        """
        python scripts/register_local_model.py \
            --folder {params.folder:q} \
            --manifest {output.manifest:q} \
            2>{log:q}
        """


rule import_file:
    """Bring in a file that has to be placed below `data_root` by hand."""
    input:
        source=lambda wildcards: WIRING.manual_file(wildcards.path),
    output:
        file="resources/imported/{path}",
    log:
        "logs/import_file/{path}.log",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        data_root=SETTINGS.data_root,
    shell:
        """
        python scripts/import_file.py \
            --data-root {params.data_root:q} \
            --path {wildcards.path:q} \
            --out {output.file:q} \
            2>{log:q}
        """
