"""Keys and seeds depend on content alone."""

from hypothesis import given
from hypothesis import strategies as st

from stages.contracts import ids


def test_prompt_id_ignores_surrounding_whitespace_only():
    turn = {"role": "user", "content": "Sort: a, b."}
    assert ids.prompt_id([turn]) == ids.prompt_id([{"role": "user", "content": "  Sort: a, b.\n"}])
    assert ids.prompt_id([turn]) != ids.prompt_id([{"role": "user", "content": "Sort: a,  b."}])
    assert ids.prompt_id([turn]) != ids.prompt_id([{"role": "system", "content": "Sort: a, b."}])


@given(st.integers(0, 2**32), st.integers(1, 9), st.text(), st.integers(0, 20))
def test_seeds_are_63_bit_and_differ_by_every_argument(seed, iteration, key, vote):
    """D23: every rank sampled with the same seed."""
    value = ids.Seeds(seed, iteration).of("judge", key, vote)
    assert 0 <= value < 2**63
    assert value == ids.Seeds(seed, iteration).of("judge", key, vote)
    others = {
        ids.Seeds(seed + 1, iteration).of("judge", key, vote),
        ids.Seeds(seed, iteration + 1).of("judge", key, vote),
        ids.Seeds(seed, iteration).of("candidates", key, vote),
        ids.Seeds(seed, iteration).of("judge", key + "x", vote),
        ids.Seeds(seed, iteration).of("judge", key, vote + 1),
    }
    assert value not in others
    assert len(others) == 5


def test_keys_cannot_run_into_each_other():
    assert ids.Seeds(0, 1).of("s", "a", "bc") != ids.Seeds(0, 1).of("s", "ab", "c")
    assert ids.Seeds(0, 1).of("s", 1) != ids.Seeds(0, 1).of("s", "1")


@given(st.lists(st.text(max_size=20), min_size=1, max_size=50, unique=True), st.integers(1, 7))
def test_every_prompt_has_exactly_one_shard(texts, shards):
    for text in texts:
        shard = ids.shard_of(ids.digest(text), shards)
        assert 0 <= shard < shards
