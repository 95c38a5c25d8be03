"""The rest of the API: images in JSON and at addresses, translations, sidecars, and its description."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from captioner.caption import Caption
from captioner.captioner import Captioner
from captioner.errors import CaptionerError, ImageError
from captioner.metadata import TextSidecars, XmpSidecars
from captioner.web import app as application
from captioner.web.app import create_app
from captioner.web.batching import Batches
from captioner.web.guard import Admission
from tests.web.conftest import encoded

LIMIT = 100_000


@pytest.fixture(scope="module")
def translator() -> Any:
    from captioner.translation.translator import Translator
    from tests.translation.test_translator import build

    return Translator(build(), device="cpu")


@pytest.fixture
def client(batches: Batches, translator: Any) -> TestClient:
    def load(language: str) -> Callable[[Caption], Caption]:
        if language != "de":
            raise CaptionerError(f"no translator into {language!r}")
        return translator.caption

    return TestClient(
        create_app(batches, load_translator=load, languages=["de"], allow_addresses=True, max_bytes=LIMIT),
        base_url="http://localhost",
    )


def test_an_image_in_json_is_captioned(client: TestClient, captioner: Captioner) -> None:
    image = encoded()
    text, expected = base64.b64encode(image).decode(), captioner(image).text
    lines = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    for given in (text, lines, f"data:image/jpeg;base64,{text}", f"DATA:;BASE64,{text}"):
        answer = client.post("/caption", json={"image": given, "name": "C:\\photos\\a.jpg"})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["caption"], answer.json()["image"]) == (expected, "a.jpg")
    assert client.post("/figure", json={"image": text}).content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 422, "Invalid JSON"),
        (b"[]", 422, "the body: "),
        (b"{}", 400, "give `image` or `url`"),
        (b'{"image": "AAAA", "url": "https://a"}', 400, "give `image` or `url`"),
        (b'{"image": 5}', 422, "image: Input should be a valid string"),
        (b'{"photo": "AAAA"}', 422, "photo: Extra inputs"),
        (b'{"image": "not base64!"}', 422, "image: is not base64"),
        (b'{"image": "AAA"}', 422, "image: is not base64"),
        (b'{"image": ""}', 400, "empty"),
        (b'{"image": "data:image/svg+xml,<svg/>"}', 422, "not in base64"),
        (b'{"image": "AAAA"}', 422, "JPEG, PNG, WebP, HEIC"),
        (b'{"url": "file:///etc/passwd"}', 422, "url: must begin with https://"),
        (b'{"url": "//localhost/a.png"}', 422, "url: must begin with https://"),
        (b'{"url": "http://127.0.0.1/a.png"}', 422, "private network"),
        (b'{"image": "%s"}' % (b"A" * 4 * (LIMIT // 3 + 2)), 413, "more than 0.1 MB"),
        (b'{"image": "%s"}' % (b"A" * 2 * LIMIT), 413, "more than 0.1 MB"),
    ],
)
def test_json_without_a_good_image_gets_its_reason(client: TestClient, body: bytes, status: int, reason: str) -> None:
    answer = client.post("/caption", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and reason in answer.json()["detail"]


def test_an_address_is_fetched_only_where_that_is_allowed(
    client: TestClient, batches: Batches, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(address: str, **settings: Any) -> bytes:
        asked.append((address, settings))
        if "gone" in address:
            raise ImageError(address, "cannot be fetched: the server answers 404")
        return encoded()

    monkeypatch.setattr(application, "fetch_image", fetch)
    answer = client.post("/caption", json={"url": "https://example.org/my%20dog.jpg?size=9"})
    assert answer.json()["caption"] == captioner(encoded()).text and answer.json()["image"] == "my dog.jpg"
    assert asked[0][1] == {"max_bytes": LIMIT, "seconds": application.FETCHING, "public": True}
    gone = client.post("/caption", json={"url": "https://example.org/gone"})
    assert gone.status_code == 422 and "the server answers 404" in gone.json()["detail"]
    closed = TestClient(create_app(batches), base_url="http://localhost")
    refused = closed.post("/caption", json={"url": "https://example.org/a.jpg"})
    assert refused.status_code == 403 and "--allow-addresses" in refused.json()["detail"] and len(asked) == 2


def test_captions_are_translated_without_their_images(client: TestClient, translator: Any) -> None:
    texts = ["a dog runs .", "two dogs play .", ""]
    answer = client.post("/translate", json={"language": "de", "texts": texts})
    assert answer.json() == {"language": "de", "texts": [one.text for one in translator(texts)]}
    for wrong in ({"language": "xx", "texts": ["a"]}, {"language": "de", "texts": []}, {"texts": ["a"]}):
        assert client.post("/translate", json=wrong).status_code == 422
    assert client.post("/translate", json={"language": "de", "texts": ["a" * 3000]}).status_code == 422
    long = client.post("/translate", json={"language": "de", "texts": ["a dog runs .", "a dog " * 150]})
    assert long.status_code == 422 and "is longer than the translator reads" in long.json()["detail"]
    assert client.get("/health").json()["languages"] == ["de"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(encoded("PNG" if name.endswith("png") else "JPEG"))
    yield tmp_path


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_sidecars_are_those_that_the_command_writes(client: TestClient, folder: Path) -> None:
    captions = {"a.jpg": {"de": "Ein  Hund & eine <Katze>.", "en": "A dog."}, "b.png": {"en": "Another dog."}}
    photos = [{"name": name, "captions": each} for name, each in captions.items()]
    for name, each in captions.items():
        XmpSidecars().write(folder / name, each)
        TextSidecars().write(folder / name, next(iter(each.values())))
    for kind, ending in (("xmp", ".xmp"), ("txt", ".txt")):
        answer = client.post("/sidecars", json={"format": kind, "photos": photos})
        assert answer.headers["content-disposition"] == f'attachment; filename="captions.{kind}.zip"'
        written = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ending}
        assert unzipped(answer.content) == written and len(written) == 2


def test_an_edited_caption_is_a_persons(client: TestClient, folder: Path) -> None:
    captions = {"de": "Ein Hund.", "en": "My dog."}
    photo = {"name": "a.jpg", "captions": captions, "edited": ["en"]}
    content = client.post("/sidecars", json={"photos": [photo]}).content
    (folder / "a.jpg.xmp").write_bytes(unzipped(content)["a.jpg.xmp"])
    assert XmpSidecars().write(folder / "a.jpg", {"en": "A dog."}).kept
    content = client.post("/sidecars", json={"photos": [photo | {"edited": []}]}).content
    (folder / "a.jpg.xmp").write_bytes(unzipped(content)["a.jpg.xmp"])
    assert not XmpSidecars().write(folder / "a.jpg", {"en": "A dog."}).kept


def test_sidecars_of_one_name_are_kept_apart_and_blank_captions_have_none(client: TestClient) -> None:
    names = ["a.jpg", "A.png", "a.jpg", "b.jpg"]
    photos = [{"name": name, "captions": {"en": " \x01" if name == "b.jpg" else "x"}} for name in names]
    texts = unzipped(client.post("/sidecars", json={"format": "txt", "photos": photos}).content)
    assert list(texts) == ["a.txt", "2/A.txt", "3/a.txt"]
    assert list(unzipped(client.post("/sidecars", json={"photos": photos}).content)) == [
        "a.jpg.xmp",
        "A.png.xmp",
        "2/a.jpg.xmp",
    ]
    for wrong in ("../a.jpg", "/etc/passwd", "..", "a\\b.jpg", "a\0"):
        answer = client.post("/sidecars", json={"photos": [{"name": wrong, "captions": {"en": "x"}}]})
        assert answer.status_code == 422 and "cannot be the name of a file" in answer.json()["detail"]
    none = client.post("/sidecars", json={"photos": photos[3:]})
    assert none.status_code == 422 and "no captions" in none.json()["detail"]
    for wrong in ({"photos": []}, {"photos": [{"name": "a", "captions": {}}]}, {"format": "zip", "photos": photos}):
        assert client.post("/sidecars", json=wrong).status_code == 422


def test_the_whole_api_needs_the_token(batches: Batches) -> None:
    client = TestClient(create_app(batches, admission=Admission(token="secret")), base_url="http://localhost")
    for path in ("/caption", "/figure", "/translate", "/sidecars"):
        assert client.post(path, json={}).status_code == 401
        assert client.post(path, json={}, headers={"authorization": "Bearer secret"}).status_code in (400, 422)


def undescribed(value: Any, place: str = "") -> list[str]:
    """Return the places in an OpenAPI document that should have a description and have none."""
    parent = place.rpartition("/")[2]
    found = []
    for name, each in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        below = f"{place}/{name}"
        wanted = parent in ("properties", "responses", "schemas", "parameters") or name == "requestBody"
        if wanted and not each.get("description") and "$ref" not in each:
            found.append(below)
        found += undescribed(each, below)
    return found


def test_everything_in_the_description_of_the_api_is_described(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert undescribed({"properties": {"a": {"type": "string"}}}) == ["/properties/a"]
    text = json.dumps(document)
    assert "HTTPValidationError" not in text and "Successful Response" not in text
    assert undescribed(document) == []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"] and operation["description"], path
            if path not in ("/health", "/metrics"):
                assert {"400", "401", "403", "413", "422", "429", "503"} <= set(operation["responses"])


def test_every_error_has_one_form(client: TestClient) -> None:
    for answer in (
        client.post("/caption?n_best=99", content=encoded()),
        client.post("/figure?format=bmp", content=encoded()),
        client.post("/caption", content=b"x"),
        client.post("/translate", json={}),
        client.get("/none"),
    ):
        assert answer.status_code >= 400 and isinstance(answer.json()["detail"], str)
