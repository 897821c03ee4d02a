# Each model answers held-out prompts; where the world has an oracle and a judge test, both are asked.


rule ingest_held_out:
    input:
        str(CONFIG.evaluate.prompts or []),
    output:
        prompts=HELD_OUT,
        ledger=f"{RUN}/prompts/held_out_ledger.parquet",
    log:
        f"{RUN}/logs/ingest_held_out.log",
    benchmark:
        f"{RUN}/benchmarks/ingest_held_out.tsv"
    retries: 0
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        chat=chat(TurnSettings),
        model=base_model_flag,
        template=template_fingerprint(CONFIG.run.model),
        version=version("ingest"),
    message:
        "Ingest held-out prompts"
    shell:
        "python -m stages.ingest --sources {input:q} {params.chat} {params.model} --prompts {output.prompts:q} "
        "--ledger {output.ledger:q} > {log:q} 2>&1"


rule evaluate:
    input:
        unpack(evaluation_inputs),
        model=f"{RUN}/models/{{model}}/manifest.json",
    output:
        evaluations=f"{RUN}/evaluation/{{model}}/evaluations.parquet",
        check_evaluations=f"{RUN}/evaluation/{{model}}/check_evaluations.parquet",
        judgements=f"{RUN}/evaluation/{{model}}/judgements.parquet",
        judge_evaluations=f"{RUN}/evaluation/{{model}}/judge_evaluations.parquet",
        meta_evaluations=f"{RUN}/evaluation/{{model}}/meta_evaluations.parquet",
        summary=f"{RUN}/evaluation/{{model}}/summary.parquet",
    log:
        f"{RUN}/logs/evaluate/{{model}}.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate/{{model}}.tsv"
    container:
        image("generate")
    threads: threads_of_role(actor)
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=gpus_of_role(actor),
    params:
        start=start("generate"),
        model=lambda wildcards, input: os.path.dirname(input.model),
        settings=settings("evaluate", "engine", "judge", "score", "meta_judge", "rate"),
        chat=chat(TemplateSettings),
        number=lambda wildcards: -1 if wildcards.model == "base" else wildcards.model,
        # A file of held-out prompts is held out as a whole.
        split="all" if CONFIG.evaluate.prompts else "validation",
        # The test set of EFT, unless the configuration names another one.
        judge_tests=lambda wildcards, input: flag(
            "--judge-tests", getattr(input, "judge_tests", None)
        ),
        seed=CONFIG.run.seed,
        free=free("engine"),
        version=version("evaluate"),
    message:
        "Evaluate model {wildcards.model}"
    shell:
        "{params.start} -m stages.evaluate --model {params.model:q} --number={params.number} --pool {input.prompts:q} "
        "--split {params.split} --seed {params.seed} {params.settings} {params.chat} {params.free} {params.judge_tests} "
        "--evaluations {output.evaluations:q} --check-evaluations {output.check_evaluations:q} "
        "--judgements {output.judgements:q} "
        "--judge-evaluations {output.judge_evaluations:q} --meta-evaluations {output.meta_evaluations:q} "
        "--summary {output.summary:q} > {log:q} 2>&1"
