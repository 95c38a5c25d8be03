"""The contents and faults of a caption data set, to check before training on it."""

from __future__ import annotations

import math
import stat
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.data.dataset import EMPTY_CAPTION, CaptionData, CaptionedImage
from captioner.errors import ImageError

_TRAIN = ("train", "restval")


@dataclass(frozen=True)
class CountSummary:
    """A summary of counts, all zero if there are none; ``p95`` is one of the counts (nearest rank)."""

    min: int
    median: float
    mean: float
    p95: int
    max: int

    @classmethod
    def of(cls, counts: Iterable[int]) -> CountSummary:
        """Summarise whole numbers."""
        ordered = sorted(counts)
        if not ordered:
            return cls(0, 0.0, 0.0, 0, 0)
        p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
        return cls(ordered[0], float(statistics.median(ordered)), statistics.fmean(ordered), p95, ordered[-1])


@dataclass(frozen=True)
class SplitSummary:
    """The numbers of images, captions, captions per image and words per caption of one split."""

    photos: int
    captions: int
    captions_per_photo: CountSummary
    words_per_caption: CountSummary


@dataclass(frozen=True)
class VocabularySummary:
    """The vocabulary of a model trained on this data.

    Attributes:
        splits: the splits of the words: "train" and "restval", or every split if there is neither.
        min_count: occurrences that keep a word.
        words: number of distinct words.
        kept: number of distinct words that occur at least ``min_count`` times.
        coverage: for every split the share of its words, counted with repetition, that are kept, from 0 to 1.
    """

    splits: tuple[str, ...]
    min_count: int
    words: int
    kept: int
    coverage: dict[str, float]


@dataclass(frozen=True)
class Listing:
    """The number of items, and the first of them as text."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, items: Sequence[object], most: int = 10) -> Listing:
        """Count items and keep the first ``most``."""
        return cls(len(items), tuple(str(item) for item in items[:most]))


@dataclass(frozen=True)
class DuplicateImages:
    """Images with byte-identical files, and their splits."""

    image_ids: tuple[str, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True)
class DataReport:
    """The result of :func:`inspect_captions`; None if not checked.

    Attributes:
        missing: image files that do not exist.
        duplicates: groups of byte-identical images.
        leaks: groups in more than one split; "train" and "restval" count as one.
        unreadable: image files that exist but cannot be read, with the reason.
        repeated_captions: ids of images with a caption that occurs twice, word for word.
        empty_captions: number of captions without a word, including those skipped by the reader.
        problems: malformed records skipped by the reader.
        notes: assumptions of the reader.
    """

    name: str
    format: str
    splits: dict[str, SplitSummary]
    vocabulary: VocabularySummary
    missing: Listing | None
    duplicates: tuple[DuplicateImages, ...] | None
    leaks: tuple[DuplicateImages, ...] | None
    unreadable: Listing | None
    repeated_captions: Listing
    empty_captions: int
    problems: Listing
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return asdict(self)


def inspect_captions(
    data: CaptionData,
    *,
    tokenize: Callable[[str], list[str]],
    min_count: int = 5,
    check_files: bool = True,
    check_images: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Count the contents of a data set, and find faults that spoil training or inflate scores.

    Args:
        data: the data set, from :func:`~captioner.data.annotations.read_captions`.
        tokenize: splits a caption into words.
        min_count: occurrences in the train split that keep a word.
        check_files: find missing and byte-identical files; files of equal size, and images inside tar and Parquet
            files, are read completely.
        check_images: also decode every image, which is slow.
        progress: called with the number of files read and the number to read.
    """
    images: dict[str, list[CaptionedImage]] = {}
    for image in data.images:
        images.setdefault(image.split, []).append(image)
    words: dict[str, Counter[str]] = {}
    splits: dict[str, SplitSummary] = {}
    repeated: list[str] = []
    empty = sum(problem.reason == EMPTY_CAPTION for problem in data.problems)
    for split, members in images.items():
        counter: Counter[str] = Counter()
        lengths: list[int] = []
        for image in members:
            captions = [tuple(tokenize(caption)) for caption in image.captions]
            for caption in captions:
                counter.update(caption)
                lengths.append(len(caption))
            if len(set(captions)) < len(captions):
                repeated.append(image.image_id)
        empty += lengths.count(0)
        per_image = CountSummary.of(len(image.captions) for image in members)
        splits[split] = SplitSummary(len(members), len(lengths), per_image, CountSummary.of(lengths))
        words[split] = counter
    missing, duplicates, unreadable = _files(data.images, check_files, check_images, progress)
    leaks = None if duplicates is None else tuple(group for group in duplicates if _leaks(group))
    return DataReport(
        name=data.name,
        format=data.format,
        splits=splits,
        vocabulary=_vocabulary(words, min_count),
        missing=missing,
        duplicates=duplicates,
        leaks=leaks,
        unreadable=unreadable,
        repeated_captions=Listing.of(repeated),
        empty_captions=empty,
        problems=Listing.of(data.problems, 20),
        notes=data.notes,
    )


