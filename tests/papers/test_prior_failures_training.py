"""What went wrong in the training of the prior system, and must hold here; see `test_prior_failures.py`."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.config import MegatronSettings
from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.prompting.chat import ChatTokenizer
from stages.prompting.system_turns import TurnRules
from stages.tables import SFT_EXAMPLES
from stages.training.batches import Example, Layout, Row, micro_batches, plan_steps, rank_share
from stages.training.examples import Encoder, preference_examples, supervised_examples
from stages.training.objectives import Objective, preference, sft
from tests.support.pair_files import save_pairs
from tests.support.records import turn
from tests.support.tiny_model import SPECIAL_TOKENS

CPU = torch.device("cpu")
STOP = SPECIAL_TOKENS.index("<|end|>")


def test_the_loss_is_on_the_response_with_its_stop_token_and_on_no_prompt_token(tmp_path: Path) -> None:
    """D3: masks were shifted by one: the last prompt token was trained, the stop token never."""
    pairs = {"a": ([10, 11, 12], [20, 21, STOP], [30, STOP]), "b": ([13], [22, STOP], [31, 32, 33, STOP])}
    examples = preference_examples(save_pairs(tmp_path / "pairs.parquet", pairs), None, 100).kept
    (batch,) = micro_batches(examples, 1000, CPU, Layout(loss_logits_only=False))
    loss = batch.loss
    trained = [loss.labels[(loss.rows == row) & (loss.weights == 1)].tolist() for row in range(4)]
    assert trained == [tokens for key in batch.keys for tokens in pairs[key][1:]]
    assert loss.weights.sum() == 3 + 2 + 2 + 4


@pytest.mark.parametrize("prompt_weight", [0.0, 0.25])
def test_supervised_loss_is_on_the_answer_with_its_stop_token(
    tiny_model_dir: Path, prompt_weight: float, tmp_path: Path
) -> None:
    """D3: the likelihood term of the prior system had the same shifted mask."""
    chat = ChatTokenizer(tiny_model_dir)
    turns = [turn("user", "Hello"), turn("assistant", "world"), turn("user", "how?"), turn("assistant", "Score: 3")]
    row = {"example_id": "e", "messages": turns, "prompt_loss_weight": prompt_weight}
    write(frame(SFT_EXAMPLES, [row]), tmp_path / "sft.parquet", SFT_EXAMPLES, {})
    (example,) = supervised_examples(
        [tmp_path / "sft.parquet"], Encoder(chat, TurnRules(chat.template, "keep")), 100
    ).kept
    (batch,) = micro_batches([example], 1000, CPU, Layout(loss_logits_only=False))
    labels, weights = batch.loss.labels, batch.loss.weights
    assert labels[weights == 1].tolist() == [*chat.encode_text("Score: 3"), STOP]
    rest = labels[weights != 1].tolist()
    assert [*example.rows[0].tokens[:1], *rest] == chat.encode(turns[:-1])
    text = [token for token in rest if token >= len(SPECIAL_TOKENS)]
    assert (weights[weights != 1] == prompt_weight).sum() == (len(text) if prompt_weight else len(rest))


LOGPROBS = st.lists(st.tuples(*[st.floats(-50, 0, width=32)] * 4), min_size=2, max_size=6)


def example(key: str, reference: tuple[float, ...], length: int) -> Example:
    rows = tuple(Row(np.arange(length + more), np.ones(length + more, np.float32)) for more in (0, 1))
    return Example(key, rows, reference)


@given(LOGPROBS)
def test_the_loss_of_a_batch_is_the_sum_over_its_pairs_each_on_its_own(logprobs: list[tuple[float, ...]]) -> None:
    """D7: the `scale` loss mixed the pairs of a micro-batch, and was a vector for more than one."""
    objective = preference(beta=0.1, sft_weight=0.5)
    policies = {f"{number}": torch.tensor(values[:2]) for number, values in enumerate(logprobs)}
    examples = [example(f"{number}", values[2:], 3 + number) for number, values in enumerate(logprobs)]
    (batch,) = micro_batches(examples, 10**6, CPU)
    loss, sums = objective.loss(torch.cat([policies[key] for key in batch.keys]), batch)
    alone = [objective.loss(policies[one.key], *micro_batches([one], 10**6, CPU)) for one in examples]
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sum(value.item() for value, _ in alone), rel=1e-4, abs=1e-3)
    for name, total in sums.items():
        assert total.item() == pytest.approx(sum(parts[name].item() for _, parts in alone), rel=1e-4, abs=1e-3)


PAIR = example("pair", (-3.0, -4.0), 3)


@pytest.mark.parametrize(
    ("objective", "one", "counts"),
    [(preference(beta=0.1, sft_weight=0.5), PAIR, 1), (sft(), Example("text", PAIR.rows[:1]), 3)],
    ids=["dpo", "sft"],
)
def test_what_fills_up_a_step_adds_nothing_to_loss_gradient_and_metrics(
    objective: Objective, one: Example, counts: int
) -> None:
    """D9: bad samples were masked but counted: a diluted gradient, a constant in the loss, wrong accuracies."""
    (filler,) = rank_share([one], rank=1, size=2)
    (batch,) = micro_batches([filler], 1000, CPU)
    logprobs = torch.tensor([-2.0, -5.0][: len(one.rows)], requires_grad=True)
    loss, sums = objective.loss(logprobs, batch)
    loss.backward()
    assert {value.item() for value in (loss, *sums.values())} == {0}
    assert logprobs.grad is not None
    assert not logprobs.grad.any()
    assert objective.normaliser([one, filler]) == objective.normaliser([one]) == counts


@pytest.fixture(scope="module")
def dropout_model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a checkpoint's configuration that asks for dropout."""
    folder = tmp_path_factory.mktemp("dropout") / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    return folder


