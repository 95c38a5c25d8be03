"""Commands connect to nothing outside this machine, and write only their output.

A hook in every Python process records connections, look-ups of names and files that are opened for writing. Native
code bypasses such hooks: its files are found in a home folder that was empty before, its connections by
strace, where available.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captioner.web.browser import runtime
from tests.cli.conftest import results
from tests.training.conftest import make_images, make_tiny

HOOK = """
import os, sys

_log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def _watch(event, args):
    if event in ("socket.connect", "socket.sendto"):
        what, value = "connect", args[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        what, value = "connect", args[0]
    elif event == "open" and isinstance(args[2], int) and args[2] & _writing:
        what, value = "write", args[0]
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink"):
        what, value = "write", args[1] if event != "os.mkdir" else args[0]
    else:
        return
    if isinstance(value, (str, bytes, tuple)) or hasattr(value, "__fspath__"):
        value = os.path.abspath(os.fsdecode(value)) if what == "write" else value
        os.write(_log, f"{what} {value!r}\\n".encode("utf-8", "surrogateescape"))

sys.addaudithook(_watch)
"""
_LOCAL = re.compile(r"'(localhost|127\.0\.0\.1|::1|::|0\.0\.0\.0)'|'/|b'/|^''|^None|^'\\x00|\('::1'")
_PROGRAM = "from captioner.cli import main; main()"


class Watch:
    """Runs commands and records what they connect to and write.

    Attributes:
        home: the home folder of the commands.
        places: folders that they may write to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.output, self.temporary = folder / "output", Path(tempfile.mkdtemp())  # short, for Ray's sockets
        for made in (self.home, self.output, folder / "hook"):
            made.mkdir()
        self.log, self.trace = folder / "log.txt", folder / "trace.txt"
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        unset = {
            "ORT_DISABLE_TELEMETRY",
            "RAY_USAGE_STATS_ENABLED",
            "HF_HUB_DISABLE_TELEMETRY",
            "MPLCONFIGDIR",
            "TORCHINDUCTOR_CACHE_DIR",
        }
        self.environment = {name: value for name, value in os.environ.items() if name not in unset} | {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "WATCH_LOG": str(self.log),
            "PYTHONPATH": os.pathsep.join([str(folder / "hook"), *sys.path]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.places = (self.output, self.temporary)

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """Start Python on a program."""
        command = [sys.executable, "-c", program, *map(str, arguments)]
        if shutil.which("strace"):
            # --seccomp-bpf: only these calls stop the program, and not each of its calls.
            traced = ["-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto", "-o", str(self.trace)]
            command = ["strace", *traced, *command]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.output
        )

    def run(self, program: str, *arguments: object) -> None:
        """Run Python on a program to its end, which must succeed."""
        with self.start(program, *arguments) as process:
            out, err = process.communicate()
        assert process.returncode == 0, out + err

    def connections(self) -> list[str]:
        """Return the connections to other machines."""
        found = [line.removeprefix("connect ") for line in self._logged() if line.startswith("connect ")]
        found = [value for value in found if not _LOCAL.search(value)]
        if self.trace.is_file():
            addresses = re.findall(r"(?:connect|sendto)\(.*?(inet6?_(?:addr|pton)\([^)]*\))", self.trace.read_text())
            found += [each for each in addresses if '"127.' not in each and '"::1"' not in each]
        return found

    def written(self) -> list[str]:
        """Return the files written outside the output and the folder of temporary files, the home folder as ``~``."""
        found = {eval(line.removeprefix("write ")) for line in self._logged() if line.startswith("write ")}
        found |= {str(path) for path in self.home.rglob("*") if not path.is_dir()}
        outside = (path for path in found if not path.startswith(("/dev/", "/proc/", *map(str, self.places))))
        return sorted(path.replace(str(self.home), "~") for path in outside if path != str(self.home))

    def _logged(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if self.log.is_file() else []


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """A watch before any command."""
    folder = tmp_path / "watched"
    folder.mkdir()
    watch = Watch(folder)
    yield watch
    shutil.rmtree(watch.temporary, ignore_errors=True)


def test_the_watch_detects_a_connection_and_a_file(watch: Watch) -> None:
    watch.run(
        "import os, socket\n"
        "open(os.path.expanduser('~/diary'), 'w').close()\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "try: s.connect(('192.0.2.1', 9))\n"
        "except OSError: pass"
    )
    assert watch.connections() and all("192.0.2.1" in found for found in watch.connections())
    assert watch.written() == ["~/diary"]


def test_onnxruntime_writes_no_files_and_makes_no_connections(watch: Watch) -> None:
    pytest.importorskip("onnxruntime")
    watch.run("import captioner, onnxruntime, time; time.sleep(0.5)")
    assert (watch.connections(), watch.written(), list(watch.home.iterdir())) == ([], [], [])


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, model: Path, partner: Path, translator: Path) -> dict[str, Any]:
    """Models, data and files for the commands."""
    from PIL import Image

    from tests.translation.test_translator import SOURCE, TARGET

    folder = tmp_path_factory.mktemp("things")
    data = make_images(folder)
    image_folder = folder / "photos"
    image_folder.mkdir()
    for number in range(3):
        Image.linear_gradient("L").rotate(number * 30).convert("RGB").save(image_folder / f"{number}.jpg")
    pairs = folder / "pairs"
    pairs.mkdir()
    for split, number in (("train", 10), ("val", 1)):
        for language, lines in (("en", SOURCE), ("de", TARGET)):
            (pairs / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines * number))
    exported = folder / "exported"
    export = ("export", str(model), "-o", str(exported), "--photos", str(image_folder))
    subprocess.run([sys.executable, "-c", _PROGRAM, *export], check=True, capture_output=True)
    images = [{"id": f"{number}.png", "width": 40, "height": 40} for number in range(24, 32)]
    boxes = [
        {"id": n, "image_id": image["id"], "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": 0}
        for n, image in enumerate(images)
    ]
    instances = folder / "instances.json"
    categories = [{"id": 1, "name": "dog"}]
    instances.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return {
        "model": model,
        "partner": partner,
        "translator": translator,
        "exported": exported,
        "photos": image_folder,
        "data": data,
        "recipe": make_tiny(data),
        "pairs": pairs,
        "results": results(folder / "results.json", {image["id"]: "a red picture" for image in images}),
        "boxes": instances,
        "runtime": runtime.cached(),
    }


SMALL = "--set data.merges=30 --set model.encoder.hidden=6 --set epochs=1 --set device=cpu"
COMMANDS = {
    "caption": "caption {photos} --model {model} -o captions.csv",
    "caption, exported": "caption {photos} --model {exported} -o captions.csv",
    "caption, an ensemble": "caption {photos} --model {model}+{partner} -o captions.csv",
    "attend": "attend {photos}/0.jpg --model {model} -o attention.png",
    "attend, a page": "attend {photos}/0.jpg --model {model} -o attention.html",
    "find": "find dog {photos} --model {exported} --index photos.index -o found.html",
    "bulk": "bulk {photos} -o rows --model {exported}",
    "translate": "translate Dogs. --model {translator} -o alignment.png",
    "evaluate": "evaluate {model} {data} --split dev --output-scores scores.json",
    "score": "score {results} {data} --split dev --metrics BLEU",
    "ground": "ground {model} {data} {boxes} --split dev",
    "evaluate, exported": "evaluate {exported} {data} --split dev --metrics BLEU",
    "evaluate, a translator": "evaluate {translator} {pairs} --device cpu",
    "benchmark": "benchmark {model} {partner} --data {data} --split dev -o report --metrics BLEU,CIDEr "
    "--photos 1 --rounds 1",
    "train": "train {recipe} -o run",
    "train a translator": "train multi30k_attention --set data.path={pairs} -o run " + SMALL,
    "export": "export {model} -o exported --photos {photos}",
    "export a page": "export {exported} --web page --runtime {runtime}",
    "export in eight bits": "export {model} -o exported --photos {photos} --int8 --calibrate {data}",
    "features": "features {data} -o store --model {model} --device cpu",
    "recipes": "recipes flickr8k_show_tell",
    "models": "models",
    "doctor": "doctor --model {model}",
    "data inspect": "data inspect {data}",
    "data convert": "data convert {data} -o converted",
}
#: what is written in the home folder: matplotlib's list of fonts, and the folders it is in
CACHES = re.compile(r"~/\.(cache|config)(/matplotlib.*)?")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_connects_to_nothing_and_writes_only_its_output(
    name: str, watch: Watch, things: dict[str, Any]
) -> None:
    if "{runtime}" in COMMANDS[name] and things["runtime"] is None:
        pytest.skip("onnxruntime-web is not in the cache: captioner export MODEL --web FOLDER downloads it there")
    arguments = [word.format(**things) for word in COMMANDS[name].split()]
    watch.environment["CAPTIONER_COMPILE"] = "1" if name == "train" else "0"  # the same kernels in every command
    watch.run(_PROGRAM, *arguments)
    print(name, "connects to", watch.connections(), "writes", watch.written())
    assert watch.connections() == []
    assert [path for path in watch.written() if not CACHES.fullmatch(path)] == []


@pytest.mark.slow
def test_ray_sends_no_statistics(watch: Watch, things: dict[str, Any]) -> None:
    pytest.importorskip("ray")
    watch.run(_PROGRAM, "bulk", things["photos"], "-o", "rows", "--model", things["model"], "--ray", "--workers", 1)
    # It searches for its cloud at the metadata addresses of all clouds, and for the address of this machine.
    own = re.compile(r"metadata\.google\.internal|169\.254\.169\.254|8\.8\.8\.8")
    looked_up = {found for found in watch.connections() if not found.startswith("inet") and not own.search(found)}
    assert not any("ray.io" in found for found in looked_up)
    assert {path.partition("/")[2] for path in watch.written()} <= {".ray", ".ray/auth_token"}
