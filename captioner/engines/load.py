"""Loading models into engines in torch. Importing it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from captioner.engines.engine import Engine
from captioner.errors import CheckpointError


def load_in_torch(folders: Mapping[str, Path], *, device: str = "auto", threads: int | None = None) -> Engine:
    """Load a model into an engine in torch, or several into that of their ensemble.

    Args:
        folders: of the models, by their names.
        device: a torch device, or ``auto``.
        threads: number of torch threads; ``None`` for torch's default.

    Raises:
        CheckpointError: torch is not installed, a model is damaged or needs a package that is not installed, or they
            cannot be an ensemble.
        ConfigError: the device is wrong.
    """
    try:
        import torch

        from captioner.engines.ensemble import EnsembleEngine
        from captioner.engines.model import ModelEngine
        from captioner.model.checkpoint import load_model
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise CheckpointError(
            f"{next(iter(folders.values()))}: is a model in torch, which is not installed; run: pip install torch, or "
            "give a folder that captioner export made of it"
        ) from None
    if threads is not None:
        torch.set_num_threads(threads)
    models = {name: load_model(folder) for name, folder in folders.items()}
    if len(models) > 1:
        return EnsembleEngine(models, device=device)
    return ModelEngine(*models.values(), device=device)
