# Scores and ratings become preference pairs; whatever yields none gets a reason in the ledger.


rule pairs:
    input:
        unpack(meta_inputs),
        prompts=rules.select.output,
        candidates=shards_of("candidates"),
        candidate_prompts=shards_of("candidate_prompts"),
        scores=rules.score.output.scores,
        previous=lambda wildcards: [
            f"{RUN}/iter-{t}/pairs.parquet" for t in range(1, int(wildcards.iteration))
        ],
    output:
        pairs=f"{RUN}/iter-{{iteration}}/pairs.parquet",
        ledger=f"{RUN}/iter-{{iteration}}/pair_ledger.parquet",
    log:
        f"{RUN}/logs/pairs/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/pairs/{{iteration}}.tsv"
    retries: 0
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        candidates=folder_of("candidates"),
        candidate_prompts=folder_of("candidate_prompts"),
        settings=settings("pairs"),
        meta=meta_flags,
        previous=lambda wildcards, input: flag("--previous", input.previous),
        seed=CONFIG.run.seed,
        version=version("pairs"),
    message:
        "Iteration {wildcards.iteration}: choose preference pairs"
    shell:
        "python -m stages.pairs --prompts {input.prompts:q} --candidates {params.candidates:q} "
        "--candidate-prompts {params.candidate_prompts:q} --scores {input.scores:q} {params.meta} {params.previous} "
        "--iteration {wildcards.iteration} --seed {params.seed} {params.settings} "
        "--output {output.pairs:q} --ledger {output.ledger:q} > {log:q} 2>&1"
