"""What of the engine's settings is refused when a run is planned."""

import pytest

from stages.config.whole import load
from stages.contracts.errors import StageError
from stages.planning.checks import check_sampling

MINIMAL = {"run": {"model": "m"}, "ingest": {"sources": ["a.jsonl"], "validation_fraction": 0.1}}


@pytest.mark.parametrize(
    ("engine", "sampling", "ignored"),
    [
        ({"backend": "openai", "server": {"url": "http://s", "kind": "openai"}}, {"top_k": 5}, "top_k"),
        ({"backend": "openai", "server": {"url": "http://s", "kind": "trtllm"}}, {"stop": ["END"]}, "stop"),
        ({"backend": "openai", "server": {"url": "http://s", "kind": "vllm"}}, {"stop": ["END"], "min_p": 0.1}, None),
        ({"backend": "trtllm"}, {"min_p": 0.1}, "min_p"),
        ({"backend": "trtllm"}, {"top_k": 5}, None),
    ],
)
def test_a_sampling_setting_that_the_engine_would_ignore_is_refused(engine, sampling, ignored):
    given = load({**MINIMAL, "engine": engine, "judge": {"sampling": sampling}})
    if ignored is None:
        check_sampling(given)
        return
    with pytest.raises(StageError, match=rf"judge\.sampling\.{ignored} is set, which engine\..* would ignore"):
        check_sampling(given)


@pytest.mark.parametrize("server", [{}, {"url": "http://s", "command": "serve"}])
def test_an_engine_needs_one_server(server):
    with pytest.raises(StageError, match=r"either engine\.server\.url or engine\.server\.command"):
        load({**MINIMAL, "engine": {"backend": "openai", "server": server}})
