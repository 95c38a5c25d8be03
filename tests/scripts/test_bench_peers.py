"""Other programs' decoders are trained from their checkouts, on our features and captions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.scripts.test_cards import load

#: what the benchmark uses of ImageCaptioning.pytorch
MODELS = """
import torch
made = []

class Att2inModel(torch.nn.Module):
    def __init__(self, options):
        super().__init__()
        self.word = torch.nn.Linear(options.att_feat_size, options.vocab_size + 1)
        made.append(self)

    def forward(self, pooled, vectors, captions):
        assert pooled.shape[0] == vectors.shape[0] == captions.shape[0]
        b, k, t = captions.shape
        scores = self.word(pooled).log_softmax(-1)
        return scores.repeat_interleave(k, dim=0).unsqueeze(1).expand(-1, t, -1)
"""


def test_a_peer_takes_steps_that_lower_its_loss(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "captioning" / "models"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text(MODELS)
    work = load(repository, "bench").Training("show_attend_tell")
    peers = work.peers("show_attend_tell", {"luo": tmp_path})
    (model,) = sys.modules["captioning.models"].made
    for name in ("captioning.models", "captioning"):
        monkeypatch.delitem(sys.modules, name)
    assert list(peers) == ["luo"] and not work.peers("transformer, 6 blocks", {"luo": tmp_path})
    captions = work.batches[0]

    @torch.no_grad()
    def likelihood() -> float:
        scores = model(work.memory.pooled, work.memory.vectors, captions.inputs)
        real = (captions.inputs != 0).flatten(0, 1)
        return scores[real].gather(1, captions.targets.unsqueeze(1)).mean().item()

    before = likelihood()
    peers["luo"](0)
    assert likelihood() > before
