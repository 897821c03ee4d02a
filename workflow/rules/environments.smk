# Where jobs run that generate or train: in which environment, on which GPUs.

WHERE = CONFIG.environments
# GPUs of a training, over all its nodes. On a machine that has none jobs run on the CPUs.
GPUS = CONFIG.megatron.processes * CONFIG.megatron.nodes


def image(kind):
    """The image that Snakemake runs a kind of job in, if any. A function, also for lack of one."""
    chosen = getattr(WHERE, kind).container if WHERE.runtime == "apptainer" else None
    methods = map(str, workflow.deployment_settings.deployment_method)
    if chosen and "apptainer" not in methods:
        raise WorkflowError(
            f"environments.{kind}.container needs --software-deployment-method apptainer"
        )
    return lambda wildcards: chosen


def start(kind, role=actor):
    """Params function: the command that starts Python in the environment of a kind of job, on GPUs of its own. As with
    `free`, another one is no reason to run a job again. A server, which may outlive the job that started it, holds its
    GPUs itself."""

    def command(wildcards, threads, resources):
        words = [_path(kind)]
        if inside := _container(kind):
            step = f"--overlap --nodes 1 --ntasks 1 --cpus-per-task {threads}"
            gpus = f"--gpus {resources.gpu}" if resources.gpu else ""
            words += ["srun", step, gpus, inside]
        served = kind == "generate" and role(wildcards).engine.backend == "openai"
        if resources.gpu and not served:
            words += [f"python -m stages.contracts.gpus {resources.gpu}"]
        return " ".join(filter(None, [*words, "python"]))

    return command


def launch(module):
    """Params function: the command that starts a training program on all its ranks; on one machine it does so itself.

    Over several nodes srun starts torchrun on each, with all CPUs that the job has there; they meet at the one where the
    job's shell runs. A node that fails ends the others, which would wait for it."""

    def command(wildcards, threads, resources):
        if resources.nodes == 1:
            return f"{start('train')(wildcards, threads, resources)} -m {module}"
        words = [
            _path("train"),
            f"srun --nodes {resources.nodes} --ntasks-per-node 1 --cpu-bind none --kill-on-bad-exit=1",
            _container("train"),
            f"torchrun --nnodes {resources.nodes} --nproc-per-node {CONFIG.megatron.processes} --rdzv-backend c10d",
            '--rdzv-id $SLURM_JOB_ID --rdzv-endpoint "$(hostname):$((10000 + SLURM_JOB_ID % 20000))"',
            f"-m {module}",
        ]
        return " ".join(filter(None, words))

    return command


def on_nodes():
    """Resources of a training. Over several nodes Slurm's plugin must start no srun of its own, which would hold it to
    one of them: `mpi` says so, and then wants more than one task per node, among which it shares the CPUs.
    """
    across = {"nodes": CONFIG.megatron.nodes, "gpu": GPUS}
    if CONFIG.megatron.nodes > 1:
        tasks = max(CONFIG.megatron.processes, 2)
        across |= {"mpi": "srun", "tasks_per_node": tasks}
        across["cpus_per_task"] = lambda wildcards, threads: -(-threads // tasks)
    return across


def _path(kind):
    """What puts a virtual environment before the one that Snakemake runs in."""
    python = getattr(WHERE, kind).python
    folder = os.path.dirname(os.path.abspath(python)) if python else ""
    return f'env PATH={shlex.quote(folder)}:"$PATH"' if python else ""


def _container(kind):
    """The flags of `srun` for a container of pyxis."""
    chosen = getattr(WHERE, kind).container
    if not chosen or WHERE.runtime != "pyxis":
        return ""
    folders = [ROOT, os.getcwd(), CONFIG.run.results, *WHERE.mounts]
    mounts = sorted(set(map(os.path.abspath, folders)))
    return shlex.join(
        [
            f"--container-image={chosen}",
            f"--container-mounts={','.join(f'{folder}:{folder}' for folder in mounts)}",
            f"--container-workdir={os.getcwd()}",
            "--container-env=PYTHONPATH",
        ]
    )
