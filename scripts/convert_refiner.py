"""Convert model folders of older versions, whose refiner was part of the decoder (``decoder.refiner.*``).

Example: python scripts/convert_refiner.py runs/mine/best
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from captioner import store


def converted(name: str) -> str:
    """Return the new name of a tensor."""
    return name.removeprefix("decoder.") if name.startswith(("decoder.refiner.", "decoder.decoder.")) else name


def convert(folder: Path) -> int:
    """Rename the tensors of a model folder in place, and return how many have a new name."""
    path = folder / store.WEIGHTS
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    renamed = {converted(name): tensor for name, tensor in tensors.items()}
    changed = len(set(renamed) - set(tensors))
    if changed:
        save_file(renamed, path, metadata=metadata)
        kind = store.kind_of(folder)
        config = store.read_config(folder, kind)
        own = {key: value for key, value in config.items() if key not in ("format", "captioner", "kind", store.FILES)}
        store.write_config(folder, kind, own)
    return changed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a model folder, converted in place")
    for folder in parser.parse_args().folders:
        print(f"{folder}: {convert(folder)} tensors renamed")
