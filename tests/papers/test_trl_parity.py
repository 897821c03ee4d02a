"""Our preference losses, gradients and updates against TRL's `DPOTrainer`, on the same model and token ids.

What TRL computes (1.16), `h` being an answer's log pi - log pi_ref, summed over its tokens, the stop token included:

`sigmoid`       -log sigmoid(beta (h_chosen - h_rejected)), as our `dpo`. It ignores `label_smoothing`.
`sigmoid_norm`  the same with each `h` divided by its answer's number of tokens: our `length_normalised`.
`ipo`           (h_chosen - h_rejected - 1 / (2 beta))^2, again with each `h` divided by its number of tokens: our `ipo`
                with `length_normalised`. Our `ipo` without it is the paper's, of sums, which TRL does not offer.
`aot`           sorts the log-ratios of a micro-batch before it compares them. Of one pair there is nothing to sort:
                what is left is `sigmoid` with label smoothing, our cDPO.

A step's loss is the mean over its pairs. TRL takes the mean of micro-batch means, the same where they are equally
large. Its logged rewards are beta times sums whatever the loss, so that ours are comparable without normalisation only.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from benchmarks.trl_dpo import dpo_config, dpo_trainer, example, random_pair, with_reference
from stages.config import MegatronSettings, OptimizerSettings
from stages.megatron import weights
from stages.megatron.loop import Trainer
from stages.megatron.model import build_model
from stages.megatron.parallel import world
from stages.model_files.config import read_config
from stages.training.losses import PairLoss
from stages.training.objectives import preference

STEPS, LEARNING_RATE, WEIGHT_DECAY, CLIP = 3, 1e-3, 0.1, 1.0
LENGTHS = [(3, 2, 19), (11, 8, 1), (7, 1, 2), (5, 14, 14), (12, 20, 6), (1, 3, 9)]
"""Of prompt, chosen and rejected answer."""
PAIRS = [random_pair(np.random.default_rng(seed), 320, *lengths) for seed, lengths in enumerate(LENGTHS)]
COMMON = {"logps/chosen": "logprob_chosen", "logps/rejected": "logprob_rejected", "grad_norm": "gradient_norm"}
REWARDS = {
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "accuracy",
}


@pytest.fixture(scope="module")
def reference_dir(tiny_model_dir, tmp_path_factory):
    """Another model than the policy, so that no margin is 0."""
    folder = tmp_path_factory.mktemp("reference")
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def ours(model_dir, reference_dir, beta, loss, output):
    """Metrics of each step, and the weights after the last."""
    settings = MegatronSettings(micro_batch_tokens=80)  # several uneven micro-batches
    optimizer = OptimizerSettings(
        learning_rate=LEARNING_RATE,
        min_learning_rate_ratio=1,
        warmup_steps=0,
        weight_decay=WEIGHT_DECAY,
        clip_grad=CLIP,
        beta2=0.98,
    )
    facts = read_config(model_dir)
    with world(settings, facts) as rank:
        model, reference = (build_model(facts, settings, rank.device) for _ in range(2))
        weights.load(model, model_dir, facts)
        weights.load(reference, reference_dir, facts)
        examples = [example(f"pair-{i}", pair) for i, pair in enumerate(PAIRS)]
        examples = with_reference(reference, examples, settings, rank)
        trainer = Trainer(model, settings, optimizer, STEPS, rank)
        steps = [trainer.step(examples, preference(beta, 0.0, loss)) for _ in range(STEPS)]
        weights.save(model, output, facts, model_dir, rank)
    return steps, load_file(output / "model.safetensors")


def theirs(model_dir, reference_dir, beta, micro_batch, output, **settings):
    """TRL's log of each step, and the weights after the last."""
    config = dpo_config(
        output,
        beta=beta,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=len(PAIRS) // micro_batch,
        max_steps=STEPS,
        logging_steps=1,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        adam_beta2=0.98,
        **settings,
    )
    model, reference = (LlamaForCausalLM.from_pretrained(path) for path in (model_dir, reference_dir))
    trainer = dpo_trainer(model, PAIRS, config, ref_model=reference)
    trainer.train()
    model.save_pretrained(output)
    return trainer.state.log_history[:STEPS], load_file(output / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "loss", "micro_batch", "settings"),
    [
        (0.1, PairLoss("dpo"), 6, {"loss_type": "sigmoid"}),
        (0.5, PairLoss("dpo"), 2, {"loss_type": "sigmoid", "precompute_ref_log_probs": True}),
        (0.1, PairLoss("dpo", label_smoothing=0.2), 1, {"loss_type": "aot", "label_smoothing": 0.2}),
        (0.5, PairLoss("dpo", length_normalised=True), 3, {"loss_type": "sigmoid_norm"}),
        (0.1, PairLoss("ipo", length_normalised=True), 3, {"loss_type": "ipo"}),
    ],
    ids=["dpo", "dpo-accumulated-precomputed", "cdpo", "dpo-normalised", "ipo"],
)
def test_losses_gradients_and_updates_are_trls(
    beta, loss, micro_batch, settings, tiny_model_dir, reference_dir, tmp_path: Path
):
    log, expected = theirs(tiny_model_dir, reference_dir, beta, micro_batch, tmp_path / "trl", **settings)
    (tmp_path / "ours").mkdir()
    steps, tensors = ours(tiny_model_dir, reference_dir, beta, loss, tmp_path / "ours")
    names = {"loss": "loss", **COMMON, **({} if loss.length_normalised else REWARDS)}
    for number, (entry, step) in enumerate(zip(log, steps, strict=True)):
        tolerance = 1e-5 if number == 0 else 5e-3  # each update multiplies what rounding has left
        for name, our_name in names.items():
            assert step[our_name] == pytest.approx(entry[name], rel=tolerance, abs=tolerance), (number, name)
    assert tensors.keys() == expected.keys()
    differences = torch.cat([(tensors[key] - expected[key]).abs().flatten() for key in expected])
    # Adam divides each gradient by its own size: where a gradient is rounding noise alone, so is its step.
    assert (differences > 1e-5).double().mean() < 2e-3
    assert differences.mean() < 1e-3 * LEARNING_RATE
