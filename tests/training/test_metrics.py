"""The metrics of a batch against numbers worked out by hand, what is left out of training, and readings of speed."""

import json
import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.megatron.speed import ModelSize, model_size, speed, token_count
from stages.model_files.families import architecture
from stages.prompting.chat import ChatTokenizer
from stages.prompting.system_turns import TurnRules
from stages.tables import SFT_EXAMPLES
from stages.training.batches import Example, Row, micro_batches, rank_share
from stages.training.examples import (
    Encoder,
    answer_examples,
    held_out_row,
    preference_examples,
    require_fitting,
    supervised_examples,
)
from stages.training.losses import PairLoss
from stages.training.objectives import pair_facts, preference, sft
from tests.support.pair_files import save_logprobs, save_pairs
from tests.support.records import turn
from tests.support.tiny_model import GEMMA, write_tokenizer

CPU = torch.device("cpu")
STOP = 4


def row(length, prompt=1):
    return Row(np.arange(prompt + length), np.r_[np.zeros(prompt), np.ones(length)].astype(np.float32))


def example(key, tokens, reference, kind="actor", scores=(None, None)):
    return Example(key, tuple(map(row, tokens)), reference, prompt=key, facts=pair_facts(kind, scores))


# By pair: log pi of chosen and rejected -12 / -15, -20 / -18, -6 / -9.
BATCH = [
    example("a", (4, 5), (-13.0, -14.5), scores=(4.5, 2.0)),
    example("b", (10, 3), (-18.0, -19.0), kind="judge", scores=(5.0, 1.0)),
    example("c", (2, 6), (-6.5, -8.0), scores=(3.0, 1.0)),
]
POLICY = {"a": (-12.0, -15.0), "b": (-20.0, -18.0), "c": (-6.0, -9.0)}


def measured(objective, batch=BATCH, ranks=1, budget=10**6):
    """Metrics of a global batch as `ranks` replicas add them up."""
    totals: dict[str, float] = {}
    for rank in range(ranks):
        for part in micro_batches(rank_share(batch, rank, ranks), budget, CPU):
            logprobs = torch.tensor([value for key in part.keys for value in POLICY[key]])
            for name, value in objective.loss(logprobs, part)[1].items():
                totals[name] = totals.get(name, 0.0) + value.item()
    return objective.summary({name: total / objective.normaliser(batch) for name, total in totals.items()})


def test_the_metrics_of_a_batch_by_hand():
    """h_c = 1, -2, 0.5 and h_r = -0.5, 1, -1 in nats; beta 0.5.

    Prior defect D10: rewards without beta, one spread over both members, absent scores counted as 0.
    """
    found = measured(preference(0.5, 0.2))
    margins = [0.75, -1.5, 0.75]
    preferred = sum(math.log1p(math.exp(-margin)) for margin in margins) / 3
    likelihood = (12 / 4 + 20 / 10 + 6 / 2) / 3
    assert found == pytest.approx(
        {
            "loss": preferred + 0.2 * likelihood,
            "preference_loss": preferred,
            "sft_loss": likelihood,
            "accuracy": 2 / 3,
            "reward_chosen": 0.5 * (1 - 2 + 0.5) / 3,
            "reward_rejected": 0.5 * (-0.5 + 1 - 1) / 3,
            "reward_margin": 0.0,
            "reward_chosen_std": statistics.pstdev([0.5, -1.0, 0.25]),
            "reward_rejected_std": statistics.pstdev([-0.25, 0.5, -0.5]),
            "kl_reference": -((1 - 0.5) + (-2 + 1) + (0.5 - 1)) / 6,
            "logprob_chosen": -38 / 3,
            "logprob_rejected": -14.0,
            "tokens_chosen": 16 / 3,
            "tokens_rejected": 14 / 3,
            "judge_share": 1 / 3,
            "score_chosen": 3.75,  # of the two actor pairs
            "score_rejected": 1.5,
        },
        abs=1e-6,
    )


def test_length_normalised_rewards_are_per_token_and_the_divergence_is_not():
    plain, normalised = (measured(preference(0.5, 0.0, PairLoss(length_normalised=flag))) for flag in (False, True))
    rewards = [0.5 * 1 / 4, 0.5 * -2 / 10, 0.5 * 0.5 / 2]
    assert normalised["reward_chosen"] == pytest.approx(sum(rewards) / 3)
    assert normalised["reward_chosen_std"] == pytest.approx(statistics.pstdev(rewards))
    assert normalised["kl_reference"] == plain["kl_reference"]
    assert normalised["loss"] == normalised["preference_loss"] != plain["loss"]


