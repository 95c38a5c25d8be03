"""A hook of mkdocs that adds to the theme the program's icon, and a name of the search for screen readers."""

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
