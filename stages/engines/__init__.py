"""Generation: one protocol, the engines behind it, and completions that survive a kill."""

from contextlib import AbstractContextManager
from pathlib import Path

from stages.config import EngineSettings
from stages.engines.protocol import Engine


def open_engine(model: Path, settings: EngineSettings) -> AbstractContextManager[Engine]:
    """Context manager that loads `model` (a Hugging Face directory) with the configured back-end.

    The back-end is imported only then: naming one costs nothing.
    """
    if settings.backend == "trtllm":
        from stages.engines.trtllm import TrtllmEngine

        return TrtllmEngine(model, settings)
    if settings.backend == "openai":
        from stages.engines.openai import OpenAiEngine

        return OpenAiEngine(model, settings)
    from stages.engines.torch import TorchEngine

    return TorchEngine(model, settings)
