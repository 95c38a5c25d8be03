"""A caption's attention as a figure: what is drawn, in what format, into which file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from captioner import files
from captioner.caption import Caption
from captioner.data.images import ImageSource, load_image
from captioner.errors import CaptionerError
from captioner.figures import animation, page, panels
from captioner.figures.heat import require_attention
from captioner.figures.record import record
from captioner.figures.sheet import DPI, Sheet
from captioner.figures.style import Style
from captioner.heads import MEAN
from captioner.settings import validate

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Figure:
    """Where a caption looked, to be drawn.

    Attributes:
        caption: with attention to places in the photo.
        photo: the whole photo, upright.
        style: how it looks.
        word: the number of the one word to draw, large; ``None`` is all of them.

    Raises:
        CaptionerError: there is no attention to draw; see :func:`captioner.figures.heat.require_attention`.
    """

    caption: Caption
    photo: Image.Image
    style: Style = field(default_factory=Style)
    word: int | None = None

    def __post_init__(self) -> None:
        require_attention(self.caption)

    def draw(self) -> matplotlib.figure.Figure:
        """Return the sheet of panels, or the one of the chosen word, as a figure of matplotlib."""
        return self._sheet().figure()

    def image(self) -> Image.Image:
        """Return the same as a picture."""
        return self._sheet().image()

    def png(self) -> bytes:
        """Return the same as PNG; the caption stands in it as its title."""
        info = PngInfo()
        info.add_itxt("Title", self.caption.text)
        return _encoded(
            self.image(), "PNG", pnginfo=info, dpi=(DPI, DPI), compress_level=3
        )  # twice as fast as 6, and no larger

    def pdf(self) -> bytes:
        """Return the same as PDF for a paper: its text is text, its fonts are embedded as TrueType, and no date makes two of them differ."""
        return self._sheet().printed(
            "pdf", {"Title": self.caption.text, "Creator": "Captioner", "Producer": None, "CreationDate": None}
        )

    def svg(self) -> bytes:
        """Return the same as SVG, with letters drawn as shapes, so that it looks alike where the fonts are missing."""
        return self._sheet().printed("svg", {"Title": self.caption.text, "Creator": "Captioner", "Date": None})

    def gif(self) -> bytes:
        """Return an animation that reads the caption word by word, over and over."""
        drawn = [
            (animation.reduced(frame), shown) for frame, shown in animation.frames(self.caption, self.photo, self.style)
        ]
        (first, _), *others = drawn
        durations = [shown for _, shown in drawn]
        return _encoded(
            first, "GIF", save_all=True, append_images=[frame for frame, _ in others], duration=durations, loop=0
        )

    def html(self) -> bytes:
        """Return a page by itself in which words and photo answer to the pointer, the finger and the keyboard; see :mod:`captioner.figures.page`."""
        return page.page(self.caption, self.photo, self.style, self._note()).encode()

    def json(self) -> bytes:
        """Return the numbers; see :mod:`captioner.figures.record`."""
        return (json.dumps(record(self.caption, self.photo.size)) + "\n").encode()

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Write the figure, whole or not at all.

        Args:
            path: the file.
            format: one of :data:`FORMATS`; left out, the file's name says it.

        Raises:
            CaptionerError: there is no such format, or it cannot show one word alone.
        """
        path = Path(path)
        kind = format_of(path) if format is None else format
        if kind not in FORMATS:
            raise CaptionerError(
                f"{path}: cannot be written as {kind or 'what its name says'!r}; take {', '.join(FORMATS)}, for example figure.png"
            )
        if self.word is not None and kind not in DRAWN:
            raise CaptionerError(f"{path}: {kind} shows all words; take {', '.join(DRAWN)} for one word alone")
        data = FORMATS[kind](self)
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(data)
        return path

    def _repr_png_(self) -> bytes:
        return self.png()

    def _sheet(self) -> Sheet:
        if self.word is None:
            return panels.sheet(self.caption, self.photo, self.style, self._note())
        return panels.single(self.caption, self.photo, self.style, self.word, self._note())

    def _note(self) -> str:
        whose = self.caption.attention_of
        if whose == MEAN:
            return ""
        block, dot, head = whose.partition(".")
        return f"block {block}, head {head}" if dot else f"attention {whose}"


DRAWN: dict[str, Callable[[Figure], bytes]] = {"png": Figure.png, "svg": Figure.svg, "pdf": Figure.pdf}
FORMATS: dict[str, Callable[[Figure], bytes]] = {**DRAWN, "gif": Figure.gif, "html": Figure.html, "json": Figure.json}


def format_of(path: str | Path) -> str:
    """Return the format that a file's name says, perhaps none that is known."""
    kind = Path(path).suffix.lower().removeprefix(".")
    return "html" if kind == "htm" else kind


def find_word(caption: Caption, word: str | int) -> int:
    """Return the number of a word in a caption: the first that is spelled so, in any case, or the number itself if it is one.

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
    raise CaptionerError(f"there is no word {word!r} in {caption.text!r}; take one of it")


def figure(
    caption: Caption,
    picture: ImageSource | None = None,
    *,
    word: str | int | None = None,
    max_pixels: int | None = None,
    **style: Any,
) -> Figure:
    """Make the figure of a caption.

    Args:
        caption: with attention.
        picture: the photo it describes; left out, its file is read again.
        word: draw this word alone, see :func:`find_word`.
        max_pixels: a larger picture is an error; see :func:`captioner.data.images.load_image`.
        style: settings of :class:`Style`.

    Raises:
        CaptionerError: the caption has no attention, no such word, or does not know its file.
        ConfigError: a setting is unknown or makes no sense.
        ImageError: the picture cannot be read.
    """
    checked = validate(Style, style, where="figure")
    require_attention(caption)
    number = None if word is None else find_word(caption, word)
    source = caption.source if picture is None else picture
    if source is None:
        raise CaptionerError(
            "this caption does not know its picture's file, since it was made of something else; give the picture: figure(picture)"
        )
    return Figure(caption, load_image(source, max_pixels=max_pixels), checked, number)


def _encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()
