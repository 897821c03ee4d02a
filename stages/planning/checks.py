"""What is refused before any job runs, though the configuration by itself is sound: files that do not fit it."""

from stages.config.whole import Config
from stages.contracts.errors import StageError
from stages.model_files.config import read_config
from stages.model_files.rank_layout import check_layout
from stages.prompting.chat_template import ChatTemplate
from stages.prompting.templates import JUDGE_VARIABLES, META_JUDGE_VARIABLES, load_template


def check_model(config: Config) -> None:
    """StageError if the base model cannot be trained, or not on the asked-for ranks: training itself would say so only
    after the first candidates and judgements. A model that is not there is for Snakemake to miss."""
    if (config.run.model / "config.json").exists():
        check_layout(config.megatron, read_config(config.run.model), config.megatron.processes * config.megatron.nodes)


def check_chat(config: Config) -> None:
    """StageError if the base model's chat template is not valid, or does not look at what is set for it. A directory
    without one is for `base_model` to refuse, which names all that it lacks."""
    if any((config.run.model / name).exists() for name in ("chat_template.jinja", "tokenizer_config.json")):
        ChatTemplate(config.run.model, config.chat).check_arguments()


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
    if without["create.enabled"]:
        load_template(config.create.template, {"examples"})
