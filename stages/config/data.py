"""Settings of the run as a whole and of its prompts."""

from pathlib import Path

from pydantic import Field, PositiveInt, model_validator

from stages.config.base import Gate, Schedule, Section, Share, Speed
from stages.config.generation import Sampling


class RowSettings(Section):
    """What is done about rows that cannot be used: they are in the ledger with their reasons."""

    max_bad_rows: Gate[Share] = Field(0.01, description="The stage fails when a larger share of the rows is unusable.")
    strict: Gate[bool] = Field(False, description="The stage fails at the first row that is unusable.")


class RunSection(Section):
    """The run as a whole."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder of this run in `results`.")
    results: Path = Field(Path("results"), description="Where runs are kept.")
    seed: int = Field(0, ge=0, description="Every seed of the run derives from this one.")
    iterations: int = Field(3, ge=1, description="Iterations T: model 1 to model T are trained.")
    shards: Speed[int] = Field(
        2,
        ge=1,
        le=1000,
        description="Pieces of generation; change speed, never seeds. An iteration keeps those that it began with.",
    )
    model: Path = Field(description="Hugging Face directory of the base model: model 0, or what EFT makes model 0 of.")


class IngestSection(RowSettings):
    """Conversations in, prompts out."""

    sources: list[Path] = Field(
        min_length=1, description="Chat data (docs/data.md): `.jsonl`, `.jsonl.gz`, `.json` or `.parquet`."
    )
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="Share of prompts held out, by hash of the prompt.")
    max_prompt_characters: int | None = Field(None, ge=1, description="Longer conversations are dropped (`overlong`).")


class SelectSection(Section):
    """The iteration's prompts."""

    prompts: Schedule[PositiveInt] = Field(5000, description="Prompts per iteration (schedule).")
    reuse: bool = Field(False, description="Whether a prompt may serve in more than one iteration.")


class CreateSettings(Section):
    """How a model writes prompts, and which of them are kept."""

    enabled: Schedule[bool] = Field(False, description="Whether the iteration creates prompts (schedule).")
    count: Schedule[PositiveInt] = Field(1000, description="Prompts to ask for, before the filters (schedule).")
    template: Path = Field(Path("prompts/self_instruct.jinja"), description="Jinja2 template; sees `examples`.")
    sampling: Sampling = Field(Sampling(temperature=0.6, top_p=0.9, max_tokens=256), description="Sampling.")
    pool_shots: int = Field(6, ge=1, description="Examples from the IFT prompts, or from the pool if there is no IFT.")
    created_shots: int = Field(
        2, ge=0, description="Examples from prompts that earlier iterations created; missing ones come from the pool."
    )
    max_similarity: Share = Field(0.7, description="Largest ROUGE-L similarity to any other prompt.")
    near_duplicate: Share = Field(0.9, description="Largest Jaccard similarity of the word triples.")
    min_characters: int = Field(8, ge=1, description="Shorter prompts are dropped.")
    max_characters: int = Field(2000, ge=1, description="Longer prompts are dropped.")
    keywords: list[str] = Field(
        [
            "image",
            "images",
            "graph",
            "graphs",
            "picture",
            "pictures",
            "file",
            "files",
            "map",
            "maps",
            "draw",
            "plot",
            "go to",
        ],
        description="Prompts with one of these words are dropped: a text model cannot follow them.",
    )

    @model_validator(mode="after")
    def _lengths(self) -> "CreateSettings":
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"create.min_characters ({self.min_characters}) is above max_characters ({self.max_characters})"
            )
        return self
