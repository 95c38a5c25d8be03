"""The training and dev captions of a run."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captioner.data.annotations import CaptionData, merge, read_captions
from captioner.data.dataset import UNDIVIDED, CaptionedImage, split_name
from captioner.data.find import find_images
from captioner.errors import AnnotationError, first_line
from captioner.features import FeatureStore
from captioner.text.vocabulary import SPECIAL, Vocabulary, tokenize
from captioner.training.forecast import evenly_spaced
from captioner.training.recipe import DataConfig, TrainConfig


def read_data(config: TrainConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Read the training and the dev data.

    ``warn`` is called with assumptions about the format, a summary of malformed records, and unused splits. Unlabelled
    images for a teacher are among the training images, without captions.

    Raises:
        AnnotationError: the data cannot be used.
    """
    settings = config.data
    data = read_captions(settings.path, images=settings.images, strict=settings.strict)
    others = [read_captions(path, strict=settings.strict) for path in settings.also]
    for read in (data, *others):
        for note in read.notes:
            warn(note)
        if summary := read.problem_summary():
            warn(f"{summary}, data.strict=true refuses them")
    train, dev = _splits(data, settings, warn)
    if others:
        train, dev = _merge_splits([(train, dev), *map(_splits_of_additional, others)])
    train = _with_words(train, warn)
    if settings.exclude is not None:
        train = _exclude_listed(train, settings.exclude, warn)
    _warn_of_shared_images(train, dev, warn)
    if settings.teacher.unlabelled:
        known = (image for read in (data, *others) for image in read.images)
        train = _add_unlabelled(train, known, settings.teacher.unlabelled, warn)
    return train, dev


def _splits_of_additional(data: CaptionData) -> tuple[CaptionData, CaptionData | None]:
    if not {"train", "restval", UNDIVIDED} & set(data.splits):
        raise AnnotationError(
            f"data.also: {data.name}: has no images to train on; they must be in the splits train or restval, or in "
            f"none, and are in {', '.join(data.splits)}"
        )
    dev = data.split("dev") if {"dev", "val"} & set(data.splits) else None
    return _training_images(data, "train", restval=True), dev


def _merge_splits(pairs: Sequence[tuple[CaptionData, CaptionData | None]]) -> tuple[CaptionData, CaptionData]:
    """Merge the training and dev splits of data sets; an image id is unique among the images of both."""
    sets = []
    for train, dev in pairs:
        parts = {"train": train.images, "dev": dev.images if dev is not None else ()}
        images = tuple(replace(image, split=split) for split, images in parts.items() for image in images)
        sets.append(replace(train, images=images))
    merged = merge(*sets)
    names = dict.fromkeys(dev.name for _, dev in pairs if dev is not None)
    return merged.split("train"), replace(merged.split("dev"), name="+".join(names))


def _with_words(train: CaptionData, warn: Callable[[str], object]) -> CaptionData:
    """Leave out captions without a word, such as "...", which would teach the model to write nothing.

    Raises:
        AnnotationError: no caption has a word.
    """

    def has_word(caption: str) -> bool:
        return any(map(str.isalnum, caption)) or bool(tokenize(caption))

    wordless = [caption for image in train.images for caption in image.captions if not has_word(caption)]
    if not wordless:
        return train
    images = (replace(image, captions=tuple(filter(has_word, image.captions))) for image in train.images)
    kept = tuple(image for image in images if image.captions)
    if not kept:
        raise AnnotationError(f"{train.name}: no training caption has a word, the first: {wordless[0]!r:.60}")
    warn(f"{train.name}: {len(wordless):,} captions without a word, such as {wordless[0]!r:.60}, are left out")
    return replace(train, images=kept)


