rule predict_shard:
    """Answer one shard of a benchmark's questions with one run's model."""
    input:
        merged="results/{experiment}/runs/{arm}/seed{seed}/merged/manifest.json",
        parity="results/{experiment}/runs/{arm}/seed{seed}/parity.json",
        questions=lambda wildcards: WIRING.questions(wildcards.benchmark),
        preflight=ancient(PREFLIGHT.reports("model")),
    output:
        answers="results/{experiment}/eval/{arm}/seed{seed}/{benchmark}{control}/answers/{chunks}_{chunk}.jsonl",
        perf="results/{experiment}/perf/predict_shard/{arm}.seed{seed}.{benchmark}{control}.{chunks}_{chunk}.json",
    log:
        "logs/{experiment}/predict_shard/{arm}.seed{seed}.{benchmark}{control}.{chunks}_{chunk}.log",
    benchmark:
        "results/{experiment}/perf/predict_shard/{arm}.seed{seed}.{benchmark}{control}.{chunks}_{chunk}.tsv"
    conda:
        "../envs/vlm.yaml"
    threads: COMPUTE.gpu_threads
    resources:
        **GPUS,
        lease=LEASE,
        mem_mb=megabytes(COMPUTE.model_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        checkpoint=subpath(input.merged, parent=True),
        image_root=lambda wildcards: WIRING.image_root(EXPERIMENT.benchmarks[wildcards.benchmark]),
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        model_id="{arm}-seed{seed}",
        state="results/{experiment}/state/predict/{arm}.seed{seed}.{benchmark}{control}",
        settings=as_json(SETTINGS.evaluate),
        control=lambda wildcards: wildcards.control.removeprefix(".") or "none",
        stage_version=STAGE_VERSIONS["predict"],
    shell:
        """
        {resources.lease} python scripts/predict_shard.py \
            --checkpoint {params.checkpoint:q} \
            --questions {input.questions:q} \
            --image-root {params.image_root:q} \
            --protocol {params.protocol:q} \
            --num-chunks {wildcards.chunks} \
            --chunk-idx {wildcards.chunk} \
            --model-id {params.model_id:q} \
            --state-dir {params.state:q} \
            --settings {params.settings:q} \
            --control {params.control:q} \
            --answers {output.answers:q} \
            --perf {output.perf:q} \
            2>{log:q}
        """


rule gather_answers:
    """Join the answer shards; every question exactly once, or stop."""
    input:
        questions=lambda wildcards: WIRING.questions(wildcards.benchmark),
        shards=lambda wildcards: WIRING.answer_shards(
            wildcards.arm, wildcards.seed, wildcards.benchmark, wildcards.control
        ),
    output:
        answers="results/{experiment}/eval/{arm}/seed{seed}/{benchmark}{control}/merge.jsonl",
        report="results/{experiment}/eval/{arm}/seed{seed}/{benchmark}{control}/gather.json",
    log:
        "logs/{experiment}/gather_answers/{arm}.seed{seed}.{benchmark}{control}.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        expected=lambda wildcards: EXPERIMENT.benchmarks[wildcards.benchmark].count,
        stage_version=STAGE_VERSIONS["score"],
    shell:
        """
        python scripts/gather_answers.py \
            --questions {input.questions:q} \
            --expected-questions {params.expected} \
            --protocol {params.protocol:q} \
            --shards {input.shards:q} \
            --out {output.answers:q} \
            --report {output.report:q} \
            2>{log:q}
        """


rule score_answers:
    """Score a run's answers by the benchmark's own metric."""
    input:
        answers="results/{experiment}/eval/{arm}/seed{seed}/{benchmark}{control}/merge.jsonl",
        annotations=lambda wildcards: WIRING.annotations(wildcards.benchmark),
        asked=lambda wildcards: WIRING.questions(wildcards.benchmark),
        real=lambda wildcards: WIRING.real_answers(
            wildcards.arm, wildcards.seed, wildcards.benchmark, wildcards.control
        ),
    output:
        score=report(
            "results/{experiment}/eval/{arm}/seed{seed}/{benchmark}{control}/score.json",
            caption="captions/score.rst",
            category="Benchmarks",
            labels={"arm": "{arm}", "seed": "{seed}", "benchmark": "{benchmark}{control}"},
        ),
        questions="results/{experiment}/eval/{arm}/seed{seed}/{benchmark}{control}/scores.jsonl",
    log:
        "logs/{experiment}/score_answers/{arm}.seed{seed}.{benchmark}{control}.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        real=lambda wildcards, input: (f"--real-answers {input.real}" if input.real else ""),
        stage_version=STAGE_VERSIONS["score"],
    shell:
        """
        python scripts/score_answers.py \
            --benchmark {wildcards.benchmark:q} \
            --protocol {params.protocol:q} \
            --answers {input.answers:q} \
            --annotations {input.annotations:q} \
            --questions {input.asked:q} \
            {params.real} \
            --out {output.score:q} \
            --per-question {output.questions:q} \
            2>{log:q}
        """


rule write_submission:
    """Write a run's answers in the form that a benchmark's server reads."""
    input:
        answers="results/{experiment}/eval/{arm}/seed{seed}/{benchmark}/merge.jsonl",
        annotations=lambda wildcards: WIRING.annotations(wildcards.benchmark),
    output:
        submission="results/{experiment}/eval/{arm}/seed{seed}/{benchmark}/submission.{format}",
    log:
        "logs/{experiment}/write_submission/{arm}.seed{seed}.{benchmark}.{format}.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        protocol=lambda wildcards: WIRING.protocol(wildcards.benchmark),
        stage_version=STAGE_VERSIONS["submit"],
    shell:
        """
        python scripts/write_submission.py \
            --protocol {params.protocol:q} \
            --answers {input.answers:q} \
            --annotations {input.annotations:q} \
            --out {output.submission:q} \
            2>{log:q}
        """
