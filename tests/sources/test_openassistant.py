"""`ranked` on trees of OpenAssistant: what is taken of a tree, and the reason for each part that is not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts.ids import candidate_id, prompt_id
from tests.support.ranked_run import EFT, IFT, TEST, Run, jsonl, message, tree
from tests.support.records import turn


def test_openassistant_seeds_eft_ift_and_the_judge_tests(tmp_path: Path) -> None:
    """The prior system had no seeding at all (D33), and its reader of these trees ignored rank, language and flags."""
    follow_up = [message("and then?", "prompter", replies=[message("deep", rank=0)])]
    trees = [
        tree(EFT(0), message("b", rank=1), message("a", rank=0, replies=follow_up), message("c", rank=2)),
        tree(TEST(0), message("worst", rank=4), message("best", rank=0)),
        tree(IFT(0), message("second", rank=1), message("first", rank=0)),
        tree(EFT(1), message("only", rank=0)),
        tree(EFT(2), message("x", rank=0), message("y", rank=1), state="aborted_low_grade"),
        tree(EFT(3), message("x", rank=0), message("y", rank=1), lang="de"),
        tree(EFT(4), message("x", rank=0), message("y", rank=1), deleted=True),
        tree(EFT(5), message("x", rank=0, deleted=True), message("y", rank=1, review_result=False),
             message("z", rank=2, lang="es"), message("w"), message("v", "prompter", rank=3), message(" ", rank=4)),
        tree(EFT(6), message("x", rank=0, deleted=True), message("y", rank=1)),
        tree(EFT(7), message("x", rank=1), message("y", rank=3), message("w")),
    ]  # fmt: skip
    run = Run(tmp_path, jsonl(tmp_path, *trees, name="oasst_ready.trees.jsonl.gz"))
    first, seventh = (prompt_id([turn("user", text)]) for text in (EFT(0), EFT(7)))
    assert set(run.answers["candidate_id", "text", "rank", "finish_reason", "quality"].rows()) == {
        (candidate_id(first, 0, 0), "b", 1, "stop", None),
        (candidate_id(first, 0, 1), "a", 0, "stop", None),
        (candidate_id(first, 0, 2), "c", 2, "stop", None),
        (candidate_id(seventh, 0, 0), "x", 0, "stop", None),
        (candidate_id(seventh, 0, 1), "y", 1, "stop", None),
    }
    assert run.tests["messages", "text", "rank"].rows() == [
        ([turn("user", TEST(0))], "worst", 1),
        ([turn("user", TEST(0))], "best", 0),
    ]
    assert sorted(run.ift["messages", "prompt_loss_weight"].rows(), key=str) == sorted(
        [
            ([turn("user", IFT(0)), turn("assistant", "first")], 0.0),
            ([turn("user", EFT(1)), turn("assistant", "only")], 0.0),
        ],
        key=str,
    )
    assert [run.reasons(row) for row in range(1, 11)] == [
        {},
        {},
        {"not_best": "prompt.replies.0: IFT takes the best answer alone"},
        {},
        {"not_ready": "tree_state is aborted_low_grade"},
        {"language": "prompt: lang is de, not en"},
        {"deleted": "prompt: deleted"},
        {
            "deleted": "prompt.replies.0: deleted",
            "failed_review": "prompt.replies.1: review_result is false",
            "language": "prompt.replies.2: lang is es, not en",
            "unranked": "prompt.replies.3: no rank",
            "role": "prompt.replies.4: role is prompter, not assistant",
            "empty": "prompt.replies.5: no text",
            "no_answers": "no usable answer is left",
        },
        {"deleted": "prompt.replies.0: deleted", "no_best": "the answer that people ranked best cannot be used"},
        {"unranked": "prompt.replies.2: no rank"},
    ]


def test_another_language_is_taken_when_asked_for(tmp_path: Path) -> None:
    german = tree(EFT(0), message("a", rank=0, lang="de"), message("b", rank=1, lang="de"), lang="de")
    run = Run(tmp_path, jsonl(tmp_path, german, tree(EFT(1))), language="de", test_fraction=0, ift_fraction=0)
    assert set(run.answers["text"]) == {"a", "b"}
    assert run.reasons(2) == {"language": "prompt: lang is en, not de"}


def test_a_tree_in_parquet_is_a_tree(tmp_path: Path) -> None:
    table = tmp_path / "trees.parquet"
    trees = [tree(EFT(number), message("a", rank=0), message("b", rank=1)) for number in range(2)]
    for record in trees:
        for node in [record["prompt"], *record["prompt"]["replies"]]:
            del node["labels"]  # Parquet has no struct without fields
    pq.write_table(pa.Table.from_pylist(trees), table)
    assert Run(tmp_path, table, test_fraction=0, ift_fraction=0).answers.height == 4
