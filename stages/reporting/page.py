"""The page: one HTML file that holds its data, charts and script, and asks nothing of the network."""

import gzip
import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.reporting.svg import colour, svg

FOLDER = Path(__file__).parent


def render(data: object, **values: Any) -> str:
    """The page; everything but our own script, style sheet and drawings is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (Markup((FOLDER / f"page.{kind}").read_text(encoding="utf-8")) for kind in ("js", "css"))
    environment.filters["anchor"] = lambda name: re.sub(r"\W+", "-", name.lower()).strip("-")
    own = {"script": script, "style": style, "policy": policy(script, style), "colour": colour}
    drawing = {"draw": lambda chart: Markup(svg(chart.figure, chart.title))}
    return environment.get_template("page.html.jinja").render(**values, **own, **drawing, data=packed(data))


def policy(script: str, style: str) -> str:
    """The Content-Security-Policy: nothing is fetched, and no script or style counts but those whose hash is here."""
    sources = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    for kind, text in (("script-src", script), ("style-src", style)):
        sources[kind] = f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    return "; ".join(f"{kind} {source}" for kind, source in sources.items())


def packed(data: object) -> str:
    """JSON in gzip in base64, the same for the same data: a fraction of the size, and no sign that markup is made
    of."""
    return b64encode(gzip.compress(as_json(data), mtime=0)).decode()


def as_json(data: object) -> bytes:
    """JSON in UTF-8, without spaces."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
