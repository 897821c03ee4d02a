"""The configuration refuses what it cannot mean, and its generated documents are current."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from stages import config
from stages.config import EngineSettings, PairsSection, Sampling, Section, TemplateSettings, at, resolve
from stages.config.whole import Config, load
from stages.contracts import cli
from stages.contracts.errors import StageError
from stages.planning.checks import check_model, check_templates

ROOT = Path(__file__).parents[2]
MINIMAL = {"run": {"model": "m"}, "ingest": {"sources": ["a.jsonl"], "validation_fraction": 0.1}}


def with_section(name, **values):
    return {**MINIMAL, name: {**MINIMAL.get(name, {}), **values}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_section("pairs", lenght_control=0), "unknown key 'pairs.lenght_control'; did you mean 'length_control'?"),
        (with_section("run", zzz=1), "unknown key 'run.zzz'; valid are name, results, seed"),
        ({"run": {"model": "m"}}, "key 'ingest' is required"),
        (with_section("pairs", length_control=[0, 0.3]), "pairs.length_control has 2 values for run.iterations = 3"),
        (with_section("pairs", length_control=1.5), "pairs.length_control"),
        (with_section("chat", template_arguments={"messages": []}), "'messages' is set by the pipeline itself"),
        (with_section("chat", template_arguments={"a b": 1}), "'a b' cannot be the name of a template's variable"),
        (with_section("chat", date="26 July"), "chat.date"),
        (with_section("chat", system_turns="drop"), "chat.system_turns"),
        (
            {**with_section("pairs", judge_share=0.2), "meta_judge": {"enabled": [True, False, True]}},
            "pairs.judge_share is 0.2 in iteration 2, where meta_judge.enabled is false",
        ),
        (with_section("score", low=5, high=5), "low (5.0) must be below high (5.0)"),
        (
            with_section("score", pattern="Score: 4"),
            "pattern must be `strict` or `lenient`, or contain {{ score }} once",
        ),
        (with_section("score", pattern="({{ score }}"), "pattern is not a regular expression"),
        (with_section("rate", pattern="winner"), "pattern must be `lenient`, or contain {{ winner }} once"),
        (
            with_section("score", min_votes=12),
            "score.min_votes (12) exceeds judge.votes (11)",
        ),
        (
            with_section("train", epochs=3, optimizer={"schedule_epochs": 2}),
            "train.optimizer.schedule_epochs (2) is",
        ),
        (with_section("engine", max_sequence_length=512), "leaves no room for a prompt"),
        (with_section("megatron", max_sequence_length=64), "the text could not be trained on"),
        (with_section("train", beta=-0.1), "train.beta"),
        (with_section("train", loss="kto"), "train.loss"),
        (with_section("train", label_smoothing=0.5), "train.label_smoothing"),
        (
            with_section("train", loss="ipo", label_smoothing=0.1),
            "train.label_smoothing is defined for train.loss `dpo`",
        ),
        (with_section("train", loss="scale", margin_scale=2), "train.margin_scale: train.loss `scale` does not scale"),
        (with_section("train", preference_weight=0), "train.preference_weight and train.sft_weight are both 0"),
        (with_section("train", judge_pair_margin=1), "train.judge_pair_margin: train.loss `dpo` uses no score margins"),
        (
            {**with_section("train", loss="rpo_sq"), "pairs": {"judge_share": [0, 0.2, 0]}},
            "train.loss `rpo_sq` needs; set train.judge_pair_margin",
        ),
        (with_section("eft", enabled=True), "eft.sources must name ranked answers"),
        (with_section("eft", test_fraction=0.5, ift_fraction=0.5), "leave no ranked prompts"),
        (with_section("pairs", per_prompt="all", length_control=[0, 0.3, 0]), "length_control chooses one pair"),
        (with_section("pairs", max_pairs_per_prompt=2), "max_pairs_per_prompt belongs to per_prompt `all`"),
        (with_section("pairs", min_length_ratio=1, max_length_ratio=0.5), "min_length_ratio (1.0) is above max_length"),
        (with_section("candidates", hinted=3, samples=2), "candidates.hinted (3) is above candidates.samples (2)"),
        (with_section("verify", judge=True), "verify.judge needs verify.enabled"),
        (with_section("judge", votes=1), "meta_judge.enabled needs judge.votes of 2 or more"),
        (with_section("evaluate", meta_comparisons=5), "evaluate.meta_comparisons needs a test set"),
        (with_section("create", min_characters=9, max_characters=8), "is above max_characters (8)"),
        (with_section("score", high=float("inf")), "score.high"),
        (
            {
                **with_section("score", aggregate="expected"),
                "engine": {"backend": "trtllm", "trtllm": {"sampler": "TRTLLMSampler"}},
                "judge": {"sampling": {"temperature": 1, "top_p": 1}},
            },
            "and TRTLLMSampler not of the token that ends them",
        ),
        (
            {**with_section("score", aggregate="expected"), "engine": {"backend": "trtllm"}},
            "tells only of samples from the whole model",
        ),
        (
            with_section("eft", enabled=True, sources=["r.jsonl"], optimizer={"learning_rate": [1e-4, 1e-5, 1e-6]}),
            "eft.optimizer.learning_rate takes one value",
        ),
        ({"run": {"model": "m"}, "ingest": {"sources": ["a"]}}, "nothing to evaluate on"),
    ],
)
def test_contradictions_are_named(values, message):
    with pytest.raises(StageError) as error:
        load(values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"score": {"min_votes": 5}, "evaluate": {"judge_votes": 3}},
        {"engine": {"max_sequence_length": 600}, "create": {"sampling": {"max_tokens": 700}}},
        {"judge": {"votes": 1}, "meta_judge": {"enabled": False}},
        {"train": {"loss": "rpo_sq", "margin_scale": 0.5}},
        {"train": {"loss": "scale", "judge_pair_margin": 1.5}, "pairs": {"judge_share": 0.2}},
    ],
    ids=["no test set", "no creation", "no comparisons", "no judge pairs", "judge pairs with a margin"],
)
def test_what_is_off_contradicts_nothing(changed):
    small = {"sampling": {"max_tokens": 64}}
    sampled = {name: small | changed.get(name, {}) for name in ("candidates", "judge", "meta_judge", "evaluate")}
    load({**MINIMAL, "megatron": {"max_sequence_length": 4096}, **changed, **sampled})


@pytest.mark.parametrize("section", [value for value in vars(config).values() if isinstance(value, type)])
def test_defaults_are_what_validation_makes_of_them(section):
    """Otherwise naming one key of a section would change the flags of its others, and rerun what depends on them."""
    if not issubclass(section, Section) or any(field.is_required() for field in section.model_fields.values()):
        return
    assert cli.flags(section()) == cli.flags(section.model_validate(section().model_dump()))


def test_a_template_with_a_reference_is_refused_where_prompts_have_none(tmp_path):
    judge = {"template": str(ROOT / "prompts/judge_with_reference.jinja")}
    meta = {"template": str(ROOT / "prompts/meta_judge.jinja")}
    check_templates(load({**MINIMAL, "judge": judge, "meta_judge": meta}))
    created = load({**MINIMAL, "judge": judge, "meta_judge": meta, "create": {"enabled": True}})
    with pytest.raises(StageError, match=r"judge_with_reference.jinja asks for a `reference` answer.*create.enabled"):
        check_templates(created)
    missing = load({**MINIMAL, "judge": {"template": str(tmp_path / "none.jinja")}})
    with pytest.raises(StageError, match=r"none.jinja: cannot read the prompt template"):
        check_templates(missing)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_section("pairs", length_control=1.5), "pairs.length_control: Input should be less than or equal to 1 (g"),
        (with_section("train", beta=[0.1, 0, 0.1]), "train.beta.1: Input should be greater than 0 (given: 0)"),
        (with_section("meta_judge", enabled="often"), "meta_judge.enabled: Input should be a valid boolean, unable to"),
        (with_section("select", prompts=[9, "x", 9]), "select.prompts.1: Input should be a valid integer, unable to"),
        (with_section("pairs", max_chosen_tokens=0), "pairs.max_chosen_tokens: Input should be greater than 0 (given"),
        ({**MINIMAL, "train": None}, "train: the section is empty: give it a key, or"),
        (with_section("train", loggers="wandb"), "train.loggers: Input should be a valid list (given: 'wandb')"),
    ],
)
def test_a_wrong_value_of_a_schedule_is_one_error_under_its_key(values, message):
    with pytest.raises(StageError) as error:
        load(values)
    assert str(error.value).startswith(f"configuration: {message}")
    assert "; " not in str(error.value)


def test_a_model_that_the_ranks_cannot_hold_is_refused_before_anything_runs(tmp_path):
    sizes = {"num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    llama = {"architectures": ["LlamaForCausalLM"], "vocab_size": 100, "max_position_embeddings": 64, **sizes}
    configured = {**MINIMAL, "run": {"model": tmp_path}, "megatron": {"processes": 2, "tensor_parallel": 8}}
    check_model(load(configured))  # no model yet
    (tmp_path / "config.json").write_text(json.dumps(llama))
    with pytest.raises(StageError, match="Valid for 2 ranks is tensor_parallel 2, pipeline_parallel 1"):
        check_model(load(configured))
    check_model(load({**configured, "megatron": {"processes": 2, "tensor_parallel": 2}}))
    (tmp_path / "config.json").write_text(json.dumps({**llama, "architectures": ["MambaForCausalLM"]}))
    with pytest.raises(StageError, match="MambaForCausalLM is not supported; supported are LlamaForCausalLM"):
        check_model(load(configured))


def test_a_block_given_in_part_keeps_the_rest_of_its_default():
    loaded = load(with_section("candidates", sampling={"max_tokens": 40}))
    assert loaded.candidates.sampling == Sampling(temperature=0.8, top_p=0.95, max_tokens=40)


def test_schedules_resolve_per_iteration():
    section = PairsSection(length_control=[0.0, 0.32, 0.4], judge_share=0.15)
    assert [at(section.length_control, t) for t in (1, 2, 3)] == [0.0, 0.32, 0.4]
    assert resolve(section, 2).length_control == 0.32
    assert resolve(section, 2).judge_share == 0.15


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_presets_are_valid(path):
    """Each with the one before it on the command line that it names, if there is one.

    D1: the default configuration did not start.
    """
    text = path.read_text()
    settings = {}
    for below in re.findall(rf"--configfile (\S+) config/{path.name}", text):
        update_config(settings, yaml.safe_load((ROOT / below).read_text()))
    update_config(settings, yaml.safe_load(text))
    assert load(settings).run.iterations >= 2


def test_generated_documents_are_current():
    documents = runpy.run_path(str(ROOT / "docs/generate.py"))["documents"]()
    assert len(documents) == 3
    for path, text in documents.items():
        assert path.read_text() == text, f"{path} is out of date: run `make docs`"


@pytest.mark.parametrize(("value", "message"), [("{", "not valid JSON"), ("[1]", "a JSON object is expected")])
def test_a_mapping_on_the_command_line_is_a_json_object(value, message, capsys):
    with pytest.raises(SystemExit):
        cli.run(TemplateSettings, print, ["--template-arguments", value])
    assert message in capsys.readouterr().err


def test_a_date_may_be_what_yaml_makes_of_one():
    assert load(with_section("chat", date=yaml.safe_load("2025-01-02"))) == load(
        with_section("chat", date="2025-01-02")
    )


@given(
    st.builds(Sampling, temperature=st.floats(0, 2), top_k=st.integers(0, 50), max_tokens=st.integers(1, 99)),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
)
def test_flags_carry_settings_through_the_shell(sampling, text):
    """What a rule prints is exactly what the stage receives, for any text and number."""
    settings = Config.model_validate(MINIMAL).score.model_copy(update={"pattern": re.escape(text) + "{{ score }}"})
    received = []

    def receive(args):
        received.append(args)

    cli.run(type(settings), receive, shlex.split(cli.flags(settings)))
    assert received == [settings]

    create = Config.model_validate(MINIMAL).create.model_copy(update={"keywords": []})
    cli.run(type(create), receive, shlex.split(cli.flags(create)))
    assert received[-1] == create, "a list that is not empty by default can be emptied"

    arguments = {"enable_thinking": False, "text": text, "numbers": [sampling.temperature, None, {"k": sampling.top_k}]}
    chat = load(with_section("chat", template_arguments=arguments, date="2025-01-02")).chat
    cli.run(type(chat), receive, shlex.split(cli.flags(chat)))
    assert received[-1] == chat, "a mapping is one JSON value"

    judge = Config.model_validate(MINIMAL).judge.model_copy(update={"sampling": sampling})
    cli.run(type(judge), receive, shlex.split(cli.flags(judge)))
    assert received[-1] == judge


@pytest.mark.parametrize(
    ("engine", "gpus"),
    [
        ({}, 1),
        ({"device": "cpu"}, 0),
        ({"backend": "trtllm", "trtllm": {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}}, 8),
        ({"backend": "openai", "server": {"url": "http://localhost:8000"}}, 0),
        ({"backend": "openai", "server": {"command": "serve {model} {host} {port}", "gpus": 2}}, 2),
    ],
)
def test_a_job_needs_the_gpus_of_its_engine(engine: dict[str, Any], gpus: int) -> None:
    assert EngineSettings.model_validate(engine).gpus == gpus


@pytest.mark.parametrize(
    ("environments", "named"),
    [
        ({"train": {"python": "/a/bin/python", "container": "b.sif"}}, "not both"),
        ({"generate": {"python": "/usr/bin/python3.12"}}, "must end in `/python`"),
        ({"data": {"container": "a.sqsh"}, "runtime": "pyxis"}, "set environments.data.python"),
        ({"train": {"container": "a.sif"}}, "megatron.nodes above 1 needs `srun`"),
    ],
)
def test_environments_that_cannot_be_reached_are_refused(environments: dict[str, Any], named: str) -> None:
    with pytest.raises(StageError, match=re.escape(named)):
        load({**MINIMAL, "environments": environments, "megatron": {"nodes": 2}})
