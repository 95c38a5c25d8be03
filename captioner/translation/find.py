"""Finding a translator by its name or its language; torch is imported only if there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captioner import store
from captioner.errors import CaptionerError
from captioner.store import TRANSLATOR

if TYPE_CHECKING:
    from captioner.translation.translator import Translator


def find_translator(
    language: str | None, name: str | None = None, *, device: str = "auto", **search: Any
) -> Translator:
    """Load a translator by its name, or else the shipped one into a language.

    Args:
        language: the language it must write, ``de`` for example; may be ``None`` if there is a name.
        name: a shipped translator, a translator's folder, or ``user/model`` on the hub.
        device: a torch device, or ``auto``.
        search: settings that replace the model's own.

    Raises:
        CheckpointError: there is no such translator, or it is damaged.
        CaptionerError: the named translator writes another language.
    """
    found = name if name is not None else store.translator_into(language or "")
    store.locate(found, kind=TRANSLATOR)
    from captioner.translation.translator import Translator

    translator = Translator.from_pretrained(found, device=device, **search)
    if language is not None and language.lower() != translator.language.lower():
        raise CaptionerError(
            f"{name}: translates into {translator.language!r}, not {language!r}; "
            "leave out --language, or give another --translator"
        )
    return translator
