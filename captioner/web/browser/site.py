"""Writes the page without a server: the page, its worker, the model's graphs and onnxruntime-web, in one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import captioner
from captioner import files, store
from captioner.data.examples import example_images
from captioner.errors import CaptionerError, CheckpointError
from captioner.figures.document import assemble_linked, joined
from captioner.figures.explorer import HINT, TOUCH_HINT
from captioner.figures.explorer import settings as explorer_settings
from captioner.figures.style import Style
from captioner.onnx import folder as exported
from captioner.onnx.engine import OnnxEngine
from captioner.text.vocabulary import sentence_patterns
from captioner.web.browser.runtime import SCRIPT, WASM
from captioner.web.page import STYLES, TEXTS, scripts

MEGABYTES, PIXELS = 50, 100_000_000  # of an image; more would fill the memory of a phone
SETTINGS = "model/settings.json"  # its field "page" marks the folder as one that this module wrote
FORMAT = 1
_PAGE, _STYLE, _SCRIPT, _WORKER = "index.html", "page.css", "page.js", "worker.js"
_FOLDERS = ("model", "runtime", "examples")
_WORKER_PARTS = ("transform.js", "photo.js", "beam.js", "consensus.js", "figure.js", "worker.js")
_PROMISE = """
<span>Your images stay on this device: the page captions them itself and sends them nowhere.</span>
<a href="runtime/LICENSE">Licence of onnxruntime</a>
"""


def check_replaceable(folder: Path) -> None:
    """Check that a folder may be written as a page.

    Raises:
        CaptionerError: ``folder`` exists and is not such a page.
        FileError: nothing can be written there.
    """
    if folder.exists() and not _is_page(folder):
        raise CaptionerError(f"{folder}: exists and is not a page of captioner export --web; give another name")
    files.check_folder_place(folder)


def _is_page(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return "page" in files.read_json(folder / SETTINGS, dict, error=CheckpointError)
    except CheckpointError:
        return False


def has_graphs(model: Path) -> bool:
    """Return whether a model's folder has the graphs that a page runs.

    Raises:
        CheckpointError: it is not a captioner's.
    """
    kind = store.captioner_kind(model)
    return kind == store.ONNX or store.has_graphs(store.read_config(model, kind))


def write(model: Path, folder: Path, runtime: Mapping[str, bytes], *, name: str) -> list[Path]:
    """Write a page, completely or not at all; one that is there is replaced, and other files beside it stay.

    Args:
        model: a folder with graphs.
        folder: where the page is written.
        runtime: the files of :func:`captioner.web.browser.runtime.read`.
        name: the model's name.

    Returns:
        Its files.

    Raises:
        CheckpointError: the model is damaged or has no graphs.
        CaptionerError: see :func:`check_replaceable`.
    """
    check_replaceable(folder)
    if not has_graphs(model):
        raise CheckpointError(f"{model}: has no graphs; write some with captioner export")
    graphs = OnnxEngine.load(model).graphs  # which checks its files, too
    config = store.read_config(model, store.captioner_kind(model))
    consensus = [store.CONSENSUS] if store.has_consensus(config) else []
    with files.atomic_folder(folder, ours=(*_FOLDERS, _PAGE, _STYLE, _SCRIPT, _WORKER)) as temporary:
        for part in _FOLDERS:
            (temporary / part).mkdir()
        for file in (*store.GRAPHS, store.VOCABULARY, *consensus):
            shutil.copyfile(model / file, temporary / "model" / file)
        for file, content in runtime.items():
            (temporary / "runtime" / file).write_bytes(content)
        examples = example_images()
        for image in examples:
            shutil.copyfile(image, temporary / "examples" / image.name)
        loaded = [*sorted((temporary / "model").iterdir()), temporary / "runtime" / WASM]
        sizes = {path.relative_to(temporary).as_posix(): path.stat().st_size for path in loaded}
        texts = {
            _PAGE: _page(name, [image.name for image in examples]),
            _STYLE: joined(STYLES),
            _SCRIPT: joined(scripts("browser/page")),
            _WORKER: joined(" ".join(["maps.js", *(f"web/browser/{part}" for part in _WORKER_PARTS)])),
            SETTINGS: json.dumps(_settings(name, graphs, sizes), ensure_ascii=False) + "\n",
        }
        for file, text in texts.items():
            (temporary / file).write_text(text, encoding="utf-8")
        written = [path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()]
    return sorted(folder / file for file in written)


def _page(name: str, examples: list[str]) -> str:
    return assemble_linked(
        "web/app.html",
        style=_STYLE,
        script=_SCRIPT,
        data={
            "models": [[name, name]],
            "megabytes": MEGABYTES,
            "languages": [],
            "figures": [],
            "sidecars": False,
            "read": [],
            "hint": HINT,
            "touch_hint": TOUCH_HINT,
            "examples": examples,
        },
        texts={
            **TEXTS,
            "accept": "image/*",
            "promise": _PROMISE,
            "instead": "It captions images in your browser, which needs WebAssembly, too.",
        },
        policy="img-src 'self' data: blob:; connect-src 'self'; worker-src 'self' blob:",
        script_policy="'wasm-unsafe-eval'",
    )


def _settings(name: str, graphs: exported.Graphs, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the data for the worker in addition to the graphs and the vocabulary."""
    style = Style()
    return {
        "page": FORMAT,
        "captioner": captioner.__version__,
        "name": name,
        **graphs.model_dump(mode="json", include={"transform", "grid", "search", "attends", "hypotheses", "images"}),
        "text": sentence_patterns(),
        "figure": explorer_settings(style),
        "side": style.side,
        "limits": {"pixels": PIXELS},
        "runtime": {"script": f"runtime/{SCRIPT}", "wasm": f"runtime/{WASM}"},
        "files": sizes,
    }
