"""``captioner train``: train a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import captioner
from captioner.cli import console

EXAMPLES = """Example: captioner train recipe.yaml --output models/mine

Example: captioner train flickr8k_show_attend_tell --set model.decoder.hidden=256 --set seed=2 --output models/small

Example: captioner train multi30k_attention --set data.path=data/multi30k --output models/en_de"""


def _presets(folder: str) -> list[str]:
    return sorted(file.stem for file in (Path(captioner.__file__).parent / "training" / folder).glob("*.yaml"))


CAPTIONERS, TRANSLATORS = _presets("presets"), _presets("presets_text")


def run(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help=f"A YAML file, or a shipped recipe of a captioner ({', '.join(CAPTIONERS)}) or a translator ({', '.join(TRANSLATORS)}).",
        ),
    ],
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", file_okay=False, help="The folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Train a captioner or a translator and print the folder of the best model.

    A YAML file is a translator's if its model has a source or target language, or an encoder of text.
    """
    translator = _is_translator(config, changes or [])

    from captioner.training import fit, translate

    train = translate.train_translation if translator else fit.run
    typer.echo(train(config, changes=changes or [], output=output, resume=resume, console=console.messages))


def _is_translator(config: str, changes: list[str]) -> bool:
    """Tell whether a recipe is a translator's, with its changes.

    Raises:
        ConfigError: there is no such recipe, or it cannot be read.
    """
    from captioner.config import override, read_yaml
    from captioner.errors import ConfigError
    from captioner.registry import suggestion

    path = Path(config)
    if not path.suffix and not path.exists():
        known = [*CAPTIONERS, *TRANSLATORS]
        if config not in known:
            raise ConfigError(f"preset {config!r} does not exist.{suggestion(config, known)} Known: {', '.join(known)}; or give a YAML file")
        return config in TRANSLATORS
    model = override(read_yaml(path), changes).get("model")
    if not isinstance(model, dict):
        return False
    from captioner.encoders.sequence import TEXT_ENCODERS

    encoder = model.get("encoder")
    return not model.keys().isdisjoint(("source", "target")) or (isinstance(encoder, dict) and encoder.get("name") in TEXT_ENCODERS)
