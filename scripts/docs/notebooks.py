"""A hook of mkdocs that runs the notebooks and writes a page of each, with the results of its cells.

``mkdocs build`` runs them and fails where a cell does; ``mkdocs serve``, which builds again at every change, shows them
without results.
"""

from __future__ import annotations

import base64
import logging
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import repository

log = logging.getLogger("mkdocs.hooks.notebooks")
FOLDER = "notebooks"
TIMEOUT = 300  # seconds a cell may take
_runs = True


def on_startup(command: str, **_: Any) -> None:
    """Remember whether the site is served or built."""
    global _runs
    _runs = command != "serve"


def run(path: Path, threads: int = 1) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder, on some threads, and return it with its results.

    Raises:
        PluginError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise PluginError(f"{path}: a cell failed\n{error}") from error
    log.info("%s: run in %.0f s", path.name, time.monotonic() - began)
    return notebook


def on_files(files: Any, config: Any) -> Any:
    """Add the page of each notebook, and the images in its results."""
    paths = sorted((Path(config.docs_dir) / FOLDER).glob("*.ipynb"))
    if _runs:
        with ThreadPoolExecutor() as pool:  # all at once, each with its share of the cores
            share = max(1, (os.cpu_count() or 1) // max(1, len(paths)))
            notebooks = list(pool.map(lambda path: run(path, share), paths))
    else:
        notebooks = [nbformat.read(path, as_version=4) for path in paths]
    source = repository.address(repository.PROJECT.read_text(encoding="utf-8"))
    for path, notebook in zip(paths, notebooks, strict=True):
        page = Page(path.stem, repository.colab(source, f"docs/{FOLDER}/{path.name}"))
        for cell in notebook.cells:
            page.add(cell)
        files.append(File.generated(config, f"{FOLDER}/{path.stem}.md", content="\n\n".join(page.parts) + "\n"))
        for name, content in page.images.items():
            files.append(File.generated(config, f"{FOLDER}/{name}", content=content))
    return files


class Page:
    """A notebook's page in Markdown.

    Args:
        name: the notebook's name without its suffix.
        colab: the address that opens it in Colab, if there is one.

    Attributes:
        parts: its paragraphs.
        images: the images that it shows, by name.
    """

    def __init__(self, name: str, colab: str | None = None) -> None:
        self._name, self._colab = name, colab
        self.parts: list[str] = []
        self.images: dict[str, bytes] = {}

    def add(self, cell: nbformat.NotebookNode) -> None:
        """Add a cell and its results."""
        if cell.cell_type != "code":
            self.parts.append(cell.source)
            if len(self.parts) == 1:  # below the title
                links = [f"[Download this notebook]({self._name}.ipynb){{ download }}"]
                links += [f"[Open in Colab]({self._colab})"] if self._colab is not None else []
                self.parts.append(" · ".join(links))
            return
        self.parts.append(f"```python\n{cell.source}\n```")
        printed = [output.text for output in cell.outputs if output.output_type == "stream"]
        if printed:  # which arrives in pieces
            self._text("".join(printed))
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{self._name}_{len(self.images) + 1}.png"
                self.images[name] = base64.b64decode(data["image/png"])
                self.parts.append(f"![What the cell above shows]({name})")
            elif "text/html" in data:
                self.parts.append(f'<div class="cell-output">{"".join(data["text/html"].splitlines())}</div>')
            elif "text/plain" in data:
                self._text(data["text/plain"])

    def _text(self, text: str) -> None:
        self.parts.append(f"``````{{ .text .cell-output }}\n{text.rstrip()}\n``````")
