"""Data sets on the hub, with the client that is installed and a hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from captioner.data.annotations import read_captions
from captioner.data.hub import is_on_hub, local_copy
from captioner.data.images import load_image
from captioner.errors import AnnotationError
from tests.hub import TOKEN, Hub, running

FILES = Path(__file__).parent / "annotations/files"
TRAIN, TEST = "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the data set ``ada/squares``."""
    with running() as hub:
        for name, value in (
            ("ENDPOINT", hub.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
            ("HF_TOKEN_PATH", str(tmp_path / "no token")),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_OFFLINE", False),
        ):
            monkeypatch.setattr(constants, name, value, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        files = {name: (FILES / Path(name).name).read_bytes() for name in (TRAIN, TEST)}
        hub.add("datasets/ada/squares", files | {"README.md": b"squares"})
        yield hub


@pytest.mark.parametrize("path", ["hf://datasets/ada/squares", Path("hf://datasets/ada/squares/")])
def test_a_data_set_is_downloaded_once(hub: Hub, path: str | Path) -> None:
    for _ in range(2):
        data = read_captions(path)
        assert (data.name, data.format, data.splits) == ("squares", "parquet", {"test": 6, "train": 6})
        assert [load_image(image.path).size for image in data.images] == [(8, 8)] * 12
    assert sorted(hub.fetched()) == sorted([Path(TRAIN).name, Path(TEST).name, "README.md"])


@pytest.mark.parametrize("part", [TRAIN, "data"])
def test_a_part_of_a_data_set(hub: Hub, part: str) -> None:
    data = read_captions(f"hf://datasets/ada/squares/{part}")
    assert data.splits == ({"train": 6} if part == TRAIN else {"test": 6, "train": 6})
    assert "README.md" not in hub.fetched()


def test_a_revision(hub: Hub) -> None:
    repository = hub.repositories["datasets/ada/squares"]
    repository.refs["v1"] = repository.refs["main"]
    repository.commit({"captions.csv": b"image,caption\na.jpg,x\n"})
    assert read_captions("hf://datasets/ada/squares").format == "csv"
    old = read_captions("hf://datasets/ada/squares@v1")
    assert (old.name, old.format) == ("squares", "parquet")


def test_without_a_network_the_copy_is_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    read_captions("hf://datasets/ada/squares")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(read_captions("hf://datasets/ada/squares").images) == 12
    with pytest.raises(AnnotationError, match=r"hf://datasets/ada/circles: cannot be downloaded \(.*check the network"):
        read_captions("hf://datasets/ada/circles")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("hf://datasets/ada", "not the address of a data set on the hub; give hf://datasets/USER/NAME"),
        ("hf://ada/squares", "not the address of a data set"),
        ("hf://datasets/ada/circles", "no such data set on the hub, or it is private; .*hf auth login"),
        ("hf://datasets/ada/squares@v9", "no revision 'v9'"),
        ("hf://datasets/ada/squares/dat", "no such file or folder"),
        ("hf://datasets/ada/locked", "its owner decides who may read it; request access at .*/datasets/ada/locked"),
    ],
)
def test_wrong_addresses(hub: Hub, address: str, why: str) -> None:
    hub.add("datasets/ada/locked", {"captions.csv": b"image,caption\n"}, gated=True)
    with pytest.raises(AnnotationError, match=f"{address}: .*{why}"):
        read_captions(Path(address))


def test_other_paths_are_local(tmp_path: Path) -> None:
    assert local_copy(tmp_path) == tmp_path
    assert not is_on_hub("photos/hf:/x") and is_on_hub(Path("hf://datasets/a/b"))
