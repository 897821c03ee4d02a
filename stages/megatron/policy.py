"""Megatron's `GPTModel` that answers with log-probabilities instead of logits, where it is told which ones count."""

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)

from stages.megatron.logprobs import token_logprobs
from stages.training.packing import Loss


@dataclass(frozen=True)
class Vocabulary:
    """The output's rows: `size` tokens (rows beyond are padding), scored `chunk_tokens` positions at a time."""

    size: int
    chunk_tokens: int
    softcap: float | None = None


class PolicyModel(GPTModel):  # type: ignore[misc]
    """With `labels` (a `Loss`) the last pipeline stage returns their log-probabilities [n]; without, logits."""

    vocabulary: Vocabulary

    def _postprocess(self, hidden_states: torch.Tensor, *args: Any, labels: Loss | None = None, **kwargs: Any) -> Any:
        if labels is None or not self.post_process:
            return super()._postprocess(hidden_states, *args, labels=None, **kwargs)
        weight = self.output_layer.weight
        if self.share_embeddings_and_output_weights:
            weight = self.shared_embedding_or_output_weight()
        return token_logprobs(
            self._predicting(hidden_states, labels),
            weight,
            labels.labels,
            first=parallel_state.get_tensor_model_parallel_rank() * weight.size(0),
            vocabulary=self.vocabulary.size,
            chunk=self.vocabulary.chunk_tokens,
            softcap=self.vocabulary.softcap,
            group=parallel_state.get_tensor_model_parallel_group(),
        )

    def _predicting(self, hidden: torch.Tensor, loss: Loss) -> torch.Tensor:
        """Hidden states [n, h] that predict the labels; backward sums the gradients of all tensor-parallel ranks."""
        if self.config.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden).flatten(0, 1).index_select(0, loss.hidden)
        return copy_to_tensor_model_parallel_region(hidden.flatten(0, 1).index_select(0, loss.hidden))
