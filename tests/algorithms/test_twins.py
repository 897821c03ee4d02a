"""Equal candidates of a prompt, whatever their order."""

import unicodedata
from itertools import combinations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.twins import join_twins, mark_twins

TEXTS = st.lists(st.sampled_from(["yes", " yes", "café", "cafe\u0301", "no", "", "\u3000no"]), min_size=1, max_size=8)


def candidates(texts: list[str]) -> pl.DataFrame:
    """Candidates of one prompt; scores count up from 0, every third one failed."""
    rows = [
        {"prompt_id": "p", "candidate_id": f"p-1-{i}", "text": text, "score": float(i), "variance": None,
         "valid_votes": 1, "finish_reason": "error" if i % 3 == 2 else "stop"}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"variance": pl.Float64})


def same(one: str, other: str) -> bool:
    return unicodedata.normalize("NFC", one).strip() == unicodedata.normalize("NFC", other).strip()


@given(TEXTS, st.randoms())
def test_every_text_is_there_once_with_the_mean_of_its_scores(texts: list[str], random) -> None:
    data = candidates(texts)
    shuffled = data.sample(fraction=1, shuffle=True, seed=random.randrange(99))
    found = join_twins(shuffled).sort("candidate_id")
    assert found.equals(join_twins(data).sort("candidate_id"))
    assert not any(same(one, other) for one, other in combinations(found["text"], 2))
    for text, score, votes in found.select("text", "score", "valid_votes").iter_rows():
        scores = [float(i) for i, other in enumerate(texts) if same(text, other)]
        assert (score, votes) == (round(sum(scores) / len(scores), 9), len(scores))


@given(TEXTS)
def test_all_rows_stay_and_each_names_its_first_twin(texts: list[str]) -> None:
    marked = mark_twins(candidates(texts))
    assert marked.drop("twin_of").equals(candidates(texts))
    for i, twin in enumerate(marked["twin_of"]):
        sound = [f"p-1-{j}" for j, other in enumerate(texts) if j % 3 != 2 and same(texts[i], other)]
        first = None if i % 3 == 2 or sound[0] == f"p-1-{i}" else sound[0]
        assert twin == first
