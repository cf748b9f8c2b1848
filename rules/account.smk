rule account_costs:
    """Add up GPU-hours, energy and memory by stage and arms, and compare them with the plan."""
    input:
        inputs="results/{experiment}/compare/comparison_inputs.json",
        perf=COMPARISON.perf(),
    output:
        costs="results/{experiment}/costs.json",
        table="results/{experiment}/costs.tsv",
    log:
        "logs/{experiment}/account_costs.log",
    localrule: True
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(COMPUTE.cpu_mem_mb),
        runtime=minutes(COMPUTE.runtime_minutes),
    params:
        # Its plan is no input: planning again must not make the costs again.
        folder=subpath(output.costs, parent=True),
        stage_version=STAGE_VERSIONS["costs"],
    shell:
        """
        python scripts/account_costs.py \
            --inputs {input.inputs:q} \
            --results {params.folder:q} \
            --out {output.costs:q} \
            --table {output.table:q} \
            2>{log:q}
        """
