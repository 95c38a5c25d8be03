"""Base class of drawings that are saved in several formats."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from captioner import files
from captioner.data.mark import PROGRAM
from captioner.errors import CaptionerError
from captioner.figures.sheet import DPI, Sheet

if TYPE_CHECKING:
    import matplotlib.figure

DRAWN = ("png", "svg", "pdf")


class Drawing(ABC):
    """A sheet with a title.

    Attributes:
        formats: supported formats; the method with the name of a format returns the file's bytes.
    """

    formats: ClassVar[tuple[str, ...]] = DRAWN

    @property
    @abstractmethod
    def title(self) -> str:
        """The title in the files."""

    @abstractmethod
    def sheet(self) -> Sheet:
        """Lay out a new sheet."""

    def draw(self) -> matplotlib.figure.Figure:
        """Return the sheet as a matplotlib figure."""
        return self.sheet().figure()

    def image(self) -> Image.Image:
        """Return the sheet as an image."""
        return self.sheet().image()

    def png(self) -> bytes:
        """Return the sheet as PNG, with its title."""
        info = PngInfo()
        info.add_text("Software", PROGRAM)
        info.add_itxt("Title", self.title)
        return encoded(rounded(self.image()), "PNG", pnginfo=info, dpi=(DPI, DPI))

    def pdf(self) -> bytes:
        """Return the sheet as PDF for a paper.

        Text stays text, fonts are embedded as TrueType, and without a date the output is reproducible.
        """
        return self.sheet().printed(
            "pdf", {"Title": self.title, "Creator": PROGRAM, "Producer": None, "CreationDate": None}
        )

    def svg(self) -> bytes:
        """Return the sheet as SVG, with letters as paths, which need no fonts."""
        return self.sheet().printed("svg", {"Title": self.title, "Creator": PROGRAM, "Date": None})

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Save the drawing atomically.

        Args:
            path: the file.
            format: one of :attr:`formats`; by default the suffix of the file.

        Raises:
            CaptionerError: the format does not exist.
        """
        path = Path(path)
        kind = files.format_of(path) if format is None else format
        if kind not in self.formats:
            raise CaptionerError(
                f"{path}: {f'unknown format {kind!r}' if kind else 'the file name has no format'}; "
                f"take {', '.join(self.formats)}, for example figure.png"
            )
        data: bytes = getattr(self, kind)()
        with files.atomic_path(path, size=len(data)) as temporary:
            temporary.write_bytes(data)
        return path

    def _repr_png_(self) -> bytes:
        return self.png()


def rounded(image: Image.Image) -> Image.Image:
    """Round the colours of an RGB image to multiples of four: invisible, and a PNG of it is smaller by two fifths."""
    return image.point([min(255, (value + 2) // 4 * 4) for value in range(256)] * 3)


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """Return an image as a file of the kind, for example ``PNG``."""
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()
