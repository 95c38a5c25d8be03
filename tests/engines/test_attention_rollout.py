"""The heads of a Transformer against the attention found in search and against a naive rollout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner import Caption, Captioner
from captioner.encoders import Refiner, TransformerRefiner
from captioner.encoders.refiner import TransformerRefinerConfig
from captioner.engines.attention_rollout import check, rollout
from captioner.engines.model import model_engine
from captioner.errors import CaptionerError
from captioner.layers.positions import sinusoidal
from captioner.memory import Memory
from captioner.model import CaptionModel, ModelConfig
from captioner.text.vocabulary import BOS, Vocabulary
from tests.builders import FEATURES, build_decoder
from tests.figures.builders import make_image
from tests.model.test_checkpoint import tiny_model

BLOCKS = {"blocks": 2, "size": 8, "heads": 2, "feed_forward": 12, "dropout": 0.0}


RELATIVE = {"relative": True, "convolution": 3, "half_steps": True}


@pytest.fixture(scope="module", params=["decoder", "refined", "relative"])
def captioner(request: pytest.FixtureRequest) -> Captioner:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "size": 64, "weights": "random"},
        refiner={
            "decoder": None,
            "refined": {"name": "transformer", **BLOCKS},
            "relative": {"name": "transformer", **BLOCKS, **RELATIVE},
        }[request.param],
        decoder={"name": "transformer_xl" if request.param == "relative" else "transformer", **BLOCKS},
        search={"min_words": 3, "max_words": 6},  # type: ignore[arg-type]
    )
    model = CaptionModel.build(config, Vocabulary(["a", "dog", "cat", "runs", "grass"]))
    for weight in (*model.refiner.parameters(), *model.decoder.parameters()):
        torch.nn.init.normal_(weight)
    # The search in 32 bits, as the heads are computed, not in the machine's fast precision.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioner.engines.model.fast_dtype", lambda _: torch.float32)
        return Captioner.from_model(model, device="cpu")


@pytest.fixture
def caption(captioner: Captioner) -> Caption:
    return captioner(make_image())


def test_heads_come_back_from_the_search_and_their_mean_is_what_it_found(
    captioner: Captioner, caption: Caption
) -> None:
    heads = [captioner(make_image(), attention=f"{block}.{head}") for block in (1, 2) for head in (1, 2)]
    assert [one.attention_of for one in (caption, *heads)] == ["mean", "1.1", "1.2", "2.1", "2.2"]
    assert all(one.tokens == caption.tokens for one in heads)
    weights = [one.attention for one in heads]
    assert caption.attention is not None and all(
        weight is not None and weight.shape == caption.attention.shape for weight in weights
    )
    assert float(np.abs(weights[0] - weights[3]).max()) > 0.01  # type: ignore[operator]
    np.testing.assert_allclose(np.stack(weights).mean(0), caption.attention, rtol=0, atol=1e-5)  # type: ignore[arg-type]


def test_all_heads_at_once(captioner: Captioner, caption: Caption) -> None:
    every = captioner(make_image(), attention="heads")
    assert (
        every.heads is not None
        and every.attention is not None
        and caption.attention is not None
        and caption.heads is None
    )
    np.testing.assert_allclose(every.attention, caption.attention, rtol=1e-5)
    assert every.heads.shape == (len(caption.tokens), 2, 2, caption.attention.shape[1])
    one = captioner(make_image(), attention="2.1").attention
    np.testing.assert_allclose(every.heads[:, 1, 0], one, rtol=1e-5)
    assert np.shape(every.to_dict(attention=True)["heads"]) == tuple(every.heads.shape)


@pytest.mark.parametrize("attention", ["1.2", "rollout"])
def test_captions_of_many_images_have_the_attention_of_one(captioner: Captioner, attention: str) -> None:
    """Photos and captions of different lengths share a batch; each of the n best has its own attention."""
    several = Captioner.from_model(model_engine(captioner.engine, "test").model, device="cpu", n_best=3, width=3)
    images = [make_image(), make_image(50, 90), make_image(64, 64)]
    for together, image in zip(several(images, attention=attention), images, strict=True):
        alone = several(image, attention=attention)
        for one, other in zip((together, *together.others), (alone, *alone.others), strict=True):
            assert one.tokens == other.tokens and one.attention is not None and other.attention is not None
            assert len(one.attention) == len(one.tokens) and one.attention_of == attention
            np.testing.assert_allclose(
                one.attention, other.attention, rtol=0, atol=0.02
            )  # the encoder may be rounded, differently in a batch


def test_rollout_of_a_caption_is_attention(captioner: Captioner, caption: Caption) -> None:
    found = captioner(make_image(), attention="rollout").attention
    assert found is not None and caption.attention is not None and found.shape == caption.attention.shape
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert float(found.min()) >= 0 and float(np.abs(found - caption.attention).max()) > 1e-4


@pytest.mark.parametrize("heads", ["0.1", "1.0", "3.1", "1.3", "1", "1.2.3", "max", ""])
def test_missing_heads_are_refused(captioner: Captioner, heads: str) -> None:
    with pytest.raises(CaptionerError, match=r"^attention: "):
        captioner.engine.for_attention(heads)


def test_other_decoders_have_only_the_mean() -> None:
    other = Captioner.from_model(tiny_model(), device="cpu")
    assert other.engine.for_attention("mean") is other.engine
    for heads in ("rollout", "1.1", "heads"):
        with pytest.raises(CaptionerError, match="Transformer"):
            other(make_image(), attention=heads)


def _attend(
    attention: object, norm: object, x: np.ndarray, read: np.ndarray | None, *, causal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Section 3.2.2 of Vaswani 2017, a head, a query and a key at a time, with pre-norm.

    Returns the output and the mean weights of the heads.
    """
    weight = {name: value.detach().numpy() for name, value in attention.named_parameters()}  # type: ignore[attr-defined]
    y = norm(torch.tensor(x)).detach().numpy()  # type: ignore[operator]
    read = y if read is None else read
    size = x.shape[1]
    query, key, value = (
        y @ weight["query.weight"].T,
        read @ weight["key_value.weight"][:size].T,
        read @ weight["key_value.weight"][size:].T,
    )
    each, mean = size // 2, np.zeros((len(x), len(read)))
    seen = np.zeros_like(x)
    for head in range(2):
        part = slice(head * each, (head + 1) * each)
        for q in range(len(x)):
            scores = [
                np.exp(query[q, part] @ key[k, part] / each**0.5) if not causal or k <= q else 0.0
                for k in range(len(read))
            ]
            shares = np.array(scores) / sum(scores)
            mean[q] += shares / 2
            seen[q, part] = shares @ value[:, part]
    return seen @ weight["output.weight"].T, mean


