# One page that shows the run, and the headline table in plain text.


rule report:
    input:
        layout=[f"stages/reporting/page.{kind}" for kind in ("html.jinja", "css", "js")],
        prompts=[*rules.ingest.output, *files(rules.select.output)],
        candidates=files(rules.candidates.output.candidates),
        judgements=files(rules.judge.output.judgements),
        scores=files(rules.score.output),
        pairs=files(rules.pairs.output),
        metrics=files(rules.train.output.metrics),
        verdicts=files(rules.meta_judge.output.verdicts, iterations=COMPARING),
        ratings=files(rules.rate.output, iterations=COMPARING),
        created=files(rules.filter_prompts.output, iterations=CREATING),
        evaluations=files(
            [
                rules.evaluate.output.summary,
                rules.evaluate.output.evaluations,
                rules.evaluate.output.judge_evaluations,
            ]
        ),
        win_rates=of_matches([rules.compare.output.win_rates]),
        eft=(
            [*rules.eft.output, rules.eft_score.output.votes]
            if CONFIG.eft.enabled
            else []
        ),
    output:
        # `snakemake --report` shows it beside its own pages.
        page=report(
            f"{RUN}/report.html", category="Run", labels={"page": CONFIG.run.name}
        ),
        table=f"{RUN}/report.txt",
    log:
        f"{RUN}/logs/report.log",
    benchmark:
        f"{RUN}/benchmarks/report.tsv"
    retries: 0
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        run=lambda wildcards, output: os.path.dirname(output.page),
        iterations=len(ITERATIONS),
        meta=" ".join(["--meta-iterations", *map(str, COMPARING)]),
        create=" ".join(["--create-iterations", *map(str, CREATING)]),
        win_rates=lambda wildcards, input: flag("--win-rates", input.win_rates),
        eft=str(CONFIG.eft.enabled).lower(),
        title=f"Meta-Rewarding: {CONFIG.run.name}",
        version=version("report"),
    message:
        "Write the report"
    shell:
        "python -m stages.report --title {params.title:q} --run {params.run:q} --iterations {params.iterations} {params.meta} "
        "{params.create} {params.win_rates} --eft {params.eft} --output {output.page:q} > {output.table:q} 2> {log:q}"
