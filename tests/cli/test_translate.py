from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.translation.test_translator import SOURCE


@pytest.fixture
def translate(run, translator: Path):
    return lambda *arguments, **more: run("translate", translator, "--device", "cpu", *arguments, **more)


@pytest.fixture
def expected(translator: Path) -> list[str]:
    from captioner import Translator

    return [translation.text for translation in Translator.from_pretrained(translator, device="cpu")(SOURCE)]


@pytest.mark.parametrize("batch_size", [2, 32])
def test_a_line_gives_a_line(translate, expected: list[str], tmp_path: Path, batch_size: int) -> None:
    # As Windows writes it, without a line end at the end.
    text = f"\ufeff{SOURCE[0]}\r\n\n{SOURCE[1]}\n{SOURCE[2]}\n{SOURCE[3]}"
    (tmp_path / "text.txt").write_bytes(text.encode())
    lines = [expected[0], "", *expected[1:]]
    for result in (
        translate(tmp_path / "text.txt", "--batch-size", batch_size),
        translate("--batch-size", batch_size, stdin=text),
        translate("-", stdin=text),
    ):
        assert (result.code, result.err) == (0, "")
        assert result.out.split("\n") == [*lines, ""]
    assert translate(stdin="") == (0, "", "")


def test_only_a_line_feed_ends_a_line(translate) -> None:
    assert translate(stdin="a dog\x0c\u2028a\rman\n").out.count("\n") == 1


def test_json_has_the_attention(translate, expected: list[str]) -> None:
    (line,) = translate("--json", "--attention", stdin=SOURCE[0]).lines
    record = json.loads(line)
    assert (record["language"], record["text"], record["source"]) == ("de", expected[0], SOURCE[0])
    assert "".join(record["source_tokens"]) == f" {SOURCE[0]}<eos>"
    assert [len(row) for row in record["attention"]] == [len(record["source_tokens"])] * len(record["tokens"])
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in record["attention"])
    assert "attention" not in json.loads(translate("--json", stdin=SOURCE[0]).out)
    assert translate("--attention", stdin=SOURCE[0]).code == 2


def test_the_beam_can_be_chosen(translate, translator: Path) -> None:
    from captioner import Translator

    greedy = Translator.from_pretrained(translator, device="cpu", width=1)
    assert translate("--beam", 1, stdin="\n".join(SOURCE)).lines == [translation.text for translation in greedy(SOURCE)]


def test_errors_are_clear(translate, run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("a dog\na caf\u00e9\n".encode("latin-1"))
    result = translate(tmp_path / "latin.txt")
    assert (
        result.code == 1
        and result.err == f"error: {tmp_path / 'latin.txt'}:2: not UTF-8 text (byte 5); convert it to UTF-8\n"
    )
    assert translate(tmp_path / "none.txt") == (1, "", f"error: {tmp_path / 'none.txt'}: No such file or directory\n")
    assert "is a captioner and not a translator" in run("translate", model, stdin="a dog").err
