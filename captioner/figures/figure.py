"""A caption's attention as a figure in several formats."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from captioner import files
from captioner.caption import MEAN, Caption
from captioner.data.images import ImageSource, load_image
from captioner.data.mark import PROGRAM
from captioner.errors import CaptionerError
from captioner.figures import animation, explorer, panels
from captioner.figures.drawing import DRAWN, Drawing, encoded
from captioner.figures.heat import require_attention
from captioner.figures.record import record
from captioner.figures.sheet import Sheet
from captioner.figures.style import Style
from captioner.settings import validate

FORMATS = (*DRAWN, "gif", "html", "json")


@dataclass(frozen=True)
class Figure(Drawing):
    """The attention of a caption, to be drawn.

    Attributes:
        caption: a caption with attention over the image.
        original: the whole image, upright.
        style: style of the figure.
        word: index of the single word to draw, large; ``None`` draws all words.

    Raises:
        CaptionerError: there is no attention to draw; see :func:`captioner.figures.heat.require_attention`.
    """

    formats: ClassVar[tuple[str, ...]] = FORMATS

    caption: Caption
    original: Image.Image
    style: Style = field(default_factory=Style)
    word: int | None = None

    def __post_init__(self) -> None:
        require_attention(self.caption)

    @property
    def title(self) -> str:
        """The caption."""
        return self.caption.text

    def sheet(self) -> Sheet:
        """Lay out the panels, or the panel of the chosen word."""
        if self.word is None:
            return panels.sheet(self.caption, self.original, self.style, self._note())
        return panels.single(self.caption, self.original, self.style, self.word, self._note())

    def gif(self) -> bytes:
        """Return an animation that reads the caption word by word in a loop."""
        drawn = [
            (animation.reduced(frame), duration)
            for frame, duration in animation.frames(self.caption, self.original, self.style)
        ]
        (first, _), *others = drawn
        durations = [duration for _, duration in drawn]
        return encoded(
            first,
            "GIF",
            save_all=True,
            append_images=[frame for frame, _ in others],
            duration=durations,
            loop=0,
            comment=PROGRAM.encode(),
        )

    def html(self) -> bytes:
        """Return a self-contained interactive page; see :mod:`captioner.figures.explorer`."""
        return explorer.page(self.caption, self.original, self.style, self._note()).encode()

    def notebook(self) -> str:
        """Return the page in a frame, as HTML for a notebook; the frame keeps its styles and scripts to itself."""
        page = escape(self.html().decode(), quote=True)
        return (
            f'<iframe srcdoc="{page}" title="{escape(self.title)}" style="width:100%;height:40rem;border:0"></iframe>'
        )

    def json(self) -> bytes:
        """Return the numbers; see :mod:`captioner.figures.record`."""
        return (json.dumps(record(self.caption, self.original.size)) + "\n").encode()

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Write the figure atomically.

        Args:
            path: the file.
            format: one of :data:`FORMATS`; by default the suffix of the file.

        Raises:
            CaptionerError: the format does not exist or cannot show a single word.
        """
        kind = files.format_of(path) if format is None else format
        if self.word is not None and kind in FORMATS and kind not in DRAWN:
            raise CaptionerError(f"{path}: {kind} shows all words; take {', '.join(DRAWN)} for a single word")
        return super().save(path, kind)

    def _note(self) -> str:
        source, notes = self.caption.attention_of, []
        if source != MEAN:
            block, dot, head = source.partition(".")
            notes.append(f"block {block}, head {head}" if dot else f"attention {source}")
        if self.caption.translated_from is not None:
            notes.append(f"by way of “{self.caption.translated_from}”")
        return " · ".join(notes)


def find_word(caption: Caption, word: str | int) -> int:
    """Return the index of a word in a caption.

    Args:
        caption: the caption.
        word: a spelling, matched regardless of case, or an index. The first occurrence counts.

    Raises:
        CaptionerError: the caption has no such word.
    """
    tokens = [token.casefold() for token in caption.tokens]
    if isinstance(word, int):
        if 0 <= word < len(tokens):
            return word
        raise CaptionerError(f"there is no word {word} in {caption.text!r}; take 0 to {len(tokens) - 1}")
    if word.casefold() in tokens:
        return tokens.index(word.casefold())
    raise CaptionerError(f"there is no word {word!r} in {caption.text!r}; take one of its words")


def figure(
    caption: Caption,
    image: ImageSource | None = None,
    *,
    word: str | int | None = None,
    max_pixels: int | None = None,
    **style: Any,
) -> Figure:
    """Make the figure of a caption.

    Args:
        caption: a caption with attention.
        image: the image it describes; by default its file is read again.
        word: draw only this word; see :func:`find_word`.
        max_pixels: a larger image is an error; see :func:`captioner.data.images.load_image`.
        style: settings of :class:`Style`.

    Raises:
        CaptionerError: the caption has no attention, no such word, or no known image file.
        ConfigError: a setting is unknown or invalid.
        ImageError: the image cannot be read.
    """
    checked = validate(Style, style, where="figure")
    require_attention(caption)
    number = None if word is None else find_word(caption, word)
    source = caption.source if image is None else image
    if source is None:
        raise CaptionerError("this caption has no image file; give the image: figure(image)")
    return Figure(caption, load_image(source, max_pixels=max_pixels), checked, number)
