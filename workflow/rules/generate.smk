# The actor answers: K candidates per prompt.


rule candidates:
    input:
        prompts=rules.select.output,
        model=policy,
    output:
        candidates=f"{RUN}/iter-{{iteration}}/candidates/{{shard}}.parquet",
        model_inputs=f"{RUN}/iter-{{iteration}}/candidate_prompts/{{shard}}.parquet",
    log:
        f"{RUN}/logs/candidates/{{iteration}}-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/candidates/{{iteration}}-{{shard}}.tsv"
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
        settings=settings("candidates", "engine"),
        chat=chat(TemplateSettings),
        shards=shard_count,
        seed=CONFIG.run.seed,
        free=free("engine", own="candidates"),
        version=version("candidates"),
    message:
        "Iteration {wildcards.iteration}: sample candidates, shard {wildcards.shard}"
    shell:
        "{params.start} -m stages.candidates --model {params.model:q} --prompts {input.prompts:q} "
        "--iteration {wildcards.iteration} --shard {wildcards.shard} --shards {params.shards} --seed {params.seed} "
        "{params.settings} {params.chat} {params.free} --output {output.candidates:q} --model-inputs {output.model_inputs:q} > {log:q} 2>&1"
