"""The saved state of a training run, to resume it exactly: one safetensors file, without pickle."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captioner import files
from captioner.errors import CheckpointError, first_line
from captioner.machine.processes import SINGLE_PROCESS, Processes
from captioner.machine.randomness import generator_states, set_generator_states

STATE = "state.safetensors"


@dataclass
class RunProgress:
    """The progress of a run.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the current epoch.
        step: finished batches in total.
        best: the best score on dev so far.
        best_epoch: the epoch of the best score.
        waited: evaluations since the best score.
        seconds: time spent on training and evaluation, over all starts.
        finished: whether the run is complete.
        scaler: the state of the gradient scaler at 16-mixed; empty at other precisions.
        data: :func:`data_hash` of the training data; empty in states of older versions.
    """

    epoch: Annotated[int, Field(ge=0)] = 0
    batch: Annotated[int, Field(ge=0)] = 0
    step: Annotated[int, Field(ge=0)] = 0
    best: float = -1.0
    best_epoch: Annotated[int, Field(ge=0)] = 0
    waited: Annotated[int, Field(ge=0)] = 0
    seconds: float = 0.0
    finished: bool = False
    scaler: dict[str, float] = field(default_factory=dict)
    data: str = ""


def data_hash(*parts: Iterable[object]) -> str:
    """Return a hash of ordered data, such as the words of a vocabulary, image ids and captions."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for item in part:
            digest.update(f"{item!r}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()


def save_state(
    path: Path,
    progress: RunProgress,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    settings: str,
    generators: Sequence[Mapping[str, Tensor]] | None = None,
) -> None:
    """Write the state atomically.

    Args:
        path: the file.
        progress: the progress of the run.
        modules: the trained modules and others with buffers, by name.
        optimiser: the optimiser.
        settings: the settings that a resumed run must have, as JSON.
        generators: the states of the random generators of every process; ``None`` for a single process.
    """
    tensors = {
        _generator(rank, kind): state
        for rank, states in enumerate(generators or [generator_states()])
        for kind, state in states.items()
    }
    for name, module in modules.items():
        tensors |= {
            f"{name}.{key}": tensor.detach().clone(memory_format=torch.contiguous_format)
            for key, tensor in module.state_dict().items()
        }
    for number, parameter in enumerate(_parameters(optimiser)):
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{number}.{key}"] = torch.as_tensor(value).clone(memory_format=torch.contiguous_format)
    metadata = {"progress": json.dumps(asdict(progress)), "settings": settings}
    metadata["checksum"] = _checksum(tensors, metadata)
    with files.atomic_path(path, size=sum(tensor.nbytes for tensor in tensors.values())) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _generator(rank: int, kind: str) -> str:
    return f"rng.{kind}" + (f".{rank}" if rank else "")


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a checksum of a state's tensors, progress and settings (0.1 s for 100 MB)."""
    value = zlib.crc32(f"{metadata['progress']}\n{metadata['settings']}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


ADVICE = "start again in another folder, or delete this one"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a state was saved with.

    Raises:
        CheckpointError: the state is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            settings = (file.metadata() or {})["settings"]
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({first_line(error)}); {ADVICE}") from None
    return files.parse_json(settings, dict, where=path, error=CheckpointError, advice=ADVICE)


def load_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    processes: Processes = SINGLE_PROCESS,
) -> RunProgress:
    """Restore a state written by :func:`save_state`.

    If the number of processes has changed, their random generators get new seeds.

    Raises:
        CheckpointError: the state is missing or damaged, or belongs to another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        progress = TypeAdapter(RunProgress).validate_json(metadata["progress"], strict=True)
        if metadata.get("checksum", "none") not in ("none", _checksum(tensors, metadata)):  # older states have none
            raise ValueError("its checksum is wrong")
    except Exception as error:  # from the file, its JSON or its types
        unknown = isinstance(error, ValidationError)
        reason = "its progress is not in this program's format" if unknown else first_line(error)
        raise CheckpointError(f"{path}: damaged ({reason}); {ADVICE}") from None
    _check_shapes(path, tensors, modules, _parameters(optimiser))
    for name, module in modules.items():
        module.load_state_dict(_with_prefix(tensors, name))
    for number, parameter in enumerate(_parameters(optimiser)):
        if entries := _with_prefix(tensors, f"optimiser.{number}"):
            # In the memory layout and on the device of the parameter, as the optimiser creates them.
            optimiser.state[parameter] = {
                key: tensor if key == "step" else torch.empty_like(parameter).copy_(tensor)
                for key, tensor in entries.items()
            }
    saved = sum(name.startswith("rng.cpu") for name in tensors)
    if saved != processes.count:
        torch.manual_seed(processes.count * progress.step + processes.rank)
        return progress
    try:
        names = {device: _generator(processes.rank, device) for device in ("cpu", "cuda")}
        set_generator_states({device: tensors[name] for device, name in names.items() if name in tensors})
    except (RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged (the state of a random generator: {first_line(error)}); {ADVICE}"
        ) from None
    return progress


def _with_prefix(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _check_shapes(
    path: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], parameters: Sequence[Tensor]
) -> None:
    """Check, before anything is changed, that a state belongs to these modules and this optimiser.

    Raises:
        CheckpointError: a tensor is missing or unexpected, or has another shape or type.
    """
    expected = {
        f"{name}.{key}": (tuple(tensor.shape), tensor.dtype)
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    found = {
        f"{name}.{key}": (tuple(tensor.shape), tensor.dtype)
        for name in modules
        for key, tensor in _with_prefix(tensors, name).items()
    }
    moments = [_with_prefix(tensors, f"optimiser.{number}") for number in range(len(parameters))]
    kinds = {key: tensor.dtype for entries in moments for key, tensor in entries.items()}
    for number, (parameter, entries) in enumerate(zip(parameters, moments, strict=True)):
        for key in kinds if entries else ():  # a parameter that was not trained yet has no entries
            shape = () if key == "step" else tuple(parameter.shape)
            expected[f"optimiser.{number}.{key}"] = (shape, kinds[key])
        found |= {f"optimiser.{number}.{key}": (tuple(each.shape), each.dtype) for key, each in entries.items()}
    for name in dict.fromkeys((*expected, *found)):
        if expected.get(name) != found.get(name):
            there, here = (
                "missing" if each is None else f"{str(each[1]).removeprefix('torch.')} {list(each[0])}"
                for each in (found.get(name), expected.get(name))
            )
            raise CheckpointError(
                f"{path}: does not belong to this run: {name} is {there} in it and {here} here; put back the data and "
                "the version of captioner that the run began with, or start another run with another --output"
            )


def has_module(path: Path, module: str) -> bool:
    """Return whether a state has a module's weights; ``False`` for a damaged one, which :func:`load_state` reports."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(f"{module}.") for name in file.keys())  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError):
        return False


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
