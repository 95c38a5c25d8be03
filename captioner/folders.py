"""The folders of models: finding one, reading its config, and replacing it whole or not at all. Nothing needs torch.

What else a folder holds depends on the kind of the model, which its config names: see :mod:`captioner.checkpoint` and
:mod:`captioner.onnx`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import captioner
from captioner import files
from captioner.assets import CAPTIONER, CONFIG, TRANSLATOR, kind_of, shipped
from captioner.errors import CheckpointError, first_line
from captioner.registry import suggestion

FORMAT = 1
WEIGHTS, VOCABULARY, CARD = "model.safetensors", "vocabulary.json", "README.md"
SOURCE_VOCABULARY = "source_vocabulary.json"  # of a translator: the words it reads
GRAPHS = ("encoder.onnx", "start.onnx", "step.onnx")  # of an exported captioner
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
    others = shipped(None)
    if name in others:
        raise CheckpointError(
            f"{name}: is a {kind_of(others[name])}, and this needs a {kind}; known: {', '.join(models)}"
        )
    hint = suggestion(name, list(models))
    raise CheckpointError(
        f"model {name!r} does not exist.{hint} Shipped: {', '.join(models) or 'none'}; or give a model folder, or "
        "user/model on the hub"
    )


def translators(source: str = "en") -> dict[str, str]:
    """Return the languages that shipped translators write from ``source``, with the name of the first one of each."""
    found: dict[str, str] = {}
    for name, folder in shipped(TRANSLATOR).items():
        model = read_config(folder, TRANSLATOR)["model"]
        if model.get("source") == source:
            found.setdefault(str(model.get("target")).lower(), name)
    return found


def translator_into(language: str, source: str = "en") -> str:
    """Return the name of the shipped translator into a language, ``de`` for example, from another.

    Raises:
        CheckpointError: no shipped translator writes the language.
    """
    known = translators(source)
    if language.lower() not in known:
        raise CheckpointError(
            f"no translator from {source!r} into {language!r} comes with this copy of captioner. "
            f"Languages that there are: {', '.join(known) or 'none'}; or name a translator's folder (--translator); "
            "train one with: captioner train"
        )
    return known[language.lower()]


def _from_hub(name: str) -> Path:
    parts = [WEIGHTS, *GRAPHS, CONFIG, VOCABULARY, SOURCE_VOCABULARY, CARD]
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=parts))
    except Exception as error:  # the hub's and the network's own families
        raise CheckpointError(f"model {name!r}: no such folder, and the hub gave none ({first_line(error)})") from None


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


def write_config(folder: Path, kind: str, config: Mapping[str, Any]) -> None:
    """Write the config of a model, for :func:`read_config`."""
    files.write_json(folder / CONFIG, {"format": FORMAT, "captioner": captioner.__version__, "kind": kind, **config})


@contextmanager
def replace(folder: str | Path, kind: str, config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end it gets its config and takes its place, completely or not at all.

    An existing folder of a model of this kind is replaced. On an exception everything stays as it was.

    Args:
        folder: its path.
        kind: of the model, for :func:`read_config`.
        config: the fields of ``config.json`` that are specific to the kind; more may be added before the end.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
    """
    folder = Path(folder)
    check_replaceable(folder, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        write_config(temporary, kind, config)
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod((temporary / CONFIG).stat().st_mode & 0o777)
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


def check_replaceable(folder: str | Path, kind: str) -> None:
    """Check that a folder may be written as a model of a kind.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
        FileError: nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder, kind):
        raise CheckpointError(f"{folder}: exists and is not a model folder of captioner; give another name")
    files.check_place(folder)


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
