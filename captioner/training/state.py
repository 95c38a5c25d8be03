"""The saved state of a training run: all that is needed to resume it exactly, in one safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captioner import files
from captioner.errors import CheckpointError
from captioner.processes import ALONE, Processes


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the current epoch.
        step: finished batches in total.
        best: the best score on dev so far.
        best_epoch: the epoch that reached it.
        waited: evaluations since then.
        seconds: time spent training, including evaluation, before and after resuming.
        finished: whether the run is complete.
        scaler: the state of the gradient scaler at 16-bit precision; empty at others.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    waited: int = 0
    seconds: float = 0.0
    finished: bool = False
    scaler: dict[str, float] = field(default_factory=dict)


def generator_states() -> dict[str, Tensor]:
    """Return the states of this process's random generators, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def save_state(
    path: Path,
    progress: Progress,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    settings: str,
    generators: Sequence[Mapping[str, Tensor]] | None = None,
) -> None:
    """Write the state atomically.

    Args:
        path: the file.
        progress: the progress of the run.
        modules: what is trained, and what else has a state.
        optimiser: its optimiser.
        settings: what must be the same when the run is resumed.
        generators: :func:`generator_states` of every process; ``None`` for a process alone.
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
    with files.atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(progress)), "settings": settings})


def _generator(rank: int, kind: str) -> str:
    return f"rng.{kind}" + (f".{rank}" if rank else "")


def load_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    settings: str,
    processes: Processes = ALONE,
) -> Progress:
    """Restore what :func:`save_state` wrote.

    With another number of processes than it was saved by, their random generators begin anew.

    Raises:
        CheckpointError: the state is missing, damaged, or from a run with other settings.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is nothing to resume here; leave out --resume to start")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        progress = Progress(**json.loads(metadata["progress"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); delete the run's folder and start again") from None
    if metadata.get("settings") != settings:
        raise CheckpointError(
            f"{path}: this run was started with other settings; resume with the same ones, or give another --output"
        )
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        )
    for number, parameter in enumerate(_parameters(optimiser)):
        prefix = f"optimiser.{number}."
        entries = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if entries:
            # In the layout and on the device of the parameter, as the optimiser had created them.
            optimiser.state[parameter] = {
                key: tensor if key == "step" else torch.empty_like(parameter).copy_(tensor)
                for key, tensor in entries.items()
            }
    saved = sum(name.startswith("rng.cpu") for name in tensors)
    if saved != processes.count:
        torch.manual_seed(processes.count * progress.step + processes.rank)
        return progress
    torch.set_rng_state(tensors[_generator(processes.rank, "cpu")])
    if (state := tensors.get(_generator(processes.rank, "cuda"))) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state)
    return progress


def holds(path: Path, module: str) -> bool:
    """Return whether a state holds a module's weights; ``False`` if damaged, which :func:`load_state` reports."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(f"{module}.") for name in file.keys())  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError):
        return False


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
