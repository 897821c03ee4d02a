"""Columns that several tables share."""

PROMPT = {"prompt_id": ("str", "Key of the prompt: hash of its normalised messages.")}
CANDIDATE = {**PROMPT, "candidate_id": ("str", "Key of the candidate: `<prompt_id>-<iteration>-<sample>`.")}
COMPLETION = {
    "seed": ("int", "Sampling seed of this request, derived from run seed, iteration, stage and keys."),
    "text": ("str", "Generated text as it came, thoughts with their marks, special tokens removed."),
    "token_ids": ("tokens", "Generated token ids, including the stop token if generation stopped by itself."),
    "tokens": ("int", "Number of generated tokens."),
    "finish_reason": (
        "str",
        "`stop` (ended by itself), `length` (cut at the token limit), `error`; of verdicts also `alike`.",
    ),
    "logprob": ("float?", "Sum of the sampled tokens' log-probabilities (nats) at temperature 1; null if unknown."),
    "error": ("str?", "What the engine said, for `finish_reason` = `error`."),
}
INPUT = {
    "messages": ("messages", "The conversation given to the model, before the chat template."),
    "token_ids": ("tokens", "Exactly the input tokens given to the model."),
}
DROPPED = {
    "reason": ("str", "Why it was dropped, in a word, for example `duplicate`."),
    "detail": ("str", "What exactly: the numbers or the key behind the reason."),
}
