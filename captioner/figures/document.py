"""HTML pages which, by their Content-Security-Policy, run only their own script.

Figures and the page of the server are one file that loads nothing; the page without a server is a folder.

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
    """Return a page that is one file.

    Args:
        template: file of its body, which goes into ``document.html``.
        styles: its style sheets, separated by spaces.
        scripts: its scripts in order, separated by spaces.
        data: plain values for the scripts.
        texts: HTML for the other placeholders, including ``title`` and ``language``, and lines for ``head`` if any.
        policy: Content-Security-Policy directives in addition to those for its style and script.
    """
    style, script = joined(styles), joined(scripts)
    parts = {
        "policy": policy,
        "style": f"<style>{style}</style>",
        "script": f"<script>{script}</script>",
        "style-source": f"'{_hash(style)}'",
        "script-source": f"'{_hash(script)}'",
    }
    return _filled(template, data, {**texts, **parts})


def assemble_linked(
    template: str,
    *,
    style: str,
    script: str,
    data: Any,
    texts: Mapping[str, str],
    policy: str,
    script_policy: str = "",
) -> str:
    """Return a page with its style sheet and script in separate files; see :func:`assemble`.

    Args:
        template: file of its body.
        style: name of the style sheet.
        script: name of the script.
        data: plain values for the script.
        texts: HTML for the other placeholders.
        policy: additional directives.
        script_policy: sources that the script may use besides the page's own origin.
    """
    parts = {
        "policy": policy,
        "style": f'<link rel="stylesheet" href="{style}">',
        "script": f'<script src="{script}"></script>',
        "style-source": "'self'",
        "script-source": f"'self' {script_policy}".strip(),
    }
    return _filled(template, data, {**texts, **parts})


def joined(names: str) -> str:
    """Return the text of files of the package, one after the other.

    Args:
        names: the files, separated by spaces; see the module.
    """
    return "".join(map(_part, names.split()))


def _filled(template: str, data: Any, parts: Mapping[str, str]) -> str:
    whole = _part("document.html").replace("{{body}}\n", _part(template))
    whole = re.sub(r"\{\{([a-z/]+\.html)\}\}\n", lambda match: _part(match[1]), whole)
    given = {"head": "", **parts, "data": _safe_json(data)}
    # In one pass: placeholders in inserted text are not replaced.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda match: given[match[1]], whole)


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
    package = folder.replace("/", ".") or "figures"
    return resources.files(f"captioner.{package}").joinpath(file).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64_text(hashlib.sha256(text.encode()).digest())


def _safe_json(value: Any) -> str:
    """Return JSON that cannot close the script element around it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
