"""The output of models, with the attention for each word: a caption of a picture, a translation of a text.

They are plain values and numpy arrays, so that whoever has them needs no torch.

Letters in shapes: T words written, N places of a picture, S pieces of a text read, L blocks, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from captioner.text.vocabulary import EOS, SPECIAL, spans

if TYPE_CHECKING:
    from pathlib import Path

    import matplotlib.figure

    from captioner.data.images import ImageSource

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

#: kinds of attention: the mean over all heads, rollout through all blocks, each head separately
MEAN, ROLLOUT, HEADS = "mean", "rollout", "heads"

_MARKS = ".,;:!?\"'()[]„“”‚‘’«»…–—"


@dataclass(frozen=True)
class Caption:
    """A caption of one picture.

    Attributes:
        text: a readable sentence.
        tokens: its T words as the model wrote them.
        log_probability: the sum over the words and the end, in nats.
        attention: (T, N) float32, the weight of every place for every word, each row summing to one; ``None`` if the
            model does not attend.
        grid: (rows, columns) when the places are a grid in row-major order.
        boxes: (N, 4) relative xyxy boxes when the places are regions.
        seen: the part of the picture that the model sees, a relative xyxy box; places lie within it.
        source: the file or description of the picture.
        others: the next best captions of the same picture, best first.
        attention_of: the kind of attention: ``mean`` over all heads, ``rollout``, or one head; see
            :func:`captioner.engines.attention_rollout.recompute_attention`.
        labels: the detector's class for each of the N regions, "" for a place without a region; ``None`` if the places
            are not regions.
        scores: (N,) how sure the detector is of each label; ``None`` without labels.
        heads: (T, L, H, N) float32, the attention of each of the H heads of the L blocks of a Transformer, if
            requested.
        translation: the caption in another language, if :meth:`Translator.captions` added it; its attention is over the
            pieces of ``text``.
        translated_from: what the model wrote, if this is the translation of it; see :meth:`translated`.
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

    def translated(self) -> Caption:
        """Return the translation as a caption of the picture, whose words have looked where those they render did.

        With A (T, N) the caption's attention and B the share of the translation's attention that each word of the
        caption has, row by row, the attention of the translation's words to the picture is ``B A``. Marks such as a
        full stop look at nothing. Others that have a translation are translated too.

            Translator.for_language("de").caption(captioner("photo.jpg")).translated().figure()

        Raises:
            ValueError: there is no translation; :meth:`Translator.caption` adds one.
        """
        if self.translation is None:
            raise ValueError("this caption has no translation; Translator.caption(caption) adds one")
        words, weights = self.translation._words_of(spans(self.tokens))
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

    def words_at(self, place: tuple[float, float]) -> list[tuple[str, float]]:
        """Return every word with its attention to the point (x, y) of the picture, relative, in 0..1.

        A point gets the attention of its cell of a grid, or the sum over the regions that contain it; a point that the
        model did not see gets zero.

        Raises:
            ValueError: the caption has no attention, or the point is outside the picture.
        """
        if self.attention is None:
            raise ValueError("this caption has no attention: its model does not attend")
        x, y = place
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"the point {place} is outside the picture; x and y are relative, from 0 to 1")
        x0, y0, x1, y1 = self.seen
        x, y = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        if not (0 <= x <= 1 and 0 <= y <= 1):
            weights = np.zeros(len(self.tokens))
        elif self.grid is not None:
            rows, columns = self.grid
            weights = self.attention[:, min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1)]
        elif self.boxes is not None:
            inside = (
                (self.boxes[:, 0] <= x) & (x <= self.boxes[:, 2]) & (self.boxes[:, 1] <= y) & (y <= self.boxes[:, 3])
            )
            weights = self.attention[:, inside].sum(1)
        else:
            raise ValueError("the places of this caption do not lie in a picture")
        return list(zip(self.tokens, weights.tolist(), strict=True))

    def figure(
        self, picture: ImageSource | None = None, *, word: str | int | None = None, **style: Any
    ) -> matplotlib.figure.Figure:
        """Return a matplotlib figure that shows where the model looked for each word.

            captioner("photo.jpg").figure().savefig("figure.pdf")

        Args:
            picture: the captioned picture; by default its file is read again.
            word: show only this word, or the one of this index, counted from zero.
            style: settings of :class:`captioner.figures.Style`.

        Raises:
            CaptionerError: the caption has no attention to places in a picture, does not know its file, has no such
                word, or a setting makes no sense.
            ImageError: the picture cannot be read.
        """
        from captioner.figures import figure

        return figure(self, picture, word=word, **style).draw()

    def save_figure(
        self,
        path: str | Path,
        picture: ImageSource | None = None,
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
            ImageError: the picture cannot be read.
        """
        from captioner.figures import figure

        return figure(self, picture, word=word, **style).save(path, format)

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """Return the caption as plain values for JSON; attention matrices only on request.

        A translated one has ``translation``, as :meth:`Translation.to_dict` returns it; in ``others`` only its language
        and text.
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


@dataclass(frozen=True)
class Translation:
    """The translation of one text.

    A piece is a word or a part of one, as :class:`captioner.text.subwords.Subwords` splits it.

    Attributes:
        text: the translation.
        tokens: its T pieces as the model wrote them; one that begins a word begins with a space.
        source_tokens: the S pieces that the model read, ``<eos>`` at the end; truncated if the text was too long for
            the model.
        log_probability: the sum over the pieces and the end, in nats.
        attention: (T, S) float32, the weight of every source piece for every piece written, each row summing to one;
            ``None`` if the model does not attend.
        others: the next best translations, best first.
        source: the text that was translated.
        language: of ``text``, by the model's name for it, for example ``de``.
    """

    text: str
    tokens: list[str]
    source_tokens: list[str]
    log_probability: float
    attention: Array | None = None
    others: list[Translation] = field(default_factory=list)
    source: str = ""
    language: str = ""

    def __str__(self) -> str:
        return self.text

    def words(self) -> tuple[list[str], list[str], Array | None]:
        """Return the written words, the read words and the attention between them.

        A word is a piece that begins with a space and those after it up to the next such. Attention is summed over the
        pieces of a read word and averaged over those of a written word, so that rows still sum to one.
        """
        written, rows = _join(self.tokens)
        read, columns = _join(self.source_tokens)
        if self.attention is None:
            return written, read, None
        wide = _sums(self.attention.T, columns, len(read)).T
        counts = np.bincount(rows, minlength=len(written)).astype(wide.dtype)
        return written, read, _sums(wide, rows, len(written)) / counts[:, None]

    def save_figure(self, path: str | Path, *, format: str | None = None) -> Path:
        """Write the alignment, that is which word of the source each word looked at, completely or not at all.

        The format is .png, .pdf, .svg, .html or .json, by ``format`` or the file's name.

        Raises:
            CaptionerError: the translation is empty, its model does not attend, or there is no such format.
        """
        from captioner.figures.alignment import Alignment

        return Alignment(self).save(path, format)

    def _words_of(self, source: Sequence[tuple[int, int]]) -> tuple[list[str], Array | None]:
        """Return the W words of the translation, and the share (W, T) of T words of its source in each.

        Words of the source are given by where they stand in it. Marks beside words are left out on both sides, and
        rows sum to one.
        """
        words, rows = _join(self.tokens)
        kept = [number for number, word in enumerate(words) if _has_letters(word)]
        names = [words[number].strip(_MARKS) for number in kept]
        if self.attention is None:
            return names, None
        counted = np.array([[_has_letters(piece)] for piece in self.tokens], dtype=bool).reshape(-1, 1)
        rendered = _sums(self.attention * counted, rows, len(words))[kept]
        edges = list(accumulate(map(len, self.source_tokens), initial=-1))  # the space in front is not in the source
        pieces = list(pairwise(edges))
        shared = np.array(
            [[max(0, min(end, b) - max(start, a)) for start, end in source] for a, b in pieces],
            dtype=self.attention.dtype,
        ).reshape(len(pieces), len(source))
        shares = rendered @ (shared / shared.sum(1, keepdims=True).clip(min=1)) + 1e-12
        return names, shares / shares.sum(1, keepdims=True)

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """Return the translation as plain values for JSON; attention and the source's pieces only on request."""
        value: dict[str, Any] = {"language": self.language, "text": self.text, "source": self.source}
        value |= {"tokens": self.tokens, "log_probability": round(self.log_probability, 4)}
        if self.others:
            value["others"] = [
                {"text": other.text, "log_probability": round(other.log_probability, 4)} for other in self.others
            ]
        if attention and self.attention is not None:
            value["source_tokens"] = self.source_tokens
            value["attention"] = [[round(weight, 6) for weight in row] for row in self.attention.tolist()]
        return value


def _has_letters(text: str) -> bool:
    return any(letter.isalnum() for letter in text)


def _sums(rows: Array, groups: Sequence[int], count: int) -> Array:
    """Add up the rows (M, ...) of each of ``count`` groups: (count, ...)."""
    sums = np.zeros((count, *rows.shape[1:]), rows.dtype)
    np.add.at(sums, list(groups), rows)
    return sums


def _join(pieces: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the words that the pieces form, and for every piece the index of its word."""
    words: list[str] = []
    numbers = []
    for piece in pieces:
        if piece.startswith(" ") or piece == SPECIAL[EOS] or not words:
            words.append(piece.removeprefix(" "))
        else:
            words[-1] += piece
        numbers.append(len(words) - 1)
    return words, numbers