def test_reference_logprobs_are_exact_in_any_mode_and_company(dropout_model: Path, tmp_path: Path) -> None:
    """D3, D20, D34: shifted masks, reference in training mode with dropout, positions of only one row of a batch."""
    from transformers import AutoModelForCausalLM

    from stages.megatron import weights
    from stages.megatron.model import build_model
    from stages.megatron.parallel import world
    from stages.model_files.config import read_config
    from stages.reference_logprobs import logprobs

    rng = np.random.default_rng(0)
    sizes = [(3, 9, 2), (12, 1, 5), (1, 4, 30)]
    pairs = {str(number): tuple(rng.integers(5, 300, n).tolist() for n in size) for number, size in enumerate(sizes)}
    examples = preference_examples(save_pairs(tmp_path / "pairs.parquet", pairs), None, 100).kept
    reference = AutoModelForCausalLM.from_pretrained(dropout_model, dtype=torch.float32).eval()

    def expected(prompt: list[int], answer: list[int]) -> float:
        with torch.no_grad():
            table = reference(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        return sum(table[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer))

    facts = read_config(dropout_model)
    with world(MegatronSettings(), facts) as rank:
        (model,) = build_model(facts, MegatronSettings(), rank.device)
        weights.load([model], dropout_model, facts)
        for training, budget in ((True, 1), (True, 10_000), (False, 10_000)):
            settings = MegatronSettings(micro_batch_tokens=budget)
            found = {row["pair_id"]: row for row in logprobs([model.train(training)], examples, settings, rank)}
            for key, (prompt, chosen, rejected) in pairs.items():
                assert found[key]["chosen_logprob"] == pytest.approx(expected(prompt, chosen), abs=1e-3)
                assert found[key]["rejected_logprob"] == pytest.approx(expected(prompt, rejected), abs=1e-3)
                assert (found[key]["chosen_tokens"], found[key]["rejected_tokens"]) == (len(chosen), len(rejected))


@pytest.mark.parametrize(("loss", "refused"), [(math.log(2), False), (math.log(2) + 0.01, True), (0.5, True)])
def test_a_first_loss_that_is_not_ln_2_stops_the_training(loss: float, refused: bool, tmp_path: Path) -> None:
    """D20: reference log-probabilities in another mode than the policy's went unnoticed."""
    from stages.train import Args
    from stages.training.task import check_step_zero

    args = Args(model=tmp_path, output=tmp_path / "manifest.json", metrics=tmp_path / "metrics.parquet")
    if refused:
        with pytest.raises(StageError, match=r"the first dpo loss is 0\.\d+, not 0\.6931"):
            check_step_zero({"preference_loss": loss}, [PAIR], args)
    else:
        check_step_zero({"preference_loss": loss}, [PAIR], args)


# --- steps and ranks ----------------------------------------------------------------------------------------------


def test_each_training_starts_with_a_new_optimizer_and_schedule(tiny_model_dir: Path) -> None:
    """D17: the moments of an iteration's optimizer were reset, but not its count of steps nor the schedule."""
    from stages.megatron.parallel import world
    from stages.model_files.config import read_config
    from tests.support.small_trainer import new_trainer, take_steps

    with world(MegatronSettings(), read_config(tiny_model_dir)) as rank:
        first, second = (take_steps(new_trainer(tiny_model_dir, rank), 3) for _ in range(2))
    assert second == first
    assert second[0]["learning_rate"] == 1e-3 > second[2]["learning_rate"]


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_all_ranks_take_the_same_steps_wherever_the_judge_pairs_are(ranks: int) -> None:
    """D22: each rank had a queue of judge pairs of its own, and the others waited where it was full."""
    pairs = [example(f"{'judge' if n < 5 else 'actor'}-{n:02d}", (-3.0, -4.0), 3 + n) for n in range(16)]
    steps = plan_steps(pairs, batch_size=5, epochs=1, seed=0)
    work = [[rank_share(batch, rank, ranks) for batch in steps] for rank in range(ranks)]
    sizes = [{len(share) for share in step} for step in zip(*work, strict=True)]
    assert len(sizes) == 4
    assert all(min(size) > 0 and max(size) - min(size) <= 1 for size in sizes)
    trained = sorted(one.key for mine in work for share in mine for one in share if one.weight)
    assert trained == sorted(one.key for one in pairs)
