"""A 14x14 grid of CNN features of an image (Xu 2015, section 3.1.1).

The centre of cell (r, c) is at ((c + 0.5) / columns, (r + 0.5) / rows) of the image. Images have the size at which the
backbone's map is 14x14, as enlarging a smaller map adds no information; the map of a larger image can be averaged.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captioner.data.transform import MAX_SIZE, Transform
from captioner.encoders import efficientnet_lite
from captioner.encoders.encoder import ENCODERS, Encoder, EncoderConfig, may_download
from captioner.errors import EncoderError, first_line
from captioner.layers.convolution import SameConv2d
from captioner.machine.backend import fast_dtype
from captioner.machine.packages import is_installed, require
from captioner.memory import Memory
from captioner.registry import suggestion

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(NamedTuple):
    """The source of a backbone.

    Attributes:
        library: ``timm``, ``torchvision``, or ``captioner`` for our own, whose weights come as Python packages.
        model: its name there.
        size: pixels at which its map is 14x14.
        last: the torchvision layer whose output is the map; timm's is that of ``forward_features``.
    """

    library: Literal["captioner", "timm", "torchvision"]
    model: str
    size: int = 448
    last: str = ""


BACKBONES: dict[str, Backbone] = {
    **{name: Backbone("captioner", name) for name in efficientnet_lite.VARIANTS},
    "resnet50": Backbone("torchvision", "resnet50", last="layer4"),
    "resnet101": Backbone("torchvision", "resnet101", last="layer4"),
    # The paper's 14x14x512 map, conv5_3 after its ReLU.
    "vgg19": Backbone("torchvision", "vgg19", size=224, last="features.33"),
}


class GridConfig(EncoderConfig):
    """Settings of a grid encoder."""

    added_later: ClassVar[frozenset[str]] = frozenset({"pool"})

    backbone: str = Field("efficientnet_lite0", description=f"one of {', '.join(BACKBONES)}, or any timm model's name")
    size: int = Field(
        0,
        ge=0,
        le=MAX_SIZE,
        description="side of the image in pixels; 0 is the size at which the backbone's map is 14x14",
    )
    fit: Literal["squash", "crop"] = Field(
        "squash", description="squash the whole image into a square, or crop its centre"
    )
    weights: Literal["pretrained", "random"] = Field("pretrained", description="ImageNet weights, or none (for tests)")
    pool: int = Field(
        0, ge=0, description="average the backbone's map to this many rows and columns, for larger images; 0: do not"
    )
    cut: int = Field(0, ge=0, description="how many of the backbone's last stages to cut off")


class Trunk(NamedTuple):
    """A backbone without its classifier.

    Attributes:
        stages: in their order.
        mean: of the pixels that the weights were trained on, in each channel.
        std: their standard deviation.
    """

    stages: nn.Sequential
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def cut(self, cut: int) -> Trunk:
        """Cut off the last ``cut`` stages."""
        if cut >= len(self.stages):
            raise EncoderError(
                f"of the backbone's {len(self.stages)} stages at most {len(self.stages) - 1} can be cut off, not {cut}"
            )
        return self._replace(stages=self.stages[: len(self.stages) - cut])


@ENCODERS.register("grid")
class GridEncoder(Encoder):
    """A CNN without its classifier: the image as a grid of features, 14x14 with the default backbones.

    Its batch normalisation always uses the running statistics (eval mode), in fine-tuning too: the statistics of a
    small batch would differ from those used in inference.

    Args:
        config: the settings.
        trunk: its backbone, already cut; ``None`` builds it.
    """

    Config: ClassVar[type[EncoderConfig]] = GridConfig
    _fused: bool = False

    def __init__(self, config: GridConfig, trunk: Trunk | None = None) -> None:
        super().__init__()
        known = BACKBONES.get(config.backbone) or _timm_backbone(config.backbone)
        if trunk is None:
            trunk = _build(known, pretrained=config.weights == "pretrained").cut(config.cut)
        self.config: GridConfig = config
        self.trunk = trunk.stages.eval()
        self.stages = len(self.trunk)
        self.transform = Transform(size=config.size or known.size, fit=config.fit, mean=trunk.mean, std=trunk.std)
        size = self.transform.size
        try:
            self.features, *grid = map_shape(self.trunk, size)
        except Exception as error:  # a backbone may need a certain size, or a larger one
            raise EncoderError(
                f"backbone {config.backbone!r} cannot encode images of {size} pixels ({first_line(error)}); give "
                "another size"
            ) from error
        if len(grid) != 2:
            raise EncoderError(f"backbone {config.backbone!r} has no map of features; choose a convolutional one")
        if config.pool > min(grid):
            raise EncoderError(
                f"pool: backbone {config.backbone!r} has a map of {grid[0]}x{grid[1]} cells for images of {size} "
                f"pixels, which cannot be averaged to {config.pool}x{config.pool}; give a larger size or a smaller pool"
            )
        self.grid = (config.pool, config.pool) if config.pool else (grid[0], grid[1])

    def train(self, mode: bool = True) -> GridEncoder:
        """Set the mode, but keep the trunk in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8 to a memory of B x (rows * columns) x D."""
        weight = self._weight()
        pixels = pixels.to(weight.device)
        if self._fused:
            images = efficientnet_lite.centred(pixels, weight.dtype)
        else:
            images = self.transform.normalise(pixels).to(weight.dtype)
        return self._memory(self.trunk(images.contiguous(memory_format=torch.channels_last)))

    def fast(self, device: torch.device) -> Encoder:
        """Return the encoder in the fast precision, with our own backbones fused."""
        if type(self) is not GridEncoder:  # a subclass may have other layers
            return super().fast(device)
        if self.config.backbone not in efficientnet_lite.VARIANTS:
            return self._rounded(device)
        encoder = copy.copy(self)
        encoder._modules = {}
        encoder.trunk = efficientnet_lite.fused(self.trunk, fast_dtype(device)).to(device).eval()
        encoder._fused, encoder._fingerprint = True, self.fingerprint()
        return encoder

    def front(self, cut: int) -> GridEncoder:
        if not cut:
            return self
        trunk = Trunk(self.trunk, self.transform.mean, self.transform.std).cut(cut)
        return GridEncoder(self.config.model_copy(update={"cut": self.config.cut + cut, "pool": 0}), trunk)

    def tail(self, cut: int) -> nn.Module:
        return self.trunk[self.stages - cut :]

    def finish(self, memory: Memory, cut: int) -> Memory:
        if not cut:
            return memory
        assert memory.grid is not None
        weight = self._weight()
        maps = memory.vectors.to(weight.dtype).unflatten(1, memory.grid).permute(0, 3, 1, 2)  # is channels_last
        return self._memory(self.tail(cut)(maps))

    def _memory(self, maps: Tensor) -> Memory:
        """Make a memory from maps (B, D, rows, columns) of the last stage."""
        if self.config.pool:
            maps = F.adaptive_avg_pool2d(maps, self.config.pool)
        return Memory.of_grid(maps.permute(0, 2, 3, 1).flatten(1, 2), (maps.shape[2], maps.shape[3]))


class _ForwardFeatures(nn.Module):
    """A timm model up to its last map (B, D, rows, columns)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.channels_last = str(getattr(model, "output_fmt", "")) == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(images)
        return features.permute(0, 3, 1, 2) if self.channels_last else features


