"""Wrong command lines print one line with the fault and what to do, at once, and leave nothing half done.

Code 2 is wrong usage, 1 any other error. The lines run where there are good and bad files of every kind.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.store import ONNX
from tests.cli.conftest import Run, paint

LONG = "a" * 300

# A line, its exit code, and parts of its message.
QUICK = [
    # Names that no file can have
    (f"caption photo.jpg -o {LONG}.jsonl", 2, ["too long", "shorter"]),
    (f"attend photo.jpg -o {LONG}.png", 2, ["too long", "shorter"]),
    (f"bulk photo.jpg -o {LONG}", 2, ["too long", "shorter"]),
    (f"export show_tell -o new/{LONG}/model", 2, ["too long", "shorter"]),
    (f"features captions.jsonl -o {LONG}", 2, ["too long", "shorter"]),
    (f"train flickr8k_show_tell -o {LONG}", 2, ["too long", "shorter"]),
    (f"benchmark --data captions.jsonl -o {LONG}", 2, ["too long", "shorter"]),
    # Commands and options
    ("", 2, []),
    ("capton photo.jpg", 2, ["'capton'", "Did you mean 'caption'"]),
    ("data inspct", 2, ["'inspct'", "Did you mean 'inspect'"]),
    ("--wobble", 2, ["--wobble"]),
    ("-q -v models", 2, ["--quiet", "--verbose", "not both"]),
    ("caption", 2, ["PATH"]),
    ("caption photo.jpg --modle show_tell", 2, ["--modle", "--model"]),
    ("caption photo.jpg --language", 2, ["--language", "argument"]),
    ("models --jsn", 2, ["--jsn", "--json"]),
    ("models extra", 2, ["extra"]),
    ("data", 2, []),
    # Empty values, as of a shell's variable that is not set
    ("caption photo.jpg --model ''", 2, ["--model", "empty"]),
    ("caption photo.jpg -m show_tell --model=", 2, ["--model", "empty"]),
    ("attend photo.jpg -o ''", 2, ["--output", "empty"]),
    ("serve --token ''", 2, ["--token", "empty"]),
    ("evaluate '' dataset/captions.jsonl", 2, ["MODEL", "empty"]),
    ("bulk '' -o new", 2, ["SOURCE", "empty"]),
    # Images
    ("caption nofile.jpg", 1, ["nofile.jpg", "no such file"]),
    ("caption notes.txt", 1, ["notes.txt", "not an image", "JPEG"]),
    ("caption broken.jpg", 1, ["broken.jpg", "damaged"]),
    ("caption empty", 1, ["empty", "no images", "--recursive"]),
    ("caption texts", 1, ["texts", "no images"]),
    ("caption 'none/*.jpg'", 1, ["none/*.jpg", "pattern"]),
    ("caption photo.jpg --max-pixels 0", 2, ["--max-pixels", "1"]),
    ("caption photo.jpg --max-pixels 9", 1, ["photo.jpg", "80 x 60", "pixels"]),
    ("caption -", 1, ["no images found"]),
    ("caption https://example.org//a.jpg --offline", 1, ["https://example.org//a.jpg: is an address", "download"]),
    ("caption file:///photos/a.jpg", 1, ["file:///photos/a.jpg: ", "give its path: /photos/a.jpg"]),
    ("attend s3://bucket/a.jpg -o f.png", 1, ["s3://bucket/a.jpg: ", "copy the image"]),
    (r"caption 'C:\photos\a.jpg'", 1, [r"C:\photos\a.jpg: there is no such file", "Windows"]),
    ("attend nofile.jpg -o f.png", 1, ["nofile.jpg", "no such file"]),
    ("attend empty -o figures", 1, ["empty", "no images"]),
    # Models
    ("caption photo.jpg --model show_tel", 1, ["'show_tel'", "Did you mean 'show_tell'", "Shipped"]),
    ("caption photo.jpg --model photo.jpg", 1, ["photo.jpg", "is a file", "config.json"]),
    ("caption photo.jpg --model empty", 1, ["empty", "not a model folder", "config.json"]),
    ("caption photo.jpg --model ./nowhere", 1, ["./nowhere", "does not exist"]),
    ("caption photo.jpg --model badconfig", 1, ["badconfig/config.json", "copy the whole model folder again"]),
    ("caption photo.jpg --model newer", 1, ["newer/config.json", "99", "upgrade"]),
    ("caption photo.jpg --model translator_en_de", 1, ["translator_en_de", "is a translator", "needs a captioner"]),
    ("caption photo.jpg --model show_tell+transfomer", 1, ["'transfomer'", "Did you mean 'transformer'"]),
    ("caption photo.jpg -m show_tell -m show_tell", 1, ["show_tell", "twice", "give each member once"]),
    ("caption photo.jpg --model show_tell+", 1, ["show_tell+", "name is missing", "a+b"]),
    ("caption photo.jpg -m show_tell -m translator_en_de", 1, ["translator_en_de", "is a translator"]),
    ("caption photo.jpg -m show_tell -m exported", 1, ["exported", "run in torch", "exported from"]),
    ("attend photo.jpg -o f.png -m show_tell -m nowhere", 1, ["'nowhere'", "does not exist"]),
    ("bulk photos -o new -m show_tell -m show_tel", 1, ["'show_tel'", "'show_tell'"]),
    ("export show_tell+transformer -o new", 1, ["show_tell+transformer", "is an ensemble", "single captioner"]),
    ("push show_tell+transformer user/model", 1, ["show_tell+transformer", "is an ensemble", "single model"]),
    ("evaluate show_tell+translator_en_de dataset/captions.jsonl", 1, ["translator_en_de", "needs a captioner"]),
    ("evaluate show_tell dataset/captions.jsonl --model transformer", 2, ["No such option", "--model", "A+B"]),
    ("evaluate dataset/captions.jsonl --captions theirs.json", 2, ["--captions", "captioner score CAPTIONS DATA"]),
    ("ground translator_en_de dataset/captions.jsonl theirs.json", 1, ["translator_en_de", "needs a captioner"]),
    ("translate Hello --model show_tell", 1, ["show_tell", "is a captioner", "needs a translator"]),
    ("bulk photos -o new --model show_tel", 1, ["'show_tel'", "'show_tell'"]),
    ("export nowhere -o new", 1, ["'nowhere'", "does not exist"]),
    ("evaluate show_tel dataset/captions.jsonl", 1, ["'show_tel'", "'show_tell'"]),
    # Numbers, choices and options that exclude each other
    ("caption photo.jpg --beam many", 2, ["--beam", "integer"]),
    ("caption photo.jpg --beam 0", 2, ["--beam", "1"]),
    ("caption photo.jpg --n-best 5 --beam 2", 2, ["--n-best", "2", "--beam"]),
    ("caption photo.jpg --min-words 9 --max-words 3", 2, ["--min-words", "--max-words", "3"]),
    ("caption photo.jpg --device cudaa", 2, ["--device", "'cudaa'", "cuda"]),
    ("caption photo.jpg --attention", 2, ["--attention", "--json"]),
    ("caption photo.jpg --language fr", 1, ["'fr'", "de"]),
    ("translate Hello --language fr", 1, ["'fr'", "de"]),
    ("translate Hello --n-best 3", 2, ["--n-best", "--json"]),
    ("translate Hello --context -1", 2, ["--context", "0"]),
    ("translate Hello --context many", 2, ["--context", "integer"]),
    ("attend photo.jpg -o f.gif --word dog", 2, ["--word", "gif", "png"]),
    ("attend photo.jpg -o f.png --heads heads", 2, ["--heads", "BLOCK.HEAD"]),
    ("attend photo.jpg -o f --format bmp", 2, ["--format", "'bmp'", "png"]),
    ("bulk photos -o new --format csv", 2, ["--format", "'csv'", "parquet"]),
    ("bulk photos -o new --workers 0", 2, ["--workers", "1"]),
    ("export show_tell -o new --int8", 2, ["--int8", "--calibrate"]),
    ("evaluate show_tell dataset/captions.jsonl --heads rollout", 2, ["--heads", "captioner ground MODEL DATA BOXES"]),
    ("score theirs.json dataset/captions.jsonl --beam 3", 2, ["No such option", "--beam"]),
    ("evaluate show_tell dataset/captions.jsonl --metrics CIDER2", 1, ["CIDER2", "CIDEr", "BLEU"]),
    ("benchmark --data dataset/captions.jsonl --metrics BLUE", 1, ["BLUE", "BLEU"]),
    ("benchmark --data dataset/captions.jsonl --set epochs=1", 2, ["--set", "--train"]),
    ("benchmark --data dataset/captions.jsonl --seeds 1,1 --train flickr8k_show_tell", 2, ["--seeds", "0,1,2"]),
    ("benchmark --data dataset/captions.jsonl --train flickr8k_show_tel", 1, ["'flickr8k_show_tell'"]),
    ("data download coco --parallel 99", 2, ["--parallel", "8"]),
    ("train flickr8k_show_tell --json", 2, ["--json", "give --dry-run too"]),
    ("features flickr8k_show_tell --flips", 2, ["--flips", "--set"]),
    ("recipes --set a=b", 2, ["--set", "recipe"]),
    ("serve --port 99999", 2, ["--port", "65535"]),
    ("serve --max-megabytes 0", 2, ["--max-megabytes"]),
    ("serve --max-megabytes inf", 2, ["--max-megabytes"]),
    ("serve --model show_tel", 1, ["'show_tel'", "Did you mean 'show_tell'"]),
    ("serve --model show_tell --model empty", 1, ["empty", "not a model folder"]),
    ("serve --model show_tell --model show_tell+empty", 1, ["empty", "not a model folder"]),
    # Outputs
    ("caption photo.jpg --output captions.txt", 2, ["--output", "captions.txt", ".csv"]),
    ("caption photo.jpg --output photo.jpg/captions.csv", 2, ["--output", "photo.jpg is a file"]),
    ("attend photo.jpg", 2, ["--output"]),
    ("attend photo.jpg -o figure.bmp", 2, ["figure.bmp", ".png"]),
    ("attend photos -o figure.png", 2, ["figure.png", "several images", "folder"]),
    ("attend photo.jpg -o photo.jpg/f.png", 2, ["--output", "photo.jpg is a file"]),
    ("attend photo.jpg -o photos/green.png", 1, ["photos/green.png: exists and is not a figure", "another --output"]),
    ("translate Hello -o photos/green.png", 1, ["photos/green.png: exists and is not a figure", "another --output"]),
    ("translate theirs.json -o theirs.json", 1, ["theirs.json: is also an input"]),
    ("caption photo.jpg dataset/captions.jsonl -o dataset/captions.jsonl", 1, ["captions.jsonl: is also an input"]),
    ("score theirs.json dataset/captions.jsonl --output-scores theirs.json", 1, ["is also an input"]),
    ("evaluate show_tell broken.json --per-image broken.json", 1, ["broken.json: is also an input"]),
    ("evaluate show_tell photos.json --per-image a.json --output-scores ./a.json", 2, ["--per-image", "another"]),
    ("bulk photos", 2, ["--output"]),
    ("bulk photos -o photo.jpg", 2, ["--output", "photo.jpg", "file"]),
    ("translate Hello -o a.bmp", 2, ["a.bmp", ".png"]),
    ("evaluate show_tell dataset/captions.jsonl --per-image x.txt", 2, ["--per-image", "x.txt", ".csv"]),
    ("evaluate show_tell dataset/captions.jsonl --output-scores photo.jpg/s.json", 2, ["--output-scores", "photo.jpg"]),
    ("features dataset/captions.jsonl", 2, ["--output"]),
    ("features dataset/captions.jsonl -o photo.jpg/store", 2, ["--output", "photo.jpg is a file"]),
    ("export show_tell", 2, ["--output"]),
    ("export show_tell -o photos", 1, ["photos", "not a model folder", "another name"]),
    ("export show_tell -o new --photos nofile.jpg", 1, ["nofile.jpg", "no such file"]),
    # Data
    ("bulk nowhere -o new", 1, ["nowhere", "no images", "check the name"]),
    ("bulk empty -o new", 1, ["empty", "no images"]),
    ("bulk none.jpg -o new", 1, ["none.jpg", "no images", "check the name"]),
    ("bulk '*.bmp' -o new", 1, ["*.bmp", "no images", "check the name"]),
    ("translate nofile.txt", 1, ["nofile.txt", "no such file", "quotes"]),
    ("translate empty", 1, ["empty", "folder"]),
    ("translate", 2, ["TEXT"]),
    ("evaluate show_tell", 2, ["DATA"]),
    ("evaluate show_tell nowhere", 1, ["nowhere", "no such file"]),
    ("evaluate show_tell dataset/captions.jsonl --split tset", 1, ['"tset"', "val"]),
    ("evaluate show_tell broken.json", 1, ["broken.json", "not JSON", "line 1"]),
    ("evaluate show_tell columns.csv", 1, ["columns.csv:1", "image,caption"]),
    ("score broken.json dataset/captions.jsonl", 1, ["broken.json", "JSON", "COCO"]),
    ("features nowhere -o new", 1, ["nowhere", "no such file"]),
    ("features dataset/captions.jsonl -o new --split tset", 1, ['"tset"', "val"]),
    ("benchmark", 2, ["--data"]),
    ("benchmark --data nowhere", 1, ["nowhere", "no such file"]),
    ("benchmark --data dataset/captions.jsonl --split tset", 1, ['"tset"', "val"]),
    ("data inspect nowhere", 1, ["nowhere", "no such file"]),
    ("data inspect columns.csv", 1, ["columns.csv:1", "header", "image,caption"]),
    ("data inspect binary.csv", 1, ["binary.csv"]),
    ("data inspect broken.json", 1, ["broken.json", "not JSON"]),
    ("data inspect empty", 1, ["empty", "no caption file"]),
    ("data inspect notes.txt", 1, ["notes.txt", "no known caption format"]),
    ("data inspect dataset/captions.jsonl --format cocoo", 1, ["'cocoo'", "'coco'"]),
    ("data inspect hf://datasets/squares", 1, ["hf://datasets/squares", "hf://datasets/USER/NAME"]),
    ("data convert nowhere -o new", 1, ["nowhere", "no such file"]),
    ("data convert dataset/captions.jsonl", 2, ["--output"]),
    ("data convert dataset/captions.jsonl -o dataset", 1, ["dataset: exists", "nothing is overwritten"]),
    ("data convert dataset/captions.jsonl -o new --format cocoo", 1, ["'cocoo'", "'coco'"]),
    ("data convert dataset/captions.jsonl -o new.csv --format coco", 1, ["new.csv", "csv, not coco", "folder"]),
    ("data convert dataset/captions.jsonl -o new.parquet", 1, ["new.parquet", "a folder", ".jsonl, .csv"]),
    ("data convert dataset -o new --source-format .tags", 1, ["dataset", "no image has a text file", "dog.tags"]),
    ("data convert dataset/captions.jsonl -o photo.jpg/new", 2, ["--output", "photo.jpg is a file"]),
    ("caption dataset/captions.tar:a.jpg", 1, ["dataset/captions.tar:a.jpg", "no such file"]),
    ("data download", 2, ["NAME", "--list"]),
    ("data download cocoo", 1, ["'cocoo'", "'coco'"]),
    # Recipes
    ("train", 2, ["RECIPE"]),
    ("train nowhere.yaml", 1, ["nowhere.yaml", "no such file"]),
    ("train flickr8k_show_atend_tell", 1, ["Did you mean 'flickr8k_show_attend_tell'"]),
    ("train bad.yaml", 1, ["bad.yaml", "line 2", "YAML"]),
    ("train list.yaml", 1, ["list.yaml", "mapping", "list"]),
    ("train flickr8k_show_tell --set epochs", 1, ["--set 'epochs'", "key=value"]),
    ("train columns.csv", 1, ["columns.csv:1", "header", "image,caption"]),
    ("train empty", 1, ["empty", "no caption file"]),
    ("train notes.txt", 1, ["notes.txt", "no known caption format"]),
    ("train photos.csv", 1, ["photos.csv", "no such file"]),
    ("recipes flickr8k_show", 1, ["Did you mean 'flickr8k_show_tell'"]),
]
# Errors that need torch to be found.
SLOW = [
    ("caption photo.jpg --model truncated", 1, ["truncated/model.safetensors", "cut off", "copy the whole"]),
    ("caption photo.jpg --model novocab", 1, ["novocab/vocabulary.json", "missing"]),
    ("caption photo.jpg --device cuda:99", 1, ["'cuda:99'", "cpu"]),
    ("caption photo.jpg -m tiny --batch-size 99999999999999999999", 1, ["batch_size", "too large"]),
    ("caption photo.jpg -m tiny --length-normalisation 1e308", 1, ["length_normalisation", "10"]),
    ("attend photo.jpg -o f.png --model tiny --heads rollout", 1, ["rollout", "Transformer"]),
    ("attend photo.jpg -o f.png --model tiny --word zebra", 1, ["photo.jpg", "'zebra'"]),
    ("attend photo.jpg -o f.png --colours infernno", 1, ["colours", "'infernno'", "inferno"]),
    ("translate Hello --context 2", 1, ["context", "relative positions", "multi30k_transformer_xl"]),
    ("score theirs.json dataset/captions.jsonl --split val", 1, ["theirs.json", "no caption"]),
    ("ground tiny dataset/captions.jsonl broken.json", 1, ["broken.json", "COCO"]),
    ("evaluate tiny dataset/captions.jsonl --split val --features empty", 1, ["empty", "captioner features"]),
    ("train wrongkey.yaml", 1, ["wrongkey.yaml", "'epoch'", "'epochs'"]),
    ("train flickr8k_show_tell --set data.pth=x", 1, ["'data.pth'", "'path'"]),
    ("train flickr8k_show_tell --set epochs=many", 1, ["epochs", "integer", "'many'"]),
    ("train flickr8k_show_tell --set data.path=nowhere -o new", 1, ["nowhere", "no such file"]),
    ("train flickr8k_show_tell --set model.decoder.name=lstm", 1, ["'lstm'", "show_tell"]),
    ("train flickr8k_show_tell --set data.path=dataset/captions.jsonl --set data.dev=tset -o new", 1, ['"tset"']),
    ("features dataset/captions.jsonl -o new --encoder resnet5000", 1, ["'resnet5000'", "resnet50"]),
    ("features dataset/captions.jsonl -o new --set sise=64", 1, ["'sise'", "'size'"]),
    ("features dataset/captions.jsonl -o new --set fit=stretch", 1, ["fit", "'squash'"]),
    ("caption photo.jpg -m tiny -m others", 1, ["tiny and others", "vocabulary", "only tiny has 'ball'", "'cat'"]),
    ("attend photo.jpg -o f.png -m tiny -m twin --heads rollout", 1, ["rollout", "ensemble has only the mean"]),
    ("ground tiny+twin dataset/captions.jsonl theirs.json --split val", 1, ["ensemble cannot"]),
    ("benchmark show_tel+tiny --data dataset/captions.jsonl -o new", 1, ["'show_tel'", "'show_tell'"]),
    ("benchmark show_tel --data dataset/captions.jsonl -o new", 1, ["'show_tel'", "'show_tell'"]),
    ("benchmark scores.json --data dataset/captions.jsonl -o new", 1, ["need a name", "scores=scores.json"]),
    ("benchmark soft=gone.json --data dataset/captions.jsonl -o new", 1, ["gone.json: there is no such file"]),
    ("benchmark soft=show_tel --data dataset/captions.jsonl -o new", 1, ["'show_tel'", "'show_tell'"]),
    ("doctor --json --model show_tel", 1, ["'show_tel'", "'show_tell'"]),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("attend photo.jpg -o f.png --model show_tell", 1, ["show_tell", "does not attend", "show_attend_tell"]),
            ("attend photo.jpg -o f.png --model transformer --heads 99.1", 1, ["99.1", "blocks"]),
            ("export regions_top_down -o new", 1, ["regions_top_down", "cannot be exported", "show_attend_tell"]),
        )
    ),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A folder with the files that the lines name."""
    folder = tmp_path_factory.mktemp("wrong")
    paint(folder / "photos")
    paint(folder / "dataset")
    shutil.copy(folder / "photos" / "red.jpg", folder / "photo.jpg")
    for name in ("empty", "texts"):
        (folder / name).mkdir()
    texts = {
        "texts/notes.txt": "no photo",
        "notes.txt": "no photo",
        "broken.json": '{"images": [',
        "columns.csv": "name;text\nred.jpg;a dog\n",
        "bad.yaml": "data: [1, 2\n",
        "list.yaml": "- 1\n",
        "wrongkey.yaml": "base: flickr8k_show_tell\nepoch: 3\n",
        "theirs.json": '[{"image_id": 1, "caption": "a dog"}]',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 20)
    rows = [
        {"image": name, "captions": ["a dog runs on grass"], "split": split}
        for name, split in (("red.jpg", "train"), ("blue.jpg", "val"))
    ]
    (folder / "dataset" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("tiny", "twin", "others", "truncated", "badconfig", "novocab", "newer", "exported"):
        shutil.copytree(model, folder / name)
    with open(folder / "truncated" / "model.safetensors", "rb+") as file:
        file.truncate(1000)
    (folder / "badconfig" / "config.json").write_text("{")
    (folder / "novocab" / "vocabulary.json").unlink()
    vocabulary = (model / "vocabulary.json").read_text()
    (folder / "others" / "vocabulary.json").write_text(vocabulary.replace('"ball"', '"cat"'))
    config = json.loads((model / "config.json").read_text())
    unlisted = {key: value for key, value in config.items() if key != "files"}  # no hash tells that it was changed
    (folder / "others" / "config.json").write_text(json.dumps(unlisted))
    (folder / "exported" / "config.json").write_text(json.dumps(config | {"kind": ONNX, "graphs": {}}))
    (folder / "newer" / "config.json").write_text(json.dumps(config | {"format": 99}))
    return folder


def check(line: str, code: int, words: list[str], run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("COLUMNS", "400")  # so that the box does not break the message
    monkeypatch.setattr("rich.console.Console.is_terminal", False)
    before = {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}
    result = run(*shlex.split(line))
    printed = result.err + (result.out if not words or "--json" in line else "")
    assert result.code == code, printed
    assert all(word in printed for word in words), printed
    assert "Traceback" not in printed and "unexpected" not in result.err.replace("unexpected extra", "")
    if words and code == 1 and "--json" not in line:
        errors = sum(text.startswith("error: ") for text in result.err.splitlines())
        assert errors == (2 if "benchmark s" in line else 1)
        assert result.out == ""
    after = {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}
    assert after == before, "it wrote something"


@pytest.mark.parametrize(("line", "code", "words"), QUICK)
def test_an_error_without_torch(
    line: str, code: int, words: list[str], run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(line, code, words, run, workplace, monkeypatch)


@pytest.mark.parametrize(("line", "code", "words"), SLOW)
def test_an_error_with_torch(
    line: str, code: int, words: list[str], run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(line, code, words, run, workplace, monkeypatch)


def test_no_error_of_these_loads_torch(workplace: Path, repository: Path) -> None:
    lines = [shlex.split(line) for line, *_ in QUICK]
    code = (
        "import contextlib, io, sys\n"
        "from captioner.cli import main\n"
        f"for line in {lines}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        try: main(line)\n"
        "        except SystemExit: pass\n"
        "    if 'torch' in sys.modules: sys.exit(f'{line} loaded torch')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
