# OCR tokens of question files that have none; see docs/benchmarks.md.


rule make_ocr_tokens:
    """Read the words of a benchmark's pictures into its prompts."""
    input:
        questions=lambda wildcards: WIRING.question_file(wildcards.benchmark),
    output:
        questions="results/{experiment}/ocr/{benchmark}/questions.jsonl",
        manifest="results/{experiment}/ocr/{benchmark}/questions.manifest.json",
    log:
        "logs/{experiment}/make_ocr_tokens/{benchmark}.log",
    conda:
        "../envs/ocr.yaml"
    threads: COMPUTE.cpu_threads
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        image_root=lambda wildcards: WIRING.image_root(EXPERIMENT.benchmarks[wildcards.benchmark]),
        settings=as_json(SETTINGS.ocr),
        state="results/{experiment}/state/ocr/{benchmark}",
        stage_version=STAGE_VERSIONS["ocr"],
    shell:
        """
        python scripts/make_ocr_tokens.py \
            --questions {input.questions:q} \
            --image-root {params.image_root:q} \
            --settings {params.settings:q} \
            --state-dir {params.state:q} \
            --threads {threads} \
            --out {output.questions:q} \
            --manifest {output.manifest:q} \
            2>{log:q}
        """
