"""What comes with the program: models, which are folders in ``assets``, and recipes.

In an installed copy the models are inside the package, in a checkout beside it.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

CONFIG = "config.json"  # every model's folder has one; its "kind" says what the model is
CAPTIONER, TRANSLATOR, DETECTOR = "captioner", "translator", "detector"
ONNX = "captioner in ONNX"  # exported, to run without torch
_MOST = 1 << 22  # bytes that are read of a config


def shipped(kind: str | None = CAPTIONER) -> dict[str, Path]:
    """Return the folders of the models of one kind that come with the program, by name; ``None`` is all kinds."""
    package = Path(str(files("captioner")))
    found: dict[str, Path] = {}
    for root in (package / "assets", package.parent / "assets"):
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if (folder / CONFIG).is_file() and kind in (None, kind_of(folder)):
                    found.setdefault(folder.name, folder)
    return found


def recipes() -> dict[str, Path]:
    """Return the files of the recipes of training, by name."""
    return {name: file for name, file in _recipe_files().items() if not name.startswith("_")}


def recipe_bases() -> dict[str, Path]:
    """Return the files that recipes are based on and that are none themselves, by name."""
    return {name: file for name, file in _recipe_files().items() if name.startswith("_")}


def _recipe_files() -> dict[str, Path]:
    return {file.stem: file for file in sorted((Path(__file__).parent / "training" / "recipes").glob("*.yaml"))}


def examples() -> list[Path]:
    """Return the example photos, which are in a checkout but not in an installed copy."""
    folder = Path(str(files("captioner"))).parent / "assets" / "examples"
    return sorted(path for path in folder.glob("*") if path.suffix in (".jpg", ".png"))


def kind_of(folder: Path) -> str:
    """Return what kind of model a folder holds.

    One that cannot be read counts as a captioner, so that loading it reports what is wrong.
    """
    try:
        with open(folder / CONFIG, "rb") as file:
            config = json.loads(file.read(_MOST))
    except (OSError, ValueError, RecursionError):
        return CAPTIONER
    return str(config.get("kind", CAPTIONER)) if isinstance(config, dict) else CAPTIONER
