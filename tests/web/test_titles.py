from __future__ import annotations

import json
import shutil
from pathlib import Path

from captioner import store
from captioner.web.titles import title


def test_shipped_models_are_called_by_their_family() -> None:
    titles = {name: title(name) for name in store.shipped()}
    assert titles["show_attend_tell"] == "Soft attention, 2015 – the default"
    assert titles["regions_top_down"] == "Top-down attention, 2018 over regions"
    assert len(set(titles.values())) == len(titles)


def test_other_models_keep_their_name(tmp_path: Path) -> None:
    folder = shutil.copytree(store.locate("show_tell"), tmp_path / "mine")
    assert title(str(folder)) == f"{folder} – Show and Tell, 2015"
    assert title("show_tell+transformer") == "show_tell+transformer" and title("nowhere") == "nowhere"
    config = json.loads((folder / store.CONFIG).read_text())
    for decoder, shown in (
        ({"name": "show_attend_tell", "kind": "hard"}, "Hard attention, 2015"),
        ({"name": "own"}, ""),
    ):
        config["model"]["decoder"] = decoder
        (folder / store.CONFIG).write_text(json.dumps(config))
        assert title(str(folder)) == (f"{folder} – {shown}" if shown else str(folder))
