# Responses to prompts with checkable instructions, checked.


rule verify:
    input:
        prompts=rules.select.output,
        candidates=rules.candidates.output.candidates,
    output:
        f"{RUN}/iter-{{iteration}}/verifications/{{shard}}.parquet",
    log:
        f"{RUN}/logs/verify/{{iteration}}-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/verify/{{iteration}}-{{shard}}.tsv"
    retries: 0
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        version=version("verify"),
    message:
        "Iteration {wildcards.iteration}: check responses, shard {wildcards.shard}"
    shell:
        "python -m stages.verify --prompts {input.prompts:q} --candidates {input.candidates:q} --output {output:q} > {log:q} 2>&1"