def _vocabulary(words: Mapping[str, Counter[str]], min_count: int) -> VocabularySummary:
    source = tuple(split for split in words if split in _TRAIN) or tuple(words)
    total: Counter[str] = Counter()
    for split in source:
        total.update(words[split])
    kept = {word for word, count in total.items() if count >= min_count}
    coverage = {}
    for split, counter in words.items():
        known = sum(count for word, count in counter.items() if word in kept)
        coverage[split] = known / max(counter.total(), 1)
    return VocabularySummary(source, min_count, len(total), len(kept), coverage)


def _files(
    images: Sequence[CaptionedImage], check_files: bool, check_images: bool, progress: Callable[[int, int], None] | None
) -> tuple[Listing | None, tuple[DuplicateImages, ...] | None, Listing | None]:
    """Return missing, identical and unreadable files; None for those not checked."""
    if not check_files and not check_images:
        return None, None, None
    from captioner.data.images import digest, load_image
    from captioner.data.packed import is_packed

    missing: list[Path] = []
    packed: list[Path] = []
    sizes: dict[Path, int] = {}
    for path in dict.fromkeys(image.path for image in images):
        try:
            status = path.stat()
        except (OSError, ValueError):
            status = None
        if status is not None and stat.S_ISREG(status.st_mode):
            sizes[path] = status.st_size
        elif is_packed(path):
            packed.append(path)
        else:
            missing.append(path)
    equal = Counter(sizes.values())
    # Only files of equal size can be identical; two images of one path are identical in any case.
    # The sizes of images inside other files are not known beforehand.
    to_hash = {path for path, size in sizes.items() if check_files and equal[size] > 1}
    to_hash.update(packed if check_files else ())
    to_read = [path for path in (*sizes, *packed) if check_images or path in to_hash]
    keys: dict[Path, str] = {path: str(path) for path in (*sizes, *packed)}
    unreadable: list[ImageError] = []
    for done, path in enumerate(to_read, 1):
        try:
            if path in to_hash:
                keys[path] = digest(path)
            if check_images:
                load_image(path)
        except ImageError as error:
            unreadable.append(error)
        if progress is not None:
            progress(done, len(to_read))
    groups: dict[str, list[CaptionedImage]] = {}
    for image in images:
        if image.path in keys:
            groups.setdefault(keys[image.path], []).append(image)
    duplicates = tuple(
        DuplicateImages(tuple(image.image_id for image in group), tuple(dict.fromkeys(image.split for image in group)))
        for group in groups.values()
        if len(group) > 1
    )
    # Without decoding, only the hashed files were opened: failures among them are known, but not their absence.
    failed = Listing.of(unreadable) if check_images or unreadable else None
    return Listing.of(missing), duplicates if check_files else None, failed


def _leaks(group: DuplicateImages) -> bool:
    return len({"train" if split in _TRAIN else split for split in group.splits}) > 1
