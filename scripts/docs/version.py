"""Build the documentation of this version into a folder that may hold other versions: FOLDER/0.1.0.

The folder is what a web server serves: a folder for each version, ``versions.json``, from which the pages make their
list of versions, and a page that leads to the newest. Nothing is published.

Example: python scripts/docs/version.py build/versions
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from captioner import __version__, files

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = "versions.json"
NEWEST = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={0}/">
<title>Captioner</title>
<a href="{0}/">Captioner {0}</a>
"""


def build(folder: Path) -> None:
    """Build the site into a new folder."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    config: Any = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.extra["version"] = {"provider": "mike"}  # the form of versions.json
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build_site(config)
    finally:
        config.plugins.on_shutdown()


def listed(versions: list[str]) -> list[dict[str, Any]]:
    """Return the entries of ``versions.json``, the newest first."""
    newest_first = sorted(versions, key=lambda name: [int(part) for part in re.findall(r"\d+", name)], reverse=True)
    return [
        {"version": name, "title": name, "aliases": [] if number else ["latest"]}
        for number, name in enumerate(newest_first)
    ]


def add(folder: Path, version: str, site: Path) -> None:
    """Add a built site to the folder as a version, in place of one of the same name, and list all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / version).exists():
        shutil.rmtree(folder / version)
    shutil.move(site, folder / version)
    versions = listed([path.name for path in folder.iterdir() if (path / "index.html").exists()])
    files.write_text(folder / VERSIONS, json.dumps(versions, indent=1) + "\n")
    files.write_text(folder / "index.html", NEWEST.format(versions[0]["version"]))


def main() -> None:
    """Read the command line, build the site and add it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of all versions")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        build(site)
        add(folder, __version__, site)
    print(folder / __version__)


if __name__ == "__main__":
    main()
