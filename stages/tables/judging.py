"""Tables of candidates, judgements and meta-judgements."""

from stages.contracts.schema import Table
from stages.tables import columns

JUDGE = ("str", "Who judged: `policy`, or the name of another judge (`judge.model`, `judge.panel`).")
CANDIDATE_PROMPTS = Table(
    "candidate_prompts",
    "the model input of one prompt",
    ("prompt_id",),
    {**columns.PROMPT, **columns.INPUT},
)
CANDIDATES = Table(
    "candidates",
    "one sampled response",
    ("prompt_id", "candidate_id"),
    {
        **columns.CANDIDATE,
        "iteration": ("int", "Iteration whose model (`iteration - 1`) sampled it."),
        "sample": ("int", "Number of the sample within the prompt, from 0."),
        **columns.COMPLETION,
        "twin_of": ("str?", "The first candidate of the prompt with the same text, where that is another one."),
    },
)
JUDGE_PROMPTS = Table(
    "judge_prompts",
    "the model input for judging one candidate",
    ("prompt_id", "candidate_id", "judge"),
    {
        **columns.CANDIDATE,
        "judge": JUDGE,
        **columns.INPUT,
        "shortened": ("bool", "Whether the response was cut in the middle to fit."),
    },
)
JUDGEMENTS = Table(
    "judgements",
    "one judgement of a candidate, as raw text",
    ("prompt_id", "candidate_id", "vote"),
    {
        **columns.CANDIDATE,
        "vote": ("int", "Number of the judgement of this candidate, from 0."),
        "judge": JUDGE,
        **columns.COMPLETION,
    },
)
VOTES = Table(
    "votes",
    "one judgement, parsed",
    ("prompt_id", "candidate_id", "vote"),
    {
        **columns.CANDIDATE,
        "vote": ("int", "Number of the judgement of this candidate."),
        "judge": JUDGE,
        "score": ("float?", "The parsed score; null unless `parse_status` is `ok`."),
        "span": ("span?", "Start and end of the matched verdict in the judgement's text, in characters."),
        "verdict": ("str?", "The matched text itself."),
        "parse_status": ("str", "`ok`, `no_match`, `out_of_range`, `length` (judgement cut short) or `error`."),
        "finish_reason": ("str", "How the judgement ended: `stop`, `length` or `error`."),
        "tokens": ("int", "Length of the judgement in tokens."),
        "logprob": ("float?", "Log-probability of the judgement (nats); null if unknown."),
    },
)
SCORES = Table(
    "scores",
    "one candidate with its aggregated score",
    ("prompt_id", "candidate_id"),
    {
        **columns.CANDIDATE,
        "score": ("float?", "By votes, by passed checks on the same scale, or both (`score.combine`); may be null."),
        "variance": ("float?", "Population variance of the valid votes; null if there are fewer than `min_votes`."),
        "valid_votes": ("int", "Votes that parsed."),
        "votes": ("int", "Votes asked for."),
        "status": (
            "str",
            "`ok`; `verified` (scored by checks, perhaps with votes); no score: `few_votes`, `shortened`.",
        ),
    },
)
META_JUDGE_PROMPTS = Table(
    "meta_judge_prompts",
    "the model input for comparing two judgements, in one order",
    ("prompt_id", "candidate_id", "vote_a", "vote_b"),
    {
        **columns.CANDIDATE,
        "vote_a": ("int", "Vote shown first."),
        "vote_b": ("int", "Vote shown second."),
        **columns.INPUT,
    },
)
VERDICTS = Table(
    "verdicts",
    "one meta-judgement, as raw text",
    ("prompt_id", "candidate_id", "vote_a", "vote_b"),
    {
        **columns.CANDIDATE,
        "vote_a": ("int", "Vote shown first."),
        "vote_b": ("int", "Vote shown second."),
        **columns.COMPLETION,
    },
)
BATTLES = Table(
    "battles",
    "one meta-judgement, parsed",
    ("prompt_id", "candidate_id", "vote_a", "vote_b"),
    {
        **columns.CANDIDATE,
        "vote_a": ("int", "Vote shown first."),
        "vote_b": ("int", "Vote shown second."),
        "winner": ("str?", "`a` or `b`; null unless `parse_status` is `ok`."),
        "parse_status": ("str", "`ok`, `no_match`, `length` (verdict cut short), `error`, or `alike` (not asked)."),
    },
)
RATINGS = Table(
    "ratings",
    "one judgement with its rating among the judgements of the same candidate",
    ("prompt_id", "candidate_id", "vote"),
    {
        **columns.CANDIDATE,
        "vote": ("int", "Number of the judgement of this candidate."),
        "rating": ("float", "Elo rating: 400 per factor 10 of odds, mean 1000 over the candidate's judgements."),
        "wins": ("float", "Position-weighted battles won (sum of B over opponents)."),
        "losses": ("float", "Position-weighted battles lost."),
        "battles": ("int", "Verdicts that took part, both orders counted."),
        "alike": ("int", "Comparisons not asked for, as both judgements are the same but for their scores."),
    },
)
VERIFICATIONS = Table(
    "verifications",
    "one checkable instruction, checked on one candidate",
    ("prompt_id", "candidate_id", "check"),
    {
        **columns.CANDIDATE,
        "check": ("int", "Number of the instruction in the prompt's list, from 0."),
        "instruction": ("str", "Id of the instruction, as in IFEval."),
        "passed": ("bool", "Whether the response follows it; a check that could not be carried out is failed."),
        "detail": ("str?", "What went wrong, for a check that could not be carried out."),
    },
)