def test_ipo_reaches_the_metrics():
    found = measured(preference(0.5, 0.0, PairLoss("ipo")))
    assert found["preference_loss"] == pytest.approx(sum((h - 1) ** 2 for h in (1.5, -3.0, 1.5)) / 3)
    assert found["reward_margin"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("budget", [1, 10**6])
def test_no_layout_changes_a_metric(ranks, budget):
    """Also standard deviations and mean scores, and with more ranks than pairs."""
    objective = preference(0.5, 0.2)
    assert measured(objective, ranks=ranks, budget=budget) == pytest.approx(measured(objective), abs=1e-9)


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 10))
def test_a_spread_survives_a_large_mean(mean, spread):
    """Single precision would lose it in the difference of two large numbers."""
    batch = [example(str(i), (2, 2), (-mean + sign * spread, 0.0)) for i, sign in enumerate((-1, 1))]
    (part,) = micro_batches(batch, 100, CPU)
    objective = preference(1.0, 0.0)
    sums = objective.loss(torch.zeros(4), part)[1]
    exact = part.reference[:, 0].double().std(correction=0).item()
    found = objective.summary({name: value.item() / 2 for name, value in sums.items()})["reward_chosen_std"]
    assert found == pytest.approx(exact, rel=1e-3, abs=1e-7 * abs(mean))


def test_without_scores_there_is_no_mean_score():
    found = measured(preference(0.5, 0.0), batch=BATCH[1:2])
    assert found["judge_share"] == 1
    assert not {"score_chosen", "score_rejected", "scored"} & found.keys()


def test_supervised_loss_is_per_weighted_token():
    objective, batch = sft(), [Example(key, (row(length),)) for key, length in (("a", 4), ("b", 2))]
    (part,) = micro_batches(batch, 100, CPU)
    sums = objective.loss(torch.tensor([-12.0, -6.0]), part)[1]
    assert sums["loss"].item() / objective.normaliser(batch) == sums["sft_loss"].item() / 6 == 3.0


# --- what is left out ---------------------------------------------------------------------------------------------


TOKENS: dict[str, Any] = {
    "fits": ([1, 2, 3], [5, STOP], [6, 7, STOP]),
    "long": ([1, 2, 3], [5, STOP], [6, 7, 8, STOP]),
    "mute": ([1, 2], [], [6, STOP]),
    "nan": ([1, 2], [5, STOP], [6, STOP]),
    "same": ([1, 2], [5, STOP], [5, STOP]),
}


def test_every_pair_is_kept_or_has_a_reason(tmp_path):
    """Six tokens fit, seven do not; a pair that is left out needs no reference."""
    pairs = save_pairs(tmp_path / "pairs.parquet", TOKENS, kinds={"same": "judge"})
    reference = save_logprobs(tmp_path / "reference.parquet", {"fits": (-1.0, -2.0), "nan": (-1.0, math.nan)})
    screened = preference_examples(pairs, reference, 6)
    assert [(one.key, one.prompt, one.reference) for one in screened.kept] == [("fits", "p-fits", (-1.0, -2.0))]
    assert [(r["pair_id"], r["kind"], r["reason"]) for r in screened.left_out] == [
        ("long", "actor", "overlong"),
        ("mute", "actor", "empty"),
        ("nan", "actor", "not_finite"),
        ("same", "judge", "identical"),
    ]
    assert screened.left_out[0]["detail"] == "7 of at most 6"
    assert screened.share("overlong") == 1 / 5
    assert screened.share("empty", "identical", "not_finite") == 3 / 5
    assert str(screened) == "1 of 5; left out: 1 empty, 1 identical, 1 not_finite, 1 overlong"
    with pytest.raises(StageError, match=r"pairs\.parquet: long has 7 of at most 6 tokens: raise megatron"):
        require_fitting(screened, str(pairs))
    require_fitting(preference_examples(pairs, None, 7), str(pairs))


def test_a_pair_that_is_kept_needs_its_reference(tmp_path):
    pairs = save_pairs(tmp_path / "pairs.parquet", {"fits": TOKENS["fits"]})
    reference = save_logprobs(tmp_path / "reference.parquet", {"other": (-1.0, -2.0)})
    with pytest.raises(StageError, match=r"reference\.parquet: no log-probabilities for pair fits"):
        preference_examples(pairs, reference, 6)


def test_the_reference_must_be_of_the_tokens_that_carry_loss(tmp_path):
    """Among them are thoughts, or not, by `chat.train_thoughts`."""
    pairs = save_pairs(tmp_path / "pairs.parquet", {"fits": TOKENS["fits"]})
    reference = save_logprobs(tmp_path / "reference.parquet", {"fits": (-1.0, -2.0)})
    with pytest.raises(StageError, match=r"\[2, 3\] tokens of pair fits, .*chat\.train_thoughts"):
        preference_examples(pairs, reference, 6, thoughts=lambda ids: 1)


