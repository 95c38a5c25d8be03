"""A hook of mkdocs that inserts other files into pages: diagrams, figures, tables and the changelog."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import readme

ROOT = Path(__file__).resolve().parents[2]
DIAGRAM = re.compile(r'<p><img alt="([^"]*)" src="[^"]*?(figures/\w+\.svg)" ?/?></p>')
FIGURE = re.compile(r'<img [^>]*src="((?:\.\./)*(figures/\w+))\.webp"[^>]*>')
NARROW = "(max-width: 40em)"  # as in docs/style.css
TABLE = re.compile(r"<!-- table: (\w+) -->")
ASSETS, CHANGELOG = "assets", "changelog.md"


def on_files(files: Any, config: Any) -> Any:
    """Add the figures in ``assets/``, and the changelog as a page."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, CHANGELOG, content=changes))
    for path in sorted((ROOT / ASSETS).glob("*.png")):
        files.append(File(f"{ASSETS}/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point to the site's ``assets/`` where a page points to the repository's, and write its tables."""
    up = "../" * len(PurePosixPath(page.file.src_uri).parents)
    markdown = markdown.replace(f"]({up}{ASSETS}/", f"]({up.removesuffix('../')}{ASSETS}/")
    return TABLE.sub(lambda match: table(match[1]), markdown)


def table(name: str) -> str:
    """Return a table that ``scripts/readme.py`` writes.

    Raises:
        PluginError: it writes no such table.
    """
    try:
        return readme.table(name)
    except KeyError as error:
        raise PluginError(f"scripts/readme.py has no table {name!r}") from error


def on_page_content(content: str, config: Any, **_: Any) -> str:
    """Put diagrams into the page itself, where they take its colours, and give figures their forms for phones."""

    def insert(match: re.Match[str]) -> str:
        wide = Path(config.docs_dir) / match[2]
        svgs = [
            path.read_text(encoding="utf-8").replace("<svg ", f'<svg role="img" aria-label="{match[1]}" {kind} ', 1)
            for path, kind in ((wide.with_stem(f"{wide.stem}_phone"), 'class="phone"'), (wide, 'class="wide"'))
        ]
        return f'<figure class="diagram">{"".join(svgs)}</figure>'

    def narrow(match: re.Match[str]) -> str:
        if not (Path(config.docs_dir) / f"{match[2]}_phone.webp").exists():
            return match[0]
        return f'<picture><source media="{NARROW}" srcset="{match[1]}_phone.webp">{match[0]}</picture>'

    return FIGURE.sub(narrow, DIAGRAM.sub(insert, content))
