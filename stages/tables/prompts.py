"""Tables of prompts: taken in, created, selected."""

from stages.contracts.schema import Table
from stages.tables import columns

PROMPTS = Table(
    "prompts",
    "a conversation that ends in a user turn, to be answered",
    ("prompt_id",),
    {
        **columns.PROMPT,
        "messages": ("messages", "The turns; the last one is the user's."),
        "answer": ("str?", "The data set's own answer to the last turn, where it has one."),
        "split": ("str", "`train` or `validation`."),
        "checks": ("str?", "Checkable instructions (JSON: a list of `id` and `arguments`), where it carries any."),
        "sampling_hint": (
            "str?",
            "Added to the last turn for some of the samples (`candidates.hinted`); left out where they are trained on.",
        ),
        "source": ("str", "File that the prompt came from, or the file of creations."),
        "row": ("int", "Row in that file, counted from 1."),
    },
)
INGEST_LEDGER = Table(
    "ingest_ledger",
    "an input row that yielded no prompt, or whose checks are left out",
    ("source", "row"),
    {
        "source": ("str", "Input file."),
        "row": ("int", "Row in that file, counted from 1."),
        **columns.DROPPED,
    },
)
CREATIONS = Table(
    "creations",
    "one completion of a model that was asked for a new prompt",
    ("creation_id",),
    {
        "creation_id": ("str", "Key: `<iteration>-<number>`."),
        "shots": ("strings", "Ids of the prompts that were shown as examples, in order."),
        **columns.COMPLETION,
    },
)
CREATION_LEDGER = Table(
    "creation_ledger",
    "a creation that did not become a prompt",
    ("creation_id",),
    {"creation_id": ("str", "Key of the creation."), **columns.DROPPED},
)
