"""The commands of the README and of how-tos run as they are written, on small files of the same names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import shell_lines
from tests.hub import TOKEN, running

CAPTIONS = ("a brown dog runs on green grass", "the dog runs over the grass", "a dog plays on a field")
ENCODER = ("model.encoder.backbone=efficientnet_lite2", "model.encoder.size=64")  # whose weights come as a package
RECURRENT = ("model.decoder.hidden=16", "model.decoder.embedding=16")
SHORT = ("data.min_count=1", "epochs=1")
# The others are parsed by test_docs.py; they take too long.
HOWTOS = ("folder", "library", "heatmap", "share", "translate")
PAGES = ("README.md", *(f"docs/howto/{name}.md" for name in HOWTOS))
MADE = {
    "README.md": ("captions.csv", "figure.png", "page.html", "benchmark/table.md", "small/encoder.onnx"),
    "docs/howto/heatmap.md": ("rollout.png", "numbers.json"),
    "docs/howto/translate.md": ("bild.png", "alignment.png"),
}  # some of the files that their commands write


def flickr8k(folder: Path, image: Path) -> None:
    """Make Flickr8k in the layout of its release: six images to train on and three for dev."""
    (folder / "Flicker8k_Dataset").mkdir(parents=True)
    names = [f"{number}_photo.jpg" for number in range(9)]
    for number, name in enumerate(names):
        Image.open(image).convert("RGB").rotate(7 * number).resize((224, 224)).save(folder / "Flicker8k_Dataset" / name)
    lines = [f"{name}#{number}\t{caption} ." for name in names for number, caption in enumerate(CAPTIONS)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, part in (("train", names[:6]), ("dev", names[6:]), ("test", [])):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}\n" for name in part))


def coco(folder: Path, image: Path) -> None:
    """Make COCO with Karpathy's splits, and a test set without captions."""
    images = []
    for number, split in enumerate(["train"] * 3 + ["restval"] + ["val"] * 2 + ["test"] * 2):
        where, name = ("train2014" if split == "train" else "val2014"), f"COCO_{number:012}.jpg"
        (folder / where).mkdir(parents=True, exist_ok=True)
        Image.open(image).convert("RGB").rotate(5 * number).resize((96, 80)).save(folder / where / name)
        sentences = [{"raw": caption, "tokens": caption.split()} for caption in CAPTIONS]
        images.append({"cocoid": number, "filepath": where, "filename": name, "split": split, "sentences": sentences})
    (folder / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": images}))


def workplace(folder: Path, repository: Path, text: str) -> None:
    """Make everything that the commands of a page name."""
    image = folder / "photo.jpg"
    shutil.copy(repository / "assets" / "examples" / "dog.jpg", image)
    for name in ("holiday/beach", "shots", "test2014", "new", "garden"):
        (folder / name).mkdir(parents=True)
    for name in (
        "new/a.jpg",
        "holiday/a.jpg",
        "holiday/beach/a.jpg",
        "garden/a.jpg",
        "test2014/COCO_test2014_000000000001.jpg",
    ):
        shutil.copy(image, folder / name)
    Image.open(image).save(folder / "shots" / "a.png")
    (folder / "assets").symlink_to(repository / "assets")
    flickr8k(folder / "data" / "flickr8k", image)
    (folder / "flickr8k").symlink_to(folder / "data" / "flickr8k")
    coco(folder / "data" / "coco", image)
    (folder / "data" / "multi30k").mkdir()
    for split in ("train", "val"):
        (folder / "data" / "multi30k" / f"{split}.en").write_text("a dog runs\ntwo dogs play on grass\n" * 4)
        (folder / "data" / "multi30k" / f"{split}.de").write_text("ein Hund rennt\nzwei Hunde spielen im Gras\n" * 4)
    (folder / "story.txt").write_text("A dog runs.\nIt plays.\n")
    own = [
        f"flickr8k/Flicker8k_Dataset/{path.name},{caption},{split}"
        for path, split in zip(
            sorted((folder / "flickr8k" / "Flicker8k_Dataset").iterdir()),
            ["train"] * 6 + ["dev"] * 2 + ["test"],
            strict=True,
        )
        for caption in CAPTIONS
    ]
    (folder / "photos.csv").write_text("\n".join(["image,caption,split", *own]))
    for run in ("runs/mine", "runs/flickr8k_show_attend_tell"):
        if f"{run}/best" in text and f"--output {run}" not in text and f"train {run.removeprefix('runs/')}" not in text:
            shutil.copytree(repository / "assets" / "show_attend_tell", folder / run / "best")
    results = [{"image_id": number, "caption": "a dog on grass"} for number in (6, 7)]
    (folder / "theirs.json").write_text(json.dumps(results))
    info = {"images": [{"id": 1, "file_name": "COCO_test2014_000000000001.jpg", "width": 9, "height": 9}]}
    (folder / "image_info_test2014.json").write_text(json.dumps(info))
    images = coco_images(folder)
    box = {"category_id": 1, "bbox": [1, 1, 60, 60], "iscrowd": 0, "area": 3600}
    boxes = [{**box, "id": number, "image_id": image["id"]} for number, image in enumerate(images["images"])]
    instances = {**images, "categories": [{"id": 1, "name": "dog"}], "annotations": boxes}
    (folder / "instances.json").write_text(json.dumps(instances))


def coco_images(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Return the images of COCO's small copy as an instances file lists them."""
    listed = json.loads((folder / "data" / "coco" / "dataset_coco.json").read_text())["images"]
    return {
        "images": [{"id": each["cocoid"], "file_name": each["filename"], "width": 96, "height": 80} for each in listed]
    }


def lines_of(text: str) -> list[str]:
    """Return the commands of a page that end and need neither a network nor a cluster."""
    endless = ("pip", "torchrun", "docker", "captioner data download", "captioner serve", "captioner --import")
    return [
        line
        for line in shell_lines(text)
        if re.search(r"(^|\| )captioner ", line) and not line.startswith(endless) and not re.search("--ray|--web", line)
    ]


def smaller(command: str) -> str:
    """Return a command, or a long one made small; METEOR, which takes long to start, is left to `captioner score`."""
    if command.startswith("captioner benchmark"):
        return f"{command} --rounds 1 --metrics BLEU,CIDEr"
    if command.startswith("captioner evaluate show_"):
        return f"{command} --metrics BLEU,CIDEr"
    if not command.startswith("captioner train"):
        return command
    recipe = command.split()[2]
    settings = SHORT
    if recipe.startswith("multi30k"):
        settings = ("epochs=1",)
    elif "start=" not in command and recipe != "photos.csv" and not recipe.endswith("self_critical"):
        if recipe.startswith(("coco", "mine")) or recipe in ("flickr8k_show_attend_tell", "flickr8k_distilled"):
            settings += ENCODER
        if not recipe.endswith("transformer"):
            settings += RECURRENT
    return command + "".join(f" --set {setting}" for setting in settings)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_work_as_written(page: str, repository: Path, tmp_path: Path) -> None:
    text = (repository / page).read_text(encoding="utf-8")
    workplace(tmp_path, repository, text)
    lines = lines_of(text)
    assert lines
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with running() as hub:
        hub.users[TOKEN] = "user"
        environment = os.environ | {"PATH": path, "CAPTIONER_COMPILE": "0"} | hub.environment(tmp_path / "home")
        for line in map(smaller, dict.fromkeys(lines)):
            done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert all((tmp_path / name).stat().st_size for name in MADE.get(page, ()))
