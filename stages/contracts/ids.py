"""Identity keys and seeds: both are pure functions of content, never of order, shard or process."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

Message = dict[str, str]
"""A chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


# One encoder for all calls: json.dumps with options builds a new one each time, and draws need many digests.
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(*parts: object, length: int = 16) -> str:
    """Hex digest of a sequence of JSON-serialisable parts; `length` hex characters (4 bits each)."""
    payload = _ENCODER.encode(parts)
    return hashlib.sha256(payload.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def prompt_id(messages: Sequence[Message]) -> str:
    """Key of a conversation: the same turns give the same id, whatever surrounds their text as whitespace."""
    return digest([[m["role"], m["content"].strip()] for m in messages])


def folded(text: str) -> str:
    """A text without what makes no other prompt of it: the spelling of combined characters, case, white space, and
    signs without width."""
    composed = unicodedata.normalize("NFC", text)
    visible = (
        "".join(sign for sign in composed if unicodedata.category(sign) != "Cf") if not composed.isascii() else text
    )
    return " ".join(unicodedata.normalize("NFC", visible.casefold()).split())


def near_key(messages: Sequence[Message]) -> str:
    """What near twins among conversations have in common: they are one prompt to whoever keeps prompts apart."""
    return digest([[m["role"], folded(m["content"])] for m in messages])


def candidate_id(prompt: str, iteration: int, sample: int) -> str:
    """Key of one sampled response."""
    return f"{prompt}-{iteration}-{sample}"


def judgement_id(candidate: str, vote: int) -> str:
    """Key of one judgement of a candidate."""
    return f"{candidate}-v{vote}"


class Seeds(NamedTuple):
    """All chance of one iteration of a run: the run's seed, and the iteration (0: before the loop)."""

    run: int
    iteration: int

    def of(self, purpose: str, *keys: object) -> int:
        """Seed in [0, 2**63) of a purpose and a key: depends on these, the run's seed and the iteration alone."""
        return int(digest("seed", self.run, self.iteration, purpose, *keys), 16) >> 1


def shard_of(prompt: str, shards: int) -> int:
    """Shard in [0, shards) that works on a prompt; `prompt` is a `prompt_id`."""
    return int(prompt, 16) % shards


def split_position(prompt: str, split: str = "split") -> float:
    """Where a prompt stands in [0, 1) when prompts are split into train and held-out ones: its id alone decides.

    Positions in splits of another name are independent: a split of a split needs a name of its own.
    """
    return int(digest(split, prompt), 16) / 16**16
