"""Files of other kinds are refused by their names, and nothing in them is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.data.images import refusal, scene


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"ab", "not an image"),
        (b"hello, this is a text file\n" * 9, "not an image"),
        (b"\0" * 5000, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<svg width='9'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90), "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(90), "HEIC"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "video"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"PK\x03\x04" + bytes(40), "archive"),
    ],
)
def test_the_error_of_another_file_names_its_kind(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    error = refusal(path)
    assert error.source == str(path)
    assert reason in error.reason and "; " in error.reason
    assert refusal(content).source == "<bytes>"


@pytest.mark.parametrize(
    ("magic", "word"),
    [
        (b"v/1\x01", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"PF\n2 2\n-1\n", "PFM"),
        (b"P7\nWIDTH 2\n", "PAM"),
        (b"qoif\0\0\0\2\0\0\0\2", "QOI"),
        (b"DDS |\0\0\0", "DDS"),
        (b"gimp xcf v011", "GIMP"),
        (b"SIMPLE  =                    T", "FITS"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"FUJIFILMCCD-RAW 0201", "raw photo"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw photo"),
        (b"RIFF\0\x10\0\0AVI LIST", "video"),
        (b"\0\0\0\x20ftypM4V ", "video"),
        (b"\0\0\0\x20ftyp3gp4", "video"),
        (b"Rar!\x1a\x07\1\0", "archive"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "archive"),
        (bytes(257) + b"ustar\x0000", "archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 12\n", "git lfs pull"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X        ", "macOS"),
    ],
)
def test_formats_that_cannot_be_read_are_named(magic: bytes, word: str) -> None:
    text = refusal(magic + bytes(200)).reason
    assert word in text and "damaged" not in text and ";" in text


def test_an_eps_file_runs_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drawing.eps"
    scene().save(path, "EPS")
    marker = tmp_path / "ran"
    for name in ("gs", "gswin64c"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {marker}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "PostScript" in refusal(path).reason
    assert not marker.exists()
