# Conversations become prompts; model 0 is checked; each iteration draws its prompts.


rule ingest:
    input:
        sources=[str(path) for path in CONFIG.ingest.sources],
    output:
        prompts=POOL,
        ledger=f"{RUN}/prompts/ingest_ledger.parquet",
    log:
        f"{RUN}/logs/ingest.log",
    benchmark:
        f"{RUN}/benchmarks/ingest.tsv"
    retries: 0
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings("ingest"),
        free=free(own="ingest"),
        chat=chat(TurnSettings),
        model=base_model_flag,
        template=template_fingerprint(CONFIG.run.model),
        version=version("ingest"),
    message:
        "Ingest conversations into prompts"
    shell:
        "python -m stages.ingest {params.settings} {params.free} {params.chat} {params.model} --prompts {output.prompts:q} "
        "--ledger {output.ledger:q} > {log:q} 2>&1"


rule base_model:
    input:
        config=str(CONFIG.run.model / "config.json"),
    output:
        model_of("base" if CONFIG.eft.enabled else 0),
    log:
        f"{RUN}/logs/base_model.log",
    benchmark:
        f"{RUN}/benchmarks/base_model.tsv"
    retries: 0
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        model=lambda wildcards, input: os.path.dirname(input.config),
        # Weights are large: an input of that size would rerun the whole loop whenever its time stamp changes.
        weights=fingerprint(CONFIG.run.model),
        version=version("base_model"),
    message:
        "Check the model and take it in"
    shell:
        "python -m stages.base_model --model {params.model:q} --output {output:q} > {log:q} 2>&1"


rule select:
    input:
        pool=rules.ingest.output.prompts,
        previous=lambda wildcards: (
            []
            if CONFIG.select.reuse
            else [
                f"{RUN}/iter-{t}/prompts.parquet"
                for t in range(1, int(wildcards.iteration))
            ]
        ),
        created=lambda wildcards: created([int(wildcards.iteration)]),
        created_before=created_before,
        held_out=measured_prompts(),
    output:
        f"{RUN}/iter-{{iteration}}/prompts.parquet",
    log:
        f"{RUN}/logs/select/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/select/{{iteration}}.tsv"
    retries: 0
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=settings("select"),
        previous=lambda wildcards, input: flag("--previous", input.previous),
        created=lambda wildcards, input: " ".join(
            flag(f"--{name.replace('_', '-')}", getattr(input, name))
            for name in ("created", "created_before", "held_out")
        ),
        seed=CONFIG.run.seed,
        version=version("select"),
    message:
        "Iteration {wildcards.iteration}: select prompts"
    shell:
        "python -m stages.select --pool {input.pool:q} {params.previous} {params.created} --iteration {wildcards.iteration} "
        "--seed {params.seed} {params.settings} --output {output:q} > {log:q} 2>&1"
