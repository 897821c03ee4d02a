"""Made-up tables of one Meta-Rewarding iteration, in the shapes and sizes of the real ones: same seed, same rows.

5,000 prompts, 7 candidates each, 11 judgements of each candidate, and 55 pairs of one candidate's judgements in both
orders: 35,000 candidates, 385,000 judgements, 550,000 verdicts. Text is made of frequent and rare invented words, so
that it is about as long, and packs about as well, as what models write.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages import tables
from stages.contracts.artifacts import Writer, write
from stages.contracts.ids import candidate_id, prompt_id, shard_of
from stages.contracts.schema import Table, frame

SAMPLES, VOTES, SHARDS, BLOCK = 7, 11, 4, 250
RUBRIC, PROMPT, RESPONSE, JUDGEMENT = 300, 40, 250, 119
"""Mean lengths in words; a word is a token here."""
END = 2
"""Id of the stop token."""
NO_VERDICT = "I would rather not give a number."
VERDICTS = ("Score: {}", "**Score:** {}", "Score: {}/5", "Score: <{}>", "Score: {}.")
WINNERS = ("Winner: Judgement {}", "Winner: [Judgment {}].", "**Winner:** Judgement {}")


@dataclass(frozen=True)
class Files:
    """Where the tables of an iteration are."""

    folder: Path

    def of(self, table: Table) -> list[Path]:
        """The shards of a table."""
        return [self.folder / f"{table.name}-{shard}.parquet" for shard in range(SHARDS)]

    @property
    def prompts(self) -> Path:
        return self.folder / "prompts.parquet"


def make(folder: Path, prompts: int, seed: int, compared: bool) -> Files:
    """Write all input tables of the iteration below `folder`; verdicts and candidates only if `compared`."""
    files, words = Files(folder), vocabulary(seed)
    messages = {prompt_id(turns): turns for turns in conversations(words, prompts, seed)}
    ids = sorted(messages)
    rows = [
        {"prompt_id": key, "messages": messages[key], "split": "train", "source": "made", "row": number}
        for number, key in enumerate(ids, start=1)
    ]
    write(frame(tables.PROMPTS, rows), files.prompts, tables.PROMPTS, {})
    of_judge = [tables.JUDGE_PROMPTS, tables.JUDGEMENTS]
    of_actor = [tables.CANDIDATE_PROMPTS, tables.CANDIDATES, tables.VERDICTS] if compared else []
    for shard in range(SHARDS):
        mine = [key for key in ids if shard_of(key, SHARDS) == shard]
        with ExitStack() as stack:
            out = {t.name: stack.enter_context(Writer(files.of(t)[shard], t, {})) for t in of_judge + of_actor}
            for start in range(0, len(mine), BLOCK):
                maker = Maker(np.random.default_rng([seed, shard, start]), words)
                keys = mine[start : start + BLOCK]
                for name, part in maker.block({key: messages[key] for key in keys}, compared):
                    out[name].write(part)
    return files


def vocabulary(seed: int) -> pl.Series:
    """20,000 words, the frequent ones (first) short."""
    rng = np.random.default_rng(seed)
    lengths = 2 + rng.poisson(np.linspace(0.9, 4.5, 20_000))
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    return pl.Series(["".join(rng.choice(letters, size)) for size in lengths])


def conversations(words: pl.Series, count: int, seed: int) -> list[list[dict[str, str]]]:
    """One user turn each, all different."""
    text = Maker(np.random.default_rng([seed, 1]), words).passages(count, PROMPT)["text"]
    return [[{"role": "user", "content": f"{number}: {turn}"}] for number, turn in enumerate(text)]


class Maker:
    """Makes the rows of some prompts."""

    def __init__(self, rng: np.random.Generator, words: pl.Series) -> None:
        self.rng, self.words = rng, words

    def block(self, messages: dict[str, Any], compared: bool) -> Iterator[tuple[str, pl.DataFrame]]:
        """(table name, rows) for these prompts."""
        prompts = pl.DataFrame({"prompt_id": list(messages)})
        keys = pl.DataFrame(
            [(key, candidate_id(key, 1, sample), sample) for key in messages for sample in range(SAMPLES)],
            schema=["prompt_id", "candidate_id", "sample"],
            orient="row",
        )
        quality = np.clip(self.rng.normal(3, 0.8, keys.height), 0, 5)
        yield tables.JUDGE_PROMPTS.name, self.inputs(keys, RUBRIC + PROMPT + RESPONSE).with_columns(shortened=False)
        yield tables.JUDGEMENTS.name, self.judgements(keys, quality)
        if compared:
            yield tables.CANDIDATE_PROMPTS.name, self.inputs(prompts, PROMPT)
            yield tables.CANDIDATES.name, self.completions(keys.with_columns(iteration=1), RESPONSE, None)
            yield tables.VERDICTS.name, self.verdicts(keys.filter(pl.col("sample") == 0))

    def inputs(self, keys: pl.DataFrame, length: int) -> pl.DataFrame:
        """Model inputs: one user turn and its tokens."""
        made = self.passages(keys.height, length)
        turn = pl.struct(pl.lit("user").alias("role"), pl.col("text").alias("content"))
        return pl.concat([keys, made], how="horizontal").with_columns(pl.concat_list(turn).alias("messages"))

    def judgements(self, keys: pl.DataFrame, quality: NDArray[np.float64]) -> pl.DataFrame:
        """Votes of every candidate; those of sample 0, which is the one compared, all have a verdict."""
        rows = keys.with_columns(quality=quality).join(pl.DataFrame({"vote": range(VOTES)}), how="cross")
        scores = np.clip(np.round(2 * (rows["quality"].to_numpy() + self.rng.normal(0, 0.7, rows.height))) / 2, 0, 5)
        forms = self.rng.integers(len(VERDICTS), size=rows.height)
        silent = (self.rng.random(rows.height) < 0.02) & (rows["sample"].to_numpy() > 0)
        said = [
            NO_VERDICT if none else VERDICTS[form].format(f"{score:g}")
            for none, form, score in zip(silent, forms, scores, strict=True)
        ]
        return self.completions(rows, JUDGEMENT, said)

    def verdicts(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Both orders of every pair of a candidate's judgements; some judgements are better, the first slot helps."""
        pairs = [pair for a, b in combinations(range(VOTES), 2) for pair in ((a, b), (b, a))]
        orders = pl.DataFrame(pairs, schema=["vote_a", "vote_b"], orient="row")
        strength = self.rng.normal(0, 1, (keys.height, VOTES))
        rows = keys.with_columns(row=pl.int_range(pl.len())).join(orders, how="cross")
        row, first, second = (rows[name].to_numpy() for name in ("row", "vote_a", "vote_b"))
        odds = strength[row, first] - strength[row, second] + 0.3
        wins = self.rng.random(rows.height) < 1 / (1 + np.exp(-odds))
        forms = self.rng.integers(len(WINNERS), size=rows.height)
        said = [WINNERS[form].format("A" if won else "B") for form, won in zip(forms, wins, strict=True)]
        return self.completions(rows, JUDGEMENT, said)

    def completions(self, keys: pl.DataFrame, length: int, said: list[str] | None) -> pl.DataFrame:
        """Completions of `length` words in the mean that end in what is `said`; 1 in 100 was cut short."""
        rows = pl.concat([keys, self.passages(keys.height, length)], how="horizontal")
        cut = (self.rng.random(rows.height) < 0.01) & (rows["sample"].to_numpy() > 0)
        if said is not None:
            rows = rows.with_columns(pl.concat_str("text", pl.lit("\n\n"), pl.Series(said)).alias("text"))
        return rows.with_columns(
            seed=pl.Series(self.rng.integers(2**62, size=rows.height)),
            tokens=pl.col("token_ids").list.len().cast(pl.Int64),
            finish_reason=pl.when(pl.Series(cut)).then(pl.lit("length")).otherwise(pl.lit("stop")),
            logprob=pl.Series(-self.rng.random(rows.height) * length),
            error=pl.lit(None, pl.String),
        )

    def passages(self, count: int, length: int) -> pl.DataFrame:
        """Columns `text` and `token_ids` of running text, half to one and a half times `length` words long."""
        longest = length + length // 2
        lengths = pl.Series("length", self.rng.integers(length // 2, longest + 1, size=count))
        ids = (len(self.words) * self.rng.random((count, longest), dtype=np.float32) ** 4).astype(np.int32)
        used = pl.DataFrame({"ids": pl.Series(ids).arr.to_list(), "length": lengths})
        used = used.select(pl.col("ids").list.head("length"))
        stop = pl.lit(END, pl.Int32)
        return used.select(text=self.spelled(used["ids"]), token_ids=pl.col("ids").list.concat(stop))

    def spelled(self, ids: pl.Series) -> pl.Series:
        """The words of lists of ids, joined by spaces."""
        flat = ids.explode()
        rows = np.repeat(np.arange(len(ids)), ids.list.len().to_numpy())
        words = pl.DataFrame({"row": rows, "word": self.words.gather(flat)})
        return words.group_by("row", maintain_order=True).agg("word")["word"].list.join(" ")
