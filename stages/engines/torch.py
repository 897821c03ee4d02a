"""The embedded engine: a Hugging Face causal language model in this process, on CPU or GPU.

What prompts have in common is computed once, and so is a prompt for all its samples. Those are drawn side by side;
waiting requests enter as others leave. Each request draws from its own stream of uniform numbers, so that batching and
sharding do not change what it says.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.decoding import Decoding
from stages.engines.packed import pack
from stages.engines.protocol import Completion, Request, failed, refusal
from stages.engines.shared_prefix import NAME
from stages.prompting.chat import ChatTokenizer


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
        check_attention(self.model_dir, self._model)
        self._chat.check_fits(self._model.get_input_embeddings().num_embeddings)
        pack(self._model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._model

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request, as they finish; a prompt that leaves no room is an `error`.

        A stop string ends a completion with `stop`: `text` is what comes before it, `token_ids` are all that were
        drawn, up to the one that completed it.
        """
        fitting = []
        for request in requests:
            if problem := refusal(request, sampling, self.settings.max_sequence_length):
                yield failed(request, problem, refused=True)
            else:
                fitting.append(request)
        yield from Decoding(self._model, self._chat, fitting, sampling, self.settings.batch_tokens)


def check_attention(model_dir: Path, model: Any) -> None:
    """StageError for a model with layers that `shared_prefix` does not know: their answers would be wrong, silently."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or not model._supports_attention_backend:
        words = ", ".join(sorted(kinds)) or "an unknown kind"
        raise StageError(f"{model_dir}: layers of {words}; the torch engine knows full and sliding attention only")


def automatic_dtype(device: str) -> str:
    """The weights' type where the configuration leaves it open: on a CPU bfloat16 only where it computes in it."""
    if device != "cpu":
        return "auto"
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13 has it
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def _load(model_dir: Path, dtype: str, device: str) -> Any:
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_dir,
            dtype=automatic_dtype(device) if dtype == "auto" else dtype,
            attn_implementation=NAME,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(f"{model_dir}: cannot load the model: {str(error).splitlines()[0]}") from error
    return model.to(device).eval()
