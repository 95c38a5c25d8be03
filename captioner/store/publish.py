"""Uploading model folders to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from captioner import files
from captioner.errors import CheckpointError
from captioner.store import card as cards
from captioner.store import hub
from captioner.store.config import CARD, CONFIG, NAMES, is_ours, kind_of, parts_of, read_whole


def push(folder: Path, name: str, *, private: bool = False, card: str = "") -> str:
    """Upload a model folder of any kind to the hub, in one commit, and return its address.

    Uploads its config, its parts and its card, and no other file. Files of an earlier model of this program that this
    one lacks are deleted.

    Args:
        folder: of the model.
        name: ``user/model``.
        private: make a repository that nobody else can see.
        card: the text of the model card; by default the folder's own. One that this program wrote names the model as
            the hub does.

    Raises:
        CheckpointError: the folder is not a whole model's, or see :func:`captioner.store.hub.publish`.
    """
    kind = kind_of(folder)
    config = read_whole(folder, kind)
    if not card:
        advice = "repair or delete it, or give another card"
        there = (folder / CARD).exists()
        own = files.read_text(folder / CARD, error=CheckpointError, advice=advice) if there else ""
        card = cards.renamed(own, config, name)
    contents: dict[str, Path | bytes] = {part: folder / part for part in (*parts_of(kind, config), CONFIG)}
    return hub.publish(
        name,
        contents | {CARD: card.encode()},
        private=private,
        known=NAMES,
        ours=lambda: (other := hub.fetch(name, CONFIG)) is not None and is_ours(other),
    )


def push_saved(save: Callable[[Path], object], name: str, *, private: bool = False, card: str = "") -> str:
    """Upload a model that writes its folder with ``save``; see :func:`push`."""
    with files.temporary_folder() as parent:
        folder = parent / "model"
        save(folder)
        return push(folder, name, private=private, card=card)
