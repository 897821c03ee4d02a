"""A small supervised training: its examples, and the flags of its command."""

from pathlib import Path
from typing import Any

from stages import tables
from stages.contracts.artifacts import write
from stages.contracts.schema import frame


def sft_flags(folder: Path, model: Path, **changes: Any) -> list[str]:
    """Nine steps of supervised training on ten conversations, into `folder`."""
    rows = [
        {
            "example_id": f"e{i}",
            "messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": "hello " * (i + 1)}],
            "answer_token_ids": None,
            "prompt_loss_weight": 0.0,
        }
        for i in range(10)
    ]
    folder.mkdir(exist_ok=True)
    write(frame(tables.SFT_EXAMPLES, rows), folder / "examples.parquet", tables.SFT_EXAMPLES, {})
    settings = {
        **{"objective": "sft", "model": model, "examples": folder / "examples.parquet", "batch-size": 4, "epochs": 3},
        **{"output": folder / "model/manifest.json", "metrics": folder / "metrics.parquet"},
        **{"optimizer.learning-rate": 1e-3, "optimizer.warmup-steps": 2, "checkpoint-every-steps": 2, **changes},
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]
