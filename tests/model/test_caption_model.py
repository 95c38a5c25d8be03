"""A model with new words captions as before."""

from __future__ import annotations

import pytest
import torch

from captioner.decoders import DECODERS, DecoderConfig
from captioner.encoders import REFINERS
from captioner.errors import ConfigError
from captioner.model import CaptionModel, ModelConfig
from captioner.text.vocabulary import SPECIAL, Vocabulary
from tests.decoders.test_plain import Gru
from tests.test_registry_suite import TINY, small

WORDS = ["a", "dog", "cat", "runs"]


@pytest.mark.parametrize("refiner", [None, *REFINERS])
@pytest.mark.parametrize("decoder", list(DECODERS))
def test_new_words_begin_as_the_mean_and_change_nothing_else(decoder: str, refiner: str | None) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder={"name": "grid", **TINY["grid"]},
        refiner=refiner and {"name": refiner, **small(REFINERS[refiner])},
        decoder={"name": decoder, **small(DECODERS[decoder])},
    )
    model = CaptionModel.build(config, Vocabulary(WORDS, [9, 8, 7, 6])).eval()
    larger = model.extended(model.vocabulary.extended(Vocabulary(["zebra", "dog", "panda"], [5, 4, 3])))
    assert larger.vocabulary.words == (*SPECIAL, *WORDS, "zebra", "panda")
    assert larger.vocabulary.counts == (9, 8, 7, 6, 5, 3) and not larger.training
    assert len(model.vocabulary) == 8 and larger.encoder is model.encoder
    tokens = torch.tensor([[[1, 4, 5, 7], [1, 6, 0, 0]]])
    with torch.no_grad():
        memory = model(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
        before, after = (each.decoder(each.refiner(memory), tokens).logits for each in (model, larger))
    torch.testing.assert_close(after[..., :8], before)
    torch.testing.assert_close(after[..., 8], after[..., 4:8].mean(-1))
    torch.testing.assert_close(after[..., 8], after[..., 9])


class Transposed(Gru):
    """A decoder whose output layer is not torch's, and has a column for each word."""

    def __init__(self, config: DecoderConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.columns = torch.nn.Parameter(torch.arange(2.0 * words).view(2, words))


class Square(Gru):
    """A decoder with a weight for each pair of words."""

    def __init__(self, config: DecoderConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.pairs = torch.nn.Parameter(torch.zeros(words, words))


def test_the_words_may_be_any_axis_of_a_decoders_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DECODERS, "_entries", {**DECODERS._entries, "columns": Transposed, "pairs": Square})
    columns, pairs = (
        CaptionModel.build(
            ModelConfig(encoder={"name": "grid", **TINY["grid"]}, decoder={"name": name}), Vocabulary(WORDS)
        )
        for name in ("columns", "pairs")
    )
    more = columns.vocabulary.extended(Vocabulary(["zebra"]))
    row = [0, 1, 2, 3, 4, 5, 6, 7, 5.5]
    assert columns.extended(more).decoder.get_parameter("columns").tolist() == [row, [value + 8 for value in row]]
    with pytest.raises(ConfigError, match=r"new_words: pairs of the decoder 'pairs' cannot grow from \(8, 8\)"):
        pairs.extended(more)


def test_a_decoder_that_starts_from_a_text_encoders_state_is_refused() -> None:
    config = ModelConfig(encoder={"name": "grid", **TINY["grid"]}, decoder={"name": "show_tell", "from_state": True})
    with pytest.raises(ConfigError, match=r"decoder: from_state needs the final state of an LSTM, .* multi30k_seq2seq"):
        CaptionModel.build(config, Vocabulary(WORDS))


def test_nothing_new_is_the_same_vocabulary() -> None:
    vocabulary = Vocabulary(WORDS)
    assert vocabulary.extended(Vocabulary(["cat"])) == vocabulary
    assert vocabulary.extended(Vocabulary(["emu"], [3])).counts is None  # those of the others are not known