def test_loss_is_on_every_response_token_up_to_the_boundary(tmp_path):
    """A prompt of one token, a response of the stop token alone, and a pair of exactly the longest length."""
    tokens = {"edge": ([9], [STOP], [6, 7, 8, STOP])}
    (example,) = preference_examples(save_pairs(tmp_path / "pairs.parquet", tokens), None, 5).kept
    (part,) = micro_batches([example], 100, CPU)
    assert part.loss.labels.tolist() == [STOP, 6, 7, 8, STOP]
    assert part.tokens.tolist() == [[9, 6, 7, 8]]  # the prompt is shared; a last token predicts nothing
    assert part.row_lengths.tolist() == [1, 4]


def test_overlong_supervised_examples_are_left_out(tiny_model_dir, tmp_path):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "world"}]
    rows = [
        {"example_id": key, "messages": [*turns[:1], {"role": "assistant", "content": text}], "prompt_loss_weight": 0.0}
        for key, text in (("short", "world"), ("wide", "world " * 50))
    ]
    write(frame(SFT_EXAMPLES, rows), tmp_path / "sft.parquet", SFT_EXAMPLES, {})
    chat = ChatTokenizer(tiny_model_dir)
    encoder = Encoder(chat, TurnRules(chat.template, "keep"))
    length = len(chat.encode(turns[:1])) + len(chat.encode_text("world")) + 1
    kept, left_out = supervised_examples([tmp_path / "sft.parquet"], encoder, length)
    assert [one.key for one in kept] == ["short"]
    assert [(r["pair_id"], r["kind"], r["reason"]) for r in left_out] == [("wide", "sft", "overlong")]
    assert supervised_examples([tmp_path / "sft.parquet"], encoder, length - 1).kept == []
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + '\n{"prompt": "No answer"}\n')
    (answer,) = answer_examples([tmp_path / "chat.jsonl"], encoder, length).kept
    assert answer.rows[0].tokens.tolist() == kept[0].rows[0].tokens.tolist()
    assert answer.rows[0].weights.tolist() == kept[0].rows[0].weights.tolist()
    assert answer.prompt == kept[0].prompt
    assert held_out_row(answer)["kind"] == "sft"


def test_an_example_whose_turns_the_template_refuses_is_merged_left_out_or_named(tmp_path):
    write_tokenizer(tmp_path, GEMMA)
    turns = [turn("system", "Be brief."), turn("user", "Hello"), turn("assistant", "world")]
    row = {"example_id": "with-system", "messages": turns, "prompt_loss_weight": 0.0}
    write(frame(SFT_EXAMPLES, [row]), tmp_path / "sft.parquet", SFT_EXAMPLES, {})
    chat = ChatTokenizer(tmp_path)

    def screened(system_turns):
        return supervised_examples(
            [tmp_path / "sft.parquet"], Encoder(chat, TurnRules(chat.template, system_turns)), 99
        )

    (example,) = screened("merge").kept
    prompt = chat.encode([turn("user", "Be brief.\n\nHello")])
    assert example.rows[0].tokens.tolist() == [*prompt, *chat.encode_text("world"), STOP]
    assert [(one["pair_id"], one["reason"]) for one in screened("drop_prompt").left_out] == [
        ("with-system", "template")
    ]
    with pytest.raises(StageError, match=r"^with-system: .*System role not supported.*chat\.system_turns"):
        screened("keep")


def test_the_ledger_tells_the_kind_of_what_is_held_out():
    assert [held_out_row(one)["kind"] for one in BATCH] == ["actor", "judge", "actor"]


# --- speed --------------------------------------------------------------------------------------------------------


def test_readings_of_speed_by_hand():
    """Rows of 5, 6, 11, 4, 3 and 7 tokens; 100 weights, 2 layers of width 8: 6 * 100 * n + 6 * 2 * 8 * n * n."""
    size = ModelSize(parameters=100, layers=2, attention_width=8)
    lengths = (5, 6, 11, 4, 3, 7)
    assert token_count(BATCH) == sum(lengths) == 36
    flops = 600 * 36 + 96 * sum(n * n for n in lengths)
    assert sum(map(size.training_flops, lengths)) == flops
    assert speed(BATCH, 0.5, size, 1e6) == {"seconds": 0.5, "tokens_per_second": 72, "mfu": flops / 0.5 / 1e6}
    assert speed(BATCH, 0.5, size, None) == speed(BATCH, 0.5, None, None) == {"seconds": 0.5, "tokens_per_second": 72}


@pytest.mark.parametrize(("head", "expected"), [({}, 30 + 7), ({"lm_head.weight": torch.zeros(10, 3)}, 30 + 7)])
def test_an_embedding_counts_only_where_it_is_multiplied_with(head, expected, tmp_path):
    tensors = {"model.embed_tokens.weight": torch.zeros(10, 3), "model.norm.weight": torch.zeros(7), **head}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 2,
        "hidden_size": 12,
        "num_attention_heads": 4,
    }
    config |= {"intermediate_size": 8, "vocab_size": 10, "max_position_embeddings": 16}
    assert model_size(tmp_path, architecture(config)) == ModelSize(expected, 2, 12)
    assert model_size(tmp_path, architecture({**config, "head_dim": 5})).attention_width == 20
