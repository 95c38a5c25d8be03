"""The page: one file of HTML with its style and scripts, which loads nothing but images and the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from captioner.data.find import IMAGE_EXTENSIONS
from captioner.data.formats import readable_formats
from captioner.data.raw import RAW_EXTENSIONS, can_read_raw
from captioner.figures.document import assemble, base64_text, joined
from captioner.figures.explorer import HINT, TOUCH_HINT

STYLES = "common.css explorer.css web/app.css"
_HEAD = f"""<meta name="description" content="A sentence for each image, and where the model looked for each word.">
<link rel="icon" href="data:image/svg+xml;base64,{base64_text(joined("web/icon.svg").encode())}">
"""
TEXTS = {
    "language": "en",
    "title": "Captioner",
    "head": _HEAD,
    "image": "data:,",
    "caption": "",
    "note": "",
    "most": "strongest",
}
_PROMISE = """
<span>Your images stay in memory only while they are captioned. Nothing is stored.</span>
<a href="docs">JSON API</a>
"""


def scripts(source: str) -> str:
    """Return the names of the page's scripts; ``source`` is the one in ``web/`` that makes the captions."""
    own = ("items", source, "drawing", "grid", "saving", "adding")
    return " ".join(["common.js maps.js explorer.js", *(f"web/{name}.js" for name in own)])


def page_of(models: Mapping[str, str], *, languages: Sequence[str], examples: Sequence[str], max_bytes: int) -> str:
    """Return the page.

    Args:
        models: titles of the served models by name, the default first.
        languages: codes of the languages into which captions are translated.
        examples: names of the images to try.
        max_bytes: maximum size of an image.
    """
    extensions = IMAGE_EXTENSIONS | (RAW_EXTENSIONS if can_read_raw() else frozenset())
    return assemble(
        "web/app.html",
        styles=STYLES,
        scripts=scripts("requests"),
        data={
            "models": list(models.items()),
            "languages": list(languages),
            "megabytes": max_bytes / 1e6,
            "figures": ["png", "pdf", "gif", "html"],
            "sidecars": True,
            "examples": list(examples),
            "read": list(readable_formats()),
            "hint": HINT,
            "touch_hint": TOUCH_HINT,
        },
        texts={
            **TEXTS,
            "promise": _PROMISE,
            "instead": "Without it, run: curl -F image=@photo.jpg …/caption",
            "accept": ",".join(["image/*", *sorted(extensions)]),
        },
        policy="img-src 'self' data: blob:; connect-src 'self'",
    )
