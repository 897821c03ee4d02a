"""What a training learns and from what: its objective, its examples, and the checks that they belong together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from stages.config import ChatSection, MegatronSettings, TrainSection, resolved
from stages.config.training import MARGIN_LOSSES
from stages.contracts.artifacts import provenance
from stages.contracts.errors import StageError
from stages.contracts.files import file_digest
from stages.model_files.manifest import model_digest
from stages.prompting.chat import ChatTokenizer
from stages.prompting.system_turns import TurnRules
from stages.training.batches import Example, score_margins
from stages.training.examples import (
    BAD,
    Encoder,
    Screened,
    answer_examples,
    example_texts,
    held_out_row,
    pair_texts,
    preference_examples,
    require_fitting,
    require_margins,
    supervised_examples,
    untrained,
)
from stages.training.losses import PairLoss, preference_loss
from stages.training.objectives import Objective, preference, sft
from stages.training.validation import hold_out

STEP_ZERO_MARGIN = 2e-3
"""Largest mean reward margin (beta applied) that numerical noise explains before the first update."""
Texts = Callable[[Sequence[str]], list[dict[str, Any]]]
Digests = dict[Path, str]
"""Digests of content by path."""
_Loaded = tuple[Screened, Objective, list[Path], Texts]


class TaskSettings(TrainSection):
    """What to learn, and from which files."""

    megatron: MegatronSettings = Field(MegatronSettings(), description="Ranks, layout and precision.")
    chat: ChatSection = Field(ChatSection(), description="How conversations are rendered.")
    objective: Literal["dpo", "sft"] = Field("dpo", description="What to minimise.")
    model: Path = Field(description="Model to start from.")
    pairs: Path | None = Field(None, description="Preference pairs (dpo).")
    reference_logprobs: Path | None = Field(None, description="The pairs' reference log-probabilities (dpo).")
    reference_model: Path | None = Field(None, description="Reference model; unset: `model` itself (dpo).")
    examples: list[Path] = Field([], description="Supervised examples (sft).")


@dataclass(frozen=True)
class Task:
    """What is learnt, and from what."""

    objective: Objective
    examples: list[Example]
    held_out: list[Example]
    left_out: list[dict[str, Any]]
    """Rows of table `train_ledger`."""
    inputs: list[Path]
    from_reference: bool
    """Whether training starts from the reference policy itself."""
    texts: Texts = field(repr=False)
    """Texts of held-out examples by key."""
    constants: dict[str, float]
    """Metrics that hold for the whole training."""
    summary: str


def read_digests(args: TaskSettings) -> Digests:
    """Digests of the models (weights, tokenizer, chat template) and files that training reads.

    Takes minutes for a large model without a manifest: meant for one rank.
    """
    models = {args.model, args.reference_model or args.model}
    files = [path for path in (args.pairs, args.reference_logprobs, *args.examples) if path]
    return {model: model_digest(model) for model in models} | {path: file_digest(path) for path in files}


def load_task(args: TaskSettings, digests: Digests) -> Task:
    """Objective and data of the asked-for training, and a line about them; StageError where nothing is left."""
    supervised = args.objective == "sft"
    screened, objective, inputs, texts = _supervised(args) if supervised else _preferences(args, digests)
    source = ", ".join(map(str, inputs[:1] if args.objective == "dpo" else inputs))
    if args.overlong == "refuse":
        require_fitting(screened, source)
    examples, held_out = hold_out(screened.kept, args.validation.fraction)
    if not examples:
        raise StageError(f"{source}: nothing to train on: {screened}; held out: {len(held_out)}")
    if args.validation.fraction and not held_out:
        raise StageError(
            f"{source}: validation.fraction {args.validation.fraction} holds out none of {len(examples)}: raise it, or "
            "set 0"
        )
    constants: dict[str, float] = {"examples": len(examples), "held_out": len(held_out)}
    constants |= {"dropped_share": screened.share("overlong"), "bad_share": screened.share(*BAD)}
    left_out = [*screened.left_out, *map(held_out_row, held_out)]
    summary = f"{source}: {screened}; held out: {len(held_out)}"
    from_reference = not supervised and digests[args.reference_model or args.model] == digests[args.model]
    return Task(objective, examples, held_out, left_out, inputs, from_reference, texts, constants, summary)


def _supervised(args: TaskSettings) -> _Loaded:
    if not args.examples:
        raise StageError("--objective sft needs --examples")
    screened = supervised_examples(args.examples, _encoder(args), args.megatron.max_sequence_length)
    return screened, sft(), args.examples, partial(example_texts, args.examples)


def _encoder(args: TaskSettings) -> Encoder:
    chat = ChatTokenizer(args.model, args.chat)
    return Encoder(chat, TurnRules(chat.template, args.chat.system_turns), args.chat.train_thoughts)


def _preferences(args: TaskSettings, digests: Digests) -> _Loaded:
    if args.pairs is None or args.reference_logprobs is None:
        raise StageError("--objective dpo needs --pairs and --reference-logprobs")
    check_reference(args.reference_logprobs, args.pairs, args.reference_model or args.model, digests)
    length = args.megatron.max_sequence_length
    screened = preference_examples(
        args.pairs, args.reference_logprobs, length, args.judge_pair_margin, untrained(args.model, args.chat)
    )
    if args.loss in MARGIN_LOSSES:
        require_margins(screened.kept, args.pairs, args.loss)
    objective = preference(resolved(args.beta), args.sft_weight, pair_loss(args))
    return screened, objective, [args.pairs, args.reference_logprobs], partial(pair_texts, args.pairs)


def check_reference(logprobs: Path, pairs: Path, reference: Path, digests: Digests) -> None:
    """StageError unless the log-probabilities are of these very pairs under the reference model: its weights, tokenizer
    and chat template."""
    facts = provenance(logprobs)
    if digests[pairs] not in facts.get("inputs", {}).values():
        raise StageError(f"{logprobs}: computed for other pairs than {pairs}; delete it and rerun")
    if facts.get("model") != digests[reference]:
        raise StageError(
            f"{logprobs}: computed by another model than {reference} (weights, tokenizer or chat template differ); "
            "delete it and rerun"
        )


def load_answers(args: TaskSettings) -> list[Example]:
    """Supervised examples that only validation sees."""
    if not args.validation.answers:
        return []
    found = answer_examples(args.validation.answers, _encoder(args), args.megatron.max_sequence_length)
    if not found.kept:
        raise StageError(f"{args.validation.answers[0]}: no answer to validate on: {found} kept")
    return found.kept


def pair_loss(args: TrainSection) -> PairLoss:
    """The configured preference loss."""
    return PairLoss(args.loss, args.label_smoothing, args.length_normalised, args.margin_scale, args.preference_weight)


def check_step_zero(values: dict[str, float], batch: Sequence[Example], args: TaskSettings) -> None:
    """Before the first update policy and reference are the same model: all reward margins of the first `batch` are 0,
    and its preference loss must be what the loss is there (DPO: ln 2)."""

    def loss_at(margin: float) -> float:
        margins, beta = torch.full([len(batch)], margin), resolved(args.beta)
        return float(preference_loss(margins, score_margins(batch), beta, pair_loss(args)).mean())

    loss, expected = values["preference_loss"], loss_at(0.0)
    # Losses are not equally steep there; one whose target is a margin of 0 is flat.
    tolerance = max(abs(loss_at(margin) - expected) for margin in (-STEP_ZERO_MARGIN, STEP_ZERO_MARGIN))
    if abs(loss - expected) > max(tolerance, STEP_ZERO_MARGIN / 2):
        raise StageError(
            f"the first {args.loss} loss is {loss:.4f}, not {expected:.4f} as of a policy that equals the reference: "
            f"{args.reference_logprobs} was not computed by the model that is trained, or with other settings; "
            "delete it and rerun"
        )
