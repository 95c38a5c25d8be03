"""A hook of mkdocs that links pages to their sources, if the project has a public address.

That is ``Source`` in ``[project.urls]`` of ``pyproject.toml``. Without it, pages have no link to a repository, to edit
them, or to open a notebook in Colab.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
SOURCE = re.compile(r'^\[project\.urls\]\n(?:[^\[\n].*\n|\n)*?Source = "([^"]+)"', re.MULTILINE)
BRANCH = "main"
EDIT = {"github.com": f"edit/{BRANCH}/docs/", "gitlab.com": f"-/edit/{BRANCH}/docs/"}


def on_config(config: Any) -> Any:
    """Set the links of the site."""
    source = address(PROJECT.read_text(encoding="utf-8"))
    if source is not None:
        host = urlsplit(source).netloc
        config.repo_url, config.repo_name = f"{source}/", urlsplit(source).path.strip("/")
        config.edit_uri = EDIT.get(host)
        if config.edit_uri is not None:
            config.theme["features"].append("content.action.edit")
    return config


def on_post_page(output: str, **_: Any) -> str:
    """Keep the theme's script from fetching the number of stars from the repository's host."""
    return output.replace(' data-md-component="source"', "")


def address(project: str) -> str | None:
    """Return the public address of the project's repository from the text of ``pyproject.toml``, without a slash."""
    found = SOURCE.search(project)
    return found[1].rstrip("/") if found else None


def colab(source: str | None, notebook: str) -> str | None:
    """Return the address that opens a notebook, named by its path in the repository, in Colab, which reads GitHub."""
    if source is None or urlsplit(source).netloc != "github.com":
        return None
    return f"https://colab.research.google.com/github{urlsplit(source).path}/blob/{BRANCH}/{notebook}"
