from __future__ import annotations

import json

from captioner.checkpoint import DEFAULT, shipped
from captioner.decoders import DECODERS


def test_shipped_models_and_families_are_listed(run) -> None:
    result = run("models")
    assert (result.code, result.err) == (0, "")
    for name in (*shipped(), *DECODERS):
        assert name in result.out


def test_json_holds_it_all(run) -> None:
    listed = json.loads(run("models", "--json").out)
    assert set(listed["models"]) == set(shipped())
    assert listed["models"][DEFAULT]["default"]
    assert all(0 < model["scores"]["CIDEr"] < 3 and model["megabytes"] < 25 for model in listed["models"].values())
    assert set(listed["decoder"]) == set(DECODERS)
    assert all(listed["decoder"].values()), "a family without a description"
    assert set(listed["search"]) == {"beam", "greedy"}
