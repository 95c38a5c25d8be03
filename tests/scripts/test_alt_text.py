"""The program of the page on photo libraries fills texts of images, and changes nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from captioner import Captioner
from tests.model.test_checkpoint import tiny_model

PAGE = """<!doctype html>
<p>é <img src="a.jpg"> and <IMG alt="" src='more/b.jpg' class=wide>
<img src="a.jpg" alt="my dog"> <img src="line.png" alt="" role="presentation"> <img src="gone.jpg">
<img
  src="a.jpg" />
"""


def test_empty_texts_are_filled(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "howto" / "library.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    program: dict[str, Any] = {"__name__": "alt_text"}
    exec(code[1], program)
    (tmp_path / "more").mkdir()
    for name in ("a.jpg", "more/b.jpg", "line.png"):
        shutil.copy(repository / "assets" / "examples" / "dog.jpg", tmp_path / name)
    page = tmp_path / "page.html"
    page.write_text(PAGE, encoding="utf-8")
    captioner = Captioner.from_model(tiny_model(), device="cpu")
    sentence = captioner(tmp_path / "a.jpg").text
    assert program["fill"](page, captioner) == 3
    expected = PAGE.replace('<img src="a.jpg"> and', f'<img alt="{sentence}" src="a.jpg"> and')
    expected = expected.replace('<IMG alt="" src=\'more', f'<IMG alt="{sentence}" src=\'more')
    expected = expected.replace("<img\n", f'<img alt="{sentence}"\n')
    assert page.read_text(encoding="utf-8") == expected
    assert program["fill"](page, captioner) == 0
