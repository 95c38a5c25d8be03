"""The README's commands do what it says, run as they are written, on small files of the same names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.hub import TOKEN, running

CAPTIONS = ("a brown dog runs on green grass", "the dog runs over the grass", "a dog plays on a field")
SMALL = (
    "model.encoder.backbone=efficientnet_lite2",  # the only one whose weights come as a package
    "model.encoder.size=64",
    "model.decoder.hidden=16",
    "model.decoder.embedding=16",
    "data.min_count=1",
    "epochs=1",
)


def flickr8k(folder: Path, photo: Path) -> None:
    """Make Flickr8k in the layout of its release: six images to train on and three for dev."""
    (folder / "Flicker8k_Dataset").mkdir(parents=True)
    names = [f"{number}_photo.jpg" for number in range(9)]
    for number, name in enumerate(names):
        Image.open(photo).convert("RGB").rotate(7 * number).resize((224, 224)).save(folder / "Flicker8k_Dataset" / name)
    lines = [f"{name}#{number}\t{caption} ." for name in names for number, caption in enumerate(CAPTIONS)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, part in (("train", names[:6]), ("dev", names[6:]), ("test", [])):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}\n" for name in part))


def coco(folder: Path, photo: Path) -> None:
    """Make COCO with Karpathy's splits, and a test set without captions."""
    images = []
    for number, split in enumerate(["train"] * 3 + ["restval"] + ["val"] * 2 + ["test"] * 2):
        where, name = ("train2014" if split == "train" else "val2014"), f"COCO_{number:012}.jpg"
        (folder / where).mkdir(parents=True, exist_ok=True)
        Image.open(photo).convert("RGB").rotate(5 * number).resize((96, 80)).save(folder / where / name)
        sentences = [{"raw": caption, "tokens": caption.split()} for caption in CAPTIONS]
        images.append({"cocoid": number, "filepath": where, "filename": name, "split": split, "sentences": sentences})
    (folder / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": images}))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with everything that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    photo = folder / "photo.jpg"
    Image.open(repository / "assets" / "examples" / "photographer.png").convert("RGB").save(photo)
    for name in ("holiday/beach", "shots", "test2014", "new"):
        (folder / name).mkdir(parents=True)
    for name in ("new/man.jpg", "holiday/man.jpg", "holiday/beach/man.jpg", "test2014/COCO_test2014_000000000001.jpg"):
        shutil.copy(photo, folder / name)
    Image.open(photo).save(folder / "shots" / "man.png")
    flickr8k(folder / "data" / "flickr8k", photo)
    (folder / "flickr8k").symlink_to(folder / "data" / "flickr8k")
    coco(folder / "data" / "coco", photo)
    (folder / "data" / "multi30k").mkdir()
    for split in ("train", "val"):
        (folder / "data" / "multi30k" / f"{split}.en").write_text("a dog runs\ntwo dogs play on grass\n" * 4)
        (folder / "data" / "multi30k" / f"{split}.de").write_text("ein Hund rennt\nzwei Hunde spielen im Gras\n" * 4)
    own = [
        f"{path.name},{caption}"
        for path in (folder / "flickr8k" / "Flicker8k_Dataset").iterdir()
        for caption in CAPTIONS
    ]
    (folder / "photos.csv").write_text(
        "\n".join(["image,caption", *(f"flickr8k/Flicker8k_Dataset/{row}" for row in own)])
    )
    results = [{"image_id": number, "caption": "a dog on grass"} for number in (6, 7)]
    (folder / "theirs.json").write_text(json.dumps(results))
    info = {"images": [{"id": 1, "file_name": "COCO_test2014_000000000001.jpg", "width": 9, "height": 9}]}
    (folder / "image_info_test2014.json").write_text(json.dumps(info))
    return folder


def lines_of(readme: str) -> list[str]:
    """Return the shell lines of the README that call the program and end, without a network and on few cores."""
    blocks = [line.strip() for line in readme.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    return [
        line
        for line in blocks
        if "captioner " in line
        and not line.startswith(("pip", "from", "torchrun", "docker", "captioner data download", "captioner serve"))
    ]


@pytest.mark.slow
def test_the_commands_work_as_written(workplace: Path, repository: Path) -> None:
    lines = lines_of((repository / "README.md").read_text(encoding="utf-8"))
    assert len(lines) > 15
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with running() as hub:
        hub.users[TOKEN] = "user"
        environment = os.environ | {"PATH": path, "CAPTIONER_COMPILE": "0"} | hub.environment(workplace / "home")
        run(lines, workplace, environment)
    made = ("captions.csv", "figure.png", "page.html", "benchmark/table.md", "runs/coco/best/model.safetensors")
    assert all((workplace / name).stat().st_size for name in made)


def run(lines: list[str], workplace: Path, environment: dict[str, str]) -> None:
    """Run the lines one after the other; trainings are made small."""
    for line in lines:
        command = line.partition("  #")[0]
        if command.startswith("captioner train"):
            goes_on = "start=" in command or "photos.csv" in command
            small = [setting for setting in SMALL if "model." not in setting or not goes_on]
            if "multi30k" in command:
                small = ["epochs=1"]
            command += "".join(f" --set {setting}" for setting in small)
        done = subprocess.run(["bash", "-c", command], cwd=workplace, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
