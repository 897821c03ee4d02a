"""What is refused before any job runs, though the configuration by itself is sound: files that do not fit it."""

from operator import attrgetter

from stages.config import Sampling, TemplateSettings
from stages.config.base import paths
from stages.config.whole import Config
from stages.contracts.errors import StageError
from stages.engines.dialects import DIALECTS, OPTIONS
from stages.model_files.config import read_config
from stages.model_files.rank_layout import check_layout
from stages.prompting.chat_template import ChatTemplate
from stages.prompting.templates import COMPARE_VARIABLES, JUDGE_VARIABLES, META_JUDGE_VARIABLES, load_template
from stages.training.loggers import check_loggers

ENGINE_OPTIONS = {"torch": OPTIONS, "trtllm": frozenset({"top_k"})}
"""Which of `OPTIONS` the engines that run in process honour."""


def check_paths(config: Config) -> None:
    """StageError for a path that Snakemake or a stage would not take for one. All others are quoted for the shell."""
    for key, path in paths(config):
        if set(str(path)) & set("{}\n"):
            raise StageError(f"{key}: Snakemake reads braces and line breaks in {str(path)!r}; rename it")
        if str(path).startswith("-"):
            raise StageError(f"{key}: {str(path)!r} would be taken for a flag; give the whole path, from `/` on")


def check_models_are_there(config: Config) -> None:
    """StageError for a model that is no directory here, as a name on a hub is none."""
    others = {f"the model of {section}": role.model for section, role in config.generating() if role.model}
    for key, model in {"run.model": config.run.model, **others}.items():
        if not model.is_dir():
            raise StageError(
                f"{key}: {model}: no such directory, and nothing is downloaded by a run; type "
                f"`hf download {model} --local-dir models/mine` if that is its name on the hub, and set models/mine"
            )


def check_model(config: Config) -> None:
    """StageError if the base model cannot be trained, or not on the asked-for ranks: training itself would say so only
    after the first candidates and judgements. A model that is not there is for Snakemake to miss."""
    if (config.run.model / "config.json").exists():
        check_layout(config.megatron, read_config(config.run.model), config.megatron.processes * config.megatron.nodes)


def check_metric_loggers(config: Config) -> None:
    """StageError for a logger that lacks a package, where training runs in this very environment."""
    where = config.environments.train
    if not (where.python or where.container):
        check_loggers(config.train.loggers)


def check_sampling(config: Config) -> None:
    """StageError for a sampling setting that the engine would ignore."""
    default = Sampling()
    for section, role in config.generating():
        backend, kind, key = role.engine.backend, role.engine.server.kind, role.key
        honoured = DIALECTS[kind].honoured if backend == "openai" else ENGINE_OPTIONS[backend]
        which = f"{key}.server.kind `{kind}`" if backend == "openai" else f"{key}.backend `{backend}`"
        sampling = attrgetter(section)(config).sampling
        for option in sorted(OPTIONS - honoured):
            if getattr(sampling, option) != getattr(default, option):
                raise StageError(f"{section}.sampling.{option} is set, which {which} would ignore: leave it out")


def check_chat(config: Config) -> None:
    """StageError if the chat template of the base model, or of one with a role, is not valid, or does not look at what
    is set for it. A directory without one is for `base_model` to refuse, which names all that it lacks."""
    others = {role.model: role.template_arguments for _, role in config.generating() if role.model}
    for model, arguments in {config.run.model: config.chat.template_arguments, **others}.items():
        if any((model / name).exists() for name in ("chat_template.jinja", "tokenizer_config.json")):
            ChatTemplate(model, TemplateSettings(template_arguments=arguments)).check_arguments()


def check_templates(config: Config) -> None:
    """StageError if a template is missing or malformed, or asks for a reference answer where prompts have none."""
    judge = load_template(config.judge.template, JUDGE_VARIABLES)
    without = {
        "eft.enabled": config.eft.enabled,
        "evaluate.judge_tests": config.evaluate.judge_tests is not None,
        "create.enabled": any(config.by_iteration(config.create.enabled)),
    }
    for key in [key for key, given in without.items() if given]:
        if "reference" in judge.variables:
            raise StageError(
                f"{config.judge.template} asks for a `reference` answer, which {key} has none of: use another "
                "judge.template, or do without"
            )
    if any(config.by_iteration(config.meta_judge.enabled)):
        load_template(config.meta_judge.template, META_JUDGE_VARIABLES)
    if config.evaluate.head_to_head.enabled:
        load_template(config.evaluate.head_to_head.template, COMPARE_VARIABLES)
    if without["create.enabled"]:
        load_template(config.create.template, {"examples"})
