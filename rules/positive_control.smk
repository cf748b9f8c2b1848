# Released models with published scores: the same jobs as for a run's own model.


rule convert_released_model:
    """Give a released checkpoint this pipeline's form, with its towers inside."""
    input:
        **POSITIVE.towers(),
        manifest=lambda wildcards: POSITIVE.manifest(wildcards.released),
    output:
        manifest="results/{experiment}/positive_controls/{released}/checkpoint/manifest.json",
    log:
        "logs/{experiment}/convert_released_model/{released}.log",
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.cpu_threads
    resources:
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        source=lambda wildcards: POSITIVE.model_folder(wildcards.released),
        towers=POSITIVE.tower_flags(),
        folder=subpath(output.manifest, parent=True),
        stage_version=STAGE_VERSIONS["positive_control"],
    shell:
        """
        rm -rf {params.folder:q}
        python scripts/convert_checkpoint.py \
            {params.source:q} \
            {params.folder:q} \
            {params.towers} \
            2>{log:q}
        """


use rule predict_shard as predict_positive_control with:
    input:
        merged="results/{experiment}/positive_controls/{released}/checkpoint/manifest.json",
        questions=lambda wildcards: WIRING.questions(wildcards.benchmark),
    output:
        answers="results/{experiment}/positive_controls/{released}/{benchmark}/answers/{chunks}_{chunk}.jsonl",
        perf="results/{experiment}/perf/positive_control/{released}.{benchmark}.{chunks}_{chunk}.json",
    log:
        "logs/{experiment}/predict_positive_control/{released}.{benchmark}.{chunks}_{chunk}.log",
    benchmark:
        "results/{experiment}/perf/positive_control/{released}.{benchmark}.{chunks}_{chunk}.tsv"
    params:
        checkpoint=subpath(input.merged, parent=True),
        image_root=lambda wildcards: WIRING.image_root(EXPERIMENT.benchmarks[wildcards.benchmark]),
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        model_id="{released}",
        state="results/{experiment}/state/positive_control/{released}.{benchmark}",
        settings=as_json(SETTINGS.evaluate),
        control="none",
        stage_version=STAGE_VERSIONS["predict"],


use rule gather_answers as gather_positive_control with:
    input:
        questions=lambda wildcards: WIRING.questions(wildcards.benchmark),
        shards=lambda wildcards: POSITIVE.answer_shards(wildcards.released, wildcards.benchmark),
    output:
        answers="results/{experiment}/positive_controls/{released}/{benchmark}/merge.jsonl",
        report="results/{experiment}/positive_controls/{released}/{benchmark}/gather.json",
    log:
        "logs/{experiment}/gather_positive_control/{released}.{benchmark}.log",


use rule score_answers as score_positive_control with:
    input:
        answers="results/{experiment}/positive_controls/{released}/{benchmark}/merge.jsonl",
        annotations=lambda wildcards: WIRING.annotations(wildcards.benchmark),
        asked=lambda wildcards: WIRING.questions(wildcards.benchmark),
    output:
        score="results/{experiment}/positive_controls/{released}/{benchmark}/score.json",
        questions="results/{experiment}/positive_controls/{released}/{benchmark}/scores.jsonl",
    log:
        "logs/{experiment}/score_positive_control/{released}.{benchmark}.log",
    params:
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        real="",
        stage_version=STAGE_VERSIONS["score"],


rule check_positive_control:
    """Refuse to go on if a released model does not score what was published."""
    input:
        score="results/{experiment}/positive_controls/{released}/{benchmark}/score.json",
        scores="results/{experiment}/positive_controls/{released}/{benchmark}/scores.jsonl",
    output:
        report=report(
            "results/{experiment}/positive_controls/{released}/{benchmark}/agreement.json",
            caption="captions/agreement.rst",
            category="Benchmarks",
            labels={"arm": "{released}", "seed": "", "benchmark": "{benchmark}, published"},
        ),
    log:
        "logs/{experiment}/check_positive_control/{released}.{benchmark}.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        control=lambda wildcards: POSITIVE.control(wildcards.released, wildcards.benchmark),
        settings=as_json(SETTINGS.compare),
        stage_version=STAGE_VERSIONS["positive_control"],
    shell:
        """
        python scripts/check_positive_control.py \
            --control {params.control:q} \
            --score {input.score:q} \
            --scores {input.scores:q} \
            --settings {params.settings:q} \
            --out {output.report:q} \
            2>{log:q}
        """
