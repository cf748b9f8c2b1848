rule list_comparison_inputs:
    """Name every file that the comparison and the report read."""
    output:
        inputs="results/{experiment}/compare/comparison_inputs.json",
    log:
        "logs/{experiment}/list_comparison_inputs.log",
    localrule: True
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        document=as_json(COMPARISON.document()),
        stage_version=STAGE_VERSIONS["compare"],
    shell:
        """
        python scripts/list_comparison_inputs.py \
            --document {params.document:q} \
            --out {output.inputs:q} \
            2>{log:q}
        """


rule compare_runs:
    """Compare the arms: better, worse or not distinguishable, with intervals."""
    input:
        inputs="results/{experiment}/compare/comparison_inputs.json",
        results=COMPARISON.results(),
    output:
        comparison=report(
            "results/{experiment}/compare/comparison.json",
            caption="captions/comparison.rst",
            category="Comparison",
            labels={"result": "every number"},
        ),
        evaluation=report(
            "results/{experiment}/compare/evaluation_comparison_report.json",
            caption="captions/comparison.rst",
            category="Comparison",
            labels={"result": "evaluation, as the predecessor named it"},
        ),
        lmms_eval=COMPARISON.lmms_eval(),
    log:
        "logs/{experiment}/compare_runs.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        settings=as_json(SETTINGS.compare),
        lmms_eval="results/{experiment}/compare/lmms_eval",
        stage_version=STAGE_VERSIONS["compare"],
    shell:
        """
        python scripts/compare_evaluation_results.py \
            --inputs {input.inputs:q} \
            --settings {params.settings:q} \
            --out {output.comparison:q} \
            --evaluation-report {output.evaluation:q} \
            --lmms-eval {params.lmms_eval:q} \
            2>{log:q}
        """


rule build_report:
    """Write the page a person reads, with every number's count and protocol."""
    input:
        inputs="results/{experiment}/compare/comparison_inputs.json",
        comparison="results/{experiment}/compare/comparison.json",
        results=COMPARISON.results(),
        costs="results/{experiment}/costs.json",
        brought_in=COMPARISON.brought_in(),
        gallery=COMPARISON.gallery(),
        quality=COMPARISON.quality(),
    output:
        page=report(
            "results/{experiment}/report/report.html",
            caption="captions/report.rst",
            category="Report",
            labels={"result": "page"},
        ),
        training=report(
            "results/{experiment}/report/training_comparison_analysis.md",
            caption="captions/training.rst",
            category="Report",
            labels={"result": "training, Markdown"},
        ),
        summary=report(
            "results/{experiment}/report/final_project_summary.md",
            caption="captions/report.rst",
            category="Report",
            labels={"result": "summary, Markdown"},
        ),
        verdict=report(
            "results/{experiment}/report/verdict.txt",
            caption="captions/report.rst",
            category="Report",
            labels={"result": "verdict in a line"},
        ),
        run_card=report(
            "results/{experiment}/report/run_card.json",
            caption="captions/run_card.rst",
            category="Report",
            labels={"result": "run card"},
        ),
        # Which figures and tables there are depends on what the arms and benchmarks gave.
        figures=report(
            directory("results/{experiment}/report/figures"),
            patterns=["{name}.{form}"],
            caption="captions/figures.rst",
            category="Figures",
            labels={"figure": "{name}", "form": "{form}"},
        ),
        tables=report(
            directory("results/{experiment}/report/tables"),
            patterns=["{name}.csv"],
            caption="captions/tables.rst",
            category="Tables",
            labels={"table": "{name}"},
        ),
    log:
        "logs/{experiment}/build_report.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        gallery=lambda wildcards, input: (f"--gallery {input.gallery}" if input.gallery else ""),
        image_root=lambda wildcards: COMPARISON.gallery_image_root(),
        settings=as_json(SETTINGS.report),
        stage_version=STAGE_VERSIONS["report"],
    shell:
        """
        python scripts/build_report.py \
            --inputs {input.inputs:q} \
            --comparison {input.comparison:q} \
            --settings {params.settings:q} \
            {params.gallery} \
            --image-root {params.image_root:q} \
            --out {output.page:q} \
            --training-analysis {output.training:q} \
            --summary {output.summary:q} \
            --verdict {output.verdict:q} \
            --costs {input.costs:q} \
            --run-card {output.run_card:q} \
            --figures {output.figures:q} \
            --tables {output.tables:q} \
            2>{log:q}
        """
