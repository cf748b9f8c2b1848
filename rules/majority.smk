rule answer_by_majority:
    """Answer without a model: the most frequent answer of the instruction data."""
    input:
        questions=lambda wildcards: WIRING.questions(wildcards.benchmark),
        instructions=WIRING.data_file(EXPERIMENT.instructions, EXPERIMENT.instructions.json_file),
    output:
        answers="results/{experiment}/eval/text_only_majority/{benchmark}/merge.jsonl",
    log:
        "logs/{experiment}/answer_by_majority/{benchmark}.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        stage_version=STAGE_VERSIONS["majority"],
    shell:
        """
        python scripts/answer_by_majority.py \
            --questions {input.questions:q} \
            --protocol {params.protocol:q} \
            --instructions {input.instructions:q} \
            --out {output.answers:q} \
            2>{log:q}
        """


use rule score_answers as score_majority with:
    input:
        answers="results/{experiment}/eval/text_only_majority/{benchmark}/merge.jsonl",
        annotations=lambda wildcards: WIRING.annotations(wildcards.benchmark),
        asked=lambda wildcards: WIRING.questions(wildcards.benchmark),
    output:
        score=report(
            "results/{experiment}/eval/text_only_majority/{benchmark}/score.json",
            caption="captions/score.rst",
            category="Benchmarks",
            labels={"arm": "no model", "seed": "", "benchmark": "{benchmark}"},
        ),
        questions="results/{experiment}/eval/text_only_majority/{benchmark}/scores.jsonl",
    log:
        "logs/{experiment}/score_majority/{benchmark}.log",
    params:
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        real="",
        stage_version=STAGE_VERSIONS["score"],
