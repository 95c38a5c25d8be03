"""The refiner against torch's own encoder layers, and which parts of a memory it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from captioner.encoders.refiner import REFINERS, TransformerRefiner, TransformerRefinerConfig
from captioner.errors import ConfigError
from captioner.layers.linear import packed
from captioner.layers.positions import sinusoidal
from captioner.memory import Memory
from captioner.store.weights import read_weights, write_weights
from tests.builders import FEATURES, build_memory
from tests.layers.test_transformer import scattered, torch_encoder


def build(*, features: int = FEATURES, **settings: Any) -> TransformerRefiner:
    config = TransformerRefinerConfig(
        **({"blocks": 2, "size": 8, "heads": 2, "feed_forward": 12, "dropout": 0.0} | settings)
    )
    refiner: TransformerRefiner = scattered(TransformerRefiner(config, features=features).eval())
    return refiner


VARIANTS = {  # options from papers after the Transformer, on a grid
    "relative": {"relative": True, "geometry": False},
    "convolution": {"convolution": 3},
    "conformer": {"relative": True, "convolution": 3, "half_steps": True, "activation": "silu"},
}
variants = pytest.mark.parametrize("settings", [{}, *VARIANTS.values()], ids=["plain", *VARIANTS])


def on_grid(memory: Memory) -> Memory:
    return replace(memory, grid=(2, 3))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_it_is_torchs_encoder_on_vectors_with_geometry(norm: str, masked: bool) -> None:
    refiner, memory = build(norm=norm), on_grid(build_memory(masked=masked))
    assert refiner.geometry is not None
    mask = torch.ones(memory.vectors.shape[:2], dtype=torch.bool) if memory.mask is None else memory.mask
    x = memory.vectors + refiner.geometry(memory)
    for block in refiner.blocks:
        x = torch_encoder(block, refiner.config)(x, src_key_padding_mask=~mask)  # type: ignore[arg-type]
    if norm == "pre":
        x = refiner.norm(x)
    refined = refiner(memory)
    close(refined.vectors[mask], x[mask])
    close(refined.pooled, torch.stack([image[real].mean(0) for image, real in zip(x, mask, strict=True)]))


def test_it_keeps_the_boxes_and_changes_the_size() -> None:
    refiner, memory = build(size=12), build_memory()
    memory = replace(memory, boxes=torch.rand(len(memory), memory.n_vectors, 4, dtype=torch.float64))
    refined = refiner(memory)
    assert refiner.features == 12 == refined.vectors.shape[-1] == refined.pooled.shape[-1]
    assert refined.mask is memory.mask and refined.boxes is memory.boxes
    assert refiner(on_grid(build_memory())).grid == (2, 3)
    assert REFINERS["transformer"] is TransformerRefiner


@pytest.mark.parametrize("in_image", [True, False])
def test_only_positions_distinguish_equal_features(in_image: bool) -> None:
    memory = build_memory(masked=False)
    memory = on_grid(memory) if in_image else memory
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = replace(memory, vectors=memory.vectors[:, order])
    blind, sighted = build(geometry=False), build(geometry=in_image, order=not in_image)
    close(blind(moved).vectors, blind(memory).vectors[:, order])
    assert (sighted(moved).vectors - sighted(memory).vectors[:, order]).abs().max() > 0.1


def test_order_is_the_encoding_of_the_words_of_a_sentence() -> None:
    memory, sighted, blind = build_memory(), build(geometry=False, order=True), build(geometry=False)
    blind.load_state_dict(sighted.state_dict())
    encoded = replace(memory, vectors=memory.vectors + sinusoidal(memory.n_vectors, 8))
    close(sighted(memory).vectors, blind(encoded).vectors)


@variants
def test_masked_vectors_have_no_influence_and_no_gradient(settings: dict[str, Any]) -> None:
    refiner, memory = build(**settings), on_grid(build_memory())
    assert memory.mask is not None
    hidden = ~memory.mask.unsqueeze(-1)
    other = replace(memory, vectors=memory.vectors.masked_fill(hidden, 1e3).requires_grad_())
    refined, expected = refiner(other), refiner(memory)
    close(refined.vectors[memory.mask], expected.vectors[memory.mask])
    close(refined.pooled, expected.pooled)
    (gradient,) = torch.autograd.grad(refined.pooled.square().sum(), other.vectors)
    assert not gradient[hidden.expand_as(gradient)].any() and gradient.any()


@variants
def test_a_fully_masked_image_is_finite_and_does_not_affect_others(settings: dict[str, Any]) -> None:
    refiner, memory = build(**settings), on_grid(build_memory())
    assert memory.mask is not None
    mask = memory.mask.clone()
    mask[1] = False
    refined = refiner(replace(memory, mask=mask, vectors=memory.vectors.requires_grad_()))
    (refined.vectors.square().sum() + refined.pooled.square().sum()).backward()
    assert refined.vectors.isfinite().all() and not refined.pooled[1].any()
    assert memory.vectors.grad is not None and memory.vectors.grad.isfinite().all()
    others = torch.tensor([0, 2, 3])
    close(refined.pooled[others], refiner(memory).pooled[others])


@variants
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradients_reach_every_parameter(norm: str, settings: dict[str, Any]) -> None:
    refiner, memory = build(features=5, norm=norm, **settings), build_memory()
    memory = on_grid(Memory(memory.vectors[..., :5], memory.pooled[..., :5], memory.mask))
    refiner(memory).vectors[..., 0].square().sum().backward()
    assert {
        name for name, parameter in refiner.named_parameters() if parameter.grad is None or not parameter.grad.any()
    } == set()


@variants
def test_it_is_the_same_from_a_file_and_packed(settings: dict[str, Any], tmp_path: Path) -> None:
    refiner, memory = build(**settings).float(), on_grid(build_memory()).to(dtype=torch.float32)
    expected = refiner(memory).vectors
    for dtype, bound in ((None, 0.0), (torch.float16, 0.01), (torch.int8, 0.1)):
        write_weights(tmp_path / "weights", refiner.state_dict(), dtype)
        again = build(**settings).float()
        again.load_state_dict(read_weights(tmp_path / "weights"))
        assert (again(memory).vectors - expected).norm() <= bound * expected.norm()
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        with torch.inference_mode():
            assert (packed(refiner, dtype)(memory).vectors - expected).norm() <= bound * expected.norm()


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=list(VARIANTS))
def test_relative_positions_and_convolution_need_a_grid(settings: dict[str, Any]) -> None:
    memory = build_memory()
    with pytest.raises(ConfigError, match=r"needs a grid; leave it out for regions, or set axes to 1"):
        build(**settings)(memory)
    assert build(**settings, axes=1)(memory).vectors.isfinite().all()


@variants
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_and_autocast_refine_nearly_the_same(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    refiner, memory = build(features=FEATURES, size=12, **settings), on_grid(build_memory())
    with torch.no_grad():
        expected = refiner(memory).vectors
        with torch.autocast("cpu", torch.bfloat16):
            mixed = refiner.float()(memory.to(dtype=torch.float32)).vectors
        refined = refiner.to(dtype)(memory.to(dtype=dtype)).vectors
    assert mixed.dtype == torch.float32 and refined.dtype == dtype
    assert memory.mask is not None
    for found in (mixed, refined):
        assert (found.double() - expected)[memory.mask].abs().max() < 0.1
