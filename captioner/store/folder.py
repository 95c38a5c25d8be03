"""Model folders: written completely or not at all, and copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captioner import files
from captioner.errors import CheckpointError
from captioner.store import card as cards
from captioner.store.config import (
    CARD,
    CONFIG,
    COPY,
    NAMES,
    kind_of,
    parts_of,
    read_config,
    read_whole,
    whole_config,
    write_config,
)
from captioner.store.names import name_of


def write_card(folder: Path, kind: str, config: Mapping[str, Any], name: str | Path, card: str = "") -> None:
    """Write the card of a model; by default that of :func:`default`, under the name of the folder ``name``."""
    files.write_text(folder / CARD, card or cards.default(whole_config(kind, config), name_of(name)))


def change_about(folder: Path, **entries: Any) -> None:
    """Change entries of a saved model's ``about``; a card that was written from its config is written again.

    Raises:
        CheckpointError: ``folder`` is not a model folder.
        FileError: it cannot be written.
    """
    config = read_config(folder, kind_of(folder))
    changed = {**config, "about": {**config.get("about", {}), **entries}}
    files.write_json(folder / CONFIG, changed)
    card = files.read_text(folder / CARD, error=CheckpointError, advice=COPY) if (folder / CARD).is_file() else ""
    title = cards.title_of(card)
    if card == cards.default(config, title):
        files.write_text(folder / CARD, cards.default(changed, title))


@contextmanager
def replace(folder: str | Path, kind: str, config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end it gets its config and becomes ``folder``, completely or not at all.

    An existing folder of a model of this kind is replaced; files in it that are not a model's stay. On an exception
    everything stays as it was.

    Args:
        folder: its path.
        kind: of the model, for :func:`read_config`.
        config: the fields of ``config.json`` that are specific to the kind; more may be added before the end.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
        FileError: nothing can be written there, or the disk is full or fails meanwhile.
    """
    check_replaceable(folder, kind)
    with files.atomic_folder(folder, ours=NAMES) as temporary:
        yield temporary
        write_config(temporary, kind, config)
        for file in temporary.iterdir():
            file.chmod((temporary / CONFIG).stat().st_mode & 0o777)


def copy(source: Path, folder: str | Path, kind: str, *, card: str = "") -> Path:
    """Copy a model folder; an existing model of its kind is replaced.

    Args:
        source: the folder to copy.
        folder: the path of the copy.
        kind: of the model.
        card: the text of the model card; by default that of the source, or one written from its config.

    Raises:
        CheckpointError: the source is damaged, or ``folder`` exists and is not such a model's.
    """
    config = read_whole(source, kind)
    with replace(folder, kind, config) as temporary:
        for name in parts_of(kind, config):
            shutil.copyfile(source / name, temporary / name)
        if not card and (source / CARD).is_file():
            shutil.copyfile(source / CARD, temporary / CARD)
        else:
            write_card(temporary, kind, config, folder, card)
    return Path(folder)


def check_replaceable(folder: str | Path, kind: str) -> None:
    """Check that a folder may be written as a model of a kind.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
        FileError: nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder, kind):
        raise CheckpointError(f"{folder}: exists and is not a model folder of a {kind}; give another name")
    files.check_folder_place(folder)


def _replaceable(folder: Path, kind: str) -> bool:
    """Return whether a folder may be overwritten: it is empty, or a model of this kind that this program wrote."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        read_config(folder, kind)
    except CheckpointError:
        return False
    return True
