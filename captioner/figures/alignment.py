"""Alignments: the attention of a translation to the words of its source, as a matrix and as a page to explore.

The matrix follows figure 3 of Bahdanau et al. 2015 (https://arxiv.org/abs/1409.0473): a row for each word written, a
column for each word read. Attention over pieces of words is summed and averaged to whole words; see
:meth:`captioner.translation.result.Translation.words`.

Letters in shapes: T words written, S words read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from captioner.caption import Array
from captioner.errors import CaptionerError
from captioner.figures.document import assemble, clean, escaped
from captioner.figures.drawing import DRAWN, Drawing
from captioner.figures.sheet import PALE, Sheet, shortened, width_of
from captioner.text.vocabulary import EOS, SPECIAL

if TYPE_CHECKING:
    from captioner.translation.result import Translation

FORMATS = (*DRAWN, "html", "json")
END = "■"  # the end of the source, a position like any other
_LETTERS, _CELL, _LABEL = 30, 54, 460  # pixels: letter height, side of a cell, the widest label
_COLOUR_MAP = "Blues"  # from white: zero attention has the colour of the ground


@dataclass(frozen=True)
class Alignment(Drawing):
    """The alignment of a translation, to be drawn.

        Alignment(translator("Two dogs run.")).save("alignment.png")

    Raises:
        CaptionerError: its model does not attend, or the text is empty.
    """

    formats: ClassVar[tuple[str, ...]] = (*DRAWN, "html", "json")

    translation: Translation

    def __post_init__(self) -> None:
        weights_of(self.translation)

    @property
    def title(self) -> str:
        """The translation."""
        return self.translation.text

    def sheet(self) -> Sheet:
        """Lay out the matrix, with the words read above it, the words written at its left, and a scale below."""
        written, read, weights = weights_of(self.translation)
        left_labels = [shortened(word, _LABEL, _LETTERS) for word in written]
        top_labels = [shortened(word, _LABEL, _LETTERS) for word in read]
        margin, gap, small = _LETTERS, round(0.4 * _LETTERS), 0.75 * _LETTERS
        left = margin + gap + math.ceil(max(width_of(word, _LETTERS) for word in left_labels))
        top = margin + gap + math.ceil(max(width_of(word, _LETTERS) for word in top_labels))
        width, height = _CELL * len(read), _CELL * len(written)
        ramp = np.linspace(0, 1, 5 * _CELL)
        scale = [width_of(text, small) for text in ("0 %", "100 %")]
        wide = max(left + width, margin + math.ceil(sum(scale)) + 2 * gap + len(ramp)) + margin
        page = Sheet((wide, top + height + 2 * margin + round(small) + margin))
        page.place(_coloured(np.kron(weights, np.ones((_CELL, _CELL)))), left, top)
        page.frame((left, top, left + width, top + height), colour=PALE, width=1)
        for number, word in enumerate(left_labels):
            page.text(left - gap, top + (number + 0.5) * _CELL + 0.36 * _LETTERS, word, _LETTERS, align="right")
        for number, word in enumerate(top_labels):
            page.text(left + (number + 0.5) * _CELL, top - gap, word, _LETTERS, turned=True)
        x, bottom = margin, page.size[1] - margin
        page.text(x, bottom, "0 %", small, colour=PALE)
        x += math.ceil(scale[0]) + gap
        page.place(_coloured(np.tile(ramp, (round(0.75 * small), 1))), x, bottom - round(0.75 * small))
        page.text(x + len(ramp) + gap, bottom, "100 %", small, colour=PALE)
        return page

    def html(self) -> bytes:
        """Return a self-contained page for mouse, touch and keyboard; see :func:`page`."""
        return page([self.translation]).encode()

    def json(self) -> bytes:
        """Return :meth:`Translation.to_dict` with attention."""
        return (json.dumps(self.translation.to_dict(attention=True), ensure_ascii=False) + "\n").encode()


def weights_of(translation: Translation) -> tuple[list[str], list[str], Array]:
    """Return the words written, the words read with a mark for the end, and the weights (T, S) between them.

    Raises:
        CaptionerError: see :class:`Alignment`.
    """
    written, read, weights = translation.words()
    if translation.attention is None and translation.tokens:
        raise CaptionerError(
            "this translation has no alignment to show, because its model does not attend; use one that does"
        )
    if weights is None or not written:
        raise CaptionerError(f"there is no alignment to show: the translation of {translation.source!r} is empty")
    names = [END if word == SPECIAL[EOS] else word for word in read]
    return [clean(word) for word in written], [clean(word) for word in names], weights.astype(np.float64)


def page(translations: Sequence[Translation]) -> str:
    """Return a self-contained page: pointing at a word shades the words it looked at, or those that looked at it.

    Its script reads a list with ``written`` (T words), ``read`` (S words) and ``weights`` (T x S) for each translation.

    Args:
        translations: those to show, below each other; empty ones are left out.

    Raises:
        CaptionerError: a model does not attend, or all are empty.
    """
    shown = [translation for translation in translations if translation.tokens]
    if not shown:
        raise CaptionerError("there is no alignment to show: every translation is empty")
    data: list[dict[str, Any]] = []
    for translation in shown:
        written, read, weights = weights_of(translation)
        data.append({"written": written, "read": read, "weights": np.round(weights, 4).tolist()})
    title = shown[0].text if len(shown) == 1 else f"{len(shown)} translations"
    texts = "".join(f"<p>{escaped(one.source)}</p><p>{escaped(one.text)}</p>" for one in shown)
    return assemble(
        "alignment.html",
        styles="common.css alignment.css",
        scripts="common.js alignment.js",
        data=data,
        texts={"title": escaped(title), "texts": texts, "language": escaped(shown[0].language or "en")},
    )


def _coloured(share: Array) -> Array:
    """Return numbers (H, W) in 0..1 as colours (H, W, 3) uint8."""
    from matplotlib import colormaps

    colours: Array = np.rint(colormaps[_COLOUR_MAP](np.clip(share, 0, 1))[..., :3] * 255).astype(np.uint8)
    return colours