class _WithoutNorms(TorchFunctionMode):
    """Skips batch normalisation, which keeps shapes, and on the meta device takes longer than all other layers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function is F.batch_norm else function(*args, **(kwargs or {}))


def map_shape(stages: nn.Sequential, size: int) -> tuple[int, ...]:
    """Return the channels, rows and columns of the last map of ``stages``, for images of size x size pixels."""
    if any(isinstance(layer, SameConv2d) for layer in stages.modules()):
        return efficientnet_lite.map_shape(stages, size)
    empty = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in chain(stages.named_parameters(), stages.named_buffers())
    }
    with _WithoutNorms():
        maps = torch.func.functional_call(stages, empty, (torch.empty(1, 3, size, size, device="meta"),))
    return tuple(maps.shape[1:])


def _build(backbone: Backbone, *, pretrained: bool) -> Trunk:
    if backbone.library == "captioner":
        stages = efficientnet_lite.build(backbone.model, pretrained=pretrained)
        trunk = Trunk(stages, efficientnet_lite.MEAN, efficientnet_lite.STD)
    else:
        trunk = (_build_timm if backbone.library == "timm" else _build_torchvision)(backbone, pretrained)
    trunk.stages.to(memory_format=torch.channels_last)
    return trunk


def _timm_backbone(name: str) -> Backbone:
    require(f"backbone {name!r}: is none of {', '.join(BACKBONES)}, and any other", "timm", error=EncoderError)
    import timm

    if re.fullmatch(r"[\w.]+", name) and timm.is_model(name):
        return Backbone("timm", name)
    hint = suggestion(name, [*BACKBONES, *timm.list_models()])
    raise EncoderError(
        f"backbone {name!r} does not exist.{hint} Use one of {', '.join(BACKBONES)}, or a name of timm.list_models(); "
        "import an encoder of your own first: captioner --import FILE.py"
    )


def _build_timm(backbone: Backbone, pretrained: bool) -> Trunk:
    import timm

    name = backbone.model
    file = _timm_file(name) if pretrained else None
    if pretrained and file is None and not may_download():
        raise _weights_missing(name, f"import timm; timm.create_model('{name}', pretrained=True)")
    try:
        model: Any = timm.create_model(
            name, pretrained=pretrained, pretrained_cfg_overlay={"file": file}, num_classes=0, global_pool=""
        )
    except Exception as error:  # hub, network and file errors of several libraries
        if not pretrained:
            raise EncoderError(
                f"backbone {name!r} gives no map of features ({first_line(error)}); choose another"
            ) from error
        raise _download_failed(backbone, error) from error
    if isinstance(model, timm.models.EfficientNet):
        middle = {f"stage{number}": stage for number, stage in enumerate(model.blocks)}
        stages = {
            "stem": nn.Sequential(model.conv_stem, model.bn1),
            **middle,
            "head": nn.Sequential(model.conv_head, model.bn2),
        }
    else:
        stages = {"whole": _ForwardFeatures(model)}
    return Trunk(nn.Sequential(OrderedDict(stages)), model.pretrained_cfg["mean"], model.pretrained_cfg["std"])


def _build_torchvision(backbone: Backbone, pretrained: bool) -> Trunk:
    from torchvision.models import get_model, get_model_weights

    model: nn.Module = get_model(backbone.model, weights=None)
    if pretrained:
        try:
            model.load_state_dict(torchvision_weights(backbone.model, get_model_weights(backbone.model).DEFAULT))
        except OSError as error:
            raise _download_failed(backbone, error) from error
    parent, _, last = backbone.last.rpartition(".")
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in model.get_submodule(parent).named_children():
        stages[name] = layer
        if name == last:
            break
    return Trunk(nn.Sequential(stages), _IMAGENET_MEAN, _IMAGENET_STD)


def torchvision_weights(name: str, weights: Any) -> dict[str, Tensor]:
    """Return weights of torchvision, from torch's cache or downloaded, without unpickling other objects.

    Raises:
        EncoderError: they are damaged, or missing and may not be downloaded.
        OSError: the download failed.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    if not file.is_file() and not may_download():
        raise _weights_missing(
            name, f"from torchvision.models import get_model; get_model('{name}', weights='DEFAULT')"
        )
    try:
        tensors: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise EncoderError(
            f"{file}: the weights of {name!r} are damaged ({first_line(error)}); delete the file, and they are "
            "downloaded again"
        ) from None
    return tensors


def _timm_file(name: str) -> str | None:
    """Return the file of a timm model's weights in the hub's cache, if it exists."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (try_to_load_from_cache(config.hf_hub_id, file) for file in names)
    return next((file for file in found if isinstance(file, str)), None)


def _weights_missing(name: str, program: str) -> EncoderError:
    return EncoderError(
        f"this model needs the weights of the backbone {name!r}, which are neither in its folder nor on this machine. "
        f'Models are loaded without downloads; to download the weights, run: python -c "{program}"'
    )


def _download_failed(backbone: Backbone, error: Exception) -> EncoderError:
    offline = ", ".join(name for name, size in efficientnet_lite.VARIANTS.items() if is_installed(size.package))
    return EncoderError(
        f"the weights of {backbone.model!r} could not be downloaded ({first_line(error)}). Connect to the network "
        f"once, copy them into the download cache of {backbone.library}, or use a backbone whose weights are "
        f"installed: {offline}"
    )
