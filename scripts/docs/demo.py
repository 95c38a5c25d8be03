"""A hook of mkdocs that adds the page of ``captioner export --web`` as ``demo/``, so the site captions images.

It takes onnxruntime-web from the user's cache and downloads nothing. Where the cache has none, the log mentions it, and
``demo/`` has a page with the commands that make it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from captioner import files as disk
from captioner import store
from captioner.web.browser import runtime, site

log = logging.getLogger("mkdocs.hooks.demo")
FOLDER = "demo"
ABSENT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Captioner</title>
<body style="max-width: 40rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif">
<h1>The demo is not in this copy</h1>
<p>This documentation was built on a machine that did not have onnxruntime-web, which runs the model in the browser. To
make the demo:</p>
<pre>captioner export show_attend_tell --web site
python -m http.server --directory site</pre>
<p>The first command also downloads onnxruntime-web; documentation that is built after it has the demo.</p>
<p><a href="../howto/browser/">Captions in the browser</a></p>
</html>
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the files of the page, or a page that tells how to make it."""
    for name, content in _contents().items():
        files.append(File.generated(config, f"{FOLDER}/{name}", content=content))
    return files


def _contents() -> dict[str, bytes]:
    packed = runtime.cached()
    if packed is None:
        log.info("onnxruntime-web is not in %s: the site has no demo; captioner export --web gets it", runtime.cache())
        return {"index.html": ABSENT.encode()}
    with disk.temporary_folder() as temporary:
        folder = Path(temporary) / FOLDER
        written = site.write(store.locate(store.DEFAULT), folder, runtime.read(packed), name=store.DEFAULT)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in written}
