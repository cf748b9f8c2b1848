# Compute nodes may have no network: what downloads runs where Snakemake was started.
localrules:
    fetch_model,
    fetch_benchmark,
    fetch_corpus,


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
    """Fetch a model from the first of its row's sources, verified by the lock sheet."""
    output:
        manifest="resources/models/{model}/manifest.json",
    log:
        "logs/fetch_model/{model}.log",
    wildcard_constraints:
        model=FETCHING.fetched_models(),
    conda:
        "../envs/vlm.yaml"
    threads: 1
    resources:
        # No parameter: where files placed by hand lie decides no byte of them.
        data_root=SETTINGS.data_root,
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
        # No parameter: a further source makes nothing due that was fetched.
        alternatives=lambda wildcards: FETCHING.model_alternatives(wildcards.model),
    params:
        folder=subpath(output.manifest, parent=True),
        request=lambda wildcards: FETCHING.model(wildcards.model),
        lock=SETTINGS.sheets.model_locks,
        stage_version=STAGE_VERSIONS["models"],
    shell:
        """
        python scripts/fetch_files.py \
            --request {params.request:q} \
            --alternatives {resources.alternatives:q} \
            --lock {params.lock:q} \
            --data-root {resources.data_root:q} \
            --out {params.folder:q} \
            2>{log:q}
        """


rule fetch_benchmark:
    """Fetch the questions, answers and pictures of a benchmark."""
    output:
        manifest="resources/data/{dataset}/manifest.json",
    log:
        "logs/fetch_benchmark/{dataset}.log",
    wildcard_constraints:
        dataset=FETCHING.benchmark_data(),
    conda:
        "../envs/vlm.yaml"
    threads: 1
    resources:
        # No parameter: where files placed by hand lie decides no byte of them.
        data_root=SETTINGS.data_root,
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
        # No parameter: a further source makes nothing due that was fetched.
        alternatives=lambda wildcards: FETCHING.data_alternatives(wildcards.dataset),
    params:
        folder=subpath(output.manifest, parent=True),
        request=lambda wildcards: FETCHING.data(wildcards.dataset),
        lock=SETTINGS.sheets.data_locks,
        stage_version=STAGE_VERSIONS["models"],
    shell:
        """
        python scripts/fetch_files.py \
            --request {params.request:q} \
            --alternatives {resources.alternatives:q} \
            --lock {params.lock:q} \
            --data-root {resources.data_root:q} \
            --out {params.folder:q} \
            2>{log:q}
        """


use rule fetch_benchmark as fetch_corpus with:
    log:
        "logs/fetch_corpus/{dataset}.log",
    wildcard_constraints:
        dataset=FETCHING.training_data(),


rule register_local_model:
    """Hash a model folder that is on this machine, so that a change in it is noticed."""
    input:
        files=lambda wildcards: WIRING.local_model_files(wildcards.model),
    output:
        manifest="resources/models/{model}/manifest.json",
    log:
        "logs/register_local_model/{model}.log",
    wildcard_constraints:
        model=FETCHING.local_models(),
    conda:
        "../envs/vlm.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        folder=lambda wildcards: EXPERIMENT.models[wildcards.model].location,
        lock=lambda wildcards: FETCHING.local_lock(wildcards.model),
        stage_version=STAGE_VERSIONS["models"],
    shell:
        """
        python scripts/register_local_model.py \
            --model {wildcards.model:q} \
            --folder {params.folder:q} \
            --manifest {output.manifest:q} \
            {params.lock} \
            2>{log:q}
        """


rule import_file:
    """Bring in a file that was placed below `data_root` by hand, or fetched."""
    input:
        source=lambda wildcards: FETCHING.import_input(wildcards.path),
    output:
        file="resources/imported/{path}",
        manifest="resources/imported/{path}.manifest.json",
    log:
        "logs/import_file/{path}.log",
    wildcard_constraints:
        path=r".+(?<!\.manifest\.json)",
    conda:
        "../envs/curate.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        folder=lambda wildcards: FETCHING.import_folder(wildcards.path),
        lock=lambda wildcards: FETCHING.import_lock(wildcards.path),
        stage_version=STAGE_VERSIONS["models"],
    shell:
        """
        python scripts/import_file.py \
            --folder {params.folder:q} \
            --path {wildcards.path:q} \
            --out {output.file:q} \
            --manifest {output.manifest:q} \
            {params.lock} \
            2>{log:q}
        """
