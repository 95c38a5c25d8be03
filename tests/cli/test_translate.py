from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from captioner.translation.model import save_translator
from tests.cli.conftest import MAGIC
from tests.translation.test_translator import SOURCE, build


@pytest.fixture
def translate(run, translator: Path):
    return lambda *arguments, **more: run("translate", *arguments, "-m", translator, "--device", "cpu", **more)


@pytest.fixture
def expected(translator: Path) -> list[str]:
    from captioner import Translator

    return [translation.text for translation in Translator.from_pretrained(translator, device="cpu")(SOURCE)]


@pytest.mark.parametrize("batch_size", [2, 32])
def test_each_line_gives_one_line(translate, expected: list[str], tmp_path: Path, batch_size: int) -> None:
    # As Windows writes it, without a line end at the end.
    text = f"\ufeff{SOURCE[0]}\r\n\n{SOURCE[1]}\n{SOURCE[2]}\n{SOURCE[3]}"
    (tmp_path / "text.txt").write_bytes(text.encode())
    lines = [expected[0], "", *expected[1:]]
    for result in (
        translate(tmp_path / "text.txt", "--batch-size", batch_size),
        translate("-", "--batch-size", batch_size, stdin=text),
        translate("-", stdin=text),
    ):
        assert (result.code, result.err) == (0, "")
        assert result.out.split("\n") == [*lines, ""]
    assert translate("-", stdin="") == (0, "", "")


def test_utf_16_is_read_by_its_mark(translate, expected: list[str], tmp_path: Path) -> None:
    text = f"{SOURCE[0]}\r\n\n{SOURCE[1]}"
    (tmp_path / "text.txt").write_bytes(text.encode("utf-16"))
    assert translate(tmp_path / "text.txt") == (0, f"{expected[0]}\n\n{expected[1]}\n", "")
    (tmp_path / "unmarked.txt").write_bytes(text.encode("utf-16-le"))
    result = translate(tmp_path / "unmarked.txt")
    assert (result.code, result.out) == (1, "\n\n\n")
    assert f"{tmp_path / 'unmarked.txt'}:1: not UTF-8 text (byte 1); convert it to UTF-8" in result.err


def test_the_end_of_a_line_that_is_too_long_is_missed(translate, expected: list[str]) -> None:
    result = translate("-", stdin=f"{SOURCE[0]}\n{'a dog ' * 200}\n")
    assert result.code == 1 and result.lines[0] == expected[0] and len(result.lines) == 2
    assert result.err.startswith("error: standard input:2: its end is not translated, since the model reads 200 pieces")


def test_only_a_line_feed_ends_a_line(translate) -> None:
    assert translate("-", stdin="a dog\x0c\u2028a\rman\n").out.count("\n") == 1


def test_json_has_the_attention(translate, expected: list[str]) -> None:
    (line,) = translate("-", "--json", "--attention", stdin=SOURCE[0]).lines
    record = json.loads(line)
    assert (record["language"], record["text"], record["source"]) == ("de", expected[0], SOURCE[0])
    assert "".join(record["source_tokens"]) == f" {SOURCE[0]}<eos>"
    assert [len(row) for row in record["attention"]] == [len(record["source_tokens"])] * len(record["tokens"])
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in record["attention"])
    assert "attention" not in json.loads(translate("-", "--json", stdin=SOURCE[0]).out)
    assert translate("-", "--attention", stdin=SOURCE[0]).code == 2


def test_the_beam_can_be_chosen(translate, translator: Path) -> None:
    from captioner import Translator

    greedy = Translator.from_pretrained(translator, device="cpu", width=1)
    assert translate("-", "--beam", 1, stdin="\n".join(SOURCE)).lines == [
        translation.text for translation in greedy(SOURCE)
    ]


def test_a_text_is_translated_as_its_lines(translate, expected: list[str]) -> None:
    assert translate(SOURCE[0]) == (0, f"{expected[0]}\n", "")
    assert translate("\n".join(SOURCE)).lines == expected
    assert translate("dog").code == 0 and translate(SOURCE[0] * 300).err.startswith("error: the text:1: ")
    (line,) = translate("A dog.", "--json", "--beam", 3, "--n-best", 3).lines
    assert len(json.loads(line)["others"]) == 2


def test_the_shipped_translator_is_the_default(run, shipped_translator: str, expected: list[str]) -> None:
    for options in ((), ("--language", "DE"), ("--model", shipped_translator)):
        assert run("translate", SOURCE[0], *options, "--device", "cpu") == (0, f"{expected[0]}\n", "")
    assert "Available languages: de" in run("translate", SOURCE[0], "--language", "fr").err


