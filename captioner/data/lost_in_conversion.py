"""The parts of a data set that another format cannot hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from captioner.data.annotations.json_readers import split_in_name
from captioner.data.caption_files import (
    NamedImage,
    numbers_in,
    on_one_line,
)
from captioner.data.dataset import FOLDER_SPLITS, UNDIVIDED, split_name
from captioner.data.packed import is_packed


def lost_in_conversion(
    format: str, splits: Mapping[str, int], named: Sequence[NamedImage], file: Path | None
) -> Iterator[str]:
    """Yield the parts of a data set that a format cannot hold, as sentences.

    Args:
        format: the format, one of :data:`~captioner.data.convert.WRITABLE` or an extension.
        splits: the number of images in each split of the data set.
        named: the images that were written, at least one.
        file: the file with all of them; ``None`` for a folder.
    """
    several = any(len(image.captions) > 1 for image, _ in named)
    in_file, in_tar, in_text = file is not None, format == "webdataset", format == "txt" or format.startswith(".")
    # The file is read back with the split in its name.
    if file is not None and format == "coco" and list(splits) != [split_name(split_in_name(file.stem))]:
        counts = ", ".join(f"{split} ({count:,})" for split, count in splits.items())
        yield f"one file of COCO has no splits, here {counts}; a folder has a file for each of them"
    if in_file and in_tar and len(splits) > 1:
        yield "other programs read one tar file as one split; a folder has tar files for each of them"
    if in_file and not in_tar and (inside := sum(is_packed(image.path) for image, _ in named)):
        yield f"{inside:,} images stay inside other files, where few programs find them; a folder holds them"
    renamed = [each for each in named if PurePosixPath(each.name).name != each.image.path.name]
    renamed = [] if in_file or in_tar else [each for each in renamed if not is_packed(each.image.path)]
    if renamed:
        image, name = renamed[0]
        yield f"{len(renamed):,} images have other names, unique in their folder, such as {name} for {image.path}"
    numbered = numbers_in(named)
    if numbered and format not in ("coco", "karpathy"):
        yield f"ids such as {named[0].image.image_id!r} are lost; only coco and karpathy have them"
    if not numbered and format == "coco":
        yield f"images are numbered from 1, so ids such as {named[0].image.image_id!r} are lost"
    odd = [split for split in splits if split not in FOLDER_SPLITS | {UNDIVIDED}]
    if format == "imagefolder" and (odd := [*odd, *({"restval"} & splits.keys())]):
        yield f"Hugging Face's loader skips the folders {', '.join(odd)}"
    elif odd and in_text:
        yield f"images of {', '.join(odd)} are read back without a split"
    if several and in_tar:
        yield "a .txt has the first of several captions; the .json next to it has all"
    if in_text:
        if several:
            yield "several captions are lines of one file, of which some trainers read only the first"
        if broken := sum(on_one_line(caption) != caption for image, _ in named for caption in image.captions):
            yield f"{broken:,} captions had line breaks, which are spaces now"
