# New prompts after examples (Self-Instruct), in the iterations that ask for them.


rule create:
    input:
        pool=rules.ingest.output.prompts,
        ift=IFT_EXAMPLES if CONFIG.eft.enabled and CONFIG.eft.ift_fraction else [],
        previous=created_before,
        model=model_of_role(writer),
        template=str(CONFIG.create.template),
    output:
        f"{RUN}/iter-{{iteration}}/creations/{{shard}}.parquet",
    log:
        f"{RUN}/logs/create/{{iteration}}-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/create/{{iteration}}-{{shard}}.tsv"
    container:
        image("generate")
    threads: threads_of_role(writer)
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=gpus_of_role(writer),
    params:
        start=start("generate", writer),
        model=lambda wildcards, input: os.path.dirname(input.model),
        previous=lambda wildcards, input: flag("--previous", input.previous),
        settings=settings(
            "create",
            "engine",
            only=["count", "template", "sampling", "pool_shots", "created_shots"],
            role=writer,
        ),
        chat=chat_of_role(writer),
        ift=lambda wildcards, input: flag("--ift", input.ift),
        weights=weights_of_role(writer),
        shards=shard_count,
        seed=CONFIG.run.seed,
        free=free("engine", role=writer),
        version=version("create"),
    message:
        "Iteration {wildcards.iteration}: create prompts, shard {wildcards.shard}"
    shell:
        "{params.start} -m stages.create --model {params.model:q} --pool {input.pool:q} {params.ift} {params.previous} "
        "--iteration {wildcards.iteration} --shard {wildcards.shard} --shards {params.shards} --seed {params.seed} "
        "{params.settings} {params.chat} {params.free} --output {output:q} > {log:q} 2>&1"


rule filter_prompts:
    input:
        creations=shards_of("creations"),
        pool=rules.ingest.output.prompts,
        previous=created_before,
        held_out=measured_prompts(),
    output:
        prompts=f"{RUN}/iter-{{iteration}}/created_prompts.parquet",
        ledger=f"{RUN}/iter-{{iteration}}/creation_ledger.parquet",
    log:
        f"{RUN}/logs/filter_prompts/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/filter_prompts/{{iteration}}.tsv"
    retries: 0
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        creations=folder_of("creations"),
        previous=lambda wildcards, input: flag("--previous", input.previous),
        settings=settings(
            "create",
            only=[
                "max_similarity",
                "near_duplicate",
                "min_characters",
                "max_characters",
                "keywords",
            ],
        ),
        held_out=lambda wildcards, input: flag("--held-out", input.held_out),
        version=version("filter_prompts"),
    message:
        "Iteration {wildcards.iteration}: filter created prompts"
    shell:
        "python -m stages.filter_prompts --creations {params.creations:q} --pool {input.pool:q} {params.previous} "
        "{params.held_out} {params.settings} --prompts {output.prompts:q} --ledger {output.ledger:q} > {log:q} 2>&1"
