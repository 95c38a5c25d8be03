"""Self-contained HTML pages: one file that loads nothing and, by its Content-Security-Policy, runs only its own script.

A template has placeholders like ``{{title}}`` for text and ``{{explorer.html}}`` for a file, in this folder or in that
of another package (``web/app.html``). It needs no Jinja2, which installations without torch do not have.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any


def assemble(
    template: str,
    *,
    styles: str,
    scripts: str,
    data: Any,
    texts: Mapping[str, str],
    policy: str = "img-src data:",
) -> str:
    """Return a page.

    Args:
        template: file of its body, which goes into ``document.html``.
        styles: its style sheets, separated by spaces.
        scripts: its scripts in order, separated by spaces.
        data: plain values for the scripts.
        texts: HTML for the other placeholders, including ``title`` and ``language``.
        policy: Content-Security-Policy directives in addition to those for its style and script.
    """
    style, script = ("".join(map(_part, names.split())) for names in (styles, scripts))
    parts = {
        **texts,
        "data": _safe_json(data),
        "policy": policy,
        "style": style,
        "script": script,
        "style-hash": _hash(style),
        "script-hash": _hash(script),
    }
    whole = _part("document.html").replace("{{body}}\n", _part(template))
    whole = re.sub(r"\{\{([a-z/]+\.html)\}\}\n", lambda match: _part(match[1]), whole)
    # In one pass: placeholders in inserted text are not replaced.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda match: parts[match[1]], whole)


def clean(text: str) -> str:
    """Replace surrogates, which file names may contain, by question marks."""
    return text.encode("utf-8", "replace").decode()


def escaped(text: str) -> str:
    """Escape text for HTML."""
    return html.escape(clean(text))


def base64_text(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode()


@cache
def _part(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return resources.files(f"captioner.{folder or 'figures'}").joinpath(file).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64_text(hashlib.sha256(text.encode()).digest())


def _safe_json(value: Any) -> str:
    """Return JSON that cannot close the script element around it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
