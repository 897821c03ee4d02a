"""The documentation as a site: all pages, no dead link, nothing from elsewhere."""

import logging
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("mkdocs", reason="the site needs MkDocs (extra `dev`)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode: what it warns of (a dead link, a page that is nowhere) is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_every_page_is_in_it(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    outside = {"overview.html", "config.html", "contributing.html", "changelog.html", "examples/smollm2.html"}
    found = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert {str(page) for page in pages} - {"README.html"} | outside | {"index.html"} <= found


def test_links_lead_to_what_the_repository_s_files_became(site: Path) -> None:
    page = (site / "overview.html").read_text(encoding="utf-8")
    for target in ("how-it-works.html", "config.html", "examples/smollm2.html", "evidence/tinyworld.html"):
        assert f'href="{target}"' in page
    assert 'src="evidence/tinyworld.svg"' in page
    assert (site / "evidence/tinyworld.svg").exists()
    assert 'href="../decisions.html#evidence-and-the-demo"' in (site / "examples/smollm2.html").read_text(
        encoding="utf-8"
    )
    assert 'href="workflow/rules' not in page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text("utf-8"))
        assert loaded == [], page
