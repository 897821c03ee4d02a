"""What was kept and what was dropped beside the pairs: of the data, of EFT's judgements, of created prompts."""

import polars as pl

from stages.reporting.grids import counts
from stages.reporting.run_files import Source
from stages.tables import CREATION_LEDGER, EFT_LEDGER, INGEST_LEDGER, PROMPTS, SFT_EXAMPLES, VOTES


def pool(source: Source) -> str:
    """A sentence on the pool of prompts and the rows that did not get into it."""
    folder = source.run / "prompts"
    prompts = source.one(folder / "pool.parquet", PROMPTS, ["split"])
    dropped = source.one(folder / "ingest_ledger.parquet", INGEST_LEDGER)
    text = f"Pool: {prompts.height} prompts ({counts(prompts, 'split')}); {dropped.height} input rows dropped"
    return f"{text} ({counts(dropped, 'reason')})." if dropped.height else f"{text}."


def eft(source: Source) -> tuple[str, pl.DataFrame]:
    """A sentence on evaluation fine-tuning, and `score` and `judgements` (`all` or `kept`) of the votes that parsed;
    nothing where the run has none."""
    if not source.eft:
        return "", pl.DataFrame(schema={"score": pl.Float64, "judgements": pl.String})
    folder = source.run / "eft"
    dropped = source.one(folder / "ledger.parquet", EFT_LEDGER, ["reason"])
    examples = source.one(folder / "examples.parquet", SFT_EXAMPLES, ["example_id"])
    kept = examples.filter(pl.col("example_id").str.starts_with("eft-"))
    votes = source.one(folder / "votes.parquet", VOTES, ["candidate_id", "vote", "score"])
    known = votes.drop_nulls("score").with_columns(example_id=pl.format("eft-{}-v{}", "candidate_id", "vote"))
    parts = (("all", known), ("kept", known.join(kept, on="example_id", how="semi")))
    all_of_them = kept.height + dropped.height
    text = f"{all_of_them} judgements of ranked responses: {kept.height} kept to learn from, {dropped.height} dropped"
    text += f" ({counts(dropped, 'reason')})." if dropped.height else "."
    return text, pl.concat(rows.select("score", judgements=pl.lit(name)) for name, rows in parts)


def creations(source: Source) -> pl.DataFrame:
    """`iteration` and `outcome` of every prompt that a model wrote, in the iterations that have any."""
    dropped = source.every("creation_ledger.parquet", CREATION_LEDGER, ["reason"])
    kept = source.every("created_prompts.parquet", PROMPTS, ["prompt_id"])
    return pl.concat(
        [kept.select("iteration", outcome=pl.lit("kept")), dropped.select("iteration", outcome=pl.col("reason"))]
    )
