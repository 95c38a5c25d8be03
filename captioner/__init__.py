"""Captioner describes an image in a sentence, and shows where it looked for every word.

    from captioner import Captioner

    captioner = Captioner.from_pretrained()
    caption = captioner("photo.jpg")
    print(caption.text)

:class:`Translator` translates captions and any other text. :func:`train`, :func:`evaluate` and :func:`score` take the
data sets that :func:`read_captions` reads.

``__all__`` is the public interface; other names may change. Its names are imported when they are first used: ``import
captioner`` is fast and does not load torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from captioner.errors import CaptionerError, CheckpointError, ConfigError, ImageError

if TYPE_CHECKING:
    from captioner.caption import Caption
    from captioner.captioner import Captioner
    from captioner.data.annotations import read_captions
    from captioner.evaluation.evaluate import evaluate, score
    from captioner.memory import Memory
    from captioner.search.config import SearchConfig
    from captioner.store.names import list_models
    from captioner.training.fit import train
    from captioner.translation.result import Translation
    from captioner.translation.translator import Translator

__version__ = "0.1.0"

# Nothing leaves this machine unasked. These libraries send statistics about their use unless their variable forbids it;
# they read it when they are imported, which is always after this. A value that the user has set is kept.
for _variable, _value in (
    ("ORT_DISABLE_TELEMETRY", "1"),  # onnxruntime, which also writes a device's number and a queue under ~/.cache
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),  # the hub gets the version of captioner, and not those of other packages
):
    os.environ.setdefault(_variable, _value)

_LAZY = {
    "Captioner": "captioner.captioner",
    "Caption": "captioner.caption",
    "Memory": "captioner.memory",
    "SearchConfig": "captioner.search.config",
    "Translation": "captioner.translation.result",
    "Translator": "captioner.translation.translator",
    "evaluate": "captioner.evaluation.evaluate",
    "list_models": "captioner.store.names",
    "read_captions": "captioner.data.annotations",
    "score": "captioner.evaluation.evaluate",
    "train": "captioner.training.fit",
}

__all__ = [
    "Caption",
    "Captioner",
    "CaptionerError",
    "CheckpointError",
    "ConfigError",
    "ImageError",
    "Memory",
    "SearchConfig",
    "Translation",
    "Translator",
    "__version__",
    "evaluate",
    "list_models",
    "read_captions",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'captioner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
