"""Tables of training: pairs, examples, reference log-probabilities, metrics."""

from stages.contracts.schema import Table
from stages.tables import columns

PAIRS = Table(
    "pairs",
    "one preference pair to train on (TRL's explicit-prompt conversational form, plus exact tokens)",
    ("pair_id",),
    {
        "pair_id": ("str", "Key of the pair: `<kind>-<iteration>-<prompt_id>-<pair>`."),
        "kind": ("str", "`actor` (two responses to a prompt) or `judge` (two judgements of a response)."),
        **columns.PROMPT,
        "prompt": ("messages", "The conversation that both members answer."),
        "chosen": ("messages", "The preferred assistant turn."),
        "rejected": ("messages", "The other assistant turn."),
        "score_chosen": ("float?", "Judge score of the chosen response; null for judge pairs."),
        "score_rejected": ("float?", "Judge score of the rejected response; null for judge pairs."),
        "prompt_token_ids": ("tokens", "Input tokens, as they were given to the model."),
        "chosen_token_ids": ("tokens", "Tokens of the chosen turn as sampled, with the stop token."),
        "rejected_token_ids": ("tokens", "Tokens of the rejected turn as sampled, with the stop token."),
        "chosen_candidate_id": ("str", "Candidate that is chosen (actor) or that both judgements judge (judge)."),
        "rejected_candidate_id": ("str", "Candidate that is rejected (actor), or the judged one (judge)."),
        "chosen_vote": ("int?", "Vote number of the chosen judgement; null for actor pairs."),
        "rejected_vote": ("int?", "Vote number of the rejected judgement; null for actor pairs."),
    },
)
PAIR_LEDGER = Table(
    "pair_ledger",
    "a prompt that yielded no pair of a kind, or a pair that was considered and left out",
    ("kind", "prompt_id", "pair"),
    {
        "kind": ("str", "`actor` or `judge`."),
        **columns.PROMPT,
        "pair": ("int", "Number of the pair within its prompt, by margin, from 0."),
        "candidate_id": ("str?", "The candidate whose judgements were compared (judge)."),
        "reason": (
            "str",
            "`truncated`, `thoughts`, `not_judged`, `unparsed`, `tie`, `margin`, `repeated`, `budget`, ...",
        ),
        "detail": ("str", "The numbers behind the reason."),
    },
)
REFERENCE_LOGPROBS = Table(
    "reference_logprobs",
    "one pair with the reference policy's log-probabilities",
    ("pair_id",),
    {
        "pair_id": ("str", "Key of the pair."),
        "chosen_logprob": ("float", "Sum over the chosen tokens of log p_ref (nats), stop token included."),
        "rejected_logprob": ("float", "The same for the rejected tokens."),
        "chosen_tokens": ("int", "Number of tokens in the chosen sum."),
        "rejected_tokens": ("int", "Number of tokens in the rejected sum."),
    },
)
SFT_EXAMPLES = Table(
    "sft_examples",
    "one supervised example",
    ("example_id",),
    {
        "example_id": ("str", "Key of the example."),
        "messages": ("messages", "The turns; the last one is the assistant's and carries the loss."),
        "answer_token_ids": ("tokens?", "Exact tokens of that turn, stop token included; null: encode its text."),
        "prompt_loss_weight": ("float", "Weight of the loss on the text of the input turns (0: answers only)."),
    },
)
TRAIN_METRICS = Table(
    "train_metrics",
    "one value of one metric at one optimizer step",
    ("step", "metric"),
    {
        "step": ("int", "Optimizer step, from 1; 0 is before the first one."),
        "metric": ("str", "Name of the metric; formulas are in `docs/metrics.md`."),
        "value": ("float", "Its value over the global batch of that step, or over the held-out data."),
    },
)
TRAIN_SPEED = Table(
    "train_speed",
    "one reading of clock or memory at one optimizer step: never the same twice, unlike the metrics",
    ("step", "metric"),
    {
        "step": ("int", "Optimizer step, from 1."),
        "metric": ("str", "`seconds`, `tokens_per_second`, `peak_memory` or `mfu`; see `docs/metrics.md`."),
        "value": ("float", "The reading."),
    },
)
TRAIN_LEDGER = Table(
    "train_ledger",
    "a pair or supervised example that is not trained on",
    ("pair_id",),
    {
        "pair_id": ("str", "Key of the pair, or of the supervised example."),
        "kind": ("str", "`actor`, `judge` or `sft`."),
        "reason": (
            "str",
            "`overlong`, `empty`, `identical`, `not_finite`, `template` (turns that it refuses) or `held_out`.",
        ),
        "detail": ("str", "The numbers behind the reason."),
    },
)
VALIDATION_SAMPLES = Table(
    "validation_samples",
    "a held-out pair or supervised example as the model in training sees it",
    ("step", "pair_id"),
    {
        "step": ("int", "Optimizer steps done."),
        "pair_id": ("str", "Key of the pair, or of the supervised example."),
        "kind": ("str", "`actor`, `judge` or `sft`."),
        "prompt": ("messages", "The conversation."),
        "chosen": ("messages", "The preferred assistant turn, or the example's own."),
        "rejected": ("messages?", "The other assistant turn; null for examples."),
        "logprob_chosen": ("float", "Sum of the token log-probabilities of the chosen turn (nats)."),
        "logprob_rejected": ("float?", "The same for the rejected turn."),
        "reward_chosen": ("float?", "Implicit reward of the chosen turn, beta applied."),
        "reward_rejected": ("float?", "The same for the rejected turn."),
    },
)
RANKED = Table(
    "ranked",
    "one answer that people (or a reference) ranked among the answers to the same prompt",
    ("prompt_id", "candidate_id"),
    {
        **columns.CANDIDATE,
        "text": ("str", "The answer."),
        "finish_reason": ("str", "Always `stop`: the answer is complete."),
        "rank": ("int", "0 is the best; equal ranks are ties."),
        "quality": ("float?", "Reference score on the judge's scale, where the data has one."),
    },
)
RANKED_LEDGER = Table(
    "ranked_ledger",
    "a row of ranked data that was not used, or not in full",
    ("source", "row", "reason"),
    {
        "source": ("str", "Input file."),
        "row": ("int", "Row in that file, counted from 1."),
        **columns.DROPPED,
    },
)
EFT_LEDGER = Table(
    "eft_ledger",
    "a judgement of a ranked answer that is not trained on",
    ("prompt_id", "candidate_id", "vote"),
    {**columns.CANDIDATE, "vote": ("int", "Number of the judgement of this answer."), **columns.DROPPED},
)