def _fed(block: object, x: np.ndarray) -> np.ndarray:
    residual = block.around_feed_forward  # type: ignore[attr-defined]
    return x + block.feed_forward(residual.norm(torch.tensor(x))).detach().numpy()  # type: ignore[attr-defined]


class Other(Refiner):
    """A refiner from outside, which may mix regions in any way."""

    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, memory: Memory) -> Memory:
        return memory


def test_rollout_refuses_other_refiners() -> None:
    model = tiny_model(decoder={"name": "transformer", **BLOCKS})
    assert check(model, "rollout") is None
    model.refiner = Other(features=model.encoder.features)
    assert check(model, "1.1") == (0, 0)
    with pytest.raises(CaptionerError, match="rollout cannot trace regions through the refiner Other"):
        check(model, "rollout")


def test_rollout_is_the_naive_one() -> None:
    decoder = build_decoder("transformer")
    torch.manual_seed(1)
    refiner = (
        TransformerRefiner(TransformerRefinerConfig(**{**BLOCKS, "blocks": 1}, geometry=False), features=FEATURES)
        .double()
        .eval()
    )
    for weight in refiner.parameters():
        torch.nn.init.normal_(weight, std=0.7)
    memory = Memory.of_grid(torch.randn(1, 6, FEATURES, dtype=torch.float64), (2, 3))
    words = [BOS, 5, 7, 4]
    tokens = torch.tensor([[words]])
    with torch.inference_mode():
        found = rollout(refiner, decoder, memory, tokens)
        crossed: Tensor = decoder.cross_attention(refiner(memory), tokens)  # type: ignore[operator]

    x = memory.vectors[0].numpy()
    places = np.eye(6)
    for block in refiner.blocks:
        seen, weights = _attend(block.attention, block.around_attention.norm, x, None, causal=False)
        x = _fed(block, x + seen)
        places = (np.eye(6) + weights) / 2 @ places
    x = refiner.norm(torch.tensor(x)).detach().numpy()

    inner = decoder
    y = (inner.embedding.weight[words] * 8**0.5 + sinusoidal(4, 8)).detach().numpy()  # type: ignore[index, operator]
    # For every word: the share of each region and of each earlier word in its vector.
    of_places, of_words = np.zeros((4, 6)), np.eye(4)
    for number, block in enumerate(inner.blocks):  # type: ignore[arg-type]
        seen, weights = _attend(block.self_attention, block.around_self_attention.norm, y, None, causal=True)
        y = y + seen
        of_places, of_words = ((np.eye(4) + weights) / 2 @ part for part in (of_places, of_words))
        seen, weights = _attend(block.cross_attention, block.around_cross_attention.norm, y, x, causal=False)
        np.testing.assert_allclose(crossed[:, number].mean(1).numpy(), weights, atol=1e-10)
        y = _fed(block, y + seen)
        of_places, of_words = of_places / 2 + weights @ places / 2, of_words / 2
    np.testing.assert_allclose(of_places.sum(1) + of_words.sum(1), 1)
    np.testing.assert_allclose(found.numpy(), of_places / (1 - of_words.sum(1, keepdims=True)), atol=1e-10)
