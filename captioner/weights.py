"""The file of a model's weights: safetensors, in the precision they had, in half precision, or in eight bits.

In eight bits, a matrix (or a convolution's filters) is stored as integers from -127 to 127 with one float32 factor a
row, under the name ``NAME.row_scale``: each number is rounded to the nearest of 255 between minus and plus the largest
of its row (Jacob 2018, https://arxiv.org/abs/1712.05877; symmetric, and one factor per output channel). Vectors are
stored as float16. :func:`read_weights` returns float32, so that only the file is smaller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner.errors import CheckpointError

_SCALE = ".row_scale"


def write_weights(
    path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None, *, half: tuple[str, ...] = ()
) -> None:
    """Write tensors to a file, through to the disk.

    Args:
        path: the file; the caller sees to it that an unfinished one is not taken for a whole one.
        weights: the tensors by name.
        dtype: store floating-point tensors in this type, ``torch.float16`` or ``torch.int8`` (see above); ``None``
            keeps theirs.
        half: what the names begin with of tensors that ``torch.int8`` leaves in float16.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu()
        if not tensor.is_floating_point() or dtype is None:
            tensors[name] = tensor.contiguous()
        elif dtype == torch.int8 and tensor.dim() > 1 and not name.startswith(half):
            tensors[name], tensors[name + _SCALE] = quantised(tensor)
        else:
            tensors[name] = tensor.to(torch.float16 if dtype == torch.int8 else dtype).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file; those in eight bits come back as float32.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: the weights are missing; copy the whole model folder")
    try:
        tensors = load_file(path)
        return {
            name: dequantised(tensor, tensors[name + _SCALE]) if name + _SCALE in tensors else tensor
            for name, tensor in tensors.items()
            if not name.endswith(_SCALE)
        }
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); copy it again") from None


def quantised(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix (rows, ...) to eight bits.

    Returns:
        int8 (rows, ...) and the float32 factor of each row (rows,), zero for a row of zeros.
    """
    rows = matrix.float().flatten(1)
    scale = rows.abs().amax(dim=1) / 127
    integers = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)).round().clamp(-127, 127)
    return integers.to(torch.int8).view(matrix.shape).contiguous(), scale


def dequantised(integers: Tensor, scale: Tensor) -> Tensor:
    """Turn the two tensors of :func:`quantised` into a float32 matrix."""
    return (integers.float().flatten(1) * scale.unsqueeze(1)).view(integers.shape)
