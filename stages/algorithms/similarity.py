"""How alike texts are, and the greedy filters that let no text too like a kept one pass.

ROUGE-L is the F1 of the longest common subsequence (LCS) of words (Lin 2004), with which Self-Instruct filters its
prompts: 2 LCS / (m + n) for texts of m and n words. Near duplicates share word shingles (Broder 1997), whatever their
order. A filter compares each new text with the given ones and with the new ones it kept before.

Both are exact, without comparing all pairs. What two texts have in common, in whatever order, bounds their LCS. So two
texts that are alike share one of their rarest words: each text is looked up by its few rarest words only (prefix
filter: Chaudhuri et al. 2006; bound on the rest: Xiao et al. 2008, PPJoin). Few pairs are left to be measured. Unlike
MinHash, which guesses the same pairs, this misses none and draws nothing.
"""

import unicodedata
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl
import regex
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist
from scipy.sparse import csr_array

SHINGLE = 3
"""Words in a shingle."""
BLOCK = 256
"""New texts that are looked up together: bounds the memory, changes no result."""

Numbers: TypeAlias = NDArray[np.int64]
Measure: TypeAlias = Callable[[Any, Any], Any]
"""Similarity from what two sets have in common and from the sum of their sizes; grows with the first."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+")


class Match(NamedTuple):
    """The kept text that a new one is most like: its number (given texts first, then new ones), and the similarity."""

    other: int
    value: float


class _Index(NamedTuple):
    """Texts as sets of tokens.

    `sizes` counts each text's tokens; `shared` has a row per text and a column per token that several texts have, the
    rarest first.
    """

    sizes: Numbers
    shared: csr_array


def words(text: str) -> list[str]:
    """The words of a text, case and width folded: runs of letters and digits; in scripts that set no spaces between
    words, single characters. On English text these are the words of the `rouge_score` package without its stemmer,
    which ends a word at any character beyond ASCII."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F1 of two texts, in [0, 1]; 0 if one has no words."""
    one, two = words(first), words(second)
    return dice(LCSseq.similarity(one, two), len(one) + len(two)) if one and two else 0.0


def dice(common: Any, total: Any) -> Any:
    """Dice coefficient; of an LCS, the F1 of ROUGE-L."""
    return 2 * common / total


def jaccard(common: Any, total: Any) -> Any:
    """Jaccard coefficient: the intersection's share of the union."""
    return common / (total - common)


def shingles(text: str) -> list[str]:
    """The distinct runs of SHINGLE words of a text, in order; all its words as one where there are fewer."""
    found = words(text)
    starts = range(max(1, len(found) - SHINGLE + 1)) if found else []
    return list(dict.fromkeys(" ".join(found[start : start + SHINGLE]) for start in starts))


def similar(given: Sequence[str], new: Sequence[str], limit: float) -> dict[int, Match]:
    """The new texts (by number in `new`) with a ROUGE-L F1 over `limit` to a given text or to an earlier new one that
    is not among them, each with its nearest."""
    documents = [words(text) for text in (*given, *new)]
    index = _index(documents)
    numbers = {word: number for number, word in enumerate(dict.fromkeys(chain.from_iterable(documents)))}
    sequences = [array("I", [numbers[word] for word in document]) for document in documents]

    def common(rows: Numbers, columns: Numbers) -> Numbers:
        pairs = [sequences[row] for row in rows], [sequences[column] for column in columns]
        return np.asarray(cpdist(*pairs, scorer=LCSseq.similarity, dtype=np.int64))

    return _greedy(index, len(given), dice, limit, common)


def near_duplicates(given: Sequence[str], new: Sequence[str], limit: float) -> dict[int, Match]:
    """The new texts (by number in `new`) whose shingles have a Jaccard similarity over `limit` to those of a given text
    or of an earlier new one that is not among them, each with its nearest."""
    index = _index([shingles(text) for text in (*given, *new)])

    def common(rows: Numbers, columns: Numbers) -> Numbers:
        return np.asarray(index.shared[rows].multiply(index.shared[columns]).sum(axis=1), dtype=np.int64)

    return _greedy(index, len(given), jaccard, limit, common)


