"""The report of the made-up run: how it is written, and what a browser would see of it."""

import gzip
import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import polars as pl

from stages import report
from stages.contracts.artifacts import read
from tests.support import synthetic_rules as made

CONFIGURED: dict[str, Any] = {
    "iterations": 3, "meta_iterations": list(made.META_JUDGED), "create_iterations": [made.CREATING], "eft": True,
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of the data island."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.drawings = [fromstring(svg) for svg in re.findall("<svg.*?</svg>", text)]
        self.feed(text)
        self.data = json.loads(gzip.decompress(b64decode(self.texts["data"][0])))

    def marks(self, title: str) -> dict[str, str]:
        """What the marks of a chart tell: `kept, iteration 2` and its number as text."""
        (drawing,) = [svg for svg in self.drawings if svg.get("aria-label") == f"Chart: {title}"]
        told = [mark.text or "" for mark in drawing.iter("title")]
        return dict(re.fullmatch("(.+): (.+)", text).groups() for text in told)  # type: ignore[union-attr,misc]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        self.texts.setdefault(attributes.get("id") or tag, []).append(data)


def write_page(run_directory: Path, output: Path) -> None:
    report.main(report.Args(run=run_directory, **CONFIGURED, output=output, title=f"Run {made.SCRIPT}"))


def table(run_directory: Path, iteration: int, name: str, kind: Any) -> pl.DataFrame:
    return read(run_directory / f"iter-{iteration}" / name, kind)
