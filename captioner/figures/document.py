"""Self-contained HTML pages: one file that loads nothing else and, by its policy, runs no other script.

A page is a template with placeholders like ``{{title}}``; where one names a file, such as ``{{explorer.html}}``, that
file is put there. The files are in this folder or in that of another package, as ``web/app.html``.
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
        template: name of the file of its body; ``document.html`` has what stands around it.
        styles: names of its style sheets, separated by spaces.
        scripts: likewise of its scripts, which are run in this order.
        data: what the scripts read, as plain values.
        texts: what goes into the other places, as HTML; among them ``title`` and ``language``.
        policy: what the page may load beside its own style and script, as a Content-Security-Policy.
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
    # In one pass, so that placeholders in inserted text are not replaced.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda match: parts[match[1]], whole)


def clean(text: str) -> str:
    """Replace surrogates by question marks: a file name may contain arbitrary bytes."""
    return text.encode("utf-8", "replace").decode()


def escaped(text: str) -> str:
    """Return text as HTML."""
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
    """Write JSON that cannot end the script element that contains it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
