# The model judges its own candidates; the judgements are parsed and aggregated.


rule judge:
    input:
        prompts=rules.select.output,
        candidates=rules.candidates.output.candidates,
        model=model_of_role(judge),
        template=str(CONFIG.judge.template),
    output:
        judgements=f"{RUN}/iter-{{iteration}}/judgements/{{shard}}{{judge}}.parquet",
        model_inputs=f"{RUN}/iter-{{iteration}}/judge_prompts/{{shard}}{{judge}}.parquet",
    log:
        f"{RUN}/logs/judge/{{iteration}}-{{shard}}{{judge}}.log",
    benchmark:
        f"{RUN}/benchmarks/judge/{{iteration}}-{{shard}}{{judge}}.tsv"
    container:
        image("generate")
    threads: threads_of_role(judge)
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=gpus_of_role(judge),
    params:
        start=start("generate", judge),
        model=lambda wildcards, input: os.path.dirname(input.model),
        settings=settings("judge", "engine", "verify", role=judge),
        chat=chat_of_role(judge),
        judge=judge_flags,
        weights=weights_of_role(judge),
        seed=CONFIG.run.seed,
        free=free("engine", role=judge),
        version=version("judge"),
    message:
        "Iteration {wildcards.iteration}: judge candidates, shard {wildcards.shard}{wildcards.judge}"
    shell:
        "{params.start} -m stages.judge --model {params.model:q} --prompts {input.prompts:q} --candidates {input.candidates:q} "
        "--iteration {wildcards.iteration} --seed {params.seed} {params.settings} {params.judge} {params.chat} {params.free} "
        "--output {output.judgements:q} --model-inputs {output.model_inputs:q} > {log:q} 2>&1"


rule score:
    input:
        judgements=shards_of("judgements"),
        judge_prompts=shards_of("judge_prompts"),
        verifications=shards_of("verifications") if CONFIG.verify.enabled else [],
    output:
        votes=f"{RUN}/iter-{{iteration}}/votes.parquet",
        scores=f"{RUN}/iter-{{iteration}}/scores.parquet",
    log:
        f"{RUN}/logs/score/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/score/{{iteration}}.tsv"
    retries: 0
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        judgements=folder_of("judgements"),
        judge_prompts=folder_of("judge_prompts"),
        verifications=lambda wildcards, input: flag(
            "--verifications",
            input.verifications and os.path.dirname(input.verifications[0]),
        ),
        settings=settings("score"),
        free=free(own="score"),
        version=version("score"),
    message:
        "Iteration {wildcards.iteration}: parse and aggregate scores"
    shell:
        "python -m stages.score --judgements {params.judgements:q} --judge-prompts {params.judge_prompts:q} "
        "{params.verifications} {params.settings} {params.free} "
        "--votes {output.votes:q} --scores {output.scores:q} > {log:q} 2>&1"
