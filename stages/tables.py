"""Every table of the pipeline, with the meaning of each column. `docs/data-dictionary.md` is generated from here."""

from stages.artifacts import Table

_PROMPT = {"prompt_id": ("str", "Key of the prompt: hash of its normalised messages.")}
_CANDIDATE = {**_PROMPT, "candidate_id": ("str", "Key of the candidate: `<prompt_id>-<iteration>-<sample>`.")}
_COMPLETION = {
    "seed": ("int", "Sampling seed of this request, derived from run seed, iteration, stage and keys."),
    "text": ("str", "Generated text as it came, special tokens removed."),
    "token_ids": ("tokens", "Generated token ids, including the stop token if generation stopped by itself."),
    "finish_reason": ("str", "`stop` (ended by itself), `length` (cut at the token limit) or `error`."),
    "logprob": ("float?", "Sum of the sampled tokens' log-probabilities (nats) at temperature 1; null if unknown."),
    "error": ("str?", "What the engine said, for `finish_reason` = `error`."),
}
_INPUT = {
    "messages": ("messages", "The conversation given to the model, before the chat template."),
    "token_ids": ("tokens", "Exactly the input tokens given to the model."),
}

PROMPTS = Table(
    "prompts",
    "a conversation that ends in a user turn, to be answered",
    ("prompt_id",),
    {
        **_PROMPT,
        "messages": ("messages", "The turns; the last one is the user's."),
        "answer": ("str?", "The data set's own answer to the last turn, where it has one."),
        "split": ("str", "`train` or `validation`."),
        "source": ("str", "File that the prompt came from."),
        "row": ("int", "Row in that file, counted from 1."),
    },
)
INGEST_LEDGER = Table(
    "ingest_ledger",
    "an input row that yielded no prompt",
    ("source", "row"),
    {
        "source": ("str", "Input file."),
        "row": ("int", "Row in that file, counted from 1."),
        "reason": ("str", "Why it was dropped, for example `duplicate`."),
        "detail": ("str", "What exactly, for example the id of the prompt that it repeats."),
    },
)
CANDIDATE_PROMPTS = Table(
    "candidate_prompts",
    "the model input of one prompt",
    ("prompt_id",),
    {**_PROMPT, **_INPUT},
)
CANDIDATES = Table(
    "candidates",
    "one sampled response",
    ("prompt_id", "candidate_id"),
    {
        **_CANDIDATE,
        "iteration": ("int", "Iteration whose model (`iteration - 1`) sampled it."),
        "sample": ("int", "Number of the sample within the prompt, from 0."),
        **_COMPLETION,
    },
)
JUDGE_PROMPTS = Table(
    "judge_prompts",
    "the model input for judging one candidate",
    ("prompt_id", "candidate_id"),
    {**_CANDIDATE, **_INPUT, "shortened": ("bool", "Whether the response was cut in the middle to fit.")},
)
JUDGEMENTS = Table(
    "judgements",
    "one judgement of a candidate, as raw text",
    ("prompt_id", "candidate_id", "vote"),
    {**_CANDIDATE, "vote": ("int", "Number of the judgement of this candidate, from 0."), **_COMPLETION},
)
VOTES = Table(
    "votes",
    "one judgement, parsed",
    ("prompt_id", "candidate_id", "vote"),
    {
        **_CANDIDATE,
        "vote": ("int", "Number of the judgement of this candidate."),
        "score": ("float?", "The parsed score; null unless `parse_status` is `ok`."),
        "span": ("span?", "Start and end of the matched verdict in the judgement's text, in characters."),
        "parse_status": ("str", "`ok`, `no_match`, `out_of_range`, `length` (judgement cut short) or `error`."),
    },
)
SCORES = Table(
    "scores",
    "one candidate with its aggregated score",
    ("prompt_id", "candidate_id"),
    {
        **_CANDIDATE,
        "score": ("float?", "Aggregate of the valid votes; null if there are fewer than `min_votes`."),
        "variance": ("float?", "Population variance of the valid votes; null where `score` is."),
        "valid_votes": ("int", "Votes that parsed."),
        "votes": ("int", "Votes asked for."),
    },
)
META_JUDGE_PROMPTS = Table(
    "meta_judge_prompts",
    "the model input for comparing two judgements, in one order",
    ("prompt_id", "candidate_id", "vote_a", "vote_b"),
    {
        **_CANDIDATE,
        "vote_a": ("int", "Vote shown first."),
        "vote_b": ("int", "Vote shown second."),
        **_INPUT,
    },
)
VERDICTS = Table(
    "verdicts",
    "one meta-judgement, as raw text",
    ("prompt_id", "candidate_id", "vote_a", "vote_b"),
    {
        **_CANDIDATE,
        "vote_a": ("int", "Vote shown first."),
        "vote_b": ("int", "Vote shown second."),
        **_COMPLETION,
    },
)
BATTLES = Table(
    "battles",
    "one meta-judgement, parsed",
    ("prompt_id", "candidate_id", "vote_a", "vote_b"),
    {
        **_CANDIDATE,
        "vote_a": ("int", "Vote shown first."),
        "vote_b": ("int", "Vote shown second."),
        "winner": ("str?", "`a` or `b`; null unless `parse_status` is `ok`."),
        "parse_status": ("str", "`ok`, `no_match`, `length` (verdict cut short) or `error`."),
    },
)
RATINGS = Table(
    "ratings",
    "one judgement with its rating among the judgements of the same candidate",
    ("prompt_id", "candidate_id", "vote"),
    {
        **_CANDIDATE,
        "vote": ("int", "Number of the judgement of this candidate."),
        "rating": ("float", "Elo rating: 400 per factor 10 of odds, mean 1000 over the candidate's judgements."),
        "wins": ("float", "Position-weighted battles won (sum of B over opponents)."),
        "losses": ("float", "Position-weighted battles lost."),
        "battles": ("int", "Verdicts that took part, both orders counted."),
    },
)
PAIRS = Table(
    "pairs",
    "one preference pair to train on (TRL's explicit-prompt conversational form, plus exact tokens)",
    ("pair_id",),
    {
        "pair_id": ("str", "Key of the pair: `<kind>-<iteration>-<prompt_id>`."),
        "kind": ("str", "`actor` (two responses to a prompt) or `judge` (two judgements of a response)."),
        **_PROMPT,
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
    "a prompt that yielded no actor pair, or a judged candidate that yielded no judge pair",
    ("kind", "prompt_id"),
    {
        "kind": ("str", "`actor` or `judge`."),
        **_PROMPT,
        "candidate_id": ("str?", "The candidate whose judgements were compared (judge)."),
        "reason": ("str", "`unparsed`, `truncated`, `tie`, `identical`, `margin`, `overlong`, `budget`, ..."),
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
        "prompt_loss_weight": ("float", "Weight of the loss on the text of the input turns (0: answers only)."),
    },
)
TRAIN_METRICS = Table(
    "train_metrics",
    "one value of one metric at one optimizer step",
    ("step", "metric"),
    {
        "step": ("int", "Optimizer step, from 1."),
        "metric": ("str", "Name of the metric; formulas are in `docs/metrics.md`."),
        "value": ("float", "Its value over the global batch of that step."),
    },
)
EVALUATIONS = Table(
    "evaluations",
    "one response to a held-out prompt",
    ("decoding", "prompt_id"),
    {
        **_PROMPT,
        "decoding": ("str", "`sample` (one draw at the configured temperature) or `greedy`."),
        "messages": ("messages", "The held-out prompt."),
        **_COMPLETION,
        "tokens": ("int", "Length of the response in tokens, stop token included."),
        "quality": ("float?", "True quality by the world's oracle; null where no oracle is configured."),
    },
)
JUDGE_EVALUATIONS = Table(
    "judge_evaluations",
    "one response of the judge's test set, judged by the model",
    ("example_id",),
    {
        "example_id": ("str", "Key of the test example."),
        **_PROMPT,
        "quality": ("float", "Reference score of the response."),
        "score": ("float?", "Mean of the valid votes; null if none parsed."),
        "first_score": ("float?", "Score of the first vote alone."),
        "valid_votes": ("int", "Votes that parsed."),
    },
)
JUDGE_TESTS = Table(
    "judge_tests",
    "one response with a reference score, to test the judge on",
    ("example_id",),
    {
        "example_id": ("str", "Key of the test example."),
        "messages": ("messages", "The prompt."),
        "response": ("str", "The response to be judged."),
        "quality": ("float", "Reference score; pairs of unequal scores of the same set test the judge."),
    },
)
SUMMARY = Table(
    "summary",
    "one headline number of one model",
    ("model", "metric"),
    {
        "model": ("int", "Model number: 0 is the base, t the result of iteration t."),
        "metric": ("str", "`quality`, `quality_greedy`, `judge_accuracy`, `tokens`, ..."),
        "value": ("float", "Mean."),
        "low": ("float?", "Lower end of its 95 % interval; null where it has none."),
        "high": ("float?", "Upper end of its 95 % interval."),
        "n": ("int", "Number of observations."),
    },
)

ALL = [value for value in list(globals().values()) if isinstance(value, Table)]
