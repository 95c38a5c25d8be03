"""What is in a caption data set, and what is wrong with it, before anybody trains on it."""

from __future__ import annotations

import math
import stat
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.data.dataset import EMPTY_CAPTION, CaptionData, Photo
from captioner.errors import ImageError

_TRAIN = ("train", "restval")


@dataclass(frozen=True)
class Spread:
    """How a count is spread; all zero where nothing was counted. ``p95`` is the nearest rank: a count that occurs."""

    min: int
    median: float
    mean: float
    p95: int
    max: int

    @classmethod
    def of(cls, counts: Iterable[int]) -> Spread:
        """Summarise whole numbers."""
        ordered = sorted(counts)
        if not ordered:
            return cls(0, 0.0, 0.0, 0, 0)
        p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
        return cls(ordered[0], float(statistics.median(ordered)), statistics.fmean(ordered), p95, ordered[-1])


@dataclass(frozen=True)
class SplitSummary:
    """One split: how many photos and captions, captions per photo, words per caption."""

    photos: int
    captions: int
    captions_per_photo: Spread
    words_per_caption: Spread


@dataclass(frozen=True)
class VocabularySummary:
    """The words a model trained on this data would know.

    Attributes:
        splits: where the words come from: "train" and "restval", or every split when there is neither.
        min_count: how often a word must occur to be kept.
        words: distinct words.
        kept: distinct words that occur at least ``min_count`` times.
        coverage: for every other split the share of its words, counted with repetition, that are kept, from 0 to 1.
    """

    splits: tuple[str, ...]
    min_count: int
    words: int
    kept: int
    coverage: dict[str, float]


@dataclass(frozen=True)
class Found:
    """How many of something there are, and the first of them in words."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, things: Sequence[object], most: int = 10) -> Found:
        """Count things and keep the first ``most``."""
        return cls(len(things), tuple(str(thing) for thing in things[:most]))


@dataclass(frozen=True)
class Twins:
    """Photos whose files are the same to the byte, and the splits they are in."""

    image_ids: tuple[str, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What :func:`inspect_captions` found. What was not looked for is None.

    Attributes:
        missing: picture files that are not there.
        duplicates: groups of byte-identical photos.
        leaks: those of the groups that reach over more than one split; "train" and "restval" count as one.
        unreadable: picture files that are there but cannot be read, with the reason.
        repeated_captions: image ids that have a caption twice, in the same words.
        empty_captions: captions without a word, among them those that the reader has dropped.
        problems: malformed records that the reader skipped.
    """

    name: str
    format: str
    splits: dict[str, SplitSummary]
    vocabulary: VocabularySummary
    missing: Found | None
    duplicates: tuple[Twins, ...] | None
    leaks: tuple[Twins, ...] | None
    unreadable: Found | None
    repeated_captions: Found
    empty_captions: int
    problems: Found

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values that JSON can hold."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as plain text, a line an item."""
        return list(_lines(self))


