"""The weights of a model: safetensors, in their own precision, in half precision, or in eight bits.

In eight bits, a matrix (or a convolution's filters) is stored as integers from -127 to 127 with one float32 factor a
row, under the name ``NAME.row_scale``: each number is rounded to the nearest of 255 between minus and plus the largest
of its row (Jacob 2018, https://arxiv.org/abs/1712.05877; symmetric, and one factor per output channel). Vectors are
stored as float16. :func:`read_weights` returns float32: only the file is smaller.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from captioner.errors import CaptionerError, CheckpointError, first_line
from captioner.store.config import CONFIG, WEIGHTS
from captioner.store.folder import replace, write_card

_SCALE = ".row_scale"


def write_weights(
    path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None, *, half: tuple[str, ...] = ()
) -> None:
    """Write tensors to a file, through to the disk.

    Args:
        path: the file; it is not written atomically, which is left to the caller.
        weights: the tensors by name.
        dtype: store floating-point tensors in this type, ``torch.float16`` or ``torch.int8`` (see above); ``None``
            keeps theirs.
        half: the prefix of tensors that ``torch.int8`` leaves in float16.
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
        CheckpointError: it is missing or damaged, or not all of its numbers are finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: the weights are missing; copy the whole model folder")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, LookupError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file ({first_line(error)}); copy it again"
        ) from None
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_SCALE):
            if name.removesuffix(_SCALE) not in tensors:
                raise CheckpointError(f"{path}: {name} belongs to no weights; copy it again")
            continue
        scale = tensors.get(name + _SCALE)
        if scale is not None:
            if tensor.dtype != torch.int8 or tensor.dim() < 2 or scale.dtype != torch.float32:
                raise CheckpointError(
                    f"{path}: {name} is not a matrix in eight bits with float32 factors; copy it again"
                )
            if scale.shape != tensor.shape[:1]:
                raise CheckpointError(f"{path}: {name} does not have one factor for each row; copy it again")
            tensor = dequantised(tensor, scale)
        if not _finite(tensor):
            raise CheckpointError(
                f"{path}: {name} has numbers that are not finite; it is damaged, or its training diverged: copy it "
                "again, or train it again with a smaller learning rate"
            )
        weights[name] = tensor
    return weights


def _finite(tensor: Tensor) -> bool:
    """Return whether all numbers are real and finite.

    Their sum, which is finite if they are not huge, takes a fifth of the time of checking each.
    """
    if not tensor.is_floating_point():
        return not tensor.is_complex()
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


@contextmanager
def sized(weights: Mapping[str, Tensor] | None, where: Path) -> Iterator[None]:
    """Refuse to build more parameters than a file has numbers, for the modules that are built inside and get them.

    A damaged or malicious config may have sizes or a number of layers that exhaust memory. A parameter is counted
    before it is initialised, so until then it takes no memory.

    Args:
        weights: all tensors of the file; ``None`` sets no limit.
        where: the config, for the error.

    Raises:
        CheckpointError: the modules are larger, or cannot be built.
    """
    # Some room, since a module may make a parameter twice, and names and shapes that differ make the better error.
    limited = weights is not None
    numbers = 2 * sum(tensor.numel() for tensor in (weights or {}).values()) + (1 << 24)
    parameters = 2 * len(weights or {}) + 1000
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal numbers, parameters
        if limited and parameter is not None and threading.get_ident() == thread:  # other threads build without a limit
            numbers, parameters = numbers - parameter.numel(), parameters - 1
            if min(numbers, parameters) < 0:
                raise CheckpointError(
                    f"{where}: its sizes are those of a larger model than the weights next to it; copy the whole model "
                    "folder again"
                )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except CaptionerError:
        raise
    except Exception as error:  # sizes that torch, timm or torchvision cannot work with
        raise CheckpointError(
            f"{where}: no model can be built of it ({first_line(error)}); copy the whole model folder again"
        ) from error
    finally:
        handle.remove()


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


class Savable(Protocol):
    """An object that can write itself to a file."""

    def save(self, path: str | Path) -> None:
        """Write the object to ``path``."""


def write_folder(
    folder: str | Path,
    kind: str,
    *,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    others: Mapping[str, Savable | None],
    card: str = "",
    dtype: torch.dtype | None = None,
    half: tuple[str, ...] = (),
) -> Path:
    """Write the folder of a model of any kind, completely or not at all; an existing one of its kind is replaced.

    Args:
        folder: its path.
        kind: of the model, for :func:`read_config`.
        weights: all of its tensors.
        config: the fields of ``config.json`` that are specific to the kind.
        others: vocabularies and more by file name; ``None`` is left out.
        card: the text of the model card; by default :func:`captioner.store.card.default` writes it.
        dtype: see :func:`write_weights`.
        half: likewise.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
    """
    with replace(folder, kind, config) as temporary:
        write_weights(temporary / WEIGHTS, weights, dtype, half=half)
        for name, other in others.items():
            if other is not None:
                other.save(temporary / name)
        write_card(temporary, kind, config, folder, card)
    return Path(folder)


def put_weights(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load weights that were read from ``folder`` into a module.

    Raises:
        CheckpointError: they do not fit the module.
    """
    try:
        for name, tensor in module.state_dict().items():  # torch would convert them unasked
            if name in weights and weights[name].is_floating_point() != tensor.is_floating_point():
                raise RuntimeError(f"{name} is {weights[name].dtype}, not {tensor.dtype}")
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} ({reason}); copy the whole model folder again"
        ) from None
