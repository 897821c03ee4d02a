"""The page: one HTML file that holds its data, charts and script, and asks nothing of the network."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from stages.contracts.ids import digest

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def render(data: object, **values: Any) -> str:
    """The page; everything but our own script and plotly's is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    payload = embedded(data)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**values, data=payload, nonce=digest(payload), plotly=Markup(get_plotlyjs()))


def embedded(data: object) -> Markup:
    """JSON that is safe inside a script element: no character of it can end the element or start a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}))
