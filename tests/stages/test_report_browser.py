"""The report in a real browser, Chromium, where one is installed (`apt-get install chromium`); elsewhere skipped."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import synthetic_rules as made

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HARM = "document.title='harm'"
ATTACKS = (
    f"<script>{HARM}</script>",
    f'<img src=x onerror="{HARM}">',
    f'<svg onload="{HARM}"></svg>',
    f'<iframe srcdoc="<script>parent.{HARM}</script>"></iframe>',
    f'<details open ontoggle="{HARM}"></details>',
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")]


@pytest.fixture
def opened(tmp_path: Path, html: str):
    """What the page is once its script has run, opened from disk at an address within it, possibly changed before."""

    def opened(address: str = "", page: str = html) -> str:
        file = tmp_path / "report.html"
        file.write_text(page, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [BROWSER, *flags, "--virtual-time-budget=5000", "--dump-dom", f"{file.as_uri()}#{address}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return opened


def shown(dom: str) -> str:
    """What the browser of prompts shows."""
    return dom.partition('<div id="view"')[2].partition("</main>")[0]


def test_hostile_samples_are_shown_as_text(opened) -> None:
    dom = opened(f"1/{made.prompt_key(1, 0)}")
    assert made.prompt_key(1, 0) in shown(dom)
    assert "&lt;/script&gt;&lt;img src=x" in shown(dom), "which is how text is written down"
    assert "<img" not in dom
    assert "<title>Run &lt;/script&gt;" in dom, "not `pwned`"


def test_an_address_opens_at_its_prompt(opened) -> None:
    key = made.prompt_key(3, 5)
    dom = opened(f"3/{key}")
    assert f'href="#3/{key}"' in shown(dom)
    assert "Answer 3 to question 5 of iteration 3." in shown(dom)
    assert "Answer 3 to question 5 of iteration 3." not in shown(opened())


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_policy_holds_where_escaping_would_fail(opened, html: str, attack: str) -> None:
    """Markup put into the page itself runs nothing; without the policy it does, or this test would show nothing."""
    attacked = html.replace("<main>", f"<main>{attack}", 1)
    assert "<title>harm</title>" not in opened(page=attacked)
    without = re.sub('<meta http-equiv="Content-Security-Policy".*?>', "", attacked)
    assert "<title>harm</title>" in opened(page=without)
