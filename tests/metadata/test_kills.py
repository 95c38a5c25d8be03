"""Captions are written by a process that is killed at random moments: every photo stays whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captioner.metadata import embedded_texts
from tests.metadata.samples import compressed, frames, sample

WRITER = """
import sys
from pathlib import Path
from captioner.metadata import TextSidecars, XmpSidecars, embed

folder, text, xmp = Path(sys.argv[1]), TextSidecars(), XmpSidecars()
images = sorted(each for each in folder.iterdir() if each.suffix in (".jpg", ".png", ".webp", ".tif"))
for number in range(int(sys.argv[2]), 10**9):
    for image in images:
        # Longer and shorter ones by turns.
        caption = f"{number} dogs " * (1 + number % 7 * 20)
        embed(image, {"en": caption})
        text.write(image, caption)
        xmp.write(image, {"en": caption})
        print(number, image, flush=True)
"""
NAMES = ("baseline.jpg", "plain.png", "lossy.webp", "lossless.webp", "pages.tiff", "motorola.tif", "animated.webp")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_writer_leaves_whole_photos_and_whole_sidecars(tmp_path: Path) -> None:
    paths = [sample(name, tmp_path).rename(tmp_path / f"{n}{Path(name).suffix}") for n, name in enumerate(NAMES)]
    paths = [path.rename(path.with_suffix(".tif")) if path.suffix == ".tiff" else path for path in paths]
    shown = {path: (frames(path), compressed(path)) for path in paths}
    generator = random.Random(0)
    for attempt in range(8):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(1000 * attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            for _ in range(generator.randrange(1, 10)):
                assert process.stdout.readline(), process.stderr.read().decode()
            time.sleep(generator.uniform(0, 0.03))
            process.kill()
        for path in paths:
            assert (frames(path), compressed(path)) == shown[path]
            texts = embedded_texts(path)
            assert all(each.author == "captioner" and " dogs" in each.text for each in texts)
            sidecar = path.with_suffix(".txt")
            assert not sidecar.exists() or sidecar.read_text().endswith("dogs\n")
    # The next run removes what the killed ones left in the folder.
    left = [each.name for each in tmp_path.iterdir() if each.name.startswith(".captioner-") and each.is_dir()]
    assert len(left) <= 1
