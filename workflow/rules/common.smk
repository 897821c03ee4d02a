# Configuration, paths and the few helpers that the rules share. Everything testable lives in the `stages` package.

import fcntl
import glob
import os
import shlex
import sys
from functools import cache
from operator import attrgetter
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake.utils import validate

from stages.contracts import cli
from stages.contracts import provenance
from stages.contracts.artifacts import provenance as provenance_of
from stages.config import (
    REFERENCES,
    EvaluateSettings,
    HeadToHeadSettings,
    JudgeSettings,
    MetaJudgeSettings,
    TemplateSettings,
    TurnSettings,
    at,
    decides,
    resolve,
)
from stages.config.whole import load
from stages.contracts.errors import StageError
from stages.contracts.files import writing
from stages.model_files.manifest import fingerprint, template_fingerprint
from stages.planning.checks import (
    check_chat,
    check_metric_loggers,
    check_model,
    check_models_are_there,
    check_paths,
    check_sampling,
    check_templates,
)
from stages.planning.job_lines import JobLines
from stages.planning.matches import matches

try:
    CONFIG = load(config)
    check_paths(CONFIG)
    check_models_are_there(CONFIG)
    check_metric_loggers(CONFIG)
    check_templates(CONFIG)
    check_chat(CONFIG)
    check_sampling(CONFIG)
    check_model(CONFIG)
except StageError as error:
    raise WorkflowError(str(error))
validate(
    CONFIG.model_dump(mode="json", exclude_none=True),
    "../schemas/config.schema.json",
    set_default=False,
)

RUN = str(CONFIG.run.results / CONFIG.run.name)
ITERATIONS = range(1, CONFIG.run.iterations + 1)
COMPARING = [t for t in ITERATIONS if at(CONFIG.meta_judge.enabled, t)]
CREATING = [t for t in ITERATIONS if at(CONFIG.create.enabled, t)]
MODELS = [*(["base"] if CONFIG.eft.enabled else []), 0, *ITERATIONS]
POOL = f"{RUN}/prompts/pool.parquet"
HELD_OUT = f"{RUN}/prompts/held_out.parquet"
# Which models are compared, each with what.
MATCHES = matches(CONFIG)
# The judges by what their files' names end in: nothing, where there is but one.
JUDGES = {f"-{name}" if CONFIG.judge.panel else "": name for name in CONFIG.judges}
JUDGED = ("judgements", "judge_prompts")
EFT_PROMPTS = f"{RUN}/eft/prompts.parquet"
EFT_TESTS = f"{RUN}/eft/tests.parquet"
IFT_EXAMPLES = f"{RUN}/eft/ift.parquet"
TRAIN_REPORTS = ["metrics", "speed", "ledger", "samples"]

# Rules that handle data call `python` of environments.data, or else of the environment that Snakemake itself runs in; for
# others see environments.smk. In a container it is the container's. A job is that process, without a shell around it: the
# shell would die of a SIGTERM at once and end the job, while training still saves. torchrun would kill its ranks 30
# seconds after a SIGTERM; with ten minutes it is for the cluster to say how long they have. As long as it lives a job
# holds the run's jobs lock (see lock_run); where there is no `flock`, nobody waits for it. Texts are of all scripts,
# whatever the locale of a cluster's node says. Threads that wait for others sleep: where jobs share the cores, spinning
# would take them from those others.
JOBS_LOCK = f"{RUN}/.jobs.lock"
ROOT = os.path.dirname(workflow.basedir)
PYTHON = os.path.abspath(CONFIG.environments.data.python or sys.executable)
CONTAINER = "SINGULARITY_CONTAINER"  # what Apptainer, too, says within one
shell.prefix(
    f'set -euo pipefail; [ "${{{{{CONTAINER}:-}}}}" != "{os.environ.get(CONTAINER, "")}" ] || '
    f'export PATH={shlex.quote(os.path.dirname(PYTHON))}:"$PATH"; '
    f'export PYTHONPATH={shlex.quote(ROOT)}"${{{{PYTHONPATH:+:$PYTHONPATH}}}}" '
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 PYTHONUTF8=1 OMP_WAIT_POLICY=PASSIVE; "
    f"exec 9<>{shlex.quote(JOBS_LOCK)}; flock --shared 9 2> /dev/null || true; exec "
)


