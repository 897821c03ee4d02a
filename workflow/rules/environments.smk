# Where jobs run that generate or train: on which GPUs.

# GPUs of a job, over all its nodes. On a machine that has none it runs on the CPUs.
GPUS = {
    "generate": CONFIG.engine.gpus,
    "train": CONFIG.megatron.processes * CONFIG.megatron.nodes,
}


def start(kind):
    """Params function: the command that starts Python on GPUs of its own."""

    def command(wildcards, resources):
        return (
            f"python -m stages.contracts.gpus {resources.gpu} python"
            if resources.gpu
            else "python"
        )

    return command


def launch(module):
    """Params function: the command that starts a training program on all its ranks; on one machine it does so itself."""

    def command(wildcards, resources):
        if resources.nodes == 1:
            return f"{start('train')(wildcards, resources)} -m {module}"
        return (
            f"srun --nodes {resources.nodes} --ntasks-per-node 1 torchrun --nnodes {resources.nodes} "
            f"--nproc-per-node {CONFIG.megatron.processes} --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID "
            f'--rdzv-endpoint "$(scontrol show hostnames | head -n 1):29500" -m {module}'
        )

    return command