def _exclude_listed(train: CaptionData, path: Path, warn: Callable[[str], object]) -> CaptionData:
    """Leave out the images whose ids a file lists, and warn of ids that no training image has.

    Raises:
        AnnotationError: the file cannot be read, or lists no training image.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"data.exclude: {path}: not readable as text ({first_line(error)})") from None
    ids = {image.image_id for image in train.images}
    listed = dict.fromkeys(line.strip() if line.strip() in ids else line.partition("#")[0].strip() for line in lines)
    listed.pop("", None)
    kept = tuple(image for image in train.images if image.image_id not in listed)
    example = f"list ids such as {train.images[0].image_id!r}, one on each line"
    if len(kept) == len(train.images):
        raise AnnotationError(
            f"data.exclude: {path}: none of its {len(listed):,} ids is that of a training image; {example}"
        )
    if not kept:
        raise AnnotationError(f"data.exclude: {path}: lists all training images of {train.name}")
    if unknown := [image_id for image_id in listed if image_id not in ids]:
        warn(
            f"data.exclude: {path}: {len(unknown):,} of its {len(listed):,} ids, such as {unknown[0]!r}, are not those "
            f"of training images; if they should be, {example}"
        )
    return replace(train, images=kept)


def _warn_of_shared_images(train: CaptionData, dev: CaptionData, warn: Callable[[str], object]) -> None:
    """Warn of training images that are also in dev, or several times in the training data, by comparing their files."""
    names = Counter(image.path.name for image in (*train.images, *dev.images))
    files = {
        image.path: os.path.realpath(image.path) for image in (*train.images, *dev.images) if names[image.path.name] > 1
    }
    dev_files = {files[image.path] for image in dev.images if image.path in files}
    both = [image for image in train.images if files.get(image.path) in dev_files]
    uses = Counter(files[image.path] for image in train.images if image.path in files)
    if several := [path for path, count in uses.items() if count > 1]:
        warn(
            f"{train.name}: {len(several):,} images, such as {several[0]}, are in the training data several times and "
            "are learned as often; list an id of each in data.exclude, or leave out a data set"
        )
    if both:
        warn(
            f"{train.name}: {len(both):,} training images, such as {both[0].path}, are in dev too, so its score does "
            "not show how the model captions new images; list their ids in data.exclude, or choose other splits"
        )


def _add_unlabelled(
    train: CaptionData, known: Iterable[CaptionedImage], folders: Sequence[Path], warn: Callable[[str], object]
) -> CaptionData:
    """Add the images in folders and their subfolders, except those that are in the data in any split.

    Raises:
        AnnotationError: there is no such folder, or it has no new images.
    """
    known_files = {os.path.realpath(image.path) for image in known}
    images = []
    for folder in folders:
        if not folder.is_dir():
            raise AnnotationError(f"data.teacher.unlabelled: {folder}: there is no such folder; give one with images")
        found = list(dict.fromkeys(os.path.realpath(path) for path in find_images([folder], recursive=True)))
        new = [path for path in found if path not in known_files]
        if not new:
            what = f"all of its {len(found):,} images are in the data already" if found else "has no images"
            raise AnnotationError(f"data.teacher.unlabelled: {folder}: {what}; leave it out")
        if len(new) < len(found):
            warn(f"{folder}: {len(found) - len(new):,} of its {len(found):,} images are in the data and left out")
        known_files.update(new)
        images += [CaptionedImage(path, Path(path), "train", ()) for path in new]
    name = "+".join(dict.fromkeys([train.name, *(folder.resolve().name for folder in folders)]))
    return replace(train, name=name, images=(*train.images, *images))


def _training_images(data: CaptionData, split: str, *, restval: bool) -> CaptionData:
    """Return the images to train on; if no image is in a training split, those without a split."""
    splits = data.splits
    undivided = split_name(split) == "train" and UNDIVIDED in splits and not {"train", "restval"} & set(splits)
    return data.split(UNDIVIDED if undivided else split, restval=restval)


def _splits(data: CaptionData, settings: DataConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Return the training and dev splits; without a dev split, a fixed choice of training images is held out."""
    train = _training_images(data, settings.train, restval=settings.restval)
    has_dev = split_name(settings.dev) != "dev" or {"dev", "val"} & set(data.splits)
    dev = data.split(settings.dev) if has_dev else None
    used = {image.split for part in (train, dev) if part is not None for image in part.images}
    for split, count in data.splits.items():
        if split not in used | {"test"}:
            where = "without a split" if split == UNDIVIDED else f"in the split {split!r}"
            warn(
                f"{data.name}: {count:,} images {where} are not used; data.train and data.dev name the splits that are"
            )
    if dev is not None:
        return train, dev
    if len(train.images) < 2:
        raise AnnotationError(f"{data.name}: one image cannot both be trained on and select the best epoch; add images")
    # Sorted by the hash of their ids, so an added image hardly changes the choice.
    shuffled = sorted(train.images, key=lambda image: hashlib.sha256(os.fsencode(image.image_id)).digest())
    few = min(max(1, round(settings.dev_share * len(shuffled))), len(shuffled) - 1)
    warn(
        f"{data.name}: has no split {settings.dev!r}, so {few} of its {len(shuffled)} images select the best epoch"
        + ("; so few that it is mostly chance" if few < 20 else "")
    )
    chosen = {image.image_id for image in shuffled[:few]}
    kept, held_out = (
        tuple(image for image in train.images if (image.image_id in chosen) is wanted) for wanted in (False, True)
    )
    return replace(train, images=kept), replace(train, images=held_out)


MIN_KNOWN_SHARE = 0.5
"""Share of the words in the training captions that the vocabulary must have; a search never writes the others."""

_LONG_WORD = 12  # letters of a word; German and Finnish have 6 on average


@dataclass(frozen=True)
class Coverage:
    """The share of captions that a model can learn.

    Attributes:
        known: share of words that are in the vocabulary, from 0 to 1.
        cut: share of captions that are cut, from 0 to 1.
        letters: mean number of letters of a word.
    """

    known: float
    cut: float
    letters: float

    @classmethod
    def of(cls, captions: Sequence[str], vocabulary: Vocabulary, *, max_words: int) -> Coverage:
        """Measure the coverage of captions."""
        words = [tokenize(caption) for caption in captions]
        count = max(1, sum(map(len, words)))
        known = sum(word in vocabulary for caption in words for word in caption)
        letters = sum(len(word) for caption in words for word in caption)
        cut = sum(len(caption) > max_words for caption in words)
        return cls(known / count, cut / max(1, len(words)), letters / count)


def check_coverage(
    train: CaptionData,
    dev: CaptionData,
    vocabulary: Vocabulary,
    config: TrainConfig,
    warn: Callable[[str], object],
    *,
    new: int = 0,
) -> Coverage | None:
    """Return the coverage of the training captions by a vocabulary; ``None`` if there are no captions.

    It is measured on the captions of at most 5,000 images.

    Args:
        train: the training images.
        dev: the images that select the best epoch.
        vocabulary: the model's vocabulary.
        config: the settings of the run.
        warn: called with problems of the captions, such as low coverage on dev.
        new: number of words added to the start model's vocabulary, which come last.

    Raises:
        AnnotationError: coverage of the training captions is below :data:`MIN_KNOWN_SHARE`.
    """
    settings, coverage = config.data, None
    for data, name in ((dev, "dev"), (train, "training")):
        captions = [caption for image in evenly_spaced(data.images, 5000) for caption in image.captions]
        if not captions:
            continue
        coverage = Coverage.of(captions, vocabulary, max_words=settings.max_words)
        if coverage.known < MIN_KNOWN_SHARE:
            if coverage.letters > _LONG_WORD:
                advice = f"words have {coverage.letters:.0f} letters on average: put spaces between the words"
            elif config.start is not None and not config.new_words:
                advice = "set new_words=true to extend it"
            elif settings.min_count > 1:
                advice = f"lower data.min_count, which is {settings.min_count}, to keep rarer words; or add captions"
            else:
                advice = "add captions"
            message = (
                f"{data.name}: the vocabulary of {len(vocabulary) - len(SPECIAL):,} words has {coverage.known:.0%} "
                f"of the words in the {name} captions, such as {captions[0][:60]!r}, and the model can write no "
                f"others; {advice}"
            )
            if data is train:
                raise AnnotationError(message)
            warn(message)
    if coverage is None:
        return None
    if new:
        before = Vocabulary(vocabulary.words[len(SPECIAL) : len(vocabulary) - new])
        known = Coverage.of(captions, before, max_words=settings.max_words).known
        if known < MIN_KNOWN_SHARE:
            warn(
                f"{train.name}: the vocabulary of {config.start} has {known:.0%} of the words in the captions, perhaps "
                "in another language; it is of little use as a start: a recipe that trains from scratch, such as "
                "flickr8k_show_attend_tell with data.path set, will do better"
            )
    if coverage.cut > 0.05:
        search = "model.search.max_words" if config.start is None else "in captioner caption --max-words"
        warn(
            f"{train.name}: {coverage.cut:.0%} of the captions have more than {settings.max_words} words and are cut "
            f"there; to learn them whole, raise data.max_words, and with it evaluation.search.max_words and {search}"
        )
    if len(set(captions)) == 1 < len(captions):
        warn(f"{train.name}: all captions are {captions[0]!r}, so the model will write that for every image")
    return coverage


def with_features(
    data: CaptionData, store: FeatureStore, given: Path | None, warn: Callable[[str], object]
) -> CaptionData:
    """Leave out images without features, and warn of them.

    Args:
        data: the images.
        store: their features.
        given: the folder of the store in the settings; ``None`` if the store was made for this run.
        warn: called with the number of these images.

    Raises:
        AnnotationError: no image has features.
    """
    images = tuple(image for image in data.images if image.image_id in store)
    if len(images) < len(data.images):
        warn(f"{data.name}: {len(data.images) - len(images)} images have no features and are left out")
    if not images:
        why = f"is in the feature store {given}" if given else "can be read"
        advice = "make it from these data" if given else "give the folder of the images, as data.images"
        first = data.images[0].path
        raise AnnotationError(f"{data.name}: none of {len(data.images):,} images, such as {first}, {why}; {advice}")
    return CaptionData(data.name, data.format, images)
