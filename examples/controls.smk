# The workflow with another source of scores: chance, the checks' scores dealt out by chance, or the oracle
# (`evaluate.oracle`).
#
#   snakemake --snakefile examples/controls.smk --config arm=random ...

ARM = config.pop("arm")


include: "../workflow/Snakefile"


ruleorder: control_scores > score


rule control_scores:
    input:
        program="examples/controls.py",
        oracle=CONFIG.evaluate.oracle or [],
        prompts=rules.select.output,
        candidates=shards_of("candidates"),
        verifications=shards_of("verifications") if CONFIG.verify.enabled else [],
    output:
        votes=f"{RUN}/iter-{{iteration}}/votes.parquet",
        scores=f"{RUN}/iter-{{iteration}}/scores.parquet",
    log:
        f"{RUN}/logs/score/{{iteration}}.log",
    benchmark:
        f"{RUN}/benchmarks/score/{{iteration}}.tsv"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        arm=ARM,
        oracle=f"--oracle {CONFIG.evaluate.oracle}" if CONFIG.evaluate.oracle else "",
        verifications=lambda wildcards, input: flag(
            "--verifications", input.verifications
        ),
        seed=CONFIG.run.seed,
    message:
        "Iteration {wildcards.iteration}: scores from the control arm"
    shell:
        "python examples/controls.py --arm {params.arm} {params.oracle} --seed {params.seed} "
        "--iteration {wildcards.iteration} --prompts {input.prompts} --candidates {input.candidates} "
        "{params.verifications} "
        "--votes {output.votes} --scores {output.scores} > {log} 2>&1"
