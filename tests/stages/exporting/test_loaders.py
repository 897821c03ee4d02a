"""What is exported, read by the peers' own loaders."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from stages.exporting.layouts import LAYOUTS
from tests.support.exports import (
    BAD,
    CHOSEN,
    EXAMPLES,
    GOOD,
    PAIR_FILES,
    PROMPTS,
    REJECTED,
    SYSTEM,
    exported,
    pair_row,
    write_pairs,
)
from tests.support.records import turns

ROOT = Path(__file__).parents[3]

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="datasets, which these trainers read with, is not installed"
)
needs_llama_factory = pytest.mark.skipif(
    importlib.util.find_spec("llamafactory") is None, reason="LLaMA-Factory, whose loader this is, is not installed"
)
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`datasets.load_dataset`, asking nobody on the network, with a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    return lambda *words, **more: datasets.load_dataset(*words, cache_dir=str(tmp_path / "cache"), **more)


@needs_datasets
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_datasets_reads_each_layout_as_file_and_as_folder(layout: str, run: Path, load: Any) -> None:
    folder = exported(run, layout, "--iteration", 1, "--test-share", 0)
    file, rows = PAIR_FILES[layout]
    reader = "json" if file.endswith(".jsonl") else "parquet"
    assert load(reader, data_files=str(folder / file), split="train").to_list() == rows
    whole = load(str(folder))
    assert {split: part.to_list() for split, part in whole.items()} == {
        "train_prefs" if layout == "h4" else "train": rows
    }


@needs_datasets
@pytest.mark.slow
def test_datasets_reads_both_splits(tmp_path: Path, load: Any) -> None:
    rows = [pair_row(f"actor-1-{n}-0", turns(f"prompt {n}")) for n in range(40)]
    path = write_pairs(tmp_path / "pairs.parquet", rows)
    for layout in LAYOUTS:
        suffix = "_prefs" if layout == "h4" else ""
        whole = load(str(exported(path, layout, "--test-share", 0.5)))
        assert set(whole) == {f"train{suffix}", f"test{suffix}"}
        keys = [key for part in whole.values() for key in part["pair_id"]]
        assert sorted(keys) == sorted(row["pair_id"] for row in rows)


@needs_llama_factory
@pytest.mark.slow
def test_llama_factory_reads_the_pairs_by_their_index(run: Path, tmp_path: Path) -> None:
    from llamafactory.data.loader import _load_single_dataset  # type: ignore[import-not-found]
    from llamafactory.data.parser import get_dataset_list  # type: ignore[import-not-found]
    from llamafactory.hparams import DataArguments, ModelArguments  # type: ignore[import-not-found]
    from transformers import Seq2SeqTrainingArguments

    folder = exported(run, "llama-factory", "--iteration", 1)
    model = ModelArguments(model_name_or_path="none", cache_dir=str(tmp_path / "cache"))
    data = DataArguments(dataset="pairs_train", dataset_dir=str(folder))
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "trainer"), use_cpu=True, report_to=[])
    [known] = get_dataset_list(["pairs_train"], str(folder))
    rows = _load_single_dataset(known, model, data, training)
    assert [(row["_system"], row["_prompt"], row["_response"]) for row in rows] == [
        (prompt[0]["content"] if prompt is SYSTEM else "", prompt[prompt is SYSTEM :], [*CHOSEN, *REJECTED])
        for prompt in PROMPTS.values()
    ]


@pytest.fixture
def trained_by(tiny_model_dir: Path, tmp_path: Path) -> Any:
    """What a trainer of TRL makes of a data set before its first step, as texts: `trained_by(DPO, data)`."""
    from transformers import AutoTokenizer

    def tokenised(name: str, data: Any) -> list[dict[str, Any]]:
        import trl

        config = getattr(trl, f"{name}Config")(
            output_dir=str(tmp_path / "trainer"), report_to=[], use_cpu=True, bf16=False, max_length=None
        )
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        trainer = getattr(trl, f"{name}Trainer")(
            str(tiny_model_dir), args=config, train_dataset=data, processing_class=tokenizer
        )
        return [
            {
                column: tokenizer.decode([token for token in row[column] if token >= 0])
                for column in row
                if column.endswith("_ids") or column == "labels"
            }
            for row in trainer.train_dataset
        ]

    return tokenised


def as_text(messages: list[dict[str, str]]) -> str:
    """By the tiny model's chat template."""
    return "".join(f"<|{message['role']}|>{message['content']}<|end|>" for message in messages)


@needs_trl
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["trl", "openrlhf", "h4"])
def test_trl_prepares_the_pairs_for_dpo(layout: str, run: Path, load: Any, trained_by: Any) -> None:
    """It finds the prompt of full conversations, as OpenRLHF and open-instruct read them, by itself."""
    [data] = load(str(exported(run, layout, "--iteration", 1, "--test-share", 0))).values()
    assert trained_by("DPO", data.remove_columns(["prompt", "messages"] if layout == "h4" else [])) == [
        {
            "prompt_ids": f"{as_text(prompt)}<|assistant|>",
            "chosen_ids": f"{GOOD}<|end|>",
            "rejected_ids": f"{BAD}<|end|>",
        }
        for prompt in PROMPTS.values()
    ]


@needs_trl
@pytest.mark.slow
def test_trl_puts_the_loss_of_examples_on_the_answer(examples: Path, load: Any, trained_by: Any) -> None:
    rows = trained_by("SFT", load(str(exported(examples, "trl")), split="train"))
    assert rows == [
        {"input_ids": as_text([*prompt, *CHOSEN]), "labels": f"{GOOD}<|end|>"} for prompt in EXAMPLES.values()
    ]
