"""Tables of evaluation."""

from stages.contracts.schema import Table
from stages.tables import columns

EVALUATIONS = Table(
    "evaluations",
    "one response to a held-out prompt",
    ("decoding", "prompt_id", "sample"),
    {
        **columns.PROMPT,
        "decoding": ("str", "`sample` (drawn at the configured temperature) or `greedy`."),
        "sample": ("int", "Number of the draw; 0 for `greedy`."),
        "messages": ("messages", "The held-out prompt."),
        **columns.COMPLETION,
        "quality": ("float?", "True quality by the world's oracle; null where no oracle is configured."),
    },
)
CHECK_EVALUATIONS = Table(
    "check_evaluations",
    "one checkable instruction, checked on one response to a held-out prompt",
    ("decoding", "prompt_id", "sample", "check"),
    {
        **columns.PROMPT,
        "decoding": ("str", "`sample` or `greedy`."),
        "sample": ("int", "Number of the draw; 0 for `greedy`."),
        "check": ("int", "Number of the instruction in the prompt's list, from 0."),
        "instruction": ("str", "Id of the instruction, as in IFEval."),
        "strict": ("bool", "Whether the response follows it."),
        "loose": ("bool", "Whether it does without its first or last line or its asterisks, as IFEval's loose metric."),
        "detail": ("str?", "What went wrong, for a check that could not be carried out."),
    },
)
JUDGE_TESTS = Table(
    "judge_tests",
    "one ranked response, to test the judge on",
    ("prompt_id", "candidate_id"),
    {
        **columns.CANDIDATE,
        "messages": ("messages", "The prompt."),
        "text": ("str", "The response to be judged."),
        "rank": ("int", "Its rank among the responses to the same prompt; 0 is the best, equal ranks are ties."),
        "quality": ("float?", "Reference score on the judge's scale, where the data has one."),
    },
)
JUDGE_EVALUATIONS = Table(
    "judge_evaluations",
    "one response of the judge's test set, judged by the model",
    ("prompt_id", "candidate_id"),
    {
        **columns.CANDIDATE,
        "rank": ("int", "Reference rank of the response among those to its prompt."),
        "quality": ("float?", "Reference score, where the test set has one."),
        "score": ("float?", "Score as in the loop; null where it has none: not judged, too few votes, or excluded."),
        "first_score": ("float?", "Score of the first vote alone."),
        "valid_votes": ("int", "Votes that parsed."),
    },
)
SUMMARY = Table(
    "summary",
    "one headline number of one model",
    ("model", "metric"),
    {
        "model": (
            "int",
            "Model number: 0 starts the loop, t is the result of iteration t; -1 the base model before EFT.",
        ),
        "metric": ("str", "`quality`, `quality_greedy`, `judge_accuracy`, `tokens`, ..."),
        "value": ("float", "Mean."),
        "low": ("float?", "Lower end of its 95 % interval; null where it has none."),
        "high": ("float?", "Upper end of its 95 % interval."),
        "n": ("int", "Number of independent observations (prompts, but for the calibration errors)."),
    },
)
META_EVALUATIONS = Table(
    "meta_evaluations",
    "one comparison of two judgements of a test response of which one is known to be better",
    ("prompt_id", "candidate_id", "vote_a", "vote_b"),
    {
        **columns.CANDIDATE,
        "vote_a": ("int", "Vote shown first."),
        "vote_b": ("int", "Vote shown second."),
        "better": ("str", "`a` or `b`: the judgement that orders the test responses better."),
        "winner": ("str?", "The meta-judge's choice; null if it could not be parsed."),
        "text": ("str", "Its verdict as it came."),
    },
)
COMPARISONS = Table(
    "comparisons",
    "one comparison of a model's response to a held-out prompt with another one, in one order",
    ("decoding", "prompt_id", "sample", "first"),
    {
        **columns.PROMPT,
        "decoding": ("str", "`sample` or `greedy`."),
        "sample": ("int", "Number of the draw; 0 for `greedy`."),
        "first": ("str", "Whose response was shown first: `model` or `other`."),
        "characters": ("int", "Length of the model's response as the judge saw it, without thoughts."),
        "other_characters": ("int", "Length of the other one, likewise."),
        "winner": ("str?", "`model` or `other`; null unless `parse_status` is `ok`."),
        "parse_status": (
            "str",
            "`ok`, `no_match`, `length` (verdict cut short), `error` (also not asked), or `alike` (the same responses, "
            "not asked).",
        ),
        **columns.COMPLETION,
    },
)
WIN_RATES = Table(
    "win_rates",
    "one number of a model's responses against those of another one",
    ("model", "other", "metric"),
    {
        "model": ("int", "Model number."),
        "other": ("str", "Number of the other model, or `references`: the data's own answers."),
        "metric": ("str", "`win_rate`, `win_rate_length_controlled`, `tie_share`, ...; of greedy ones `..._greedy`."),
        "value": ("float", "Mean; with length control, what the fit gives for responses of equal length."),
        "low": ("float?", "Lower end of its 95 % interval; null where it has none."),
        "high": ("float?", "Upper end of its 95 % interval."),
        "n": ("int", "Number of prompts."),
    },
)
