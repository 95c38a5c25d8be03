"""A hook of mkdocs for what pages show of other files: diagrams, the README's pictures, and its tables."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
DIAGRAM = re.compile(r'<p><img alt="([^"]*)" src="[^"]*?(figures/\w+\.svg)" ?/?></p>')
TABLE = re.compile(r"<!-- README: (\w+) -->")
ASSETS = "assets"


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures in ``assets/``."""
    for path in sorted((ROOT / ASSETS).glob("*.png")):
        files.append(File(f"{ASSETS}/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point to the site's ``assets/`` where a page points to the repository's, and fill in the README's tables."""
    up = "../" * len(PurePosixPath(page.file.src_uri).parents)
    markdown = markdown.replace(f"]({up}{ASSETS}/", f"]({up.removesuffix('../')}{ASSETS}/")
    return TABLE.sub(lambda match: between(match[1]), markdown)


def between(name: str) -> str:
    """Return what stands between the README's marks of a name.

    Raises:
        PluginError: it has no such marks.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", readme, re.DOTALL)
    if found is None:
        raise PluginError(f"README.md has no marks for {name!r}")
    return found[1]


def on_page_content(content: str, config: Any, **_: Any) -> str:
    """Put diagrams into the page itself: as pictures of their own they would not know whether it is dark."""

    def insert(match: re.Match[str]) -> str:
        svg = (Path(config.docs_dir) / match[2]).read_text(encoding="utf-8")
        named = svg.replace("<svg ", f'<svg role="img" aria-label="{match[1]}" ', 1)
        return f'<figure class="diagram">{named}</figure>'

    return DIAGRAM.sub(insert, content)
