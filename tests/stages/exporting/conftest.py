"""What is exported."""

from pathlib import Path

import pytest

from stages.contracts.artifacts import write
from stages.contracts.schema import frame
from stages.tables import SFT_EXAMPLES
from tests.support.exports import CHOSEN, PROMPTS, SINGLE, SYSTEM, pair_row, write_pairs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two iterations with pairs, and of one that has none yet."""
    write_pairs(tmp_path / "run/iter-1/pairs.parquet", [pair_row(*row) for row in PROMPTS.items()])
    write_pairs(tmp_path / "run/iter-2/pairs.parquet", [pair_row("actor-2-single-0", SINGLE)])
    (tmp_path / "run/iter-3").mkdir()
    return tmp_path / "run"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Supervised examples: a judgement, a chat with a system turn, and one whose prompt is to be learnt, too."""
    rows = [
        {"example_id": "eft-1", "messages": [*SINGLE, *CHOSEN], "prompt_loss_weight": 0.0},
        {"example_id": "ift-1", "messages": [*SYSTEM, *CHOSEN], "prompt_loss_weight": 0.0},
        {"example_id": "ift-2", "messages": [*SINGLE, *CHOSEN], "prompt_loss_weight": 0.5},
    ]
    write(frame(SFT_EXAMPLES, rows), tmp_path / "examples.parquet", SFT_EXAMPLES, {})
    return tmp_path / "examples.parquet"