@pytest.mark.parametrize("kind", ["png", "pdf", "svg", "html", "json"])
def test_the_alignment_is_written(translate, expected: list[str], tmp_path: Path, kind: str) -> None:
    magic = {**MAGIC, "json": b"["}[kind]
    file = tmp_path / f"alignment.{kind}"
    assert translate(f"{SOURCE[0]}\n\n", "-o", file) == (0, f"{expected[0]}\n\n\n", f"{file}: 1 sentence\n")
    assert file.read_bytes().startswith(magic) and list(tmp_path.iterdir()) == [file]


def test_several_alignments_are_a_page_or_numbers(translate, expected: list[str], tmp_path: Path) -> None:
    text = "\n".join(SOURCE)
    assert translate(text, "-o", tmp_path / "all.html").code == 0
    assert translate(text, "-o", tmp_path / "all.json").code == 0
    records = json.loads((tmp_path / "all.json").read_text())
    assert [record["text"] for record in records] == expected and all(record["attention"] for record in records)
    assert all(text in (tmp_path / "all.html").read_text() for text in ('"written":', '"weights":'))
    result = translate(text, "-o", tmp_path / "all.png")
    assert result.code == 1 and "shows one sentence, and there are several; use .html or .json" in result.err
    result = translate(" ", "-o", tmp_path / "none.png")
    assert result.code == 1 and "has no words to translate" in result.err
    assert translate(text, "-o", tmp_path / "all.txt").code == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["all.html", "all.json"]


def test_a_translator_that_does_not_attend_has_no_alignment(run, tmp_path: Path) -> None:
    folder = save_translator(tmp_path / "seq2seq", build("seq2seq"))
    result = run("translate", SOURCE[0], "-m", folder, "-o", tmp_path / "alignment.png")
    assert result.code == 1 and "does not attend to words" in result.err and not (tmp_path / "alignment.png").exists()


def test_a_bad_line_does_not_stop_the_others(translate, expected: list[str], tmp_path: Path) -> None:
    lines = [SOURCE[0].encode(), "a caf\u00e9".encode("latin-1"), SOURCE[1].encode(), b""]
    (tmp_path / "latin.txt").write_bytes(b"\n".join(lines))
    result = translate(tmp_path / "latin.txt")
    assert (result.code, result.out) == (1, f"{expected[0]}\n\n{expected[1]}\n")
    assert result.err == f"error: {tmp_path / 'latin.txt'}:2: not UTF-8 text (byte 5); convert it to UTF-8\n"


@pytest.mark.parametrize("batch_size", [2, 32])
def test_previous_lines_are_context(run, tmp_path: Path, batch_size: int) -> None:
    from captioner import Translator

    folder = save_translator(tmp_path / "xl", build("transformer_xl"))
    lines = [SOURCE[0], SOURCE[1], "", SOURCE[1], SOURCE[2], SOURCE[1]]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    translator = Translator.from_pretrained(folder, device="cpu")
    options = (tmp_path / "text.txt", "-m", folder, "--device", "cpu", "--batch-size", batch_size, "--json")

    def scores(*more: object) -> list[float]:
        return [json.loads(line)["log_probability"] for line in run("translate", *options, *more).lines]

    found, alone = scores("--context", 2), scores()
    assert found == pytest.approx([one.log_probability for one in translator(lines, context=2)], abs=1e-3)
    assert alone == pytest.approx(scores("--context", 0))
    first = [0, 2, 3]  # of a text, and what parts the two
    assert [abs(one - other) < 1e-3 for one, other in zip(found, alone, strict=True)] == [n in first for n in range(6)]


def test_a_context_needs_a_model_that_reads_it(translate) -> None:
    result = translate(SOURCE[0], "--context", 2)
    assert (result.code, result.out) == (1, "") and "relative positions; leave the context out, or train" in result.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_a_file_too(translate, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(f"{SOURCE[0]}\n{SOURCE[1]}\n", encoding="utf-8")
    os.mkfifo(tmp_path / "pipe")
    whole = translate(tmp_path / "text.txt")
    with subprocess.Popen(["sh", "-c", 'cat "$0" > "$1"', tmp_path / "text.txt", tmp_path / "pipe"]):
        assert translate(tmp_path / "pipe") == whole and len(whole.lines) == 2


def test_errors_are_clear(translate, run, model: Path, tmp_path: Path) -> None:
    for name in (tmp_path / "none", "none.txt"):
        assert translate(name) == (1, "", f"error: {name}: no such file; to translate a text, put it in quotes\n")
    assert "is a folder" in translate(tmp_path).err
    assert "is a captioner and not a translator" in run("translate", "a dog", "-m", model).err
    assert translate("a dog", "--n-best", 2).code == 2 and run("translate").code == 2
