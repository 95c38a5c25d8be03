"""The names of models on the page."""

from __future__ import annotations

from typing import Any

from captioner import store
from captioner.errors import CaptionerError

_FAMILIES = {
    "show_tell": "Show and Tell, 2015",
    "show_attend_tell": "Soft attention, 2015",
    "top_down": "Top-down attention, 2018",
    "transformer": "Transformer, 2017",
    "transformer_xl": "Transformer-XL, 2019",
}
_ENCODERS = {"regions": " over regions", "grid_regions": " over a grid and regions"}


def title(name: str) -> str:
    """Return the title of a served model: its family, with its own name if it is not a shipped one.

    Args:
        name: as the server calls it.
    """
    try:
        folders = store.locate_captioners(name)
        config = store.read_config(folders[0], store.captioner_kind(folders[0]))
    except CaptionerError:  # loading it reports the reason
        return name
    family = _family(config.get("model", {})) if len(folders) == 1 else ""
    if name in store.shipped():
        return (family or name) + " – the default" * (name == store.DEFAULT)
    return f"{name} – {family}" if family else name


def _family(model: dict[str, Any]) -> str:
    """Return the family of a model and the year of its paper, by its config; empty for one from outside."""
    decoder, encoder = model.get("decoder", {}), model.get("encoder", {})
    family = _FAMILIES.get(str(decoder.get("name")), "")
    if decoder.get("kind") == "hard":
        family = family.replace("Soft", "Hard")
    return family and family + _ENCODERS.get(str(encoder.get("name")), "")
