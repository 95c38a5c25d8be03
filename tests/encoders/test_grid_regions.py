"""Grid and regions together: each part is exactly what its own encoder gives, in plain and mirrored images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from captioner.data.transform import Transform
from captioner.encoders.grid import GridConfig, GridEncoder
from captioner.encoders.grid_regions import GridRegionConfig, GridRegionEncoder, StackedTransform, join, separate
from captioner.encoders.regions import RegionConfig, RegionEncoder
from captioner.errors import EncoderError
from captioner.memory import Memory
from tests.encoders.test_regions import SIZE, detector

GRID = GridConfig(backbone="test_efficientnet", weights="random", size=SIZE + 32)
REGIONS = RegionConfig(regions=12, threshold=0.5)


@pytest.fixture(scope="module")
def encoder() -> GridRegionEncoder:
    torch.manual_seed(0)
    parts = (GridEncoder(GRID), RegionEncoder(REGIONS, detector()))
    return GridRegionEncoder(GridRegionConfig(grid=GRID, regions=REGIONS), parts).eval()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((200, 150 + 10 * i))
        for i in range(3)
    ]


def pixels_of(transform: Transform, images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(transform.pixels(image)) for image in images])


@pytest.mark.parametrize("mirrored", [False, True])
def test_both_encoders_get_the_same_input_as_alone(
    encoder: GridRegionEncoder, images: list[Image.Image], mirrored: bool
) -> None:
    cells, regions = encoder.stacked.split(pixels := pixels_of(encoder.transform, images))
    assert pixels.shape[1:] == encoder.transform.shape
    assert torch.equal(cells, pixels_of(encoder.cells.transform, images))
    assert torch.equal(regions, pixels_of(encoder.regions.transform, images))
    if mirrored:
        for part, alone in zip(encoder.stacked.split(pixels.flip(-1)), (cells, regions), strict=True):
            assert torch.equal(part, alone.flip(-1))
    with torch.no_grad():
        memory = encoder(pixels.flip(-1) if mirrored else pixels)
        alone = [
            part(one.flip(-1) if mirrored else one)
            for part, one in ((encoder.cells, cells), (encoder.regions, regions))
        ]
    n, d = alone[0].n_vectors, encoder.cells.features
    assert memory.vectors.shape == (3, n + 12, d + encoder.regions.features) and memory.grid is None
    assert torch.equal(memory.vectors[:, :n, :d], alone[0].vectors)
    assert torch.equal(memory.vectors[:, n:, d:], alone[1].vectors)
    assert not memory.vectors[:, :n, d:].any() and not memory.vectors[:, n:, :d].any()
    assert torch.equal(memory.pooled, torch.cat([alone[0].pooled, alone[1].pooled], dim=1))
    assert memory.boxes is not None and memory.mask is not None and memory.labels is not None
    cell_boxes = alone[0].image_boxes()
    assert cell_boxes is not None and torch.equal(memory.boxes[:, :n], cell_boxes)
    assert torch.equal(memory.boxes[:, n:], alone[1].boxes) and torch.equal(memory.mask[:, n:], alone[1].mask)
    assert bool((memory.labels[:, :n] == -1).all()) and torch.equal(memory.labels[:, n:], alone[1].labels)


def test_one_linear_layer_on_it_is_one_for_cells_and_one_for_regions(
    encoder: GridRegionEncoder, images: list[Image.Image]
) -> None:
    with torch.no_grad():
        memory = encoder(pixels_of(encoder.transform, images))
        layer = nn.Linear(encoder.features, 5)
        cells, regions = separate(memory, regions=12, features=encoder.regions.features)
        d = encoder.cells.features
        expected = torch.cat(
            [
                cells.vectors @ layer.weight[:, :d].T + layer.bias,
                regions.vectors @ layer.weight[:, d:].T + layer.bias,
            ],
            dim=1,
        )
        torch.testing.assert_close(layer(memory.vectors), expected)


def test_joining_undoes_separating(encoder: GridRegionEncoder, images: list[Image.Image]) -> None:
    with torch.no_grad():
        memory = encoder(pixels_of(encoder.transform, images))
    again = join(*separate(memory, regions=12, features=encoder.regions.features))
    for name in ("vectors", "pooled", "mask", "boxes", "labels", "scores"):
        assert torch.equal(getattr(again, name), getattr(memory, name)), name


@pytest.mark.parametrize("cut", [1, 2])
def test_the_grid_can_be_cut(encoder: GridRegionEncoder, images: list[Image.Image], cut: int) -> None:
    pixels = pixels_of(encoder.transform, images)
    with torch.no_grad():
        whole, front = encoder(pixels), encoder.front(cut)(pixels)
        finished = encoder.finish(front, cut)
    for name in ("vectors", "pooled", "boxes"):
        torch.testing.assert_close(getattr(finished, name), getattr(whole, name))
    trained = {id(weight) for weight in encoder.tail(cut).parameters()}
    assert trained and trained < {id(weight) for weight in encoder.cells.parameters()}


def test_it_takes_the_tuned_stages_of_a_grid_encoder_of_the_same_settings(encoder: GridRegionEncoder) -> None:
    tuned = GridEncoder(GRID)
    nn.init.normal_(next(tuned.tail(1).parameters()))
    torch.manual_seed(0)
    mine = GridRegionEncoder(
        GridRegionConfig(grid=GRID, regions=REGIONS), (GridEncoder(GRID), RegionEncoder(REGIONS, detector()))
    )
    mine.copy_weights(tuned, 1)
    for name, weight in tuned.tail(1).state_dict().items():
        assert torch.equal(mine.cells.tail(1).state_dict()[name], weight)
    assert mine.front(1).fingerprint() == encoder.front(1).fingerprint() and mine.fingerprint() != encoder.fingerprint()
    with pytest.raises(EncoderError, match="settings"):
        mine.copy_weights(GridEncoder(GRID.model_copy(update={"size": 64})), 1)


def test_images_that_cannot_be_stacked_are_refused() -> None:
    one = Transform(size=64, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(EncoderError, match=r"grid\.fit=squash"):
        StackedTransform.of(one.model_copy(update={"fit": "crop"}), one)
    with pytest.raises(EncoderError, match="both be even"):
        StackedTransform.of(one.model_copy(update={"size": 65}), one)


def test_a_mirrored_image_is_a_mirrored_stack(images: list[Image.Image]) -> None:
    one = Transform(size=64, mean=(0, 0, 0), std=(1, 1, 1))
    stacked = StackedTransform.of(one, one.model_copy(update={"size": 96}))
    assert stacked.decode_size == 192 and stacked.shape == (3, 160, 96)
    plain = pixels_of(stacked, images).flip(-1).int()
    mirrored = pixels_of(stacked, [ImageOps.mirror(image) for image in images]).int()
    assert (plain - mirrored).abs().max() <= 1  # resizing rounds some pixels the other way


def test_half_precision_keeps_the_boxes(encoder: GridRegionEncoder, images: list[Image.Image]) -> None:
    assert encoder.fast(torch.device("cpu")).fingerprint() == encoder.fingerprint()
    with torch.no_grad():
        memory = encoder(pixels_of(encoder.transform, images))
    half = memory.to(dtype=torch.bfloat16)
    assert half.scores is not None and half.scores.dtype == torch.float32 and half.vectors.dtype == torch.bfloat16
    assert isinstance(replace(memory), Memory)
