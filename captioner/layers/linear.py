"""Linear maps for inference on a CPU, with weights in oneDNN's layout.

Each step of a search multiplies a few rows by every weight of the decoder, so most of the time goes into reading the
weights and, in the general product, into rearranging them. Rearranged once, in 16 bits where the processor multiplies
those, they are read several times faster (``python scripts/bench.py --only search``).
"""

from __future__ import annotations

import copy
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def has_onednn(device: torch.device) -> bool:
    """Return whether oneDNN's operations on prepared weights, which ``torch.compile`` uses too, are available."""
    available = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return available and device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class PackedLinear(nn.Module):
    """The map ``x W^T + b`` for x (..., I), without gradients.

    Args:
        weight: (O, I).
        bias: (O,) or ``None``.
        dtype: the precision of the weight and of the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        weight = weight.detach().to(dtype)
        self.dtype = dtype
        # They are not buffers, as packed weights can be neither moved nor saved.
        self._bias = None if bias is None else bias.detach().to(dtype)
        self._packed = has_onednn(weight.device)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) if self._packed else weight

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x (..., I); the result is (..., O)."""
        x = x.to(self.dtype)
        if not self._packed:
            return F.linear(x, self._weight, self._bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


class Packable:
    """A module that declares its linear layers for :func:`packed` to replace.

    Attributes:
        packs: names of linear layers that are packed in the precision of the copy.
        exact: names of linear layers that are packed in 32 bits.
    """

    packs: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[tuple[str, ...]] = ()

    def pack(self, dtype: torch.dtype) -> None:
        """Pack weights outside of linear layers; called on the copy that :func:`packed` makes."""


def packed(module: ModuleT, dtype: torch.dtype) -> ModuleT:
    """Return a copy of a module for inference on a CPU: its declared layers are packed, all other weights shared.

    Args:
        module: in eval mode, on the CPU.
        dtype: of the packed layers, except those in :attr:`Packable.exact`.
    """
    result = copy.copy(module)
    precisions: dict[str, torch.dtype] = {}
    if isinstance(module, Packable):
        precisions = dict.fromkeys(module.packs, dtype) | dict.fromkeys(module.exact, torch.float32)
    result._modules = {}
    for name, child in module._modules.items():
        if isinstance(child, nn.Linear):
            precision = precisions.get(name)
            result._modules[name] = child if precision is None else PackedLinear(child.weight, child.bias, precision)
        else:
            result._modules[name] = None if child is None else packed(child, dtype)
    if isinstance(result, Packable):
        result.pack(dtype)
    return result


def fast(module: ModuleT, dtype: torch.dtype) -> ModuleT:
    """Return a module for search: on a CPU the copy of :func:`packed`, for inference only; elsewhere the module."""
    on_cpu = all(weights.device.type == "cpu" for weights in module.parameters())
    return packed(module, dtype) if on_cpu else module
