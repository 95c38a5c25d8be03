"""Sentence pairs: reading them, and drawing batches for training.

Tensor letters: B sentences, S words of the longest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from captioner.data.dataset import SkippedRecord
from captioner.errors import AnnotationError
from captioner.text.vocabulary import PAD


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation."""

    source: str
    target: str


@dataclass(frozen=True)
class ParallelText:
    """A split of sentence pairs, in the order of its files.

    Attributes:
        name: names of the folder and the split.
        pairs: the pairs.
        problems: the lines that were skipped.
        lines: the line number of each pair in the files; a gap, such as an empty line, ends a text.
    """

    name: str
    pairs: tuple[Pair, ...]
    problems: tuple[SkippedRecord, ...] = ()
    lines: tuple[int, ...] = ()


def read_parallel(folder: str | Path, split: str, *, source: str, target: str) -> ParallelText:
    """Read ``split.source`` and ``split.target`` of a folder, for example ``train.en`` and ``train.de``.

    Line n of one file is the translation of line n of the other. White space is normalised. A pair with an empty line
    is skipped and reported.

    Raises:
        AnnotationError: a file is missing or not UTF-8 text, the two have different numbers of lines, or no pair is
            left.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AnnotationError(
            f"{folder}: no such folder; give the one that holds {split}.{source} and {split}.{target}"
        )
    paths = folder / f"{split}.{source}", folder / f"{split}.{target}"
    sources, targets = (_read_lines(path) for path in paths)
    if len(sources) != len(targets):
        raise AnnotationError(
            f"{paths[0]} has {len(sources):,} lines and {paths[1].name} {len(targets):,}; "
            "line n of one must be the translation of line n of the other"
        )
    pairs, problems, numbers = [], [], []
    for number, texts in enumerate(zip(sources, targets, strict=True), start=1):
        if all(texts):
            pairs.append(Pair(*texts))
            numbers.append(number)
        else:
            problems.append(SkippedRecord(f"{paths[texts.index('')]}:{number}", "the line is empty"))
    if not pairs:
        raise AnnotationError(f"{paths[0]}: there is no complete pair of sentences in it and {paths[1].name}")
    return ParallelText(f"{folder.name}/{split}", tuple(pairs), tuple(problems), tuple(numbers))


def runs(lines: Sequence[int], longest: int) -> list[list[int]]:
    """Cut a text into runs of consecutive lines, which are context for each other.

    Args:
        lines: the number of each line in its file, ascending.
        longest: maximum number of lines in a run.

    Returns:
        The runs, as indices of their lines.
    """
    found: list[list[int]] = []
    for index, line in enumerate(lines):
        if index == 0 or line != lines[index - 1] + 1 or len(found[-1]) == longest:
            found.append([])
        found[-1].append(index)
    return found


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        names = ", ".join(sorted(other.name for other in path.parent.iterdir() if other.is_file())[:10])
        raise AnnotationError(f"{path}: no such file; the folder has {names or 'no files'}") from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from None
    # Unlike split(), splitlines() also splits within lines, for example at U+2028, which would misalign the files.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [" ".join(line.split()) for line in lines]


def collate(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Pad B encoded sentences to (B, S)."""
    rows = [torch.tensor(sentence, dtype=torch.long) for sentence in sentences]
    if not rows:
        return torch.empty(0, 0, dtype=torch.long)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


class LengthSampler:
    """Draws the batches of an epoch, each of pairs of similar length, determined by seed and epoch.

    Every pair occurs once per epoch. Pairs of equal length and the order of batches are shuffled in every epoch; the
    sizes of the batches are fixed, so all epochs have the same number of batches.

    Args:
        lengths: length of the longer side of every pair, or the maximum over a run of pairs.
        tokens: maximum number of tokens in a batch on either side, padding included; a longer pair is a batch alone.
        seed: the random seed.
        pairs: number of pairs in each run, if runs are drawn.
    """

    def __init__(self, lengths: Sequence[int], *, tokens: int, seed: int, pairs: Sequence[int] | None = None) -> None:
        pairs = pairs or [1] * len(lengths)
        self.seed = seed
        self.keys = torch.tensor(lengths) * (max(pairs, default=1) + 1) + torch.tensor(pairs)  # by length, then pairs
        starts, together = [0], 0
        for index, (length, number) in enumerate(sorted(zip(lengths, pairs, strict=True))):
            together += number
            if index > starts[-1] and together * length > tokens:
                starts.append(index)
                together = number
        self.slices = [slice(start, end) for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True)]

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.slices)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[list[int]]:
        """Yield the pairs of each batch of epoch ``number``, without the first ``skip`` batches."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
        shuffled = torch.randperm(len(self.keys), generator=generator)
        order = shuffled[self.keys[shuffled].argsort(stable=True)].tolist()
        for batch in torch.randperm(len(self.slices), generator=generator)[skip:].tolist():
            yield order[self.slices[batch]]
