"""A hook of mkdocs that puts the page of ``captioner attend IMAGE -o page.html`` into a page of the site.

The comment ``explorer: dog.jpg`` becomes that example's figure, captioned by the shipped model when the site is built.
It takes the colours of the site, and its script is in the page itself.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from captioner import Captioner
from captioner.figures import explorer
from captioner.figures.style import Style

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
MARK = re.compile(r"<!-- explorer: (\w+\.\w+) -->")
PAGE = re.compile(
    r"<style>(?P<style>.*?)</style>.*<main class=\"explorer\">(?P<body>.*?)</main>\s*"
    r"(?P<data><script id=\"data\".*?</script>)\s*<script>(?P<script>.*?)</script>",
    re.DOTALL,
)
TITLE = re.compile(r"<h1.*?</h1>\s*", re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Put the figures into a page."""
    return MARK.sub(lambda match: figure(match[1]), content)


@cache
def figure(name: str) -> str:
    """Return the figure of an example as a part of a page; a page can have one."""
    path = EXAMPLES / name
    with Image.open(path) as image:
        page = explorer.page(Captioner.from_pretrained()(path), image.convert("RGB"), Style())
    parts = PAGE.search(page)
    assert parts is not None, "the page of captioner attend has another form"
    # The rules hold inside the figure only. The script has a separate scope, as the site runs it again when a reader
    # comes back.
    return "\n".join(
        (
            f"<style>.figure {{ {parts['style']} }}</style>",
            f'<div class="figure"><div class="explorer">{TITLE.sub("", parts["body"])}</div></div>',
            parts["data"],
            f"<script>(() => {{ {parts['script']} }})()</script>",
        )
    )
