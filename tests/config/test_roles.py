"""Who has which role: models and engines of the judge, the meta-judge and the writer of prompts."""

from pathlib import Path
from typing import Any

import pytest

from stages.config.whole import Config, load
from stages.contracts.errors import StageError
from stages.planning.checks import check_sampling
from stages.planning.matches import matches

SERVER = {"backend": "openai", "server": {"kind": "vllm", "url": "http://judge:8000"}}
ALONE = {"meta_judge": {"enabled": False}}


def loaded(**sections: Any) -> Config:
    base = {
        "run": {"name": "r", "model": "base", "iterations": 1},
        "ingest": {"sources": ["p.jsonl"], "validation_fraction": 0.1},
        "engine": {"dtype": "float32", "threads": 3},
    }
    return load({**base, **sections})


def test_the_policy_has_every_role_by_default() -> None:
    config = loaded(create={"enabled": True})
    assert {(role.model, role.key) for _, role in config.generating()} == {(None, "engine")}
    assert list(config.judges) == ["policy"]


def test_what_an_engine_of_a_role_leaves_out_is_as_in_engine() -> None:
    config = loaded(judge={"model": "/models/wise", "engine": SERVER}, **ALONE)
    role = config.judges["wise"]
    assert (role.model, role.key) == (Path("/models/wise"), "judge.engine")
    assert (role.engine.backend, role.engine.server.url) == ("openai", "http://judge:8000")
    assert (role.engine.dtype, role.engine.threads) == ("float32", 3)
    assert config.actor.engine.backend == "torch"


def test_a_server_of_a_role_is_taken_as_a_whole() -> None:
    mine = {"backend": "openai", "server": {"kind": "sglang", "command": "serve {model}"}}
    judge = loaded(engine=mine, judge={"model": "j", "engine": SERVER}, **ALONE).judges["j"].engine
    assert (judge.server.kind, judge.server.command, judge.server.url) == ("vllm", None, "http://judge:8000")


def test_the_judges_of_a_panel_have_their_own_models_and_engines() -> None:
    panel = {"policy": {}, "big": {"model": "/m/big", "engine": SERVER}, "old": {"model": "/m/old"}}
    judges = loaded(judge={"votes": 6, "panel": panel}, **ALONE).judges
    assert {name: (role.model and str(role.model), role.key) for name, role in judges.items()} == {
        "policy": (None, "engine"), "big": ("/m/big", "judge.panel.big.engine"), "old": ("/m/old", "engine"),
    }  # fmt: skip
    assert list(judges) == ["policy", "big", "old"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"judge": {"votes": 5, "panel": {"a": {}, "b": {}}}}, r"judge.votes \(5\) must be a multiple of the 2 judges"),
        ({"judge": {"votes": 2, "panel": {"a": {}, "b": {}}, "model": "m"}}, "leave judge.model and judge.engine out"),
        ({"judge": {"panel": {"../x": {}}, "votes": 1}}, "the name '../x' may have letters, digits"),
        ({"judge": {"model": "m"}, "meta_judge": {"enabled": True}}, "meta_judge.enabled compares the policy's own"),
        (
            {"judge": {"votes": 2, "panel": {"a": {}, "b": {}}}, "meta_judge": {"enabled": True}},
            "set meta_judge.enabled to false",
        ),
        ({"judge": {"engine": {"server": {"kin": "vllm"}}}}, "judge.engine.server.kin'; did you mean 'kind'"),
        (
            {"judge": {"votes": 1, "panel": {"a": {"engine": {"bakend": "torch"}}}}},
            "judge.panel.a.engine.bakend'; did you mean 'backend'",
        ),
        ({"judge": {"engine": {"backend": "openai"}}}, "needs either engine.server.url or engine.server.command"),
        ({"judge": {"template_arguments": {"think": 1}}}, "template_arguments of a role are those of its `model`"),
        (
            {"judge": {"model": "m", "engine": {"backend": "openai", "server": {"url": "u"}}},
             "score": {"aggregate": "expected"}},
            "judge.engine.server.kind `openai` does not tell",
        ),
        (
            {"judge": {"votes": 2, "panel": {"a": {}, "b": {}}}, "score": {"aggregate": "expected"}},
            "weighs the votes of one model by its likelihoods",
        ),
        (
            {"judge": {"model": "m", "engine": {"max_sequence_length": 512}}},
            r"judge.sampling.max_tokens \(512\) leaves no room for a prompt within judge.engine.max_sequence_length",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=message):
        loaded(**{**ALONE, **sections})


def test_text_of_another_model_need_not_fit_into_training() -> None:
    long = {"max_sequence_length": 100_000}
    loaded(judge={"model": "m", "engine": long}, **ALONE)
    with pytest.raises(StageError, match=r"below judge.engine.max_sequence_length \(100000\)"):
        loaded(judge={"engine": long}, **ALONE)


def test_sampling_is_checked_against_the_engine_of_the_role() -> None:
    judge = {"model": "m", "engine": {"backend": "trtllm"}, "sampling": {"min_p": 0.1}}
    with pytest.raises(
        StageError, match=r"judge\.sampling\.min_p is set, which judge\.engine\.backend `trtllm` would ignore"
    ):
        check_sampling(loaded(judge=judge, **ALONE))
    check_sampling(loaded(candidates={"sampling": {"min_p": 0.1}}, judge={**judge, "sampling": {}}, **ALONE))


def test_settings_of_other_back_ends_decide_nothing() -> None:
    trtllm = {"trtllm": {"kv_cache_dtype": "fp8"}}
    assert loaded(engine=trtllm).actor.engine == loaded(engine={}).actor.engine
    assert loaded(judge={"model": "m", "engine": trtllm}, **ALONE).judges["m"].engine == loaded().actor.engine


def test_who_compares_models_has_a_model_and_an_engine_of_its_own() -> None:
    judge = {"enabled": True, "model": "/models/wise", "engine": SERVER}
    config = loaded(evaluate={"head_to_head": judge})
    role = config.comparer
    assert (role.model, role.key) == (Path("/models/wise"), "evaluate.head_to_head.engine")
    assert (role.engine.backend, role.engine.dtype) == ("openai", "float32")
    assert [role.key for section, role in config.generating() if section == "evaluate.head_to_head"] == [role.key]
    assert "evaluate.head_to_head" not in dict(loaded().generating())


def test_what_is_set_for_comparisons_must_fit_their_engine() -> None:
    head_to_head = {"enabled": True, "sampling": {"max_tokens": 4096}}
    with pytest.raises(StageError, match=r"evaluate.head_to_head.sampling.max_tokens \(4096\) leaves no room"):
        loaded(evaluate={"head_to_head": head_to_head})
    served = {"backend": "openai", "server": {"kind": "openai", "url": "http://judge:8000", "model": "m"}}
    section = {"enabled": True, "model": "m", "engine": served, "sampling": {"top_k": 5}}
    with pytest.raises(StageError, match=r"evaluate.head_to_head.sampling.top_k is set, which evaluate.head_to_head"):
        check_sampling(loaded(evaluate={"head_to_head": section}))


def test_which_models_are_compared_with_what() -> None:
    def compared(**section: bool) -> list[tuple[int, str]]:
        run = {"name": "r", "model": "base", "iterations": 3}
        return matches(loaded(run=run, evaluate={"head_to_head": section}))

    models = [(1, "0"), (2, "0"), (2, "1"), (3, "0"), (3, "2")]
    assert compared(enabled=False, references=True) == []
    assert compared(enabled=True) == models
    assert compared(enabled=True, references=True) == [*models, *((model, "references") for model in range(4))]
