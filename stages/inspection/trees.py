"""Documents of `trace` and `why` as trees for people."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from stages.inspection.plain import cut, number
from stages.inspection.run_folder import EFT

Document = dict[str, Any]
Row = dict[str, Any]


class _Painter:
    """Lines of the tree; of texts at most `limit` characters, None for all."""

    def __init__(self, limit: int | None):
        self._limit = limit

    def line(self, name: str, facts: str = "", text: str | None = None) -> Text:
        """A name, what is known of it, and a text."""
        shown = "" if text is None else f"   {cut(text, self._limit)}"
        return Text.assemble((name, "bold"), f"   {facts}" if facts else "", (shown, "green"))

    def turns(self, node: Tree, turns: list[Row]) -> None:
        for turn in turns:
            node.add(self.line(turn["role"], "", turn["content"]))

    def candidate(self, node: Tree, row: Row) -> None:
        score, facts = row["score"], _facts(row, "rank", "quality", "tokens", "finish_reason", "logprob", "twin_of")
        known = f"score {number(score['score'])} ({score['status']})" if score else "no score yet"
        branch = node.add(self.line(row["candidate_id"], f"{known}, {facts}", row["text"]))
        for check in row["verifications"]:
            outcome = "passed" if check["passed"] else f"failed {check['detail'] or ''}".strip()
            branch.add(self.line(f"check {check['check']}", f"{check['instruction']}: {outcome}"))
        for vote in row["votes"]:
            branch.add(self.line(f"vote {vote['vote']}", _vote(vote), vote["text"]))
        for one in row["comparisons"]:
            winner = one.get("winner") or one.get("parse_status") or "not read yet"
            branch.add(self.line(f"comparison {one['vote_a']} : {one['vote_b']}", f"winner: {winner}", one["text"]))

    def pair(self, node: Tree, row: Row) -> None:
        branch = node.add(self.line(row["pair_id"], _training(row["training"])))
        for side in ("chosen", "rejected"):
            vote = row[f"{side}_vote"]
            member = row[f"{side}_candidate_id"] + ("" if vote is None else f", vote {vote}")
            facts = [member] if row[f"score_{side}"] is None else [member, f"score {number(row[f'score_{side}'])}"]
            if reference := row["reference"]:
                facts.append(f"reference logprob {number(reference[f'{side}_logprob'])}")
            branch.add(self.line(side, ", ".join(facts), row[side][-1]["content"]))


def lineage_page(document: Document, limit: int | None) -> RenderableType:
    """Tree of a prompt's, a candidate's or a pair's lineage."""
    paint, prompt = _Painter(limit), document["prompt"]
    tree = Tree(paint.line(prompt["prompt_id"], _source(prompt)))
    paint.turns(tree, prompt["messages"])
    for one in document["iterations"]:
        node = tree.add(paint.line("EFT" if one["iteration"] == EFT else f"iteration {one['iteration']}"))
        for row in one["candidates"]:
            paint.candidate(node, row)
        for row in one["pairs"]:
            paint.pair(node, row)
        for row in one["ledger"]:
            of = f" of {row['candidate_id']}" if row["candidate_id"] else ""
            node.add(paint.line(f"no {row['kind']} pair{of}", f"{row['reason']}: {row['detail']}"))
    for row in document["evaluations"]:
        facts = _facts(row, "quality", "tokens", "finish_reason")
        tree.add(paint.line(f"model {row['model']}, {row['decoding']} {row['sample']}", facts, row["text"]))
    return tree


def reasons_page(document: Document, limit: int | None) -> RenderableType:
    """What became of a prompt, a line for each iteration and kind."""
    paint, prompt = _Painter(limit), document["prompt"]
    tree = Tree(paint.line(prompt["prompt_id"], _source(prompt)))
    paint.turns(tree, prompt["messages"][-1:])
    for row in document["answers"]:
        name = "the loop" if row["iteration"] is None else f"iteration {row['iteration']}"
        tree.add(paint.line(f"{name}, {row['pair_kind']}" if row["pair_kind"] else name, row["words"]))
    return tree


def _source(prompt: Row) -> str:
    return f"{prompt['source']} row {prompt['row']}, split {prompt['split']}; in {', '.join(prompt['places'])}"


def _facts(row: Row, *names: str) -> str:
    """`tokens 21, finish_reason stop`: what is known of some columns."""
    known = ((name, row.get(name)) for name in names)
    return ", ".join(f"{name} {number(v) if isinstance(v, float) else v}" for name, v in known if v is not None)


def _vote(row: Row) -> str:
    score = row["parse_status"] or "not parsed yet" if row["score"] is None else f"score {number(row['score'])}"
    facts = [score, *([] if row["judge"] == "policy" else [row["judge"]])]
    if rating := row["rating"]:
        won, lost = number(rating["wins"]), number(rating["losses"])
        facts.append(f"rating {number(rating['rating'])} ({won} won, {lost} lost)")
    if dropped := row["left_out"]:
        facts.append(f"not trained on: {dropped['reason']}, {dropped['detail']}")
    return ", ".join(facts)


def _training(use: Row) -> str:
    words = {"trained": "trained on", "not_yet": "training has not ended yet"}
    return words.get(use["status"]) or f"not trained on: {use['reason']}, {use['detail']}"
