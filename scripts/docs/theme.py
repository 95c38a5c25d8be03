"""A hook of mkdocs for what the theme lacks: the program's icon, and a name for the search, which readers hear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ICON = Path(__file__).resolve().parents[2] / "captioner" / "web" / "icon.svg"


def on_files(files: Any, config: Any) -> Any:
    """Add the icon that the settings of the theme name."""
    files.append(File.generated(config, config.theme["favicon"], abs_src_path=str(ICON)))
    return files


def on_post_page(output: str, **_: Any) -> str:
    """Name the dialog of the search."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
