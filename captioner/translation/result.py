"""A translation: plain values and numpy arrays, usable without torch.

Letters in shapes: T pieces written, S pieces or words of the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from captioner.caption import Array, EqualArrays
from captioner.text.vocabulary import EOS, SPECIAL

if TYPE_CHECKING:
    from pathlib import Path

_PUNCTUATION = ".,;:!?\"'()[]„“”‚‘’«»…–—"


@dataclass(frozen=True, eq=False)
class Translation(EqualArrays):
    """The translation of one text.

    A piece is a word or a part of one, as :class:`captioner.text.subwords.Subwords` splits it.

    Attributes:
        text: the translation.
        tokens: its T pieces as written by the model; one that begins a word begins with a space.
        source_tokens: the S pieces read by the model, ``<eos>`` at the end; truncated at the model's limit.
        log_probability: the sum over the pieces and the end, in nats.
        attention: (T, S) float32, the weight of every source piece for every piece written, each row summing to one;
            ``None`` if the model does not attend.
        others: the next best translations, best first.
        source: the text that was translated.
        language: the language of ``text``, for example ``de``.
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

    @property
    def is_cut(self) -> bool:
        """Whether the source is longer than the model reads, so that the translation lacks its end."""
        return bool(self.source_tokens) and self.source_tokens[-1] != SPECIAL[EOS]

    def words(self) -> tuple[list[str], list[str], Array | None]:
        """Return the written words, the read words and the attention between them.

        A piece that begins with a space begins a word. Attention is summed over the pieces of a read word and averaged
        over those of a written word, which keeps the sum of each row at one.
        """
        written, rows = _join_pieces(self.tokens)
        read, columns = _join_pieces(self.source_tokens)
        if self.attention is None:
            return written, read, None
        wide = _sum_groups(self.attention.T, columns, len(read)).T
        counts = np.bincount(rows, minlength=len(written)).astype(wide.dtype)
        return written, read, _sum_groups(wide, rows, len(written)) / counts[:, None]

    def save_figure(self, path: str | Path, *, format: str | None = None) -> Path:
        """Write the alignment of written words with words of the source, completely or not at all.

        The format is .png, .pdf, .svg, .html or .json, by ``format`` or the file's name.

        Raises:
            CaptionerError: the translation is empty, its model does not attend, or there is no such format.
        """
        from captioner.figures.alignment import Alignment

        return Alignment(self).save(path, format)

    def _words_from(self, spans: Sequence[tuple[int, int]]) -> tuple[list[str], Array | None]:
        """Return the W words of the translation and their attention (W, S) to words of the source.

        Punctuation is left out on both sides, and rows sum to one.

        Args:
            spans: start and end in the source, in characters, of each of its S words.
        """
        words, rows = _join_pieces(self.tokens)
        kept = [number for number, word in enumerate(words) if _has_letters(word)]
        names = [words[number].strip(_PUNCTUATION) for number in kept]
        if self.attention is None:
            return names, None
        counted = np.array([[_has_letters(piece)] for piece in self.tokens], dtype=bool).reshape(-1, 1)
        rendered = _sum_groups(self.attention * counted, rows, len(words))[kept]
        edges = list(accumulate(map(len, self.source_tokens), initial=-1))  # the space in front is not in the source
        pieces = list(pairwise(edges))
        shared = np.array(
            [[max(0, min(end, b) - max(start, a)) for start, end in spans] for a, b in pieces],
            dtype=self.attention.dtype,
        ).reshape(len(pieces), len(spans))
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


def _sum_groups(rows: Array, groups: Sequence[int], count: int) -> Array:
    """Add up the rows (M, ...) of each of ``count`` groups: (count, ...)."""
    sums = np.zeros((count, *rows.shape[1:]), rows.dtype)
    np.add.at(sums, list(groups), rows)
    return sums


def _join_pieces(pieces: Sequence[str]) -> tuple[list[str], list[int]]:
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
