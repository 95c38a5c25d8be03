"""Commands with standard streams that cannot be written, and on terminals."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from PIL import Image

from captioner.cli import console, main

FULL = Path("/dev/full")
Code = Callable[..., int]


@pytest.fixture
def code(model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Code:
    """Run a command with given streams, and return its exit code."""

    def call(*arguments: object, stdout: TextIO | None = None, stderr: TextIO | None = None) -> int:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        options = ["--model", model, "--device", "cpu"] if arguments[0] in ("caption", "attend") else []
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in (*arguments, *options)])
        assert sys.stdout is stdout and sys.stderr is stderr
        if stdout is not None and not stdout.closed:
            stdout.flush()  # as Python does at its exit
        return exit.value.code  # type: ignore[return-value]

    return call


def encoded(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def written(stream: io.TextIOWrapper) -> bytes:
    return stream.buffer.getvalue()  # type: ignore[attr-defined, no-any-return]


def closed_pipe() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


BROKEN: dict[str, Callable[[], TextIO | None]] = {
    "closed": lambda: None,
    "pipe": closed_pipe,
    "full": lambda: open(FULL, "w"),  # noqa: SIM115
}


def captioned(file: Path) -> list[str]:
    with open(file, newline="") as rows:
        return [Path(row["image"]).name for row in csv.DictReader(rows) if row["caption"]]


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["caption", "attend", "models", "--version", "--help", "recipes"])
def test_a_full_disk_under_stdout_is_named(code: Code, images: Path, tmp_path: Path, command: str) -> None:
    arguments = {"caption": [images / "red.jpg"], "attend": [images / "red.jpg", "-o", tmp_path / "f.json"]}
    messages = encoded("utf-8")
    with open(FULL, "w") as stdout:
        assert code(command, *arguments.get(command, []), stdout=stdout, stderr=messages) == 1
    (line,) = written(messages).decode().splitlines()
    assert line.startswith("error: standard output: cannot be written (No space left on device)")
    assert (tmp_path / "f.json").exists() == (command == "attend")


@pytest.mark.parametrize("stream", BROKEN)
def test_files_are_completed_without_stdout(code: Code, images: Path, tmp_path: Path, stream: str) -> None:
    (images / "broken.jpg").unlink()
    opened = BROKEN[stream]
    file, messages = tmp_path / "captions.csv", encoded("utf-8")
    assert code("caption", images, "--json", "-o", file, "--batch-size", 1, stdout=opened(), stderr=messages) == 1
    assert captioned(file) == ["blue.jpg", "green.png", "red.jpg"]
    assert code("attend", images, "-o", tmp_path / "figures", "--format", "json", stdout=opened(), stderr=messages) == 1
    assert len(list((tmp_path / "figures").iterdir())) == 3
    reported = written(messages).decode().splitlines()
    assert reported.pop(0) == f"{file}: 3 captioned" and f"{tmp_path / 'figures'}/: 3 figures" in reported
    assert len(reported) == (1 if stream == "pipe" else 3)
    assert code("caption", images, "-o", file, stdout=opened(), stderr=messages) == 0, "nothing was to be printed"


def test_captioning_stops_when_the_pipe_is_closed(code: Code, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from captioner.engines.model import ModelEngine

    caption_memory, batches = ModelEngine.caption_memory, []
    monkeypatch.setattr(
        ModelEngine,
        "caption_memory",
        lambda self, memory, *more, **settings: (
            batches.append(len(memory)) or caption_memory(self, memory, *more, **settings)
        ),
    )
    messages = encoded("utf-8")
    many = [images / "red.jpg"] * 60
    assert code("caption", *many, "--batch-size", 1, stdout=closed_pipe(), stderr=messages) == 1
    assert len(batches) < 20 and written(messages) == b""


@pytest.mark.parametrize("stream", BROKEN)
def test_captions_are_printed_without_stderr(code: Code, images: Path, stream: str) -> None:
    opened = BROKEN[stream]
    results = encoded("utf-8")
    assert code("caption", images, images / "no.jpg", "--verbose", stdout=results, stderr=opened()) == 1
    assert len(written(results).splitlines()) == 3
    (images / "broken.jpg").unlink()
    assert code("caption", images, "--verbose", stdout=encoded("utf-8"), stderr=opened()) == 0
    assert code("caption", stdout=encoded("utf-8"), stderr=opened()) == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_letters_that_the_encoding_lacks_are_escaped(code: Code, images: Path, tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "many letters"
    folder.mkdir()
    odd = ["caf\u00e9.jpg", "\u0142\u00f3d\u017a.jpg", "\U0001f600.jpg"]
    for name in odd:
        (folder / name).write_bytes((images / "red.jpg").read_bytes())
    lines = encoded(encoding)
    assert code("caption", folder, stdout=lines) == 0
    assert len(written(lines).splitlines()) == 3
    records = encoded(encoding)
    assert code("caption", folder, "--json", stdout=records) == 0
    text = written(records).decode(encoding)
    assert sorted(Path(json.loads(line)["image"]).name for line in text.splitlines()) == sorted(odd)
    for command in ("models", "recipes"):
        assert code(command, stdout=encoded(encoding)) == 0


def test_names_that_are_not_utf8_are_printed_unchanged(code: Code, images: Path, tmp_path: Path) -> None:
    try:
        (tmp_path / "caf\udce9.jpg").write_bytes((images / "red.jpg").read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    for encoding in ("utf-8", "ascii"):
        lines = encoded(encoding)
        assert code("caption", tmp_path / "*.jpg", images / "red.jpg", stdout=lines) == 0
        assert b"caf\xe9.jpg: " in written(lines)


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_control_characters_in_names_are_escaped(code: Code, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    name = "a\x1b[31m\nb\tc\r\u202ed\x9b\x7f.jpg"
    (folder / name).write_bytes((images / "red.jpg").read_bytes())
    (folder / "bad\x1b[2J.jpg").write_bytes(b"no image")
    for options in ([], ["--json"], ["--n-best", 2]):
        results = Terminal(io.BytesIO(), encoding="utf-8")
        messages = Terminal(io.BytesIO(), encoding="utf-8")
        assert code("caption", folder, *options, stdout=results, stderr=messages) == 1
        shown = written(results).decode()
        assert "a\\u001b[31m\\nb\\tc\\r\\u202ed\\u009b\\u007f.jpg" in shown
        assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
        assert b"bad\\u001b[2J.jpg: not an i" in written(messages) and b"\x1b[2J" not in written(messages)
    figures = Terminal(io.BytesIO(), encoding="utf-8")
    assert code("attend", folder, "-o", folder, "--format", "json", stdout=figures, stderr=encoded("utf-8")) == 1
    assert "a\\u001b[31m\\nb" in written(figures).decode() and b"\x1b" not in written(figures)


def test_each_line_gives_the_exact_name_of_one_image(
    code: Code, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [
        "a\nb.jpg: A cat.",
        "a: b.jpg",
        '"a\\nb".jpg',
        "a\rb.jpg",
        "a\tb.jpg",
        "a\x0b.jpg",
        "a\u2028.jpg",
        "a\nü.jpg",
    ]
    plain = ["a b.jpg", 'a"b".jpg', "a\\nb.jpg", "a:b.jpg", "ü.jpg"]
    for name in [*odd, *plain]:
        (tmp_path / name).symlink_to(images / "red.jpg")
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--n-best", 2]):
        piped = encoded("utf-8")
        assert code("caption", *odd, *plain, *options, stdout=piped, stderr=encoded("utf-8")) == 0
        lines = written(piped).decode().splitlines()
        names = dict.fromkeys(
            json.JSONDecoder().raw_decode(line)[0] if line.startswith('"') else line.partition(": ")[0]
            for line in lines
        )
        assert [*names] == [*odd, *plain] and len(lines) == len(names) * (2 if options else 1)


@pytest.mark.parametrize("text", ["👩‍👩‍👧 👋🏽", "می‌خواهم", "नमस्ते", "日本語", "Ünïcödé", "a\u00a0b"])
def test_ordinary_letters_are_shown_as_they_are(text: str) -> None:
    assert console.printable(text) == text


def test_an_error_is_one_line_even_with_a_line_end_in_its_name(run, model: Path, images: Path) -> None:
    result = run("caption", "no\nsuch\x1b.jpg", images / "red.jpg", "--model", model)
    assert result.code == 1 and len(result.err.splitlines()) == 1 and "no\\nsuch\\u001b.jpg" in result.err


def test_a_closed_stdin_is_named(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    for command in ("caption", "translate"):
        messages = encoded("utf-8")
        assert code(command, "-", stdout=encoded("utf-8"), stderr=messages) == 1
        assert b"error: standard input: is closed" in written(messages)


def test_a_person_at_the_terminal_gets_a_hint(code: Code, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(f"{images / 'red.jpg'}\n".encode())))
    messages = encoded("utf-8")
    assert code("caption", "-", stdout=encoded("utf-8"), stderr=messages) == 0
    assert b"reading lines from the terminal; Ctrl-D" in written(messages)


def test_a_figure_drawn_by_hand_is_kept(code: Code, images: Path, tmp_path: Path) -> None:
    mine = tmp_path / "figures" / "red.attention.png"
    mine.parent.mkdir()
    Image.new("RGB", (5, 5), "red").save(mine)
    before = mine.read_bytes()
    results, messages = encoded("utf-8"), encoded("utf-8")
    (images / "broken.jpg").unlink()
    assert code("attend", images, "-o", mine.parent, stdout=results, stderr=messages) == 1
    assert mine.read_bytes() == before and len(written(results).splitlines()) == 2
    assert written(messages).decode().startswith(f"error: {mine}: exists and is not a figure")
