"""What MkDocs is to do beyond `docs/`: take in the pages that lie beside the code, and mend links for it.

A link of a page leads to where the file is in the repository, so that it works in a clone. In the site it leads to the
page that was made of the file; a file that is no page is named, without a link.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "overview.md",
    "config/README.md": "config.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/smollm2/README.md": "examples/smollm2.md",
    "examples/tinyworld/README.md": "examples/tinyworld.md",
}
"""Pages elsewhere in the repository, and what they are called in the site."""
NAMES = {site: source for source, site in OUTSIDE.items()}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)|!\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """The pages of `docs/`, and those outside."""
    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return in_site(markdown, page.file.src_uri)


def in_site(markdown: str, name: str) -> str:
    """The text of a page of the site with the links that it needs there."""
    folder = posixpath.dirname(NAMES.get(name, f"docs/{name}"))

    def mended(link: re.Match[str]) -> str:
        text, target, anchor, caption, image = link.groups()
        if "://" in (target or image):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target or image))
        found = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if found is None:
            return text if text else link[0]
        inside = posixpath.relpath(found, posixpath.dirname(name) or ".")
        return f"![{caption}]({inside})" if image else f"[{text}]({inside}{anchor or ''})"

    return LINK.sub(mended, markdown)
