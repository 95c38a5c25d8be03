r"""A hook of mkdocs that turns equations, ``$...$`` and ``$$...$$``, into MathML when the site is built.

So the pages need no script and no network. Browsers draw MathML well only in a font that is made for mathematics; the
site brings STIX Two Math (SIL Open Font License), cut down to the characters that its equations have.
"""

from __future__ import annotations

import html
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fontTools import subset
from math_core import LatexToMathML
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex makes of an equation.
EQUATION = re.compile(
    r'<(span|div) class="arithmatex">(?:<span class="MathJax_Preview">.*?</span>)?\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL
)
TEXT = re.compile(r">([^<]+)<")
# Browsers draw a variable in italics, which are other characters than its own, and a root by its sign.
DRAWN = {*map(chr, range(0x1D434, 0x1D468)), *map(chr, range(0x1D6E2, 0x1D71C)), "\u210e", "√"}
BESIDE = r"\qquad"
FONT = Path("stix-two-math.woff")

_converter = LatexToMathML()
_used: set[str] = set()


def mathml(latex: str, *, display: bool) -> str:
    """Return an equation as MathML.

    Raises:
        PluginError: LaTeX has no such command.
    """
    try:
        return _converter.convert_with_local_state(latex, displaystyle=display)
    except Exception as error:
        raise PluginError(f"the equation {latex!r} cannot be converted: {error}") from error


def on_page_content(content: str, **_: Any) -> str:
    """Convert the equations of a page."""

    def convert(match: re.Match[str]) -> str:
        latex, display = html.unescape(match[3]), match[2] == "["
        # Equations next to one another may come below one another where the page is narrow.
        text = "".join(mathml(part.strip(), display=display) for part in latex.split(BESIDE))
        _used.update(*(html.unescape(part) for part in TEXT.findall(text)))
        return f'<div class="equation" tabindex="0">{text}</div>' if display else text

    return EQUATION.sub(convert, content)


def on_post_build(config: Any) -> None:
    """Write the font with the characters that the equations have."""
    options = subset.Options(flavor="woff", hinting=False, layout_features=["math", "ssty"])
    package = find_spec("ziamath")  # which comes with the font, and is not imported
    assert package is not None and package.origin is not None
    font = subset.load_font(str(Path(package.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"), options)
    cut = subset.Subsetter(options)
    cut.populate(unicodes=[ord(character) for character in _used | DRAWN])
    cut.subset(font)
    subset.save_font(font, str(Path(config.site_dir) / FONT), options)