wildcard_constraints:
    iteration=r"[1-9]\d*",
    model=r"base|ift|\d+",
    shard=r"\d{3}",
    judge=r"(-[A-Za-z0-9_-]+)?",
    other=rf"\d+|{REFERENCES}",


version = provenance.stage_version


def tell_of_jobs():
    """Beside Snakemake's own lines what jobs say, unless `--quiet` leaves out how far it is."""
    if not {Quietness.ALL, Quietness.PROGRESS} & set(
        workflow.output_settings.quiet or ()
    ):
        logger.addHandler(JobLines())


_locks = []


def lock_run():
    """One Snakemake per run folder, and none beside jobs that a killed one left behind: those are waited for.

    The system drops these locks with the processes that hold them, so that a kill leaves none. Snakemake's own lock,
    which would stay, is switched off in the profiles. A file system that knows no such locks is told of.
    """
    try:
        with writing(Path(RUN, ".run.lock")):
            os.makedirs(RUN, exist_ok=True)
            run, jobs = open(f"{RUN}/.run.lock", "w"), open(JOBS_LOCK, "a")
            # A page of spaces finds out whether the disk is full: later no log could tell it.
            run.write(" " * 4096)
            run.flush()
    except StageError as error:
        raise WorkflowError(str(error))
    _locks.append(run)
    try:
        fcntl.flock(run, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError(
            f"another Snakemake works in {RUN}; wait for it, or set another run.name"
        )
    except OSError as error:
        print(
            f"{RUN}: this file system has no locks ({error.strerror}); see to it that no second Snakemake works here, and "
            "after a kill that its jobs have ended",
            file=sys.stderr,
            flush=True,
        )
        return
    with jobs:
        try:
            fcntl.flock(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                "waiting for the jobs of a killed run to end",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(jobs, fcntl.LOCK_EX)


def drop_surplus_shards():
    """Remove files of shards that an iteration no longer has, and of judges: readers take all files of a folder."""
    for t in [0, *ITERATIONS]:
        for path in of_run(f"{f'iter-{t}' if t else 'eft'}/*/[0-9][0-9][0-9]*.parquet"):
            folder, name = os.path.split(path.removesuffix(".parquet"))
            judges = JUDGES if t and os.path.basename(folder) in JUDGED else [""]
            if name[:3] not in shards(t) or name[3:] not in judges:
                os.remove(path)


def actor(wildcards):
    """The policy: who generates where no other role is named. Roles are functions of a job's wildcards."""
    return CONFIG.actor


def judge(wildcards):
    """Who judges."""
    return CONFIG.judges[JUDGES[wildcards.judge]]


def meta_judge(wildcards):
    """Who compares judgements."""
    return CONFIG.meta_judges


def comparer(wildcards):
    """Who compares the answers of models."""
    return CONFIG.comparer


def writer(wildcards):
    """Who writes prompts."""
    return CONFIG.writer


def settings(own, *shared, only=None, role=actor):
    """Params function: the flags of a section (or of `only` some of its fields: a stage reruns for its own alone), and
    of shared ones under their own name, in the job's iteration: all those that decide what comes out. Section `engine`
    is that of the role.
    """

    def resolved(wildcards):
        return _flags(own, shared, only, wildcards, role, of_results=True)

    return resolved


def free(*shared, own=None, only=None, role=actor):
    """Params function: the other flags of sections. They decide speed, or whether the run goes on; Snakemake takes what
    a function makes of `resources` for no reason to run a job again."""

    def resolved(wildcards, resources):
        return _flags(own, shared, only, wildcards, role, of_results=False)

    return resolved


# What of a section its stage takes, where the rest (which model, which engine) is for the rules.
OF_THE_STAGE = {
    "judge": JudgeSettings,
    "meta_judge": MetaJudgeSettings,
    "evaluate": EvaluateSettings,
    "evaluate.head_to_head": HeadToHeadSettings,
}


def _flags(own, shared, only, wildcards, role, of_results):
    def keep(field):
        return (decides(field) == "results") == of_results

    def flags(name, prefix, only=None):
        section = (
            role(wildcards).engine if name == "engine" else attrgetter(name)(CONFIG)
        )
        fields = only or OF_THE_STAGE.get(name, type(section)).model_fields
        section = resolve(section, int(getattr(wildcards, "iteration", 1)))
        return cli.flags(section, prefix, only=list(fields), keep=keep)

    return " ".join(
        [
            *([flags(own, "", only)] if own else []),
            *(flags(name, f"{name.replace('_', '-')}.") for name in shared),
        ]
    )


def threads_of_role(role):
    """Threads function: those of the role's engine."""
    return lambda wildcards: role(wildcards).engine.threads


def gpus_of_role(role):
    """Resource function: GPUs that the role's engine needs."""
    return lambda wildcards: role(wildcards).engine.gpus


def chat_of_role(role):
    """Params function: how conversations become the tokens of the model that has a role."""

    def flags(wildcards):
        given = role(wildcards)
        own = {"template_arguments": given.template_arguments} if given.model else {}
        return cli.flags(
            CONFIG.chat.model_copy(update=own),
            "chat.",
            only=list(TemplateSettings.model_fields),
        )

    return flags


def judge_flags(wildcards):
    """Params function: which judge this is, and of which panel."""
    name = JUDGES[wildcards.judge]
    panel = f" --panel {' '.join(JUDGES.values())}" if CONFIG.judge.panel else ""
    return f"--judge {shlex.quote(name)}{panel}"


def model_of_role(role, own=None):
    """Input function: the model that has a role; one of the run's `own` (the policy), unless it is another."""

    def file(wildcards):
        model = role(wildcards).model
        return str(model / "config.json") if model else (own or policy)(wildcards)

    return file


def weights_of_role(role):
    """Params function: weights of a model from outside count by their content, not by their time stamp."""

    def content(wildcards):
        model = role(wildcards).model
        return fingerprint(model) if model else ""

    return content


def chat(part):
    """Params function: the flags of the part of section `chat` that a stage takes. A function, since Snakemake would
    look for wildcards in a text with braces."""
    flags = cli.flags(CONFIG.chat, "chat.", only=list(part.model_fields))
    return lambda wildcards: flags


def base_model_flag(wildcards, resources):
    """Params function: the model whose template must render the prompts. Where it is decides nothing: see `free`."""
    return shlex.join(["--model", str(CONFIG.run.model)])


def of_run(pattern):
    """The run's files of a pattern, which is not that of the folder's own name."""
    return [f"{RUN}/{path}" for path in glob.glob(pattern, root_dir=RUN)]


@cache
def shards(iteration):
    """The shards of an iteration (0: of EFT): those that it began with, so that another number redoes nothing."""
    begun = of_run(f"iter-{iteration}/candidates/*.parquet")
    begun = begun or of_run(f"iter-{iteration}/creations/*.parquet")
    count = (
        provenance_of(Path(begun[0]))["settings"]["shards"]
        if begun
        else CONFIG.run.shards
    )
    if int(iteration) == 0:
        count = len(of_run("eft/answers/*.parquet")) or CONFIG.run.shards
    return [f"{shard:03d}" for shard in range(count)]


def files(patterns, iterations=ITERATIONS):
    """The files of a rule's output in all iterations (0: before them), in all their shards, and of all models."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = {
        path
        for pattern in patterns
        for t in iterations
        for path in expand(
            pattern, iteration=t, shard=shards(t), judge=JUDGES, model=MODELS
        )
    }
    return sorted(found)


def train_reports(folder):
    """The tables that `train` writes beside its `--metrics`."""
    return {report: f"{folder}/{report}.parquet" for report in TRAIN_REPORTS}


def model_of(number):
    """The file that says that a model is complete."""
    return f"{RUN}/models/{number}/manifest.json"


def created(iterations):
    """The created prompts of those of the iterations that create some."""
    return [
        f"{RUN}/iter-{t}/created_prompts.parquet" for t in iterations if t in CREATING
    ]


def supervised_data(wildcards):
    """What the IFT model learns: instruction data. What model 0 learns: that and the kept judgements."""
    ift = [IFT_EXAMPLES] if CONFIG.eft.ift_fraction else []
    return ift if wildcards.model == "ift" else [*ift, f"{RUN}/eft/examples.parquet"]


def measured_prompts():
    """Prompt tables that models are measured on, beside the pool's own validation split."""
    return [
        *([HELD_OUT] if CONFIG.evaluate.prompts else []),
        *([EFT_PROMPTS] if CONFIG.eft.enabled else []),
    ]


def created_before(wildcards):
    """The prompts that earlier iterations created."""
    return created(range(1, int(wildcards.iteration)))


def policy(wildcards):
    """The model that an iteration starts from."""
    return model_of(int(wildcards.iteration) - 1)


def reference_policy(wildcards):
    """The model that holds the policy back."""
    return policy(wildcards) if CONFIG.reference.policy == "previous" else model_of(0)


def shards_of(table):
    """Input function: all shards of a table of the job's iteration."""
    judges = JUDGES if table in JUDGED else [""]
    return lambda wildcards: [
        f"{RUN}/iter-{wildcards.iteration}/{table}/{shard}{judge}.parquet"
        for shard in shards(wildcards.iteration)
        for judge in judges
    ]


def folder_of(name):
    """Params function: the folder that holds all files of an input. A command has no room for thousands of paths."""
    return lambda wildcards, input: os.path.dirname(getattr(input, name)[0])


def shard_count(wildcards):
    """Params function: into how many shards the job's iteration is cut."""
    return len(shards(wildcards.iteration))


def flag(name, paths):
    """A flag with a job's files, quoted for the shell; nothing where there are none."""
    paths = [paths] if isinstance(paths, str) else paths
    return shlex.join([name, *paths]) if paths else ""


def meta_inputs(wildcards):
    """The meta-judge's tables, in iterations that have one."""
    if int(wildcards.iteration) not in COMPARING:
        return {}
    iteration = f"{RUN}/iter-{wildcards.iteration}"
    return {
        "judgements": shards_of("judgements")(wildcards),
        "judge_prompts": shards_of("judge_prompts")(wildcards),
        "votes": f"{iteration}/votes.parquet",
        "ratings": f"{iteration}/ratings.parquet",
    }


def meta_flags(wildcards, input):
    """The flags that name those tables, or the folders of their shards."""
    return " ".join(
        flag(
            f"--{name.replace('_', '-')}",
            os.path.dirname(paths[0]) if isinstance(paths, list) else paths,
        )
        for name, paths in meta_inputs(wildcards).items()
    )


def held_out():
    """The table with the held-out prompts."""
    return HELD_OUT if CONFIG.evaluate.prompts else POOL


def answers_of_other(wildcards):
    """Input function: the answers that a model is compared with."""
    if wildcards.other == REFERENCES:
        return held_out()
    return f"{RUN}/evaluation/{wildcards.other}/evaluations.parquet"


def of_matches(patterns):
    """The files of a rule's output for all models that are compared."""
    return [
        expand(pattern, model=model, other=other)[0]
        for pattern in patterns
        for model, other in MATCHES
    ]


def evaluation_inputs(wildcards):
    """Held-out prompts and the templates; the judge's test set and the oracle where there are any."""
    files = {
        "prompts": held_out(),
        "template": CONFIG.judge.template,
        "meta_template": CONFIG.evaluate.meta_comparisons
        and CONFIG.meta_judge.template,
        "judge_tests": CONFIG.evaluate.judge_tests
        or (CONFIG.eft.enabled and EFT_TESTS),
        "oracle": CONFIG.evaluate.oracle,
    }
    return {name: str(path) for name, path in files.items() if path}