def inspect_captions(
    data: CaptionData,
    *,
    tokenize: Callable[[str], list[str]],
    min_count: int = 5,
    check_files: bool = True,
    check_pictures: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Count what a data set holds and look for what spoils training or makes scores too good.

    Args:
        data: the data set, as read by :func:`~captioner.data.annotations.read_captions`.
        tokenize: splits a caption into words.
        min_count: how often a word must occur in the train split to be kept.
        check_files: look for missing and byte-identical files. Files of equal size are read as a whole.
        check_pictures: also decode every picture, which takes long.
        progress: called with the number of files done and to do, while files are read.
    """
    photos: dict[str, list[Photo]] = {}
    for photo in data.photos:
        photos.setdefault(photo.split, []).append(photo)
    words: dict[str, Counter[str]] = {}
    splits: dict[str, SplitSummary] = {}
    repeated: list[str] = []
    empty = sum(problem.reason == EMPTY_CAPTION for problem in data.problems)
    for split, members in photos.items():
        counter: Counter[str] = Counter()
        lengths: list[int] = []
        for photo in members:
            captions = [tuple(tokenize(caption)) for caption in photo.captions]
            for caption in captions:
                counter.update(caption)
                lengths.append(len(caption))
            if len(set(captions)) < len(captions):
                repeated.append(photo.image_id)
        empty += lengths.count(0)
        per_photo = Spread.of(len(photo.captions) for photo in members)
        splits[split] = SplitSummary(len(members), len(lengths), per_photo, Spread.of(lengths))
        words[split] = counter
    missing, duplicates, unreadable = _files(data.photos, check_files, check_pictures, progress)
    leaks = None if duplicates is None else tuple(twins for twins in duplicates if _leaks(twins))
    return Report(
        name=data.name,
        format=data.format,
        splits=splits,
        vocabulary=_vocabulary(words, min_count),
        missing=missing,
        duplicates=duplicates,
        leaks=leaks,
        unreadable=unreadable,
        repeated_captions=Found.of(repeated),
        empty_captions=empty,
        problems=Found.of(data.problems, 20),
    )


def _vocabulary(words: Mapping[str, Counter[str]], min_count: int) -> VocabularySummary:
    source = tuple(split for split in words if split in _TRAIN) or tuple(words)
    total: Counter[str] = Counter()
    for split in source:
        total.update(words[split])
    kept = {word for word, count in total.items() if count >= min_count}
    coverage = {}
    for split, counter in words.items():
        if split not in source:
            known = sum(count for word, count in counter.items() if word in kept)
            coverage[split] = known / max(counter.total(), 1)
    return VocabularySummary(source, min_count, len(total), len(kept), coverage)


def _files(
    photos: Sequence[Photo], check_files: bool, check_pictures: bool, progress: Callable[[int, int], None] | None
) -> tuple[Found | None, tuple[Twins, ...] | None, Found | None]:
    """What is missing, what is there twice, what cannot be read; None for what was not asked."""
    if not check_files and not check_pictures:
        return None, None, None
    from captioner.data.images import digest, load_image

    missing: list[Path] = []
    sizes: dict[Path, int] = {}
    for path in dict.fromkeys(photo.path for photo in photos):
        try:
            status = path.stat()
        except (OSError, ValueError):
            status = None
        if status is not None and stat.S_ISREG(status.st_mode):
            sizes[path] = status.st_size
        else:
            missing.append(path)
    equal = Counter(sizes.values())
    # Only files of equal size can be the same; two photos of one path are the same without a look.
    to_hash = {path for path, size in sizes.items() if check_files and equal[size] > 1}
    to_read = [path for path in sizes if check_pictures or path in to_hash]
    keys: dict[Path, str] = {path: str(path) for path in sizes}
    unreadable: list[ImageError] = []
    for done, path in enumerate(to_read, 1):
        try:
            if path in to_hash:
                keys[path] = digest(path)
            if check_pictures:
                load_image(path)
        except ImageError as error:
            unreadable.append(error)
        if progress is not None:
            progress(done, len(to_read))
    groups: dict[str, list[Photo]] = {}
    for photo in photos:
        if photo.path in keys:
            groups.setdefault(keys[photo.path], []).append(photo)
    twins = tuple(
        Twins(tuple(photo.image_id for photo in group), tuple(dict.fromkeys(photo.split for photo in group)))
        for group in groups.values()
        if len(group) > 1
    )
    # Without decoding, only the files that had to be hashed were opened: no claim can be made but that some failed.
    failed = Found.of(unreadable) if check_pictures or unreadable else None
    return Found.of(missing), twins if check_files else None, failed


def _leaks(twins: Twins) -> bool:
    return len({"train" if split in _TRAIN else split for split in twins.splits}) > 1


# --------------------------------------------------------------------------------------------------------- plain text


def _lines(report: Report) -> Iterator[str]:
    photos = sum(split.photos for split in report.splits.values())
    captions = sum(split.captions for split in report.splits.values())
    yield f"{report.name} ({report.format}): {photos:,} photos with {captions:,} captions"
    yield ""
    yield from _table(report.splits)
    yield ""
    vocabulary = report.vocabulary
    yield (
        f"Vocabulary of {' + '.join(vocabulary.splits) or 'nothing'}: {vocabulary.words:,} words, "
        f"{vocabulary.kept:,} of them at least {vocabulary.min_count} times"
    )
    for split, share in vocabulary.coverage.items():
        yield f"  these make {share:.2%} of the words in {split}"
    yield from _found("Missing pictures", report.missing)
    yield from _found("Unreadable pictures", report.unreadable)
    if report.duplicates is not None and report.leaks is not None:
        yield from _twins("Byte-identical pictures", report.duplicates)
        yield from _twins("The same picture in more than one split", report.leaks)
    yield from _found("Photos that have a caption twice", report.repeated_captions)
    yield f"Empty captions: {report.empty_captions or 'none'}"
    yield from _found("Malformed records", report.problems)


def _table(splits: Mapping[str, SplitSummary]) -> Iterator[str]:
    rows = [("split", "photos", "captions", "captions per photo", "words per caption")]
    rows.append(("", "", "", "min / mean / max", "min / median / mean / p95 / max"))
    for name, split in splits.items():
        per, length = split.captions_per_photo, split.words_per_caption
        ranges = f"{per.min} / {per.mean:.1f} / {per.max}"
        lengths = f"{length.min} / {length.median:g} / {length.mean:.1f} / {length.p95} / {length.max}"
        rows.append((name, f"{split.photos:,}", f"{split.captions:,}", ranges, lengths))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _found(title: str, found: Found | None) -> Iterator[str]:
    if found is not None:
        yield from _list(title, found.count, found.first)


def _twins(title: str, groups: Sequence[Twins]) -> Iterator[str]:
    shown = [f"{' = '.join(twins.image_ids)} ({', '.join(twins.splits)})" for twins in groups[:10]]
    yield from _list(title, len(groups), shown)


def _list(title: str, count: int, shown: Sequence[str]) -> Iterator[str]:
    yield f"{title}: {f'{count:,}' if count else 'none'}"
    for item in shown:
        yield f"  {item}"
    if count > len(shown):
        yield f"  ... and {count - len(shown):,} more"
