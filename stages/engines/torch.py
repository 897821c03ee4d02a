"""The embedded engine: a Hugging Face causal language model in this process, on CPU or GPU.

Samples of one prompt share its prefill. Rows of a batch advance together, one slot of a preallocated key-value cache
per step; a finished row's place is taken by the last row, so the batch only shrinks. Each request draws from its own
stream of uniform numbers, so that batching and sharding do not change what it says.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache
from transformers.utils import logging

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.protocol import Completion, Request
from stages.engines.sampling import draw, uniforms
from stages.prompting.chat import ChatTokenizer

PREFILL_TOKENS = 8192
"""Prompt tokens in one forward pass: bounds the activations, which the KV slots do not."""


class TorchEngine:
    """Context manager around a model directory; see `stages.engines.protocol.Engine`."""

    seeds_honoured = True
    exact_tokens = True

    def __init__(self, model_dir: Path, settings: EngineSettings):
        self.model_dir = model_dir
        self.settings = settings
        self.device = settings.device
        if settings.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def __enter__(self) -> Self:
        torch.set_num_threads(self.settings.threads)
        self._chat = ChatTokenizer(self.model_dir)
        self._model = _load(self.model_dir, self.settings.dtype, self.device)
        positions = getattr(self._model.config, "max_position_embeddings", None)
        if positions and self.settings.max_sequence_length > positions:
            raise StageError(
                f"{self.model_dir}: the model has {positions} positions; "
                f"lower engine.max_sequence_length (now {self.settings.max_sequence_length})"
            )
        self._chat.check_fits(self._model.get_input_embeddings().num_embeddings)
        self._stops = torch.tensor(sorted(self._chat.stop_ids), device=self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._model

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request, batch by batch; a prompt that leaves no room is an `error`."""
        limit = self.settings.max_sequence_length - sampling.max_tokens
        fitting = []
        for request in requests:
            size = len(request.prompt_token_ids)
            if 0 < size <= limit:
                fitting.append(request)
                continue
            words = f"prompt of {size} tokens; engine.max_sequence_length - max_tokens allows 1 to {limit}"
            yield Completion(request.request_id, "", [], "error", error=words)
        for batch in batches(fitting, sampling.max_tokens, self.settings.batch_tokens):
            yield from self._complete(batch, sampling)

    @torch.inference_mode()
    def _complete(self, batch: list[Request], sampling: Sampling) -> list[Completion]:
        width = max(len(request.prompt_token_ids) for request in batch)
        padding = torch.tensor([width - len(request.prompt_token_ids) for request in batch], device=self.device)
        visible = torch.arange(width + sampling.max_tokens, device=self.device) >= padding[:, None]
        chance = uniforms([request.seed for request in batch], sampling.max_tokens).to(self.device)
        cache, logits = self._prefill(batch, width, width + sampling.max_tokens)

        rows = torch.arange(len(batch), device=self.device)  # the request that each row of the cache serves
        drawn = torch.zeros(len(batch), sampling.max_tokens, dtype=torch.long, device=self.device)
        lengths = torch.zeros(len(batch), dtype=torch.long, device=self.device)
        logprobs = torch.zeros(len(batch), dtype=torch.float64, device=self.device)
        for step in range(sampling.max_tokens):
            tokens, values = draw(logits, chance[rows, step], sampling)
            drawn[rows, step] = tokens
            lengths[rows] = step + 1
            logprobs[rows] += values
            going = ~torch.isin(tokens, self._stops)
            holes, last = moves(going)
            for state in (tokens, rows):
                state[holes] = state[last]
            cache.move(holes, last, live := int(going.sum()))
            tokens, rows = tokens[:live], rows[:live]
            if not live or step + 1 == sampling.max_tokens:
                break
            logits = self._forward(
                cache, tokens[:, None], visible[rows, : width + step + 1], (width + step - padding[rows])[:, None]
            )
        return self._completions(batch, drawn, lengths, logprobs)

    def _prefill(self, batch: list[Request], width: int, slots: int) -> tuple["_SlotCache", Tensor]:
        """The prompts' keys and values and last logits, one row per request; each distinct prompt runs once.

        Requests of one prompt must be neighbours.
        """
        groups = [(prompt, len(list(group))) for prompt, group in groupby(batch, key=lambda r: r.prompt_token_ids)]
        cache = _SlotCache(len(batch), width, slots)
        logits = []
        step = max(1, PREFILL_TOKENS // width)
        for start in range(0, len(groups), step):
            prompts, repeats = zip(*groups[start : start + step], strict=True)
            tokens = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self.device)
            padding = torch.tensor([width - len(prompt) for prompt in prompts], device=self.device)
            positions = torch.arange(width, device=self.device) - padding[:, None]
            prefix = DynamicCache()
            last = self._forward(prefix, tokens, positions >= 0, positions.clamp(min=0))
            copies = torch.tensor(repeats, device=self.device)
            cache.append(prefix, copies)
            logits.append(last.repeat_interleave(copies, dim=0))
        return cache, torch.cat(logits)

    def _forward(self, cache: Cache, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of the last column, appending the tokens' keys and values to the cache."""
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _completions(self, batch: list[Request], drawn: Tensor, lengths: Tensor, logprobs: Tensor) -> list[Completion]:
        found = []
        columns = zip(batch, drawn.tolist(), lengths.tolist(), logprobs.tolist(), strict=True)
        for request, tokens, length, logprob in columns:
            token_ids = tokens[:length]
            reason = "stop" if token_ids[-1] in self._chat.stop_ids else "length"
            text = self._chat.decode(token_ids[:-1] if reason == "stop" else token_ids)
            found.append(Completion(request.request_id, text, token_ids, reason, logprob))
        return found


def batches(requests: Sequence[Request], max_tokens: int, batch_tokens: int) -> Iterator[list[Request]]:
    """Requests grouped so that rows x (longest prompt + max_tokens) stays within `batch_tokens` KV slots.

    Longest prompts first, so that padding is small and a lack of memory shows at once; requests of one prompt are
    neighbours. A batch holds at least one request.
    """
    ordered = sorted(requests, key=lambda r: (-len(r.prompt_token_ids), r.prompt_token_ids, r.request_id))
    start = 0
    while start < len(ordered):
        rows = max(1, batch_tokens // (len(ordered[start].prompt_token_ids) + max_tokens))
        yield ordered[start : start + rows]
        start += rows


def moves(going: Tensor) -> tuple[Tensor, Tensor]:
    """How to fill the places of finished rows: row `last[i]` moves to place `holes[i]`; then the first rows are live.

    `going` is bool [rows]; both results are int64 [moves].
    """
    live = int(going.sum())
    return (~going[:live]).nonzero()[:, 0], going[live:].nonzero()[:, 0] + live


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, [rows, heads, slots, head_dim]: the first `live` rows, `used` slots are filled."""

    is_sliding = False

    def __init__(self, rows: int, used: int, slots: int):
        super().__init__()
        self.live, self.used = 0, used
        self._rows, self._slots = rows, slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self._rows, key_states.shape[1], self._slots)
        self.keys = key_states.new_empty(*shape, key_states.shape[3])
        self.values = value_states.new_empty(*shape, value_states.shape[3])
        self.is_initialized = True

    def append(self, keys: Tensor, values: Tensor, copies: Tensor) -> None:
        """Add rows: row i of a prefix of `used` slots, `copies[i]` times."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        end = self.live + int(copies.sum())
        self.keys[self.live : end, :, : self.used] = keys.repeat_interleave(copies, dim=0)
        self.values[self.live : end, :, : self.used] = values.repeat_interleave(copies, dim=0)
        self.live = end

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        end = self.used + key_states.shape[2]
        self.keys[: self.live, :, self.used : end] = key_states
        self.values[: self.live, :, self.used : end] = value_states
        self.used = end
        return self.keys[: self.live, :, :end], self.values[: self.live, :, :end]

    def move(self, holes: Tensor, last: Tensor, live: int) -> None:
        for state in (self.keys, self.values):
            state[holes, :, : self.used] = state[last, :, : self.used]
        self.live = live

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return self._slots


class _SlotCache(Cache):  # type: ignore[misc]
    """A cache of `_SlotLayer`s; rows are appended from prefixes and then only leave."""

    layers: list[_SlotLayer]

    def __init__(self, rows: int, used: int, slots: int):
        super().__init__(layers=[])
        self._shape = (rows, used, slots)

    def append(self, prefix: DynamicCache, copies: Tensor) -> None:
        if not self.layers:
            self.layers = [_SlotLayer(*self._shape) for _ in prefix.layers]
        for layer, source in zip(self.layers, prefix.layers, strict=True):
            layer.append(source.keys, source.values, copies)

    def move(self, holes: Tensor, last: Tensor, live: int) -> None:
        for layer in self.layers:
            layer.move(holes, last, live)


def _load(model_dir: Path, dtype: str, device: str) -> Any:
    logging.disable_progress_bar()
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_dir,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        raise StageError(f"{model_dir}: cannot load the model: {str(error).splitlines()[0]}") from error
    return model.to(device).eval()
