"""The images of ``captioner caption`` and ``captioner attend``, as their arguments name them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import console, streams
from captioner.cli.options import data_option
from captioner.collection.part import archive_kind
from captioner.errors import CaptionerError, ImageError

# Files that photo software and this program keep next to photos.
_COMPANIONS = [".txt", ".caption", ".xmp", ".aae", ".json", ".jsonl", ".csv", ".html", ".md", ".ini", ".db"]
NO_IMAGES = "no images found; give image files, or folders that contain some"


@dataclass(frozen=True)
class Images:
    """The options and arguments that name images."""

    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Files, folders, quoted patterns, or - for a list on stdin, one path per line or as of find -print0.",
        ),
    ]
    recursive: Annotated[bool, data_option("--recursive", "-r", help="Include subfolders.")] = False
    max_pixels: Annotated[int | None, data_option(min=1, help="Refuse images with more pixels.")] = None

    @property
    def single(self) -> bool:
        """Whether a single file is given, and not an archive."""
        return len(self.paths) == 1 and os.path.isfile(self.paths[0]) and archive_kind(self.paths[0]) is None

    def find(self, failures: console.Failures) -> Iterator[str | bytes]:
        """Yield the names of the image files lazily, as they were given, and the bytes of an image on stdin.

        See :func:`captioner.data.find.find_images` for folders and patterns. Leaves out figures that this program drew,
        unless a single file is given, and other files in folders, with a note. Folders without images, empty names, and
        lists that cannot be read are failures.
        """
        from captioner.data import mark
        from captioner.data.names import read_list
        from captioner.data.raw import RAW_EXTENSIONS
        from captioner.machine.packages import install

        drawn, others = 0, Counter[str]()
        for path in self.paths:
            try:
                for name in read_list(streams.stdin()) if path == "-" else [path]:
                    for hit in [name] if isinstance(name, bytes) else self._matches(name, failures, others):
                        if isinstance(hit, bytes) or self.single or not mark.is_drawn_image(hit):
                            yield hit
                        else:
                            drawn += 1
            except CaptionerError as error:
                failures(error)
        if drawn:
            console.note(f"left out {console.count(drawn, 'figure')} that this program drew")
        if others:
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in others.most_common(5))
            more = f" and {len(others) - 5} other kinds" if len(others) > 5 else ""
            count = others.total()
            what = "1 file that is not an image" if count == 1 else f"{count:,} files that are not images"
            console.note(f"left out {what}: {kinds}{more}")
        if not RAW_EXTENSIONS.isdisjoint(others):
            console.note(f"raw photos are read if rawpy is installed: {install('rawpy')}")

    def names(self, failures: console.Failures) -> Iterator[str]:
        """Yield the names of the image files; see :meth:`find`. An image on stdin, which has none, is a failure."""
        for name in self.find(failures):
            if isinstance(name, str):
                yield name
            else:
                failures("standard input: an image without a name cannot be drawn; give it as a file")

    def _matches(self, name: str, failures: console.Failures, others: Counter[str]) -> Iterator[str]:
        from captioner.data.find import find_images

        def other(file: str) -> None:
            kind = os.path.splitext(file)[1].lower()
            if kind not in _COMPANIONS:
                others[kind or "without an ending"] += 1

        if name and not os.path.isdir(name) and (os.path.lexists(name) or not set(name) & set("*?[")):
            yield name
        elif name:
            for hit in find_images([name], recursive=self.recursive, on_empty=failures, on_other=other):
                yield name if hit == Path(name) else str(hit)
        else:
            failures("'': this name is empty; give image files, or folders that contain some")

    def unreadable(self, found: Sequence[str | bytes]) -> ImageError | None:
        """Return the error of the only image, if its name is the only one given and the first that was found.

        Avoids loading the model.
        """
        if [*found] != self.paths:
            return None
        from captioner.data.images import check_file

        try:
            check_file(found[0], max_pixels=self.max_pixels)
        except ImageError as error:
            return error
        return None
