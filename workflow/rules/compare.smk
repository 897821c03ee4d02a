# Models' answers to held-out prompts, head to head: each against the one before, model 0, and the data's own answers.


rule compare:
    input:
        evaluations=f"{RUN}/evaluation/{{model}}/evaluations.parquet",
        answers=answers_of_other,
        model=model_of_role(comparer, own=lambda wildcards: model_of(0)),
        template=str(CONFIG.evaluate.head_to_head.template),
    output:
        comparisons=f"{RUN}/evaluation/{{model}}/against-{{other}}/comparisons.parquet",
        win_rates=f"{RUN}/evaluation/{{model}}/against-{{other}}/win_rates.parquet",
    log:
        f"{RUN}/logs/compare/{{model}}-{{other}}.log",
    benchmark:
        f"{RUN}/benchmarks/compare/{{model}}-{{other}}.tsv"
    container:
        image("generate")
    threads: threads_of_role(comparer)
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=gpus_of_role(comparer),
    params:
        start=start("generate", comparer),
        model=lambda wildcards, input: os.path.dirname(input.model),
        settings=settings("evaluate.head_to_head", "engine", role=comparer),
        chat=chat_of_role(comparer),
        weights=weights_of_role(comparer),
        pattern=lambda wildcards: CONFIG.rate.pattern,
        seed=CONFIG.run.seed,
        free=free("engine", role=comparer),
        version=version("compare"),
    message:
        "Compare model {wildcards.model} with {wildcards.other}"
    shell:
        "{params.start} -m stages.compare --model {params.model:q} --number {wildcards.model} "
        "--evaluations {input.evaluations:q} --other {wildcards.other} --answers {input.answers:q} --seed {params.seed} "
        "--pattern {params.pattern:q} {params.settings} {params.chat} {params.free} "
        "--comparisons {output.comparisons:q} --win-rates {output.win_rates:q} > {log:q} 2>&1"