def _greedy(
    index: _Index, given: int, measure: Measure, limit: float, common: Callable[[Numbers, Numbers], Numbers]
) -> dict[int, Match]:
    """Drop, in order, each text from number `given` on that is over `limit` to one that is kept."""
    kept = np.ones(len(index.sizes), dtype=bool)
    prefixes, rest = _prefixes(index, measure, limit)
    dropped: dict[int, Match] = {}
    for start in range(given, len(kept), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(kept)))
        others = np.concatenate([np.flatnonzero(kept[:start]), block])
        rows, columns = _candidates(index.sizes, prefixes, rest, block, others, measure, limit)
        values = measure(common(rows, columns), index.sizes[rows] + index.sizes[columns])
        over = values > limit
        # By row, the nearest first, the earlier first of equally near ones.
        order = np.lexsort((columns[over], -values[over], rows[over]))
        for row, column, value in zip(*(x[over][order].tolist() for x in (rows, columns, values)), strict=True):
            if kept[row] and kept[column]:
                kept[row] = False
                dropped[row - given] = Match(column, value)
    return dropped


def _candidates(
    sizes: Numbers, prefixes: csr_array, rest: Numbers, block: Numbers, others: Numbers, measure: Measure, limit: float
) -> tuple[Numbers, Numbers]:
    """Pairs (a text of the block, an earlier one of the others) that may be over the limit; no such pair is missing."""
    product = (prefixes[block] @ prefixes[others].T).tocoo()
    rows, columns = block[product.coords[0]], others[product.coords[1]]
    # Whose prefix ends first, has all that it shares by then in the other's prefix; after it, the rest at most.
    most = product.data + np.maximum(rest[rows], rest[columns])
    most = np.minimum(most, np.minimum(sizes[rows], sizes[columns]))
    hopeful = (columns < rows) & (measure(most, sizes[rows] + sizes[columns]) > limit)
    return rows[hopeful], columns[hopeful]


def _prefixes(index: _Index, measure: Measure, limit: float) -> tuple[csr_array, Numbers]:
    """Each text's rarest tokens, one of which it shares with every text over the limit; and how many it has besides."""
    sizes, shared = index
    needed = {int(size): _needed(int(size), measure, limit) for size in np.unique(sizes)}
    rest = np.array([needed[int(size)] - 1 for size in sizes], dtype=np.int64)
    held = np.diff(shared.indptr)
    # The tokens that no other text has are the rarest; they stand first and are not in the matrix.
    length = np.clip(held - rest, 0, None)
    place = np.arange(shared.nnz) - np.repeat(shared.indptr[:-1], held)
    taken = place < np.repeat(length, held)
    starts = np.concatenate([[0], np.cumsum(length)])
    return csr_array((shared.data[taken], shared.indices[taken], starts), shape=shared.shape), rest


def _needed(size: int, measure: Measure, limit: float) -> int:
    """The fewest tokens that a text of `size` must share with any other to be over the limit; more than it has if it
    never is. The other has at least those tokens; having no more is best."""
    common = np.arange(1, size + 1)
    reached = np.flatnonzero(measure(common, size + common) > limit)
    return int(common[reached[0]]) if len(reached) else size + 1


def _index(documents: Sequence[Sequence[str]]) -> _Index:
    """Count a word that a text has k times as k tokens: what two texts share is then a set intersection."""
    sizes = np.array([len(document) for document in documents], dtype=np.int64)
    data = pl.DataFrame(
        {"text": np.repeat(np.arange(len(sizes)), sizes), "word": list(chain.from_iterable(documents))},
        schema={"text": pl.Int64, "word": pl.String},
    ).with_columns(copy=pl.int_range(pl.len()).over("text", "word"))
    tokens = data.group_by("word", "copy").len().filter(pl.col("len") > 1).sort("len", "word", "copy")
    held = data.join(tokens.with_row_index("token"), on=["word", "copy"]).sort("text", "token")
    starts = np.concatenate([[0], np.cumsum(np.bincount(held["text"], minlength=len(sizes)))])
    ones = np.ones(held.height, dtype=np.int32)
    return _Index(sizes, csr_array((ones, held["token"].to_numpy(), starts), shape=(len(sizes), tokens.height)))
