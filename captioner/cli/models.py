"""``captioner models``: list the shipped models and the families of parts."""

from __future__ import annotations

import ast
import inspect
import re
from typing import TYPE_CHECKING, Any

from captioner.cli import console, options, streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

EXAMPLES = """Example: captioner models

Example: captioner models --json"""


def run(json: options.Json = False) -> None:
    """List the shipped models with size, data and scores, and the families that a recipe can name.

    Captioners, translators and detectors are shipped. The scores, in percent, are those of a model's own search on the
    dev split of each data set.
    """
    from captioner import store
    from captioner.errors import CheckpointError
    from captioner.store import history

    models, failures = {}, console.Failures()
    families = _families(failures)
    for name, folder in store.shipped(None).items():
        kind = store.kind_of(folder)
        try:
            config = store.read_config(folder, kind)
        except CheckpointError as error:
            failures(error)
            continue
        about = config.get("about", {})
        model = config["model"]
        models[name] = {
            "kind": kind,
            "default": name == store.DEFAULT,
            **{part: (model.get(part) or {}).get("name") for part in ("encoder", "refiner", "decoder")},
            "languages": [model["source"], model["target"]] if kind == store.TRANSLATOR else None,
            "megabytes": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1),
            "data": about.get("data"),
            **{unit: about[unit] for unit in ("photos", "pairs") if unit in about},
            "scores": {result.data: result.scores for result in history.results_of(config)},
            "folder": str(folder),
        }
    if json:
        streams.show_json({"models": models, **families}, indent=2)
        failures.exit()
        return
    tables = []
    for kind, title, metrics in (
        (store.CAPTIONER, "shipped model", ("CIDEr",)),
        (store.TRANSLATOR, "shipped translator", ("BLEU", "chrF")),
        (store.DETECTOR, "shipped detector", ("mAP@0.5", "mAP@[.5:.95]")),
    ):
        chosen = {name: model for name, model in models.items() if model["kind"] == kind}
        if chosen or kind == store.CAPTIONER:
            tables.append(_models(title, chosen, metrics))
    console.show(*tables, *(_family(kind, entries) for kind, entries in families.items() if entries))
    failures.exit()


def _families(failed: Callable[[object], None]) -> dict[str, dict[str, str]]:
    """Return the summary of each family that is registered, by kind and name; report those that cannot be imported."""
    from importlib import metadata

    from captioner.registry import imported_code

    outside = any(metadata.entry_points(group=f"captioner.{room}") for room in ("encoders", "decoders"))
    if not imported_code() and not outside:
        return _own_families()
    from captioner.decoders import DECODERS
    from captioner.encoders import ENCODERS, REFINERS
    from captioner.encoders.sequence import TEXT_ENCODERS
    from captioner.errors import ConfigError
    from captioner.registry import Registry

    registries: tuple[Registry[Any], ...] = (ENCODERS, TEXT_ENCODERS, REFINERS, DECODERS)
    found: dict[str, dict[str, str]] = {registry.kind: {} for registry in registries}
    for registry in registries:
        for name in registry:
            try:
                found[registry.kind][name] = _summary(inspect.getdoc(registry[name]))
            except ConfigError as error:
                failed(error)
    return found


def _own_families() -> dict[str, dict[str, str]]:
    """Return the families of this package from its source, since importing them loads torch."""
    from captioner.store.names import PACKAGE

    kinds = {"ENCODERS": "encoder", "TEXT_ENCODERS": "text encoder", "REFINERS": "refiner", "DECODERS": "decoder"}
    found: dict[str, dict[str, str]] = {kind: {} for kind in kinds.values()}
    for file in (each for room in ("encoders", "decoders") for each in (PACKAGE / room).glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                for decorator in node.decorator_list:
                    match decorator:
                        case ast.Call(ast.Attribute(ast.Name(registry), "register"), [ast.Constant(str(name))]):
                            found[kinds[registry]][name] = _summary(ast.get_docstring(node))
    return {kind: dict(sorted(families.items())) for kind, families in found.items()}


def _summary(text: str | None) -> str:
    """Return the first paragraph of a docstring without its markup."""
    paragraph = (text or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", paragraph)


def _models(title: str, models: dict[str, dict[str, Any]], metrics: tuple[str, ...]) -> Table:
    """Return a table of models of one kind, with these metrics on each data set that one of them was scored on."""
    from rich.table import Column

    from captioner.store import history

    units = {"photos": "images", "pairs": "pairs"}
    scored = list(dict.fromkeys(data for model in models.values() for data in model["scores"]))
    several = len(scored) > 1
    heads = [f"{history.dataset_name(data)} {metric}" if several else metric for data in scored for metric in metrics]
    numbers = (Column(name, justify="right") for name in ("MB", *heads))
    table = console.table(Column(title, no_wrap=True), *numbers, "trained on")
    for name, model in models.items():
        found = [model["scores"].get(data, {}).get(metric) for data in scored for metric in metrics]
        scores = ["" if score is None else f"{100 * score:.1f}" for score in found]
        about = [" to ".join(model["languages"])] if model["languages"] else []
        if model["data"]:
            about += [model["data"], *(f"{model[key]:,} {unit}" for key, unit in units.items() if key in model)]
        table.add_row(name + " (default)" * model["default"], f"{model['megabytes']:.1f}", *scores, ", ".join(about))
    return table


def _family(kind: str, entries: dict[str, str]) -> Table:
    from rich.table import Column
    from rich.text import Text

    table = console.table(Column(kind, no_wrap=True), "description")
    for name, summary in entries.items():
        table.add_row(name, Text(summary))
    return table
