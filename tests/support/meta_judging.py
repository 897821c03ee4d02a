"""What the meta-judge reads, as files, and its command line."""

from pathlib import Path
from typing import Any

from stages import meta_judge, score
from stages.config import EngineSettings, Sampling
from stages.contracts.artifacts import read, write
from stages.contracts.schema import frame
from stages.tables import CANDIDATES, JUDGEMENTS, SCORES, VOTES
from tests.support.records import write_candidates

ENGINE = EngineSettings(max_sequence_length=128, device="cpu", dtype="float32")
SAMPLING = Sampling(max_tokens=8)


def judged_files(prompts: Path, texts: dict[int, list[str]]) -> dict[str, Path]:
    """Candidates of the first prompts (one each) with the given judgements, scored by the score stage."""
    folder = prompts.parent
    given = write_candidates(prompts, ["hello there"] * len(texts), ["stop"] * len(texts))
    ids = read(given, CANDIDATES).select("prompt_id", "candidate_id").rows()
    rows = [
        {
            "prompt_id": ids[number][0],
            "candidate_id": ids[number][1],
            "vote": vote,
            "judge": "policy",
            "seed": 0,
            "text": text,
            "token_ids": [],
            "tokens": 0,
            "finish_reason": "stop",
        }
        for number, said in texts.items()
        for vote, text in enumerate(said)
    ]
    files = {name: folder / f"{name}.parquet" for name in ("judgements", "votes", "scores")}
    write(frame(JUDGEMENTS, rows), files["judgements"], JUDGEMENTS, {})
    score.main(score.Args(judgements=[files["judgements"]], votes=files["votes"], scores=files["scores"]))
    assert read(files["votes"], VOTES).height == len(rows)
    assert read(files["scores"], SCORES).height == len(texts)
    return {"candidates": given, **files}


def meta_args(model: Path, prompts: Path, files: dict[str, Path], name: str, **more: Any) -> meta_judge.Args:
    folder = prompts.parent
    source = folder / "template.jinja"
    source.write_text("{{ conversation }}|{{ response }}|A: {{ judgement_a }}|B: {{ judgement_b }}")
    values = {"template": source, "sampling": SAMPLING, "engine": ENGINE, "model": model, "prompts": prompts}
    lists = {"candidates": [files["candidates"]], "judgements": [files["judgements"]]}
    paths = {"votes": files["votes"], "scores": files["scores"]}
    outputs = {"output": folder / f"{name}.parquet", "model_inputs": folder / f"{name}_inputs.parquet"}
    return meta_judge.Args(**{**values, **lists, **paths, **outputs, **more})
