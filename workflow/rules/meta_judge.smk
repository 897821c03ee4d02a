# The model judges its own judgements; the verdicts become ratings.


rule meta_judge:
    input:
        prompts=rules.select.output,
        candidates=rules.candidates.output.candidates,
        judgements=f"{RUN}/iter-{{iteration}}/judgements/{{shard}}.parquet",
        votes=rules.score.output.votes,
        scores=rules.score.output.scores,
        model=model_of_role(meta_judge),
        template=str(CONFIG.meta_judge.template),
    output:
        verdicts=f"{RUN}/iter-{{iteration}}/verdicts/{{shard}}.parquet",
        model_inputs=f"{RUN}/iter-{{iteration}}/meta_judge_prompts/{{shard}}.parquet",
    log:
        f"{RUN}/logs/meta_judge/{{iteration}}-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/meta_judge/{{iteration}}-{{shard}}.tsv"
    container:
        image("generate")
    threads: threads_of_role(meta_judge)
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=gpus_of_role(meta_judge),
    params:
        start=start("generate", meta_judge),
        model=lambda wildcards, input: os.path.dirname(input.model),
        settings=settings("meta_judge", "engine", role=meta_judge),
        chat=chat_of_role(meta_judge),
        weights=weights_of_role(meta_judge),
        score_pattern=lambda wildcards: CONFIG.score.pattern,
        shards=shard_count,
        seed=CONFIG.run.seed,
        free=free("engine", role=meta_judge),
        version=version("meta_judge"),
    message:
        "Iteration {wildcards.iteration}: compare judgements, shard {wildcards.shard}"
    shell:
        "{params.start} -m stages.meta_judge --model {params.model:q} --prompts {input.prompts:q} --candidates {input.candidates:q} "
        "--judgements {input.judgements:q} --votes {input.votes:q} --scores {input.scores:q} "
        "--iteration {wildcards.iteration} --shard {wildcards.shard} --shards {params.shards} --seed {params.seed} "
        "--score-pattern {params.score_pattern:q} {params.settings} {params.chat} {params.free} "
        "--output {output.verdicts:q} --model-inputs {output.model_inputs:q} > {log:q} 2>&1"


rule rate:
    input:
        verdicts=shards_of("verdicts"),
        votes=rules.score.output.votes,
    output:
        battles=f"{RUN}/iter-{{iteration}}/battles.parquet",
        ratings=f"{RUN}/iter-{{iteration}}/ratings.parquet",
    log:
        f"{RUN}/logs/rate/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/rate/{{iteration}}.tsv"
    retries: 0
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        verdicts=folder_of("verdicts"),
        settings=settings("rate"),
        version=version("rate"),
    message:
        "Iteration {wildcards.iteration}: rate judgements"
    shell:
        "python -m stages.rate --verdicts {params.verdicts:q} --votes {input.votes:q} {params.settings} "
        "--battles {output.battles:q} --ratings {output.ratings:q} > {log:q} 2>&1"
