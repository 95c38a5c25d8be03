"""The references on the page that one cites from are those of ``CITATION.cff``, and its BibTeX can be parsed."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import captioner

ENTRY = re.compile(r"^@(\w+)\{(\w+),\n(.*?)^\}$", re.DOTALL | re.MULTILINE)
FIELD = re.compile(r"^  (\w+) = \{(.*?)\},$", re.DOTALL | re.MULTILINE)
ACCENTS = {r"{\L}": "Ł", r"{\'a}": "á"}


def entries(repository: Path) -> dict[str, dict[str, str]]:
    """Return the fields of each entry, by its key."""
    page = (repository / "docs" / "citation.md").read_text(encoding="utf-8")
    found = ENTRY.findall(page)
    assert len(found) == page.count("\n@") == len({key for _, key, _ in found})
    return {key: {"type": kind, **dict(FIELD.findall(body))} for kind, key, body in found}


def plain(text: str) -> str:
    """Return a value of BibTeX as text."""
    for written, letter in ACCENTS.items():
        text = text.replace(written, letter)
    return re.sub(r"[{}]", "", text)


def test_the_page_has_the_references_of_the_file(repository: Path) -> None:
    page = [fields for key, fields in entries(repository).items() if key != "captioner"]
    file = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    assert len(page) == len(file) > 20
    for fields, reference in zip(page, file, strict=True):
        assert plain(fields["title"]) == reference["title"]
        names = [f"{author['family-names']}, {author['given-names']}" for author in reference["authors"]]
        assert re.split(r"\s+and\s+", plain(fields["author"])) == names, reference["title"]
        assert int(fields["year"]) == reference["year"] and fields.get("doi") == reference.get("doi")
        venue = reference.get("conference", {}).get("name") or reference.get("journal")
        assert (fields.get("booktitle") or fields.get("journal")) == venue
        if "eprint" in fields:
            assert reference["url"] == f"https://arxiv.org/abs/{fields['eprint']}"


def test_the_program_is_cited_in_its_version(repository: Path) -> None:
    assert entries(repository)["captioner"]["version"] == captioner.__version__


def test_every_paper_of_the_lineage_can_be_cited(repository: Path) -> None:
    lineage = (repository / "docs" / "lineage.md").read_text(encoding="utf-8")
    numbers = set(re.findall(r"arxiv\.org/abs/([\d.]+)", lineage))
    assert len(numbers) > 10
    assert numbers <= {fields.get("eprint") for fields in entries(repository).values()}
