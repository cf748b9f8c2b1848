rule account_costs:
    """Add up GPU-hours, energy and memory by arm and stage, and compare them with the plan."""
    input:
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
        folder=subpath(output.costs, parent=True),
        arms=ARMS,
        stage_version=STAGE_VERSIONS["costs"],
    shell:
        """
        python scripts/account_costs.py \
            --results {params.folder:q} \
            --arms {params.arms:q} \
            --out {output.costs:q} \
            --table {output.table:q} \
            2>{log:q}
        """
