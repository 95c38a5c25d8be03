"""A hook of mkdocs that adds a page for each source file, and links the files that pages name to it.

Written as code, ``captioner/memory.py`` or ``decoders/show_tell.py`` becomes a link to the file's page, and
``captioner/memory.py::Memory.join`` to the line on which that is defined. A file or a name that does not exist is a
warning, and an error in a strict build.
"""

from __future__ import annotations

import ast
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

log = logging.getLogger("mkdocs.hooks.sources")
ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml"}
FOLDER = "source"
MENTION = re.compile(r"<code>([\w./-]+\.(?:py|sh|yaml))(?:::([\w.]+))?</code>(?!</a>)")


@cache
def sources() -> dict[str, Path]:
    """Return the files that have a page, by their paths from the root and from ``captioner/``."""
    found = [path for path in sorted((ROOT / "captioner").rglob("*")) if path.suffix in LANGUAGES]
    scripts = [path for path in sorted((ROOT / "scripts").rglob("*")) if path.suffix in LANGUAGES]
    named = {path.relative_to(ROOT / "captioner").as_posix(): path for path in found}
    return {**named, **{path.relative_to(ROOT).as_posix(): path for path in found + scripts}}


@cache
def line_of(path: Path, name: str) -> int | None:
    """Return the line on which a class, a function or a class's method or attribute is defined."""
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    line = None
    for part in name.split("."):
        for statement in body:
            if part in _names(statement):
                line, body = statement.lineno, getattr(statement, "body", [])
                break
        else:
            return None
    return line


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def page_of(path: Path) -> str:
    """Return the name of a file's page among the sources of the site."""
    return f"{FOLDER}/{path.relative_to(ROOT).as_posix()}.md"


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each source file."""
    for path in dict.fromkeys(sources().values()):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        content = (
            f"---\ntitle: {name}\nsearch:\n  exclude: true\nhide: [navigation, toc]\n---\n\n# {name}\n\n"
            f'``````{{ .{LANGUAGES[path.suffix]} linenums="1" }}\n{text}\n``````\n'
        )
        files.append(File.generated(config, page_of(path), content=content))
    return files


def on_page_content(content: str, page: Any, files: Any, **_: Any) -> str:
    """Link the files that a page names."""
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        return content

    def link(match: re.Match[str]) -> str:
        path, name = sources().get(match[1]), match[2]
        line = line_of(path, name) if path is not None and name is not None else None
        if path is None or (name is not None and line is None):
            if name is not None or match[1].startswith(("captioner/", "scripts/")):
                log.warning("%s: names %s, which does not exist", page.file.src_uri, match[0])
            return match[0]
        address = get_relative_url(files.get_file_from_path(page_of(path)).url, page.url)
        anchor = "" if line is None else f"#__codelineno-0-{line}"
        return f'<a class="source" href="{address}{anchor}">{match[0]}</a>'

    return MENTION.sub(link, content)
