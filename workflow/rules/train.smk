# The reference policy's log-probabilities, then DPO: one iteration's model becomes the next.


rule reference_logprobs:
    input:
        pairs=rules.pairs.output.pairs,
        model=reference_policy,
    output:
        f"{RUN}/iter-{{iteration}}/reference_logprobs.parquet",
    log:
        f"{RUN}/logs/reference_logprobs/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/reference_logprobs/{{iteration}}.tsv"
    container:
        image("train")
    threads: CONFIG.megatron.processes * CONFIG.megatron.threads
    resources:
        **on_nodes(),
        mem_mb=4000,
        runtime=240,
    params:
        launch=launch("stages.reference_logprobs"),
        model=lambda wildcards, input: os.path.dirname(input.model),
        settings=settings("reference", "megatron", "chat"),
        free=free("megatron"),
        version=version("reference_logprobs"),
    message:
        "Iteration {wildcards.iteration}: reference log-probabilities"
    shell:
        "{params.launch} --model {params.model:q} --pairs {input.pairs:q} {params.settings} {params.free} "
        "--output {output:q} > {log:q} 2>&1"


rule train:
    input:
        pairs=rules.pairs.output.pairs,
        reference=rules.reference_logprobs.output,
        reference_model=reference_policy,
        model=policy,
        answers=[str(path) for path in CONFIG.train.validation.answers],
    output:
        **train_reports(f"{RUN}/iter-{{iteration}}/train"),
        model=f"{RUN}/models/{{iteration}}/manifest.json",
    log:
        f"{RUN}/logs/train/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/train/{{iteration}}.tsv"
    container:
        image("train")
    threads: CONFIG.megatron.processes * CONFIG.megatron.threads
    resources:
        **on_nodes(),
        mem_mb=4000,
        runtime=720,
    params:
        launch=launch("stages.train"),
        model=lambda wildcards, input: os.path.dirname(input.model),
        reference_model=lambda wildcards, input: os.path.dirname(input.reference_model),
        settings=settings("train", "megatron", "chat"),
        seed=CONFIG.run.seed,
        free=free("megatron", own="train"),
        version=version("train"),
    message:
        "Iteration {wildcards.iteration}: train model {wildcards.iteration}"
    shell:
        "{params.launch} --model {params.model:q} --pairs {input.pairs:q} --reference-logprobs {input.reference:q} "
        "--reference-model {params.reference_model:q} --iteration {wildcards.iteration} --seed {params.seed} "
        "{params.settings} {params.free} --output {output.model:q} --metrics {output.metrics:q} > {log:q} 2>&1"
