"""A caption with its attention: plain values and numpy arrays, usable without torch.

Letters in shapes: T words, N regions or cells, L blocks, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from captioner.text.vocabulary import spans

if TYPE_CHECKING:
    from pathlib import Path

    import matplotlib.figure

    from captioner.data.images import ImageSource
    from captioner.translation.result import Translation

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

#: kinds of attention: the mean over all heads, rollout through all blocks, each head separately
MEAN, ROLLOUT, HEADS = "mean", "rollout", "heads"


class EqualArrays:
    """Compares dataclasses by their fields, and arrays by shape and values."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((getattr(self, each.name), getattr(other, each.name)) for each in fields(self))  # type: ignore[arg-type]
        return all(
            np.array_equal(one, another)
            if isinstance(one, np.ndarray) or isinstance(another, np.ndarray)
            else one == another
            for one, another in pairs
        )


@dataclass(frozen=True, repr=False, eq=False)
class Caption(EqualArrays):
    """A caption of one image. A notebook shows it with its image and its attention, to explore.

    Attributes:
        text: a readable sentence.
        tokens: its T words as written by the model.
        log_probability: the sum over the words and the end, in nats.
        attention: (T, N) float32, the weight of every region or cell for every word, each row summing to one; ``None``
            if the model does not attend.
        grid: (rows, columns) of the cells, in row-major order; ``None`` for regions.
        boxes: (N, 4) relative xyxy boxes of regions; ``None`` for a grid.
        seen: the part of the image that the model sees, a relative xyxy box; regions and cells are relative to it.
        source: the file or description of the image.
        others: the next best captions of the same image, best first.
        attention_of: the kind of attention: ``mean`` over all heads, ``rollout``, or one head; see
            :func:`captioner.engines.attention_rollout.recompute_attention`.
        labels: the detector's class of each of the N regions, "" where there is none; ``None`` for a grid.
        scores: (N,) the detector's confidence in each label; ``None`` without labels.
        heads: (T, L, H, N) float32, the attention of each of the H heads of the L blocks of a Transformer, if
            requested.
        translation: the caption in another language, if :meth:`Translator.captions` added it; its attention is over the
            pieces of ``text``.
        translated_from: the text of the original, if this is a translation; see :meth:`translated`.
    """

    text: str
    tokens: list[str]
    log_probability: float
    attention: Array | None = None
    grid: tuple[int, int] | None = None
    boxes: Array | None = None
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    source: str | None = None
    others: list[Caption] = field(default_factory=list)
    attention_of: str = MEAN
    labels: list[str] | None = None
    scores: Array | None = None
    heads: Array | None = None
    translation: Translation | None = None
    translated_from: str | None = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        about = [repr(self.text), f"log_probability={self.log_probability:.2f}"]
        about += [] if self.source is None else [f"source={self.source!r}"]
        about += [f"{len(self.others)} others"] if self.others else []
        return f"Caption({', '.join(about)})"

    def _repr_html_(self) -> str | None:
        """Return the page to explore for a notebook; ``None`` without attention or without the image's file."""
        from captioner.errors import CaptionerError
        from captioner.figures import figure

        try:
            return figure(self).notebook()
        except CaptionerError:
            return None

    def translated(self) -> Caption:
        """Return the translation as a caption of the image, with the attention of the words it renders.

        With A (T, N) the caption's attention to the image and B (W, T) the attention of the translation's words to
        those of the caption, the attention of the translation's words to the image is ``B A``. Punctuation is left out.
        Others that have a translation are translated too.

            Translator.for_language("de").caption(captioner("photo.jpg")).translated().figure()

        Raises:
            ValueError: there is no translation; :meth:`Translator.caption` adds one.
        """
        if self.translation is None:
            raise ValueError("this caption has no translation; Translator.caption(caption) adds one")
        words, weights = self.translation._words_from(spans(self.tokens))
        return replace(
            self,
            text=self.translation.text,
            tokens=words,
            log_probability=self.translation.log_probability,
            attention=None if weights is None or self.attention is None else weights @ self.attention,
            others=[other.translated() for other in self.others if other.translation is not None],
            heads=None,
            translation=None,
            translated_from=self.text,
        )

    def words_at(self, point: tuple[float, float]) -> list[tuple[str, float]]:
        """Return every word with its attention to a point of the image.

        It is the attention to the point's cell of a grid, or the sum over the regions that contain it; zero for a point
        that the model did not see.

        Args:
            point: (x, y) in relative coordinates of the whole image, from 0 to 1.

        Raises:
            ValueError: the caption has no attention, or the point is outside the image.
        """
        if self.attention is None:
            raise ValueError("this caption has no attention: its model does not attend")
        x, y = point
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"the point {point} is outside the image; x and y are relative, from 0 to 1")
        x0, y0, x1, y1 = self.seen
        x, y = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        if not (0 <= x <= 1 and 0 <= y <= 1):
            weights = np.zeros(len(self.tokens))
        elif self.grid is not None:
            rows, columns = self.grid
            weights = self.attention[:, min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1)]
        elif self.boxes is not None:
            left, top, right, bottom = self.boxes.T
            weights = self.attention[:, (left <= x) & (x <= right) & (top <= y) & (y <= bottom)].sum(1)
        else:
            raise ValueError("the attention of this caption is not to regions or cells of an image")
        return list(zip(self.tokens, weights.tolist(), strict=True))

    def figure(
        self, image: ImageSource | None = None, *, word: str | int | None = None, **style: Any
    ) -> matplotlib.figure.Figure:
        """Return a matplotlib figure that shows where the model looked for each word.

            captioner("photo.jpg").figure().savefig("figure.pdf")

        Args:
            image: the captioned image; by default its file is read again.
            word: show only this word, or the one of this index, counted from zero.
            style: settings of :class:`captioner.figures.Style`.

        Raises:
            CaptionerError: the caption has no attention to regions or cells, no file or no such word, or a setting is
                invalid.
            ImageError: the image cannot be read.
        """
        from captioner.figures import figure

        return figure(self, image, word=word, **style).draw()

    def save_figure(
        self,
        path: str | Path,
        image: ImageSource | None = None,
        *,
        format: str | None = None,
        word: str | int | None = None,
        **style: Any,
    ) -> Path:
        """Write a figure of where the model looked, completely or not at all.

        The format is .png, .pdf, .svg, .gif, .html or .json, by ``format`` or the file's name. See :meth:`figure` for
        the other arguments.

        Raises:
            CaptionerError: as :meth:`figure`, or there is no such format.
            ImageError: the image cannot be read.
        """
        from captioner.figures import figure

        return figure(self, image, word=word, **style).save(path, format)

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """Return the caption as plain values for JSON, with attention on request.

        ``others`` have only the language and text of their translations.
        """
        value: dict[str, Any] = {} if self.source is None else {"image": self.source}
        value |= {"caption": self.text, "tokens": self.tokens, "log_probability": round(self.log_probability, 4)}
        if self.translated_from is not None:
            value["translated_from"] = self.translated_from
        if self.translation is not None:
            value["translation"] = self.translation.to_dict(attention=attention)
        if self.others:
            value["others"] = [other._short() for other in self.others]
        if attention and self.attention is not None:
            value["attention"] = [[round(weight, 6) for weight in row] for row in self.attention.tolist()]
            value["grid"] = self.grid
            value["boxes"] = None if self.boxes is None else self.boxes.tolist()
            value["labels"] = self.labels
            value["scores"] = None if self.scores is None else [round(score, 4) for score in self.scores.tolist()]
            value["seen"] = self.seen
            value["attention_of"] = self.attention_of
        if attention and self.heads is not None:
            value["heads"] = np.round(self.heads, 6).tolist()
        return value

    def _short(self) -> dict[str, Any]:
        value: dict[str, Any] = {"caption": self.text, "log_probability": round(self.log_probability, 4)}
        if self.translation is not None:
            value["translation"] = {"language": self.translation.language, "text": self.translation.text}
        return value
