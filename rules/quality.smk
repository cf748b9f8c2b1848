rule measure_quality:
    """Measure the captions an arm trains on, each number with its counter and interval."""
    input:
        records="results/{experiment}/arms/{arm}/merged.jsonl",
        similarity=lambda wildcards: WIRING.quality_similarity(wildcards.arm),
    output:
        quality=report(
            "results/{experiment}/arms/{arm}/quality.json",
            caption="captions/quality.rst",
            category="Captions",
            labels={"arm": "{arm}", "result": "quality"},
        ),
        manifest="results/{experiment}/arms/{arm}/quality.manifest.json",
        perf="results/{experiment}/perf/measure_quality/{arm}.json",
    log:
        "logs/{experiment}/measure_quality/{arm}.log",
    benchmark:
        "results/{experiment}/perf/measure_quality/{arm}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        similarity=lambda wildcards, input: range_flag("--similarity", input.similarity),
        settings=as_json(SETTINGS.quality),
        stage_version=STAGE_VERSIONS["quality"],
    shell:
        """
        python scripts/measure_quality.py \
            --arm {wildcards.arm:q} \
            --records {input.records:q} \
            {params.similarity} \
            --settings {params.settings:q} \
            --out {output.quality:q} \
            --manifest {output.manifest:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule compare_quality:
    """Compare an arm's captions with the reference's, on the ids they share."""
    input:
        records="results/{experiment}/arms/{arm}/merged.jsonl",
        similarity=lambda wildcards: WIRING.quality_similarity(wildcards.arm),
        reference_records=f"results/{{experiment}}/arms/{WIRING.quality_reference()}/merged.jsonl",
        reference_similarity=WIRING.quality_similarity(WIRING.quality_reference()),
    output:
        differences=report(
            "results/{experiment}/arms/{arm}/quality_differences.json",
            caption="captions/quality.rst",
            category="Captions",
            labels={"arm": "{arm}", "result": "against the reference"},
        ),
        manifest="results/{experiment}/arms/{arm}/quality_differences.manifest.json",
        perf="results/{experiment}/perf/compare_quality/{arm}.json",
    log:
        "logs/{experiment}/compare_quality/{arm}.log",
    benchmark:
        "results/{experiment}/perf/compare_quality/{arm}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        reference=WIRING.quality_reference(),
        similarity=lambda wildcards, input: range_flag("--similarity", input.similarity),
        reference_similarity=lambda wildcards, input: range_flag(
            "--reference-similarity", input.reference_similarity
        ),
        settings=as_json(SETTINGS.quality),
        stage_version=STAGE_VERSIONS["quality"],
    shell:
        """
        python scripts/compare_quality.py \
            --arm {wildcards.arm:q} \
            --records {input.records:q} \
            {params.similarity} \
            --reference {params.reference:q} \
            --reference-records {input.reference_records:q} \
            {params.reference_similarity} \
            --settings {params.settings:q} \
            --out {output.differences:q} \
            --manifest {output.manifest:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """
