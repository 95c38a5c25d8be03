"""The captions that a captioner is trained on and evaluated with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captioner.data.annotations import CaptionData, merge, read_captions
from captioner.data.dataset import UNDIVIDED, Photo, split_name
from captioner.data.find import find_images
from captioner.errors import AnnotationError
from captioner.features import FeatureStore
from captioner.text.vocabulary import SPECIAL, Vocabulary, tokenize
from captioner.training.forecast import spread
from captioner.training.recipe import DataConfig, TrainConfig


def read_data(config: TrainConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Read the training and the dev data.

    ``warn`` is called with what was guessed in reading each file, a summary of its malformed records, and the splits
    that are not used.

    Photos for a teacher to caption are among the training photos, without captions.

    Raises:
        AnnotationError: the data cannot be used.
    """
    settings = config.data
    data = read_captions(settings.path, images=settings.images, strict=settings.strict)
    others = [read_captions(path, strict=settings.strict) for path in settings.also]
    for read in (data, *others):
        for note in read.notes:
            warn(note)
        if complaint := read.complaint():
            warn(f"{complaint}, data.strict=true refuses them")
    train, dev = _splits(data, settings, warn)
    if others:
        train = merge(train, *(_of_train(other, "train", restval=True) for other in others))
    if settings.teacher.unlabelled:
        known = (photo for read in (data, *others) for photo in read.photos)
        train = _with_unlabelled(train, known, settings.teacher.unlabelled, warn)
    return train, dev


def _with_unlabelled(
    train: CaptionData, known: Iterable[Photo], folders: Sequence[Path], warn: Callable[[str], object]
) -> CaptionData:
    """Add the pictures in folders and their subfolders, but those that the data know already, in whatever split.

    Raises:
        AnnotationError: there is no such folder, or it adds nothing.
    """
    taken = {os.path.realpath(photo.path) for photo in known}
    photos = []
    for folder in folders:
        if not folder.is_dir():
            raise AnnotationError(f"data.teacher.unlabelled: {folder}: there is no such folder; give one with photos")
        found = list(dict.fromkeys(os.path.realpath(path) for path in find_images([folder], recursive=True)))
        new = [path for path in found if path not in taken]
        if not new:
            what = f"all of its {len(found):,} pictures are in the data already" if found else "has no pictures"
            raise AnnotationError(f"data.teacher.unlabelled: {folder}: {what}; leave it out")
        if len(new) < len(found):
            warn(f"{folder}: {len(found) - len(new):,} of its {len(found):,} pictures are in the data and left out")
        taken.update(new)
        photos += [Photo(path, Path(path), "train", ()) for path in new]
    name = "+".join(dict.fromkeys([train.name, *(folder.resolve().name for folder in folders)]))
    return replace(train, name=name, photos=(*train.photos, *photos))


def _of_train(data: CaptionData, split: str, *, restval: bool) -> CaptionData:
    """Return the photos to train on: those without a split if none has that of training."""
    splits = data.splits
    undivided = split_name(split) == "train" and UNDIVIDED in splits and not {"train", "restval"} & set(splits)
    return data.split(UNDIVIDED if undivided else split, restval=restval)


def _splits(data: CaptionData, settings: DataConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Return the splits to train on and to select with; what a data set does not have is divided, always alike."""
    train = _of_train(data, settings.train, restval=settings.restval)
    there = set(data.splits)
    dev = data.split(settings.dev) if split_name(settings.dev) != "dev" or {"dev", "val"} & there else None
    used = {photo.split for part in (train, dev) if part is not None for photo in part.photos}
    for split, count in data.splits.items():
        if split not in used | {"test"}:
            where = "without a split" if split == UNDIVIDED else f"in the split {split!r}"
            warn(
                f"{data.name}: {count:,} images {where} are not used; data.train and data.dev name the splits that are"
            )
    if dev is not None:
        return train, dev
    if len(train.photos) < 2:
        raise AnnotationError(f"{data.name}: one photo cannot both be trained on and select the best epoch; add photos")
    # By their names' hashes, so that a photo that is added moves no other.
    mixed = sorted(train.photos, key=lambda photo: hashlib.sha256(photo.image_id.encode()).digest())
    few = max(1, round(settings.dev_share * len(mixed)))
    warn(
        f"{data.name}: has no split {settings.dev!r}, so {few} of its {len(mixed)} photos select the best epoch"
        + ("; so few that it is mostly chance" if few < 20 else "")
    )
    chosen = {photo.image_id for photo in mixed[:few]}
    kept, held = (
        tuple(photo for photo in train.photos if (photo.image_id in chosen) is wanted) for wanted in (False, True)
    )
    return replace(train, photos=kept), replace(train, photos=held)


ENOUGH_KNOWN = 0.5
"""Share of the words of captions that a vocabulary must have. The others are ``<unk>``, which a search never writes:
with less, a model cannot write most of what people say about the photos."""

_LONG = 12  # letters of a word; German and Finnish have 6 on average


@dataclass(frozen=True)
class Coverage:
    """How much of some captions a model can learn.

    Attributes:
        known: the share of their words that its vocabulary has, from 0 to 1.
        cut: the share of captions that are longer than those it reads.
        letters: the mean length of a word.
    """

    known: float
    cut: float
    letters: float

    @classmethod
    def of(cls, captions: Sequence[str], vocabulary: Vocabulary, *, max_words: int) -> Coverage:
        """Look at some captions."""
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
    """Return how much of the training captions a vocabulary covers, ``None`` if there are none.

    It is measured on the captions of at most 5,000 photos. ``warn`` is called with what limits the training.

    Args:
        train: the training photos.
        dev: those that select the best epoch.
        vocabulary: the words that the model will write.
        config: the settings of the run.
        warn: see above.
        new: how many of the last words the model did not have before.

    Raises:
        AnnotationError: it covers too little of these, see :data:`ENOUGH_KNOWN`. Of those of dev that is a warning.
    """
    settings, coverage = config.data, None
    for data, name in ((dev, "dev"), (train, "training")):
        captions = [caption for photo in spread(data.photos, 5000) for caption in photo.captions]
        if not captions:
            continue
        coverage = Coverage.of(captions, vocabulary, max_words=settings.max_words)
        if coverage.known < ENOUGH_KNOWN:
            if coverage.letters > _LONG:
                cure = f"words have {coverage.letters:.0f} letters on average: put spaces between the words"
            elif config.start is not None and not config.new_words:
                cure = "set new_words=true, so that it learns new ones"
            elif settings.min_count > 1:
                cure = (
                    f"lower data.min_count, which is {settings.min_count}, so that rarer words count; or add captions"
                )
            else:
                cure = "add captions"
            message = (
                f"{data.name}: the vocabulary of {len(vocabulary) - len(SPECIAL):,} words has {coverage.known:.0%} "
                f"of the words in the {name} captions, such as {captions[0][:60]!r}, and the model would write no "
                f"others; {cure}"
            )
            if data is train:
                raise AnnotationError(message)
            warn(message)
    if coverage is None:
        return None
    if new:
        before = Vocabulary(vocabulary.words[len(SPECIAL) : len(vocabulary) - new])
        known = Coverage.of(captions, before, max_words=settings.max_words).known
        if known < ENOUGH_KNOWN:
            warn(
                f"{train.name}: {config.start} knew {known:.0%} of the words in the captions before, as if of another "
                "language, and is of little use as a start; a recipe that trains from the beginning, such as "
                "flickr8k_show_attend_tell with data.path set, will do better"
            )
    if coverage.cut > 0.05:
        warn(
            f"{train.name}: {coverage.cut:.0%} of the captions have more than {settings.max_words} words and are cut "
            "there; to learn them whole, raise data.max_words, and with it model.search.max_words and "
            "evaluation.search.max_words"
        )
    if len(set(captions)) == 1 < len(captions):
        warn(f"{train.name}: all captions are {captions[0]!r}, so that is what the model will write of any image")
    return coverage


def with_features(
    data: CaptionData, store: FeatureStore, given: Path | None, warn: Callable[[str], object]
) -> CaptionData:
    """Leave out photos that have no features; ``warn`` is called with how many there are.

    Args:
        data: the photos.
        store: their features.
        given: the folder that the settings name for the store; ``None`` if it was made for this run.
        warn: see :func:`read_data`.

    Raises:
        AnnotationError: no photo has features.
    """
    photos = tuple(photo for photo in data.photos if photo.image_id in store)
    if len(photos) < len(data.photos):
        warn(f"{data.name}: {len(data.photos) - len(photos)} photos have no features and are left out")
    if not photos:
        why = f"is in the feature store {given}" if given else "can be read"
        cure = "make it from these data" if given else "give the folder of the images, as data.images"
        first = data.photos[0].path
        raise AnnotationError(f"{data.name}: none of {len(data.photos):,} images, such as {first}, {why}; {cure}")
    return CaptionData(data.name, data.format, photos)
