# Evaluation fine-tuning: the base model judges ranked answers and learns from its judgements that agree; that makes
# model 0. Where there is instruction data (IFT), a model fine-tuned on it alone judges.

EFT = f"{RUN}/eft"
IFT = CONFIG.eft.ift_fraction > 0


rule ranked:
    input:
        [str(path) for path in CONFIG.eft.sources],
    output:
        prompts=EFT_PROMPTS,
        answers=files(f"{EFT}/answers/{{shard}}.parquet", [0]),
        tests=EFT_TESTS,
        ift=IFT_EXAMPLES,
        ledger=f"{EFT}/ranked_ledger.parquet",
    log:
        f"{RUN}/logs/eft/ranked.log",
    benchmark:
        f"{RUN}/benchmarks/eft/ranked.tsv"
    retries: 0
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings(
            "eft",
            only=[
                "sources",
                "language",
                "max_characters",
                "test_fraction",
                "ift_fraction",
            ],
        ),
        free=free(own="eft", only=["max_bad_rows", "strict"]),
        chat=chat(TurnSettings),
        model=base_model_flag,
        template=template_fingerprint(CONFIG.run.model),
        version=version("ranked"),
    message:
        "Ingest ranked answers"
    shell:
        "python -m stages.ranked {params.settings} {params.free} {params.chat} {params.model} --prompts {output.prompts:q} "
        "--answers {output.answers:q} --tests {output.tests:q} --ift {output.ift:q} --ledger {output.ledger:q} > {log:q} 2>&1"


rule eft_judge:
    input:
        prompts=rules.ranked.output.prompts,
        candidates=f"{EFT}/answers/{{shard}}.parquet",
        model=model_of("ift" if IFT else "base"),
        template=str(CONFIG.judge.template),
    output:
        judgements=f"{EFT}/judgements/{{shard}}.parquet",
        model_inputs=f"{EFT}/judge_prompts/{{shard}}.parquet",
    log:
        f"{RUN}/logs/eft/judge-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/eft/judge-{{shard}}.tsv"
    container:
        image("generate")
    threads: threads_of_role(actor)
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=gpus_of_role(actor),
    params:
        start=start("generate"),
        model=lambda wildcards, input: os.path.dirname(input.model),
        settings=settings("judge", "engine", only=["template", "sampling"]),
        chat=chat(TemplateSettings),
        votes=CONFIG.eft.votes,
        seed=CONFIG.run.seed,
        free=free("engine"),
        version=version("judge"),
    message:
        "Judge ranked answers, shard {wildcards.shard}"
    shell:
        "{params.start} -m stages.judge --model {params.model:q} --prompts {input.prompts:q} --candidates {input.candidates:q} "
        "--iteration 0 --seed {params.seed} {params.settings} {params.chat} {params.free} --votes {params.votes} "
        "--output {output.judgements:q} --model-inputs {output.model_inputs:q} > {log:q} 2>&1"


rule eft_score:
    input:
        judgements=files(rules.eft_judge.output.judgements, [0]),
        judge_prompts=files(rules.eft_judge.output.model_inputs, [0]),
    output:
        votes=f"{EFT}/votes.parquet",
        scores=f"{EFT}/scores.parquet",
    log:
        f"{RUN}/logs/eft/score.log",
    benchmark:
        f"{RUN}/benchmarks/eft/score.tsv"
    retries: 0
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        judgements=folder_of("judgements"),
        judge_prompts=folder_of("judge_prompts"),
        # How votes become one score does not matter here: changing it must not retrain model 0.
        settings=settings("score", only=["pattern", "low", "high"]),
        free=free(own="score"),
        version=version("score"),
    message:
        "Parse the judgements of ranked answers"
    shell:
        "python -m stages.score --judgements {params.judgements:q} --judge-prompts {params.judge_prompts:q} {params.settings} "
        "{params.free} --votes {output.votes:q} --scores {output.scores:q} > {log:q} 2>&1"


rule eft:
    input:
        answers=rules.ranked.output.answers,
        votes=rules.eft_score.output.votes,
        judgements=rules.eft_score.input.judgements,
        judge_prompts=rules.eft_score.input.judge_prompts,
    output:
        examples=f"{EFT}/examples.parquet",
        ledger=f"{EFT}/ledger.parquet",
    log:
        f"{RUN}/logs/eft/eft.log",
    benchmark:
        f"{RUN}/benchmarks/eft/eft.tsv"
    retries: 0
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        answers=folder_of("answers"),
        judgements=folder_of("judgements"),
        judge_prompts=folder_of("judge_prompts"),
        settings=settings(
            "eft",
            only=[
                "agreement",
                "tie_tolerance",
                "allow_ties",
                "max_class_share",
                "max_judgements",
            ],
        ),
        seed=CONFIG.run.seed,
        version=version("eft"),
    message:
        "Keep the judgements that agree with the ranks"
    shell:
        "python -m stages.eft --answers {params.answers:q} --votes {input.votes:q} --judgements {params.judgements:q} "
        "--judge-prompts {params.judge_prompts:q} --seed {params.seed} {params.settings} "
        "--output {output.examples:q} --ledger {output.ledger:q} > {log:q} 2>&1"


rule sft:
    input:
        model=model_of("base"),
        examples=supervised_data,
        answers=[str(path) for path in CONFIG.eft.validation.answers],
    output:
        **train_reports(f"{EFT}/train/{{model}}"),
        model=f"{RUN}/models/{{model}}/manifest.json",
    log:
        f"{RUN}/logs/eft/sft-{{model}}.log",
    benchmark:
        f"{RUN}/benchmarks/eft/sft-{{model}}.tsv"
    wildcard_constraints:
        model="ift|0",
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
        settings=settings(
            "eft",
            "megatron",
            "chat",
            only=["epochs", "batch_size", "optimizer", "overlong", "validation"],
        ),
        seed=CONFIG.run.seed,
        free=free("megatron", own="train", only=["loggers"]),
        version=version("train"),
    message:
        "Fine-tune model {wildcards.model} on examples"
    shell:
        "{params.launch} --objective sft --model {params.model:q} --examples {input.examples:q} --iteration 0 "
        "--seed {params.seed} {params.settings} {params.free} "
        "--output {output.model:q} --metrics {output.metrics:q} > {log:q} 2>&1"
