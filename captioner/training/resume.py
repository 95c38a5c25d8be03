"""Resuming a run: checks of its folder, its data and its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from captioner import files, store
from captioner.errors import CheckpointError
from captioner.machine.processes import Processes
from captioner.training.recipe import RunConfig
from captioner.training.state import STATE, RunProgress, read_settings

_MAY_DIFFER = {"output", "device", "save_minutes", "logger"}  # settings that may differ
_MAY_INCREASE = ("epochs", "evaluation.patience")  # settings that may be raised, to train longer


@contextmanager
def locked(folder: Path, *, resume: bool) -> Iterator[None]:
    """Lock a run's folder, in the first of the processes that train together.

    Raises:
        CheckpointError: another process trains there, or see :func:`check_output`.
    """
    check_output(folder, resume=resume)
    if not Processes.started().first:
        yield
        return
    with files.only_one(folder, error=CheckpointError, work="trains"):
        yield


def check_output(folder: Path, *, resume: bool) -> None:
    """Check that the folder of a run is free, or holds the run to resume.

    Raises:
        CheckpointError: it holds another run, a model or models that the run would replace, or no run to resume.
    """
    exists = (folder / STATE).exists()
    if exists and not resume:
        raise CheckpointError(f"{folder}: holds a run already; continue it with --resume, or give another --output")
    if resume and not exists:
        raise CheckpointError(f"{folder}: holds no run to resume; leave out --resume to start one")
    if resume:
        return
    if (folder / store.CONFIG).exists() and not _is_run(folder):
        raise CheckpointError(
            f"{folder}: has a {store.CONFIG} that is not a run's, such as a model's; give another --output"
        )
    for model in (folder / "best", folder / "last"):
        if model.is_dir() and not _is_leftover(model):
            raise CheckpointError(f"{model}: exists, and the run would replace it; remove it, or give another --output")


def _is_run(folder: Path) -> bool:
    """Return whether a folder has the settings of a run."""
    with suppress(CheckpointError):
        return "optimiser" in files.read_json(folder / store.CONFIG, dict, error=CheckpointError)
    return False


def _is_leftover(model: Path) -> bool:
    """Return whether a model was saved by a run that was stopped before it saved its state, in the first epoch."""
    with suppress(CheckpointError):
        return _is_run(model.parent) and store.about(model).get("epoch") in (0, 1)
    return False


def check_models(folder: Path) -> None:
    """Check, before a resumed run trains, that its saved models are whole or missing.

    Raises:
        CheckpointError: one is damaged.
    """
    for model in (folder / "best", folder / "last"):
        if model.is_dir():
            try:
                store.read_whole(model, store.kind_of(model))
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; or remove {model}: a run that trains further writes it again"
                ) from None


def check_data(path: Path, progress: RunProgress, data: str, steps: int) -> None:
    """Check that a saved state belongs to a run's data.

    Args:
        path: of the state.
        progress: the progress in it.
        data: the hash of the data; empty if there is none.
        steps: batches per epoch.

    Raises:
        CheckpointError: the run was started with other data.
    """
    if progress.data and data and progress.data != data:
        reason = "its vocabulary, images or captions have changed"
    elif progress.step != progress.epoch * steps + progress.batch:
        reason = (
            f"it has made {progress.step:,} steps, which are not {progress.epoch} epochs of {steps:,} and "
            f"{progress.batch:,} batches"
        )
    else:
        return
    raise CheckpointError(
        f"{path}: this run began with other data: {reason}; put back the data, or start another run with another "
        "--output"
    )


def fixed_settings(settings: RunConfig) -> str:
    """Return the settings that are saved with the state and compared when a run is resumed, as JSON."""
    return settings.model_dump_json(exclude=_MAY_DIFFER)


def changed_settings(settings: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from those that a run was last saved with: the old value and the new one.

    Raises:
        CheckpointError: the state is missing or damaged, or a setting differs that must not.
    """
    path = settings.output / STATE
    before, now = read_settings(path), json.loads(fixed_settings(settings))
    with suppress(ValidationError):  # settings that were added after the state was saved get their defaults
        known = type(settings).model_validate(before | {"output": settings.output})
        before = json.loads(fixed_settings(known))
    found = differences(before, now)
    epochs = found.get("epochs", (0, 0))
    wrong = {
        name: values
        for name, values in found.items()
        if name not in _MAY_INCREASE
        or (name == "epochs" and not (isinstance(epochs[0], int) and epochs[0] < epochs[1]))
    }
    if wrong:
        each = [f"{name} was {json.dumps(old)} and is now {json.dumps(new)}" for name, (old, new) in wrong.items()]
        more = f"; and {len(each) - 8} more" if len(each) > 8 else ""
        fewer = "Epochs may be added, but not taken away. " if "epochs" in wrong else ""
        raise CheckpointError(
            f"{path}: this run was started with other settings: {'; '.join(each[:8])}{more}. {fewer}Resume with "
            "the same ones, or give another --output"
        )
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any], group: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two nested groups, by dotted name: the old value and the new one.

    A setting missing in one group is ``None`` there.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, f"{group}{name}.")
        elif old != new:
            found[group + name] = (old, new)
    return found
