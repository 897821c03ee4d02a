# One page that shows the run, and the headline table in plain text.


rule report:
    input:
        layout="stages/reporting/page.html.jinja",
        ledger=rules.ingest.output.ledger,
        pairs=expand(
            f"{RUN}/iter-{{iteration}}/{{table}}.parquet",
            iteration=ITERATIONS,
            table=["pairs", "pair_ledger"],
        ),
        evaluations=expand(
            f"{RUN}/evaluation/{{model}}/summary.parquet",
            model=[*(["base"] if CONFIG.eft.enabled else []), 0, *ITERATIONS],
        ),
        metrics=expand(
            f"{RUN}/iter-{{iteration}}/train/metrics.parquet", iteration=ITERATIONS
        ),
        ratings=[
            f"{RUN}/iter-{t}/ratings.parquet" for t in ITERATIONS if meta_judged(t)
        ],
        created=created(ITERATIONS),
        created_ledgers=[
            f"{os.path.dirname(path)}/created_ledger.parquet"
            for path in created(ITERATIONS)
        ],
        eft=expand(
            f"{RUN}/eft/{{table}}.parquet",
            table=["examples", "ledger", "votes"] if CONFIG.eft.enabled else [],
        ),
    output:
        page=f"{RUN}/report.html",
        table=f"{RUN}/report.txt",
    log:
        f"{RUN}/logs/report.log",
    benchmark:
        f"{RUN}/benchmarks/report.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        run=lambda wildcards, output: os.path.dirname(output.page),
        iterations=len(ITERATIONS),
        meta=" ".join(
            ["--meta-iterations", *(str(t) for t in ITERATIONS if meta_judged(t))]
        ),
        create=" ".join(
            [
                "--create-iterations",
                *(str(t) for t in ITERATIONS if at(CONFIG.create.enabled, t)),
            ]
        ),
        eft=str(CONFIG.eft.enabled).lower(),
        title=f"Meta-Rewarding: {CONFIG.run.name}",
        version=version("report"),
    message:
        "Write the report"
    shell:
        "python -m stages.report --title {params.title:q} --run {params.run} --iterations {params.iterations} {params.meta} "
        "{params.create} --eft {params.eft} --output {output.page} > {output.table} 2> {log}"
